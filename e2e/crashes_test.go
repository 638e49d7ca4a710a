//go:build crashes

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/e2e/scenario"
)

// TestCrashes: mini is killed again and again, at random moments, while twenty pods start. In the end all run, nothing counts as
// a restart, and nothing stays of the starts that were cut short. What moments a run meets is chance, so this is a hunt of its
// own: `make e2e-crashes`.
func TestCrashes(t *testing.T) {
	c := scenario.Start(t, scenario.Options{})
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	const pods = 20
	var creating errgroup.Group
	for i := range pods {
		creating.Go(func() error {
			_, err := c.Client.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pod-%d", i)},
				Spec: corev1.PodSpec{
					TerminationGracePeriodSeconds: new(int64),
					Containers:                    []corev1.Container{{Name: "main", Image: scenario.Image, Command: []string{"sleep", "3600"}}},
				},
			}, metav1.CreateOptions{})
			return err
		})
	}
	if err := creating.Wait(); err != nil {
		t.Fatal(err)
	}
	tasks := filepath.Join(c.DataDir("server"), "agent/containerd/state/io.containerd.runtime.v2.task/k8s.io")
	var begun []string
	for i := range 5 {
		// Not a wait for something: any moment will do. The first crash comes at once; a mini that starts takes longer to go on
		// with its pods.
		time.Sleep(time.Duration(random.Int64N(int64(min(i, 2)+1) * int64(400*time.Millisecond))))
		bundles, _ := os.ReadDir(tasks)
		begun = append(begun, fmt.Sprintf("%d/%d", sandboxesOf(t, c), len(bundles)))
		if err := c.Kill(t.Context(), "server"); err != nil {
			t.Fatal(err)
		}
		if err := c.Cluster.Start(t.Context(), "server"); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("network namespaces and tasks at each crash: %s", strings.Join(begun, " "))
	if err := c.WaitReady(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for i := range pods {
		want[fmt.Sprintf("pod-%d/main", i)] = "Running 0"
	}
	c.Eventually(90*time.Second, func() error { return podsAre(t, c, want) })
	if n := sandboxesOf(t, c); n < pods {
		t.Errorf("%d sandboxes for %d pods", n, pods)
	}
	leavesNothing(t, c)
}
