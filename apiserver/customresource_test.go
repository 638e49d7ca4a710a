package apiserver_test

import (
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

const widgetDefinition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  names: {plural: widgets, kind: Widget, shortNames: [wd], categories: [all]}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    selectableFields: [{jsonPath: .spec.color}]
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size, labelSelectorPath: .status.selector}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            x-kubernetes-validations:
            - {rule: "self.size < 10 || self.color == 'red'", message: "only red widgets are large"}
            required: [color]
            properties:
              size: {type: integer, default: 1}
              color: {type: string, enum: [red, green]}
              parts:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items: {type: object, required: [name], properties: {name: {type: string}, count: {type: integer}}}
          status: {type: object, properties: {size: {type: integer}, selector: {type: string}}}
`

const widget = `
apiVersion: example.com/v1
kind: Widget
metadata: {name: one}
spec: {color: green, parts: [{name: a, count: 1}]}
`

// TestCustomResourcesByKubectl takes a definition and its objects through what people do with kubectl.
func TestCustomResourcesByKubectl(t *testing.T) {
	c := start(t, withOpenAPI(t))
	invalid := func(old, new string) string { return strings.Replace(widget, old, new, 1) }
	c.run(t, []step{
		{args: "get widgets", want: []string{`error: the server doesn't have a resource type "widgets"`}, fails: true},
		{args: "apply -f -", stdin: widget, want: []string{`no matches for kind "Widget" in version "example.com/v1"`, "ensure CRDs are installed first"}, fails: true},
		{args: "apply -f -", stdin: widgetDefinition, want: []string{"customresourcedefinition.apiextensions.k8s.io/widgets.example.com created"}},
		{args: "wait --for=condition=Established crd/widgets.example.com --timeout=30s", want: []string{"condition met"}},
		{args: "get crd widgets.example.com -o wide", want: []string{"NAME SCOPE VERSIONS CREATED AT GROUP KIND SHORTNAMES ESTABLISHED widgets.example.com Namespaced v1(storage)", "example.com Widget wd true"}},
		{args: "get widgets", want: []string{"No resources found in default namespace."}},
		{args: "explain widget.spec", want: []string{"GROUP: example.com KIND: Widget VERSION: v1 FIELD: spec <Object>", "color <string> -required- enum: red, green", "size <integer>"}},
		{args: "explain widget.metadata", want: []string{"Standard object's metadata."}},
		{args: "explain widget.spec.sides", want: []string{`field "sides" does not exist`}, fails: true},
		{args: "apply -f -", stdin: widget, want: []string{"widget.example.com/one created"}},
		{args: "apply -f -", stdin: widget, want: []string{"widget.example.com/one unchanged"}},
		{args: "get wd", want: []string{"NAME SIZE AGE one 1"}},
		{args: "get all", want: []string{"widget.example.com/one 1"}},
		{args: "get widgets --field-selector spec.color=green -o name", want: []string{"widget.example.com/one"}},
		{args: "get widgets --field-selector spec.color=red -o name", want: []string{""}},
		{args: "get widgets --field-selector spec.shape=red", want: []string{"field label not supported: spec.shape"}, fails: true},
		{args: "apply -f -", stdin: invalid("color: green", "color: blue"), want: []string{`The Widget "one" is invalid: * spec.color: Unsupported value: "blue": supported values: "red", "green"`}, fails: true},
		{args: "apply -f -", stdin: invalid("color: green", "color: green, size: 10"), want: []string{`spec: Invalid value: only red widgets are large`}, fails: true},
		{args: "apply -f -", stdin: invalid("color: green", "colour: green"), want: []string{`unknown field "spec.colour"`}, fails: true},
		{args: "scale wd one --replicas=3", want: []string{"widget.example.com/one scaled"}},
		{args: "get wd one -o jsonpath={.spec.size}/{.metadata.generation}", want: []string{"3/2"}},
		{args: `patch wd one --subresource=status --type=merge -p {"status":{"size":2},"spec":{"size":7}}`, want: []string{"widget.example.com/one patched"}},
		{args: "get wd one -o jsonpath={.spec.size}/{.status.size}/{.metadata.generation}", want: []string{"3/2/2"}},
		{args: `patch wd one -p {"spec":{"size":7}}`, want: []string{"the body of the request was in an unknown format - accepted media types include"}, fails: true},
		{args: "apply --server-side --field-manager=first -f -", stdin: invalid("name: one", "name: six"), want: []string{"widget.example.com/six serverside-applied"}},
		{args: "apply --server-side --field-manager=other -f -", stdin: strings.Replace(invalid("{name: a, count: 1}", "{name: b, count: 2}"), "one", "six", 1), want: []string{"serverside-applied"}},
		{args: "get wd six -o jsonpath={.spec.parts[*].name}/{.spec.size}", want: []string{"a b/1"}},
		{args: "apply --server-side --field-manager=other -f -", stdin: strings.Replace(invalid("{name: a, count: 1}", "{name: a, count: 2}"), "one", "six", 1), want: []string{`Apply failed with 1 conflict: conflict with "first": .spec.parts[name="a"].count`}, fails: true},
		{args: "apply --server-side --field-manager=other -f -", stdin: strings.Replace(invalid("{name: a, count: 1}", "{name: a, m: 2}"), "one", "six", 1), want: []string{`.spec.parts[name="a"].m: field not declared in schema`}, fails: true},
		{args: "create --dry-run=server -f -", stdin: invalid("name: one", "name: two"), want: []string{"widget.example.com/two created (server dry run)"}},
		{args: "delete wd one", want: []string{`widget.example.com "one" deleted`}},
		{args: "create -f -", stdin: invalid("name: one", "name: two"), want: []string{"widget.example.com/two created"}},
		{args: "delete crd widgets.example.com", want: []string{`customresourcedefinition.apiextensions.k8s.io "widgets.example.com" deleted`}},
		{args: "get widgets", want: []string{`the server doesn't have a resource type "widgets"`}, fails: true},
		{args: "apply -f -", stdin: widgetDefinition, want: []string{"created"}},
		{args: "wait --for=condition=Established crd/widgets.example.com --timeout=30s", want: []string{"condition met"}},
		{args: "get widgets", want: []string{"No resources found in default namespace."}},
	})
}

// TestCustomAPIServices: each group and version of custom resources has an APIService as long as it is served.
func TestCustomAPIServices(t *testing.T) {
	c := start(t, withOpenAPI(t))
	two := strings.NewReplacer("widgets", "gadgets", "Widget", "Gadget", "[wd]", "[gd]").Replace(widgetDefinition)
	get := func(name string) string {
		body, err := c.client.Discovery().RESTClient().Get().AbsPath("/apis/apiregistration.k8s.io/v1/apiservices/" + name).DoRaw(t.Context())
		if err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
		if err != nil {
			return ""
		}
		return string(body)
	}
	patch := func(name, body string) {
		t.Helper()
		if err := c.client.Discovery().RESTClient().Patch(types.MergePatchType).AbsPath("/apis/apiregistration.k8s.io/v1/apiservices/" + name).Body([]byte(body)).Do(t.Context()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	there := func() bool {
		s := get("v1.example.com")
		return strings.Contains(s, `"kube-aggregator.kubernetes.io/automanaged":"true"`) &&
			strings.Contains(s, `"groupPriorityMinimum":1000,"versionPriority":100`) && strings.Contains(s, `"Local APIServices are always available"`)
	}
	c.run(t, []step{{args: "apply -f -", stdin: widgetDefinition + "---" + two, want: []string{"widgets.example.com created", "gadgets.example.com created"}}})
	eventually(t, "the group has its APIService", there)
	patch("v1.example.com", `{"spec":{"versionPriority":7}}`)
	eventually(t, "it is put right", there)
	c.run(t, []step{
		{args: "delete apiservice v1.example.com", want: []string{"deleted"}},
		{args: "delete crd widgets.example.com", want: []string{"deleted"}},
	})
	eventually(t, "it comes back, as one of the kinds is still served", there)
	c.run(t, []step{{args: "delete crd gadgets.example.com", want: []string{"deleted"}}})
	eventually(t, "it goes with the last kind", func() bool { return get("v1.example.com") == "" })
}
