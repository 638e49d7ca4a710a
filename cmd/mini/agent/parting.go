package agent

import (
	"context"
	"os/signal"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/mini-k8s/mini/kubelet"
)

// Parting lets a node that stops its pods end in two steps: the pods first, then what they and their last words need.
// The zero value is ready for use; without a kubelet there is only the second step.
type Parting struct {
	kubelet atomic.Pointer[kubelet.Kubelet]
}

// Outlive returns a context for everything of the node: when ctx ends, it goes on until the pods have ended. A signal to the
// process meanwhile is another one than that which ended ctx: it ends the waiting.
func (p *Parting) Outlive(ctx context.Context) (context.Context, context.CancelFunc) {
	longer, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		defer end()
		if k := p.kubelet.Load(); k != nil {
			waiting, stop := signal.NotifyContext(longer, unix.SIGTERM, unix.SIGINT)
			defer stop()
			k.Shutdown(waiting)
		}
	})
	return longer, func() { stop(); end() }
}
