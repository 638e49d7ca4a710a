package rest

import (
	"fmt"
	"net/http"
	"reflect"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/apis/audit"

	"github.com/mini-k8s/mini/apiserver/request"
)

// audited are attributes whose annotations reach the request's audit event.
type audited struct {
	admission.Attributes
	audit *request.Audit
}

func (a audited) AddAnnotation(key, value string) error {
	return a.AddAnnotationWithLevel(key, value, audit.LevelMetadata)
}

// AddAnnotationWithLevel also checks the key, as upstream's attributes do.
func (a audited) AddAnnotationWithLevel(key, value string, level audit.Level) error {
	if err := a.Attributes.AddAnnotationWithLevel(key, value, level); err != nil {
		return err
	}
	a.audit.Annotate(key, value)
	return nil
}

func (q *write) audited(a admission.Attributes) admission.Attributes {
	if state := request.From(q.ctx); state != nil {
		return audited{a, state.Audit}
	}
	return a
}

// deprecatedKey marks, in upstream's words, requests for a version or kind that goes away.
const deprecatedKey = "k8s.io/deprecated"

// AnnotateDeprecated tells the audit event of a request that it asks for what is deprecated.
func AnnotateDeprecated(r *http.Request) {
	if state := request.From(r.Context()); state != nil {
		state.Audit.Annotate(deprecatedKey, "true")
	}
}

// deprecated says whether a built-in kind is to go away one day. None is known to go in a certain release, for which
// upstream has a second annotation.
func deprecated(obj any) bool {
	kind, ok := obj.(interface{ APILifecycleDeprecated() (major, minor int) })
	if !ok {
		return false
	}
	major, _ := kind.APILifecycleDeprecated()
	return major > 0
}

// objectInterfaces is what admission plugins may do with objects. There is one version of each kind here, so what the
// scheme cannot convert is of the same type on both sides.
type objectInterfaces struct {
	admission.ObjectInterfaces
	convert sameType
}

func newObjectInterfaces(scheme *runtime.Scheme) admission.ObjectInterfaces {
	o := admission.NewObjectInterfacesFromScheme(scheme)
	return objectInterfaces{o, sameType{o.GetObjectConvertor()}}
}

func (o objectInterfaces) GetObjectConvertor() runtime.ObjectConvertor { return o.convert }

type sameType struct{ runtime.ObjectConvertor }

// Convert makes *out what *in is.
func (s sameType) Convert(in, out, context any) error {
	if _, ok := in.(runtime.Unstructured); ok {
		return s.ObjectConvertor.Convert(in, out, context)
	}
	from, to := reflect.ValueOf(in), reflect.ValueOf(out)
	if from.Type() != to.Type() || from.Kind() != reflect.Pointer || from.IsNil() || to.IsNil() {
		return fmt.Errorf("%T cannot be converted to %T", in, out)
	}
	to.Elem().Set(from.Elem())
	return nil
}

// admitConnect asks admission about a connection to a subresource; its object is what the query says.
func (e *Endpoint) admitConnect(w http.ResponseWriter, r *http.Request, info request.Info, sub *subresource) error {
	if e.Admission == nil || !e.Admission.Handles(admission.Connect) {
		return nil
	}
	var options runtime.Object
	if kind := sub.Kind; kind != e.res.GVK { // of logs the kind in discovery is the pod's own
		body, err := e.newBody(kind)
		if err != nil {
			return err
		}
		fromQuery(r.URL.Query(), body)
		options = body
	}
	q := e.newWrite(w, r, info, &view{name: sub.Name}, writeOptions{})
	a := q.audited(admission.NewAttributesRecord(options, nil, sub.Kind, info.Namespace, info.Name,
		e.res.GVK.GroupVersion().WithResource(e.res.Name), sub.Name, admission.Connect, nil, false, request.UserFrom(q.ctx)))
	if _, err := q.mutate(a); err != nil {
		return err
	}
	return q.validateAdmission(a)
}
