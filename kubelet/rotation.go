// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"time"

	"github.com/mini-k8s/mini/kubelet/container"
	"github.com/mini-k8s/mini/kubelet/logs"
)

// rotateInterval is how often the sizes of the running containers' logs are looked at: one stat each.
const rotateInterval = 10 * time.Second

func removeLogs(path string) error { return logs.Remove(path) }

func tailForMessage(path string, bytes, lines int) string { return logs.Tail(path, bytes, lines) }

// rotateLogs keeps the logs of running containers within their limits until ctx ends.
func (k *Kubelet) rotateLogs(ctx context.Context) error {
	r := logs.Rotator{MaxSize: k.cfg.LogMaxSize, MaxFiles: k.cfg.LogMaxFiles}
	for sleep(ctx, rotateInterval) {
		for _, c := range k.runningContainers() {
			_, err := r.Rotate(c.LogPath, time.Now(), func() error { return k.runtime.ReopenLog(ctx, c.ID) })
			if err != nil && ctx.Err() == nil {
				k.log.Warn("cannot rotate a container's log", "namespace", c.Pod.Namespace, "pod", c.Pod.Name, "container", c.Name, "err", err)
			}
		}
	}
	return nil
}

func (k *Kubelet) runningContainers() []container.Container {
	k.mu.Lock()
	all := k.podListLocked()
	k.mu.Unlock()
	var out []container.Container
	for _, p := range all {
		p.mu.Lock()
		for _, c := range p.containers {
			if c.State == container.Running && c.LogPath != "" {
				out = append(out, c)
			}
		}
		p.mu.Unlock()
	}
	return out
}
