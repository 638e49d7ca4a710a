package roundtrip

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"path"
	"strings"

	apiextensionsfuzzer "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/fuzzer"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsv1beta1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	apiextensionsoptions "k8s.io/apiextensions-apiserver/pkg/cmd/server/options"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/server/options"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/util/compatibility"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistrationv1beta1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1beta1"
	aggregator "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	apitesting "k8s.io/kubernetes/pkg/api/testing" // installs the types of all groups
	_ "k8s.io/kubernetes/pkg/apis/certificates/install"
	_ "k8s.io/kubernetes/pkg/apis/coordination/install"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/discovery/install"
	_ "k8s.io/kubernetes/pkg/apis/flowcontrol/install"
	"k8s.io/kubernetes/pkg/kubeapiserver"
	"sigs.k8s.io/randfill"
)

// etcdPrefix is kube-apiserver's default.
const etcdPrefix = "/registry"

// server is one of the API servers that kube-apiserver is made of.
type server struct {
	scheme *runtime.Scheme // nil without Go types
	codecs serializer.CodecFactory
	rest   generic.RESTOptionsGetter
	fuzz   fuzzer.FuzzerFuncs
}

// upstream is kube-apiserver as far as its storage goes.
type upstream struct {
	builtin, aggregator, definitions, custom *server
}

func newUpstream() (*upstream, error) {
	etcd := options.NewEtcdOptions(storagebackend.NewDefaultConfig(etcdPrefix, nil))
	etcd.DefaultStorageMediaType = runtime.ContentTypeProtobuf
	all := serverstorage.NewResourceConfig()
	all.EnableVersions(legacyscheme.Scheme.PrioritizedVersionsAllGroups()...)
	config := kubeapiserver.NewStorageFactoryConfigEffectiveVersion(compatibility.DefaultBuildEffectiveVersion())
	config.APIResourceConfig = all
	factory, err := config.Complete(etcd).New()
	if err != nil {
		return nil, err
	}
	// The other two write JSON in the first of these versions: pkg/controlplane/apiserver/{aggregator,apiextensions}.go.
	simple := func(codec runtime.Codec) generic.RESTOptionsGetter {
		o := *etcd
		o.StorageConfig.Codec = codec
		return o.CreateRESTOptionsGetter(&options.SimpleStorageFactory{StorageConfig: o.StorageConfig}, nil)
	}
	return &upstream{
		builtin: &server{legacyscheme.Scheme, legacyscheme.Codecs, etcd.CreateRESTOptionsGetter(factory, nil), fuzzer.MergeFuzzerFuncs(apitesting.FuzzerFuncs, more)},
		aggregator: &server{aggregator.Scheme, aggregator.Codecs,
			simple(aggregator.Codecs.LegacyCodec(apiregistrationv1.SchemeGroupVersion, apiregistrationv1beta1.SchemeGroupVersion)), fuzzer.MergeFuzzerFuncs(apitesting.FuzzerFuncs, more)},
		definitions: &server{apiextensions.Scheme, apiextensions.Codecs,
			simple(apiextensions.Codecs.LegacyCodec(apiextensionsv1beta1.SchemeGroupVersion, apiextensionsv1.SchemeGroupVersion)),
			fuzzer.MergeFuzzerFuncs(apitesting.FuzzerFuncs, apiextensionsfuzzer.Funcs, more)},
		custom: &server{rest: apiextensionsoptions.NewCRDRESTOptionsGetter(*etcd, nil, nil)},
	}, nil
}

// more fills what upstream's own functions leave empty.
func more(serializer.CodecFactory) []any {
	return []any{func(t **metav1.Time, c randfill.Continue) {
		*t = &metav1.Time{}
		c.Fill(*t)
	}, func(s *core.PodStatus, c randfill.Continue) {
		c.FillNoCustom(s)
		s.HostIPs = []core.HostIP{{IP: s.HostIP}}
	}}
}

// storage is how kube-apiserver keeps one kind.
type storage struct {
	*server
	served schema.GroupVersionKind
	codec  runtime.Codec
	prefix string // of keys, without a slash at the end
}

// storage finds how upstream keeps what o is of.
func (u *upstream) storage(o *object) (*storage, error) {
	s := &storage{server: u.builtin, served: schema.GroupVersionKind{Group: o.Group, Version: o.Version, Kind: o.Kind}}
	resource := schema.GroupResource{Group: o.Group, Resource: o.Resource}
	switch {
	case o.Group == apiregistrationv1.GroupName:
		s.server = u.aggregator
	case o.Group == apiextensionsv1.GroupName:
		s.server = u.definitions
	case o.Group == "example.com":
		s.server = u.custom
	case o.Group == "events.k8s.io":
		resource.Group = "" // both groups have the one storage: pkg/registry/events/rest
	case o.Kind == "RangeAllocation":
		resource.Resource = "services" // whose codec it has: pkg/registry/core/rest/storage_core.go
	}
	var example runtime.Object
	if s.scheme != nil {
		var err error
		if example, err = s.scheme.New(schema.GroupVersionKind{Group: resource.Group, Version: runtime.APIVersionInternal, Kind: o.Kind}); err != nil {
			return nil, err
		}
	}
	options, err := s.rest.GetRESTOptions(resource, example)
	if err != nil {
		return nil, err
	}
	s.codec, s.prefix = options.StorageConfig.Codec, path.Join(options.StorageConfig.Prefix, options.ResourcePrefix)
	if o.Kind == "RangeAllocation" {
		s.prefix = path.Join(etcdPrefix, "ranges")
	}
	return s, nil
}

// key is where upstream keeps an object.
func (s *storage) key(o *object, namespace, name string) string {
	if o.Namespaced {
		return path.Join(s.prefix, namespace, name)
	}
	return path.Join(s.prefix, name)
}

// example makes an object of the kind as upstream's own tests do: the first with every field filled, others here and there.
func (s *storage) example(o *object, i int) ([]byte, error) {
	obj, err := s.fill(o.Group, o.Kind, i)
	if err != nil {
		return nil, err
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	m.SetName(fmt.Sprintf("example-%d", i))
	m.SetNamespace("")
	if o.Namespaced {
		m.SetNamespace("space")
	}
	m.SetResourceVersion("")
	m.SetSelfLink("")
	m.SetManagedFields([]metav1.ManagedFieldsEntry{{
		Manager: "somebody", Operation: metav1.ManagedFieldsOperationApply, APIVersion: "v1", FieldsType: "FieldsV1",
		FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:metadata":{"f:labels":{"f:a":{}}}}`)},
	}})
	return runtime.Encode(s.codec, obj)
}

func (s *storage) fill(group, kind string, i int) (runtime.Object, error) {
	if s.scheme == nil {
		u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{
			"whole": int64(i), "large": int64(9007199254740993), "part": 1.5, "text": "<&é>", "yes": true, "none": nil, "list": []any{int64(1), "a", map[string]any{}},
		}}}
		u.SetGroupVersionKind(s.served)
		return u, nil
	}
	if group == "events.k8s.io" {
		group = ""
	}
	obj, err := s.scheme.New(schema.GroupVersionKind{Group: group, Version: runtime.APIVersionInternal, Kind: kind})
	if err != nil {
		return nil, err
	}
	f := fuzzer.FuzzerFor(s.fuzz, rand.NewSource(int64(i)+1), s.codecs)
	if i == 0 && group != apiextensionsv1.GroupName { // whose schemas would grow without end
		f.NilChance(0).NumElements(1, 2)
	}
	f.Fill(obj)
	return obj, nil
}

// read decodes what is in etcd and returns the object as upstream serves it, and the bytes it would write back.
func (s *storage) read(stored []byte) (served, again []byte, err error) {
	obj, err := runtime.Decode(s.codec, stored)
	if err != nil {
		return nil, nil, err
	}
	if again, err = runtime.Encode(s.codec, obj); err != nil {
		return nil, nil, err
	}
	if s.scheme != nil {
		if obj, err = s.scheme.ConvertToVersion(obj, s.served.GroupVersion()); err != nil {
			return nil, nil, err
		}
		obj.GetObjectKind().SetGroupVersionKind(s.served)
	}
	if u, ok := obj.(*unstructured.Unstructured); ok {
		served, err = json.Marshal(u.Object)
	} else {
		served, err = json.Marshal(obj)
	}
	return served, again, err
}

// form is what anybody sees of stored bytes: the encoding and the kind they name.
func form(stored []byte) (string, error) {
	if message, ok := strings.CutPrefix(string(stored), "k8s\x00"); ok {
		var u runtime.Unknown
		err := u.Unmarshal([]byte(message))
		return fmt.Sprintf("protobuf of %s %s", u.APIVersion, u.Kind), err
	}
	var t metav1.TypeMeta
	err := json.Unmarshal(stored, &t)
	return fmt.Sprintf("JSON of %s %s", t.APIVersion, t.Kind), err
}
