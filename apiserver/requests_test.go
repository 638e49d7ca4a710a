package apiserver_test

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
)

const (
	maps      = "/api/v1/namespaces/default/configmaps"
	yamlType  = "application/yaml"
	protoType = "application/vnd.kubernetes.protobuf"
)

// TestRequests is a table of requests and answers, sent one after the other to one server.
func TestRequests(t *testing.T) {
	c := start(t)
	for _, step := range []struct {
		name    string
		method  string
		path    string
		body    string
		headers []string
		code    int
		want    []string // parts of the body
		header  [2]string
		without string
	}{
		// create
		{name: "create", method: "POST", path: maps, body: `{"metadata":{"name":"a","labels":{"x":"1"}},"data":{"k":"v"}}`, code: 201,
			want: []string{`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","namespace":"default","uid":"`, `"creationTimestamp":"`, `"managedFields":[{"manager":"unknown","operation":"Update"`, `"f:data":{".":{},"f:k":{}}`}},
		{name: "create again", method: "POST", path: maps, body: `{"metadata":{"name":"a"}}`, code: 409,
			want: []string{`"message":"configmaps \"a\" already exists","reason":"AlreadyExists","details":{"name":"a","kind":"configmaps"},"code":409`}},
		{name: "generateName", method: "POST", path: maps, body: `{"metadata":{"generateName":"gen-"}}`, code: 201, want: []string{`"name":"gen-`, `"generateName":"gen-"`}},
		{name: "no name", method: "POST", path: maps, body: `{}`, code: 422, want: []string{"name or generateName is required", `"reason":"Invalid"`}},
		{name: "invalid name", method: "POST", path: maps, body: `{"metadata":{"name":"A_b"}}`, code: 422, want: []string{`ConfigMap \"A_b\" is invalid: metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain`}},
		{name: "resourceVersion set", method: "POST", path: maps, body: `{"metadata":{"name":"rv","resourceVersion":"5"}}`, code: 400, want: []string{"resourceVersion should not be set on objects to be created"}},
		{name: "other namespace", method: "POST", path: maps, body: `{"metadata":{"name":"b","namespace":"other"}}`, code: 400, want: []string{"the namespace of the provided object does not match the namespace sent on the request"}},
		{name: "no namespace to be in", method: "POST", path: "/api/v1/namespaces", body: `{"metadata":{"name":"in","namespace":"other"}}`, code: 201, want: []string{`"name":"in"`}, without: `"namespace":`},
		{name: "wrong kind", method: "POST", path: maps, body: `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"b"}}`, code: 400, want: []string{"Secret in version"}},
		{name: "wrong version", method: "POST", path: maps, body: `{"kind":"ConfigMap","apiVersion":"v2","metadata":{"name":"b"}}`, code: 400, want: []string{"the API version in the data (v2) does not match the expected API version (v1)"}},
		{name: "not json", method: "POST", path: maps, body: `{"metadata`, code: 400, want: []string{`ConfigMap in version \"v1\" cannot be handled as a ConfigMap`}},
		{name: "wrong type", method: "POST", path: maps, body: `{"metadata":{"name":"b"},"data":{"k":1}}`, code: 400, want: []string{"cannot unmarshal number into Go struct field ConfigMap.data of type string"}},
		{name: "unknown media", method: "POST", path: maps, body: `x`, headers: []string{"Content-Type", "text/plain"}, code: 415, want: []string{"the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf"}},
		{name: "too big", method: "POST", path: maps, body: `{"metadata":{"name":"big"},"data":{"k":"` + strings.Repeat("x", 3<<20) + `"}}`, code: 413, want: []string{"RequestEntityTooLarge"}},
		{name: "yaml", method: "POST", path: maps, body: "metadata:\n  name: yy\ndata: {k: v}\n", headers: []string{"Content-Type", yamlType, "Accept", yamlType}, code: 201, want: []string{"kind: ConfigMap\n", "  k: v\n"}},
		{name: "dry run", method: "POST", path: maps + "?dryRun=All", body: `{"metadata":{"name":"dry"}}`, code: 201, want: []string{`"name":"dry"`}},
		{name: "dry run left nothing", method: "GET", path: maps + "/dry", code: 404, want: []string{`"message":"configmaps \"dry\" not found","reason":"NotFound","details":{"name":"dry","kind":"configmaps"},"code":404`}},
		{name: "dry run wrong", method: "POST", path: maps + "?dryRun=Some", body: `{"metadata":{"name":"dry"}}`, code: 422, want: []string{`dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"`}},
		{name: "no such namespace path", method: "POST", path: "/api/v1/configmaps", body: `{"metadata":{"name":"b"}}`, code: 404},

		// field validation
		{name: "unknown field warns", method: "POST", path: maps, body: `{"metadata":{"name":"fv1"},"foo":1,"data":{"a":"1","a":"2"}}`, code: 201, header: [2]string{"Warning", `299 - "unknown field \"foo\""`}},
		{name: "unknown field strict", method: "POST", path: maps + "?fieldValidation=Strict", body: `{"metadata":{"name":"fv2"},"foo":1,"data":{"a":"1","a":"2"}}`, code: 400,
			want: []string{`ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"foo\", duplicate field \"data.a\"`}},
		{name: "unknown field ignored", method: "POST", path: maps + "?fieldValidation=Ignore", body: `{"metadata":{"name":"fv3"},"foo":1}`, code: 201, header: [2]string{"Warning", ""}},
		{name: "duplicate yaml key strict", method: "POST", path: maps + "?fieldValidation=Strict", body: "metadata: {name: fv4}\ndata:\n  a: x\n  a: z\n", headers: []string{"Content-Type", yamlType}, code: 400, want: []string{`strict decoding error: yaml: unmarshal errors:\n  line 4: key \"a\" already set in map`}},
		{name: "bad fieldValidation", method: "POST", path: maps + "?fieldValidation=Loud", body: `{"metadata":{"name":"fv5"}}`, code: 422, want: []string{`fieldValidation: Unsupported value: \"Loud\"`}},

		// read
		{name: "get", method: "GET", path: maps + "/a", code: 200, want: []string{`"data":{"k":"v"}}` + "\n"}, header: [2]string{"Cache-Control", "no-cache, private"}},
		{name: "get pretty", method: "GET", path: maps + "/a?pretty=true", code: 200, want: []string{"{\n  \"kind\": \"ConfigMap\",\n"}},
		{name: "curl is pretty", method: "GET", path: maps + "/a", headers: []string{"User-Agent", "curl/8"}, code: 200, want: []string{"\n  \"data\": {\n    \"k\": \"v\"\n"}},
		{name: "get yaml", method: "GET", path: maps + "/a", headers: []string{"Accept", yamlType}, code: 200, want: []string{"data:\n  k: v\n"}, header: [2]string{"Content-Type", yamlType}},
		{name: "get table", method: "GET", path: maps + "/a", headers: []string{"Accept", "application/json;as=Table;v=v1;g=meta.k8s.io"}, code: 200, want: []string{`{"kind":"Table","apiVersion":"meta.k8s.io/v1"`, `"columnDefinitions":[{"name":"Name"`, `"cells":["a",1,`, `"object":{"kind":"PartialObjectMetadata"`}},
		{name: "get partial", method: "GET", path: maps + "/a", headers: []string{"Accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"}, code: 200, want: []string{`{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"a"`}, without: `"data"`},
		{name: "not acceptable", method: "GET", path: maps + "/a", headers: []string{"Accept", "text/html"}, code: 406, want: []string{"only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"}},
		{name: "list", method: "GET", path: maps + "?labelSelector=x%3D1", code: 200, want: []string{`{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"`, `"items":[{"metadata":{"name":"a"`}},
		{name: "list none", method: "GET", path: maps + "?labelSelector=x%3D2", code: 200, want: []string{`"items":[]}` + "\n"}},
		{name: "list by name", method: "GET", path: maps + "?fieldSelector=metadata.name%3Da", code: 200, want: []string{`"items":[{"metadata":{"name":"a"`}},
		{name: "list by other namespace", method: "GET", path: maps + "?fieldSelector=metadata.namespace%3Dx", code: 200, want: []string{`"items":[]`}},
		{name: "list partial", method: "GET", path: maps + "?labelSelector=x%3D1", headers: []string{"Accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"}, code: 200, want: []string{`{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1"`}, without: `"data"`},
		{name: "list bad label selector", method: "GET", path: maps + "?labelSelector=a%3D%3D%3D", code: 400, want: []string{"unable to parse requirement"}},
		{name: "list unknown field", method: "GET", path: maps + "?fieldSelector=spec.foo%3D1", code: 400, want: []string{`\"spec.foo\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"`}},
		{name: "pods unknown field", method: "GET", path: "/api/v1/pods?fieldSelector=spec.foo%3D1", code: 400, want: []string{"field label not supported: spec.foo"}},
		{name: "list bad limit", method: "GET", path: maps + "?limit=x", code: 400},
		{name: "list match alone", method: "GET", path: maps + "?resourceVersionMatch=Exact", code: 422, want: []string{"resourceVersionMatch is forbidden unless resourceVersion is provided"}},
		{name: "list bad version", method: "GET", path: maps + "?resourceVersion=x", code: 400},
		{name: "list future", method: "GET", path: maps + "?resourceVersion=99999999", code: 504, want: []string{"Too large resource version", "ResourceVersionTooLarge"}},
		{name: "list bad continue", method: "GET", path: maps + "?limit=1&continue=zzz", code: 400, want: []string{"continue key is not valid"}},
		{name: "list limit", method: "GET", path: maps + "?limit=1", code: 200, want: []string{`"continue":"`, `"remainingItemCount":`}},

		// update
		{name: "update", method: "PUT", path: maps + "/a", body: `{"metadata":{"name":"a","labels":{"x":"1"}},"data":{"k":"w"}}`, code: 200, want: []string{`"data":{"k":"w"}`}},
		{name: "update stale", method: "PUT", path: maps + "/a", body: `{"metadata":{"name":"a","resourceVersion":"1"}}`, code: 409,
			want: []string{`Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again`, `"reason":"Conflict"`}},
		{name: "update other uid", method: "PUT", path: maps + "/a", body: `{"metadata":{"name":"a","uid":"u"}}`, code: 409, want: []string{"Precondition failed: UID in precondition: u"}},
		{name: "update other name", method: "PUT", path: maps + "/a", body: `{"metadata":{"name":"b"}}`, code: 400, want: []string{"the name of the object (b) does not match the name on the URL (a)"}},
		{name: "update nothing there", method: "PUT", path: maps + "/none", body: `{"metadata":{"name":"none"}}`, code: 404},
		{name: "update creates a lease", method: "PUT", path: "/apis/coordination.k8s.io/v1/namespaces/default/leases/l", body: `{"metadata":{"name":"l"},"spec":{"holderIdentity":"me"}}`, code: 201},
		{name: "update dry run", method: "PUT", path: maps + "/a?dryRun=All", body: `{"metadata":{"name":"a"},"data":{"k":"dry"}}`, code: 200, want: []string{`"k":"dry"`, `"uid":"`, `"resourceVersion":"`}},
		{name: "update dry run left nothing", method: "GET", path: maps + "/a", code: 200, want: []string{`"k":"w"`}},

		// patch
		{name: "json patch", method: "PATCH", path: maps + "/a", headers: []string{"Content-Type", "application/json-patch+json"}, body: `[{"op":"add","path":"/data/j","value":"1"}]`, code: 200, want: []string{`"j":"1"`}},
		{name: "json patch test fails", method: "PATCH", path: maps + "/a", headers: []string{"Content-Type", "application/json-patch+json"}, body: `[{"op":"test","path":"/data/j","value":"2"}]`, code: 422, want: []string{"the server rejected our request due to an error in our request"}},
		{name: "json patch broken", method: "PATCH", path: maps + "/a", headers: []string{"Content-Type", "application/json-patch+json"}, body: `{`, code: 400},
		{name: "merge patch", method: "PATCH", path: maps + "/a", headers: []string{"Content-Type", "application/merge-patch+json"}, body: `{"data":{"m":"1","j":null}}`, code: 200, want: []string{`"m":"1"`}, without: `"j":"1"`},
		{name: "merge patch unknown field strict", method: "PATCH", path: maps + "/a?fieldValidation=Strict", headers: []string{"Content-Type", "application/merge-patch+json"}, body: `{"foo":1}`, code: 422, want: []string{`strict decoding error: unknown field \"foo\"`}},
		{name: "merge patch wrong type", method: "PATCH", path: maps + "/a", headers: []string{"Content-Type", "application/merge-patch+json"}, body: `{"data":{"m":1}}`, code: 422, want: []string{"cannot unmarshal number"}},
		{name: "merge patch stale", method: "PATCH", path: maps + "/a", headers: []string{"Content-Type", "application/merge-patch+json"}, body: `{"metadata":{"resourceVersion":"1"},"data":{"m":"2"}}`, code: 409},
		{name: "strategic patch", method: "PATCH", path: maps + "/a", headers: []string{"Content-Type", "application/strategic-merge-patch+json"}, body: `{"data":{"s":"1"}}`, code: 200, want: []string{`"s":"1"`}},
		{name: "patch rename", method: "PATCH", path: maps + "/a", headers: []string{"Content-Type", "application/merge-patch+json"}, body: `{"metadata":{"name":"b"}}`, code: 400, want: []string{"does not match the name on the URL"}},
		{name: "patch not there", method: "PATCH", path: maps + "/none", headers: []string{"Content-Type", "application/merge-patch+json"}, body: `{}`, code: 404},
		{name: "patch of unknown type", method: "PATCH", path: maps + "/a", headers: []string{"Content-Type", "application/json"}, body: `{}`, code: 415, want: []string{"application/apply-patch+yaml"}},

		// apply
		{name: "apply creates", method: "PATCH", path: maps + "/ssa?fieldManager=me", headers: []string{"Content-Type", "application/apply-patch+yaml"}, body: "apiVersion: v1\nkind: ConfigMap\ndata: {k: v}\n", code: 201, want: []string{`"manager":"me","operation":"Apply"`}},
		{name: "apply creates a namespace", method: "PATCH", path: "/api/v1/namespaces/ssa?fieldManager=me", headers: []string{"Content-Type", "application/apply-patch+yaml"}, body: "apiVersion: v1\nkind: Namespace\n", code: 201,
			want: []string{`"name":"ssa"`}, without: `"namespace":`},
		{name: "apply again", method: "PATCH", path: maps + "/ssa?fieldManager=me", headers: []string{"Content-Type", "application/apply-patch+yaml"}, body: `{"apiVersion":"v1","kind":"ConfigMap","data":{"k":"v2"}}`, code: 200, want: []string{`"k":"v2"`}},
		{name: "apply conflict", method: "PATCH", path: maps + "/ssa?fieldManager=you", headers: []string{"Content-Type", "application/apply-patch+yaml"}, body: `{"apiVersion":"v1","kind":"ConfigMap","data":{"k":"v3"}}`, code: 409,
			want: []string{`Apply failed with 1 conflict: conflict with \"me\"`, `"reason":"FieldManagerConflict"`}},
		{name: "apply force", method: "PATCH", path: maps + "/ssa?fieldManager=you&force=true", headers: []string{"Content-Type", "application/apply-patch+yaml"}, body: `{"apiVersion":"v1","kind":"ConfigMap","data":{"k":"v3"}}`, code: 200, want: []string{`"k":"v3"`, `"manager":"you"`}},
		{name: "apply without manager", method: "PATCH", path: maps + "/ssa", headers: []string{"Content-Type", "application/apply-patch+yaml"}, body: `{"apiVersion":"v1","kind":"ConfigMap"}`, code: 422, want: []string{"fieldManager: Required value: is required for apply patch"}},
		{name: "apply unknown field", method: "PATCH", path: maps + "/ssa?fieldManager=me", headers: []string{"Content-Type", "application/apply-patch+yaml"}, body: `{"apiVersion":"v1","kind":"ConfigMap","foo":1}`, code: 500, want: []string{`"message":"failed to create typed patch object (default/ssa; /v1, Kind=ConfigMap): .foo: field not declared in schema","code":500`}},
		{name: "apply other version", method: "PATCH", path: maps + "/ssa?fieldManager=me", headers: []string{"Content-Type", "application/apply-patch+yaml"}, body: `{"apiVersion":"v2","kind":"ConfigMap"}`, code: 400},
		{name: "apply dry run", method: "PATCH", path: maps + "/ssadry?fieldManager=me&dryRun=All", headers: []string{"Content-Type", "application/apply-patch+yaml"}, body: "apiVersion: v1\nkind: ConfigMap\n", code: 201, want: []string{`"name":"ssadry"`}},
		{name: "apply dry run left nothing", method: "GET", path: maps + "/ssadry", code: 404},

		// delete
		{name: "delete other uid", method: "DELETE", path: maps + "/a", body: `{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"u"}}`, code: 409, want: []string{"the UID in the precondition (u) does not match the UID in record ("}},
		{name: "delete dry run", method: "DELETE", path: maps + "/a?dryRun=All", code: 200},
		{name: "delete bad policy", method: "DELETE", path: maps + "/a?propagationPolicy=Never", code: 422, want: []string{"propagationPolicy"}},
		{name: "delete", method: "DELETE", path: maps + "/a", code: 200, want: []string{`{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success","details":{"name":"a","kind":"configmaps","uid":"`}},
		{name: "delete again", method: "DELETE", path: maps + "/a", code: 404},
		{name: "foreground stays", method: "DELETE", path: maps + "/yy?propagationPolicy=Foreground", code: 200, want: []string{`"kind":"ConfigMap"`, `"deletionTimestamp":"`, `"deletionGracePeriodSeconds":0`, `"finalizers":["foregroundDeletion"]`}},
		{name: "last finalizer", method: "PATCH", path: maps + "/yy", headers: []string{"Content-Type", "application/merge-patch+json"}, body: `{"metadata":{"finalizers":null}}`, code: 200},
		{name: "gone with it", method: "GET", path: maps + "/yy", code: 404},
		{name: "deletecollection", method: "DELETE", path: maps + "?labelSelector=none%3D1", code: 200, want: []string{`"kind":"ConfigMapList"`, `"items":[]`}},
		{name: "deletecollection all", method: "DELETE", path: maps, code: 200, want: []string{`"name":"ssa"`}},
		{name: "nothing left", method: "GET", path: maps, code: 200, want: []string{`"items":[]`}},

		// namespaces
		{name: "namespace", method: "POST", path: "/api/v1/namespaces", body: `{"metadata":{"name":"n"}}`, code: 201, want: []string{`"finalizers":["kubernetes"]`, `"phase":"Active"`, `"kubernetes.io/metadata.name":"n"`}},
		{name: "namespace terminates", method: "DELETE", path: "/api/v1/namespaces/n", code: 200, want: []string{`"phase":"Terminating"`, `"deletionTimestamp"`}},
		{name: "namespace finalize", method: "PUT", path: "/api/v1/namespaces/n/finalize", body: `{"metadata":{"name":"n"},"spec":{"finalizers":[]}}`, code: 200},
		{name: "namespace gone", method: "GET", path: "/api/v1/namespaces/n", code: 404},

		// pods: status, binding, graceful delete
		{name: "pod", method: "POST", path: "/api/v1/namespaces/default/pods", body: `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]},"status":{"phase":"Running"}}`, code: 201, want: []string{`"phase":"Pending"`, `"qosClass":"BestEffort"`, `"restartPolicy":"Always"`}},
		{name: "pod binding", method: "POST", path: "/api/v1/namespaces/default/pods/p/binding", body: `{"metadata":{"name":"p"},"target":{"kind":"Node","name":"node1"}}`, code: 201, want: []string{`"status":"Success"`}},
		{name: "pod bound", method: "GET", path: "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode1", code: 200, want: []string{`"nodeName":"node1"`, `"type":"PodScheduled"`}},
		{name: "pod bound twice", method: "POST", path: "/api/v1/namespaces/default/pods/p/binding", body: `{"metadata":{"name":"p"},"target":{"kind":"Node","name":"node2"}}`, code: 409, want: []string{"already assigned to node"}},
		{name: "pod status", method: "PATCH", path: "/api/v1/namespaces/default/pods/p/status", headers: []string{"Content-Type", "application/strategic-merge-patch+json"}, body: `{"status":{"phase":"Running"},"metadata":{"labels":{"z":"1"}}}`, code: 200, want: []string{`"phase":"Running"`}},
		{name: "pod graceful", method: "DELETE", path: "/api/v1/namespaces/default/pods/p", code: 200, want: []string{`"deletionGracePeriodSeconds":30`, `"deletionTimestamp"`}},
		{name: "pod still there", method: "GET", path: "/api/v1/namespaces/default/pods/p", code: 200},
		{name: "pod forced", method: "DELETE", path: "/api/v1/namespaces/default/pods/p", body: `{"gracePeriodSeconds":0}`, code: 200, want: []string{`"kind":"Pod"`}},
		{name: "pod gone", method: "GET", path: "/api/v1/namespaces/default/pods/p", code: 404},

		// paths
		{name: "unknown resource", method: "GET", path: "/api/v1/foos", code: 404, want: []string{"the server could not find the requested resource"}},
		{name: "unknown group", method: "GET", path: "/apis/foo/v1/bars", code: 404},
		{name: "unknown subresource", method: "GET", path: maps + "/a/foo", code: 404},
		{name: "method", method: "POST", path: "/version", body: `{}`, code: 405},
		{name: "put a collection", method: "PUT", path: maps, body: `{}`, code: 405},
		{name: "version", method: "GET", path: "/version", code: 200, want: []string{`"gitVersion": "v1.36.3+mini.`}},
		{name: "index", method: "GET", path: "/", code: 200, want: []string{`"/apis/coordination.k8s.io/v1"`}},
		{name: "healthz", method: "GET", path: "/healthz", code: 200, want: []string{"ok"}},
		{name: "readyz verbose", method: "GET", path: "/readyz?verbose", code: 200, want: []string{"[+]etcd ok\n", "readyz check passed\n"}},
		{name: "readyz one", method: "GET", path: "/readyz/etcd", code: 200, want: []string{"ok"}},
		{name: "readyz unknown", method: "GET", path: "/readyz/nothing", code: 404},
		{name: "metrics", method: "GET", path: "/metrics", code: 200, want: []string{`apiserver_request_total{code="201",group="",resource="configmaps",subresource="",verb="create"}`}},

		// discovery
		{name: "api", method: "GET", path: "/api", code: 200, want: []string{`{"kind":"APIVersions","versions":["v1"],"serverAddressByClientCIDRs":[{"clientCIDR":"0.0.0.0/0","serverAddress":"192.0.2.1:6443"}]}`}},
		{name: "apis", method: "GET", path: "/apis", code: 200, want: []string{`{"kind":"APIGroupList","apiVersion":"v1","groups":[`}},
		{name: "apis slash", method: "GET", path: "/apis/", code: 200, want: []string{`"APIGroupList"`}},
		{name: "group", method: "GET", path: "/apis/coordination.k8s.io/", code: 200, want: []string{`{"kind":"APIGroup","apiVersion":"v1","name":"coordination.k8s.io","versions":[{"groupVersion":"coordination.k8s.io/v1","version":"v1"}],"preferredVersion":{`}},
		{name: "group version", method: "GET", path: "/api/v1", code: 200, want: []string{`{"name":"configmaps","singularName":"configmap","namespaced":true,"kind":"ConfigMap","verbs":["create","delete","deletecollection","get","list","patch","update","watch"],"shortNames":["cm"]}`, `"pods/binding"`}},
		{name: "aggregated", method: "GET", path: "/api", headers: []string{"Accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"}, code: 200, want: []string{`{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2"`},
			header: [2]string{"Content-Type", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"}},
		{name: "aggregated beta", method: "GET", path: "/apis", headers: []string{"Accept", "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"}, code: 200, want: []string{`"apidiscovery.k8s.io/v2beta1"`}},
	} {
		got := c.do(t, step.method, step.path, step.body, step.headers...)
		if got.code != step.code {
			t.Errorf("%s: code %d, want %d: %.600s", step.name, got.code, step.code, got.body)
			continue
		}
		for _, want := range step.want {
			if !strings.Contains(got.body, want) {
				t.Errorf("%s: no %s in %.1500s", step.name, want, got.body)
			}
		}
		if step.without != "" && strings.Contains(got.body, step.without) {
			t.Errorf("%s: there is %s in %.1500s", step.name, step.without, got.body)
		}
		if h := step.header[0]; h != "" && got.header.Get(h) != step.header[1] {
			t.Errorf("%s: header %s is %q, want %q", step.name, h, got.header.Get(h), step.header[1])
		}
	}
}

// TestUsers checks what somebody without rights gets, and impersonation.
func TestUsers(t *testing.T) {
	c := start(t)
	for _, step := range []struct {
		name    string
		path    string
		headers []string
		code    int
		want    string
	}{
		{"user", maps, []string{"Authorization", "Bearer eve"}, 403, `configmaps is forbidden: User \"eve\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\"`},
		{"cluster scope", "/api/v1/nodes/n", []string{"Authorization", "Bearer eve"}, 403, `nodes \"n\" is forbidden: User \"eve\" cannot get resource \"nodes\" in API group \"\" at the cluster scope`},
		{"path", "/metrics", []string{"Authorization", "Bearer eve"}, 403, `forbidden: User \"eve\" cannot get path \"/metrics\"`},
		{"anonymous", maps, []string{"Authorization", ""}, 403, `User \"system:anonymous\" cannot list`},
		{"allowed", "/version", []string{"Authorization", "Bearer eve"}, 200, "gitVersion"},
		{"as eve", maps, []string{"Impersonate-User", "eve"}, 403, `User \"eve\" cannot list`},
		{"as master", maps, []string{"Impersonate-User", "eve", "Impersonate-Group", "system:masters"}, 200, "ConfigMapList"},
		{"eve as master", maps, []string{"Authorization", "Bearer eve", "Impersonate-User", "admin"}, 403, `users \"admin\" is forbidden: User \"eve\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope`},
		{"group alone", maps, []string{"Impersonate-Group", "system:masters"}, 400, "without impersonating a user"},
	} {
		got := c.do(t, "GET", step.path, "", step.headers...)
		if got.code != step.code || !strings.Contains(got.body, step.want) {
			t.Errorf("%s: %d %s, want %d %s", step.name, got.code, got.body, step.code, step.want)
		}
	}
}

// TestProtobuf checks the protobuf forms with apimachinery's own decoder.
func TestProtobuf(t *testing.T) {
	c := start(t)
	if a := c.do(t, "POST", maps, `{"metadata":{"name":"a"},"data":{"k":"v"}}`); a.code != http.StatusCreated {
		t.Fatal(a)
	}
	decoder := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	a := c.do(t, "GET", maps+"/a", "", "Accept", protoType)
	obj, gvk, err := decoder.Decode([]byte(a.body), nil, nil)
	if err != nil || gvk.Kind != "ConfigMap" || obj.(*corev1.ConfigMap).Data["k"] != "v" || obj.(*corev1.ConfigMap).ResourceVersion == "" {
		t.Errorf("%+v %v %v", obj, gvk, err)
	}
	a = c.do(t, "GET", maps+"?fieldSelector=metadata.name%3Da", "", "Accept", protoType)
	obj, gvk, err = decoder.Decode([]byte(a.body), nil, nil)
	if err != nil || gvk.Kind != "ConfigMapList" || len(obj.(*corev1.ConfigMapList).Items) != 1 || obj.(*corev1.ConfigMapList).Items[0].Data["k"] != "v" {
		t.Errorf("%+v %v %v", obj, gvk, err)
	}
	a = c.do(t, "GET", maps+"/none", "", "Accept", protoType)
	obj, _, err = decoder.Decode([]byte(a.body), nil, nil)
	if err != nil || obj.(*metav1.Status).Code != http.StatusNotFound {
		t.Errorf("%+v %v", obj, err)
	}
	a = c.do(t, "GET", maps, "", "Accept", protoType+";as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")
	obj, _, err = decoder.Decode([]byte(a.body), nil, &metav1.PartialObjectMetadataList{})
	if err != nil || len(obj.(*metav1.PartialObjectMetadataList).Items) == 0 {
		t.Errorf("%+v %v", obj, err)
	}
}

// TestDiscoveryETag checks that aggregated discovery is not sent twice.
func TestDiscoveryETag(t *testing.T) {
	c := start(t)
	accept := "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	a := c.do(t, "GET", "/apis", "", "Accept", accept)
	tag := a.header.Get("ETag")
	if tag == "" || !json.Valid([]byte(a.body)) {
		t.Fatal(a)
	}
	if a := c.do(t, "GET", "/apis", "", "Accept", accept, "If-None-Match", tag); a.code != http.StatusNotModified || a.body != "" {
		t.Error(a)
	}
}

// TestGzip checks that big answers are compressed for clients elsewhere that want it.
func TestGzip(t *testing.T) {
	c := start(t)
	big := strings.Repeat("x", 200<<10)
	if a := c.do(t, "POST", maps, `{"metadata":{"name":"big"},"data":{"k":"`+big+`"}}`); a.code != http.StatusCreated {
		t.Fatal(a)
	}
	a := c.do(t, "GET", maps+"/big", "", "Accept-Encoding", "gzip") // from httptest's 192.0.2.1
	if a.header.Get("Content-Encoding") != "gzip" || len(a.body) > 10<<10 {
		t.Fatalf("%v, %d bytes", a.header, len(a.body))
	}
	z, err := gzip.NewReader(strings.NewReader(a.body))
	if err != nil {
		t.Fatal(err)
	}
	if plain := readAll(t, io.NopCloser(z)); !strings.Contains(plain, big) {
		t.Errorf("%d bytes came back", len(plain))
	}
	if a := c.do(t, "GET", maps+"/big", ""); a.header.Get("Content-Encoding") != "" || !strings.Contains(a.body, big) {
		t.Errorf("%v", a.header)
	}
	if a := c.do(t, "GET", maps+"?limit=1", "", "Accept-Encoding", "gzip;q=0"); a.header.Get("Content-Encoding") != "" {
		t.Errorf("%v", a.header)
	}
}
