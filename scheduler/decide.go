package scheduler

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// view is what a decision looks at. It does not change while one is made.
type view struct {
	nodes    []*nodeInfo // with their Node, by name
	nsLabels func(namespace string) labels.Set
}

// decision is the outcome for one pod.
type decision struct {
	node    string   // "" if it fits nowhere
	message string   // why not, as a FailedScheduling event says it
	helps   helpedBy // which changes could help
}

// helpedBy is a set of kinds of change after which an unschedulable pod is worth another try.
type helpedBy uint8

const (
	nodeChange helpedBy = 1 << iota // a node came, or changed what filters look at
	podGone                         // a pod ended or went: resources, ports, anti-affinity
	podPlaced                       // a pod was placed or changed its labels: affinity, spread
	anyChange  = nodeChange | podGone | podPlaced
)

// refusal is why a filter refuses a node.
type refusal struct {
	reasons []string
	helps   helpedBy
}

func refuse(helps helpedBy, reasons ...string) *refusal { return &refusal{reasons, helps} }

// filter looks at one node; nil is "fits".
type filter func(*nodeInfo) *refusal

// decide finds the node for a pod. Ties are broken by pick, which gets their number and returns which; nil is random.
func decide(v view, p *podInfo, pick func(n int) int) decision {
	if len(v.nodes) == 0 {
		return decision{message: "no nodes available to schedule pods", helps: nodeChange}
	}
	fit, why := feasible(v, p)
	if len(fit) == 0 {
		return why
	}
	if pick == nil {
		pick = rand.IntN
	}
	best := highest(score(v, p, fit))
	return decision{node: fit[best[pick(len(best))]].node.Name}
}

// feasible returns the nodes that pass all filters or, if none does, the decision that says why.
func feasible(v view, p *podInfo) ([]*nodeInfo, decision) {
	filters := filtersFor(v, p)
	var fit []*nodeInfo
	counts := map[string]int{}
	why := decision{}
	for _, n := range v.nodes {
		refused := firstRefusal(filters, n)
		if refused == nil {
			fit = append(fit, n)
			continue
		}
		why.helps |= refused.helps
		for _, r := range refused.reasons {
			counts[r]++
		}
	}
	if len(fit) == 0 {
		why.message = fitError(len(v.nodes), counts)
	}
	return fit, why
}

func firstRefusal(filters []filter, n *nodeInfo) *refusal {
	for _, f := range filters {
		if r := f(n); r != nil {
			return r
		}
	}
	return nil
}

// fitError words the reasons as kube-scheduler's FitError does: counted, and sorted as strings.
func fitError(nodes int, counts map[string]int) string {
	lines := make([]string, 0, len(counts))
	for reason, n := range counts {
		lines = append(lines, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(lines)
	return fmt.Sprintf("0/%d nodes are available: %s.", nodes, strings.Join(lines, ", "))
}

// highest returns the indexes of the highest totals.
func highest(totals []int64) []int {
	top := slices.MaxFunc(totals, cmp.Compare[int64])
	var best []int
	for i, t := range totals {
		if t == top {
			best = append(best, i)
		}
	}
	return best
}

// zoneOf is the label a topology spread over zones looks at.
const zoneOf = corev1.LabelTopologyZone
