// SPDX-License-Identifier: Apache-2.0

package container

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"pgregory.net/rapid"
)

func TestCommandLine(t *testing.T) {
	image := imagespec.ImageConfig{Entrypoint: []string{"entry"}, Cmd: []string{"cmd"}}
	for name, tc := range map[string]struct {
		image         imagespec.ImageConfig
		command, args []string
		want          []string
	}{
		"image_alone":     {image, nil, nil, []string{"entry", "cmd"}},
		"args_replace":    {image, nil, []string{"a"}, []string{"entry", "a"}},
		"command_alone":   {image, []string{"c"}, nil, []string{"c"}}, // drops the image's CMD
		"both":            {image, []string{"c"}, []string{"a", "b"}, []string{"c", "a", "b"}},
		"only_cmd":        {imagespec.ImageConfig{Cmd: []string{"cmd"}}, nil, nil, []string{"cmd"}},
		"nothing_to_run":  {imagespec.ImageConfig{}, nil, nil, nil},
		"args_as_command": {imagespec.ImageConfig{}, nil, []string{"a"}, []string{"a"}},
	} {
		got, err := commandLine(ContainerConfig{Command: tc.command, Args: tc.args}, tc.image)
		if !slices.Equal(got, tc.want) || (err != nil) != (tc.want == nil) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestEnvironment(t *testing.T) {
	in := specInput{Config: ContainerConfig{Container: &corev1.Container{TTY: true}, Env: []string{"A=pod", "NEW=1=2", "TERM=dumb"}},
		Image: imagespec.ImageConfig{Env: []string{"PATH=/bin", "A=image", "B=image"}}, Sandbox: sandboxView{Hostname: "h"}}
	want := []string{"PATH=/bin", "HOSTNAME=h", "TERM=dumb", "A=pod", "B=image", "NEW=1=2"}
	if diff := cmp.Diff(want, environment(in)); diff != "" {
		t.Error(diff)
	}
}

func TestCapabilities(t *testing.T) {
	all := append(slices.Clone(defaultCapabilities), "CAP_SYS_ADMIN", "CAP_NET_ADMIN")
	slices.Sort(all)
	sorted := slices.Sorted(slices.Values(defaultCapabilities))
	without := func(names ...string) []string {
		return slices.DeleteFunc(slices.Clone(sorted), func(c string) bool { return slices.Contains(names, c) })
	}
	for name, tc := range map[string]struct {
		add, drop  []corev1.Capability
		privileged bool
		want       []string
		fails      bool
	}{
		"default":             {want: sorted},
		"privileged":          {privileged: true, want: all},
		"add":                 {add: []corev1.Capability{"NET_ADMIN"}, want: slices.Sorted(slices.Values(append(slices.Clone(sorted), "CAP_NET_ADMIN")))},
		"drop":                {drop: []corev1.Capability{"kill", "CAP_CHOWN"}, want: without("CAP_KILL", "CAP_CHOWN")},
		"drop_all":            {drop: []corev1.Capability{"ALL"}, want: nil},
		"drop_all_but":        {drop: []corev1.Capability{"all"}, add: []corev1.Capability{"SYS_ADMIN"}, want: []string{"CAP_SYS_ADMIN"}},
		"add_all_but":         {add: []corev1.Capability{"ALL"}, drop: []corev1.Capability{"SYS_ADMIN"}, want: slices.DeleteFunc(slices.Clone(all), func(c string) bool { return c == "CAP_SYS_ADMIN" })},
		"add_what_is_unknown": {add: []corev1.Capability{"FLY"}, fails: true},
		"drop_unknown":        {drop: []corev1.Capability{"FLY"}, want: sorted},
	} {
		got, err := capabilities(corev1.SecurityContext{Privileged: &tc.privileged, Capabilities: &corev1.Capabilities{Add: tc.add, Drop: tc.drop}}, all)
		if (err != nil) != tc.fails {
			t.Errorf("%s: %v", name, err)
		} else if !tc.fails && (!slices.Equal(got.Bounding, tc.want) || !slices.Equal(got.Effective, tc.want) || got.Ambient != nil || got.Inheritable != nil) {
			t.Errorf("%s: %v", name, got.Bounding)
		}
	}
}

func TestMounts(t *testing.T) {
	s := &specs.Spec{Linux: &specs.Linux{}}
	err := setMounts(s, specInput{Config: ContainerConfig{Mounts: []Mount{
		{HostPath: "/h/deep", ContainerPath: "/data/a/b", Propagation: corev1.MountPropagationHostToContainer},
		{HostPath: "/h/data", ContainerPath: "/data/", ReadOnly: true},
		{HostPath: "/h/shm", ContainerPath: "/dev/shm"},
		{HostPath: "/h/two", ContainerPath: "relative", Propagation: corev1.MountPropagationBidirectional},
	}}, Sandbox: sandboxView{ShmPath: "/pod/shm"}}, false)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range s.Mounts {
		if m.Type == "bind" {
			got = append(got, m.Source+" "+m.Destination+" "+strings.Join(m.Options, ","))
		}
	}
	want := []string{"/h/data /data rbind,rprivate,ro", "/h/two /relative rbind,rshared,rw", "/h/shm /dev/shm rbind,rprivate,rw", "/h/deep /data/a/b rbind,rslave,rw"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if s.Linux.RootfsPropagation != "rshared" {
		t.Errorf("propagation %q", s.Linux.RootfsPropagation)
	}
	bad := specInput{Config: ContainerConfig{Mounts: []Mount{{HostPath: "/x", ContainerPath: "/x", Propagation: "Sideways"}}}}
	if err := setMounts(&specs.Spec{Linux: &specs.Linux{}}, bad, false); err == nil {
		t.Error("an unknown propagation was taken")
	}
}

// TestMountOrder holds that nothing is mounted before what it lies in, and that one place is mounted once by default.
func TestMountOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var in specInput
		for range rapid.IntRange(0, 8).Draw(rt, "n") {
			path := "/" + strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "dev", "shm", "proc"}), 1, 4).Draw(rt, "path"), "/")
			in.Config.Mounts = append(in.Config.Mounts, Mount{HostPath: "/h", ContainerPath: path})
		}
		s := &specs.Spec{Linux: &specs.Linux{}}
		if err := setMounts(s, in, false); err != nil {
			rt.Fatal(err)
		}
		for i, m := range s.Mounts {
			for _, earlier := range s.Mounts[:i] {
				if earlier.Type == "bind" && m.Type == "bind" && strings.HasPrefix(earlier.Destination, m.Destination+"/") && earlier.Destination != "/dev/shm" {
					rt.Errorf("%s is mounted before %s", earlier.Destination, m.Destination)
				}
				if earlier.Destination == m.Destination && earlier.Type != "bind" {
					rt.Errorf("%s is mounted over the default", m.Destination)
				}
			}
		}
	})
}

func TestParseSignal(t *testing.T) {
	for in, want := range map[string]syscall.Signal{
		"": syscall.SIGTERM, "SIGQUIT": syscall.SIGQUIT, "quit": syscall.SIGQUIT, "9": syscall.SIGKILL, "SIGRTMIN+3": 37,
		"RTMAX-1": 63, "RTMIN": 34, "SIGRTMIN+99": syscall.SIGTERM, "99": syscall.SIGTERM, "0": syscall.SIGTERM, "nonsense": syscall.SIGTERM,
	} {
		if got := parseSignal(in); got != want {
			t.Errorf("%q is %v, want %v", in, got, want)
		}
	}
}

func TestLinuxResources(t *testing.T) {
	quantity := resource.MustParse
	r := corev1.ResourceRequirements{
		Requests: corev1.ResourceList{"cpu": quantity("250m"), "memory": quantity("1Mi")},
		Limits:   corev1.ResourceList{"cpu": quantity("1500m"), "memory": quantity("64Mi"), "hugepages-2Mi": quantity("4Mi")},
	}
	got := linuxResources(r, cgroupHost{Swap: true, HugepageSizes: []string{"2MB", "1GB"}})
	shares, quota, period, memory := uint64(256), int64(150000), uint64(100000), int64(64<<20)
	want := &specs.LinuxResources{
		CPU: &specs.LinuxCPU{Shares: &shares, Quota: &quota, Period: &period}, Memory: &specs.LinuxMemory{Limit: &memory, Swap: &memory},
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}, {Pagesize: "1GB"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	least := uint64(2)
	if diff := cmp.Diff(&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &least}}, linuxResources(corev1.ResourceRequirements{}, cgroupHost{Unified: true})); diff != "" {
		t.Error(diff)
	}
	if got := linuxResources(r, cgroupHost{Unified: true}); got.Unified["memory.oom.group"] != "1" || got.Memory.Swap != nil {
		t.Errorf("on v2: %+v", got)
	}
}

func TestOOMScore(t *testing.T) {
	const machine = 4 << 30
	list := func(kv ...string) corev1.ResourceList {
		l := corev1.ResourceList{}
		for i := 0; i < len(kv); i += 2 {
			l[corev1.ResourceName(kv[i])] = resource.MustParse(kv[i+1])
		}
		return l
	}
	for name, tc := range map[string]struct {
		requests, limits corev1.ResourceList
		priority         int32
		want             int
	}{
		"best_effort":    {want: 1000},
		"guaranteed":     {limits: list("cpu", "1", "memory", "1Gi"), want: -997},
		"half":           {requests: list("memory", "2Gi"), want: 500},
		"nearly_nothing": {requests: list("memory", "1Ki"), want: 999},
		"nearly_all":     {requests: list("memory", "4Gi"), want: 3},
		"only_cpu":       {requests: list("cpu", "1"), want: 999},
		"critical":       {priority: 2_000_000_000, want: -997},
	} {
		pod := testPod("p")
		pod.Spec.Priority = &tc.priority
		pod.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: tc.requests, Limits: tc.limits}}}
		if got := oomScoreAdj(pod, &pod.Spec.Containers[0], machine); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
	}
}

func TestResolveUser(t *testing.T) {
	db := userDB{
		passwd: []byte("root:x:0:0::/root:/bin/sh\nbroken line\nweb:x:101:102::/:\n1000:x:55:56::/:\nhuge:x:99999999999:1::/:\n"),
		group:  []byte("root:x:0:\nweb:x:102:\nextra:x:103:other,web\nstaff:x:50:root\n"),
	}
	for name, tc := range map[string]struct {
		image      string
		user, grp  *int64
		empty      bool // no files in the image
		want       user
		wantErrors string
	}{
		"root":            {want: user{0, 0, []uint32{0, 50}}},
		"name":            {image: "web", want: user{101, 102, []uint32{102, 103}}},
		"number":          {image: "101", want: user{101, 102, []uint32{102, 103}}},
		"number_as_name":  {image: "1000", want: user{55, 56, []uint32{56}}},
		"unknown_number":  {image: "77", want: user{77, 0, []uint32{0}}},
		"with_group":      {image: "web:staff", want: user{101, 50, []uint32{50, 103}}},
		"numeric_group":   {image: "7:8", want: user{7, 8, []uint32{8}}},
		"unknown_name":    {image: "ghost", wantErrors: "unable to find user ghost"},
		"unknown_group":   {image: "web:ghosts", wantErrors: "unable to find group ghosts"},
		"too_great":       {image: "huge", wantErrors: "unable to find user huge"},
		"run_as":          {image: "web", user: ptr(int64(5)), want: user{5, 0, []uint32{0}}},
		"run_as_known":    {user: ptr(int64(101)), want: user{101, 102, []uint32{102, 103}}},
		"run_as_group":    {image: "web", grp: ptr(int64(9)), want: user{101, 9, []uint32{9, 103}}},
		"no_files":        {empty: true, want: user{0, 0, []uint32{0}}},
		"no_files_number": {image: "5:6", empty: true, want: user{5, 6, []uint32{6}}},
		"no_files_name":   {image: "web", empty: true, wantErrors: "unable to find user web"},
	} {
		files := db
		if tc.empty {
			files = userDB{}
		}
		got, err := resolveUser(testPod("p"), &corev1.Container{SecurityContext: &corev1.SecurityContext{RunAsUser: tc.user, RunAsGroup: tc.grp}}, tc.image, files)
		if tc.wantErrors != "" {
			if err == nil || !strings.Contains(err.Error(), tc.wantErrors) {
				t.Errorf("%s: %v", name, err)
			}
		} else if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", name, err, diff)
		}
	}
}

// FuzzResolveUser feeds what images hold: whatever it is, a process gets a user that was asked for, or an error.
func FuzzResolveUser(f *testing.F) {
	f.Add("web:staff", []byte("web:x:1:2::/:\n"), []byte("staff:x:5:web\n"))
	f.Add("1000", []byte(":::\n\n::0:0"), []byte("a:b"))
	f.Add("-1", []byte("-1:x:-1:-1:::"), []byte{0})
	f.Fuzz(func(t *testing.T, name string, passwd, group []byte) {
		u, err := resolveUser(testPod("p"), &corev1.Container{}, name, userDB{passwd, group})
		if err == nil && (u.UID > 1<<31-1 || u.GID > 1<<31-1 || !slices.Contains(u.Groups, u.GID)) {
			t.Errorf("%q gave %+v", name, u)
		}
	})
}

func TestPageSizes(t *testing.T) {
	for kb, want := range map[int64]string{64: "64KB", 2048: "2MB", 1 << 20: "1GB"} {
		if got := pageSizeName(kb); got != want {
			t.Errorf("%d KiB is %s, want %s", kb, got, want)
		}
	}
	for size, want := range map[string]string{"2MB": "2Mi", "1GB": "1Gi", "64KB": "64Ki"} {
		if got := quantityOfPageSize(size); got != want {
			t.Errorf("%s is %s, want %s", size, got, want)
		}
	}
}
