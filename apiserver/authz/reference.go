package authz

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// refKey is how the index names that a pod on the node refers to an object.
func refKey(node, kind, namespace, name string) string {
	return node + "|" + kind + "|" + namespace + "|" + name
}

// podReferences are the keys of the pod itself and of everything that the kubelet of its node must read for it. A pod that
// is bound to no node has none, and a mirror pod only its own: it stands for a file on the node, which could otherwise ask
// for any secret.
func podReferences(pod *corev1.Pod) []string {
	node := pod.Spec.NodeName
	if node == "" {
		return nil
	}
	keys := []string{refKey(node, "pods", pod.Namespace, pod.Name)}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return keys
	}
	add := func(kind, name string) {
		if name != "" {
			keys = append(keys, refKey(node, kind, pod.Namespace, name))
		}
	}
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = pod.Spec.DeprecatedServiceAccount
	}
	add("serviceaccounts", account)
	for _, s := range pod.Spec.ImagePullSecrets {
		add("secrets", s.Name)
	}
	for i := range pod.Spec.InitContainers {
		environment(pod.Spec.InitContainers[i].EnvFrom, pod.Spec.InitContainers[i].Env, add)
	}
	for i := range pod.Spec.Containers {
		environment(pod.Spec.Containers[i].EnvFrom, pod.Spec.Containers[i].Env, add)
	}
	for i := range pod.Spec.EphemeralContainers {
		environment(pod.Spec.EphemeralContainers[i].EnvFrom, pod.Spec.EphemeralContainers[i].Env, add)
	}
	for i := range pod.Spec.Volumes {
		volume(pod, &pod.Spec.Volumes[i], add)
	}
	for _, claim := range pod.Status.ResourceClaimStatuses {
		if claim.ResourceClaimName != nil {
			add("resourceclaims", *claim.ResourceClaimName)
		}
	}
	for _, claim := range pod.Spec.ResourceClaims {
		if claim.ResourceClaimName != nil {
			add("resourceclaims", *claim.ResourceClaimName)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func environment(from []corev1.EnvFromSource, env []corev1.EnvVar, add func(kind, name string)) {
	for i := range from {
		if ref := from[i].ConfigMapRef; ref != nil {
			add("configmaps", ref.Name)
		}
		if ref := from[i].SecretRef; ref != nil {
			add("secrets", ref.Name)
		}
	}
	for i := range env {
		source := env[i].ValueFrom
		if source == nil {
			continue
		}
		if ref := source.ConfigMapKeyRef; ref != nil {
			add("configmaps", ref.Name)
		}
		if ref := source.SecretKeyRef; ref != nil {
			add("secrets", ref.Name)
		}
	}
}

func volume(pod *corev1.Pod, v *corev1.Volume, add func(kind, name string)) {
	secret := func(ref *corev1.LocalObjectReference) {
		if ref != nil {
			add("secrets", ref.Name)
		}
	}
	switch {
	case v.Secret != nil:
		add("secrets", v.Secret.SecretName)
	case v.ConfigMap != nil:
		add("configmaps", v.ConfigMap.Name)
	case v.PersistentVolumeClaim != nil:
		add("persistentvolumeclaims", v.PersistentVolumeClaim.ClaimName)
	case v.Ephemeral != nil:
		add("persistentvolumeclaims", pod.Name+"-"+v.Name)
	case v.Projected != nil:
		for _, source := range v.Projected.Sources {
			if source.Secret != nil {
				add("secrets", source.Secret.Name)
			}
			if source.ConfigMap != nil {
				add("configmaps", source.ConfigMap.Name)
			}
		}
	case v.CSI != nil:
		secret(v.CSI.NodePublishSecretRef)
	case v.AzureFile != nil:
		add("secrets", v.AzureFile.SecretName)
	case v.CephFS != nil:
		secret(v.CephFS.SecretRef)
	case v.FlexVolume != nil:
		secret(v.FlexVolume.SecretRef)
	case v.ISCSI != nil:
		secret(v.ISCSI.SecretRef)
	case v.RBD != nil:
		secret(v.RBD.SecretRef)
	case v.ScaleIO != nil:
		secret(v.ScaleIO.SecretRef)
	case v.StorageOS != nil:
		secret(v.StorageOS.SecretRef)
	}
}
