// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"

	"github.com/mini-k8s/mini/kubelet/container"
	"github.com/mini-k8s/mini/kubelet/eviction"
)

// When images that nobody uses are removed: upstream's defaults. Above imageHigh percent of the disk, down to imageLow percent, those
// that were not used for the longest time first, and none that came less than imageAge ago.
const (
	imagePeriod = 5 * time.Minute
	imageHigh   = 85
	imageLow    = 80
	imageAge    = 2 * time.Minute
)

// imageUse remembers, by image ID, when an image was first seen and last in use.
type imageUse struct{ first, last map[string]time.Time }

// note takes in what is there and what is used.
func (u imageUse) note(all []container.Image, used map[string]bool, now time.Time) {
	there := map[string]bool{}
	for _, img := range all {
		there[img.ID] = true
		if _, ok := u.first[img.ID]; !ok {
			u.first[img.ID] = now
		}
		if inUse(img, used) {
			u.last[img.ID] = now
		}
	}
	for _, m := range []map[string]time.Time{u.first, u.last} {
		for id := range m {
			if !there[id] {
				delete(m, id)
			}
		}
	}
}

func inUse(img container.Image, used map[string]bool) bool {
	return used[img.ID] || slices.ContainsFunc(img.Names, func(n string) bool { return used[n] })
}

// removable orders the images that may go, the first to go first.
func (u imageUse) removable(all []container.Image, used map[string]bool, now time.Time) []container.Image {
	var out []container.Image
	for _, img := range all {
		if !img.Pinned && !inUse(img, used) && now.Sub(u.first[img.ID]) >= imageAge {
			out = append(out, img)
		}
	}
	slices.SortStableFunc(out, func(a, b container.Image) int {
		return cmp.Or(u.last[a.ID].Compare(u.last[b.ID]), u.first[a.ID].Compare(u.first[b.ID]))
	})
	return out
}

// excess is how many bytes have to go for the disk to be filled to imageLow again; 0 below imageHigh.
func excess(disk eviction.Amount) uint64 {
	used := disk.Total - min(disk.Available, disk.Total)
	if disk.Total == 0 || used*100 < disk.Total*imageHigh {
		return 0
	}
	return used - disk.Total/100*imageLow
}

// collectImages removes images until the disk has room, or, if the node is in need, all that may go.
func (g *guard) collectImages(ctx context.Context, need bool) {
	g.collected = time.Now()
	all, err := g.k.cfg.Images.ListImages(ctx)
	if err != nil {
		return
	}
	used := g.k.imagesInUse()
	g.images.note(all, used, g.collected)
	want := excess(g.read().Disk)
	if want == 0 && !need {
		return
	}
	freed := uint64(0)
	for _, img := range g.images.removable(all, used, g.collected) {
		if !need && freed >= want {
			break
		}
		if inUse(img, g.k.imagesInUse()) { // a container was made of it meanwhile
			continue
		}
		if err := g.k.cfg.Images.RemoveImage(ctx, img.ID); err != nil {
			g.k.log.Warn("cannot remove an image that nobody uses", "image", img.ID, "err", err)
			continue
		}
		freed += uint64(img.Size)
		g.k.log.Info("removed an image that nobody uses, to make room on the disk", "image", img.Names, "bytes", img.Size)
	}
	if freed > 0 {
		g.k.node.imagesChanged()
	}
	if freed < want {
		g.k.recorder.Event(g.k.node.ref(), corev1.EventTypeWarning, "FreeDiskSpaceFailed", fmt.Sprintf(
			"Failed to garbage collect required amount of images. Attempted to free %d bytes, but only found %d bytes eligible to free.", want, freed))
	}
}

// normalImage completes a reference as the image store has it; one that is none stays as it is.
func normalImage(ref string) string {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return ref
	}
	return named.String()
}
