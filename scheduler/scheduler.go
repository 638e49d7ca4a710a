package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
)

// parallelWrites bounds the bindings and status writes under way at once.
const parallelWrites = 32

// Config is what a Scheduler needs. Informers must be started by the caller after New.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Recorder  record.EventRecorder
	Name      string // spec.schedulerName of the pods to schedule; "default-scheduler" if empty
	Logger    *slog.Logger
}

// Scheduler binds pods to nodes.
type Scheduler struct {
	cfg    Config
	synced []cache.InformerSynced
	wakeup chan struct{} // has room for one: something may be ready to decide
	slots  chan struct{}
	writes sync.WaitGroup

	mu      sync.Mutex
	queue   *queue
	cluster *cluster
}

// New makes a scheduler and hooks it to its informers.
func New(cfg Config) (*Scheduler, error) {
	if cfg.Client == nil || cfg.Informers == nil || cfg.Recorder == nil || cfg.Logger == nil {
		return nil, errors.New("scheduler: client, informers, recorder and logger are needed")
	}
	if cfg.Name == "" {
		cfg.Name = corev1.DefaultSchedulerName
	}
	namespaces := cfg.Informers.Core().V1().Namespaces().Lister()
	s := &Scheduler{
		cfg: cfg, wakeup: make(chan struct{}, 1), slots: make(chan struct{}, parallelWrites), queue: newQueue(),
		cluster: newCluster(func(name string) labels.Set {
			ns, err := namespaces.Get(name)
			if err != nil {
				return nil
			}
			return ns.Labels
		}),
	}
	pods, err := cfg.Informers.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { s.podChanged(o.(*corev1.Pod)) },
		UpdateFunc: func(_, o any) { s.podChanged(o.(*corev1.Pod)) },
		DeleteFunc: s.podDeleted,
	})
	if err != nil {
		return nil, fmt.Errorf("scheduler: watch pods: %w", err)
	}
	nodes, err := cfg.Informers.Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { s.nodeChanged(o.(*corev1.Node)) },
		UpdateFunc: func(_, o any) { s.nodeChanged(o.(*corev1.Node)) },
		DeleteFunc: s.nodeDeleted,
	})
	if err != nil {
		return nil, fmt.Errorf("scheduler: watch nodes: %w", err)
	}
	s.synced = []cache.InformerSynced{pods.HasSynced, nodes.HasSynced, cfg.Informers.Core().V1().Namespaces().Informer().HasSynced}
	return s, nil
}

// Run schedules until ctx ends, and returns when the writes under way have ended too.
func (s *Scheduler) Run(ctx context.Context) error {
	defer s.writes.Wait()
	if !cache.WaitForCacheSync(ctx.Done(), s.synced...) {
		return nil
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next := s.scheduleAll(ctx)
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wakeup:
		case <-timer.C:
			s.change(func() helpedBy { return 0 }) // lets what waited too long be tried again
		}
	}
}

// scheduleAll decides all pods that are ready and returns when the next will be, zero if only a change brings one.
func (s *Scheduler) scheduleAll(ctx context.Context) time.Time {
	for ctx.Err() == nil {
		s.mu.Lock()
		e, next := s.queue.pop(time.Now())
		if e == nil {
			s.mu.Unlock()
			return next
		}
		pod := e.pod
		p := newPodInfo(pod)
		d := decide(s.cluster.view(), p, nil)
		if d.node != "" {
			s.cluster.assume(p, d.node)
		} else {
			s.queue.park(e, d.helps, time.Now())
		}
		s.mu.Unlock()
		s.write(ctx, func() {
			if d.node != "" {
				s.bind(ctx, e, pod, d.node)
			} else {
				s.report(ctx, pod, d.message)
			}
		})
	}
	return time.Time{}
}

// write runs fn beside the loop, waiting while too many do.
func (s *Scheduler) write(ctx context.Context, fn func()) {
	select {
	case <-ctx.Done():
		return
	case s.slots <- struct{}{}:
	}
	s.writes.Go(func() {
		defer func() { <-s.slots }()
		fn()
	})
}

// bind asks the API server to place the pod. Whatever refuses that puts the pod back.
func (s *Scheduler) bind(ctx context.Context, e *queued, pod *corev1.Pod, node string) {
	err := s.cfg.Client.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{})
	if err == nil {
		s.cfg.Recorder.Eventf(pod, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, node)
		return
	}
	s.change(func() helpedBy {
		s.cluster.forget(pod.UID)
		if apierrors.IsNotFound(err) {
			s.queue.remove(pod.UID)
		} else {
			s.queue.retry(e, time.Now())
		}
		return podGone
	})
	if ctx.Err() == nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		s.cfg.Logger.Warn("binding a pod failed, it will be tried again", "pod", pod.Namespace+"/"+pod.Name, "node", node, "err", err)
	}
}

// report tells a pod that it fits nowhere: an event each time, the condition when it changes.
func (s *Scheduler) report(ctx context.Context, pod *corev1.Pod, message string) {
	s.cfg.Recorder.Event(pod, corev1.EventTypeWarning, "FailedScheduling", message)
	condition := corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: message,
		LastTransitionTime: metav1.Now(), ObservedGeneration: pod.Generation,
	}
	changed := pod.DeepCopy()
	conditions := changed.Status.Conditions[:0]
	for _, c := range changed.Status.Conditions {
		if c.Type != corev1.PodScheduled {
			conditions = append(conditions, c)
			continue
		}
		if c.Status == condition.Status && c.Reason == condition.Reason && c.Message == condition.Message {
			return
		}
		if c.Status == condition.Status {
			condition.LastTransitionTime = c.LastTransitionTime
		}
	}
	changed.Status.Conditions = append(conditions, condition)
	_, err := s.cfg.Client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	if err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		s.cfg.Logger.Warn("a pod's PodScheduled condition could not be written", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
}

// change applies f to queue and cluster, wakes the pods that the change it names may help, and the loop.
func (s *Scheduler) change(f func() helpedBy) {
	s.mu.Lock()
	s.queue.wake(f(), time.Now())
	s.mu.Unlock()
	select {
	case s.wakeup <- struct{}{}:
	default:
	}
}

func (s *Scheduler) podChanged(pod *corev1.Pod) {
	s.change(func() helpedBy {
		if pod.Spec.NodeName != "" {
			s.queue.remove(pod.UID)
			return s.cluster.setPod(pod)
		}
		if !s.ours(pod) {
			s.queue.remove(pod.UID)
			return 0
		}
		if !s.cluster.assumed[pod.UID] {
			s.queue.add(pod, time.Now())
		}
		return 0
	})
}

// ours says whether the pod wants a node, from this scheduler, now.
func (s *Scheduler) ours(pod *corev1.Pod) bool {
	return pod.Spec.SchedulerName == s.cfg.Name && pod.DeletionTimestamp == nil && len(pod.Spec.SchedulingGates) == 0 &&
		pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

func (s *Scheduler) podDeleted(o any) {
	pod, ok := deleted[*corev1.Pod](o)
	if !ok {
		return
	}
	s.change(func() helpedBy {
		s.queue.remove(pod.UID)
		return s.cluster.removePod(pod.UID)
	})
}

func (s *Scheduler) nodeChanged(node *corev1.Node) {
	s.change(func() helpedBy {
		if s.cluster.setNode(node) {
			return nodeChange
		}
		return 0
	})
}

func (s *Scheduler) nodeDeleted(o any) {
	node, ok := deleted[*corev1.Node](o)
	if !ok {
		return
	}
	s.change(func() helpedBy {
		s.cluster.removeNode(node.Name)
		return nodeChange // the domains of a topology spread changed
	})
}

// deleted unwraps what an informer hands to a delete handler.
func deleted[T any](o any) (T, bool) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	t, ok := o.(T)
	return t, ok
}

// fullImageName is the form in which a Node's status lists images.
func fullImageName(image string) string {
	ref, err := reference.ParseDockerRef(image)
	if err != nil {
		return image
	}
	return ref.String()
}
