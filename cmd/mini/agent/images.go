package agent

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mini-k8s/mini/cni"
	"github.com/mini-k8s/mini/kubelet/container"
)

// importFolder imports every archive of a folder. One that cannot be imported is told and left out: a pod that needs it says
// so itself.
func importFolder(ctx context.Context, into container.Images, dir string, log *slog.Logger) {
	archives, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	if err != nil {
		return // only a malformed pattern
	}
	for _, path := range archives {
		begin := time.Now()
		names, err := importFile(ctx, into, path)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			log.Error("an image archive could not be imported; fix or remove it and start again", "file", path, "err", err)
			continue
		}
		log.Info("imported images", "file", path, "images", strings.Join(names, " "), "took", time.Since(begin).Round(time.Millisecond))
	}
}

func importFile(ctx context.Context, into container.Images, path string) (names []string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	imported, err := into.Import(ctx, f)
	for _, img := range imported {
		names = append(names, img.Names...)
	}
	return names, err
}

// images lets a pull wait for the import at the start: what lies in the folder needs no registry.
type images struct {
	container.Images
	imported <-chan struct{}
}

// Image waits too, so that a pod whose image is just being imported is not told that it is missing.
func (i images) Image(ctx context.Context, ref string) (container.Image, error) {
	img, err := i.Images.Image(ctx, ref)
	if err == nil {
		return img, nil
	}
	select {
	case <-ctx.Done():
		return img, ctx.Err()
	case <-i.imported:
		return i.Images.Image(ctx, ref)
	}
}

// lateNetwork is a pod network that becomes known after the runtime has started.
type lateNetwork struct {
	set chan struct{}
	is  cni.Network
}

func (l *lateNetwork) use(n cni.Network) {
	l.is = n
	close(l.set)
}

func (l *lateNetwork) get(ctx context.Context) (cni.Network, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.set:
		return l.is, nil
	}
}

func (l *lateNetwork) Add(ctx context.Context, pod cni.Pod) (cni.Result, error) {
	n, err := l.get(ctx)
	if err != nil {
		return cni.Result{}, err
	}
	return n.Add(ctx, pod)
}

func (l *lateNetwork) Del(ctx context.Context, pod cni.Pod) error {
	n, err := l.get(ctx)
	if err != nil {
		return err
	}
	return n.Del(ctx, pod)
}

func (l *lateNetwork) Prune(ctx context.Context, live []string) error {
	n, err := l.get(ctx)
	if err != nil {
		return err
	}
	return n.Prune(ctx, live)
}
