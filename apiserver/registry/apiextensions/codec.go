package apiextensions

import (
	"encoding/json"
	"fmt"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsv1beta1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/store"
)

// Codec is the store.Codec of definitions: JSON of version v1beta1, which says a schema that all versions share only once;
// upstream writes no other (https://issue.k8s.io/82292). It also reads v1.
type Codec struct{}

var _ store.Codec = Codec{}

// Encode returns what etcd keeps: everything but the resourceVersion, ended by a newline as upstream's JSON is.
func (Codec) Encode(obj store.Object) ([]byte, error) {
	crd, ok := obj.(*apiextensionsv1.CustomResourceDefinition)
	if !ok {
		return nil, fmt.Errorf("%T is not a CustomResourceDefinition", obj)
	}
	beta, err := toBeta(crd)
	if err != nil {
		return nil, fmt.Errorf("convert to v1beta1: %w", err)
	}
	beta.ResourceVersion = ""
	b, err := json.Marshal(beta)
	return append(b, '\n'), err
}

// Decode returns the definition in version v1, with its defaults.
func (Codec) Decode(data []byte) (store.Object, error) {
	var found metav1.TypeMeta
	if err := json.Unmarshal(data, &found); err != nil {
		return nil, err
	}
	crd := &apiextensionsv1.CustomResourceDefinition{}
	switch found.GroupVersionKind() {
	case Kind:
		if err := json.Unmarshal(data, crd); err != nil {
			return nil, err
		}
	case betaKind:
		if err := fromBeta(data, crd); err != nil {
			return nil, fmt.Errorf("convert from v1beta1: %w", err)
		}
	default:
		return nil, fmt.Errorf("stored object is a %s, not a %s", found.GroupVersionKind(), Kind)
	}
	apiextensionsv1.SetObjectDefaults_CustomResourceDefinition(crd)
	crd.SetGroupVersionKind(Kind)
	return crd, nil
}

var betaKind = apiextensionsv1beta1.SchemeGroupVersion.WithKind(Kind.Kind)

func toBeta(crd *apiextensionsv1.CustomResourceDefinition) (*apiextensionsv1beta1.CustomResourceDefinition, error) {
	hub, err := internal(crd)
	if err != nil {
		return nil, err
	}
	beta := &apiextensionsv1beta1.CustomResourceDefinition{}
	if err := apiextensionsv1beta1.Convert_apiextensions_CustomResourceDefinition_To_v1beta1_CustomResourceDefinition(hub, beta, nil); err != nil {
		return nil, err
	}
	beta.SetGroupVersionKind(betaKind)
	return beta, nil
}

func fromBeta(data []byte, to *apiextensionsv1.CustomResourceDefinition) error {
	beta := &apiextensionsv1beta1.CustomResourceDefinition{}
	if err := json.Unmarshal(data, beta); err != nil {
		return err
	}
	apiextensionsv1beta1.SetObjectDefaults_CustomResourceDefinition(beta)
	var hub apiextensions.CustomResourceDefinition
	if err := apiextensionsv1beta1.Convert_v1beta1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(beta, &hub, nil); err != nil {
		return err
	}
	return apiextensionsv1.Convert_apiextensions_CustomResourceDefinition_To_v1_CustomResourceDefinition(&hub, to, nil)
}
