package e2e

import (
	"os"
	"testing"

	"github.com/mini-k8s/mini/e2e/scenario"
)

func TestMain(m *testing.M) { os.Exit(scenario.Main(m)) }
