// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mini-k8s/mini/kubelet/container"
	"github.com/mini-k8s/mini/kubelet/steps"
)

// Reasons of images that cannot be had.
const (
	reasonErrImagePull     = "ErrImagePull"
	reasonImagePullBackOff = "ImagePullBackOff"
	reasonErrNeverPull     = "ErrImageNeverPull"
	reasonInvalidImageName = "InvalidImageName"
)

// pullBackoffStart and pullBackoffMax rule when a failed pull is tried again.
const (
	pullBackoffStart = 10 * time.Second
	pullBackoffMax   = 5 * time.Minute
)

// puller gets images for containers: one pull of an image at a time, back-off per pod and image.
type puller struct {
	k *Kubelet

	mu      sync.Mutex
	locks   map[string]*pullLock
	backoff map[pullKey]*pullBackoff
}

type pullLock struct {
	ch    chan struct{} // holds one token
	users int
}

type pullKey struct {
	pod   types.UID
	image string
}

type pullBackoff struct {
	delay time.Duration
	until time.Time
	last  string // the error
}

// pulledImage is an image and the reference it was found by.
type pulledImage struct {
	container.Image
	Ref string
}

func newPuller(k *Kubelet) *puller {
	return &puller{k: k, locks: map[string]*pullLock{}, backoff: map[pullKey]*pullBackoff{}}
}

// wantedImage is an image without which a container cannot start: its own or that of a volume.
type wantedImage struct {
	pod    *corev1.Pod
	c      *corev1.Container
	image  string
	policy corev1.PullPolicy
	volume bool
}

// imageOf is a container's own image.
func imageOf(pod *corev1.Pod, c *corev1.Container) wantedImage {
	return wantedImage{pod: pod, c: c, image: c.Image, policy: pullPolicy(c.ImagePullPolicy, c.Image)}
}

// imagesMounted are the images that a container has as volumes.
func imagesMounted(pod *corev1.Pod, c *corev1.Container) []wantedImage {
	var out []wantedImage
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Image != nil && slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name }) {
			out = append(out, wantedImage{pod: pod, c: c, image: v.Image.Reference, policy: pullPolicy(v.Image.PullPolicy, v.Image.Reference), volume: true})
		}
	}
	return out
}

// tell records an Event about the image. As upstream has it, that of a volume is the pod's affair.
func (u *puller) tell(w wantedImage, eventType, reason, message string) {
	if w.volume {
		u.k.recorder.Event(w.pod, eventType, reason, message)
		return
	}
	u.k.containerEvent(w.pod, w.c, eventType, reason, message)
}

// holdsUp records that the container cannot start.
func (u *puller) holdsUp(w wantedImage, reason string) {
	u.k.containerEvent(w.pod, w.c, corev1.EventTypeWarning, "Failed", "Error: "+reason)
}

// ensureVolumes gets the images that a container mounts; the error is the last one's.
func (u *puller) ensureVolumes(ctx context.Context, pod *corev1.Pod, c *corev1.Container) error {
	var last error
	for _, w := range imagesMounted(pod, c) {
		if _, err := u.ensure(ctx, w); err != nil {
			last = err
		}
	}
	return last
}

// ensure returns an image, pulled if its policy asks for that. Errors are *startError.
func (u *puller) ensure(ctx context.Context, w wantedImage) (pulledImage, error) {
	named, err := reference.ParseDockerRef(w.image)
	if err != nil {
		msg := fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: %v", w.image, w.image, err)
		u.tell(w, corev1.EventTypeWarning, "InspectFailed", msg)
		u.holdsUp(w, reasonInvalidImageName)
		return pulledImage{}, &startError{reason: reasonInvalidImageName, message: msg, wait: time.Now().Add(pullBackoffStart)}
	}
	ref := named.String()
	if w.policy != corev1.PullAlways {
		end := steps.Begin(ctx, "look for image")
		img, err := u.k.cfg.Images.Image(ctx, ref)
		end()
		switch {
		case err == nil:
			u.tell(w, corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine", w.image))
			return pulledImage{img, ref}, nil
		case w.policy == corev1.PullNever:
			msg := fmt.Sprintf("Container image %q is not present with pull policy of Never", w.image)
			u.tell(w, corev1.EventTypeWarning, reasonErrNeverPull, msg)
			u.holdsUp(w, reasonErrNeverPull)
			return pulledImage{}, &startError{reason: reasonErrNeverPull, message: msg, wait: time.Now().Add(pullBackoffStart)}
		}
	}
	return u.pull(ctx, w, ref)
}

func (u *puller) pull(ctx context.Context, w wantedImage, ref string) (pulledImage, error) {
	key := pullKey{w.pod.UID, ref}
	u.mu.Lock()
	b := u.backoff[key]
	if b != nil && time.Now().Before(b.until) {
		wait, last := b.until, b.last
		u.mu.Unlock()
		msg := fmt.Sprintf("Back-off pulling image %q: %s: %s", w.image, reasonErrImagePull, last)
		u.tell(w, corev1.EventTypeNormal, "BackOff", fmt.Sprintf("Back-off pulling image %q", w.image))
		u.holdsUp(w, reasonImagePullBackOff)
		return pulledImage{}, &startError{reason: reasonImagePullBackOff, message: msg, wait: wait}
	}
	u.mu.Unlock()
	began := time.Now()
	img, took, err := u.pullLocked(ctx, w, ref)
	u.mu.Lock()
	defer u.mu.Unlock()
	if err == nil {
		delete(u.backoff, key)
		if took > 0 {
			u.k.node.imagesChanged()
			total := time.Since(began)
			u.tell(w, corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.",
				w.image, took.Truncate(time.Millisecond), total.Truncate(time.Millisecond), img.Size))
		} else {
			u.tell(w, corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine", w.image))
		}
		return pulledImage{img, ref}, nil
	}
	if ctx.Err() != nil {
		return pulledImage{}, ctx.Err()
	}
	if b == nil {
		b = &pullBackoff{delay: pullBackoffStart}
		u.backoff[key] = b
	} else {
		b.delay = min(2*b.delay, pullBackoffMax)
	}
	b.until, b.last = time.Now().Add(b.delay), err.Error()
	u.tell(w, corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", w.image, err))
	u.holdsUp(w, reasonErrImagePull)
	// Looked at again at once: that is when ErrImagePull turns into ImagePullBackOff.
	return pulledImage{}, &startError{reason: reasonErrImagePull, message: err.Error(), wait: time.Now().Add(time.Second)}
}

// pullLocked pulls, one pull of a reference at a time; who waited takes what came meanwhile if its policy allows. took is zero when nothing was pulled.
func (u *puller) pullLocked(ctx context.Context, w wantedImage, ref string) (img container.Image, took time.Duration, err error) {
	defer steps.Begin(ctx, stepPull)()
	unlock, waited, err := u.lock(ctx, ref)
	if err != nil {
		return img, 0, err
	}
	defer unlock()
	if waited && w.policy != corev1.PullAlways {
		if img, err := u.k.cfg.Images.Image(ctx, ref); err == nil {
			return img, 0, nil
		}
	}
	creds := u.credentials(ctx, w.pod, ref)
	u.tell(w, corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", w.image))
	began := time.Now()
	img, err = u.k.cfg.Images.Pull(ctx, ref, creds, nil)
	return img, max(time.Since(began), 1), err
}

func (u *puller) lock(ctx context.Context, ref string) (unlock func(), waited bool, err error) {
	u.mu.Lock()
	l := u.locks[ref]
	if l == nil {
		l = &pullLock{ch: make(chan struct{}, 1)}
		u.locks[ref] = l
	}
	l.users++
	waited = l.users > 1
	u.mu.Unlock()
	leave := func() {
		u.mu.Lock()
		if l.users--; l.users == 0 {
			delete(u.locks, ref)
		}
		u.mu.Unlock()
	}
	select {
	case l.ch <- struct{}{}:
		return func() { <-l.ch; leave() }, waited, nil
	case <-ctx.Done():
		leave()
		return nil, waited, ctx.Err()
	}
}

// credentials collects what the pod's pull secrets have for the image's registry. A secret that is absent is skipped, as upstream does.
func (u *puller) credentials(ctx context.Context, pod *corev1.Pod, ref string) []container.Credentials {
	var all []container.Credentials
	var missing []string
	for _, s := range pod.Spec.ImagePullSecrets {
		secret, err := u.k.objects.Secret(ctx, pod.Namespace, s.Name)
		if err != nil {
			missing = append(missing, s.Name)
			continue
		}
		entries, err := dockerConfig(secret)
		if err != nil {
			u.k.log.Warn("cannot use an imagePullSecret", "namespace", pod.Namespace, "secret", s.Name, "err", err)
			continue
		}
		all = append(all, matching(entries, ref)...)
	}
	if len(missing) > 0 {
		u.k.recorder.Eventf(pod, corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret", "Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(missing, ", "))
	}
	return all
}

// forget drops a pod's back-offs.
func (u *puller) forget(pod types.UID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for k := range u.backoff {
		if k.pod == pod {
			delete(u.backoff, k)
		}
	}
}

// pullPolicy is the one that was asked for, or the API's default for the image.
func pullPolicy(asked corev1.PullPolicy, image string) corev1.PullPolicy {
	if asked != "" {
		return asked
	}
	if named, err := reference.ParseDockerRef(image); err == nil && strings.HasSuffix(named.String(), ":latest") {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

// shownImage is what status.image shows: a tag of the image, else what the spec says.
func shownImage(img container.Image, spec string) string {
	want, err := reference.ParseDockerRef(spec)
	tag := ""
	for _, n := range img.Names {
		if strings.Contains(n, "@") || strings.HasPrefix(n, "sha256:") {
			continue
		}
		if err == nil && n == want.String() {
			return n
		}
		if tag == "" {
			tag = n
		}
	}
	if tag == "" {
		return spec
	}
	return tag
}
