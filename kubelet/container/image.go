// SPDX-License-Identifier: Apache-2.0

package container

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// labelManaged is what CRI puts on the images that kubelet knows of.
const labelManaged = "io.cri-containerd.image"

// labelPinned is what CRI puts on images that garbage collection must leave. Imported ones get it: there is nowhere to pull them from again.
const labelPinned = "io.cri-containerd.pinned"

// imageInfo is what we need of an image to run it. It never changes for one digest.
type imageInfo struct {
	name    string // of the record in containerd's image store
	id      string // name@sha256:…
	config  imagespec.ImageConfig
	digest  digest.Digest // of the config: the image's ID
	chainID string
	size    int64
}

// imageInfos remembers by the digest of manifest or index, and users by root file system.
type imageInfos struct {
	mu    sync.Mutex
	info  map[digest.Digest]*imageInfo
	users map[string]userDB
}

// NormalizeImage completes a short image name: "busybox" is docker.io/library/busybox:latest.
func NormalizeImage(ref string) (string, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return "", fmt.Errorf("image name %q: %w", ref, err)
	}
	return named.String(), nil
}

// lookup finds an image's record by any of its names or by its ID.
func (r *Containerd) lookup(ctx context.Context, ref string) (images.Image, error) {
	store := r.client.ImageService()
	name, nameErr := NormalizeImage(ref)
	if nameErr == nil && !isImageID(ref) {
		img, err := store.Get(ctx, name)
		if err == nil || !errdefs.IsNotFound(native(err)) {
			return img, native(err)
		}
	}
	// By digest or ID: the records are few and what they point to is remembered.
	all, err := store.List(ctx)
	if err != nil {
		return images.Image{}, native(err)
	}
	for _, img := range all {
		if slices.Contains(repoDigests(img), name) {
			return img, nil
		}
		if info, err := r.info(ctx, img); err == nil && isImageID(ref) && sameID(info.digest, ref) {
			return img, nil
		}
	}
	if nameErr != nil && !isImageID(ref) {
		return images.Image{}, nameErr
	}
	return images.Image{}, fmt.Errorf("image %q: %w", ref, ErrImageNotFound)
}

// isImageID tells an ID, whole or a beginning of at least 12 digits, from a name.
func isImageID(ref string) bool {
	hex := strings.TrimPrefix(ref, "sha256:")
	if len(hex) < 12 || len(hex) > 64 || len(hex) < 64 && len(hex) == len(ref) && len(hex) != 12 {
		return false
	}
	return strings.Trim(hex, "0123456789abcdef") == ""
}

func sameID(d digest.Digest, ref string) bool {
	return strings.HasPrefix(d.Encoded(), strings.TrimPrefix(ref, "sha256:"))
}

// repoDigests are the names by digest that follow from an image's record.
func repoDigests(img images.Image) []string {
	named, err := reference.ParseDockerRef(img.Name)
	if err != nil {
		return nil
	}
	canonical, err := reference.WithDigest(reference.TrimNamed(named), img.Target.Digest)
	if err != nil {
		return nil
	}
	return []string{canonical.String()}
}

// info reads what an image's record points to, for this machine's platform.
func (r *Containerd) info(ctx context.Context, img images.Image) (*imageInfo, error) {
	r.infos.mu.Lock()
	known := r.infos.info[img.Target.Digest]
	r.infos.mu.Unlock()
	if known == nil {
		store := r.client.ContentStore()
		manifest, err := images.Manifest(ctx, store, img.Target, platforms.Default())
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", img.Name, native(err))
		}
		blob, err := content.ReadBlob(ctx, store, manifest.Config)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", img.Name, native(err))
		}
		var config imagespec.Image
		if err := json.Unmarshal(blob, &config); err != nil {
			return nil, fmt.Errorf("image %s: config: %w", img.Name, err)
		}
		known = &imageInfo{
			config: config.Config, digest: manifest.Config.Digest,
			chainID: identity.ChainID(config.RootFS.DiffIDs).String(), size: manifest.Config.Size,
		}
		for _, l := range manifest.Layers {
			known.size += l.Size
		}
		r.infos.mu.Lock()
		if r.infos.info == nil {
			r.infos.info = make(map[digest.Digest]*imageInfo)
		}
		r.infos.info[img.Target.Digest] = known
		r.infos.mu.Unlock()
	}
	named := *known
	named.name, named.id = img.Name, known.digest.String()
	if d := repoDigests(img); len(d) > 0 {
		named.id = d[0]
	}
	return &named, nil
}

func (r *Containerd) imageInfo(ctx context.Context, ref string) (*imageInfo, error) {
	img, err := r.lookup(ctx, ref)
	if err != nil {
		return nil, err
	}
	return r.info(ctx, img)
}

// Image implements Images.
func (r *Containerd) Image(ctx context.Context, ref string) (Image, error) {
	ctx, err := r.inImages(ctx)
	if err != nil {
		return Image{}, err
	}
	info, err := r.imageInfo(ctx, ref)
	if err != nil {
		return Image{}, err
	}
	all, err := r.images(ctx)
	if err != nil {
		return Image{}, err
	}
	for _, img := range all {
		if img.ID == info.digest.String() {
			return img, nil
		}
	}
	return Image{}, fmt.Errorf("image %q: %w", ref, ErrImageNotFound)
}

// ListImages implements Images.
func (r *Containerd) ListImages(ctx context.Context) ([]Image, error) {
	ctx, err := r.inImages(ctx)
	if err != nil {
		return nil, err
	}
	return r.images(ctx)
}

func (r *Containerd) images(ctx context.Context) ([]Image, error) {
	records, err := r.client.ImageService().List(ctx)
	if err != nil {
		return nil, native(err)
	}
	byID := make(map[string]*Image)
	for _, img := range records {
		info, err := r.info(ctx, img)
		if err != nil {
			continue // of another platform, or with parts missing: not ours to run
		}
		id := info.digest.String()
		if byID[id] == nil {
			byID[id] = &Image{ID: id, Size: info.size, Pinned: img.Labels[labelPinned] == "pinned"}
			byID[id].UID, byID[id].Username = imageUser(info.config.User)
		}
		for _, name := range append([]string{img.Name}, repoDigests(img)...) {
			if !slices.Contains(byID[id].Names, name) {
				byID[id].Names = append(byID[id].Names, name)
			}
		}
	}
	list := make([]Image, 0, len(byID))
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		slices.Sort(byID[id].Names)
		list = append(list, *byID[id])
	}
	slices.SortStableFunc(list, func(a, b Image) int { return cmp.Compare(a.Names[0], b.Names[0]) })
	return list, nil
}

func imageUser(user string) (*int64, string) {
	name, _, _ := strings.Cut(user, ":")
	if name == "" {
		return nil, ""
	}
	if uid, err := strconv.ParseInt(name, 10, 64); err == nil {
		return &uid, ""
	}
	return nil, name
}

// Import implements Images. tar is an OCI layout or docker archive, which may be compressed by gzip or zstd.
func (r *Containerd) Import(ctx context.Context, tar io.Reader) (_ []Image, err error) {
	if ctx, err = r.inImages(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("import image: %w", err)
		}
	}()
	plain, err := compression.DecompressStream(tar)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	ctx, release, err := r.client.WithLease(ctx)
	if err != nil {
		return nil, native(err)
	}
	defer func() {
		ctx, cancel := undo(ctx)
		defer cancel()
		err = errors.Join(err, native(release(ctx)))
	}()
	imported, err := r.client.Import(ctx, plain,
		containerd.WithImageRefTranslator(func(ref string) string {
			name, err := NormalizeImage(ref)
			if err != nil {
				return ""
			}
			return name
		}),
		containerd.WithImportPlatform(platforms.Default()),
		containerd.WithSkipMissing(),
		containerd.WithImageLabels(map[string]string{labelManaged: "managed", labelPinned: "pinned"}))
	if err != nil {
		return nil, native(err)
	}
	var ids []string
	for _, img := range imported {
		if err := r.unpack(ctx, img); err != nil {
			return nil, err
		}
		info, err := r.info(ctx, img)
		if err != nil {
			return nil, err
		}
		ids = append(ids, info.digest.String())
	}
	if len(ids) == 0 {
		return nil, errors.New("the archive holds no image with a name for this platform")
	}
	if err := r.imagesChanged(ctx); err != nil {
		return nil, err
	}
	all, err := r.images(ctx)
	return slices.DeleteFunc(all, func(i Image) bool { return !slices.Contains(ids, i.ID) }), err
}

func (r *Containerd) unpack(ctx context.Context, img images.Image) error {
	err := containerd.NewImage(r.client, img).Unpack(ctx, r.snapshotter)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", img.Name, native(err))
	}
	return nil
}

// RemoveImage implements Images. A name takes away that name, an ID the image with all its names; that there is none is no
// error. Running containers keep their root file systems.
func (r *Containerd) RemoveImage(ctx context.Context, ref string) error {
	ctx, err := r.inImages(ctx)
	if err != nil {
		return err
	}
	img, err := r.lookup(ctx, ref)
	if errors.Is(err, ErrImageNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	names := []string{img.Name}
	if isImageID(ref) {
		info, err := r.info(ctx, img)
		if err != nil {
			return err
		}
		records, err := r.client.ImageService().List(ctx)
		if err != nil {
			return native(err)
		}
		for _, other := range records {
			if i, err := r.info(ctx, other); err == nil && i.digest == info.digest && other.Name != img.Name {
				names = append(names, other.Name)
			}
		}
	}
	for i, name := range names {
		var opts []images.DeleteOpt
		if i == len(names)-1 {
			opts = append(opts, images.SynchronousDelete()) // frees the disk before it returns
		}
		if err := native(r.client.ImageService().Delete(ctx, name, opts...)); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove image %s: %w", name, err)
		}
	}
	r.infos.mu.Lock()
	r.infos.info = nil
	r.infos.mu.Unlock()
	return r.imagesChanged(ctx)
}
