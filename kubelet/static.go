// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/mini-k8s/mini/kubelet/logs"
)

// The annotations by which upstream's tools know a static pod.
const (
	annotationConfigHash   = "kubernetes.io/config.hash"
	annotationConfigSource = "kubernetes.io/config.source"
	annotationConfigMirror = corev1.MirrorPodAnnotationKey
)

// staticPatience is how long static pods wait for the API's answer before they start without it: with it, what the API shows of
// them is taken on; without it, they run all the same.
const staticPatience = 5 * time.Second

// followManifests keeps the static pods what the files of a folder say until ctx ends.
func (k *Kubelet) followManifests(ctx context.Context) {
	dir := k.cfg.ManifestPath
	for told := false; ; {
		changed, stop, err := logs.Watch(dir)
		if err == nil {
			told = false
			for again := true; again; again = waitChange(ctx, changed) {
				k.readManifests()
			}
			stop()
		} else if !told {
			told = true
			k.log.Warn("cannot watch the folder of static pods, will go on trying", "dir", dir, "err", err)
			k.readManifests() // it may have gone away, and its pods with it
		}
		if !sleep(ctx, time.Second) {
			return
		}
	}
}

// waitChange is false when ctx or the watch has ended. Before that it lets a burst of writes come to its end.
func waitChange(ctx context.Context, changed <-chan struct{}) bool {
	select {
	case <-ctx.Done():
		return false
	case _, ok := <-changed:
		return ok && sleep(ctx, 20*time.Millisecond)
	}
}

// readManifests brings the static pods in line with the folder. A file that cannot be read or is no pod is told and passed over; the pod it
// stood for before ends.
func (k *Kubelet) readManifests() {
	wanted := map[types.UID]*corev1.Pod{}
	entries, err := os.ReadDir(k.cfg.ManifestPath)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		k.log.Warn("cannot read the folder of static pods", "dir", k.cfg.ManifestPath, "err", err)
		return
	}
	taken := map[string]string{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || strings.HasSuffix(e.Name(), "~") {
			continue
		}
		path := filepath.Join(k.cfg.ManifestPath, e.Name())
		if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			k.log.Warn("cannot read the manifest of a static pod", "file", path, "err", err)
			continue
		}
		pod, err := staticPod(data, path, k.cfg.NodeName)
		if err == nil {
			name := pod.Namespace + "/" + pod.Name
			if other, dup := taken[name]; dup {
				err = fmt.Errorf("%s stands for a pod of the same name", other)
			}
			taken[name] = path
		}
		if err != nil {
			k.log.Warn("a manifest is no static pod for this node", "file", path, "err", err)
			continue
		}
		if k.cfg.DefaultPod != nil {
			k.cfg.DefaultPod(pod)
		}
		wanted[pod.UID] = pod
	}
	for _, p := range k.staticStates() {
		if wanted[p.uid] == nil {
			k.update(p, func() { p.gone = true })
		}
	}
	for _, pod := range wanted {
		k.addStatic(pod)
	}
}

func (k *Kubelet) staticStates() []*podState {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []*podState
	for _, uids := range k.static {
		for _, uid := range uids {
			if p := k.pods[uid]; p != nil && p.static.Load() {
				out = append(out, p)
			}
		}
	}
	return out
}

// addStatic takes in a static pod. One of the same name that still runs, of this life or an earlier one, goes first.
func (k *Kubelet) addStatic(pod *corev1.Pod) {
	name := pod.Namespace + "/" + pod.Name
	k.mu.Lock()
	all := k.podListLocked()
	p := k.pods[pod.UID]
	if p == nil {
		p = newPodState(pod.UID)
		k.pods[pod.UID] = p
	}
	k.mu.Unlock()
	if p.static.Load() {
		p.mu.Lock()
		gone := p.gone
		p.mu.Unlock()
		if gone { // the file was away for a moment: begin anew when the end is through
			k.mu.Lock()
			k.again[pod.UID] = pod
			k.mu.Unlock()
		}
		return
	}
	var before []types.UID
	for _, o := range all {
		if o == p {
			continue
		}
		o.mu.Lock()
		if o.pod == nil && o.ref.Namespace == pod.Namespace && o.ref.Name == pod.Name {
			before = append(before, o.uid)
		}
		o.mu.Unlock()
	}
	k.mu.Lock()
	for _, uid := range append(before, pod.UID) {
		if !slices.Contains(k.static[name], uid) {
			k.static[name] = append(k.static[name], uid)
		}
	}
	k.mu.Unlock()
	p.static.Store(true)
	k.update(p, func() { p.take(pod) })
}

// isNext says whether no earlier static pod of the same name is left.
func (k *Kubelet) isNext(p *podState) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	uids := k.static[p.ref.Namespace+"/"+p.ref.Name]
	return len(uids) == 0 || uids[0] == p.uid
}

// leaveStatic lets the next static pod of the same name begin. k.mu is held; the state to bring forward comes back.
func (k *Kubelet) leaveStaticLocked(p *podState) (next *podState, again *corev1.Pod) {
	name := p.ref.Namespace + "/" + p.ref.Name
	uids, ok := k.static[name]
	if !ok {
		return nil, nil
	}
	uids = slices.DeleteFunc(uids, func(u types.UID) bool { return u == p.uid })
	if len(uids) == 0 {
		delete(k.static, name)
	} else {
		k.static[name] = uids
		next = k.pods[uids[0]]
	}
	again = k.again[p.uid]
	delete(k.again, p.uid)
	return next, again
}

// staticPod makes the pod that a manifest stands for on a node, as upstream's file source does: named after the node, known by
// a hash of what it says, tolerating every taint that would evict it.
func staticPod(data []byte, path, node string) (*corev1.Pod, error) {
	o, _, err := scheme.Codecs.UniversalDeserializer().Decode(data, nil, nil)
	if err != nil {
		return nil, err
	}
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return nil, fmt.Errorf("it is a %s", o.GetObjectKind().GroupVersionKind().Kind)
	}
	pod.APIVersion, pod.Kind = "", ""
	pod.Status = corev1.PodStatus{}
	content, err := json.Marshal(pod)
	if err != nil {
		return nil, err
	}
	if pod.UID == "" {
		sum := sha256.Sum256(fmt.Appendf(content, "host:%s file:%s", node, path))
		pod.UID = types.UID(hex.EncodeToString(sum[:16]))
	}
	if pod.Name == "" {
		return nil, errors.New("it has no name")
	}
	pod.Name += "-" + strings.ToLower(node)
	if pod.Namespace == "" {
		pod.Namespace = metav1.NamespaceDefault
	}
	if problems := validation.IsDNS1123Subdomain(pod.Name); len(problems) > 0 {
		return nil, fmt.Errorf("name %q: %s", pod.Name, strings.Join(problems, "; "))
	}
	if problems := validation.IsDNS1123Label(string(pod.UID)); len(problems) > 0 {
		return nil, fmt.Errorf("uid %q: %s", pod.UID, strings.Join(problems, "; "))
	}
	if err := refuseReferences(pod); err != nil {
		return nil, err
	}
	pod.Spec.NodeName = node
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[annotationConfigHash] = string(pod.UID)
	pod.Annotations[annotationConfigSource] = "file"
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute})
	pod.Status.Phase = corev1.PodPending
	return pod, nil
}

// refuseReferences keeps a file on the node off objects of the API, which its mirror pod may not name.
func refuseReferences(pod *corev1.Pod) error {
	if len(pod.Spec.Containers) == 0 {
		return errors.New("it has no containers")
	}
	for c := range podContainers(pod) {
		if c.Name == "" || c.Image == "" {
			return errors.New("every container needs a name and an image")
		}
	}
	refuse := func(what string) error { return fmt.Errorf("a static pod may not reference %s", what) }
	if pod.Spec.ServiceAccountName != "" || pod.Spec.DeprecatedServiceAccount != "" {
		return refuse("service accounts")
	}
	if len(pod.Spec.ResourceClaims) > 0 {
		return refuse("resource claims")
	}
	if len(pod.Spec.EphemeralContainers) > 0 {
		return errors.New("a static pod may not have ephemeral containers")
	}
	for _, key := range objectKeys(pod) {
		return refuse(string(key.Kind) + "s")
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.Secret != nil:
			return refuse("secrets")
		case v.ConfigMap != nil:
			return refuse("configmaps")
		case v.PersistentVolumeClaim != nil, v.Ephemeral != nil:
			return refuse("persistentvolumeclaims")
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.DownwardAPI == nil {
					return refuse("objects by a projected volume")
				}
			}
		}
	}
	return nil
}
