package apiserver_test

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	"github.com/mini-k8s/mini/apiserver"
)

// TestFirstObjects: a server that is ready has made what every cluster starts with.
func TestFirstObjects(t *testing.T) {
	c := start(t)
	cidr, err := c.client.NetworkingV1().ServiceCIDRs().Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !meta.IsStatusConditionTrue(cidr.Status.Conditions, networkingv1.ServiceCIDRConditionReady) || len(cidr.Spec.CIDRs) != 1 || cidr.Spec.CIDRs[0] != "10.43.0.0/16" {
		t.Errorf("%+v", cidr)
	}
	for name, value := range map[string]int32{"system-node-critical": 2000001000, "system-cluster-critical": 2000000000} {
		class, err := c.client.SchedulingV1().PriorityClasses().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || class.Value != value || *class.PreemptionPolicy != "PreemptLowerPriority" {
			t.Errorf("%s: %v %+v", name, err, class)
			continue
		}
		class.Value = 1
		if _, err := c.client.SchedulingV1().PriorityClasses().Update(t.Context(), class, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
			t.Errorf("the value of %s could be changed: %v", name, err)
		}
	}
	flow := c.client.FlowcontrolV1()
	eventually(t, "the flow schemas and priority levels are made", func() bool {
		schemas, err := flow.FlowSchemas().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		levels, err := flow.PriorityLevelConfigurations().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return len(schemas.Items) == len(bootstrap.MandatoryFlowSchemas)+len(bootstrap.SuggestedFlowSchemas) &&
			len(levels.Items) == len(bootstrap.MandatoryPriorityLevelConfigurations)+len(bootstrap.SuggestedPriorityLevelConfigurations)
	})
	if err := flow.FlowSchemas().Delete(t.Context(), "catch-all", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a flow schema that was deleted comes back", func() bool {
		_, err := flow.FlowSchemas().Get(t.Context(), "catch-all", metav1.GetOptions{})
		return err == nil
	})
	dangling := func(name string) string {
		schema, err := flow.FlowSchemas().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range schema.Status.Conditions {
			if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
				return string(c.Status) + " " + c.Reason
			}
		}
		return ""
	}
	own := &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: "own"}, Spec: flowcontrolv1.FlowSchemaSpec{
		MatchingPrecedence: 1000, PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "mine"},
	}}
	if _, err := flow.FlowSchemas().Create(t.Context(), own, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "schemas know whether their level is there", func() bool {
		return dangling("own") == "True NotFound" && dangling("catch-all") == "False Found"
	})
	level := &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "mine"}, Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
		Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject}},
	}}
	if _, err := flow.PriorityLevelConfigurations().Create(t.Context(), level, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a schema's level has come", func() bool { return dangling("own") == "False Found" })
	if err := flow.PriorityLevelConfigurations().Delete(t.Context(), "mine", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a schema's level has gone", func() bool { return dangling("own") == "True NotFound" })
	eventually(t, "built-in groups have their APIServices", func() bool {
		body, err := c.client.Discovery().RESTClient().Get().AbsPath("/apis/apiregistration.k8s.io/v1/apiservices/v1.apps").DoRaw(t.Context())
		return err == nil && bytes.Contains(body, []byte(`"Local APIServices are always available"`))
	})
}

// TestServiceCIDRs: when the server's own range is full, a Service gets an address of a ServiceCIDR that has become Ready;
// the server's own is made anew when it is deleted.
func TestServiceCIDRs(t *testing.T) {
	c := start(t, func(config *apiserver.Config) {
		config.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.43.0.0/30")}
	})
	create := func(name string) (*corev1.Service, error) {
		return c.client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
		}, metav1.CreateOptions{})
	}
	if s, err := create("a"); err != nil || s.Spec.ClusterIP != "10.43.0.2" { // the first is the kubernetes Service's
		t.Fatal(s, err)
	}
	if s, err := create("b"); err == nil || !strings.Contains(err.Error(), "range is full") {
		t.Fatal(s, err)
	}
	cidrs := c.client.NetworkingV1().ServiceCIDRs()
	second, err := cidrs.Create(t.Context(), &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: "second"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.50.0.0/30"}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if s, err := create("b"); err == nil {
		t.Fatalf("%s of a range that is not ready", s.Spec.ClusterIP)
	}
	second.Status.Conditions = []metav1.Condition{{Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Reason: "Test", LastTransitionTime: metav1.Now()}}
	if _, err := cidrs.UpdateStatus(t.Context(), second, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	s, err := create("b")
	if err != nil || !strings.HasPrefix(s.Spec.ClusterIP, "10.50.0.") {
		t.Fatal(s, err)
	}
	ip, err := c.client.NetworkingV1().IPAddresses().Get(t.Context(), s.Spec.ClusterIP, metav1.GetOptions{})
	if err != nil || ip.Spec.ParentRef.Name != "b" {
		t.Error(ip, err)
	}
	first, err := cidrs.Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := cidrs.Delete(t.Context(), "kubernetes", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server's own ServiceCIDR comes back", func() bool {
		again, err := cidrs.Get(t.Context(), "kubernetes", metav1.GetOptions{})
		return err == nil && again.UID != first.UID && meta.IsStatusConditionTrue(again.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
	})
}
