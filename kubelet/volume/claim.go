// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/mini-k8s/mini/kubelet/container"
)

// Claims reads what a pod's claims are bound to.
type Claims struct {
	Client kubernetes.Interface
	// Node returns the labels of this node, which a volume's nodeAffinity is about.
	Node func() map[string]string
}

// claimName is the claim behind a volume: one that is named, or the one made for the pod (generic ephemeral volumes).
func claimName(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return pod.Name + "-" + v.Name
	}
	return ""
}

// resolve returns the PersistentVolume that the claim is bound to, if this node may use it.
func (c Claims) resolve(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (*corev1.PersistentVolume, error) {
	name := claimName(pod, v)
	fail := func(err error) (*corev1.PersistentVolume, error) {
		return nil, fmt.Errorf("error processing PVC %s/%s: %w", pod.Namespace, name, err)
	}
	if c.Client == nil {
		return fail(errors.New("claims cannot be read"))
	}
	claim, err := c.Client.CoreV1().PersistentVolumeClaims(pod.Namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case err != nil:
		return fail(fmt.Errorf("failed to fetch PVC from API server: %w", err))
	case v.Ephemeral != nil && !metav1.IsControlledBy(claim, pod):
		return fail(fmt.Errorf("PVC %s was not created for pod %s (pod is not owner)", name, pod.Name))
	case claim.DeletionTimestamp != nil:
		return fail(errors.New("PVC is being deleted"))
	case claim.Status.Phase != corev1.ClaimBound || claim.Spec.VolumeName == "":
		return fail(errors.New("PVC is not bound"))
	}
	pv, err := c.Client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return fail(fmt.Errorf("failed to fetch PV %s from API server: %w", claim.Spec.VolumeName, err))
	}
	if ref := pv.Spec.ClaimRef; ref == nil || ref.UID != claim.UID {
		return fail(fmt.Errorf("PV %s is bound to another claim", pv.Name))
	}
	if err := checkMode(pod, v, pv); err != nil {
		return fail(err)
	}
	if a := pv.Spec.NodeAffinity; a != nil && a.Required != nil && c.Node != nil {
		selector, err := nodeaffinity.NewNodeSelector(a.Required)
		if err != nil {
			return fail(err)
		}
		if !selector.Match(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: c.Node()}}) {
			return fail(fmt.Errorf("volume %s is not on this node: its nodeAffinity does not match", pv.Name))
		}
	}
	return pv, nil
}

func isBlock(pv *corev1.PersistentVolume) bool {
	return pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == corev1.PersistentVolumeBlock
}

// checkMode holds what the pod's containers do with a volume against its mode.
func checkMode(pod *corev1.Pod, v *corev1.Volume, pv *corev1.PersistentVolume) error {
	mode, at := corev1.PersistentVolumeFilesystem, "volumeDevices"
	if isBlock(pv) {
		mode, at = corev1.PersistentVolumeBlock, "volumeMounts"
	}
	wrong := false
	check := func(c *corev1.Container) {
		if isBlock(pv) {
			wrong = wrong || slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name })
		} else {
			wrong = wrong || slices.ContainsFunc(c.VolumeDevices, func(d corev1.VolumeDevice) bool { return d.Name == v.Name })
		}
	}
	for i := range pod.Spec.InitContainers {
		check(&pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		check(&pod.Spec.Containers[i])
	}
	for i := range pod.Spec.EphemeralContainers {
		check((*corev1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
	if wrong {
		return fmt.Errorf("volume %s has volumeMode %s, but is specified in %s", v.Name, mode, at)
	}
	return nil
}

// claim makes the volume behind a claim: a local one is bound below the pod's directory, so that it ends with the pod; a hostPath is
// used where it is, and so is a block device.
func (m *Manager) claim(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) error {
	pv, err := m.cfg.Claims.resolve(ctx, pod, v)
	if err != nil {
		return err
	}
	at := ""
	switch {
	case isBlock(pv) && pv.Spec.Local == nil:
		return fmt.Errorf("persistent volume %s is not local: no block volume plugin matched", pv.Name)
	case isBlock(pv):
		if err := checkBlockDevice(pv.Spec.Local.Path); err != nil {
			return err
		}
		at = pv.Spec.Local.Path
	case pv.Spec.HostPath != nil:
		if err := hostPath(pv.Spec.HostPath); err != nil {
			return err
		}
		at = pv.Spec.HostPath.Path
	case pv.Spec.Local != nil:
		at = filepath.Join(m.PodDir(pod.UID), "volumes", "kubernetes.io~local-volume", pv.Name)
		made, err := bindLocal(pv.Spec.Local.Path, at)
		if err != nil {
			return err
		}
		if gid := fsGroup(pod); gid != nil && made {
			if err := ownTree(at, int(*gid), false); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("persistent volume %s is neither local nor hostPath: no volume plugin matched", pv.Name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.claims[pod.UID] == nil {
		m.claims[pod.UID] = map[string]string{}
	}
	m.claims[pod.UID][v.Name] = at
	return nil
}

func checkBlockDevice(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st.Mode()&fs.ModeType != fs.ModeDevice {
		return fmt.Errorf("local volume %s is not a block device", path)
	}
	return nil
}

// Claim names the claim behind a volume, "" for none, and tells whether it is bound to a path of the node's own file system.
func (m *Manager) Claim(pod *corev1.Pod, v *corev1.Volume) (name string, hostPath bool) {
	if name = claimName(pod, v); name == "" {
		return "", false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.claims[pod.UID][v.Name]
	st, err := os.Stat(at)
	return name, err == nil && st.IsDir() && !strings.HasPrefix(at, m.PodDir(pod.UID)+"/")
}

// Devices are the block devices of one container of the pod. Setup must have been called.
func (m *Manager) Devices(pod *corev1.Pod, c *corev1.Container) ([]container.Device, error) {
	var out []container.Device
	for _, d := range c.VolumeDevices {
		if !filepath.IsAbs(d.DevicePath) {
			return nil, fmt.Errorf("error DevicePath `%s` must be an absolute path", d.DevicePath)
		}
		i := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == d.Name })
		if i < 0 || claimName(pod, &pod.Spec.Volumes[i]) == "" {
			return nil, fmt.Errorf("cannot find volume %q to pass into container %q", d.Name, c.Name)
		}
		v := &pod.Spec.Volumes[i]
		at := m.Path(pod, v)
		if at == "" {
			return nil, fmt.Errorf("volume %q is not set up yet", v.Name)
		}
		out = append(out, container.Device{HostPath: at, ContainerPath: d.DevicePath,
			ReadOnly: v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly})
	}
	return out, nil
}

// bindLocal mounts a directory of the node, unless it is mounted already. A local volume is never made: that it is missing means
// that its disk is.
func bindLocal(from, at string) (made bool, err error) {
	st, err := os.Stat(from)
	if err != nil {
		return false, err
	}
	if !st.IsDir() {
		return false, fmt.Errorf("local volume %s is not a directory", from)
	}
	if err := os.MkdirAll(at, 0o750); err != nil {
		return false, err
	}
	if isMountPoint(at) {
		return false, nil
	}
	if err := unix.Mount(from, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return false, fmt.Errorf("bind %s: %w", from, err)
	}
	// What the pod mounts in it must not reach the node, nor the other way round when it ends.
	if err := unix.Mount("", at, "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return false, errors.Join(fmt.Errorf("bind %s: %w", from, err), unix.Unmount(at, unix.MNT_DETACH))
	}
	return true, nil
}
