// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"

	"github.com/mini-k8s/mini/internal/netns"
)

// remains are what adopt found that must not stay.
type remains struct {
	sandboxes  []*sandbox   // not ready
	containers []*container // without a sandbox or a root file system
}

// adopt makes what we hold in memory agree with containerd: at the start, and after its events were lost.
//
//	sandbox not ready                      taken away: RunSandbox did not come to its end
//	container without a sandbox            taken away
//	never started, no root file system     taken away: CreateContainer did not come to its end
//	task runs                              adopted
//	task ended                             its exit is dealt with as if it came now; an error before the start was stored is
//	                                       that of the start, which is made anew
//	never started, with a task or without  task and root file system are made anew when it is started: nothing has ended
//	no task, record says it ended          stays
//	no task, record says it was started    ended while nobody looked: by the shim's note, else 255
//	netns, shared memory, image volumes,
//	sockets, shims                         taken away when nothing above owns them
//	looks into images                      taken away
func (r *Containerd) adopt(ctx context.Context) (left remains, err error) {
	stored, err := r.client.SandboxStore().List(ctx, "labels."+quoteLabel(labelKind)+"=="+kindSandbox)
	if err != nil {
		return left, native(err)
	}
	records, err := r.client.ContainerService().List(ctx)
	if err != nil {
		return left, native(err)
	}
	running, err := r.tasks.List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return left, native(err)
	}
	procs := make(map[string]*tasktypes.Process, len(running.Tasks))
	for _, t := range running.Tasks {
		procs[t.ID] = t
	}
	for _, st := range stored {
		var rec sandboxRecord
		if err := unmarshalRecord(st.Extensions, &rec); err != nil {
			r.log.Warn("a sandbox's record is unreadable, removing the sandbox", "sandbox", st.ID, "err", err)
			rec = sandboxRecord{}
		}
		s := r.adoptSandbox(ctx, newSandbox(st.ID, st.Labels, st.CreatedAt, rec), procs[st.ID])
		if s != nil && !rec.Ready {
			left.sandboxes = append(left.sandboxes, s)
		}
	}
	for _, cr := range records {
		if cr.Labels[labelKind] != kindContainer {
			if cr.Labels[labelKind] == kindSandbox {
				if _, err := r.sandbox(cr.ID); err != nil {
					left.containers = append(left.containers, newContainer(cr.ID, cr.Labels, cr.CreatedAt, record{}))
				}
			}
			continue
		}
		var rec record
		if err := unmarshalRecord(cr.Extensions, &rec); err != nil {
			r.log.Warn("a container's record is unreadable, removing the container", "container", cr.ID, "err", err)
		}
		c := newContainer(cr.ID, cr.Labels, cr.CreatedAt, rec)
		if _, err := r.sandbox(rec.SandboxID); err != nil {
			left.containers = append(left.containers, c)
			continue
		}
		whole, err := r.isWhole(ctx, c, procs[cr.ID])
		if err != nil {
			return left, err
		}
		if !whole {
			left.containers = append(left.containers, c)
			continue
		}
		r.adoptContainer(ctx, c, procs[cr.ID])
	}
	return left, nil
}

// isWhole tells whether a container's record has the root file system that CreateContainer makes after it. Only of one that
// was never started is that to be doubted.
func (r *Containerd) isWhole(ctx context.Context, c *container, p *tasktypes.Process) (bool, error) {
	r.mu.Lock()
	_, known := r.containers[c.id]
	r.mu.Unlock()
	if known || p != nil || !c.rec.StartedAt.IsZero() || !c.rec.FinishedAt.IsZero() {
		return true, nil
	}
	_, err := r.client.SnapshotService(r.snapshotter).Stat(ctx, c.id)
	if err = native(err); errdefs.IsNotFound(err) {
		return false, nil
	}
	return true, err
}

// removeLeft takes away what must not stay, and what a crash left behind that no record names.
func (r *Containerd) removeLeft(ctx context.Context, left remains) {
	for _, c := range left.containers {
		if err := errors.Join(r.killTask(ctx, c.id), r.removeContainer(ctx, c)); err != nil {
			r.log.Warn("could not remove a half-made container, will try again", "container", c.id, "err", err)
			r.cleanups.add("container "+c.id, func(ctx context.Context) error {
				return errors.Join(r.killTask(ctx, c.id), r.removeContainer(ctx, c))
			})
		}
	}
	for _, s := range left.sandboxes {
		s.op.Lock()
		err := r.destroySandbox(ctx, s)
		s.op.Unlock()
		if err != nil {
			r.log.Warn("could not remove a half-made sandbox, will try again", "sandbox", s.id, "err", err)
			r.removeLater(s)
		}
	}
	if err := r.sweep(ctx); err != nil && ctx.Err() == nil {
		r.log.Warn("could not remove all that a crash left", "err", err)
	}
}

// adoptSandbox takes a stored sandbox into memory and settles its state. It gives nil for one that is there already.
func (r *Containerd) adoptSandbox(ctx context.Context, s *sandbox, p *tasktypes.Process) *sandbox {
	r.mu.Lock()
	known, ok := r.sandboxes[s.id]
	if ok {
		s = known
	} else {
		r.sandboxes[s.id] = s
	}
	r.mu.Unlock()
	switch {
	case p != nil && p.Status == tasktypes.Status_RUNNING:
		s.mu.Lock()
		if s.state == Created {
			s.state, s.pid = Running, p.Pid
		}
		s.mu.Unlock()
	case p != nil && p.Status == tasktypes.Status_STOPPED:
		r.sandboxExited(context.WithoutCancel(ctx), s, exitRecord{Timestamp: p.ExitedAt.AsTime(), Status: int(p.ExitStatus)})
	case p == nil && s.rec.Ready && !s.is(Exited):
		r.sandboxExited(context.WithoutCancel(ctx), s, r.lastExit(s.id))
	}
	if ok {
		return nil
	}
	return s
}

func (r *Containerd) adoptContainer(ctx context.Context, c *container, p *tasktypes.Process) {
	r.mu.Lock()
	if known, ok := r.containers[c.id]; ok {
		c = known
	} else {
		r.containers[c.id] = c
	}
	r.mu.Unlock()
	switch {
	case c.is(Exited):
	case !c.rec.FinishedAt.IsZero():
		c.mu.Lock()
		c.state = Exited
		close(c.ended)
		close(c.cleaned)
		c.mu.Unlock()
		if p != nil { // its end was stored, its task not deleted any more
			if err := r.killTask(ctx, c.id); err != nil {
				r.log.Warn("could not clean up after a container that ended", "container", c.id, "err", err)
			}
		}
	case p != nil && p.Status == tasktypes.Status_RUNNING:
		r.adoptRunning(ctx, c, p)
	case p != nil && p.Status == tasktypes.Status_STOPPED && (!c.rec.StartedAt.IsZero() || p.ExitStatus == 0):
		r.containerExited(ctx, c, exitRecord{Timestamp: p.ExitedAt.AsTime(), Status: int(p.ExitStatus)})
	case p == nil && (!c.rec.StartedAt.IsZero() || r.hasSucceeded(c.id)):
		r.containerExited(ctx, c, r.lastExit(c.id))
	default:
		r.takeBack(ctx, c)
	}
}

// adoptRunning also notes the start of a container if a crash came before that was stored.
func (r *Containerd) adoptRunning(ctx context.Context, c *container, p *tasktypes.Process) {
	c.mu.Lock()
	if c.state == Created {
		c.state, c.pid = Running, p.Pid
	}
	unknown := c.rec.StartedAt.IsZero()
	if unknown {
		c.rec.StartedAt = time.Now()
	}
	c.mu.Unlock()
	if !unknown {
		return
	}
	if err := r.saveStart(ctx, c); err != nil {
		r.log.Warn("could not store that a container was started", "container", c.id, "err", err)
	}
}

// hasSucceeded tells whether a shim noted that a container ended without an error, which nothing does that did not run.
func (r *Containerd) hasSucceeded(id string) bool {
	if r.engine == nil {
		return false
	}
	e, ok := r.engine.exits[id]
	return ok && e.Status == 0
}

// takeBack undoes a start that was cut short before the container's own program ran, so that it can be started again. The
// root file system is made anew: it may have been mounted, and volatile overlays can be mounted but once.
func (r *Containerd) takeBack(ctx context.Context, c *container) {
	c.op.Lock() // a start that is under way comes to its end first
	defer c.op.Unlock()
	if !c.is(Created) || !c.giveUp() {
		return
	}
	sn := r.client.SnapshotService(r.snapshotter)
	err := errors.Join(r.killTask(ctx, c.id), clearCgroup(c.rec.CgroupPath))
	info, e := sn.Stat(ctx, c.id)
	if err = errors.Join(err, native(e)); err == nil {
		err = native(sn.Remove(ctx, c.id))
	}
	if err == nil {
		_, e := sn.Prepare(ctx, c.id, info.Parent)
		err = native(e)
	}
	if err == nil && !c.rec.StartedAt.IsZero() {
		c.mu.Lock()
		c.rec.StartedAt = time.Time{}
		rec := c.rec
		c.mu.Unlock()
		err = r.saveRecord(ctx, c.id, rec)
	}
	if err != nil {
		r.log.Warn("could not clean up a half-started container", "container", c.id, "err", err)
		r.failed(ctx, c, errors.New("the start was interrupted by a restart of the node's agent"))
	}
}

// lastExit is how a container ended that containerd knows no more.
func (r *Containerd) lastExit(id string) exitRecord {
	if r.engine != nil {
		if e, ok := r.engine.exits[id]; ok {
			return e
		}
	}
	return exitRecord{Timestamp: time.Now(), Status: exitUnknown}
}

// sweep takes away what a crash left behind and nothing owns. It lists what there is before it asks who owns it, so that
// what is made meanwhile stays.
func (r *Containerd) sweep(ctx context.Context) error {
	removes := map[string]func(string) error{"netns": netns.Delete, "shm": unmountShm,
		"volumes": func(path string) error { return r.removeVolumesOf(ctx, filepath.Base(path)) }}
	found := make(map[string][]string)
	for dir := range removes {
		found[dir] = readDir(filepath.Join(r.dir, dir))
	}
	sockets := readDir(r.sockets)
	shims, err := r.listShims()
	if err != nil {
		return err
	}

	r.mu.Lock()
	live := make(map[string]bool, len(r.sandboxes))
	used := make(map[string]bool, len(r.sandboxes)+len(r.containers)) // names of sockets
	networked := make([]string, 0, len(r.sandboxes))
	for id, s := range r.sandboxes {
		live[id], used[filepath.Base(r.shimSocket(id))] = true, true
		if !s.rec.HostNetwork {
			networked = append(networked, id)
		}
	}
	for id := range r.containers {
		used[logSocketName(id)] = true
	}
	r.mu.Unlock()

	var errs []error
	for _, s := range shims {
		if !live[s.sandboxID] {
			errs = append(errs, s.kill())
		}
	}
	for dir, remove := range removes {
		for _, e := range found[dir] {
			if !live[e] {
				errs = append(errs, remove(filepath.Join(r.dir, dir, e)))
			}
		}
	}
	for _, e := range sockets {
		switch path := filepath.Join(r.sockets, e); {
		case used[e]:
		case strings.HasPrefix(e, logSocketPrefix):
			errs = append(errs, quitLogger(path))
		case isShimSocketName(e):
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	errs = append(errs, r.cfg.Network.Prune(ctx, networked))
	return errors.Join(errs...)
}

func readDir(dir string) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	return names
}

func quoteLabel(l string) string { return `"` + l + `"` }
