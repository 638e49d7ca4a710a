// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/mini-k8s/mini/kubelet/container"
	"github.com/mini-k8s/mini/kubelet/logs"
)

// serveLogs answers GET /containerLogs/…, with the query parameters of the API's PodLogOptions.
func (k *Kubelet) serveLogs(w http.ResponseWriter, r *http.Request) {
	opts, previous, err := logOptions(r.URL.Query(), time.Now())
	if err != nil {
		(&httpError{http.StatusUnprocessableEntity, err.Error()}).write(w)
		return
	}
	namespace, name, cname := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container")
	p := k.findPod(namespace, name, "")
	if p == nil {
		(&httpError{http.StatusNotFound, fmt.Sprintf("pod %q does not exist", name)}).write(w)
		return
	}
	c, herr := logSource(p, cname, previous)
	if herr != nil {
		herr.write(w)
		return
	}
	ctx := r.Context()
	if opts.Follow {
		ended := make(chan struct{})
		opts.Ended = ended
		stop := k.onExit(p, c.ID, func() { close(ended) })
		defer stop()
	}
	w.Header().Set("Content-Type", "text/plain")
	out := &flusher{w: w, always: opts.Follow}
	err = logs.Read(ctx, c.LogPath, opts, out)
	switch {
	case err == nil, ctx.Err() != nil, errors.Is(err, context.Canceled):
	case errors.Is(err, fs.ErrNotExist) && !out.wrote:
		// Created, but the runtime has not opened the log yet, or it was removed: nothing was written.
	case !out.wrote:
		(&httpError{http.StatusInternalServerError, fmt.Sprintf("failed to read the log of container %q in pod %q: %v", cname, name, err)}).write(w)
	default:
		k.log.Debug("log not sent to its end", "namespace", namespace, "pod", name, "container", cname, "err", err)
	}
}

// flusher sends each write of a followed log at once.
type flusher struct {
	w      http.ResponseWriter
	always bool
	wrote  bool
}

func (f *flusher) Write(p []byte) (int, error) {
	f.wrote = true
	n, err := f.w.Write(p)
	if err == nil && f.always {
		err = http.NewResponseController(f.w).Flush()
	}
	return n, err
}

// logSource finds the attempt whose log is asked for.
func logSource(p *podState, name string, previous bool) (container.Container, *httpError) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pod := p.ref.Name
	spec := containerSpec(p.pod, name)
	if spec == nil {
		return container.Container{}, &httpError{http.StatusNotFound, fmt.Sprintf("container %q not found in pod %q", name, pod)}
	}
	var own []container.Container
	for _, c := range p.containers {
		if c.Name == name && c.State != container.Created {
			own = append(own, c)
		}
	}
	if previous {
		for i, c := range own {
			// What the status shows as lastState: the one before, or the newest while its successor waits.
			if c.State == container.Exited && (i > 0 || p.showsWaiting(name)) {
				return c, nil
			}
		}
		return container.Container{}, &httpError{http.StatusBadRequest, fmt.Sprintf("previous terminated container %q in pod %q not found", name, pod)}
	}
	if len(own) == 0 {
		why := reasonContainerCreating
		if p.want != nil {
			for _, list := range [][]corev1.ContainerStatus{p.want.InitContainerStatuses, p.want.ContainerStatuses, p.want.EphemeralContainerStatuses} {
				if cs := findStatus(list, name); cs != nil && cs.State.Waiting != nil {
					why = cs.State.Waiting.Reason
				}
			}
		}
		switch why {
		case reasonErrImagePull, reasonImagePullBackOff:
			return container.Container{}, &httpError{http.StatusBadRequest, fmt.Sprintf("container %q in pod %q is waiting to start: trying and failing to pull image", name, pod)}
		}
		return container.Container{}, &httpError{http.StatusBadRequest, fmt.Sprintf("container %q in pod %q is waiting to start: %s", name, pod, why)}
	}
	return own[0], nil
}

func (p *podState) showsWaiting(name string) bool {
	if p.want == nil {
		return false
	}
	for _, list := range [][]corev1.ContainerStatus{p.want.InitContainerStatuses, p.want.ContainerStatuses} {
		if cs := findStatus(list, name); cs != nil && cs.State.Waiting != nil {
			return true
		}
	}
	return false
}

// onExit calls f once when the container has ended; stop takes that back.
func (k *Kubelet) onExit(p *podState, id string, f func()) (stop func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := findContainer(p.containers, id); l == nil || l.State == container.Exited {
		f()
		return func() {}
	}
	w := &exitWaiter{id: id, f: f}
	if p.exits == nil {
		p.exits = map[*exitWaiter]bool{}
	}
	p.exits[w] = true
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.exits, w)
	}
}

// exitWaiter waits for the end of one container.
type exitWaiter struct {
	id string
	f  func()
}

// tellExit calls who waits for a container's end. p.mu is held.
func (p *podState) tellExit(id string) {
	for w := range p.exits {
		if w.id == id {
			delete(p.exits, w)
			w.f()
		}
	}
}

// logOptions reads the query of a log request.
func logOptions(q url.Values, now time.Time) (o logs.Options, previous bool, err error) {
	o = logs.Options{Tail: -1, Bytes: -1}
	flag := func(name string) bool {
		v := q.Get(name)
		if v == "" {
			return q.Has(name)
		}
		b, perr := strconv.ParseBool(v)
		if perr != nil {
			err = fmt.Errorf("unable to decode the request for container logs: %s must be true or false, not %q", name, v)
		}
		return b
	}
	number := func(name string, least int64) (int64, bool) {
		v := q.Get(name)
		if v == "" || v == "all" && name == "tailLines" {
			return 0, false
		}
		n, perr := strconv.ParseInt(v, 10, 64)
		if perr != nil || n < least {
			err = fmt.Errorf("invalid log options: %s: Invalid value: %q: must be a number of at least %d", name, v, least)
			return 0, false
		}
		return n, true
	}
	o.Follow, o.Timestamps, previous = flag("follow"), flag("timestamps"), flag("previous")
	if n, ok := number("tailLines", 0); ok {
		o.Tail = n
	}
	if n, ok := number("limitBytes", 1); ok {
		o.Bytes = n
	}
	if n, ok := number("sinceSeconds", 1); ok {
		o.Since = now.Add(-time.Duration(n) * time.Second)
	}
	if v := q.Get("sinceTime"); v != "" {
		t, perr := time.Parse(time.RFC3339, v)
		if perr != nil {
			err = fmt.Errorf("invalid log options: sinceTime: Invalid value: %q: must be a time in RFC 3339", v)
		}
		o.Since = t
	}
	switch s := q.Get("stream"); s {
	case "", corev1.LogStreamAll:
		o.Stdout, o.Stderr = true, true
	case corev1.LogStreamStdout:
		o.Stdout = true
	case corev1.LogStreamStderr:
		o.Stderr = true
	default:
		err = fmt.Errorf("invalid log options: stream: Unsupported value: %q", s)
	}
	return o, previous, err
}
