// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/mini-k8s/mini/kubelet/container"
)

// machine is what the node is made of; it does not change while the process lives.
type machine struct {
	arch                  string
	capacity, allocatable corev1.ResourceList
	info                  corev1.NodeSystemInfo
}

func readMachine(cfg Config) machine {
	m := machine{arch: runtime.GOARCH}
	total, _ := memInfo()
	m.capacity = corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(total, resource.BinarySI),
		corev1.ResourcePods:   *resource.NewQuantity(int64(cfg.MaxPods), resource.DecimalSI),
	}
	var fs unix.Statfs_t
	if unix.Statfs(existingParent(cfg.DataDir), &fs) == nil {
		m.capacity[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(int64(fs.Blocks)*fs.Bsize, resource.BinarySI)
	}
	for size, n := range hugePages() {
		name := corev1.ResourceHugePagesPrefix + resource.NewQuantity(size, resource.BinarySI).String()
		m.capacity[corev1.ResourceName(name)] = *resource.NewQuantity(n*size, resource.BinarySI)
	}
	m.allocatable = corev1.ResourceList{}
	for name, q := range m.capacity {
		q = q.DeepCopy()
		if r, ok := cfg.Reserved[name]; ok {
			q.Sub(r)
			if q.Sign() < 0 {
				q = *resource.NewQuantity(0, q.Format)
			}
		}
		m.allocatable[name] = q
	}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		m.info.KernelVersion = unix.ByteSliceToString(uts.Release[:])
	}
	m.info.MachineID = firstLine("/etc/machine-id")
	m.info.SystemUUID = strings.ToLower(firstLine("/sys/class/dmi/id/product_uuid"))
	if m.info.SystemUUID == "" {
		m.info.SystemUUID = m.info.MachineID
	}
	m.info.BootID = firstLine("/proc/sys/kernel/random/boot_id")
	m.info.OSImage = osImage()
	m.info.OperatingSystem, m.info.Architecture = "linux", m.arch
	m.info.KubeletVersion, m.info.ContainerRuntimeVersion = cfg.Version, cfg.ContainerRuntimeVersion
	return m
}

func existingParent(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == "/" {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

func firstLine(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSpace(line)
}

func osImage() string {
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "linux"
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"`)
		}
	}
	return "linux"
}

// memInfo returns the machine's memory and what is available of it, in bytes.
func memInfo() (total, available int64) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0
	}
	sc := bufio.NewScanner(bytes.NewReader(data))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 2 {
			continue
		}
		n, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			continue
		}
		switch f[0] {
		case "MemTotal:":
			total = n << 10
		case "MemAvailable:":
			return total, n << 10
		}
	}
	return total, 0
}

// hugePages returns the number of pages that the kernel keeps, by size in bytes.
func hugePages() map[int64]int64 {
	out := map[int64]int64{}
	dirs, err := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-*kB")
	if err != nil {
		return nil
	}
	for _, d := range dirs {
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(d), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(firstLine(filepath.Join(d, "nr_hugepages")), 10, 64)
		if err != nil {
			continue
		}
		out[kb<<10] = n
	}
	return out
}

// maxNodeImages is how many images the Node shows.
const maxNodeImages = 50

// imagesAge is how old the list of images in the status may be, unless a pull made it stale.
const imagesAge = time.Minute

// images lists the largest images of the node; was is returned if they need not or cannot be read.
func (n *nodeStatus) images(was []corev1.ContainerImage) []corev1.ContainerImage {
	select {
	case <-n.k.runtimeReady():
	default:
		return was
	}
	n.mu.Lock()
	fresh := time.Since(n.imagesRead) < imagesAge && !n.imagesStale
	n.mu.Unlock()
	if fresh {
		return was
	}
	ctx, cancel := context.WithTimeout(n.k.ctx, 5*time.Second)
	defer cancel()
	all, err := n.k.cfg.Images.ListImages(ctx)
	if err != nil {
		return was
	}
	n.mu.Lock()
	n.imagesRead, n.imagesStale = time.Now(), false
	n.mu.Unlock()
	slices.SortStableFunc(all, func(a, b container.Image) int {
		return cmp.Or(cmp.Compare(b.Size, a.Size), strings.Compare(a.ID, b.ID))
	})
	var out []corev1.ContainerImage
	for _, img := range all[:min(len(all), maxNodeImages)] {
		names := slices.Clone(img.Names)
		slices.Sort(names)
		out = append(out, corev1.ContainerImage{Names: names[:min(len(names), 5)], SizeBytes: img.Size})
	}
	return out
}

// imagesChanged has the list of images read anew with the next status.
func (n *nodeStatus) imagesChanged() {
	n.mu.Lock()
	n.imagesStale = true
	n.mu.Unlock()
	n.poke()
}
