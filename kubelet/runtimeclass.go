// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// defaultHandler is the runtime that every node has; a RuntimeClass may name it.
const defaultHandler = "runc"

// runtimeHandlers are the handlers as the Node shows them: "" is what pods without a RuntimeClass get.
func (k *Kubelet) runtimeHandlers() []corev1.NodeRuntimeHandler {
	no, rro := false, k.rro
	features := func() *corev1.NodeRuntimeHandlerFeatures {
		return &corev1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: &rro, UserNamespaces: &no}
	}
	var out []corev1.NodeRuntimeHandler
	for _, name := range append([]string{""}, k.cfg.RuntimeHandlers...) {
		out = append(out, corev1.NodeRuntimeHandler{Name: name, Features: features()})
	}
	return out
}

// kernelHasMountSetattr asks for mount_setattr (Linux 5.12), by which runc makes mounts read-only with all that is mounted below.
func kernelHasMountSetattr() bool {
	return !errors.Is(unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{}), unix.ENOSYS)
}

// checkRuntimeClass says why the pod's RuntimeClass cannot be had on this node. The API server has seen to it that the class existed
// when the pod was made; what its handler is only the class says, and only the node knows whether there is such a handler.
func (k *Kubelet) checkRuntimeClass(ctx context.Context, pod *corev1.Pod) error {
	if pod.Spec.RuntimeClassName == nil || *pod.Spec.RuntimeClassName == "" {
		return nil
	}
	class, err := k.cfg.Client.NodeV1().RuntimeClasses().Get(ctx, *pod.Spec.RuntimeClassName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("failed to get sandbox runtime: %w", err)
	}
	if class.Handler != "" && !slices.Contains(k.cfg.RuntimeHandlers, class.Handler) {
		return fmt.Errorf("failed to get sandbox runtime: no runtime for %q is configured", class.Handler)
	}
	return nil
}
