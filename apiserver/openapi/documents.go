package openapi

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"sync"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	openapiv3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
)

// documents are those of the built-in kinds. The binary holds their JSON, which most clients ask for; the protobuf of one is
// made when somebody first wants it, and kept compressed.
type documents struct {
	files fs.FS

	mu    sync.Mutex // also keeps two from being made at once: parsing one takes many times its size
	proto map[string][]byte
}

// read returns a document as gzip. encoding is "json" or "pb".
func (d *documents) read(path, encoding string) ([]byte, error) {
	packed, err := fs.ReadFile(d.files, File(path))
	if err != nil || encoding == "json" {
		return packed, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if made, ok := d.proto[path]; ok {
		return made, nil
	}
	made, err := toProto(packed, path == "v2")
	if err != nil {
		return nil, fmt.Errorf("protobuf of %s: %w", path, err)
	}
	if d.proto == nil {
		d.proto = map[string][]byte{}
	}
	d.proto[path] = made
	return made, nil
}

func toProto(packed []byte, v2 bool) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(z)
	if err != nil {
		return nil, err
	}
	var document proto.Message
	if v2 {
		document, err = openapiv2.ParseDocument(text)
	} else {
		document, err = openapiv3.ParseDocument(text)
	}
	if err != nil {
		return nil, err
	}
	data, err := proto.Marshal(document)
	if err != nil {
		return nil, err
	}
	return Compress(data)
}
