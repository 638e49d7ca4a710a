package admission

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/utils/ptr"
)

type warnings struct{ texts []string }

func (w *warnings) AddWarning(_, text string) { w.texts = append(w.texts, text) }

func labelled(name string, labels map[string]string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}}
}

func TestPodSecurity(t *testing.T) {
	const prefix = "pod-security.kubernetes.io/"
	good := func(namespace string) *corev1.Pod {
		return newPod(func(p *corev1.Pod) {
			p.Namespace = namespace
			p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: ptr.To(true), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
			p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{
				AllowPrivilegeEscalation: ptr.To(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			}
		})
	}
	plain := func(namespace string) *corev1.Pod { return newPod(func(p *corev1.Pod) { p.Namespace = namespace }) }
	host := func(namespace string) *corev1.Pod {
		return newPod(func(p *corev1.Pod) { p.Namespace = namespace; p.Spec.HostNetwork = true })
	}
	changed := func(p *corev1.Pod, change func(*corev1.Pod)) *corev1.Pod { p = p.DeepCopy(); change(p); return p }
	restricted := labelled("restricted", map[string]string{prefix + "enforce": "restricted"})
	pod := func(p *corev1.Pod) write {
		return write{resource: pods, namespace: p.Namespace, name: p.Name, op: admission.Create, obj: p}
	}
	update := func(old, p *corev1.Pod) write {
		return write{resource: pods, namespace: p.Namespace, name: p.Name, op: admission.Update, obj: p, old: old}
	}
	namespace := func(old, ns *corev1.Namespace) write {
		w := write{resource: corev1.SchemeGroupVersion.WithResource("namespaces"), name: ns.Name, namespace: ns.Name, op: admission.Create, obj: ns}
		if old != nil {
			w.op, w.old = admission.Update, old
		}
		return w
	}
	const hostDetail = `host namespaces (hostNetwork=true)`
	for _, c := range []struct {
		name   string
		w      write
		denied string // how the answer begins
		warns  []string
	}{
		{"no_labels", pod(host("open")), "", nil},
		{"restricted_good", pod(good("restricted")), "", nil},
		{"restricted_plain", pod(plain("restricted")), `pods "p" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities`, nil},
		{"baseline_plain", pod(plain("baseline")), "", []string{`would violate PodSecurity "restricted:v1.30": allowPrivilegeEscalation != false`}},
		{"baseline_host", pod(host("baseline")), `pods "p" is forbidden: violates PodSecurity "baseline:latest": ` + hostDetail, nil},
		{"label_update", update(plain("restricted"), changed(plain("restricted"), func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} })), "", nil},
		{"image_update", update(plain("restricted"), changed(plain("restricted"), func(p *corev1.Pod) { p.Spec.Containers[0].Image = "x" })), `pods "p" is forbidden: violates PodSecurity`, nil},
		{"deployment_only_warned", write{resource: schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, namespace: "warned", name: "d", op: admission.Create,
			obj: &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{Spec: host("warned").Spec}}}}, "", []string{`would violate PodSecurity "baseline:latest": ` + hostDetail}},
		{"bad_label", namespace(nil, labelled("new", map[string]string{prefix + "enforce": "strict"})), `Namespace "new" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "strict"`, nil},
		{"stricter", namespace(labelled("open", nil), labelled("open", map[string]string{prefix + "enforce": "baseline"})), "", []string{
			`existing pods in namespace "open" violate the new PodSecurity enforce level "baseline:latest"`, "p1 (and 1 other pod): host namespaces",
		}},
		{"looser", namespace(restricted, labelled("restricted", map[string]string{prefix + "enforce": "baseline"})), "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			objects := append(base(), labelled("open", nil), restricted, labelled("warned", map[string]string{prefix + "warn": "baseline"}),
				labelled("baseline", map[string]string{prefix + "enforce": "baseline", prefix + "warn": "restricted", prefix + "warn-version": "v1.30"}))
			for _, ns := range []string{"open", "restricted", "baseline"} {
				objects = append(objects, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "default"}})
			}
			for _, name := range []string{"p1", "p2"} {
				objects = append(objects, changed(host("open"), func(p *corev1.Pod) { p.Name = name }))
			}
			chain, _ := chainFor(t, objects...)
			w := &warnings{}
			ctx := warning.WithWarningRecorder(t.Context(), w)
			a := c.w.attributes()
			err := chain.Admit(ctx, a, nil)
			if err == nil {
				err = chain.Validate(ctx, a, nil)
			}
			switch {
			case err == nil && c.denied != "":
				t.Error("was let in")
			case err != nil && (c.denied == "" || !strings.HasPrefix(err.Error(), c.denied)):
				t.Errorf("got %v", err)
			}
			if diff := cmp.Diff(c.warns, w.texts, cmp.Comparer(func(x, y string) bool { return strings.HasPrefix(x, y) || strings.HasPrefix(y, x) })); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// annotations are attributes that remember what the audit event is told.
type annotations struct {
	admission.Attributes
	said map[string]string
}

func (a annotations) AddAnnotation(key, value string) error {
	a.said[key] = value
	return nil
}

// TestPodSecurityAudit checks what the audit event is told, of pods that are refused too.
func TestPodSecurityAudit(t *testing.T) {
	const prefix = "pod-security.kubernetes.io/"
	host := func(namespace string) *corev1.Pod {
		return newPod(func(p *corev1.Pod) { p.Namespace = namespace; p.Spec.HostNetwork = true })
	}
	pod := func(namespace string) write {
		return write{resource: pods, namespace: namespace, name: "p", op: admission.Create, obj: host(namespace)}
	}
	deployment := func(namespace string) write {
		return write{resource: schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, namespace: namespace, name: "d", op: admission.Create,
			obj: &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{Spec: host(namespace).Spec}}}}
	}
	const violations = `would violate PodSecurity "baseline:latest": host namespaces (hostNetwork=true)`
	for _, c := range []struct {
		name   string
		w      write
		denied bool
		want   map[string]string // how the texts begin
	}{
		{"open", pod("open"), false, map[string]string{"enforce-policy": "privileged:latest"}},
		{"audited", pod("audited"), false, map[string]string{"enforce-policy": "privileged:latest", "audit-violations": violations}},
		{"refused", pod("refused"), true, map[string]string{"enforce-policy": "baseline:latest", "audit-violations": violations}},
		{"wrong_label", pod("wrong"), true, map[string]string{"enforce-policy": "restricted:latest", "error": "Failed to parse policy: metadata.labels[pod-security.kubernetes.io/enforce]"}},
		{"open_deployment", deployment("open"), false, map[string]string{}},
		{"audited_deployment", deployment("audited"), false, map[string]string{"audit-violations": violations}},
	} {
		t.Run(c.name, func(t *testing.T) {
			objects := append(base(), labelled("open", nil), labelled("audited", map[string]string{prefix + "audit": "baseline"}),
				labelled("refused", map[string]string{prefix + "enforce": "baseline", prefix + "audit": "baseline"}),
				labelled("wrong", map[string]string{prefix + "enforce": "strict"}))
			for _, ns := range []string{"open", "audited", "refused", "wrong"} {
				objects = append(objects, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "default"}})
			}
			chain, _ := chainFor(t, objects...)
			a := annotations{c.w.attributes(), map[string]string{}}
			err := chain.Admit(t.Context(), a, nil)
			if err == nil {
				err = chain.Validate(t.Context(), a, nil)
			}
			if (err != nil) != c.denied {
				t.Errorf("got %v", err)
			}
			want := map[string]string{}
			for key, text := range c.want {
				want[prefix+key] = text
			}
			if diff := cmp.Diff(want, a.said, cmp.Comparer(func(x, y string) bool {
				return x == y || x != "" && y != "" && (strings.HasPrefix(x, y) || strings.HasPrefix(y, x))
			})); diff != "" {
				t.Error(diff)
			}
		})
	}
}
