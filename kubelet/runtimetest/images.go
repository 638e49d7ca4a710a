// SPDX-License-Identifier: Apache-2.0

package runtimetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/mini-k8s/mini/kubelet/container"
)

// Images is a container.Images in memory. References are kept as they are given, after the default tag is added.
type Images struct {
	// OnPull, if set, decides whether a pull works.
	OnPull func(ref string, creds []container.Credentials) error
	// NotFound is what Image returns for an unknown reference.
	NotFound error

	mu     sync.Mutex
	images map[string]container.Image
	pulls  []string
}

var _ container.Images = (*Images)(nil)

// NewImages returns a store that holds refs.
func NewImages(notFound error, refs ...string) *Images {
	im := &Images{NotFound: notFound, images: map[string]container.Image{}}
	for _, r := range refs {
		im.put(r)
	}
	return im
}

func (im *Images) put(ref string) container.Image {
	img := container.Image{ID: "sha256:" + fmt.Sprintf("%064x", len(im.images)+1), Names: []string{ref}, Size: 1 << 20}
	im.images[ref] = img
	return img
}

// Pulls returns the references that were pulled.
func (im *Images) Pulls() []string {
	im.mu.Lock()
	defer im.mu.Unlock()
	return append([]string(nil), im.pulls...)
}

// Set replaces an image.
func (im *Images) Set(ref string, img container.Image) {
	im.mu.Lock()
	defer im.mu.Unlock()
	im.images[ref] = img
}

// Image implements container.Images.
func (im *Images) Image(_ context.Context, ref string) (container.Image, error) {
	im.mu.Lock()
	defer im.mu.Unlock()
	for _, r := range []string{ref, strings.TrimSuffix(ref, ":latest"), ref + ":latest"} {
		if img, ok := im.images[r]; ok {
			return img, nil
		}
	}
	return container.Image{}, fmt.Errorf("image %q: %w", ref, im.NotFound)
}

// ListImages implements container.Images.
func (im *Images) ListImages(context.Context) ([]container.Image, error) {
	im.mu.Lock()
	defer im.mu.Unlock()
	var all []container.Image
	for _, i := range im.images {
		all = append(all, i)
	}
	return all, nil
}

// Pull implements container.Images.
func (im *Images) Pull(ctx context.Context, ref string, creds []container.Credentials, _ func(done, total int64)) (container.Image, error) {
	im.mu.Lock()
	im.pulls = append(im.pulls, ref)
	on := im.OnPull
	im.mu.Unlock()
	if on != nil {
		if err := on(ref, creds); err != nil {
			return container.Image{}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return container.Image{}, err
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.put(ref), nil
}

// Import implements container.Images.
func (im *Images) Import(context.Context, io.Reader) ([]container.Image, error) {
	return nil, errors.New("the image store in memory reads no archives")
}

// RemoveImage implements container.Images.
func (im *Images) RemoveImage(_ context.Context, ref string) error {
	im.mu.Lock()
	defer im.mu.Unlock()
	for name, img := range im.images {
		if name == ref || img.ID == ref {
			delete(im.images, name)
		}
	}
	return nil
}
