package networking

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/mini-k8s/mini/apiserver/registry/registrytest"
	"github.com/mini-k8s/mini/store"
)

const goodIngress = `{metadata: {name: a, namespace: n, generation: 1}, spec: {rules: [{host: a.b, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: s, port: {number: 80}}}}]}}]}}`

func onePath(path string) string {
	return `{metadata: {name: a, namespace: n}, spec: {rules: [{host: a.b, http: {paths: [` + path + `]}}]}}`
}

func TestIngress(t *testing.T) {
	row, class := Ingress(), IngressClass()
	registrytest.Run(t, []registrytest.Case{
		{Name: "good", Row: row, New: goodIngress},
		{Name: "empty", Row: row, New: `{metadata: {name: a, namespace: n}}`, Want: "either `defaultBackend` or `rules` must be specified"},
		{Name: "host", Row: row, New: `{metadata: {name: a, namespace: n}, spec: {rules: [{host: 1.2.3.4}]}}`, Want: `spec.rules[0].host: Invalid value: "1.2.3.4": must be a DNS name, not an IP address`},
		{Name: "wildcard", Row: row, New: `{metadata: {name: a, namespace: n}, spec: {rules: [{host: "a.*.b"}]}}`, Want: `spec.rules[0].host: Invalid value: "a.*.b": a wildcard DNS-1123 subdomain must start with '*.'`},
		{Name: "no_type", Row: row, New: onePath(`{path: /}`), Want: "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified"},
		{Name: "relative", Row: row, New: onePath(`{path: a, pathType: Exact, backend: {service: {name: s, port: {number: 80}}}}`), Want: `path: Invalid value: "a": must be an absolute path`},
		{Name: "dots", Row: row, New: onePath(`{path: /a/.., pathType: Exact, backend: {service: {name: s, port: {number: 80}}}}`), Want: `cannot end with '/..'`},
		{Name: "type", Row: row, New: onePath(`{path: /, pathType: Some, backend: {service: {name: s, port: {number: 80}}}}`), Want: `pathType: Unsupported value: "Some": supported values: "Exact", "ImplementationSpecific", "Prefix"`},
		{Name: "backend", Row: row, New: onePath(`{path: /, pathType: Exact, backend: {}}`), Want: `backend: Invalid value: "": resource or service backend is required`},
		{Name: "two_ports", Row: row, New: onePath(`{path: /, pathType: Exact, backend: {service: {name: s, port: {number: 80, name: x}}}}`), Want: "cannot set both port name & port number"},
		{Name: "no_port", Row: row, New: onePath(`{path: /, pathType: Exact, backend: {service: {name: s}}}`), Want: "backend: Required value: port name or number is required"},
		{Name: "resource", Row: row, New: onePath(`{path: /, pathType: Exact, backend: {resource: {kind: K}}}`), Want: "backend.resource.name: Required value"},
		{Name: "annotation", Row: row, New: `{metadata: {name: a, namespace: n, annotations: {kubernetes.io/ingress.class: x}}, spec: {ingressClassName: y, defaultBackend: {service: {name: s, port: {number: 80}}}}}`, Want: "annotations.kubernetes.io/ingress.class: Invalid value: \"x\": must match `ingressClassName` when both are specified"},
		{Name: "generation", Row: row, Old: goodIngress, New: `{metadata: {name: a, namespace: n}, spec: {defaultBackend: {service: {name: s, port: {number: 80}}}}, status: {loadBalancer: {ingress: [{ip: 1.2.3.4}]}}}`, Then: func(t *testing.T, o store.Object) {
			if i := o.(*networkingv1.Ingress); i.Generation != 2 || len(i.Status.LoadBalancer.Ingress) != 0 {
				t.Errorf("%+v", i)
			}
		}},
		{Name: "status", Row: row, View: "status", Old: goodIngress, New: `{metadata: {name: a, namespace: n}, status: {loadBalancer: {ingress: [{ip: 01.2.3.4, hostname: 1.2.3.4}]}}}`, Want: "must be a DNS name, not an IP address"},
		{Name: "status_keeps_spec", Row: row, View: "status", Old: goodIngress, New: `{metadata: {name: a, namespace: n}, status: {loadBalancer: {ingress: [{hostname: a}]}}}`, Then: func(t *testing.T, o store.Object) {
			if i := o.(*networkingv1.Ingress); len(i.Spec.Rules) != 1 || i.Generation != 1 {
				t.Errorf("%+v", i)
			}
		}},

		{Name: "good", Row: class, New: `{metadata: {name: a}, spec: {controller: a.b/c, parameters: {kind: K, name: x, apiGroup: g.h}}}`, Then: func(t *testing.T, o store.Object) {
			if *o.(*networkingv1.IngressClass).Spec.Parameters.Scope != "Cluster" {
				t.Error("no default scope")
			}
		}},
		{Name: "controller", Row: class, New: `{metadata: {name: a}, spec: {controller: a}}`, Want: `spec.controller: Invalid value: "a": must be a domain-prefixed path (such as "acme.io/foo")`},
		{Name: "namespace", Row: class, New: `{metadata: {name: a}, spec: {controller: a.b/c, parameters: {kind: K, name: x, scope: Namespace}}}`, Want: "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'"},
		{Name: "scope", Row: class, New: `{metadata: {name: a}, spec: {controller: a.b/c, parameters: {kind: K, name: x, scope: Some}}}`, Want: `spec.parameters.scope: Unsupported value: "Some": supported values: "Cluster", "Namespace"`},
		{Name: "controller_stays", Row: class, Old: `{metadata: {name: a}, spec: {controller: a.b/c}}`, New: `{metadata: {name: a}, spec: {controller: a.b/d}}`, Want: "field is immutable"},
	})
	o := registrytest.Decode(t, row, `{metadata: {name: a}, spec: {tls: [{}], rules: [{host: a}, {host: b}, {host: c}, {host: d}]}, status: {loadBalancer: {ingress: [{ip: 1.2.3.4}, {hostname: h}]}}}`)
	if diff := cmp.Diff([]any{"a", "<none>", "a,b,c + 1 more...", "1.2.3.4,h", "80, 443"}, row.Table.Cells(o)[:5]); diff != "" {
		t.Error(diff)
	}
}

func TestNetworkPolicy(t *testing.T) {
	row := NetworkPolicy()
	spec := func(spec string) string { return `{metadata: {name: a, namespace: n}, spec: ` + spec + `}` }
	registrytest.Run(t, []registrytest.Case{
		{Name: "defaults", Row: row, New: spec(`{egress: [{ports: [{port: 80}]}]}`), Then: func(t *testing.T, o store.Object) {
			if p := o.(*networkingv1.NetworkPolicy); len(p.Spec.PolicyTypes) != 2 || *p.Spec.Egress[0].Ports[0].Protocol != "TCP" {
				t.Errorf("%+v", p.Spec)
			}
		}},
		{Name: "no_peer", Row: row, New: spec(`{ingress: [{from: [{}]}]}`), Want: "spec.ingress[0].from[0]: Required value: must specify a peer"},
		{Name: "two_peers", Row: row, New: spec(`{ingress: [{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]}`), Want: "may not specify both ipBlock and another peer"},
		{Name: "except", Row: row, New: spec(`{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}`), Want: "spec.egress[0].to[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`"},
		{Name: "end_port", Row: row, New: spec(`{ingress: [{ports: [{port: 80, endPort: 79}]}]}`), Want: "must be greater than or equal to `port`"},
		{Name: "named_end", Row: row, New: spec(`{ingress: [{ports: [{port: http, endPort: 79}]}]}`), Want: "may not be specified when `port` is non-numeric"},
		{Name: "protocol", Row: row, New: spec(`{ingress: [{ports: [{protocol: ICMP}]}]}`), Want: `spec.ingress[0].ports[0].protocol: Unsupported value: "ICMP": supported values: "TCP", "UDP", "SCTP"`},
		{Name: "types", Row: row, New: spec(`{policyTypes: [Some]}`), Want: `spec.policyTypes[0]: Unsupported value: "Some": supported values: "Ingress", "Egress"`},
		{Name: "old_range_stays", Row: row, Old: spec(`{egress: [{to: [{ipBlock: {cidr: 010.0.0.0/8}}]}]}`), New: spec(`{ingress: [{from: [{ipBlock: {cidr: 010.0.0.0/8}}]}]}`)},
		{Name: "bad_range", Row: row, New: spec(`{egress: [{to: [{ipBlock: {cidr: 010.0.0.0/8}}]}]}`), Want: "must not have leading 0s"},
	})
}
