// SPDX-License-Identifier: Apache-2.0

package container

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/mini-k8s/mini/kubelet/cgroup"
)

// The kernel's bounds for CPU shares and quota.
const (
	minShares   = 2
	maxShares   = 262144
	cpuPeriod   = 100000 // microseconds
	minCPUQuota = 1000   // microseconds
)

// linuxResources turns requests and limits into what runc sets on a container's cgroup. host says what this machine's
// cgroups can do.
func linuxResources(r corev1.ResourceRequirements, host cgroupHost) *specs.LinuxResources {
	shares := uint64(minShares)
	if cpu, ok := r.Requests[corev1.ResourceCPU]; ok {
		shares = uint64(min(max(cpu.MilliValue()*1024/1000, minShares), maxShares))
	} else if cpu, ok := r.Limits[corev1.ResourceCPU]; ok {
		shares = uint64(min(max(cpu.MilliValue()*1024/1000, minShares), maxShares))
	}
	res := &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}}
	if cpu, ok := r.Limits[corev1.ResourceCPU]; ok && !cpu.IsZero() {
		quota, period := max(cpu.MilliValue()*cpuPeriod/1000, minCPUQuota), uint64(cpuPeriod)
		res.CPU.Quota, res.CPU.Period = &quota, &period
	}
	if memory, ok := r.Limits[corev1.ResourceMemory]; ok && !memory.IsZero() {
		limit := memory.Value()
		res.Memory = &specs.LinuxMemory{Limit: &limit}
		if host.Swap {
			res.Memory.Swap = &limit // memory and swap together, so: no swap
		}
		if host.Unified {
			// All processes of a container die together, as on cgroup v1 with a lone process.
			res.Unified = map[string]string{"memory.oom.group": "1"}
		}
	}
	for _, size := range host.HugepageSizes {
		limit := r.Limits[corev1.ResourceName(corev1.ResourceHugePagesPrefix+quantityOfPageSize(size))]
		res.HugepageLimits = append(res.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: size, Limit: uint64(limit.Value())})
	}
	return res
}

// quantityOfPageSize turns the kernel's 2MB into the API's 2Mi.
func quantityOfPageSize(size string) string {
	q, err := resource.ParseQuantity(strings.TrimSuffix(size, "B") + "i")
	if err != nil {
		return size
	}
	return q.String()
}

// cgroupHost is what the machine's cgroups can do.
type cgroupHost struct {
	Unified       bool
	Swap          bool     // memory and swap can be limited together
	HugepageSizes []string // limited by the hugetlb controller; empty without
}

func detectCgroups() cgroupHost {
	var fs unix.Statfs_t
	h := cgroupHost{}
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err == nil {
		h.Unified = fs.Type == unix.CGROUP2_SUPER_MAGIC
	}
	if h.Unified {
		self, _ := os.ReadFile("/proc/self/cgroup")
		_, path, _ := strings.Cut(strings.TrimSpace(string(self)), "::")
		_, err := os.Stat(filepath.Join("/sys/fs/cgroup", path, "memory.swap.max"))
		h.Swap = err == nil
		controllers, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		if !strings.Contains(string(controllers), "hugetlb") {
			return h
		}
	} else {
		_, err := os.Stat("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
		h.Swap = err == nil
		if _, err := os.Stat("/sys/fs/cgroup/hugetlb/cgroup.procs"); err != nil {
			return h
		}
	}
	dirs, _ := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-*kB")
	for _, dir := range dirs {
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(dir), "hugepages-"), "kB"), 10, 64)
		if err == nil {
			h.HugepageSizes = append(h.HugepageSizes, pageSizeName(kb))
		}
	}
	return h
}

// pageSizeName names a size in KiB as the hugetlb controller does.
func pageSizeName(kb int64) string {
	switch {
	case kb >= 1<<20:
		return strconv.FormatInt(kb>>20, 10) + "GB"
	case kb >= 1<<10:
		return strconv.FormatInt(kb>>10, 10) + "MB"
	default:
		return strconv.FormatInt(kb, 10) + "KB"
	}
}

// The oom_score_adj of pods by their quality of service, as upstream's pkg/kubelet/qos sets them.
const (
	oomPause      = -998
	oomGuaranteed = -997
	oomBestEffort = 1000
	// systemCritical is the priority from which on a pod is kept like a guaranteed one.
	systemCritical = 2_000_000_000
)

// oomScoreAdj is what the container should have: the less of its request it uses, the later it is killed. memory is the
// machine's, in bytes.
func oomScoreAdj(pod *corev1.Pod, c *corev1.Container, memory int64) int {
	if pod.Spec.Priority != nil && *pod.Spec.Priority >= systemCritical {
		return oomGuaranteed
	}
	switch cgroup.QOSClass(pod) {
	case corev1.PodQOSGuaranteed:
		return oomGuaranteed
	case corev1.PodQOSBestEffort:
		return oomBestEffort
	}
	request := c.Resources.Requests[corev1.ResourceMemory]
	adj := 1000 - 1000*request.Value()/max(memory, 1)
	return int(min(max(adj, 1000+oomGuaranteed), oomBestEffort-1))
}
