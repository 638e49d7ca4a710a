package apiserver

import (
	"context"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/mini-k8s/mini/apiserver/fairness"
	"github.com/mini-k8s/mini/apiserver/request"
	"github.com/mini-k8s/mini/apiserver/rest"
)

// Upstream's --max-requests-inflight and --max-mutating-requests-inflight, and how long a request waits for a seat.
const (
	maxInFlight         = 400
	maxMutatingInFlight = 200
	seatWait            = requestTimeout / 4
)

func (s *Server) newFairness() *fairness.Dispatcher {
	all, mutating := s.config.MaxInFlight, s.config.MaxMutatingInFlight
	if all == 0 {
		all = maxInFlight
	}
	if mutating == 0 {
		mutating = maxMutatingInFlight
	}
	return fairness.New(fairness.Config{Seats: all + mutating, Wait: seatWait})
}

// withFairness lets requests wait for a seat of their priority level; who gets none in time is told to come again. A watch
// keeps its seat until its client has what was there before; other long-running requests need none. What the components of
// this process ask for is never held up: it is what makes room.
func (s *Server) withFairness(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		state := request.From(r.Context())
		info := &state.Info
		watch := info.IsResource && info.Verb == "watch"
		if !watch && longRunning(info) || r.Context().Value(loopbackUserKey{}) != nil {
			next.ServeHTTP(w, r)
			return
		}
		schema := s.fairness.Classify(state.User, info)
		schema.SetHeaders(w.Header())
		seats := 1
		if !schema.Exempt() && (watch || info.Verb == "list") {
			seats = s.seats(r, info)
		}
		seat, ok := s.fairness.Enter(r.Context(), schema, state.User, info, seats)
		switch {
		case !ok:
			rest.WriteError(w, r, apierrors.NewTooManyRequests("Too many requests, please try again later.", 1))
		case watch:
			start(next, w, r, seat)
		default:
			defer seat.Leave()
			next.ServeHTTP(w, r)
		}
	})
}

// start serves a watch whose seat is free again once it has begun.
func start(next http.Handler, w http.ResponseWriter, r *http.Request, seat fairness.Seat) {
	defer seat.Leave()
	request.From(r.Context()).Started = seat.Leave
	next.ServeHTTP(w, r)
}

// One seat stands for so many bytes to be read and encoded, and no list is held to need more than listBytes: upstream's
// figures for lists from its cache (KEP-1040, SizeBasedListCostEstimate).
const (
	seatBytes = 100_000
	listBytes = 1_000_000
)

// seats estimates what a list costs, or a watch that starts with one, from what there is of the kind. As upstream's
// estimate it does not look at namespaces and selectors: what is left out was looked at, too.
func (s *Server) seats(r *http.Request, info *request.Info) int {
	if info.Name != "" {
		return 1
	}
	limit := int64(math.MaxInt64)
	version, initial := "", ""
	for query := r.URL.RawQuery; query != ""; {
		var part string
		part, query, _ = strings.Cut(query, "&")
		switch key, value, _ := strings.Cut(part, "="); key {
		case "limit":
			if n, err := strconv.ParseInt(value, 10, 64); err == nil && n > 0 {
				limit = n
			}
		case "resourceVersion":
			version = value
		case "sendInitialEvents":
			initial = value
		}
	}
	if info.Verb == "watch" && initial != "true" && initial != "1" && version != "" && version != "0" {
		return 1
	}
	objects, bytes := s.size(schema.GroupVersionResource{Group: info.Group, Version: info.Version, Resource: info.Resource})
	if objects == 0 {
		return 1
	}
	if limit < objects {
		bytes = bytes / objects * limit
	}
	return max(1, int((min(bytes, listBytes)+seatBytes-1)/seatBytes))
}

// size is how many objects of a kind there are and what they take in etcd; 0 where that is not known.
func (s *Server) size(gvr schema.GroupVersionResource) (objects, bytes int64) {
	endpoint, ok := s.endpoints[gvr]
	if !ok {
		return s.custom.Size(gvr)
	}
	if c, ok := endpoint.Collection.(interface{ Size() (objects, bytes int64) }); ok {
		return c.Size()
	}
	return 0, 0
}

// followFlowControl makes the flow schemas and priority levels steer, as they come and change.
func (s *Server) followFlowControl(ctx context.Context, client kubernetes.Interface) error {
	factory := NewInformers(s.LoopbackConfig(), client)
	schemas, levels := factory.Flowcontrol().V1().FlowSchemas(), factory.Flowcontrol().V1().PriorityLevelConfigurations()
	changed := make(chan struct{}, 1)
	kick := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	synced := make([]cache.InformerSynced, 0, 2)
	for _, informer := range []cache.SharedIndexInformer{schemas.Informer(), levels.Informer()} {
		handle, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { kick() }, UpdateFunc: func(any, any) { kick() }, DeleteFunc: func(any) { kick() },
		})
		if err != nil {
			return err
		}
		synced = append(synced, handle.HasSynced)
	}
	// A server that is not bootstrapped has no objects, and no store to ask for them.
	select {
	case <-s.bootstrapped:
	case <-ctx.Done():
		return nil
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil
	}
	kick()
	for {
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
		// Listing a cache cannot fail.
		haveSchemas, _ := schemas.Lister().List(labels.Everything()) //nolint:errcheck // see above
		haveLevels, _ := levels.Lister().List(labels.Everything())   //nolint:errcheck // see above
		s.fairness.Set(haveSchemas, haveLevels)
	}
}

// dump serves a page for people who look for what holds requests up.
func (s *Server) dump(write func(io.Writer) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if err := write(w); err != nil {
			s.logger.Debug("a page was not written", "path", r.URL.Path, "error", err)
		}
	}
}
