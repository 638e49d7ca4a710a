// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/mini-k8s/mini/kubelet/container"
	"github.com/mini-k8s/mini/kubelet/runtimetest"
)

var errNoImage = errors.New("no such image")

// recorder keeps events as "reason: message".
type recorder struct {
	mu  sync.Mutex
	all []string
}

func (r *recorder) Event(_ runtime.Object, _, reason, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, reason+": "+message)
}
func (r *recorder) Eventf(o runtime.Object, t, reason, format string, args ...any) {
	r.Event(o, t, reason, fmt.Sprintf(format, args...))
}
func (r *recorder) AnnotatedEventf(o runtime.Object, _ map[string]string, t, reason, format string, args ...any) {
	r.Eventf(o, t, reason, format, args...)
}

func (r *recorder) has(prefix string) bool { return r.count(prefix) > 0 }

func (r *recorder) count(prefix string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, e := range r.all {
		if strings.HasPrefix(e, prefix) {
			n++
		}
	}
	return n
}

// rig is a kubelet on fakes.
type rig struct {
	t      *testing.T
	cs     *fake.Clientset
	rt     *runtimetest.Runtime
	images *runtimetest.Images
	events *recorder
	cfg    Config
	k      *Kubelet
	stop   func()
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

func newRig(t *testing.T, objs ...runtime.Object) *rig {
	t.Helper()
	r := &rig{t: t, cs: fake.NewClientset(objs...), rt: runtimetest.NewRuntime(), events: &recorder{},
		images: runtimetest.NewImages(errNoImage, "docker.io/library/app:1", "docker.io/library/app:2")}
	r.cfg = Config{NodeName: "n1", NodeIPs: []net.IP{net.ParseIP("192.0.2.1")}, DataDir: t.TempDir(), Client: r.cs, Runtime: r.rt, Images: r.images,
		CgroupRoot: "/test", ClusterDNS: []net.IP{net.ParseIP("192.0.2.53")}, Version: "v1.36.0", Events: r.events,
		Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil))}
	return r
}

// run starts the kubelet; the test's end stops it.
func (r *rig) run() {
	r.t.Helper()
	k, err := New(r.cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.k = k
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				r.t.Errorf("Run: %v", err)
			}
		})
	}
	r.t.Cleanup(r.stop)
	synctest.Wait()
}

func testPod(name string, containers ...corev1.Container) *corev1.Pod {
	grace := int64(30)
	if len(containers) == 0 {
		containers = []corev1.Container{{Name: "c", Image: "app:1"}}
	}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)},
		Spec: corev1.PodSpec{NodeName: "n1", RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace, Containers: containers}}
}

func (r *rig) create(p *corev1.Pod) {
	r.t.Helper()
	if _, err := r.cs.CoreV1().Pods(p.Namespace).Create(context.Background(), p, metav1.CreateOptions{}); err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
}

func (r *rig) get(name string) *corev1.Pod {
	r.t.Helper()
	p, err := r.cs.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// markDeleted does what the API server's graceful deletion does.
func (r *rig) markDeleted(name string, grace int64) {
	r.t.Helper()
	p := r.get(name).DeepCopy()
	now := metav1.Now()
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, &grace
	if err := r.cs.Tracker().Update(corev1.SchemeGroupVersion.WithResource("pods"), p, "default"); err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
}

func (r *rig) exists(name string) bool {
	_, err := r.cs.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		r.t.Fatal(err)
	}
	return err == nil
}

func (r *rig) container(pod, name string) container.Container {
	r.t.Helper()
	c, ok := r.rt.Find(pod, name)
	if !ok {
		r.t.Fatalf("no container %s in pod %s; calls: %q; status %+v", name, pod, r.rt.Calls(), r.get(pod).Status)
	}
	return c
}

func cond(p *corev1.Pod, t corev1.PodConditionType) corev1.PodCondition {
	for _, c := range p.Status.Conditions {
		if c.Type == t {
			return c
		}
	}
	return corev1.PodCondition{}
}

// after lets time pass in the bubble.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestPodLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.run()
		r.create(testPod("p"))
		p := r.get("p")
		if p.Status.Phase != corev1.PodRunning || cond(p, corev1.PodReady).Status != corev1.ConditionTrue {
			t.Fatalf("status %+v; calls %q", p.Status, r.rt.Calls())
		}
		cs := p.Status.ContainerStatuses[0]
		if cs.State.Running == nil || !cs.Ready || cs.Started == nil || !*cs.Started || cs.RestartCount != 0 || cs.Image != "docker.io/library/app:1" {
			t.Errorf("container status %+v", cs)
		}
		if p.Status.PodIP == "" || p.Status.HostIP != "192.0.2.1" || p.Status.QOSClass != corev1.PodQOSBestEffort || p.Status.StartTime == nil {
			t.Errorf("status %+v", p.Status)
		}
		for _, e := range []string{"Pulled: Container image \"app:1\" already present on machine", "Created: Created container: c", "Started: Started container c"} {
			if !r.events.has(e) {
				t.Errorf("no event %q in %q", e, r.events.all)
			}
		}
		r.markDeleted("p", 30)
		if r.exists("p") {
			t.Fatalf("still there: %+v; calls %q", r.get("p").Status, r.rt.Calls())
		}
		if sb, cs, _ := r.rt.List(context.Background()); len(sb)+len(cs) != 0 {
			t.Errorf("left: %v %v", sb, cs)
		}
		if !r.events.has("Killing: Stopping container c") {
			t.Errorf("no Killing event in %q", r.events.all)
		}
		r.k.mu.Lock()
		defer r.k.mu.Unlock()
		if len(r.k.pods) != 0 {
			t.Errorf("%d pod states left", len(r.k.pods))
		}
	})
}
