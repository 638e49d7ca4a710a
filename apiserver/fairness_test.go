package apiserver_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	"github.com/mini-k8s/mini/apiserver"
	"github.com/mini-k8s/mini/apiserver/request"
	"github.com/mini-k8s/mini/store"
)

// gate is a store where the lists of one user wait until they are let through.
type gate struct {
	apiserver.Store
	user string
	pass chan struct{} // one list for each value, all once it is closed
}

func (g *gate) Collection(c store.CollectionConfig) store.Collection {
	return &gatedCollection{g.Store.Collection(c), g}
}

type gatedCollection struct {
	store.Collection
	gate *gate
}

func (c *gatedCollection) List(ctx context.Context, opts store.ListOptions) (*store.List, error) {
	if u := request.UserFrom(ctx); u != nil && u.GetName() == c.gate.user {
		<-c.gate.pass
	}
	return c.Collection.List(ctx, opts)
}

func (c *gatedCollection) Size() (objects, bytes int64) {
	return c.Collection.(interface{ Size() (objects, bytes int64) }).Size()
}

const (
	schemaUID = "X-Kubernetes-Pf-Flowschema-Uid"
	levelUID  = "X-Kubernetes-Pf-Prioritylevel-Uid"
)

// as asks as a user.
func (c *cluster) as(t testing.TB, user, method, path string) answer {
	t.Helper()
	return c.do(t, method, path, "", "Authorization", "Bearer "+user)
}

// flowMetric reads a metric of the requests of a schema.
func (c *cluster) flowMetric(t testing.TB, name, schema string) (n int) {
	t.Helper()
	for line := range strings.Lines(c.do(t, "GET", "/metrics", "").body) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		if strings.HasPrefix(series, "apiserver_flowcontrol_"+name+"{") && strings.Contains(series, `flow_schema="`+schema+`"`) {
			if _, err := fmt.Sscan(value, &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no metric %s of %s", name, schema)
	return 0
}

// steer makes a level and a schema that gives it the requests of the user of that name, and waits until it does.
func (c *cluster) steer(t *testing.T, user string, spec flowcontrolv1.LimitedPriorityLevelConfiguration) {
	t.Helper()
	level, err := c.client.FlowcontrolV1().PriorityLevelConfigurations().Create(t.Context(), &flowcontrolv1.PriorityLevelConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: user}, Spec: flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: &spec},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	schema, err := c.client.FlowcontrolV1().FlowSchemas().Create(t.Context(), &flowcontrolv1.FlowSchema{
		ObjectMeta: metav1.ObjectMeta{Name: user}, Spec: flowcontrolv1.FlowSchemaSpec{
			MatchingPrecedence: 300, PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: user},
			Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
				Subjects:      []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: user}}},
				ResourceRules: []flowcontrolv1.ResourcePolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, Namespaces: []string{"*"}, ClusterScope: true}},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, user+" has its level", func() bool {
		h := c.as(t, user, "GET", maps+"/none").header
		return h.Get(schemaUID) == string(schema.UID) && h.Get(levelUID) == string(level.UID)
	})
}

func small(gates *gate) func(*apiserver.Config) {
	return func(config *apiserver.Config) {
		gates.Store = config.Store
		config.Store, config.MaxInFlight, config.MaxMutatingInFlight = gates, 20, 10
	}
}

// TestFlood: a user who fills all seats that can be had with lists holds up others of his level for one list, and those of
// other levels not at all.
func TestFlood(t *testing.T) {
	gates := &gate{user: "user-flood", pass: make(chan struct{})}
	c := start(t, small(gates))
	eventually(t, "the usual schemas steer", func() bool {
		page := c.do(t, "GET", "/metrics", "").body
		if strings.Count(page, "\napiserver_flowcontrol_nominal_limit_seats{") != len(bootstrap.MandatoryPriorityLevelConfigurations)+len(bootstrap.SuggestedPriorityLevelConfigurations) ||
			strings.Count(page, "\napiserver_flowcontrol_dispatched_requests_total{") != len(bootstrap.MandatoryFlowSchemas)+len(bootstrap.SuggestedFlowSchemas) {
			return false
		}
		usual, err := c.client.FlowcontrolV1().FlowSchemas().Get(t.Context(), "global-default", metav1.GetOptions{})
		return err == nil && c.as(t, "user-calm", "GET", maps+"/none").header.Get(schemaUID) == string(usual.UID)
	})
	c.steer(t, "user-own", flowcontrolv1.LimitedPriorityLevelConfiguration{LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject}})

	const many = 100
	var flood sync.WaitGroup
	defer flood.Wait()
	open := sync.OnceFunc(func() { close(gates.pass) })
	defer open()
	for range many {
		flood.Go(func() {
			for { // who has waited for too long comes again
				if a := c.as(t, "user-flood", "GET", "/api/v1/pods"); a.code == http.StatusOK {
					return
				} else if a.code != http.StatusTooManyRequests {
					t.Errorf("%+v", a)
					return
				}
			}
		})
	}
	count := func() (waiting, executing int) {
		return c.flowMetric(t, "current_inqueue_requests", "global-default"), c.flowMetric(t, "current_executing_requests", "global-default")
	}
	eventually(t, "the flood fills the level", func() bool {
		waiting, executing := count()
		return waiting+executing == many && waiting > 0
	})
	if _, executing := count(); executing < 10 { // more than its level's three, as others lend
		t.Errorf("%d lists are under way", executing)
	}
	for _, user := range []string{"user-node", "user-own", "admin"} {
		if a := c.as(t, user, "GET", maps+"/none"); a.code != http.StatusNotFound { // and not 429 after a wait
			t.Errorf("%s: %+v", user, a)
		}
	}
	calm := make(chan answer, 1)
	go func() { calm <- c.as(t, "user-calm", "GET", maps+"/none") }()
	eventually(t, "the calm user waits as well", func() bool {
		waiting, executing := count()
		return waiting+executing == many+1
	})
	gates.pass <- struct{}{}
	select {
	case a := <-calm:
		if a.code != http.StatusNotFound {
			t.Errorf("%+v", a)
		}
	case <-time.After(30 * time.Second):
		t.Error("one list has ended, and the calm user waits on")
	}
	open()
	flood.Wait()
	eventually(t, "all has ended", func() bool {
		waiting, executing := count()
		return waiting == 0 && executing == 0
	})
}

// TestSeats: what has no seat is refused as upstream does it, lists take seats by their size, and watches give theirs back.
func TestSeats(t *testing.T) {
	gates := &gate{user: "user-wide", pass: make(chan struct{})}
	c := start(t, small(gates))
	none, all, one := int32(0), int32(300), int32(1)
	reject := flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject}
	c.steer(t, "user-jailed", flowcontrolv1.LimitedPriorityLevelConfiguration{NominalConcurrencyShares: &none, BorrowingLimitPercent: &none, LimitResponse: reject})
	a := c.as(t, "user-jailed", "GET", maps)
	if a.code != http.StatusTooManyRequests || a.header.Get("Retry-After") != "1" || a.field(t, "reason") != "TooManyRequests" ||
		a.field(t, "message") != "Too many requests, please try again later." || a.header.Get(levelUID) == "" {
		t.Errorf("%+v", a)
	}
	if n := c.flowMetric(t, "rejected_requests_total", "user-jailed"); n == 0 {
		t.Error("no refusal was counted")
	}

	c.steer(t, "user-wide", flowcontrolv1.LimitedPriorityLevelConfiguration{NominalConcurrencyShares: &all, LimitResponse: reject})
	for i := range 3 {
		if a := c.do(t, "POST", maps, fmt.Sprintf(`{"metadata":{"name":"big-%d"},"data":{"k":%q}}`, i, strings.Repeat("x", 90_000))); a.code != http.StatusCreated {
			t.Fatalf("%+v", a)
		}
	}
	for query, seats := range map[string]int{"": 3, "?limit=1": 1, "?limit=2": 2, "?fieldSelector=metadata.name%3Dbig-1": 1} {
		done := make(chan answer, 1)
		go func() { done <- c.as(t, "user-wide", "GET", maps+query) }()
		eventually(t, "the list is under way", func() bool { return c.flowMetric(t, "current_executing_requests", "user-wide") == 1 })
		if got := c.flowMetric(t, "current_executing_seats", "user-wide"); got != seats {
			t.Errorf("%q takes %d seats, want %d", query, got, seats)
		}
		gates.pass <- struct{}{}
		if a := <-done; a.code != http.StatusOK {
			t.Errorf("%q: %+v", query, a)
		}
		eventually(t, "the seats are free", func() bool { return c.flowMetric(t, "current_executing_seats", "user-wide") == 0 })
	}

	c.steer(t, "user-watch", flowcontrolv1.LimitedPriorityLevelConfiguration{NominalConcurrencyShares: &one, BorrowingLimitPercent: &none, LimitResponse: reject})
	now := c.do(t, "GET", maps, "").field(t, "metadata.resourceVersion").(string)
	client := c.http(t)
	for _, query := range []string{"", "&resourceVersion=0", "&resourceVersion=" + now, "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", "&allowWatchBookmarks=true"} {
		r, err := http.NewRequestWithContext(t.Context(), "GET", c.URL+maps+"?watch=1"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer user-watch")
		w, err := client.Do(r)
		if err != nil || w.StatusCode != http.StatusOK { // with one seat, and the watches before still open
			t.Fatalf("%q: %+v %v", query, w, err)
		}
		defer w.Body.Close() //nolint:errcheck // it was only read
		events := bufio.NewScanner(w.Body)
		events.Buffer(nil, 1<<20)
		if !strings.Contains(query, now) && (!events.Scan() || !strings.HasPrefix(events.Text(), `{"type":"ADDED"`)) {
			t.Errorf("%q: %.100s %v", query, events.Text(), events.Err())
		}
		eventually(t, "the watch has given its seat back", func() bool { return c.flowMetric(t, "current_executing_requests", "user-watch") == 0 })
	}
	if a := c.do(t, "GET", "/debug/api_priority_and_fairness/dump_priority_levels", ""); a.code != http.StatusOK || !strings.Contains(a.body, "\nuser-watch, ") {
		t.Errorf("%+v", a)
	}
	if a := c.do(t, "GET", "/debug/api_priority_and_fairness/dump_queues", ""); a.code != http.StatusOK || !strings.Contains(a.body, "\nuser-watch, ") {
		t.Errorf("%+v", a)
	}
}
