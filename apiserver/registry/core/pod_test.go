package core

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

func ptr[T any](v T) *T { return &v }

// parsePod reads a pod and takes it through what a create does before validation.
func parsePod(t *testing.T, manifest string) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{}
	if err := yaml.UnmarshalStrict([]byte(manifest), pod); err != nil {
		t.Fatal(err)
	}
	defaultPod(pod)
	preparePod(pod)
	return pod
}

func goodPod(t *testing.T) *corev1.Pod {
	return parsePod(t, `
metadata: {name: web, namespace: default, labels: {app: web}}
spec:
  initContainers:
  - {name: setup, image: "busybox:1.36"}
  - {name: proxy, image: "envoy:v1", restartPolicy: Always}
  containers:
  - name: web
    image: nginx
    ports: [{name: http, containerPort: 80}]
    env:
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    resources: {limits: {cpu: "1", memory: 64Mi}}
    readinessProbe: {httpGet: {port: http}}
    volumeMounts: [{name: data, mountPath: /data}, {name: cfg, mountPath: /cfg}]
  volumes:
  - {name: data}
  - {name: cfg, configMap: {name: cfg}}
`)
}

// hasError reports whether errs holds an error whose text contains want.
func hasError(errs field.ErrorList, want string) bool {
	for _, err := range errs {
		if strings.Contains(err.Error(), want) {
			return true
		}
	}
	return false
}

func TestPodDefaults(t *testing.T) {
	pod := goodPod(t)
	c := pod.Spec.Containers[0]
	for _, check := range []struct {
		name      string
		got, want any
	}{
		{"restartPolicy", pod.Spec.RestartPolicy, corev1.RestartPolicyAlways},
		{"dnsPolicy", pod.Spec.DNSPolicy, corev1.DNSClusterFirst},
		{"schedulerName", pod.Spec.SchedulerName, "default-scheduler"},
		{"grace", *pod.Spec.TerminationGracePeriodSeconds, int64(30)},
		{"serviceLinks", *pod.Spec.EnableServiceLinks, true},
		{"securityContext", pod.Spec.SecurityContext != nil, true},
		{"pull_untagged", c.ImagePullPolicy, corev1.PullAlways},
		{"pull_tagged", pod.Spec.InitContainers[0].ImagePullPolicy, corev1.PullIfNotPresent},
		{"protocol", c.Ports[0].Protocol, corev1.ProtocolTCP},
		{"hostPort", c.Ports[0].HostPort, int32(0)},
		{"terminationMessagePath", c.TerminationMessagePath, "/dev/termination-log"},
		{"fieldRef", c.Env[0].ValueFrom.FieldRef.APIVersion, "v1"},
		{"request", c.Resources.Requests.Cpu().String(), "1"},
		{"probe_path", c.ReadinessProbe.HTTPGet.Path, "/"},
		{"probe_scheme", c.ReadinessProbe.HTTPGet.Scheme, corev1.URISchemeHTTP},
		{"probe_period", c.ReadinessProbe.PeriodSeconds, int32(10)},
		{"probe_timeout", c.ReadinessProbe.TimeoutSeconds, int32(1)},
		{"probe_failures", c.ReadinessProbe.FailureThreshold, int32(3)},
		{"emptyDir", pod.Spec.Volumes[0].EmptyDir != nil, true},
		{"mode", *pod.Spec.Volumes[1].ConfigMap.DefaultMode, int32(0o644)},
		{"phase", pod.Status.Phase, corev1.PodPending},
		{"qos", pod.Status.QOSClass, corev1.PodQOSBurstable},
		{"generation", pod.Generation, int64(1)},
	} {
		if check.got != check.want {
			t.Errorf("%s: got %v, want %v", check.name, check.got, check.want)
		}
	}
	hasty := pod.DeepCopy()
	hasty.Spec.TerminationGracePeriodSeconds = ptr(int64(-3))
	defaultPod(hasty)
	if got := *hasty.Spec.TerminationGracePeriodSeconds; got != 1 {
		t.Errorf("a negative grace period became %d", got)
	}
	again := pod.DeepCopy()
	defaultPod(again)
	if !equalJSON(t, pod, again) {
		t.Error("defaulting twice changes the pod")
	}
}

func equalJSON(t *testing.T, a, b any) bool {
	t.Helper()
	x, err1 := yaml.Marshal(a)
	y, err2 := yaml.Marshal(b)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return string(x) == string(y)
}

func TestHostNetworkPorts(t *testing.T) {
	pod := parsePod(t, `{metadata: {name: a, namespace: b}, spec: {hostNetwork: true, containers: [{name: c, image: d, ports: [{containerPort: 80}]}]}}`)
	if got := pod.Spec.Containers[0].Ports[0].HostPort; got != 80 {
		t.Errorf("hostPort %d, want the container's 80", got)
	}
}

func TestPullPolicy(t *testing.T) {
	for image, want := range map[string]corev1.PullPolicy{
		"nginx":                                  corev1.PullAlways,
		"nginx:latest":                           corev1.PullAlways,
		"nginx:1.27":                             corev1.PullIfNotPresent,
		"registry.example:5000/nginx":            corev1.PullAlways,
		"registry.example:5000/nginx:v1":         corev1.PullIfNotPresent,
		"nginx@sha256:" + strings.Repeat("a", 8): corev1.PullIfNotPresent,
		"nginx:latest@sha256:abc":                corev1.PullAlways,
	} {
		if got := pullPolicy(image); got != want {
			t.Errorf("%s: %s, want %s", image, got, want)
		}
	}
}

func TestPodValidation(t *testing.T) {
	if errs := validatePod(goodPod(t)); len(errs) > 0 {
		t.Fatalf("a good pod is refused: %v", errs)
	}
	main := func(p *corev1.Pod) *corev1.Container { return &p.Spec.Containers[0] }
	for _, test := range []struct {
		name  string
		spoil func(*corev1.Pod)
		want  string
	}{
		{"name", func(p *corev1.Pod) { p.Name = "Web" }, `metadata.name: Invalid value: "Web": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters`},
		{"no_containers", func(p *corev1.Pod) { p.Spec.Containers = nil }, "spec.containers: Required value"},
		{"no_image", func(p *corev1.Pod) { main(p).Image = "" }, "spec.containers[0].image: Required value"},
		{"image_space", func(p *corev1.Pod) { main(p).Image = " a" }, `must not have leading or trailing whitespace`},
		{"container_name", func(p *corev1.Pod) { main(p).Name = "a_b" }, `spec.containers[0].name: Invalid value: "a_b": a lowercase RFC 1123 label`},
		{"duplicate_name", func(p *corev1.Pod) { p.Spec.InitContainers[0].Name = "web" }, `spec.initContainers[0].name: Duplicate value: "web"`},
		{"restartPolicy", func(p *corev1.Pod) { p.Spec.RestartPolicy = "Sometimes" }, `spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"`},
		{"dnsPolicy", func(p *corev1.Pod) { p.Spec.DNSPolicy = "X" }, `spec.dnsPolicy: Unsupported value: "X"`},
		{"dnsNone", func(p *corev1.Pod) { p.Spec.DNSPolicy = "None" }, "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"},
		{"pullPolicy", func(p *corev1.Pod) { main(p).ImagePullPolicy = "Often" }, `spec.containers[0].imagePullPolicy: Unsupported value: "Often": supported values: "Always", "IfNotPresent", "Never"`},
		{"port_zero", func(p *corev1.Pod) { main(p).Ports[0].ContainerPort = 0 }, "spec.containers[0].ports[0].containerPort: Required value"},
		{"port_big", func(p *corev1.Pod) { main(p).Ports[0].ContainerPort = 70000 }, "must be between 1 and 65535, inclusive"},
		{"port_protocol", func(p *corev1.Pod) { main(p).Ports[0].Protocol = "tcp" }, `ports[0].protocol: Unsupported value: "tcp": supported values: "SCTP", "TCP", "UDP"`},
		{"hostPort_twice", func(p *corev1.Pod) {
			main(p).Ports = []corev1.ContainerPort{{ContainerPort: 1, HostPort: 9, Protocol: "TCP"}, {ContainerPort: 2, HostPort: 9, Protocol: "TCP"}}
		}, `spec.containers[0].ports[1].hostPort: Duplicate value: "TCP//9"`},
		{"env_name", func(p *corev1.Pod) { main(p).Env[0].Name = "" }, "spec.containers[0].env[0].name: Required value"},
		{"env_both", func(p *corev1.Pod) { main(p).Env[0].Value = "x" }, "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty"},
		{"env_field", func(p *corev1.Pod) { main(p).Env[0].ValueFrom.FieldRef.FieldPath = "spec.foo" }, `error converting fieldPath: field label not supported: spec.foo`},
		{"env_field_volume_only", func(p *corev1.Pod) { main(p).Env[0].ValueFrom.FieldRef.FieldPath = "metadata.labels" }, `fieldPath: Unsupported value: "metadata.labels"`},
		{"env_resource", func(p *corev1.Pod) { main(p).Env[1].ValueFrom.ResourceFieldRef.Resource = "limits.gpu" }, `resource: Unsupported value: "limits.gpu"`},
		{"mount_unknown", func(p *corev1.Pod) { main(p).VolumeMounts[0].Name = "nope" }, `spec.containers[0].volumeMounts[0].name: Not found: "nope"`},
		{"mount_twice", func(p *corev1.Pod) { main(p).VolumeMounts[1].MountPath = "/data" }, `spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/data": must be unique`},
		{"recursive_writable", func(p *corev1.Pod) {
			main(p).VolumeMounts[0].RecursiveReadOnly = ptr(corev1.RecursiveReadOnlyIfPossible)
		},
			`spec.containers[0].volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when readOnly is true`},
		{"recursive_propagated", func(p *corev1.Pod) {
			m := &main(p).VolumeMounts[0]
			m.ReadOnly, m.RecursiveReadOnly, m.MountPropagation = true, ptr(corev1.RecursiveReadOnlyEnabled), ptr(corev1.MountPropagationHostToContainer)
		}, `spec.containers[0].volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when mountPropagation is None or not specified`},
		{"device_of_mount", func(p *corev1.Pod) {
			main(p).VolumeDevices = []corev1.VolumeDevice{{Name: "data", DevicePath: "/dev/x"}}
		}, `spec.containers[0].volumeDevices[0].name: Invalid value: "data": must not already exist in volumeMounts`},
		{"mount_of_device", func(p *corev1.Pod) {
			main(p).VolumeDevices = []corev1.VolumeDevice{{Name: "data", DevicePath: "/dev/x"}}
		}, `spec.containers[0].volumeMounts[0].name: Invalid value: "data": must not already exist in volumeDevices`},
		{"device_at_mount", func(p *corev1.Pod) {
			main(p).VolumeDevices = []corev1.VolumeDevice{{Name: "x", DevicePath: "/data"}}
		}, `spec.containers[0].volumeDevices[0].devicePath: Invalid value: "/data": must not already exist as a path in volumeMounts`},
		{"device_backsteps", func(p *corev1.Pod) {
			main(p).VolumeDevices = []corev1.VolumeDevice{{Name: "x", DevicePath: "/dev/../x"}}
		}, `spec.containers[0].volumeDevices[0].devicePath: Invalid value: "/dev/../x": can not contain backsteps ('..')`},
		{"image_reference", func(p *corev1.Pod) {
			p.Spec.Volumes[0].VolumeSource = corev1.VolumeSource{Image: &corev1.ImageVolumeSource{PullPolicy: corev1.PullAlways}}
		}, `spec.volumes[0].image.reference: Required value`},
		{"subPath", func(p *corev1.Pod) { main(p).VolumeMounts[0].SubPath = "../x" }, "must not contain '..'"},
		{"request_above_limit", func(p *corev1.Pod) { main(p).Resources.Requests["cpu"] = resource.MustParse("2") }, `spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1`},
		{"negative", func(p *corev1.Pod) { main(p).Resources.Limits["memory"] = resource.MustParse("-1") }, `spec.containers[0].resources.limits[memory]: Invalid value: "-1": must be greater than or equal to 0`},
		{"resource_name", func(p *corev1.Pod) { main(p).Resources.Limits["disk"] = resource.MustParse("1") }, `must be a standard resource for containers`},
		{"probe_no_handler", func(p *corev1.Pod) { main(p).ReadinessProbe.HTTPGet = nil }, "spec.containers[0].readinessProbe: Required value: must specify a handler type"},
		{"probe_two_handlers", func(p *corev1.Pod) {
			main(p).ReadinessProbe.TCPSocket = &corev1.TCPSocketAction{Port: intstr.FromInt32(1)}
		}, "spec.containers[0].readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"},
		{"liveness_success", func(p *corev1.Pod) {
			main(p).LivenessProbe = main(p).ReadinessProbe.DeepCopy()
			main(p).LivenessProbe.SuccessThreshold = 2
		}, "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"},
		{"init_probe", func(p *corev1.Pod) { p.Spec.InitContainers[0].ReadinessProbe = main(p).ReadinessProbe }, "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always"},
		{"main_restart", func(p *corev1.Pod) { main(p).RestartPolicy = ptr(corev1.ContainerRestartPolicyAlways) }, "spec.containers[0].restartPolicy: Forbidden: may not be set for non-init containers"},
		{"volume_twice", func(p *corev1.Pod) { p.Spec.Volumes[1].Name = "data" }, `spec.volumes[1].name: Duplicate value: "data"`},
		{"volume_two_types", func(p *corev1.Pod) {
			p.Spec.Volumes[0].HostPath = &corev1.HostPathVolumeSource{Path: "/"}
		}, "may not specify more than 1 volume type"},
		{"volume_none", func(p *corev1.Pod) { p.Spec.Volumes[0].EmptyDir = nil }, "spec.volumes[0]: Required value: must specify a volume type"},
		{"configMap_name", func(p *corev1.Pod) { p.Spec.Volumes[1].ConfigMap.Name = "" }, "spec.volumes[1].configMap.name: Required value"},
		{"mode", func(p *corev1.Pod) { p.Spec.Volumes[1].ConfigMap.DefaultMode = ptr(int32(0o7777)) }, "spec.volumes[1].configMap.defaultMode: Invalid value: 4095: must be a number between 0 and 0777 (octal), both inclusive"},
		{"toleration", func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "a", Operator: "Exists", Value: "b"}}
		}, "value must be empty when `operator` is 'Exists'"},
		{"toleration_key", func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Value: "b"}} }, "operator must be Exists when `key` is empty"},
		{"affinity", func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{}}}
		}, "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term"},
		{"topologyKey", func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{}}}}
		}, "topologyKey: Required value: can not be empty"},
		{"spread", func(p *corev1.Pod) {
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{TopologyKey: "zone", WhenUnsatisfiable: "DoNotSchedule"}}
		}, "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero"},
		{"deadline", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr(int64(0)) }, "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"},
		{"gated_and_bound", func(p *corev1.Pod) {
			p.Spec.NodeName, p.Spec.SchedulingGates = "n", []corev1.PodSchedulingGate{{Name: "g"}}
		}, "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"},
		{"ephemeral", func(p *corev1.Pod) {
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{}}
		}, "spec.ephemeralContainers: Forbidden: cannot be set on create"},
		{"privilege", func(p *corev1.Pod) {
			main(p).SecurityContext = &corev1.SecurityContext{Privileged: ptr(true), AllowPrivilegeEscalation: ptr(false)}
		}, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"},
		{"hostUsers", func(p *corev1.Pod) { p.Spec.HostUsers = ptr(false) }, "spec.hostUsers: Forbidden: is not supported"},
		{"procMount", func(p *corev1.Pod) {
			main(p).SecurityContext = &corev1.SecurityContext{ProcMount: ptr(corev1.UnmaskedProcMount)}
		}, "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`"},
		{"user", func(p *corev1.Pod) { p.Spec.SecurityContext.RunAsUser = ptr(int64(-1)) }, "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive"},
		{"account", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "A" }, `spec.serviceAccountName: Invalid value: "A"`},
		{"hostAlias", func(p *corev1.Pod) { p.Spec.HostAliases = []corev1.HostAlias{{IP: "x"}} }, `spec.hostAliases[0].ip: Invalid value: "x": must be a valid IP address`},
		{"pullSecret", func(p *corev1.Pod) { p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{}} }, "spec.imagePullSecrets[0].name: Required value"},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := goodPod(t)
			test.spoil(pod)
			if errs := validatePod(pod); !hasError(errs, test.want) {
				t.Errorf("want %s\ngot  %v", test.want, errs)
			}
		})
	}
}

func TestPodUpdate(t *testing.T) {
	old := goodPod(t)
	old.ResourceVersion, old.UID = "1", "u"
	old.Spec.ActiveDeadlineSeconds = ptr(int64(100))
	old.Spec.Tolerations = []corev1.Toleration{{Key: "a", Operator: "Exists"}}
	for _, test := range []struct {
		name   string
		change func(*corev1.Pod)
		want   string // "" is allowed
	}{
		{"nothing", func(*corev1.Pod) {}, ""},
		{"image", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "nginx:2" }, ""},
		{"init_image", func(p *corev1.Pod) { p.Spec.InitContainers[0].Image = "b:2" }, ""},
		{"labels", func(p *corev1.Pod) { p.Labels = map[string]string{"x": "y"} }, ""},
		{"shorter_deadline", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr(int64(10)) }, ""},
		{"more_tolerations", func(p *corev1.Pod) {
			p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: "b", Operator: "Exists"})
		}, ""},
		{"longer_deadline", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr(int64(200)) }, "spec.activeDeadlineSeconds: Invalid value: 200: must be less than or equal to previous value"},
		{"no_deadline", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = nil }, "must not update from a positive integer to nil value"},
		{"fewer_tolerations", func(p *corev1.Pod) { p.Spec.Tolerations = nil }, "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"},
		{"more_containers", func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, p.Spec.Containers[0])
			p.Spec.Containers[1].Name = "other"
		}, "spec.containers: Forbidden: pod updates may not add or remove containers"},
		{"command", func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"sh"} }, "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"},
		{"node", func(p *corev1.Pod) { p.Spec.NodeName = "n" }, "pod updates may not change fields other than"},
		{"new_gate", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} }, "only deletion is allowed, but found new scheduling gate 'g'"},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := old.DeepCopy()
			test.change(pod)
			errs := validatePodUpdate(pod, old)
			if test.want == "" && len(errs) > 0 {
				t.Errorf("refused: %v", errs)
			}
			if test.want != "" && !hasError(errs, test.want) {
				t.Errorf("want %s\ngot  %v", test.want, errs)
			}
		})
	}
}

// TestUpdateOfInvalidPod: a pod that this server would not have accepted can still be changed in what is allowed.
func TestUpdateOfInvalidPod(t *testing.T) {
	old := goodPod(t)
	old.ResourceVersion = "1"
	old.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{StopSignal: ptr(corev1.Signal("SIGUSR1"))}
	if errs := validatePod(old); !hasError(errs, "stopSignal") {
		t.Fatalf("the test needs another field: %v", errs)
	}
	pod := old.DeepCopy()
	pod.Finalizers = []string{"example.com/f"}
	if errs := validatePodUpdate(pod, old); len(errs) > 0 {
		t.Errorf("refused: %v", errs)
	}
	pod.Spec.Containers[0].Image = " "
	if errs := validatePodUpdate(pod, old); !hasError(errs, "must not have leading or trailing whitespace") {
		t.Errorf("%v", errs)
	}
}

func TestGracePeriod(t *testing.T) {
	scheduled := func(p *corev1.Pod) { p.Spec.NodeName = "n" }
	for _, test := range []struct {
		name string
		set  func(*corev1.Pod)
		opts *int64
		want int64
	}{
		{"unscheduled_goes_at_once", func(*corev1.Pod) {}, nil, 0},
		{"unscheduled_ignores_override", func(*corev1.Pod) {}, ptr(int64(5)), 0},
		{"own_period", scheduled, nil, 30},
		{"override", scheduled, ptr(int64(5)), 5},
		{"override_now", scheduled, ptr(int64(0)), 0},
		{"negative_is_one", func(p *corev1.Pod) { scheduled(p); p.Spec.TerminationGracePeriodSeconds = ptr(int64(-3)) }, nil, 1},
		{"terminated_goes_at_once", func(p *corev1.Pod) { scheduled(p); p.Status.Phase = corev1.PodSucceeded }, nil, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := goodPod(t)
			test.set(pod)
			if got := graceful(pod, &metav1.DeleteOptions{GracePeriodSeconds: test.opts}); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
		})
	}
}

func TestQOS(t *testing.T) {
	for want, resources := range map[corev1.PodQOSClass]string{
		corev1.PodQOSBestEffort: `{}`,
		corev1.PodQOSBurstable:  `{requests: {cpu: 1m}}`,
		corev1.PodQOSGuaranteed: `{limits: {cpu: "1", memory: 1Gi}}`,
	} {
		pod := parsePod(t, `{metadata: {name: a, namespace: b}, spec: {containers: [{name: c, image: d, resources: `+resources+`}]}}`)
		if got := qosClass(pod); got != want {
			t.Errorf("%s: got %s, want %s", resources, got, want)
		}
	}
}

func TestPodCells(t *testing.T) {
	ago := metav1.NewTime(time.Now().Add(-5 * time.Minute))
	for _, test := range []struct {
		name                    string
		status                  string
		change                  func(*corev1.Pod)
		ready, reason, restarts string
	}{
		{name: "pending", status: `{phase: Pending}`, ready: "0/2", reason: "Pending", restarts: "0"},
		{name: "init_running", status: `{phase: Pending, initContainerStatuses: [{name: setup, state: {running: {}}}]}`, ready: "0/2", reason: "Init:0/2", restarts: "0"},
		{name: "init_failed", status: `{phase: Pending, initContainerStatuses: [{name: setup, restartCount: 2, state: {terminated: {exitCode: 3}}}]}`, ready: "0/2", reason: "Init:ExitCode:3", restarts: "2"},
		{name: "init_backoff", status: `{phase: Pending, initContainerStatuses: [{name: setup, restartCount: 2, state: {waiting: {reason: CrashLoopBackOff}}}]}`, ready: "0/2", reason: "Init:CrashLoopBackOff", restarts: "2"},
		{
			name: "running", ready: "2/2", reason: "Running", restarts: "0",
			status: `{phase: Running, initContainerStatuses: [{name: setup, state: {terminated: {exitCode: 0}}}, {name: proxy, ready: true, started: true, state: {running: {}}}], containerStatuses: [{name: web, ready: true, state: {running: {}}}]}`,
		},
		{
			name: "restarted", ready: "1/2", reason: "CrashLoopBackOff", restarts: "4 (5m ago)",
			status: `{phase: Running, initContainerStatuses: [{name: setup, state: {terminated: {exitCode: 0}}}, {name: proxy, ready: true, started: true, state: {running: {}}}], containerStatuses: [{name: web, restartCount: 4, state: {waiting: {reason: CrashLoopBackOff}}}]}`,
			change: func(p *corev1.Pod) {
				p.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{FinishedAt: ago}
			},
		},
		{name: "terminating", status: `{phase: Running, containerStatuses: [{name: web, ready: true, state: {running: {}}}]}`, ready: "1/2", reason: "Terminating", restarts: "0", change: func(p *corev1.Pod) { p.DeletionTimestamp = &ago }},
		{name: "lost", status: `{phase: Running, reason: NodeLost}`, ready: "0/2", reason: "Unknown", restarts: "0", change: func(p *corev1.Pod) { p.DeletionTimestamp = &ago }},
		{name: "evicted", status: `{phase: Failed, reason: Evicted}`, ready: "0/2", reason: "Evicted", restarts: "0"},
		{name: "completed", status: `{phase: Succeeded, containerStatuses: [{name: web, state: {terminated: {exitCode: 0, reason: Completed}}}]}`, ready: "0/2", reason: "Completed", restarts: "0"},
		{name: "signal", status: `{phase: Failed, containerStatuses: [{name: web, state: {terminated: {exitCode: 137, signal: 9}}}]}`, ready: "0/2", reason: "Signal:9", restarts: "0"},
		{name: "gated", status: `{phase: Pending, conditions: [{type: PodScheduled, status: "False", reason: SchedulingGated}]}`, ready: "0/2", reason: "SchedulingGated", restarts: "0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := goodPod(t)
			pod.Status = corev1.PodStatus{}
			if err := yaml.UnmarshalStrict([]byte(test.status), &pod.Status); err != nil {
				t.Fatal(err)
			}
			if test.change != nil {
				test.change(pod)
			}
			cells := podCells(pod)
			if cells[1] != test.ready || cells[2] != test.reason || cells[3] != test.restarts {
				t.Errorf("got %v %v %v, want %s %s %s", cells[1], cells[2], cells[3], test.ready, test.reason, test.restarts)
			}
		})
	}
}
