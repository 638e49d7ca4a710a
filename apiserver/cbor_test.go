package apiserver_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	fxcbor "github.com/fxamacker/cbor/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/apimachinery/pkg/types"
	applyappsv1 "k8s.io/client-go/applyconfigurations/apps/v1"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	applymetav1 "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/dynamic"
	clientfeatures "k8s.io/client-go/features"
	clientfeaturestesting "k8s.io/client-go/features/testing"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	clientrest "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const cborType = "application/cbor"

// mediaSeen records what clients send and are answered in: client-go goes on in JSON when a server does not know CBOR.
type mediaSeen struct {
	http.RoundTripper
	mu   sync.Mutex
	seen map[string]int
}

func (m *mediaSeen) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := m.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen[fmt.Sprintf("%s %s > %s", r.Method, r.Header.Get("Content-Type"), answer.Header.Get("Content-Type"))]++
	return answer, nil
}

// TestCBORClients takes client-go's typed and dynamic clients, told to prefer CBOR, through built-in and custom kinds.
func TestCBORClients(t *testing.T) {
	clientfeaturestesting.SetFeatureDuringTest(t, clientfeatures.ClientsAllowCBOR, true)
	clientfeaturestesting.SetFeatureDuringTest(t, clientfeatures.ClientsPreferCBOR, true)
	c := start(t, withOpenAPI(t))
	ctx := t.Context()
	seen := &mediaSeen{seen: map[string]int{}}
	config := clientrest.CopyConfig(c.config)
	config.ContentType = cborType
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { seen.RoundTripper = rt; return seen })
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	maps := client.CoreV1().ConfigMaps("default")

	events := make(chan string, 100)
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace("default"),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = "in=cbor" }))
	factory.Core().V1().ConfigMaps().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{ //nolint:errcheck // the informer has not been started
		AddFunc:    func(o any) { events <- "add " + string(o.(*corev1.ConfigMap).BinaryData["b"]) },
		UpdateFunc: func(_, o any) { events <- "update " + o.(*corev1.ConfigMap).Data["a"] },
		DeleteFunc: func(o any) { events <- "delete" },
	})
	stop := make(chan struct{})
	defer factory.Shutdown()
	defer close(stop)
	created, err := maps.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"in": "cbor"}}, Data: map[string]string{"a": "b"}, BinaryData: map[string][]byte{"b": []byte("\x00\xff")},
	}, metav1.CreateOptions{})
	if err != nil || created.UID == "" || string(created.BinaryData["b"]) != "\x00\xff" || len(created.ManagedFields) != 1 || !strings.Contains(string(created.ManagedFields[0].FieldsV1.GetRawBytes()), `"f:binaryData"`) {
		t.Fatalf("%+v %v", created, err)
	}
	factory.Start(stop)
	expect(t, events, "add \x00\xff")
	created.Data["a"] = "c"
	updated, err := maps.Update(ctx, created, metav1.UpdateOptions{})
	if err != nil || updated.ResourceVersion == created.ResourceVersion {
		t.Fatalf("%+v %v", updated, err)
	}
	expect(t, events, "update c")
	if _, err := maps.Update(ctx, created, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("stale: %v", err)
	}
	if list, err := maps.List(ctx, metav1.ListOptions{LabelSelector: "in=cbor"}); err != nil || len(list.Items) != 1 || list.Items[0].Data["a"] != "c" || list.ResourceVersion == "" {
		t.Errorf("%+v %v", list, err)
	}
	if _, err := maps.Get(ctx, "none", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("%v", err)
	}
	seconds := int64(0)
	if err := maps.Delete(ctx, "a", metav1.DeleteOptions{GracePeriodSeconds: &seconds, Preconditions: metav1.NewUIDPreconditions("other")}); !apierrors.IsConflict(err) {
		t.Errorf("options of a delete: %v", err)
	}
	if err := maps.Delete(ctx, "a", *metav1.NewPreconditionDeleteOptions(string(created.UID))); err != nil {
		t.Error(err)
	}
	expect(t, events, "delete")

	deployments := client.AppsV1().Deployments("default")
	deployment := applyappsv1.Deployment("web", "default").WithSpec(applyappsv1.DeploymentSpec().WithReplicas(2).
		WithSelector(applymetav1.LabelSelector().WithMatchLabels(map[string]string{"app": "web"})).
		WithTemplate(applycorev1.PodTemplateSpec().WithLabels(map[string]string{"app": "web"}).WithSpec(
			applycorev1.PodSpec().WithContainers(applycorev1.Container().WithName("c").WithImage("i")))))
	for _, manager := range []string{"one", "two"} {
		if d, err := deployments.Apply(ctx, deployment, metav1.ApplyOptions{FieldManager: manager}); err != nil || *d.Spec.Replicas != 2 {
			t.Fatalf("%+v %v", d, err)
		}
	}
	if _, err := deployments.Apply(ctx, deployment.WithSpec(deployment.Spec.WithReplicas(3)), metav1.ApplyOptions{FieldManager: "one"}); !apierrors.IsConflict(err) {
		t.Errorf("conflict: %v", err)
	}
	scale, err := deployments.GetScale(ctx, "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	scale.Spec.Replicas = 5
	if scale, err = deployments.UpdateScale(ctx, "web", scale, metav1.UpdateOptions{}); err != nil || scale.Spec.Replicas != 5 {
		t.Errorf("%+v %v", scale, err)
	}
	if err := client.PolicyV1().Evictions("default").Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "none", Namespace: "default"}}); !apierrors.IsNotFound(err) {
		t.Errorf("%v", err)
	}

	for _, s := range [][]string{{"apply -f -", widgetDefinition}, {"wait --for=condition=Established crd/widgets.example.com --timeout=30s", ""}} {
		c.run(t, []step{{args: s[0], stdin: s[1], want: []string{"widgets.example.com"}}})
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	widgets := dyn.Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "widgets"}).Namespace("default")
	newWidget := func(name string, spec map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Widget", "metadata": map[string]any{"name": name}, "spec": spec}}
	}
	watching, err := widgets.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer watching.Stop()
	made, err := widgets.Create(ctx, newWidget("one", map[string]any{"color": "green"}), metav1.CreateOptions{})
	if size, _, _ := unstructured.NestedInt64(made.Object, "spec", "size"); err != nil || size != 1 {
		t.Fatalf("%+v %v", made, err)
	}
	if e := <-watching.ResultChan(); e.Object.(*unstructured.Unstructured).GetName() != "one" {
		t.Errorf("%+v", e)
	}
	if _, err := widgets.Create(ctx, newWidget("two", map[string]any{"color": "green", "bad": int64(1)}), metav1.CreateOptions{FieldValidation: "Strict"}); !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), `unknown field "spec.bad"`) {
		t.Errorf("%v", err)
	}
	if _, err := widgets.Create(ctx, newWidget("two", map[string]any{"color": "blue"}), metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("%v", err)
	}
	if w, err := widgets.Apply(ctx, "three", newWidget("three", map[string]any{"color": "red", "size": int64(12)}), metav1.ApplyOptions{FieldManager: "m"}); err != nil || w.GetManagedFields()[0].Operation != metav1.ManagedFieldsOperationApply {
		t.Errorf("%+v %v", w, err)
	}
	if list, err := widgets.List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 2 || list.GetKind() != "WidgetList" {
		t.Errorf("%+v %v", list, err)
	}
	if w, err := widgets.Patch(ctx, "one", types.MergePatchType, []byte(`{"spec":{"size":2}}`), metav1.PatchOptions{}); err != nil || w.GetGeneration() != 2 {
		t.Errorf("%+v %v", w, err)
	}

	seen.mu.Lock()
	defer seen.mu.Unlock()
	for _, want := range []string{
		"POST application/cbor > application/cbor", "PUT application/cbor > application/cbor", "PATCH application/apply-patch+cbor > application/cbor",
		"DELETE application/cbor > application/cbor", "GET  > application/cbor", "GET  > application/cbor-seq",
	} {
		if seen.seen[want] == 0 {
			t.Errorf("no %s in %v", want, seen.seen)
		}
		delete(seen.seen, want)
	}
	delete(seen.seen, "PATCH application/merge-patch+json > application/cbor")
	if len(seen.seen) > 0 {
		t.Errorf("what else was said: %v", seen.seen)
	}
}

// TestCBORRequests checks media types, views and errors of plain requests.
func TestCBORRequests(t *testing.T) {
	c := start(t)
	encode := func(v any) string {
		b, err := direct.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	object := func(name string, more ...string) map[string]any {
		o := map[string]any{"kind": "ConfigMap", "apiVersion": "v1", "metadata": map[string]any{"name": name}}
		for _, field := range more {
			o[field] = "x"
		}
		return o
	}
	for _, step := range []struct {
		name, method, path string
		body               string
		headers            []string
		code               int
		media              string
		want               []string // "kind=…" or a part of the message, of what the answer holds
		warning            string
	}{
		{name: "create", method: "POST", path: maps, body: encode(object("a")), headers: []string{"Content-Type", cborType, "Accept", cborType}, code: 201, media: cborType, want: []string{"kind:ConfigMap"}},
		{name: "tagged", method: "POST", path: maps, body: "\xd9\xd9\xf7" + encode(object("b")), headers: []string{"Content-Type", cborType + "; charset=x"}, code: 201, media: "application/json"},
		{name: "get", method: "GET", path: maps + "/a", headers: []string{"Accept", cborType}, code: 200, media: cborType, want: []string{"kind:ConfigMap", "name:a"}},
		{name: "list", method: "GET", path: maps, headers: []string{"Accept", cborType}, code: 200, media: cborType, want: []string{"kind:ConfigMapList"}},
		{name: "table", method: "GET", path: maps, headers: []string{"Accept", cborType + ";as=Table;g=meta.k8s.io;v=v1"}, code: 200, media: cborType, want: []string{"kind:Table", "kind:PartialObjectMetadata", "name:a", "cells:["}},
		{name: "table of objects", method: "GET", path: maps + "?includeObject=Object", headers: []string{"Accept", cborType + ";as=Table;g=meta.k8s.io;v=v1"}, code: 200, media: cborType, want: []string{"kind:Table", "kind:ConfigMap", "name:a"}},
		{name: "metadata", method: "GET", path: maps + "/a", headers: []string{"Accept", cborType + ";as=PartialObjectMetadata;g=meta.k8s.io;v=v1"}, code: 200, media: cborType, want: []string{"kind:PartialObjectMetadata", "name:a"}},
		{name: "metadata list", method: "GET", path: maps, headers: []string{"Accept", cborType + ";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}, code: 200, media: cborType, want: []string{"kind:PartialObjectMetadataList", "kind:PartialObjectMetadata ", "name:a"}},
		{name: "unknown field", method: "POST", path: maps, body: encode(object("c", "datum")), headers: []string{"Content-Type", cborType}, code: 201, media: "application/json", warning: "unknown field"},
		{name: "strict", method: "POST", path: maps + "?fieldValidation=Strict", body: encode(object("d", "datum")), headers: []string{"Content-Type", cborType, "Accept", cborType}, code: 400, media: cborType, want: []string{"kind:Status", "strict decoding error", "unknown field"}},
		{name: "ignore", method: "POST", path: maps + "?fieldValidation=Ignore", body: encode(object("e", "datum")), headers: []string{"Content-Type", cborType}, code: 201, media: "application/json"},
		{name: "duplicate", method: "POST", path: maps + "?fieldValidation=Ignore", body: "\xa2\x64data\xa0\x64data\xa0", headers: []string{"Content-Type", cborType, "Accept", cborType}, code: 400, media: cborType, want: []string{"duplicate map key"}},
		{name: "sequence", method: "POST", path: maps, body: encode(object("f")), headers: []string{"Content-Type", "application/cbor-seq"}, code: 415, media: "application/json"},
		{name: "patch", method: "PATCH", path: maps + "/a", body: encode(object("a")), headers: []string{"Content-Type", cborType, "Accept", cborType}, code: 415, media: cborType, want: []string{"application/apply-patch+yaml, application/apply-patch+cbor"}},
		{name: "apply", method: "PATCH", path: maps + "/g?fieldManager=m", body: encode(object("g")), headers: []string{"Content-Type", "application/apply-patch+cbor", "Accept", cborType}, code: 201, media: cborType, want: []string{"name:g"}},
		{name: "apply without a manager", method: "PATCH", path: maps + "/g", body: encode(object("g")), headers: []string{"Content-Type", "application/apply-patch+cbor"}, code: 422, media: "application/json"},
		{name: "apply twice the same key", method: "PATCH", path: maps + "/g?fieldManager=m", body: "\xa2\x64data\xa0\x64data\xa0", headers: []string{"Content-Type", "application/apply-patch+cbor", "Accept", cborType}, code: 400, media: cborType, want: []string{"duplicate map key"}},
		{name: "not acceptable", method: "GET", path: maps, headers: []string{"Accept", "application/cbor-seq"}, code: 406, media: "application/json"},
		{name: "discovery", method: "GET", path: "/apis/apps/v1", headers: []string{"Accept", cborType}, code: 200, media: cborType, want: []string{"kind:APIResourceList", "name:deployments"}},
		{name: "aggregated discovery", method: "GET", path: "/apis", headers: []string{"Accept", cborType + ";g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"}, code: 200, media: "application/json"},
		{name: "delete", method: "DELETE", path: maps + "/a", body: encode(map[string]any{"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": []any{"All"}}), headers: []string{"Content-Type", cborType, "Accept", cborType}, code: 200, media: cborType, want: []string{"kind:Status", "status:Success"}},
		{name: "still there", method: "GET", path: maps + "/a", code: 200, media: "application/json"},
	} {
		t.Run(step.name, func(t *testing.T) {
			got := c.do(t, step.method, step.path, step.body, step.headers...)
			if got.code != step.code || got.header.Get("Content-Type") != step.media || !strings.Contains(got.header.Get("Warning"), step.warning) {
				t.Fatalf("%d %v %.300q", got.code, got.header, got.body)
			}
			if !strings.HasPrefix(step.media, cborType) || got.body == "" {
				return
			}
			if !strings.HasPrefix(got.body, "\xd9\xd9\xf7") {
				t.Errorf("no tag: %.50q", got.body)
			}
			var content any
			if err := direct.Unmarshal([]byte(got.body), &content); err != nil {
				t.Fatalf("%.300q: %v", got.body, err)
			}
			text := fmt.Sprint(content)
			if missing := slices.IndexFunc(step.want, func(w string) bool { return !strings.Contains(text, w) }); missing >= 0 {
				t.Errorf("no %s in %s", step.want[missing], text)
			}
		})
	}
}

// TestCBORWatch reads the first item of watches as a client without client-go would.
func TestCBORWatch(t *testing.T) {
	c := start(t)
	if got := c.do(t, "POST", maps, `{"metadata":{"name":"seen"}}`); got.code != 201 {
		t.Fatal(got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for name, want := range map[string][]string{
		"":                             {"type:ADDED", "kind:ConfigMap", "name:seen"},
		";as=Table;g=meta.k8s.io;v=v1": {"type:ADDED", "kind:Table", "kind:PartialObjectMetadata", "name:seen"},
		";as=PartialObjectMetadata;g=meta.k8s.io;v=v1": {"type:ADDED", "kind:PartialObjectMetadata", "name:seen"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(ctx, "GET", c.URL+maps+"?watch=1", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Accept", cborType+name)
			answer, err := c.http(t).Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close() //nolint:errcheck // it was only read
			if media := answer.Header.Get("Content-Type"); media != "application/cbor-seq" {
				t.Fatal(media)
			}
			var frame fxcbor.RawMessage
			if err := fxcbor.NewDecoder(answer.Body).Decode(&frame); err != nil {
				t.Fatal(err)
			}
			var content any
			if err := direct.Unmarshal(frame, &content); err != nil {
				t.Fatalf("%q %v", frame, err)
			}
			text := fmt.Sprint(content)
			if missing := slices.IndexFunc(want, func(w string) bool { return !strings.Contains(text, w) }); missing >= 0 {
				t.Errorf("no %s in %s", want[missing], text)
			}
		})
	}
}
