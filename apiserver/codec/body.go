package codec

import (
	"errors"
	"fmt"
	"mime"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// The media types of whole objects.
const (
	MediaJSON  = "application/json"
	MediaYAML  = "application/yaml"
	MediaProto = "application/vnd.kubernetes.protobuf"
	MediaCBOR  = "application/cbor"
)

// ErrMediaType is returned for a Content-Type that no decoder knows: 415.
var ErrMediaType = errors.New("the body of the request was in an unknown format - accepted media types include: " +
	MediaJSON + ", " + MediaYAML + ", " + MediaProto + ", " + MediaCBOR)

// KindError says that the body holds another kind or version than the URL is for.
type KindError struct{ Got, Want schema.GroupVersionKind }

// Error words it as upstream does.
func (e *KindError) Error() string {
	if e.Got.GroupVersion() != e.Want.GroupVersion() {
		return fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)",
			e.Got.GroupVersion(), e.Want.GroupVersion())
	}
	return fmt.Sprintf("%s in version %q cannot be handled as a %s: converting (%s) to (%s): unknown conversion",
		e.Got.Kind, e.Got.Version, e.Want.Kind, e.Got, e.Want)
}

// Body decodes a request's body into obj, which has its kind set; a body without apiVersion and kind is taken to be of that
// kind. strict are the errors a lenient server ignores; they are looked for only if wantStrict.
func Body(contentType string, data []byte, obj runtime.Object, wantStrict bool) (strict []error, err error) {
	media, err := mediaType(contentType)
	if err != nil {
		return nil, err
	}
	want := obj.GetObjectKind().GroupVersionKind()
	switch media {
	case MediaProto:
		return nil, decodeProto(data, obj, want)
	case MediaCBOR:
		return decodeCBOR(data, obj, want, wantStrict)
	case MediaYAML:
		json, err := yaml.YAMLToJSON(data)
		if err != nil {
			return nil, err
		}
		if wantStrict {
			if _, err := yaml.YAMLToJSONStrict(data); err != nil {
				strict = append(strict, err)
			}
		}
		data = json
	}
	if err := CheckDepth(data); err != nil {
		return nil, err
	}
	more, err := decodeJSON(data, obj, want, wantStrict)
	return append(strict, more...), err
}

func mediaType(contentType string) (string, error) {
	switch contentType {
	case "", MediaJSON:
		return MediaJSON, nil
	case MediaYAML, MediaProto, MediaCBOR:
		return contentType, nil
	}
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return "", ErrMediaType
	}
	switch media {
	case MediaJSON, MediaYAML, MediaProto, MediaCBOR:
		return media, nil
	}
	return "", ErrMediaType
}

func decodeProto(data []byte, obj runtime.Object, want schema.GroupVersionKind) error {
	apiVersion, kind, message, err := openEnvelope(data)
	if err != nil {
		return err
	}
	got, err := gvkOf(apiVersion, kind)
	if err != nil {
		return err
	}
	m, ok := obj.(protoMessage)
	if !ok {
		return ErrMediaType
	}
	if err := sameKind(got, want); err != nil {
		return err
	}
	if err := checkMessage(message, want); err != nil {
		return err
	}
	return m.Unmarshal(message)
}

func decodeJSON(data []byte, obj runtime.Object, want schema.GroupVersionKind, wantStrict bool) (strict []error, err error) {
	var into any = obj
	content := map[string]any{}
	u, isUnstructured := obj.(*unstructured.Unstructured)
	if isUnstructured {
		into = &content
	}
	if wantStrict {
		strict, err = kjson.UnmarshalStrict(data, into)
	} else {
		err = kjson.UnmarshalCaseSensitivePreserveInts(data, into)
	}
	if err != nil {
		return nil, err
	}
	if isUnstructured {
		kind, ok := content["kind"].(string)
		if !ok || kind == "" {
			return nil, runtime.NewMissingKindErr(string(data))
		}
		if version, ok := content["apiVersion"].(string); !ok || version == "" {
			return nil, runtime.NewMissingVersionErr(string(data))
		}
		u.Object = content
	}
	if err := sameKind(obj.GetObjectKind().GroupVersionKind(), want); err != nil {
		return nil, err
	}
	obj.GetObjectKind().SetGroupVersionKind(want)
	return strict, nil
}

func sameKind(got, want schema.GroupVersionKind) error {
	if got.Kind == "" {
		got.Kind = want.Kind
	}
	if got.Version == "" && got.Group == "" {
		got.Group, got.Version = want.Group, want.Version
	}
	if got != want {
		return &KindError{Got: got, Want: want}
	}
	return nil
}

// AnyVersion decodes a body of the named kind whatever its group and version: options objects have the same shape in all.
func AnyVersion(contentType string, data []byte, obj runtime.Object, kind string) error {
	media, err := mediaType(contentType)
	if err != nil {
		return err
	}
	switch media {
	case MediaProto:
		_, got, message, err := openEnvelope(data)
		if err != nil {
			return err
		}
		if got != kind && got != "" {
			return fmt.Errorf("the body is a %s, not a %s", got, kind)
		}
		m, ok := obj.(protoMessage)
		if !ok {
			return ErrMediaType
		}
		return m.Unmarshal(message)
	case MediaCBOR:
		err = anyCBOR(data, obj)
	case MediaYAML:
		if data, err = yaml.YAMLToJSON(data); err != nil {
			return err
		}
		fallthrough
	default:
		err = kjson.UnmarshalCaseSensitivePreserveInts(data, obj)
	}
	if err != nil {
		return err
	}
	if got := obj.GetObjectKind().GroupVersionKind().Kind; got != kind && got != "" {
		return fmt.Errorf("the body is a %s, not a %s", got, kind)
	}
	return nil
}
