package customresource

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/mini-k8s/mini/store"
)

// Collection says how the custom resources of a definition lie in etcd.
func Collection(crd *apiextensionsv1.CustomResourceDefinition) store.CollectionConfig {
	return store.CollectionConfig{Prefix: prefix(crd), Codec: storageCodec{}}
}

// storageCodec is upstream's storage encoding of custom resources: JSON of whatever version they were written in, ended by
// a newline, without a resourceVersion.
type storageCodec struct{}

var _ store.Codec = storageCodec{}

func (storageCodec) Encode(o store.Object) ([]byte, error) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("%T is not unstructured", o)
	}
	object := u.Object
	if meta, ok := object["metadata"].(map[string]any); ok && (meta["resourceVersion"] != nil || meta["selfLink"] != nil) {
		meta = maps.Clone(meta) // the object may be shared
		delete(meta, "resourceVersion")
		delete(meta, "selfLink")
		object = maps.Clone(object)
		object["metadata"] = meta
	}
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(object); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (storageCodec) Decode(data []byte) (store.Object, error) {
	u := &unstructured.Unstructured{}
	if err := utiljson.Unmarshal(data, &u.Object); err != nil {
		return nil, err
	}
	if u.GetKind() == "" || u.GetAPIVersion() == "" {
		return nil, errors.New("it is not an object with a kind and an apiVersion")
	}
	return u, nil
}
