// Package ociarchive writes container images as OCI archives (tar files with an OCI image layout), for the examples and
// the tests: the machines that run them have no registry. The same input gives the same bytes.
package ociarchive

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is what an archive is made from: layers of files and the configuration.
type Image struct {
	Names  []string // full references, such as docker.io/mini/hello:1
	Base   [][]File // the layers below Files, the lowest first; an archive holds a layer that images share once
	Files  []File
	Config ocispec.ImageConfig
}

// File is one entry of the layer. Parent folders are made as needed.
type File struct {
	Path    string // absolute
	Mode    int64  // permissions; with Link ignored
	UID     int
	GID     int
	Content []byte
	Link    string // target of a symbolic link, if it is one
	Dir     bool
}

// Write writes the archive of the images to w.
func Write(w io.Writer, images ...Image) error {
	a := &archive{tw: tar.NewWriter(w), seen: map[string]bool{}}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, img := range images {
		manifest, err := a.image(img)
		if err != nil {
			return fmt.Errorf("image %s: %w", strings.Join(img.Names, ", "), err)
		}
		for _, name := range img.Names {
			d := manifest
			d.Annotations = map[string]string{"io.containerd.image.name": name, ocispec.AnnotationRefName: name}
			index.Manifests = append(index.Manifests, d)
		}
	}
	if err := a.json("oci-layout", ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}); err != nil {
		return err
	}
	if err := a.json("index.json", index); err != nil {
		return err
	}
	return a.tw.Close()
}

type archive struct {
	tw   *tar.Writer
	seen map[string]bool
}

func (a *archive) image(img Image) (ocispec.Descriptor, error) {
	var layers []ocispec.Descriptor
	var diffIDs []digest.Digest
	for _, files := range append(slices.Clone(img.Base), img.Files) {
		layer, err := layerOf(files)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		blob, err := a.blob(ocispec.MediaTypeImageLayer, layer)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		layers, diffIDs = append(layers, blob), append(diffIDs, blob.Digest)
	}
	platform := ocispec.Platform{Architecture: "amd64", OS: "linux"}
	config, err := a.blobJSON(ocispec.MediaTypeImageConfig, ocispec.Image{
		Platform: platform, Config: img.Config,
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: diffIDs},
	})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	manifest, err := a.blobJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: config, Layers: layers,
	})
	manifest.Platform = &platform
	return manifest, err
}

func (a *archive) blobJSON(mediaType string, v any) (ocispec.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return a.blob(mediaType, b)
}

func (a *archive) blob(mediaType string, b []byte) (ocispec.Descriptor, error) {
	sum := sha256.Sum256(b)
	name := "blobs/sha256/" + hex.EncodeToString(sum[:])
	if !a.seen[name] {
		a.seen[name] = true
		if err := a.file(name, b); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.NewDigestFromBytes(digest.SHA256, sum[:]), Size: int64(len(b))}, nil
}

func (a *archive) json(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return a.file(name, b)
}

func (a *archive) file(name string, b []byte) error {
	if err := a.tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(b)), Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	_, err := a.tw.Write(b)
	return err
}

// layerOf makes an uncompressed layer: it is unpacked as often as it is packed, and never travels.
func layerOf(files []File) ([]byte, error) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	made := map[string]bool{"/": true, ".": true}
	var parents func(dir string) error
	parents = func(dir string) error {
		if made[dir] {
			return nil
		}
		made[dir] = true
		if err := parents(path.Dir(dir)); err != nil {
			return err
		}
		return tw.WriteHeader(&tar.Header{Name: strings.TrimPrefix(dir, "/") + "/", Mode: 0o755, Typeflag: tar.TypeDir, ModTime: time.Unix(0, 0)})
	}
	// Folders with a mode of their own come first, so that no file makes them with the usual one.
	files = slices.Clone(files)
	slices.SortStableFunc(files, func(a, b File) int {
		if a.Dir != b.Dir {
			if a.Dir {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Path, b.Path)
	})
	for _, f := range files {
		name := path.Clean(f.Path)
		if !path.IsAbs(name) || made[name] {
			return nil, fmt.Errorf("file %q: want an absolute path, once", f.Path)
		}
		if err := parents(path.Dir(name)); err != nil {
			return nil, err
		}
		made[name] = true
		h := &tar.Header{Name: name[1:], Mode: f.Mode, Uid: f.UID, Gid: f.GID, ModTime: time.Unix(0, 0)}
		switch {
		case f.Dir:
			h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
		case f.Link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Link, 0o777
		default:
			h.Typeflag, h.Size = tar.TypeReg, int64(len(f.Content))
		}
		if err := tw.WriteHeader(h); err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := tw.Write(f.Content); err != nil {
				return nil, err
			}
		}
	}
	err := tw.Close()
	return buf.Bytes(), err
}
