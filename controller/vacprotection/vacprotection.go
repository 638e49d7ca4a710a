package vacprotection

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/mini-k8s/mini/controller/feed"
	"github.com/mini-k8s/mini/controller/work"
)

// finalizer is upstream's; package storage of the registry gives it to new classes.
const finalizer = "kubernetes.io/vac-protection"

// byClass indexes claims and volumes by the classes they name.
const byClass = "volumeAttributesClass"

// Config is what the controller needs; all fields are required.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Feeds     *feed.Set
	Logger    *slog.Logger
}

// Controller protects classes.
type Controller struct {
	cfg             Config
	classes         storagelisters.VolumeAttributesClassLister
	claims, volumes cache.Indexer
	sources         []feed.Source
	queue           *work.Queue[string]
}

// New subscribes to classes, claims and volumes.
func New(cfg Config) (*Controller, error) {
	if cfg.Client == nil || cfg.Informers == nil || cfg.Feeds == nil || cfg.Logger == nil {
		return nil, errors.New("vac protection controller: incomplete config")
	}
	classes := cfg.Informers.Storage().V1().VolumeAttributesClasses()
	claims, volumes := cfg.Informers.Core().V1().PersistentVolumeClaims().Informer(), cfg.Informers.Core().V1().PersistentVolumes().Informer()
	for _, informer := range []cache.SharedIndexInformer{claims, volumes} {
		if err := informer.AddIndexers(cache.Indexers{byClass: classesOf}); err != nil {
			return nil, fmt.Errorf("index by VolumeAttributesClass: %w", err)
		}
	}
	c := &Controller{cfg: cfg, classes: classes.Lister(), claims: claims.GetIndexer(), volumes: volumes.GetIndexer()}
	c.queue = work.NewQueue(work.Config[string]{Name: "vacprotection", Sync: c.sync, Logger: cfg.Logger})
	c.sources = []feed.Source{
		cfg.Feeds.Handle(classes.Informer(), feed.Of(func(_, class *storagev1.VolumeAttributesClass) {
			if class != nil {
				c.queue.Add(class.Name)
			}
		})),
		cfg.Feeds.Handle(claims, feed.Of(func(old, claim *corev1.PersistentVolumeClaim) { c.left(ofClaim(old), ofClaim(claim)) })),
		cfg.Feeds.Handle(volumes, feed.Of(func(old, volume *corev1.PersistentVolume) { c.left(ofVolume(old), ofVolume(volume)) })),
	}
	return c, nil
}

// Run blocks until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if !feed.Wait(ctx, c.sources...) {
		return nil
	}
	return c.queue.Run(ctx)
}

// left queues the classes that are no longer named.
func (c *Controller) left(was, is []string) {
	for _, name := range was {
		if !slices.Contains(is, name) {
			c.queue.Add(name)
		}
	}
}

func classesOf(obj any) ([]string, error) {
	switch o := obj.(type) {
	case *corev1.PersistentVolumeClaim:
		return ofClaim(o), nil
	case *corev1.PersistentVolume:
		return ofVolume(o), nil
	}
	return nil, nil
}

// ofClaim are the classes that a claim names, each once.
func ofClaim(claim *corev1.PersistentVolumeClaim) []string {
	if claim == nil {
		return nil
	}
	var names []string
	add := func(name *string) {
		if name != nil && *name != "" && !slices.Contains(names, *name) {
			names = append(names, *name)
		}
	}
	add(claim.Spec.VolumeAttributesClassName)
	add(claim.Status.CurrentVolumeAttributesClassName)
	if m := claim.Status.ModifyVolumeStatus; m != nil {
		add(&m.TargetVolumeAttributesClassName)
	}
	return names
}

func ofVolume(volume *corev1.PersistentVolume) []string {
	if volume == nil || volume.Spec.VolumeAttributesClassName == nil || *volume.Spec.VolumeAttributesClassName == "" {
		return nil
	}
	return []string{*volume.Spec.VolumeAttributesClassName}
}

// plan returns the class as it should be written, nil if it may stay as it is.
func plan(class *storagev1.VolumeAttributesClass, used bool) *storagev1.VolumeAttributesClass {
	has := slices.Contains(class.Finalizers, finalizer)
	switch {
	case class.DeletionTimestamp == nil && !has:
		next := class.DeepCopy()
		next.Finalizers = append(next.Finalizers, finalizer)
		return next
	case class.DeletionTimestamp != nil && has && !used:
		next := class.DeepCopy()
		next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == finalizer })
		return next
	}
	return nil
}

func (c *Controller) sync(ctx context.Context, name string) error {
	class, err := c.classes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	used := false
	for _, index := range []cache.Indexer{c.claims, c.volumes} {
		keys, err := index.IndexKeys(byClass, name)
		if err != nil {
			return err
		}
		used = used || len(keys) > 0
	}
	next := plan(class, used)
	if next == nil {
		return nil
	}
	if class.DeletionTimestamp != nil {
		if used, err := c.usedNow(ctx, name); err != nil || used {
			return err // its going will be an event
		}
	}
	_, err = c.cfg.Client.StorageV1().VolumeAttributesClasses().Update(ctx, next, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("volumeattributesclass %s: %w", name, err)
	}
	return nil
}

// usedNow asks the API rather than the caches.
func (c *Controller) usedNow(ctx context.Context, name string) (bool, error) {
	claims, err := c.cfg.Client.CoreV1().PersistentVolumeClaims(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("claims: %w", err)
	}
	for i := range claims.Items {
		if slices.Contains(ofClaim(&claims.Items[i]), name) {
			return true, nil
		}
	}
	volumes, err := c.cfg.Client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("volumes: %w", err)
	}
	for i := range volumes.Items {
		if slices.Contains(ofVolume(&volumes.Items[i]), name) {
			return true, nil
		}
	}
	return false, nil
}
