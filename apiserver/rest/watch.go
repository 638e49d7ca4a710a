package rest

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/apiserver/codec"
	"github.com/mini-k8s/mini/apiserver/negotiate"
	"github.com/mini-k8s/mini/apiserver/request"
	"github.com/mini-k8s/mini/apiserver/table"
	"github.com/mini-k8s/mini/store"
)

// minWatch is how long a watch without timeoutSeconds lasts at least; up to twice that, so that clients do not come back
// all at once (upstream's --min-request-timeout).
const minWatch = 30 * time.Minute

// flushFrom is how much is put together before it is sent although more events wait.
const flushFrom = 32 << 10

var eventNames = map[store.EventType]string{store.Added: "ADDED", store.Modified: "MODIFIED", store.Deleted: "DELETED"}

func (e *Endpoint) watch(w http.ResponseWriter, r *http.Request, info request.Info) error {
	format, err := e.watchFormat(r)
	if err != nil {
		return err
	}
	opts, err := parseListOptions(r.URL.Query(), true)
	if err != nil {
		return err
	}
	if info.Name != "" && opts.FieldSelector == "" { // GET /api/v1/watch/…/NAME
		opts.fields = oneName(info.Name)
	}
	sel, err := e.selection(info, &opts)
	if err != nil {
		return err
	}
	stream := &watchStream{e: e, frames: e.frames(format), format: format}
	if format.As == "Table" {
		include, err := includeObject(r.URL.Query())
		if err != nil {
			return err
		}
		stream.table = table.New(&e.res.Table, e.kind, encodingOf(format), format.Ver, include, e.Now())
		stream.frames = nil
	}

	duration := time.Duration(float64(minWatch) * (1 + rand.Float64()))
	if opts.TimeoutSeconds != nil && *opts.TimeoutSeconds > 0 {
		duration = time.Duration(*opts.TimeoutSeconds) * time.Second
	}
	flusher := http.NewResponseController(w)
	w.Header()["Content-Type"] = []string{format.StreamType()}
	w.WriteHeader(http.StatusOK)

	// Of a watch that starts with what exists the store says where that ends, be the client told or not.
	wanted := opts.SendInitialEvents != nil && *opts.SendInitialEvents
	initial := wanted || opts.SendInitialEvents == nil && (opts.ResourceVersion == "" || opts.ResourceVersion == "0")
	watching, err := e.Collection.Watch(r.Context(), store.WatchOptions{
		Namespace: e.scope(info), Name: sel.name, Match: sel.match,
		ResourceVersion: opts.ResourceVersion,
		InitialEvents:   initial,
		Bookmarks:       opts.AllowWatchBookmarks,
	})
	if err != nil {
		if b, encodeErr := stream.failure(nil, err, opts.ResourceVersion); encodeErr == nil {
			w.Write(b)      //nolint:errcheck // the client is gone, and nothing is left to tell it
			flusher.Flush() //nolint:errcheck // as above
		}
		return nil
	}
	stream.bookmarks = opts.AllowWatchBookmarks || opts.SendInitialEvents != nil
	stream.version, stream.marksEnd = opts.ResourceVersion, wanted
	stream.started = func() {}
	if state := request.From(r.Context()); state != nil && state.Started != nil {
		stream.started = state.Started
	}
	if !initial {
		stream.started()
	}
	if err := flusher.Flush(); err != nil {
		return &connectionDone{err}
	}
	timeout := time.NewTimer(duration)
	defer timeout.Stop()
	return stream.run(w, r, flusher, watching.Events(), timeout.C)
}

func (e *Endpoint) watchFormat(r *http.Request) (negotiate.Format, error) {
	offers := e.offers(false)
	f, ok := negotiate.Pick(r, func(f negotiate.Format) bool {
		if f.As == "PartialObjectMetadataList" { // what a metadata client's informer says for both
			f.As = "PartialObjectMetadata"
		}
		return f.Media != negotiate.YAML && offers(f)
	})
	if !ok {
		return f, notAcceptable()
	}
	return f, nil
}

// watchStream turns a watch's events into frames.
type watchStream struct {
	e         *Endpoint
	format    negotiate.Format
	frames    *codec.Frames  // nil for tables
	table     *table.Printer // nil otherwise
	bookmarks bool
	marksEnd  bool // the client is told where the initial events end
	version   string
	started   func() // called after the initial events
}

// run copies events until the client leaves, the time is over or the store ends the watch. Events that are ready together
// are sent together.
func (s *watchStream) run(w http.ResponseWriter, r *http.Request, flusher *http.ResponseController, events <-chan store.Event, timeout <-chan time.Time) error {
	done := r.Context().Done()
	for {
		var ev store.Event
		var ok bool
		select {
		case ev, ok = <-events:
		case <-timeout:
			return nil
		case <-done:
			return nil
		}
		last := !ok
		buf := buffers.Get().(*[]byte)
		b := (*buf)[:0]
		for ok {
			var err error
			if b, err = s.event(b, ev); err != nil {
				s.e.Logger.Error("a watch event cannot be encoded", "resource", s.e.group.String(), "error", err)
				putBuffer(buf)
				return nil
			}
			if last = ev.Type == store.Failed; last || len(b) >= flushFrom {
				break
			}
			select {
			case ev, ok = <-events:
				last = !ok
				continue
			default:
			}
			break
		}
		var err error
		if len(b) > 0 {
			if _, err = w.Write(b); err == nil {
				err = flusher.Flush()
			}
		}
		*buf = b
		putBuffer(buf)
		if err != nil {
			return &connectionDone{err}
		}
		if last {
			return nil
		}
	}
}

func (s *watchStream) event(b []byte, ev store.Event) ([]byte, error) {
	switch ev.Type {
	case store.Failed:
		return s.failure(b, ev.Err, s.version)
	case store.Bookmark:
		if ev.InitialEventsEnd {
			s.started()
		}
		if !s.bookmarks || ev.InitialEventsEnd && !s.marksEnd {
			return b, nil
		}
		if s.table != nil {
			return s.table.Bookmark(b, ev.Revision, ev.InitialEventsEnd)
		}
		return s.frames.Bookmark(b, ev.Revision, ev.InitialEventsEnd)
	}
	item := ev.Item
	if s.table != nil {
		return s.table.Event(b, eventNames[ev.Type], item)
	}
	return s.frames.Event(b, eventNames[ev.Type], item)
}

// failure is the frame that ends a watch.
func (s *watchStream) failure(b []byte, err error, version string) ([]byte, error) {
	if errors.Is(err, store.ErrCompacted) {
		err = apierrors.NewResourceExpired("too old resource version: " + version)
	}
	status := Status(err, s.e.group, "")
	if status.Code == 0 {
		status.Code, status.Status = http.StatusInternalServerError, metav1.StatusFailure
	}
	return codec.ErrorEvent(b, encodingOf(s.format), status)
}
