// SPDX-License-Identifier: Apache-2.0

package eviction

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

const mi, gi = 1 << 20, 1 << 30

func list(kv ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(kv); i += 2 {
		l[corev1.ResourceName(kv[i])] = resource.MustParse(kv[i+1])
	}
	return l
}

// pod has one container, which uses all that the pod uses.
func pod(name string, priority int32, requests corev1.ResourceList, u Usage) Pod {
	return Pod{Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Priority: &priority,
		Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: requests}}}}},
		Usage: u, Containers: map[string]Usage{"c": u}}
}

func names(pods []Pod) []string {
	var out []string
	for _, p := range pods {
		out = append(out, p.Pod.Name)
	}
	return out
}

func TestShort(t *testing.T) {
	fine := Reading{Memory: Amount{gi, 2 * gi}, Disk: Amount{50 * gi, 100 * gi}, Inodes: Amount{500, 1000}, PIDs: Amount{900, 1000}}
	for name, tc := range map[string]struct {
		change func(*Reading)
		want   []Signal
	}{
		"fine":               {func(*Reading) {}, nil},
		"nothing_known":      {func(r *Reading) { *r = Reading{} }, nil},
		"memory":             {func(r *Reading) { r.Memory.Available = 100*mi - 1 }, []Signal{Memory}},
		"memory_at_the_edge": {func(r *Reading) { r.Memory.Available = 100 * mi }, nil},
		"disk":               {func(r *Reading) { r.Disk.Available = 5*gi - 1 }, []Signal{Disk}},
		"disk_at_the_edge":   {func(r *Reading) { r.Disk.Available = 5 * gi }, nil},
		"inodes":             {func(r *Reading) { r.Inodes.Available = 49 }, []Signal{Inodes}},
		"pids":               {func(r *Reading) { r.PIDs.Available = 99 }, []Signal{PIDs}},
		"all_but_inodes": {func(r *Reading) { r.Memory.Available, r.Disk.Available, r.PIDs.Available = 0, 0, 0 },
			[]Signal{Memory, Disk, PIDs}},
	} {
		r := fine
		tc.change(&r)
		if got := r.Short(); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestRank(t *testing.T) {
	half := list("memory", "512Mi")
	for name, tc := range map[string]struct {
		signal Signal
		pods   []Pod
		want   []string
	}{
		"beyond_its_request_before_priority": {Memory, []Pod{pod("within", -10, half, Usage{Memory: 100 * mi}), pod("beyond", 100, half, Usage{Memory: 600 * mi})}, []string{"beyond", "within"}},
		"then_the_lower_priority":            {Memory, []Pod{pod("high", 10, half, Usage{Memory: 900 * mi}), pod("low", 1, half, Usage{Memory: 600 * mi})}, []string{"low", "high"}},
		"then_the_farthest_beyond":           {Memory, []Pod{pod("near", 0, half, Usage{Memory: 600 * mi}), pod("far", 0, nil, Usage{Memory: 500 * mi})}, []string{"far", "near"}},
		"critical_never":                     {Memory, []Pod{pod("critical", systemCritical, nil, Usage{Memory: gi}), pod("small", 0, nil, Usage{Memory: mi})}, []string{"small"}},
		"static_never":                       {Memory, []Pod{{Pod: pod("static", 0, nil, Usage{}).Pod, Static: true, Usage: Usage{Memory: gi}}}, nil},
		"disk":                               {Disk, []Pod{pod("a", 0, list("ephemeral-storage", "10Gi"), Usage{Disk: 9 * gi}), pod("b", 0, nil, Usage{Disk: 1 * gi})}, []string{"b", "a"}},
		"pids_by_priority_then_count":        {PIDs, []Pod{pod("few", 0, nil, Usage{PIDs: 5}), pod("many", 0, nil, Usage{PIDs: 500}), pod("low", -1, nil, Usage{PIDs: 1})}, []string{"low", "many", "few"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := names(Rank(tc.signal, tc.pods)); !slices.Equal(got, tc.want) {
				t.Errorf("%v, want %v", got, tc.want)
			}
		})
	}
}

func TestPlanMessage(t *testing.T) {
	r := Reading{Memory: Amount{50 * mi, 8 * gi}}
	e := Plan(r, []Pod{pod("p", 0, list("memory", "64Mi"), Usage{Memory: 300 * mi})})
	const want = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. " +
		"Container c was using 300Mi, request is 64Mi, has larger consumption of memory. "
	if e == nil || e.Message != want || !e.Pressure {
		t.Errorf("%+v", e)
	}
	if e := Plan(Reading{Memory: Amount{gi, 8 * gi}}, []Pod{pod("p", 0, nil, Usage{Memory: gi})}); e != nil {
		t.Errorf("gave up a pod without need: %+v", e)
	}
	if e := Plan(r, nil); e != nil {
		t.Errorf("%+v", e)
	}
}

func TestOverdrawn(t *testing.T) {
	limit := resource.MustParse("1Mi")
	with := func(limits corev1.ResourceList, u Usage, dirs map[string]uint64) Pod {
		p := pod("p", systemCritical, nil, u) // its own limits bind a critical pod too
		p.Pod.Spec.Containers[0].Resources.Limits = limits
		p.Pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &limit}}},
			{Name: "w", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		p.EmptyDirs = dirs
		return p
	}
	for name, tc := range map[string]struct {
		pod  Pod
		want string
	}{
		"within":          {with(nil, Usage{Disk: gi}, map[string]uint64{"v": mi, "w": gi}), ""},
		"empty_dir":       {with(nil, Usage{}, map[string]uint64{"v": mi + 1}), `Usage of EmptyDir volume "v" exceeds the limit "1Mi". `},
		"sum_of_limits":   {with(list("ephemeral-storage", "1Gi"), Usage{Disk: gi + 1}, nil), "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. "},
		"limit_not_known": {with(list("memory", "1Gi"), Usage{Disk: 5 * gi}, nil), ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			if all := Overdrawn([]Pod{tc.pod}); len(all) > 0 {
				got = all[0].Message
				if all[0].Pressure {
					t.Error("the node is not the cause")
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	// One container beyond its own limit, the pod within the sum.
	p := with(list("ephemeral-storage", "1Mi"), Usage{Disk: 2 * mi}, nil)
	p.Pod.Spec.Containers = append(p.Pod.Spec.Containers, corev1.Container{Name: "big", Resources: corev1.ResourceRequirements{Limits: list("ephemeral-storage", "1Gi")}})
	if all := Overdrawn([]Pod{p}); len(all) != 1 || all[0].Message != `Container c exceeded its local ephemeral storage limit "1Mi". ` {
		t.Errorf("%+v", all)
	}
}

func TestRefuse(t *testing.T) {
	memory := []corev1.NodeConditionType{corev1.NodeMemoryPressure}
	disk := []corev1.NodeConditionType{corev1.NodeDiskPressure}
	plain, critical := pod("p", 0, nil, Usage{}).Pod, pod("c", systemCritical, nil, Usage{}).Pod
	tolerant := pod("t", 0, nil, Usage{}).Pod
	tolerant.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}}
	for name, tc := range map[string]struct {
		pod    *corev1.Pod
		static bool
		class  corev1.PodQOSClass
		short  []corev1.NodeConditionType
		want   string
	}{
		"no_need":                   {plain, false, corev1.PodQOSBestEffort, nil, ""},
		"best_effort_for_memory":    {plain, false, corev1.PodQOSBestEffort, memory, "Pod was rejected: The node had condition: [MemoryPressure]. "},
		"burstable_for_memory":      {plain, false, corev1.PodQOSBurstable, memory, ""},
		"tolerated":                 {tolerant, false, corev1.PodQOSBestEffort, memory, ""},
		"disk":                      {plain, false, corev1.PodQOSGuaranteed, disk, "Pod was rejected: The node had condition: [DiskPressure]. "},
		"critical":                  {critical, false, corev1.PodQOSBestEffort, disk, ""},
		"static":                    {plain, true, corev1.PodQOSBestEffort, disk, ""},
		"both_even_if_it_tolerates": {tolerant, false, corev1.PodQOSGuaranteed, append(disk, memory...), "Pod was rejected: The node had condition: [DiskPressure MemoryPressure]. "},
	} {
		if got := Refuse(tc.pod, tc.static, tc.class, tc.short); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

// TestRankProperties: critical pods never go, and nobody within its request goes before one beyond it.
func TestRankProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var pods []Pod
		for i := range rapid.IntRange(0, 8).Draw(rt, "pods") {
			p := pod(fmt.Sprint(i), rapid.SampledFrom([]int32{-5, 0, 0, 7, systemCritical}).Draw(rt, "priority"),
				list("memory", rapid.SampledFrom([]string{"0", "64Mi", "1Gi"}).Draw(rt, "request")),
				Usage{Memory: uint64(rapid.IntRange(0, 2*gi).Draw(rt, "memory")), Disk: uint64(rapid.IntRange(0, gi).Draw(rt, "disk")), PIDs: uint64(rapid.IntRange(0, 100).Draw(rt, "pids"))})
			p.Static = rapid.IntRange(0, 9).Draw(rt, "static") == 0
			pods = append(pods, p)
		}
		s := rapid.SampledFrom([]Signal{Memory, Disk, Inodes, PIDs}).Draw(rt, "signal")
		ranked := Rank(s, pods)
		within := false
		for _, p := range ranked {
			if Critical(p.Pod, p.Static) {
				rt.Fatalf("%s is critical", p.Pod.Name)
			}
			if !exceeds(s, p) {
				within = true
			} else if within {
				rt.Fatalf("%s is beyond its request and comes after one that is not", p.Pod.Name)
			}
		}
	})
}
