package volume

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/mini-k8s/mini/controller/podstate"
)

// Finalizers and annotations are upstream's.
const (
	claimProtection  = "kubernetes.io/pvc-protection"
	volumeProtection = "kubernetes.io/pv-protection"

	bindCompleted     = "pv.kubernetes.io/bind-completed"
	boundByController = "pv.kubernetes.io/bound-by-controller"
)

// claimChanges is the next step of a claim; at most one of the objects is set.
type claimChanges struct {
	claim       *corev1.PersistentVolumeClaim // to be written
	claimStatus *corev1.PersistentVolumeClaim // to be written to the status
	volume      *corev1.PersistentVolume      // to be written
	waits       string                        // why the claim stays Pending, for an event: reason and message
	reason      string
}

func classOf(meta *metav1.ObjectMeta, name *string) string {
	if older, ok := meta.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return older
	}
	if name == nil {
		return ""
	}
	return *name
}

// planClaim decides for a claim. volumes are all there are, pods those that use the claim, class is its StorageClass or nil.
func planClaim(claim *corev1.PersistentVolumeClaim, volumes []*corev1.PersistentVolume, pods []*corev1.Pod, class *storagev1.StorageClass) claimChanges {
	if claim.DeletionTimestamp != nil {
		if !slices.Contains(claim.Finalizers, claimProtection) || slices.ContainsFunc(pods, uses) {
			return claimChanges{}
		}
		next := claim.DeepCopy()
		next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == claimProtection })
		return claimChanges{claim: next}
	}
	if claim.Spec.VolumeName == "" {
		volume := match(claim, volumes)
		switch waiting := class != nil && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer; {
		case waiting && len(pods) == 0 && (volume == nil || volume.Spec.ClaimRef == nil):
			return claimChanges{reason: "WaitForFirstConsumer", waits: "waiting for first consumer to be created before binding"}
		case volume == nil && class != nil && class.Provisioner != "kubernetes.io/no-provisioner":
			return claimChanges{reason: "ExternalProvisioning", waits: fmt.Sprintf("Waiting for a volume to be created either by the external provisioner '%s' "+
				"or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.", class.Provisioner)}
		case volume == nil:
			return claimChanges{reason: "FailedBinding", waits: "no persistent volumes available for this claim and no storage class is set"}
		}
		if !boundTo(volume, claim) {
			return claimChanges{volume: reserve(volume, claim)}
		}
		next := claim.DeepCopy()
		next.Spec.VolumeName = volume.Name
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, bindCompleted, "yes")
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, boundByController, "yes")
		return claimChanges{claim: next}
	}
	return planNamed(claim, volumes)
}

// planNamed decides for a claim that says which volume it wants or has.
func planNamed(claim *corev1.PersistentVolumeClaim, volumes []*corev1.PersistentVolume) claimChanges {
	at := slices.IndexFunc(volumes, func(v *corev1.PersistentVolume) bool { return v.Name == claim.Spec.VolumeName })
	_, completed := claim.Annotations[bindCompleted]
	if at < 0 || !boundTo(volumes[at], claim) && !free(volumes[at], claim) {
		switch {
		case completed:
			return claimStatus(claim, corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimLost})
		case at < 0:
			return claimStatus(claim, corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending})
		}
		return claimChanges{reason: "FailedBinding", waits: fmt.Sprintf("volume %q already bound to a different claim.", volumes[at].Name)}
	}
	volume := volumes[at]
	if !boundTo(volume, claim) {
		if why := misfit(claim, volume); why != "" {
			return claimChanges{reason: "VolumeMismatch", waits: fmt.Sprintf("Cannot bind to requested volume %q: %s", volume.Name, why)}
		}
		return claimChanges{volume: reserve(volume, claim)}
	}
	if !completed {
		next := claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, bindCompleted, "yes")
		return claimChanges{claim: next}
	}
	status := *claim.Status.DeepCopy()
	status.Phase, status.AccessModes = corev1.ClaimBound, volume.Spec.AccessModes
	if status.Capacity == nil { // afterwards a resize keeps it
		status.Capacity = volume.Spec.Capacity
	}
	if c := volume.Spec.VolumeAttributesClassName; c != nil && status.CurrentVolumeAttributesClassName == nil {
		status.CurrentVolumeAttributesClassName = c
	}
	return claimStatus(claim, status)
}

// claimStatus writes a status if it differs in what is decided here.
func claimStatus(claim *corev1.PersistentVolumeClaim, status corev1.PersistentVolumeClaimStatus) claimChanges {
	was := &claim.Status
	if was.Phase == status.Phase && slices.Equal(was.AccessModes, status.AccessModes) && len(was.Capacity) == len(status.Capacity) &&
		(was.CurrentVolumeAttributesClassName == nil) == (status.CurrentVolumeAttributesClassName == nil) {
		return claimChanges{}
	}
	next := claim.DeepCopy()
	next.Status = status
	return claimChanges{claimStatus: next}
}

// uses says whether a pod keeps its claims: it is on a node and has not ended.
func uses(pod *corev1.Pod) bool { return pod.Spec.NodeName != "" && !podstate.Terminal(pod) }

func boundTo(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	return v.Spec.ClaimRef != nil && v.Spec.ClaimRef.UID == claim.UID
}

// free says whether the volume is nobody's, or set aside for this claim by name.
func free(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	ref := v.Spec.ClaimRef
	return ref == nil || ref.UID == "" && ref.Namespace == claim.Namespace && ref.Name == claim.Name
}

func reserve(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) *corev1.PersistentVolume {
	next := v.DeepCopy()
	if next.Spec.ClaimRef == nil {
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, boundByController, "yes")
	}
	next.Spec.ClaimRef = &corev1.ObjectReference{
		APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID, ResourceVersion: claim.ResourceVersion,
	}
	return next
}

// misfit says what of a claim a volume does not offer; "" if it offers all.
func misfit(claim *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) string {
	mode := func(m *corev1.PersistentVolumeMode) corev1.PersistentVolumeMode {
		if m == nil {
			return corev1.PersistentVolumeFilesystem
		}
		return *m
	}
	has, wants := v.Spec.Capacity[corev1.ResourceStorage], claim.Spec.Resources.Requests[corev1.ResourceStorage]
	switch {
	case has.Cmp(wants) < 0:
		return "requested PV is too small"
	case classOf(&v.ObjectMeta, &v.Spec.StorageClassName) != classOf(&claim.ObjectMeta, claim.Spec.StorageClassName):
		return "storageClassName does not match"
	case mode(v.Spec.VolumeMode) != mode(claim.Spec.VolumeMode):
		return "incompatible volumeMode"
	}
	for _, m := range claim.Spec.AccessModes {
		if !slices.Contains(v.Spec.AccessModes, m) {
			return "incompatible accessMode"
		}
	}
	return ""
}

// match finds the volume for a claim: one that is the claim's already, one that is set aside for it, else the smallest.
func match(claim *corev1.PersistentVolumeClaim, volumes []*corev1.PersistentVolume) *corev1.PersistentVolume {
	selector := labels.Everything()
	if claim.Spec.Selector != nil {
		var err error
		if selector, err = metav1.LabelSelectorAsSelector(claim.Spec.Selector); err != nil {
			return nil
		}
	}
	var best *corev1.PersistentVolume
	for _, v := range volumes {
		if boundTo(v, claim) {
			return v
		}
		if v.DeletionTimestamp != nil || !free(v, claim) || misfit(claim, v) != "" {
			continue
		}
		if v.Spec.ClaimRef == nil && !selector.Matches(labels.Set(v.Labels)) {
			continue
		}
		if best == nil || better(v, best) {
			best = v
		}
	}
	return best
}

// better says whether a is to be taken rather than b.
func better(a, b *corev1.PersistentVolume) bool {
	if aside := a.Spec.ClaimRef != nil; aside != (b.Spec.ClaimRef != nil) {
		return aside
	}
	size, other := a.Spec.Capacity[corev1.ResourceStorage], b.Spec.Capacity[corev1.ResourceStorage]
	if c := size.Cmp(other); c != 0 {
		return c < 0
	}
	return a.Name < b.Name
}

// volumeChanges is the next step of a volume; at most one is set.
type volumeChanges struct {
	volume *corev1.PersistentVolume
	status *corev1.PersistentVolume
}

// planVolume decides for a volume. claim is the one that its claimRef names, nil if there is none.
func planVolume(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) volumeChanges {
	phase, ref := corev1.VolumeAvailable, v.Spec.ClaimRef
	switch {
	case ref == nil || ref.UID == "":
	case claim == nil || claim.UID != ref.UID:
		phase = corev1.VolumeReleased
	case claim.Spec.VolumeName == "" || claim.Spec.VolumeName == v.Name:
		phase = corev1.VolumeBound
	default: // the claim took another: what was set aside for it is free again
		next := v.DeepCopy()
		next.Spec.ClaimRef = nil
		delete(next.Annotations, boundByController)
		return volumeChanges{volume: next}
	}
	if v.DeletionTimestamp != nil && phase != corev1.VolumeBound && slices.Contains(v.Finalizers, volumeProtection) {
		next := v.DeepCopy()
		next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == volumeProtection })
		return volumeChanges{volume: next}
	}
	if v.Status.Phase == phase || v.Status.Phase == corev1.VolumeFailed && phase == corev1.VolumeReleased {
		return volumeChanges{}
	}
	next := v.DeepCopy()
	next.Status = corev1.PersistentVolumeStatus{Phase: phase}
	return volumeChanges{status: next}
}
