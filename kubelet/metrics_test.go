// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/kubelet/steps"
)

// TestPodStartIsMeasured starts a pod and reads what the node tells of it: its series and the line of its steps.
func TestPodStartIsMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var log bytes.Buffer
		r.cfg.Logger = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		r.run()
		r.create(testPod("p"))
		r.rt.Exit(r.container("p", "c").ID, 1) // its second start is no start of a pod
		after(time.Minute)
		rec := httptest.NewRecorder()
		r.k.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
		for _, want := range []string{
			"kubelet_pod_start_duration_seconds_count 1\n",
			"kubelet_pod_start_sli_duration_seconds_count 1\n",
			`kubelet_run_podsandbox_duration_seconds_count{runtime_handler=""} 1` + "\n",
			`kubelet_runtime_operations_duration_seconds_count{operation_type="create_container"} 2` + "\n",
			`kubelet_runtime_operations_total{operation_type="start_container"} 2` + "\n",
			`kubelet_running_containers{container_state="running"} 1` + "\n",
			"kubelet_running_pods 1\n",
			`kubelet_node_name{node="n1"} 1` + "\n",
		} {
			if !strings.Contains(rec.Body.String(), want) {
				t.Errorf("/metrics has no %q", want)
			}
		}
		r.stop()
		var lines int
		for line := range strings.Lines(log.String()) {
			var l struct{ Msg, Pod, Steps string }
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatal(err)
			}
			if l.Steps == "" {
				continue
			}
			lines++
			all, err := steps.Parse(l.Steps)
			if err != nil {
				t.Error(err)
			}
			names := map[string]bool{}
			for _, s := range all {
				names[s.Name] = true
			}
			for _, want := range []string{"cgroup", "directories and volumes", "look for image", "write status Running"} {
				if l.Pod != "p" || !names[want] {
					t.Errorf("pod %q has no step %q in %q", l.Pod, want, l.Steps)
				}
			}
		}
		if lines != 1 {
			t.Errorf("%d lines tell of the start:\n%s", lines, log.String())
		}
	})
}

func TestStartSLI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod := testPod("p")
		pod.CreationTimestamp = metav1.Now()
		time.Sleep(time.Second)
		record := steps.New()
		end := record.Begin(stepPull)
		time.Sleep(4 * time.Second)
		end()
		time.Sleep(time.Second)
		if took, ok := startSLI(pod, record, time.Now()); !ok || took != 2*time.Second {
			t.Errorf("%v, %v; want 2s without the pull", took, ok)
		}
		with := pod.DeepCopy()
		with.Spec.InitContainers = []corev1.Container{{Name: "i"}}
		if _, ok := startSLI(with, record, time.Now()); ok {
			t.Error("a pod with init containers counts")
		}
		with = pod.DeepCopy()
		with.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{}}}}
		if _, ok := startSLI(with, record, time.Now()); ok {
			t.Error("a pod with a claim counts")
		}
	})
}
