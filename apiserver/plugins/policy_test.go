package plugins

import (
	"context"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/mini-k8s/mini/apiserver/request"
)

// within tries until f is content: policies are compiled once a second.
func within(t *testing.T, what string, f func(ctx context.Context) (bool, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := f(ctx)
		if ok {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not after a minute: %v", what, err)
		case <-tick.C:
		}
	}
}

func matchResources(group, resource string) *admissionregistrationv1.MatchResources {
	return &admissionregistrationv1.MatchResources{
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"policed": "yes"}},
		ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
			Operations: []admissionregistrationv1.OperationType{"CREATE", "UPDATE"},
			Rule:       admissionregistrationv1.Rule{APIGroups: []string{group}, APIVersions: []string{"v1"}, Resources: []string{resource}},
		}}},
	}
}

func deploymentOf(name string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
	}}
}

func TestAdmissionPolicies(t *testing.T) {
	c := start(t)
	ctx := t.Context()
	if _, err := c.admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", Labels: map[string]string{"policed": "yes"}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.admin.CoreV1().ConfigMaps("ns").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "most"}, Data: map[string]string{"replicas": "5"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	api := c.admin.AdmissionregistrationV1()
	validating := &admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "few"},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			ParamKind: &admissionregistrationv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}, MatchConstraints: matchResources("apps", "deployments"),
			AuditAnnotations: []admissionregistrationv1.AuditAnnotation{{Key: "replicas", ValueExpression: "'wants ' + string(object.spec.replicas)"}},
			Variables:        []admissionregistrationv1.Variable{{Name: "most", Expression: "int(params.data.replicas)"}},
			MatchConditions:  []admissionregistrationv1.MatchCondition{{Name: "not-exempt", Expression: "!(has(object.metadata.labels) && 'exempt' in object.metadata.labels)"}},
			Validations: []admissionregistrationv1.Validation{{
				Expression: "object.spec.replicas <= variables.most", MessageExpression: "'at most ' + string(variables.most) + ' in ' + namespaceObject.metadata.name",
			}},
		},
	}
	if _, err := api.ValidatingAdmissionPolicies().Create(ctx, validating, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := api.ValidatingAdmissionPolicyBindings().Create(ctx, &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "few"},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: "few", ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny},
			ParamRef: &admissionregistrationv1.ParamRef{Name: "most", Namespace: "ns", ParameterNotFoundAction: ptr.To(admissionregistrationv1.DenyAction)},
		},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	create := func(d *appsv1.Deployment) (*appsv1.Deployment, error) {
		return c.admin.AppsV1().Deployments("ns").Create(ctx, d, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	}
	within(t, "a refusal", func(context.Context) (bool, error) {
		_, err := create(deploymentOf("many", 6))
		return apierrors.IsInvalid(err) && strings.Contains(err.Error(), "denied request: at most 5 in ns"), err
	})
	if _, err := create(deploymentOf("few", 5)); err != nil {
		t.Error(err)
	}
	if err := c.admin.AppsV1().RESTClient().Post().Namespace("ns").Resource("deployments").SetHeader("Audit-ID", "test-1").Param("dryRun", "All").
		Body(deploymentOf("few", 4)).Do(ctx).Error(); err != nil {
		t.Error(err)
	}
	if audit, ok := c.audits.Load("test-1"); !ok || audit.(*request.Audit).Annotations()["few/replicas"] != "wants 4" {
		t.Errorf("the audit log is told %v", audit)
	}
	exempt := deploymentOf("many", 6)
	exempt.Labels = map[string]string{"exempt": ""}
	if _, err := create(exempt); err != nil {
		t.Error(err)
	}
	if _, err := c.admin.AppsV1().Deployments("default").Create(ctx, deploymentOf("many", 6), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Error(err)
	}

	mutating := &admissionregistrationv1.MutatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "change"},
		Spec: admissionregistrationv1.MutatingAdmissionPolicySpec{
			MatchConstraints: matchResources("apps", "deployments"), ReinvocationPolicy: admissionregistrationv1.NeverReinvocationPolicy,
			Mutations: []admissionregistrationv1.Mutation{
				{PatchType: admissionregistrationv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionregistrationv1.ApplyConfiguration{Expression: "Object{spec: Object.spec{replicas: 3}}"}},
				{PatchType: admissionregistrationv1.PatchTypeJSONPatch, JSONPatch: &admissionregistrationv1.JSONPatch{Expression: "[JSONPatch{op: 'add', path: '/metadata/annotations', value: {'seen': 'yes'}}]"}},
			},
		},
	}
	if _, err := api.MutatingAdmissionPolicies().Create(ctx, mutating, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := api.MutatingAdmissionPolicyBindings().Create(ctx, &admissionregistrationv1.MutatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "change"}, Spec: admissionregistrationv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "change"},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	within(t, "a change", func(context.Context) (bool, error) {
		d, err := create(deploymentOf("many", 6))
		return err == nil && *d.Spec.Replicas == 3 && d.Annotations["seen"] == "yes" && d.Spec.Template.Spec.Containers[0].Image == "i", err
	})

	for _, err := range []error{
		api.MutatingAdmissionPolicyBindings().Delete(ctx, "change", metav1.DeleteOptions{}),
		api.ValidatingAdmissionPolicyBindings().Delete(ctx, "few", metav1.DeleteOptions{}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	within(t, "freedom", func(context.Context) (bool, error) {
		d, err := create(deploymentOf("many", 6))
		return err == nil && *d.Spec.Replicas == 6, err
	})
}
