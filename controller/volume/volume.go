package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/mini-k8s/mini/controller/feed"
	"github.com/mini-k8s/mini/controller/work"
)

// Config is what the controller needs; all fields are required.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Feeds     *feed.Set
	Events    record.EventRecorder
	Logger    *slog.Logger
}

// Controller binds and protects.
type Controller struct {
	cfg      Config
	claims   corelisters.PersistentVolumeClaimLister
	volumes  corelisters.PersistentVolumeLister
	classes  storagelisters.StorageClassLister
	pods     cache.Indexer
	sources  []feed.Source
	ofClaims *work.Queue[cache.ObjectName]
	ofVolume *work.Queue[string]
}

// podsByClaim indexes pods by the claims that they use, by namespace and name.
const podsByClaim = "claims"

func claimsOf(obj any) ([]string, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, nil
	}
	var names []string
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			names = append(names, pod.Namespace+"/"+v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			names = append(names, pod.Namespace+"/"+pod.Name+"-"+v.Name)
		}
	}
	return names, nil
}

// New subscribes to claims, volumes, classes and pods.
func New(cfg Config) (*Controller, error) {
	if cfg.Client == nil || cfg.Informers == nil || cfg.Feeds == nil || cfg.Logger == nil || cfg.Events == nil {
		return nil, errors.New("volume controller: incomplete config")
	}
	core := cfg.Informers.Core().V1()
	claims, volumes, classes, pods := core.PersistentVolumeClaims(), core.PersistentVolumes(), cfg.Informers.Storage().V1().StorageClasses(), core.Pods().Informer()
	if err := pods.AddIndexers(cache.Indexers{podsByClaim: claimsOf}); err != nil {
		return nil, fmt.Errorf("index pods by claim: %w", err)
	}
	c := &Controller{cfg: cfg, claims: claims.Lister(), volumes: volumes.Lister(), classes: classes.Lister(), pods: pods.GetIndexer()}
	c.ofClaims = work.NewQueue(work.Config[cache.ObjectName]{Name: "claims", Sync: c.syncClaim, Logger: cfg.Logger})
	c.ofVolume = work.NewQueue(work.Config[string]{Name: "volumes", Sync: c.syncVolume, Logger: cfg.Logger})
	c.sources = []feed.Source{
		cfg.Feeds.Handle(claims.Informer(), feed.Of(c.claimChanged)),
		cfg.Feeds.Handle(volumes.Informer(), feed.Of(c.volumeChanged)),
		cfg.Feeds.Handle(classes.Informer(), feed.Of(func(_, _ *storagev1.StorageClass) { c.pending() })),
		cfg.Feeds.Handle(pods, feed.Of(func(old, pod *corev1.Pod) {
			for _, p := range []*corev1.Pod{old, pod} {
				if p == nil {
					continue
				}
				names, _ := claimsOf(p)
				for _, n := range names {
					if key, err := cache.ParseObjectName(n); err == nil {
						c.ofClaims.Add(key)
					}
				}
			}
		})),
	}
	return c, nil
}

// Run blocks until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if !feed.Wait(ctx, c.sources...) {
		return nil
	}
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { done <- c.ofVolume.Run(ctx) }()
	err := c.ofClaims.Run(ctx)
	cancel()
	return errors.Join(err, <-done)
}

func (c *Controller) claimChanged(old, claim *corev1.PersistentVolumeClaim) {
	for _, o := range []*corev1.PersistentVolumeClaim{old, claim} {
		if o != nil && o.Spec.VolumeName != "" {
			c.ofVolume.Add(o.Spec.VolumeName)
		}
	}
	if claim != nil {
		c.ofClaims.Add(cache.MetaObjectToName(claim))
		return
	}
	volumes, _ := c.volumes.List(labels.Everything()) // a lister's cache cannot fail
	for _, v := range volumes {
		if boundTo(v, old) { // reserved, but not written to the claim yet
			c.ofVolume.Add(v.Name)
		}
	}
}

func (c *Controller) volumeChanged(old, v *corev1.PersistentVolume) {
	if v != nil {
		c.ofVolume.Add(v.Name)
	}
	for _, o := range []*corev1.PersistentVolume{old, v} {
		if o != nil && o.Spec.ClaimRef != nil {
			c.ofClaims.Add(cache.NewObjectName(o.Spec.ClaimRef.Namespace, o.Spec.ClaimRef.Name))
		}
	}
	c.pending()
}

// pending queues the claims that still look for a volume.
func (c *Controller) pending() {
	claims, _ := c.claims.List(labels.Everything()) // a lister's cache cannot fail
	for _, claim := range claims {
		if claim.Status.Phase != corev1.ClaimBound {
			c.ofClaims.Add(cache.MetaObjectToName(claim))
		}
	}
}

func (c *Controller) syncClaim(ctx context.Context, key cache.ObjectName) error {
	claim, err := c.claims.PersistentVolumeClaims(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	volumes, err := c.volumes.List(labels.Everything())
	if err != nil {
		return err
	}
	using, err := c.pods.ByIndex(podsByClaim, key.String())
	if err != nil {
		return err
	}
	var pods []*corev1.Pod
	for _, o := range using {
		if pod, ok := o.(*corev1.Pod); ok {
			pods = append(pods, pod)
		}
	}
	var class *storagev1.StorageClass
	if name := classOf(&claim.ObjectMeta, claim.Spec.StorageClassName); name != "" {
		if class, err = c.classes.Get(name); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	p := planClaim(claim, volumes, pods, class)
	if p.claim != nil && claim.DeletionTimestamp != nil { // a pod that was made a moment ago must count
		if used, err := c.usedNow(ctx, claim); err != nil || used {
			return err
		}
	}
	client := c.cfg.Client.CoreV1()
	switch {
	case p.volume != nil:
		_, err = client.PersistentVolumes().Update(ctx, p.volume, metav1.UpdateOptions{})
	case p.claim != nil:
		_, err = client.PersistentVolumeClaims(key.Namespace).Update(ctx, p.claim, metav1.UpdateOptions{})
	case p.claimStatus != nil:
		if p.claimStatus.Status.Phase == corev1.ClaimLost {
			c.cfg.Events.Eventf(claim, corev1.EventTypeWarning, "ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
		}
		_, err = client.PersistentVolumeClaims(key.Namespace).UpdateStatus(ctx, p.claimStatus, metav1.UpdateOptions{})
	case p.reason != "":
		c.cfg.Events.Event(claim, corev1.EventTypeNormal, p.reason, p.waits)
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("claim %s: %w", key, err)
	}
	return nil
}

// usedNow asks the API, not the cache, whether a pod uses the claim.
func (c *Controller) usedNow(ctx context.Context, claim *corev1.PersistentVolumeClaim) (bool, error) {
	pods, err := c.cfg.Client.CoreV1().Pods(claim.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("look for pods of claim %s: %w", claim.Name, err)
	}
	for i := range pods.Items {
		names, _ := claimsOf(&pods.Items[i])
		for _, n := range names {
			if n == claim.Namespace+"/"+claim.Name && uses(&pods.Items[i]) {
				return true, nil
			}
		}
	}
	return false, nil
}

func (c *Controller) syncVolume(ctx context.Context, name string) error {
	v, err := c.volumes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var claim *corev1.PersistentVolumeClaim
	if ref := v.Spec.ClaimRef; ref != nil && ref.UID != "" {
		if claim, err = c.claims.PersistentVolumeClaims(ref.Namespace).Get(ref.Name); apierrors.IsNotFound(err) || err == nil && claim.UID != ref.UID {
			// The cache may be behind the one that bound the two; a volume is only released on the API's word.
			claim, err = c.cfg.Client.CoreV1().PersistentVolumeClaims(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				claim, err = nil, nil
			}
		}
		if err != nil {
			return err
		}
	}
	p := planVolume(v, claim)
	switch client := c.cfg.Client.CoreV1().PersistentVolumes(); {
	case p.volume != nil:
		_, err = client.Update(ctx, p.volume, metav1.UpdateOptions{})
	case p.status != nil:
		_, err = client.UpdateStatus(ctx, p.status, metav1.UpdateOptions{})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	return nil
}
