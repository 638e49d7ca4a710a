package proxy

import (
	"maps"
	"slices"
	"strings"
)

func keys(m map[string]bool) string { return strings.Join(slices.Sorted(maps.Keys(m)), " ") }
