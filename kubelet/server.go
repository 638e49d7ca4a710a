package kubelet

import (
	"context"

	"golang.org/x/sync/errgroup"
)

func (k *Kubelet) serve(ctx context.Context, g *errgroup.Group) error { return nil }
