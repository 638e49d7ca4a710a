// SPDX-License-Identifier: Apache-2.0

package eviction

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Signal is what a node may run short of.
type Signal string

// The signals, named as in upstream's configuration.
const (
	Memory Signal = "memory.available"
	Disk   Signal = "nodefs.available"
	Inodes Signal = "nodefs.inodesFree"
	PIDs   Signal = "pid.available"
)

// The thresholds of upstream's defaults, but for the disk: a tenth of a large one is no emergency, and k3s too waits until
// a twentieth. That of process IDs has none there.
const (
	memoryBytes   = 100 << 20
	diskPercent   = 5
	inodesPercent = 5
	pidsPercent   = 10
)

// Hold is how long a condition stays after its signal was last seen, so that the scheduler does not fill up a node that has just
// made room.
const Hold = 5 * time.Minute

// Reason is status.reason of a pod that was given up.
const Reason = "Evicted"

// Amount is what is left of something, and all of it; a Total of 0 is unknown and never short.
type Amount struct{ Available, Total uint64 }

// Reading is the state of the node.
type Reading struct{ Memory, Disk, Inodes, PIDs Amount }

// threshold is how much of a signal must be left.
func threshold(s Signal, a Amount) uint64 {
	switch s {
	case Memory:
		return memoryBytes
	case Disk:
		return a.Total / 100 * diskPercent
	case Inodes:
		return a.Total / 100 * inodesPercent
	}
	return a.Total / 100 * pidsPercent
}

func (r Reading) of(s Signal) Amount {
	switch s {
	case Memory:
		return r.Memory
	case Disk:
		return r.Disk
	case Inodes:
		return r.Inodes
	}
	return r.PIDs
}

// Short lists what the node is short of, memory first, for its want is felt first.
func (r Reading) Short() []Signal {
	var short []Signal
	for _, s := range []Signal{Memory, Disk, Inodes, PIDs} {
		if a := r.of(s); a.Total > 0 && a.Available < threshold(s, a) {
			short = append(short, s)
		}
	}
	return short
}

// Condition is the node condition that a signal shows in.
func (s Signal) Condition() corev1.NodeConditionType {
	switch s {
	case Memory:
		return corev1.NodeMemoryPressure
	case PIDs:
		return corev1.NodePIDPressure
	}
	return corev1.NodeDiskPressure
}

// Resource is what messages call a signal's matter.
func (s Signal) Resource() corev1.ResourceName {
	switch s {
	case Memory:
		return corev1.ResourceMemory
	case Inodes:
		return "inodes"
	case PIDs:
		return "pids"
	}
	return corev1.ResourceEphemeralStorage
}

// Usage is what one container or pod uses.
type Usage struct{ Memory, Disk, Inodes, PIDs uint64 }

func (u Usage) of(s Signal) uint64 {
	switch s {
	case Memory:
		return u.Memory
	case Disk:
		return u.Disk
	case Inodes:
		return u.Inodes
	}
	return u.PIDs
}

// Pod is a pod that runs, and what it uses.
type Pod struct {
	Pod *corev1.Pod
	// Static pods are never given up.
	Static bool
	// Usage is that of the whole pod, its volumes included.
	Usage      Usage
	Containers map[string]Usage
	// EmptyDirs are the bytes of emptyDir volumes on disk, by name.
	EmptyDirs map[string]uint64
}

// systemCritical is the priority from which on a pod is needed by the cluster itself.
const systemCritical = 2_000_000_000

// Critical says that a pod is kept whatever the node is short of.
func Critical(pod *corev1.Pod, static bool) bool {
	return static || pod.Spec.Priority != nil && *pod.Spec.Priority >= systemCritical
}

// Eviction is a pod to give up and what to tell of it.
type Eviction struct {
	Pod     *corev1.Pod
	Message string
	// Pressure says that the node is the cause; else the pod went beyond a limit of its own.
	Pressure bool
}

// Plan names the one pod to give up for what the node is short of; nil if nothing is short or nobody may go.
func Plan(r Reading, pods []Pod) *Eviction {
	for _, s := range r.Short() {
		if ranked := Rank(s, pods); len(ranked) > 0 {
			p := ranked[0]
			return &Eviction{Pod: p.Pod, Message: message(s, r.of(s), p), Pressure: true}
		}
	}
	return nil
}

// Rank orders the pods that may be given up for a signal, the first to go first.
func Rank(s Signal, pods []Pod) []Pod {
	var out []Pod
	for _, p := range pods {
		if !Critical(p.Pod, p.Static) {
			out = append(out, p)
		}
	}
	slices.SortStableFunc(out, func(a, b Pod) int {
		return cmp.Or(
			-compareBool(exceeds(s, a), exceeds(s, b)),
			cmp.Compare(priority(a.Pod), priority(b.Pod)),
			cmp.Compare(beyond(s, b), beyond(s, a)),
		)
	})
	return out
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

func priority(pod *corev1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}

// requested is what the pod asked for of a signal's matter; inodes and process IDs cannot be asked for.
func requested(s Signal, pod *corev1.Pod) int64 {
	if s != Memory && s != Disk {
		return 0
	}
	q := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})[s.Resource()]
	return q.Value()
}

func exceeds(s Signal, p Pod) bool {
	return (s == Memory || s == Disk) && int64(p.Usage.of(s)) > requested(s, p.Pod)
}

func beyond(s Signal, p Pod) int64 { return int64(p.Usage.of(s)) - requested(s, p.Pod) }

// message is what the pod's owner reads.
func message(s Signal, a Amount, p Pod) string {
	var b strings.Builder
	fmt.Fprintf(&b, "The node was low on resource: %s. ", s.Resource())
	fmt.Fprintf(&b, "Threshold quantity: %s, available: %s. ", quantity(s, threshold(s, a)), quantity(s, a.Available))
	if s != Memory && s != Disk {
		return b.String()
	}
	for i := range p.Pod.Spec.Containers {
		c := &p.Pod.Spec.Containers[i]
		request := c.Resources.Requests[s.Resource()]
		if used := p.Containers[c.Name].of(s); int64(used) > request.Value() {
			fmt.Fprintf(&b, "Container %s was using %s, request is %s, has larger consumption of %s. ", c.Name, quantity(s, used), request.String(), s.Resource())
		}
	}
	return b.String()
}

// quantity prints bytes as upstream does: in Ki, rounded up.
func quantity(s Signal, v uint64) string {
	if s != Memory && s != Disk {
		return fmt.Sprint(v)
	}
	if v >= 1<<10 {
		v = (v + 1<<10 - 1) >> 10 << 10
	}
	return resource.NewQuantity(int64(v), resource.BinarySI).String()
}

// Overdrawn names the pods that went beyond limits of their own on local storage: sizeLimit of an emptyDir on disk, a container's
// limit of ephemeral-storage, or the sum of those of all containers.
func Overdrawn(pods []Pod) []Eviction {
	var out []Eviction
	for _, p := range pods {
		if msg := overdraft(p); msg != "" {
			out = append(out, Eviction{Pod: p.Pod, Message: msg})
		}
	}
	return out
}

func overdraft(p Pod) string {
	for i := range p.Pod.Spec.Volumes {
		v := &p.Pod.Spec.Volumes[i]
		if v.EmptyDir == nil || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.Sign() <= 0 {
			continue
		}
		if used, ok := p.EmptyDirs[v.Name]; ok && int64(used) > v.EmptyDir.SizeLimit.Value() {
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, v.EmptyDir.SizeLimit.String())
		}
	}
	limits := resourcehelper.PodLimits(p.Pod, resourcehelper.PodResourcesOptions{})
	if all := limits[corev1.ResourceEphemeralStorage]; !all.IsZero() && allLimited(p.Pod) && int64(p.Usage.Disk) > all.Value() {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", all.String())
	}
	for i := range p.Pod.Spec.Containers {
		c := &p.Pod.Spec.Containers[i]
		limit, ok := c.Resources.Limits[corev1.ResourceEphemeralStorage]
		if used := p.Containers[c.Name].Disk; ok && !limit.IsZero() && int64(used) > limit.Value() {
			return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, limit.String())
		}
	}
	return ""
}

// allLimited says whether the sum of limits is one for the pod: a container without a limit may use what it likes.
func allLimited(pod *corev1.Pod) bool {
	return !slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool {
		_, ok := c.Resources.Limits[corev1.ResourceEphemeralStorage]
		return !ok
	})
}

// Refuse says why a new pod may not start on a node in need; "" if it may. Critical pods always may, and when only memory is short, so may
// all but those that ask for nothing.
func Refuse(pod *corev1.Pod, static bool, class corev1.PodQOSClass, short []corev1.NodeConditionType) string {
	if len(short) == 0 || Critical(pod, static) {
		return ""
	}
	if len(short) == 1 && short[0] == corev1.NodeMemoryPressure {
		tolerated := slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool {
			return (t.Key == "" || t.Key == corev1.TaintNodeMemoryPressure) && (t.Effect == "" || t.Effect == corev1.TaintEffectNoSchedule) &&
				(t.Operator == corev1.TolerationOpExists || t.Value == "")
		})
		if class != corev1.PodQOSBestEffort || tolerated {
			return ""
		}
	}
	return fmt.Sprintf("Pod was rejected: The node had condition: %v. ", short)
}
