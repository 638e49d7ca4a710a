package core

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

// TestSmallKinds validates creates of the kinds that are little more than their data.
func TestSmallKinds(t *testing.T) {
	big := strings.Repeat("x", 1<<20)
	configMap, secret, namespace, node, endpoints := ConfigMap(), Secret(), Namespace(), Node(), Endpoints()
	rc, template, pv, pvc := ReplicationController(), PodTemplate(), PersistentVolume(), PersistentVolumeClaim()
	for _, test := range []struct {
		name     string
		row      registry.Resource
		obj      store.Object
		manifest string
		want     string
	}{
		{"configmap", configMap, &corev1.ConfigMap{}, `{metadata: {name: a, namespace: n}, data: {a.b-c_D: x}}`, ""},
		{"configmap_key", configMap, &corev1.ConfigMap{}, `{metadata: {name: a, namespace: n}, data: {"a b": x}}`, `data[a b]: Invalid value: "a b": a valid config key must consist of alphanumeric characters`},
		{"configmap_both", configMap, &corev1.ConfigMap{}, `{metadata: {name: a, namespace: n}, data: {k: x}, binaryData: {k: eA==}}`, "data[k]: Invalid value: \"k\": duplicate of key present in binaryData"},
		{"configmap_big", configMap, &corev1.ConfigMap{}, `{metadata: {name: a, namespace: n}, data: {k: x` + big + `}}`, "Too long: may not be more than 1048576 bytes"},
		{"configmap_name", configMap, &corev1.ConfigMap{}, `{metadata: {name: A, namespace: n}}`, `metadata.name: Invalid value: "A"`},
		{"secret", secret, &corev1.Secret{}, `{metadata: {name: a, namespace: n}, stringData: {k: v}}`, ""},
		{"secret_tls", secret, &corev1.Secret{}, `{metadata: {name: a, namespace: n}, type: kubernetes.io/tls, data: {tls.crt: eA==}}`, "data[tls.key]: Required value"},
		{"secret_docker", secret, &corev1.Secret{}, `{metadata: {name: a, namespace: n}, type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: x}}`, `data[.dockerconfigjson]: Invalid value: "<secret contents redacted>"`},
		{"secret_token", secret, &corev1.Secret{}, `{metadata: {name: a, namespace: n}, type: kubernetes.io/service-account-token}`, "metadata.annotations[kubernetes.io/service-account.name]: Required value"},
		{"secret_big", secret, &corev1.Secret{}, `{metadata: {name: a, namespace: n}, stringData: {k: x` + big + `}}`, "data: Too long"},
		{"namespace", namespace, &corev1.Namespace{}, `{metadata: {name: a}}`, ""},
		{"namespace_name", namespace, &corev1.Namespace{}, `{metadata: {name: a.b}}`, "must not contain dots"},
		{"namespace_finalizer", namespace, &corev1.Namespace{}, `{metadata: {name: a}, spec: {finalizers: [mine]}}`, "name is neither a standard finalizer name nor is it fully qualified"},
		{"node", node, &corev1.Node{}, `{metadata: {name: a}, spec: {podCIDR: 10.42.1.0/24, taints: [{key: k, effect: NoSchedule}]}}`, ""},
		{"node_cidr", node, &corev1.Node{}, `{metadata: {name: a}, spec: {podCIDRs: [nope]}}`, "spec.podCIDRs[0]: Invalid value: \"nope\""},
		{"node_taint", node, &corev1.Node{}, `{metadata: {name: a}, spec: {taints: [{key: k, effect: Sometimes}]}}`, `spec.taints[0].effect: Unsupported value: "Sometimes"`},
		{"node_taint_twice", node, &corev1.Node{}, `{metadata: {name: a}, spec: {taints: [{key: k, effect: NoSchedule}, {key: k, effect: NoSchedule, value: v}]}}`, "taints must be unique by key and effect pair"},
		{"node_capacity", node, &corev1.Node{}, `{metadata: {name: a}, status: {capacity: {pods: "1.5"}}}`, "must be an integer"},
		{"endpoints", endpoints, &corev1.Endpoints{}, `{metadata: {name: a, namespace: n}, subsets: [{addresses: [{ip: 10.0.0.1}], ports: [{port: 80}]}]}`, ""},
		{"endpoints_empty_subset", endpoints, &corev1.Endpoints{}, `{metadata: {name: a, namespace: n}, subsets: [{}]}`, "must specify `addresses` or `notReadyAddresses`"},
		{"endpoints_port_names", endpoints, &corev1.Endpoints{}, `{metadata: {name: a, namespace: n}, subsets: [{addresses: [{ip: 10.0.0.1}], ports: [{port: 80}, {port: 81}]}]}`, "subsets[0].ports[0].name: Required value"},
		{"endpoints_loopback", endpoints, &corev1.Endpoints{}, `{metadata: {name: a, namespace: n}, subsets: [{addresses: [{ip: 127.0.0.1}]}]}`, "may not be in the loopback range"},
		{"rc", rc, &corev1.ReplicationController{}, `{metadata: {name: a, namespace: n}, spec: {template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}`, ""},
		{"rc_selector", rc, &corev1.ReplicationController{}, `{metadata: {name: a, namespace: n}, spec: {selector: {a: c}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}`, "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"},
		{"rc_no_template", rc, &corev1.ReplicationController{}, `{metadata: {name: a, namespace: n}, spec: {selector: {a: c}}}`, "spec.template: Required value"},
		{"rc_no_selector", rc, &corev1.ReplicationController{}, `{metadata: {name: a, namespace: n}, spec: {template: {spec: {containers: [{name: c, image: i}]}}}}`, "spec.selector: Required value"},
		{"rc_restart", rc, &corev1.ReplicationController{}, `{metadata: {name: a, namespace: n}, spec: {template: {metadata: {labels: {a: b}}, spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}`, `spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"`},
		{"template", template, &corev1.PodTemplate{}, `{metadata: {name: a, namespace: n}, template: {spec: {containers: [{name: c, image: i}]}}}`, ""},
		{"template_spec", template, &corev1.PodTemplate{}, `{metadata: {name: a, namespace: n}}`, "template.spec.containers: Required value"},
		{"pv", pv, &corev1.PersistentVolume{}, `{metadata: {name: a}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], hostPath: {path: /d}}}`, ""},
		{"pv_empty", pv, &corev1.PersistentVolume{}, `{metadata: {name: a}}`, "spec: Required value: must specify a volume type"},
		{"pv_modes", pv, &corev1.PersistentVolume{}, `{metadata: {name: a}, spec: {accessModes: [Sometimes], capacity: {storage: 1}, hostPath: {path: /d}}}`, `spec.accessModes: Unsupported value: "Sometimes": supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"`},
		{"pv_two", pv, &corev1.PersistentVolume{}, `{metadata: {name: a}, spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1}, hostPath: {path: /d}, nfs: {server: s, path: /}}}`, "spec.nfs: Forbidden: may not specify more than 1 volume type"},
		{"pv_local", pv, &corev1.PersistentVolume{}, `{metadata: {name: a}, spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1}, local: {path: /d}}}`, "spec.nodeAffinity: Required value: Local volume requires node affinity"},
		{"pv_capacity", pv, &corev1.PersistentVolume{}, `{metadata: {name: a}, spec: {accessModes: [ReadWriteOnce], capacity: {storage: 0}, hostPath: {path: /d}}}`, `spec.capacity[storage]: Invalid value: "0": must be greater than zero`},
		{"pv_csi", pv, &corev1.PersistentVolume{}, `{metadata: {name: a}, spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1}, csi: {driver: d}}}`, "spec.csi.volumeHandle: Required value"},
		{"pv_reclaim", pv, &corev1.PersistentVolume{}, `{metadata: {name: a}, spec: {persistentVolumeReclaimPolicy: Burn, accessModes: [ReadWriteOnce], capacity: {storage: 1}, hostPath: {path: /d}}}`, `persistentVolumeReclaimPolicy: Unsupported value: "Burn": supported values: "Delete", "Recycle", "Retain"`},
		{"pvc", pvc, &corev1.PersistentVolumeClaim{}, `{metadata: {name: a, namespace: n}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}`, ""},
		{"pvc_modes", pvc, &corev1.PersistentVolumeClaim{}, `{metadata: {name: a, namespace: n}, spec: {resources: {requests: {storage: 1Gi}}}}`, "spec.accessModes: Required value: at least 1 access mode is required"},
		{"pvc_storage", pvc, &corev1.PersistentVolumeClaim{}, `{metadata: {name: a, namespace: n}, spec: {accessModes: [ReadWriteOnce]}}`, "spec.resources[storage]: Required value"},
		{"pvc_pod_mode", pvc, &corev1.PersistentVolumeClaim{}, `{metadata: {name: a, namespace: n}, spec: {accessModes: [ReadWriteOnce, ReadWriteOncePod], resources: {requests: {storage: 1Gi}}}}`, "may not use ReadWriteOncePod with other access modes"},
		{"pvc_source", pvc, &corev1.PersistentVolumeClaim{}, `{metadata: {name: a, namespace: n}, spec: {dataSourceRef: {kind: Secret, name: s}, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}`, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := yaml.UnmarshalStrict([]byte(test.manifest), test.obj); err != nil {
				t.Fatal(err)
			}
			if test.row.Default != nil {
				test.row.Default(test.obj)
			}
			errs := test.row.Strategy.Validate(t.Context(), test.obj)
			if test.want == "" && len(errs) > 0 {
				t.Errorf("refused: %v", errs)
			}
			if test.want != "" && !hasError(errs, test.want) {
				t.Errorf("want %s\ngot  %v", test.want, errs)
			}
		})
	}
}

func TestImmutable(t *testing.T) {
	meta := metav1.ObjectMeta{Name: "a", Namespace: "n", ResourceVersion: "1"}
	oldMap := &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"k": "v"}, Immutable: ptr(true)}
	newMap := oldMap.DeepCopy()
	newMap.Data["k"], newMap.Immutable = "w", nil
	errs := ConfigMap().Strategy.ValidateUpdate(t.Context(), newMap, oldMap)
	if !hasError(errs, "data: Forbidden: field is immutable when `immutable` is set") || !hasError(errs, "immutable: Forbidden") {
		t.Errorf("configmap: %v", errs)
	}
	labelled := oldMap.DeepCopy()
	labelled.Labels = map[string]string{"a": "b"}
	if errs := ConfigMap().Strategy.ValidateUpdate(t.Context(), labelled, oldMap); len(errs) > 0 {
		t.Errorf("labels of an immutable configmap: %v", errs)
	}
	oldSecret := &corev1.Secret{ObjectMeta: meta, Type: "Opaque", Data: map[string][]byte{"k": []byte("v")}}
	newSecret := oldSecret.DeepCopy()
	newSecret.Type = corev1.SecretTypeSSHAuth
	if errs := Secret().Strategy.ValidateUpdate(t.Context(), newSecret, oldSecret); !hasError(errs, `type: Invalid value: "kubernetes.io/ssh-auth": field is immutable`) {
		t.Errorf("secret: %v", errs)
	}
}

func TestNodeUpdate(t *testing.T) {
	old := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", ResourceVersion: "1"}, Spec: corev1.NodeSpec{PodCIDR: "10.42.0.0/24", PodCIDRs: []string{"10.42.0.0/24"}, ProviderID: "x"}}
	for _, test := range []struct {
		name   string
		change func(*corev1.Node)
		want   string
	}{
		{"cordon", func(n *corev1.Node) { n.Spec.Unschedulable = true }, ""},
		{"taint", func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: "NoExecute"}} }, ""},
		{"cidr", func(n *corev1.Node) { n.Spec.PodCIDR, n.Spec.PodCIDRs = "10.42.1.0/24", []string{"10.42.1.0/24"} }, `node updates may not change podCIDR except from "" to valid`},
		{"provider", func(n *corev1.Node) { n.Spec.ProviderID = "y" }, `node updates may not change providerID except from "" to valid`},
		{"external", func(n *corev1.Node) { n.Spec.DoNotUseExternalID = "z" }, "node updates may only change labels, taints, or capacity"},
		{"addresses", func(n *corev1.Node) {
			n.Status.Addresses = []corev1.NodeAddress{{Type: "InternalIP", Address: "a"}, {Type: "InternalIP", Address: "a"}}
		}, "status.addresses[1]: Duplicate value"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := old.DeepCopy()
			test.change(n)
			errs := validateNodeUpdate(n, old)
			if (test.want == "") != (len(errs) == 0) || (test.want != "" && !hasError(errs, test.want)) {
				t.Errorf("want %q, got %v", test.want, errs)
			}
		})
	}
}

func TestNodeCells(t *testing.T) {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"node-role.kubernetes.io/control-plane": "", "node-role.kubernetes.io/a": "", "kubernetes.io/role": "z"}},
		Spec:       corev1.NodeSpec{Unschedulable: true},
		Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: "Ready", Status: "True"}},
			Addresses:  []corev1.NodeAddress{{Type: "Hostname", Address: "n"}, {Type: "InternalIP", Address: "192.0.2.1"}},
			NodeInfo:   corev1.NodeSystemInfo{KubeletVersion: "v1", OSImage: "Debian"},
		},
	}
	cells := nodeCells(n)
	for i, want := range map[int]any{1: "Ready,SchedulingDisabled", 2: "a,control-plane,z", 4: "v1", 5: "192.0.2.1", 6: "<none>", 7: "Debian", 8: "<unknown>"} {
		if cells[i] != want {
			t.Errorf("cell %d is %v, want %v", i, cells[i], want)
		}
	}
	if cells := nodeCells(&corev1.Node{}); cells[1] != "Unknown" || cells[2] != "<none>" {
		t.Errorf("%v", cells)
	}
}

func TestServiceCells(t *testing.T) {
	for _, test := range []struct{ name, spec, clusterIP, external, ports string }{
		{"clusterIP", `{type: ClusterIP, clusterIP: 10.43.0.1, clusterIPs: [10.43.0.1], ports: [{port: 80, protocol: TCP}, {port: 53, protocol: UDP}]}`, "10.43.0.1", "<none>", "80/TCP,53/UDP"},
		{"headless", `{type: ClusterIP, clusterIP: None, clusterIPs: [None]}`, "None", "<none>", "<none>"},
		{"nodePort", `{type: NodePort, clusterIPs: [10.43.0.1], externalIPs: [192.0.2.1], ports: [{port: 80, nodePort: 30000, protocol: TCP}]}`, "10.43.0.1", "192.0.2.1", "80:30000/TCP"},
		{"pending", `{type: LoadBalancer, clusterIPs: [10.43.0.1]}`, "10.43.0.1", "<pending>", "<none>"},
		{"external", `{type: ExternalName, externalName: example.com}`, "<none>", "example.com", "<none>"},
	} {
		s := parseService(t, `{metadata: {name: s}, spec: `+test.spec+`}`)
		cells := serviceCells(s)
		if cells[2] != test.clusterIP || cells[3] != test.external || cells[4] != test.ports {
			t.Errorf("%s: %v", test.name, cells)
		}
	}
}

func TestEndpointsCell(t *testing.T) {
	e := &corev1.Endpoints{}
	if got := endpointsCell(e.Subsets); got != "<none>" {
		t.Errorf("none: %s", got)
	}
	var addresses []corev1.EndpointAddress
	for _, ip := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"} {
		addresses = append(addresses, corev1.EndpointAddress{IP: ip})
	}
	e.Subsets = []corev1.EndpointSubset{{Addresses: addresses, Ports: []corev1.EndpointPort{{Port: 80}}}}
	if got := endpointsCell(e.Subsets); got != "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more..." {
		t.Errorf("five: %s", got)
	}
}

func TestPodStatusUpdate(t *testing.T) {
	old := goodPod(t)
	old.ResourceVersion = "1"
	old.Spec.RestartPolicy = corev1.RestartPolicyNever
	old.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}
	pod := old.DeepCopy()
	pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	if errs := validatePodStatusUpdate(pod, old); !hasError(errs, "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state") {
		t.Errorf("%v", errs)
	}
	row := Pod(registry.Deps{})
	pod = old.DeepCopy()
	pod.Spec.NodeName = "elsewhere"
	pod.Status.Phase = corev1.PodRunning
	row.Status.PrepareForUpdate(t.Context(), pod, old)
	if pod.Spec.NodeName != "" || pod.Status.Phase != corev1.PodRunning {
		t.Error("a status update changes the status and nothing else")
	}
	row.Strategy.PrepareForUpdate(t.Context(), pod, old)
	if pod.Status.Phase != corev1.PodPending {
		t.Error("an update leaves the status alone")
	}
}

func TestEphemeralContainers(t *testing.T) {
	old := goodPod(t)
	old.ResourceVersion = "1"
	with := func(containers ...corev1.EphemeralContainer) field.ErrorList {
		pod := old.DeepCopy()
		pod.Spec.EphemeralContainers = containers
		pod.Spec.NodeName = "ignored"
		view := Pod(registry.Deps{}).Subresources
		for _, sub := range view {
			if sub.Name == "ephemeralcontainers" {
				defaultPod(pod)
				sub.Strategy.PrepareForUpdate(t.Context(), pod, old)
				if pod.Spec.NodeName != "" {
					t.Error("more than the ephemeral containers got through")
				}
				return sub.Strategy.ValidateUpdate(t.Context(), pod, old)
			}
		}
		t.Fatal("no such subresource")
		return nil
	}
	debugger := corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "busybox:1"}}
	if errs := with(debugger); len(errs) > 0 {
		t.Errorf("a debug container is refused: %v", errs)
	}
	port := debugger
	port.Ports = []corev1.ContainerPort{{ContainerPort: 1}}
	if errs := with(port); !hasError(errs, "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container") {
		t.Errorf("%v", errs)
	}
	old.Spec.EphemeralContainers = []corev1.EphemeralContainer{debugger}
	defaultPod(old)
	if errs := with(); !hasError(errs, `existing ephemeral containers "debug" may not be removed`) {
		t.Errorf("%v", errs)
	}
	changed := debugger
	changed.Image = "other:1"
	if errs := with(changed); !hasError(errs, `existing ephemeral containers "debug" may not be changed`) {
		t.Errorf("%v", errs)
	}
}
