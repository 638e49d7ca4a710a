// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/platforms"
	"github.com/containerd/plugin"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// stores are containerd's two databases. Upstream waits for the disk after each change of either: some thirty times in the
// life of a pod, each of them tens of milliseconds where the disk is slow or busy. But what they hold about containers is
// worth nothing after a power failure, when none of them runs any more. What must last is what they hold about images, and
// that changes seldom. So the databases are written without waiting, which a killed process cannot hurt, and a copy that
// has reached the disk is kept of the state after each change of the images. At the first start after a boot the databases
// are checked, and the copies take the place of what a power failure has damaged.
type stores struct {
	root     string
	bootID   string
	log      *slog.Logger
	restored bool       // from the copies
	mu       sync.Mutex // over the writing of copies
	metadata *metadata.DB
	overlay  *storage.MetaStore
}

const (
	metadataFile = "io.containerd.metadata.v1.bolt/meta.db"
	overlayFile  = "io.containerd.snapshotter.v1.overlayfs/metadata.db"
	goodSuffix   = ".good"
	bootFile     = "boot" // which boot of the machine the databases were last used in
)

// openStores makes the databases below root fit to be opened.
func openStores(root string, log *slog.Logger) (*stores, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	s := &stores{root: root, bootID: strings.TrimSpace(string(boot)), log: log}
	return s, s.repair()
}

func (s *stores) files() []string {
	return []string{filepath.Join(s.root, metadataFile), filepath.Join(s.root, overlayFile)}
}

func (s *stores) repair() error {
	at := filepath.Join(s.root, bootFile)
	last, err := os.ReadFile(at)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if string(last) == s.bootID {
		return nil
	}
	var damage []error
	for _, file := range s.files() {
		if err := checkStore(file); err != nil {
			damage = append(damage, fmt.Errorf("%s: %w", file, err))
		}
	}
	if err := errors.Join(damage...); err != nil {
		if err := s.restore(err); err != nil {
			return err
		}
	}
	return writeSynced(at, func(w io.Writer) error { _, err := io.WriteString(w, s.bootID); return err })
}

// restore puts the copies in place, of both databases, since they refer to each other. Without copies both begin empty.
func (s *stores) restore(damage error) error {
	s.restored = true
	when := time.Time{}
	for _, file := range s.files() {
		info, err := os.Stat(file + goodSuffix)
		if err != nil {
			when = time.Time{}
			break
		}
		when = info.ModTime()
	}
	for _, file := range s.files() {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if when.IsZero() {
			continue
		}
		err := writeSynced(file, func(w io.Writer) error {
			good, err := os.Open(file + goodSuffix)
			if err != nil {
				return err
			}
			defer good.Close()
			_, err = io.Copy(w, good)
			return err
		})
		if err != nil {
			return err
		}
	}
	if when.IsZero() {
		s.log.Warn("a power failure damaged the image store before anything in it was kept: images must be pulled or imported again", "err", damage)
	} else {
		s.log.Warn("a power failure damaged the image store: its state after the last change of images is back", "from", when, "err", damage)
	}
	return nil
}

// checkStore reads all of a database. One that does not exist is whole.
func checkStore(path string) (err error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// Damage can point outside of the file, whose pages are memory to bolt.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("damaged: %v", r)
		}
	}()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return err
	}
	defer db.Close()
	return db.View(func(tx *bolt.Tx) error { return walk(tx) })
}

// walk visits every key on this goroutine, where a fault can be caught.
func walk(tx *bolt.Tx) error {
	var visit func(b *bolt.Bucket) error
	visit = func(b *bolt.Bucket) error {
		return b.ForEach(func(k, v []byte) error {
			if v == nil {
				if inner := b.Bucket(k); inner != nil {
					return visit(inner)
				}
			}
			var sum byte
			for _, c := range v {
				sum ^= c // touches the page
			}
			_ = sum
			return nil
		})
	}
	return tx.ForEach(func(_ []byte, b *bolt.Bucket) error { return visit(b) })
}

// keep writes the copies, as the databases are now.
func (s *stores) keep(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	files := s.files()
	err := s.metadata.View(func(tx *bolt.Tx) error { return copyStore(tx, files[0]) })
	if err == nil && s.overlay != nil {
		_, t, e := s.overlay.TransactionContext(ctx, false)
		if e != nil {
			return e
		}
		tx, ok := t.(*bolt.Tx)
		if !ok {
			return fmt.Errorf("the snapshotter's database is a %T", t)
		}
		err = errors.Join(copyStore(tx, files[1]), t.Rollback())
	}
	if err != nil {
		return fmt.Errorf("make what is known of images last: %w", err)
	}
	return nil
}

func copyStore(tx *bolt.Tx, file string) error {
	return writeSynced(file+goodSuffix, func(w io.Writer) error { _, err := tx.WriteTo(w); return err })
}

// writeSynced replaces a file by one that is on the disk when it returns.
func writeSynced(path string, write func(io.Writer) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// overlayPlugin is containerd's plugin for the overlay snapshotter, on a database that does not wait for the disk.
func (s *stores) overlayPlugin(mountOptions []string) func(*plugin.InitContext) (any, error) {
	return func(ic *plugin.InitContext) (any, error) {
		root := ic.Properties[plugins.PropertyRootDir]
		if err := os.MkdirAll(root, 0o700); err != nil {
			return nil, err
		}
		ms, err := storage.NewMetaStore(filepath.Join(root, "metadata.db"), func(o *bolt.Options) error {
			o.NoSync, o.NoGrowSync = true, true
			return nil
		})
		if err != nil {
			return nil, err
		}
		ic.Meta.Platforms = append(ic.Meta.Platforms, platforms.DefaultSpec())
		ic.Meta.Exports[plugins.SnapshotterRootDir] = root
		sn, err := overlay.NewSnapshotter(root, overlay.AsynchronousRemove, overlay.WithMountOptions(mountOptions), overlay.WithMetaStore(ms))
		if err == nil {
			s.overlay = ms
		}
		return sn, err
	}
}

// mountState puts a tmpfs at dir, where the state of what runs lies: like that, it ends with a reboot, and containerd and
// the shims, which wait for the disk after writing it, need not. Where it cannot be mounted the folder is used as it is.
func mountState(dir string, log *slog.Logger) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	var at, above unix.Stat_t
	if err := errors.Join(unix.Stat(dir, &at), unix.Stat(filepath.Dir(dir), &above)); err != nil {
		return err
	}
	if at.Dev != above.Dev {
		return nil // of an earlier life
	}
	if err := unix.Mount("mini", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=711"); err != nil {
		log.Warn("containers' state is kept on disk, which is slower", "dir", dir, "err", err)
	}
	return nil
}

// unmountState takes the tmpfs away, when nothing runs that needs it.
func unmountState(dir string) error {
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}
