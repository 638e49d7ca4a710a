// SPDX-License-Identifier: Apache-2.0

package object

import (
	"context"
	"errors"
	"log/slog"
	"slices"
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
	clienttesting "k8s.io/client-go/testing"
)

// rig is a store on a fake API that counts what is asked of it.
type rig struct {
	t  *testing.T
	cs *fake.Clientset
	s  *Store

	mu      sync.Mutex
	changes []Key
	lists   int
	fail    error
	version int
}

func newRig(t *testing.T, objs ...runtime.Object) *rig {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	r := &rig{t: t, cs: fake.NewClientset(objs...)}
	r.cs.PrependReactor("list", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.lists++
		return r.fail != nil, nil, r.fail
	})
	r.s = New(ctx, Config{Client: r.cs, Logger: slog.New(slog.DiscardHandler), OnChange: func(k Key) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.changes = append(r.changes, k)
	}})
	return r
}

func (r *rig) took() (changes []Key, lists int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	changes, lists, r.changes, r.lists = r.changes, r.lists, nil, 0
	return changes, lists
}

func (r *rig) value(name string) string {
	r.t.Helper()
	cm, err := r.s.ConfigMap(context.Background(), "ns", name)
	if apierrors.IsNotFound(err) {
		return "absent"
	}
	if err != nil {
		return err.Error()
	}
	return cm.Data["k"]
}

func configMap(name, value, version string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name), ResourceVersion: version}, Data: map[string]string{"k": value}}
}

func (r *rig) write(cm *corev1.ConfigMap) {
	r.t.Helper()
	api := r.cs.CoreV1().ConfigMaps("ns")
	_, err := api.Update(context.Background(), cm, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = api.Create(context.Background(), cm, metav1.CreateOptions{})
	}
	if err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
}

func key(name string) Key { return Key{ConfigMap, "ns", name} }

func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, configMap("a", "1", "1"))
		r.s.Use("pod", []Key{key("a"), key("a"), key("b")})
		synctest.Wait()
		if got := []string{r.value("a"), r.value("b")}; !slices.Equal(got, []string{"1", "absent"}) {
			t.Fatalf("%q", got)
		}
		if changes, _ := r.took(); len(changes) != 0 {
			t.Errorf("the first read counts as a change: %v", changes)
		}
		r.write(configMap("a", "2", "2"))
		r.write(configMap("b", "new", "3"))
		r.write(configMap("other", "x", "4")) // in the same namespace, used by nobody
		if got := []string{r.value("a"), r.value("b")}; !slices.Equal(got, []string{"2", "new"}) {
			t.Errorf("%q", got)
		}
		if err := r.cs.CoreV1().ConfigMaps("ns").Delete(context.Background(), "a", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := r.value("a"); got != "absent" {
			t.Errorf("%q after deletion", got)
		}
		if changes, _ := r.took(); !slices.Equal(changes, []Key{key("a"), key("b"), key("a")}) {
			t.Errorf("changes %v", changes)
		}
	})
}

func TestUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, configMap("a", "1", "1"), configMap("b", "1", "1"))
		r.s.Use("p1", []Key{key("a")})
		r.s.Use("p2", []Key{key("a"), key("b")})
		synctest.Wait()
		if _, lists := r.took(); lists != 2 {
			t.Errorf("%d lists for two objects of two pods", lists)
		}
		users := r.s.Users(key("a"))
		slices.Sort(users)
		if !slices.Equal(users, []types.UID{"p1", "p2"}) {
			t.Errorf("users %v", users)
		}
		r.s.Use("p1", nil)
		r.s.Use("p2", []Key{key("b")})
		if _, err := r.s.ConfigMap(context.Background(), "ns", "a"); err == nil || apierrors.IsNotFound(err) {
			t.Errorf("an object that nobody uses: %v", err)
		}
		r.s.Use("p2", nil)
		synctest.Wait()
		r.write(configMap("a", "2", "2"))
		if changes, _ := r.took(); len(changes) != 0 {
			t.Errorf("changes of what nobody uses: %v", changes)
		}
		if len(r.s.entries)+len(r.s.users) != 0 {
			t.Errorf("left: %v %v", r.s.entries, r.s.users)
		}
	})
}

func TestImmutableIsReadOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cm := configMap("a", "1", "1")
		yes := true
		cm.Immutable = &yes
		r := newRig(t, cm)
		r.s.Use("p", []Key{key("a")})
		synctest.Wait()
		for _, a := range r.cs.Actions() {
			if a.GetVerb() == "watch" {
				t.Error("an immutable object is watched")
			}
		}
		if got := r.value("a"); got != "1" {
			t.Errorf("%q", got)
		}
	})
}

func TestUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, configMap("a", "1", "1"))
		r.fail = errors.New("connection refused")
		r.s.Use("p", []Key{key("a")})
		began := time.Now()
		if got := r.value("a"); got != "connection refused" || time.Since(began) != firstRead {
			t.Errorf("%q after %s", got, time.Since(began))
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := r.s.ConfigMap(ctx, "ns", "a"); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		r.mu.Lock()
		r.fail = nil
		r.mu.Unlock()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := r.value("a"); got != "1" {
			t.Errorf("%q", got)
		}
		if changes, _ := r.took(); !slices.Equal(changes, []Key{key("a")}) {
			t.Errorf("who gave up waiting is not told: %v", changes)
		}
	})
}

func TestSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s", ResourceVersion: "1"}, Data: map[string][]byte{"k": []byte("v")}})
		r.s.Use("p", []Key{{Secret, "ns", "s"}, {Secret, "other", "s"}})
		synctest.Wait()
		s, err := r.s.Secret(context.Background(), "ns", "s")
		if err != nil || string(s.Data["k"]) != "v" {
			t.Errorf("%v, %v", s, err)
		}
		if _, err := r.s.Secret(context.Background(), "other", "s"); !apierrors.IsNotFound(err) {
			t.Errorf("of another namespace: %v", err)
		}
	})
}
