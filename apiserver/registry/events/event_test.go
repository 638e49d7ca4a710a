package events

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"math/rand"
	"sigs.k8s.io/yaml"
)

// TestBothWays: whatever stands in an Event of one group survives the way through the other.
func TestBothWays(t *testing.T) {
	fill := fuzzer.FuzzerFor(metafuzzer.Funcs, rand.NewSource(1), serializer.NewCodecFactory(scheme.Scheme))
	for range 50 {
		core, event := &corev1.Event{}, &eventsv1.Event{}
		fill.Fill(core)
		fill.Fill(event)
		core.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Event"}
		event.TypeMeta = metav1.TypeMeta{APIVersion: "events.k8s.io/v1", Kind: "Event"}
		if diff := cmp.Diff(core, toCore(fromCore(core))); diff != "" {
			t.Fatal(diff)
		}
		if diff := cmp.Diff(event, fromCore(toCore(event))); diff != "" {
			t.Fatal(diff)
		}
	}
}

func TestValidation(t *testing.T) {
	const good = `{metadata: {name: e, namespace: n}, regarding: {kind: Pod, name: p, namespace: n}, eventTime: "2026-01-01T00:00:00.000000Z", reportingController: a/b, reportingInstance: i, action: Do, reason: Because, type: Normal}`
	for _, test := range []struct{ name, replace, with, want string }{
		{"good", "", "", ""},
		{"no_time", `eventTime: "2026-01-01T00:00:00.000000Z", `, "", "eventTime: Required value"},
		{"no_reporter", "reportingController: a/b, ", "", "reportingController: Required value"},
		{"no_action", "action: Do, ", "", "action: Required value"},
		{"long_reason", "Because", strings.Repeat("x", 129), "can have at most 128 characters"},
		{"type", "Normal", "Odd", "has invalid value: Odd"},
		{"old_counter", "type: Normal", "type: Normal, deprecatedCount: 2", "count: Invalid value: \"\": needs to be unset"},
		{"series", "type: Normal", "type: Normal, series: {count: 1, lastObservedTime: \"2026-01-01T00:00:00.000000Z\"}", "should be at least 2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := &eventsv1.Event{}
			if err := yaml.UnmarshalStrict([]byte(strings.Replace(good, test.replace, test.with, 1)), e); err != nil {
				t.Fatal(err)
			}
			errs := Events().Strategy.Validate(t.Context(), e)
			if test.want == "" && len(errs) > 0 {
				t.Errorf("refused: %v", errs)
			}
			if test.want != "" && (len(errs) == 0 || !strings.Contains(errs.ToAggregate().Error(), test.want)) {
				t.Errorf("want %s\ngot  %v", test.want, errs)
			}
		})
	}
}

func TestOldStyle(t *testing.T) {
	for _, test := range []struct {
		name, event, object string
		ok                  bool
	}{
		{"same", "n", "n", true},
		{"other", "n", "m", false},
		{"cluster_scoped", "default", "", true},
		{"cluster_scoped_elsewhere", "n", "", false},
	} {
		e := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: test.event}, InvolvedObject: corev1.ObjectReference{Kind: "Node", Namespace: test.object}}
		if errs := validateCore(e); (len(errs) == 0) != test.ok {
			t.Errorf("%s: %v", test.name, errs)
		}
	}
}

func TestCells(t *testing.T) {
	ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
	old := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e"}, Type: "Warning", Reason: "Failed", Message: " text\n", Count: 4,
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "p", FieldPath: "spec.containers{c}"}, Source: corev1.EventSource{Component: "kubelet", Host: "n"},
		FirstTimestamp: metav1.NewTime(ago(time.Hour)), LastTimestamp: metav1.NewTime(ago(time.Minute)),
	}
	if diff := cmp.Diff([]any{"60s", "Warning", "Failed", "pod/p", "spec.containers{c}", "kubelet, n", "text", "60m", int64(4), "e"}, cells(old)); diff != "" {
		t.Error(diff)
	}
	series := &corev1.Event{
		EventTime: metav1.NewMicroTime(ago(time.Hour)), ReportingController: "c", InvolvedObject: corev1.ObjectReference{Kind: "Node"},
		Series: &corev1.EventSeries{Count: 7, LastObservedTime: metav1.NewMicroTime(ago(time.Minute))},
	}
	got := cells(series)
	if got[0] != "60s" || got[3] != "node" || got[5] != "c" || got[7] != "60m" || got[8] != int64(7) {
		t.Errorf("%v", got)
	}
}

func TestFields(t *testing.T) {
	e := &eventsv1.Event{Regarding: corev1.ObjectReference{Name: "p"}, ReportingController: "c", Reason: "r"}
	set := Events().Fields(e)
	if set["regarding.name"] != "p" || set["reportingController"] != "c" || set["reason"] != "r" || set.Has("involvedObject.name") {
		t.Errorf("%v", set)
	}
}
