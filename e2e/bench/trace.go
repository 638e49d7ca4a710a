package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/mini-k8s/mini/kubelet/steps"
)

// tracePods is how many pods the trace is the median of.
const tracePods = 25

// seen are the moments of one pod's start as a client has them.
type seen struct {
	sent, stored, bound, ready time.Time
}

// line is what the kubelet logs of a pod's start, at level debug.
type line struct {
	Pod, Steps string
	Seen       time.Time
}

// trace starts pods one after the other and says where the time goes from the create request to Ready in the client's hands.
// The node must log at level debug and as JSON. All clocks are this machine's.
func (b *bench) trace() error {
	ctx, cancel := context.WithTimeout(b.ctx, 5*time.Minute)
	defer cancel()
	events, err := b.client.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	defer events.Stop()
	pods := map[string]seen{}
	for i := range tracePods + 1 {
		name := fmt.Sprintf("trace-%d", i)
		s, err := b.traceOne(ctx, events, name)
		if err != nil {
			return err
		}
		if i > 0 { // the first one reads the image's users, and much else
			pods[name] = s
		}
		if _, err := b.remove(ctx, events); err != nil {
			return err
		}
	}
	lines, err := readTrace(b.cluster.LogFile(b.cluster.Nodes[0].Name))
	if err != nil {
		return err
	}
	return b.printTrace(pods, lines)
}

func (b *bench) traceOne(ctx context.Context, events watch.Interface, name string) (seen, error) {
	grace := int64(1)
	s := seen{sent: time.Now()}
	_, err := b.client.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers:                    []corev1.Container{{Name: "hello", Image: "docker.io/mini/hello:1"}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return s, err
	}
	s.stored = time.Now()
	err = each(ctx, events, func(_ watch.EventType, p *corev1.Pod) bool {
		if p.Name != name {
			return false
		}
		if p.Spec.NodeName != "" && s.bound.IsZero() {
			s.bound = time.Now()
		}
		if isReady(p) {
			s.ready = time.Now()
		}
		return !s.ready.IsZero()
	})
	return s, err
}

// readTrace finds the lines of pods' starts in a node's log.
func readTrace(path string) (map[string]line, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	all := map[string]line{}
	scanner := bufio.NewScanner(bytes.NewReader(data))
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		var l line
		if json.Unmarshal(scanner.Bytes(), &l) == nil && l.Steps != "" {
			all[l.Pod] = l
		}
	}
	return all, scanner.Err()
}

// span is a row of the table: when a step begins after the create request, and what it takes.
type span struct{ begin, took []time.Duration }

// printTrace prints a Markdown table of medians, in the order of the beginnings.
func (b *bench) printTrace(pods map[string]seen, lines map[string]line) error {
	rows := map[string]*span{}
	var order []string
	add := func(name string, begin, took time.Duration) {
		if rows[name] == nil {
			rows[name] = &span{}
			order = append(order, name)
		}
		rows[name].begin = append(rows[name].begin, begin)
		rows[name].took = append(rows[name].took, took)
	}
	for pod, s := range pods {
		l, ok := lines[pod]
		if !ok {
			return fmt.Errorf("the node's log does not tell of pod %s", pod)
		}
		all, err := steps.Parse(l.Steps)
		if err != nil {
			return err
		}
		at := l.Seen.Sub(s.sent)
		add("client: create answered", 0, s.stored.Sub(s.sent))
		add("client: sees the pod bound", s.bound.Sub(s.sent), 0)
		add("kubelet: sees the pod", at, 0)
		for _, step := range all {
			add(step.Name, at+step.Begin, step.Took)
		}
		add("client: sees the pod Ready", s.ready.Sub(s.sent), 0)
	}
	slices.SortStableFunc(order, func(x, y string) int {
		return int(percentile(rows[x].begin, 50) - percentile(rows[y].begin, 50))
	})
	fmt.Fprintf(b.out, "| ms after the create request | step | takes, ms | ends |\n|---|---|---|---|\n")
	for _, name := range order {
		r := rows[name]
		begin, took := percentile(r.begin, 50), percentile(r.took, 50)
		note := ""
		if n := len(r.begin); n != len(pods) {
			note = fmt.Sprintf(" (%d times for %d pods)", n, len(pods))
		}
		if took == 0 {
			fmt.Fprintf(b.out, "| %.1f | **%s**%s | | |\n", begin.Seconds()*1000, name, note)
			continue
		}
		fmt.Fprintf(b.out, "| %.1f | %s%s | %.1f | %.1f |\n", begin.Seconds()*1000, name, note, took.Seconds()*1000, (begin+took).Seconds()*1000)
	}
	return nil
}
