// SPDX-License-Identifier: Apache-2.0

package logs

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// watcher tells that something in a directory was written, made or renamed.
type watcher struct {
	f       *os.File
	changed chan struct{} // closed when the watch ends
}

func newWatcher(dir string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_MOVED_FROM|unix.IN_DELETE|unix.IN_CLOSE_WRITE|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_ONLYDIR); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	w := &watcher{f: os.NewFile(uintptr(fd), "inotify"), changed: make(chan struct{}, 1)}
	go w.read()
	return w, nil
}

// read folds any number of events into one signal: the reader looks at the file anyway.
func (w *watcher) read() {
	defer close(w.changed)
	buf := make([]byte, 4096)
	for {
		n, err := w.f.Read(buf)
		if err != nil || n == 0 {
			return
		}
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

func (w *watcher) close() { w.f.Close() }

// Watch tells of changes in a directory until stop is called or the directory goes away, which closes changed. Several changes may
// come as one.
func Watch(dir string) (changed <-chan struct{}, stop func(), err error) {
	w, err := newWatcher(dir)
	if err != nil {
		return nil, nil, err
	}
	return w.changed, w.close, nil
}
