// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	dockerconfig "github.com/containerd/containerd/v2/core/remotes/docker/config"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Pull implements Images. Each of creds is tried until the registry takes one; without any the pull is anonymous.
func (r *Containerd) Pull(ctx context.Context, ref string, creds []Credentials, progress func(done, total int64)) (Image, error) {
	ctx, err := r.inImages(ctx)
	if err != nil {
		return Image{}, err
	}
	name, err := NormalizeImage(ref)
	if err != nil {
		return Image{}, err
	}
	if len(creds) == 0 {
		creds = []Credentials{{}}
	}
	for _, c := range creds {
		if err = r.pull(ctx, name, c, progress); err == nil {
			return r.Image(ctx, name)
		}
		if !refused(err) {
			break
		}
	}
	return Image{}, fmt.Errorf("pull image %s: %w", name, err)
}

// refused reports whether a registry did not accept the credentials, so that others are worth trying.
func refused(err error) bool {
	var status remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &status) {
		return status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden
	}
	// Some registries hide from strangers that an image exists.
	return errors.Is(err, docker.ErrInvalidAuthorization) || errdefs.IsNotFound(err) || errdefs.IsUnauthorized(err) || errdefs.IsPermissionDenied(err)
}

func (r *Containerd) pull(ctx context.Context, name string, cred Credentials, progress func(done, total int64)) error {
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return err
	}
	registry, err := docker.DefaultHost(reference.Domain(named))
	if err != nil {
		return err
	}
	resolver := docker.NewResolver(docker.ResolverOptions{
		Hosts: dockerconfig.ConfigureHosts(ctx, dockerconfig.HostOptions{
			HostDir: r.hostDir,
			Credentials: func(host string) (string, string, error) {
				// A mirror is another party: it does not get the registry's secrets.
				if host != registry && host != reference.Domain(named) {
					return "", "", nil
				}
				if cred.IdentityToken != "" {
					return "", cred.IdentityToken, nil
				}
				return cred.Username, cred.Password, nil
			},
		}),
	})
	count := &counter{report: progress}
	img, err := r.client.Pull(ctx, name,
		containerd.WithResolver(countingResolver{resolver, count}),
		containerd.WithImageHandlerWrapper(count.wrap),
		containerd.WithPullUnpack, containerd.WithPullSnapshotter(r.snapshotter),
		containerd.WithPullLabel(labelManaged, "managed"))
	if err != nil {
		return err
	}
	if _, err = r.info(ctx, img.Metadata()); err != nil {
		return err
	}
	return r.imagesChanged(ctx)
}

// hostDir finds the folder with a registry's hosts.toml.
func (r *Containerd) hostDir(host string) (string, error) {
	for _, root := range r.cfg.RegistryDirs {
		for _, name := range []string{host, "_default"} {
			dir := filepath.Join(root, name)
			if info, err := os.Stat(dir); err == nil && info.IsDir() {
				return dir, nil
			}
		}
	}
	return "", errdefs.ErrNotFound
}

// counter adds up what a pull has to fetch and has fetched.
type counter struct {
	done, total atomic.Int64
	report      func(done, total int64)
}

func (c *counter) say() {
	if c.report != nil {
		c.report(c.done.Load(), c.total.Load())
	}
}

// wrap learns the sizes of layers and configs when their manifest is read.
func (c *counter) wrap(next images.Handler) images.Handler {
	return images.HandlerFunc(func(ctx context.Context, desc imagespec.Descriptor) ([]imagespec.Descriptor, error) {
		children, err := next.Handle(ctx, desc)
		if images.IsManifestType(desc.MediaType) {
			for _, child := range children {
				c.total.Add(child.Size)
			}
			c.say()
		}
		return children, err
	})
}

// countingResolver is a resolver whose downloads are counted.
type countingResolver struct {
	remotes.Resolver
	count *counter
}

func (r countingResolver) Fetcher(ctx context.Context, ref string) (remotes.Fetcher, error) {
	f, err := r.Resolver.Fetcher(ctx, ref)
	if err != nil {
		return nil, err
	}
	return remotes.FetcherFunc(func(ctx context.Context, desc imagespec.Descriptor) (io.ReadCloser, error) {
		body, err := f.Fetch(ctx, desc)
		if err != nil || images.IsManifestType(desc.MediaType) || images.IsIndexType(desc.MediaType) {
			return body, err
		}
		return &countingReader{body, r.count}, nil
	}), nil
}

type countingReader struct {
	io.ReadCloser
	count *counter
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if n > 0 {
		r.count.done.Add(int64(n))
		r.count.say()
	}
	return n, err
}
