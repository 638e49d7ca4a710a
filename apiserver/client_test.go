package apiserver_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	appsv1 "k8s.io/client-go/applyconfigurations/apps/v1"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	applymetav1 "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	clientrest "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/util/retry"
)

// TestInformers checks that client-go's informers follow the server, over the network in JSON and protobuf and in-process.
func TestInformers(t *testing.T) {
	c := start(t)
	asProto := clientrest.CopyConfig(c.config)
	asProto.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	asProto.ContentType = "application/vnd.kubernetes.protobuf"
	for name, config := range map[string]*clientrest.Config{"json": c.config, "protobuf": asProto, "loopback": c.LoopbackConfig()} {
		t.Run(name, func(t *testing.T) {
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				t.Fatal(err)
			}
			ns := "ns-" + name
			if _, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			newMap := func(i int) *corev1.ConfigMap {
				return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("cm-", i)}, Data: map[string]string{"i": fmt.Sprint(i)}}
			}
			for i := range 5 {
				if _, err := client.CoreV1().ConfigMaps(ns).Create(t.Context(), newMap(i), metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			events := make(chan string, 100)
			factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(ns))
			informer := factory.Core().V1().ConfigMaps().Informer()
			informer.AddEventHandler(cache.ResourceEventHandlerFuncs{ //nolint:errcheck // the informer has not been started
				AddFunc:    func(o any) { events <- "add " + o.(*corev1.ConfigMap).Name },
				UpdateFunc: func(_, o any) { events <- "update " + o.(*corev1.ConfigMap).Data["i"] },
				DeleteFunc: func(o any) { events <- "delete" },
			})
			stop := make(chan struct{})
			defer factory.Shutdown()
			defer close(stop)
			factory.Start(stop)
			for range 5 {
				expect(t, events, "add cm-")
			}
			changed := newMap(2)
			changed.Data["i"] = "two"
			if _, err := client.CoreV1().ConfigMaps(ns).Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			expect(t, events, "update two")
			if err := client.CoreV1().ConfigMaps(ns).Delete(t.Context(), "cm-3", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			expect(t, events, "delete")
			cm, err := factory.Core().V1().ConfigMaps().Lister().ConfigMaps(ns).Get("cm-2")
			if err != nil || cm.Data["i"] != "two" || cm.ResourceVersion == "" {
				t.Errorf("%+v, %v", cm, err)
			}
		})
	}
}

func expect(t *testing.T, events <-chan string, prefix string) {
	t.Helper()
	select {
	case got := <-events:
		if len(got) < len(prefix) || got[:len(prefix)] != prefix {
			t.Fatalf("got %q, want %q…", got, prefix)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("no event, want %q…", prefix)
	}
}

// TestClients takes client-go's other clients through their ways to ask: discovery, dynamic, metadata, apply, scale, pages.
func TestClients(t *testing.T) {
	c := start(t)
	ctx := t.Context()
	_, lists, err := c.client.Discovery().ServerGroupsAndResources()
	if err != nil || len(lists) < 5 {
		t.Errorf("discovery: %v %v", lists, err)
	}
	for i := range 25 {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p-%02d", i), Labels: map[string]string{"p": "1"}}}
		if _, err := c.client.CoreV1().ConfigMaps("default").Create(ctx, cm, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	asked := 0
	pages := pager.New(func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
		asked++
		opts.LabelSelector = "p=1"
		return c.client.CoreV1().ConfigMaps("default").List(ctx, opts)
	})
	pages.PageSize = 10
	var names []string
	if err := pages.EachListItem(ctx, metav1.ListOptions{}, func(o runtime.Object) error {
		names = append(names, o.(*corev1.ConfigMap).Name)
		return nil
	}); err != nil || len(names) != 25 || !slices.IsSorted(names) || asked != 3 {
		t.Errorf("pages: %v in %d, %v", names, asked, err)
	}

	dyn, err := dynamic.NewForConfig(c.config)
	if err != nil {
		t.Fatal(err)
	}
	maps := schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	u, err := dyn.Resource(maps).Namespace("default").Apply(ctx, "dyn", &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "dyn"}, "data": map[string]any{"a": "b"},
	}}, metav1.ApplyOptions{FieldManager: "dyn"})
	if err != nil || u.GetManagedFields()[0].Operation != metav1.ManagedFieldsOperationApply {
		t.Errorf("dynamic: %v %v", u, err)
	}
	meta, err := metadata.NewForConfig(c.config)
	if err != nil {
		t.Fatal(err)
	}
	partial, err := meta.Resource(maps).Namespace("default").List(ctx, metav1.ListOptions{LabelSelector: "p=1"})
	if err != nil || len(partial.Items) != 25 || partial.Items[0].Name != "p-00" {
		t.Errorf("metadata: %v %v", partial, err)
	}
	changed, err := meta.Resource(maps).Namespace("default").Patch(ctx, "dyn", types.MergePatchType, []byte(`{"metadata":{"labels":{"l":"1"}}}`), metav1.PatchOptions{})
	if err != nil || changed.Labels["l"] != "1" {
		t.Errorf("metadata patch: %v %v", changed, err)
	}
	watching, err := meta.Resource(maps).Namespace("default").Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=dyn"})
	if err != nil {
		t.Fatal(err)
	}
	defer watching.Stop()
	if e := <-watching.ResultChan(); e.Type != watch.Added || e.Object.(*metav1.PartialObjectMetadata).Name != "dyn" {
		t.Errorf("metadata watch: %+v", e)
	}

	deployment := appsv1.Deployment("web", "default").WithSpec(appsv1.DeploymentSpec().WithReplicas(2).
		WithSelector(applymetav1.LabelSelector().WithMatchLabels(map[string]string{"app": "web"})).
		WithTemplate(applycorev1.PodTemplateSpec().WithLabels(map[string]string{"app": "web"}).WithSpec(
			applycorev1.PodSpec().WithContainers(applycorev1.Container().WithName("c").WithImage("i")))))
	deployments := c.client.AppsV1().Deployments("default")
	for _, manager := range []string{"one", "one", "two"} { // the same values are no conflict
		if _, err := deployments.Apply(ctx, deployment, metav1.ApplyOptions{FieldManager: manager}); err != nil {
			t.Fatal(err)
		}
	}
	scale, err := deployments.GetScale(ctx, "web", metav1.GetOptions{})
	if err != nil || scale.Spec.Replicas != 2 || scale.Status.Selector != "app=web" {
		t.Fatalf("scale: %+v %v", scale, err)
	}
	scale.Spec.Replicas = 5
	if scale, err = deployments.UpdateScale(ctx, "web", scale, metav1.UpdateOptions{}); err != nil || scale.Spec.Replicas != 5 {
		t.Errorf("scale: %+v %v", scale, err)
	}
	scale.ResourceVersion = "1"
	if _, err := deployments.UpdateScale(ctx, "web", scale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("stale scale: %v", err)
	}
	scale.ResourceVersion, scale.Spec.Replicas = "", -1
	if _, err := deployments.UpdateScale(ctx, "web", scale, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("negative scale: %v", err)
	}
	_, err = deployments.Apply(ctx, deployment.WithSpec(deployment.Spec.WithReplicas(3)), metav1.ApplyOptions{FieldManager: "one"})
	if !apierrors.IsConflict(err) || apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict) == false {
		t.Errorf("apply over a scale: %v", err)
	}
}

// TestConcurrentUpdates checks that of many read-modify-writes none is lost.
func TestConcurrentUpdates(t *testing.T) {
	c := start(t)
	ctx := t.Context()
	client := c.client.CoreV1().ConfigMaps("default")
	if _, err := client.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Data: map[string]string{"n": "0"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const writers, each = 8, 10
	group, ctx := errgroup.WithContext(ctx)
	for i := range writers {
		group.Go(func() error {
			for range each {
				if i%2 == 0 { // a patch needs no retry: the server does it
					patch := fmt.Sprintf(`{"data":{"w%d":"x"},"metadata":{"annotations":{"a%d":%q}}}`, i, i, uuid.NewString())
					if _, err := client.Patch(ctx, "n", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
						return err
					}
					continue
				}
				if err := retry.OnError(wait.Backoff{Steps: 1000, Duration: time.Millisecond}, apierrors.IsConflict, func() error {
					cm, err := client.Get(ctx, "n", metav1.GetOptions{})
					if err != nil {
						return err
					}
					n, err := strconv.Atoi(cm.Data["n"])
					if err != nil {
						return err
					}
					cm.Data["n"] = strconv.Itoa(n + 1)
					_, err = client.Update(ctx, cm, metav1.UpdateOptions{})
					return err
				}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	cm, err := client.Get(t.Context(), "n", metav1.GetOptions{})
	if err != nil || cm.Data["n"] != strconv.Itoa(writers/2*each) || len(cm.Data) != 1+writers/2 {
		t.Errorf("%v %v", cm.Data, err)
	}
}
