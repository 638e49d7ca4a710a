package scheduler

// place is one value of a topology label: a zone, a node.
type place struct{ key, value string }

func placeOf(n *nodeInfo, key string) (place, bool) {
	v, ok := n.node.Labels[key]
	return place{key, v}, ok
}

// podAffinity filters by the required affinity and anti-affinity of the pod, and by the anti-affinity that placed pods have
// against it. Each needs one pass over the placed pods, made here.
func podAffinity(v view, p *podInfo) []filter {
	forbidden := map[place]bool{}                     // a placed pod's anti-affinity matches ours there
	avoided := map[place]bool{}                       // a pod that our anti-affinity matches is there
	wanted := make([]map[place]bool, len(p.affinity)) // for each term of ours: where pods are that all terms match
	for i := range wanted {
		wanted[i] = map[place]bool{}
	}
	found := false
	for _, n := range v.nodes {
		for _, other := range n.pods {
			for i := range other.required {
				if t := &other.required[i]; t.matches(p.pod, v.nsLabels) {
					mark(forbidden, n, t.topology)
				}
			}
			for i := range p.required {
				if t := &p.required[i]; t.matches(other.pod, v.nsLabels) {
					mark(avoided, n, t.topology)
				}
			}
			if len(p.affinity) > 0 && matchesAll(v, p.affinity, other) {
				found = true
				for i := range p.affinity {
					mark(wanted[i], n, p.affinity[i].topology)
				}
			}
		}
	}
	var filters []filter
	if len(p.affinity) > 0 {
		// The first pod of a group that wants to be together has nobody to join: it may go anywhere with the labels.
		alone := !found && matchesAll(v, p.affinity, p)
		filters = append(filters, func(n *nodeInfo) *refusal {
			for i := range p.affinity {
				at, ok := placeOf(n, p.affinity[i].topology)
				if !ok || !alone && !wanted[i][at] {
					return refuse(nodeChange|podPlaced, "node(s) didn't match pod affinity rules")
				}
			}
			return nil
		})
	}
	if len(avoided) > 0 {
		filters = append(filters, func(n *nodeInfo) *refusal {
			for i := range p.required {
				if at, ok := placeOf(n, p.required[i].topology); ok && avoided[at] {
					return refuse(nodeChange|podGone|podPlaced, "node(s) didn't match pod anti-affinity rules")
				}
			}
			return nil
		})
	}
	if len(forbidden) > 0 {
		filters = append(filters, func(n *nodeInfo) *refusal {
			for key, value := range n.node.Labels {
				if forbidden[place{key, value}] {
					return refuse(nodeChange|podGone|podPlaced, "node(s) didn't satisfy existing pods anti-affinity rules")
				}
			}
			return nil
		})
	}
	return filters
}

func mark(places map[place]bool, n *nodeInfo, key string) {
	if at, ok := placeOf(n, key); ok {
		places[at] = true
	}
}

func matchesAll(v view, terms []term, p *podInfo) bool {
	for i := range terms {
		if !terms[i].matches(p.pod, v.nsLabels) {
			return false
		}
	}
	return true
}
