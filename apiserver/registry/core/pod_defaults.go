package core

import (
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func set[T any](p **T, value T) {
	if *p == nil {
		*p = &value
	}
}

func fill[T ~string](p *T, value T) {
	if *p == "" {
		*p = value
	}
}

// defaultPod fills what a pod leaves open beyond its spec's own defaults: requests follow limits, pod and host IPs
// follow their lists, and a negative grace period is one second (in pods alone: a template keeps its own).
func defaultPod(pod *corev1.Pod) {
	if s := pod.Spec.TerminationGracePeriodSeconds; s != nil && *s < 0 {
		pod.Spec.TerminationGracePeriodSeconds = new(int64(1))
	}
	set(&pod.Spec.EnableServiceLinks, corev1.DefaultEnableServiceLinks)
	defaultRequests(pod.Spec.InitContainers)
	defaultRequests(pod.Spec.Containers)
	if r := pod.Spec.Resources; r != nil {
		defaultPodRequests(pod)
	}
	DefaultPodSpec(&pod.Spec)
	if pod.Spec.HostNetwork {
		defaultHostPorts(pod.Spec.Containers)
		defaultHostPorts(pod.Spec.InitContainers)
	}
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range list {
			defaultResources(list[i].AllocatedResources)
		}
	}
	switch {
	case pod.Status.PodIP != "" && (len(pod.Status.PodIPs) == 0 || pod.Status.PodIPs[0].IP != pod.Status.PodIP):
		pod.Status.PodIPs = []corev1.PodIP{{IP: pod.Status.PodIP}}
	case pod.Status.PodIP == "" && len(pod.Status.PodIPs) > 0:
		pod.Status.PodIP = pod.Status.PodIPs[0].IP
	}
	switch {
	case pod.Status.HostIP != "" && len(pod.Status.HostIPs) > 0 && pod.Status.HostIPs[0].IP != pod.Status.HostIP:
		pod.Status.HostIPs = []corev1.HostIP{{IP: pod.Status.HostIP}}
	case pod.Status.HostIP == "" && len(pod.Status.HostIPs) > 0:
		pod.Status.HostIP = pod.Status.HostIPs[0].IP
	}
}

// DefaultPod fills what a create of the pod would, for who makes a pod that does not come from the API.
func DefaultPod(pod *corev1.Pod) { defaultPod(pod) }

// DefaultPodTemplate fills the defaults of a workload's pod template. Requests and service links are left open there:
// the pod made from it gets them.
func DefaultPodTemplate(t *corev1.PodTemplateSpec) {
	DefaultPodSpec(&t.Spec)
	if t.Spec.HostNetwork {
		defaultHostPorts(t.Spec.Containers)
		defaultHostPorts(t.Spec.InitContainers)
	}
}

// DefaultPodSpec fills the defaults that a pod and a pod template have in common.
func DefaultPodSpec(spec *corev1.PodSpec) {
	fill(&spec.DNSPolicy, corev1.DNSClusterFirst)
	fill(&spec.RestartPolicy, corev1.RestartPolicyAlways)
	set(&spec.SecurityContext, corev1.PodSecurityContext{})
	set(&spec.TerminationGracePeriodSeconds, int64(corev1.DefaultTerminationGracePeriodSeconds))
	fill(&spec.SchedulerName, corev1.DefaultSchedulerName)
	// The older name of a field is kept in step with the newer one, for clients that read only one of them.
	if spec.ServiceAccountName == "" {
		spec.ServiceAccountName = spec.DeprecatedServiceAccount
	}
	spec.DeprecatedServiceAccount = spec.ServiceAccountName
	for i := range spec.Volumes {
		defaultVolume(&spec.Volumes[i])
	}
	for i := range spec.InitContainers {
		defaultContainer(&spec.InitContainers[i])
	}
	for i := range spec.Containers {
		defaultContainer(&spec.Containers[i])
	}
	for i := range spec.EphemeralContainers {
		c := corev1.Container(spec.EphemeralContainers[i].EphemeralContainerCommon)
		defaultContainer(&c)
		spec.EphemeralContainers[i].EphemeralContainerCommon = corev1.EphemeralContainerCommon(c)
	}
	defaultResources(spec.Overhead)
	if spec.Resources != nil {
		defaultResources(spec.Resources.Limits)
		defaultResources(spec.Resources.Requests)
	}
}

func defaultContainer(c *corev1.Container) {
	if c.ImagePullPolicy == "" {
		c.ImagePullPolicy = pullPolicy(c.Image)
	}
	fill(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	fill(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Ports {
		fill(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil && from.FieldRef != nil {
			fill(&from.FieldRef.APIVersion, "v1")
		}
		if from := c.Env[i].ValueFrom; from != nil && from.FileKeyRef != nil {
			set(&from.FileKeyRef.Optional, false)
		}
	}
	defaultResources(c.Resources.Limits)
	defaultResources(c.Resources.Requests)
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p != nil {
			defaultProbe(p)
		}
	}
	if c.Lifecycle != nil {
		for _, h := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil && h.HTTPGet != nil {
				defaultHTTPGet(h.HTTPGet)
			}
		}
	}
}

// pullPolicy is Always for an image whose tag may move: ":latest" or none at all, and no digest.
func pullPolicy(image string) corev1.PullPolicy {
	name, digest, _ := strings.Cut(image, "@")
	tag := ""
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		tag = name[i+1:]
	}
	if tag == "latest" || (tag == "" && digest == "") {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

func defaultProbe(p *corev1.Probe) {
	if p.TimeoutSeconds == 0 {
		p.TimeoutSeconds = 1
	}
	if p.PeriodSeconds == 0 {
		p.PeriodSeconds = 10
	}
	if p.SuccessThreshold == 0 {
		p.SuccessThreshold = 1
	}
	if p.FailureThreshold == 0 {
		p.FailureThreshold = 3
	}
	if p.HTTPGet != nil {
		defaultHTTPGet(p.HTTPGet)
	}
	if p.GRPC != nil {
		set(&p.GRPC.Service, "")
	}
}

func defaultHTTPGet(h *corev1.HTTPGetAction) {
	fill(&h.Path, "/")
	fill(&h.Scheme, corev1.URISchemeHTTP)
}

func defaultHostPorts(containers []corev1.Container) {
	for i := range containers {
		for j := range containers[i].Ports {
			if p := &containers[i].Ports[j]; p.HostPort == 0 {
				p.HostPort = p.ContainerPort
			}
		}
	}
}

// defaultRequests gives every limit without a request one of the same size.
func defaultRequests(containers []corev1.Container) {
	for i := range containers {
		r := &containers[i].Resources
		for name, limit := range r.Limits {
			if _, ok := r.Requests[name]; ok {
				continue
			}
			if r.Requests == nil {
				r.Requests = make(corev1.ResourceList, len(r.Limits))
			}
			r.Requests[name] = limit.DeepCopy()
		}
	}
}

// defaultPodRequests does the same for resources of the pod as a whole (KEP-2837), where it has limits: CPU and memory
// that containers already request get their sum, anything else the pod's limit.
func defaultPodRequests(pod *corev1.Pod) {
	r := pod.Spec.Resources
	if len(r.Limits) == 0 {
		return
	}
	requests := r.Requests.DeepCopy()
	if requests == nil {
		requests = corev1.ResourceList{}
	}
	fillFrom := func(list corev1.ResourceList, wanted func(corev1.ResourceName) bool) {
		for name, q := range list {
			if _, ok := requests[name]; !ok && wanted(name) {
				requests[name] = q.DeepCopy()
			}
		}
	}
	fillFrom(containerRequests(pod), func(name corev1.ResourceName) bool { return podLevelResource(name) && !isHugePage(name) })
	fillFrom(r.Limits, podLevelResource)
	if len(requests) > 0 {
		r.Requests = requests
	}
}

func podLevelResource(name corev1.ResourceName) bool {
	return name == corev1.ResourceCPU || name == corev1.ResourceMemory || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// containerRequests is what the containers of a pod ask for together: the sum of those that run side by side, or the
// largest init container with the sidecars started before it.
func containerRequests(pod *corev1.Pod) corev1.ResourceList {
	sum, sidecars, peak := corev1.ResourceList{}, corev1.ResourceList{}, corev1.ResourceList{}
	for i := range pod.Spec.Containers {
		addTo(sum, pod.Spec.Containers[i].Resources.Requests)
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			addTo(sum, c.Resources.Requests)
			addTo(sidecars, c.Resources.Requests)
			maxTo(peak, sidecars)
			continue
		}
		at := sidecars.DeepCopy()
		addTo(at, c.Resources.Requests)
		maxTo(peak, at)
	}
	maxTo(sum, peak)
	return sum
}

func addTo(sum, more corev1.ResourceList) {
	for name, q := range more {
		total := sum[name].DeepCopy()
		total.Add(q)
		sum[name] = total
	}
}

func maxTo(have, other corev1.ResourceList) {
	for name, q := range other {
		if was, ok := have[name]; !ok || q.Cmp(was) > 0 {
			have[name] = q.DeepCopy()
		}
	}
}

// defaultResources rounds quantities up to the smallest unit the API knows, a thousandth.
func defaultResources(list corev1.ResourceList) {
	for name, q := range list {
		if q.RoundUp(resource.Milli) {
			continue // exact already
		}
		list[name] = q
	}
}

func defaultVolume(v *corev1.Volume) {
	s := &v.VolumeSource
	if *s == (corev1.VolumeSource{}) {
		s.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	switch {
	case s.Secret != nil:
		set(&s.Secret.DefaultMode, corev1.SecretVolumeSourceDefaultMode)
	case s.ConfigMap != nil:
		set(&s.ConfigMap.DefaultMode, corev1.ConfigMapVolumeSourceDefaultMode)
	case s.DownwardAPI != nil:
		set(&s.DownwardAPI.DefaultMode, corev1.DownwardAPIVolumeSourceDefaultMode)
		defaultDownwardItems(s.DownwardAPI.Items)
	case s.Projected != nil:
		set(&s.Projected.DefaultMode, corev1.ProjectedVolumeSourceDefaultMode)
		for i := range s.Projected.Sources {
			p := &s.Projected.Sources[i]
			if p.DownwardAPI != nil {
				defaultDownwardItems(p.DownwardAPI.Items)
			}
			if p.ServiceAccountToken != nil {
				set(&p.ServiceAccountToken.ExpirationSeconds, int64(60*60))
			}
		}
	case s.HostPath != nil:
		set(&s.HostPath.Type, corev1.HostPathUnset)
	case s.Ephemeral != nil && s.Ephemeral.VolumeClaimTemplate != nil:
		set(&s.Ephemeral.VolumeClaimTemplate.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	case s.ISCSI != nil:
		fill(&s.ISCSI.ISCSIInterface, "default")
	case s.RBD != nil:
		fill(&s.RBD.RBDPool, "rbd")
		fill(&s.RBD.RadosUser, "admin")
		fill(&s.RBD.Keyring, "/etc/ceph/keyring")
	case s.AzureDisk != nil:
		set(&s.AzureDisk.CachingMode, corev1.AzureDataDiskCachingReadWrite)
		set(&s.AzureDisk.Kind, corev1.AzureSharedBlobDisk)
		set(&s.AzureDisk.FSType, "ext4")
		set(&s.AzureDisk.ReadOnly, false)
	case s.ScaleIO != nil:
		fill(&s.ScaleIO.StorageMode, "ThinProvisioned")
		fill(&s.ScaleIO.FSType, "xfs")
	case s.Image != nil:
		if s.Image.PullPolicy == "" {
			s.Image.PullPolicy = pullPolicy(s.Image.Reference)
		}
	}
}

func defaultDownwardItems(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		if items[i].FieldRef != nil {
			fill(&items[i].FieldRef.APIVersion, "v1")
		}
	}
}

// graceful is how long a pod being deleted may take: not at all when nothing of it runs, otherwise what the caller or
// else the pod says.
func graceful(pod *corev1.Pod, opts *metav1.DeleteOptions) int64 {
	var period int64
	switch {
	case opts != nil && opts.GracePeriodSeconds != nil:
		period = *opts.GracePeriodSeconds
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		period = *pod.Spec.TerminationGracePeriodSeconds
	}
	if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return 0
	}
	if period < 0 {
		return 1
	}
	return min(period, math.MaxInt32)
}
