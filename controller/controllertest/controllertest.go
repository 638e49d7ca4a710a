// Package controllertest runs controllers against client-go's fake clientset, with what that lacks filled in: generated
// names, UIDs, creation times, and resource versions with conflicts on stale updates. Not part of the product; only tests
// import it.
//
// It is made for testing/synctest: start a World and its controllers inside a bubble, then synctest.Wait is enough to see
// every reaction finished.
//
// What the fake still cannot do, and a test must not rely on: graceful deletion, finalizers, precondition checks, status
// subresources that keep spec, field selectors on watches.
package controllertest

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	"github.com/mini-k8s/mini/controller/feed"
)

// World is one fake cluster.
type World struct {
	Client    *fake.Clientset
	Informers informers.SharedInformerFactory
	Feeds     *feed.Set
	Events    *record.FakeRecorder
	Logger    *slog.Logger

	t     *testing.T
	began time.Time
	mu    sync.Mutex
	next  int
}

// New makes a world with the objects in it.
func New(t *testing.T, objects ...runtime.Object) *World {
	w := &World{t: t, began: time.Now(), next: 1000, Feeds: &feed.Set{}, Events: record.NewFakeRecorder(10000)}
	w.Logger = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	for _, o := range objects {
		w.dress(o)
	}
	w.Client = fake.NewSimpleClientset(objects...)
	w.Informers = informers.NewSharedInformerFactory(w.Client, 0)
	w.Client.PrependReactor("create", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		w.dress(a.(clienttesting.CreateAction).GetObject())
		return false, nil, nil
	})
	w.Client.PrependReactor("update", "*", w.update)
	return w
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

func (w *World) version() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	return strconv.Itoa(w.next)
}

func (w *World) dress(obj runtime.Object) {
	o, err := meta.Accessor(obj)
	if err != nil {
		return
	}
	v := w.version()
	o.SetResourceVersion(v)
	if o.GetUID() == "" {
		o.SetUID(types.UID("uid-" + v))
	}
	if o.GetName() == "" && o.GetGenerateName() != "" {
		o.SetName(o.GetGenerateName() + v)
	}
	if t := o.GetCreationTimestamp(); t.IsZero() {
		o.SetCreationTimestamp(metav1.NewTime(time.Now()))
	}
}

// update refuses stale objects and gives the others a new version.
func (w *World) update(action clienttesting.Action) (bool, runtime.Object, error) {
	a := action.(clienttesting.UpdateAction)
	o, err := meta.Accessor(a.GetObject())
	if err != nil {
		return false, nil, nil
	}
	current, err := w.Client.Tracker().Get(a.GetResource(), a.GetNamespace(), o.GetName())
	if err != nil {
		return true, nil, err
	}
	if c, err := meta.Accessor(current); err == nil && o.GetResourceVersion() != "" && c.GetResourceVersion() != o.GetResourceVersion() {
		return true, nil, apierrors.NewConflict(a.GetResource().GroupResource(), o.GetName(), fmt.Errorf("the object has been modified"))
	}
	o.SetResourceVersion(w.version())
	return false, nil, nil
}

// Began is when the world was made.
func (w *World) Began() time.Time { return w.began }

// Start runs the controllers until the test ends.
func (w *World) Start(runners ...interface{ Run(context.Context) error }) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	if err := w.Feeds.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.Informers.StartWithContext(ctx)
	for _, r := range runners {
		wg.Go(func() {
			if err := r.Run(ctx); err != nil {
				w.t.Errorf("controller ended: %v", err)
			}
		})
	}
	w.t.Cleanup(func() {
		cancel()
		wg.Wait()
		w.Informers.Shutdown()
	})
}

// Writes returns "verb resource[/subresource] namespace/name" of every write so far, in order, and forgets them.
func (w *World) Writes() []string {
	var out []string
	for _, a := range w.Client.Actions() {
		switch a.GetVerb() {
		case "get", "list", "watch":
			continue
		}
		name := ""
		switch a := a.(type) {
		case clienttesting.CreateAction: // and update
			if o, err := meta.Accessor(a.GetObject()); err == nil {
				name = o.GetName()
			}
		case clienttesting.PatchAction:
			name = a.GetName()
		case clienttesting.DeleteAction:
			name = a.GetName()
		}
		res := a.GetResource().Resource
		if s := a.GetSubresource(); s != "" {
			res += "/" + s
		}
		out = append(out, a.GetVerb()+" "+res+" "+a.GetNamespace()+"/"+name)
	}
	w.Client.ClearActions()
	return out
}
