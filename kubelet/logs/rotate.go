// SPDX-License-Identifier: Apache-2.0

package logs

import (
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
)

// Rotator keeps logs small.
type Rotator struct {
	MaxSize  int64 // bytes of the file being written
	MaxFiles int   // of a container, the one being written included
}

// Rotate moves a log that has grown too large aside and calls reopen, which makes the runtime write to a new file. Older parts are
// compressed and the oldest removed. It returns whether it rotated. If reopen fails the log is put back.
func (r Rotator) Rotate(path string, now time.Time, reopen func() error) (bool, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, r.restore(path, reopen)
	}
	if err != nil || st.Size() < r.MaxSize {
		return false, err
	}
	parts, err := rotatedParts(path)
	if err != nil {
		return false, err
	}
	var kept []string
	for _, p := range parts {
		if strings.HasSuffix(p, ".tmp") { // a compression that a crash ended
			if err := os.Remove(p); err != nil {
				return false, err
			}
			continue
		}
		kept = append(kept, p)
	}
	// After this rotation: the new file, the one moved aside, and MaxFiles-2 older ones.
	for len(kept) > max(r.MaxFiles-2, 0) {
		if err := os.Remove(kept[0]); err != nil {
			return false, err
		}
		kept = kept[1:]
	}
	for _, p := range kept {
		if !strings.HasSuffix(p, ".gz") {
			if err := compress(p); err != nil {
				return false, err
			}
		}
	}
	aside := path + "." + now.UTC().Format("20060102-150405")
	if _, err := os.Lstat(aside); err == nil {
		return false, nil // twice within a second: next time
	}
	if err := os.Rename(path, aside); err != nil {
		return false, err
	}
	if err := reopen(); err != nil {
		return false, errors.Join(err, os.Rename(aside, path))
	}
	return true, nil
}

// restore makes the runtime open a log again that a crash between rename and reopen left without a file.
func (r Rotator) restore(path string, reopen func() error) error {
	parts, err := rotatedParts(path)
	if err != nil || len(parts) == 0 {
		return err
	}
	return reopen()
}

func compress(path string) (retErr error) {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	tmp := path + ".tmp"
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, os.Remove(tmp))
		}
	}()
	z := gzip.NewWriter(out)
	_, err = io.Copy(z, in)
	if err := errors.Join(err, z.Close(), out.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path+".gz"); err != nil {
		return err
	}
	return os.Remove(path)
}
