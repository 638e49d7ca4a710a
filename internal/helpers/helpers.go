// SPDX-License-Identifier: Apache-2.0

package helpers

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/klauspost/compress/zstd"
)

// The helpers' names, as they are called once unpacked.
const (
	Shim    = "containerd-shim-runc-v2"
	PreShim = "shim" // goes before Shim, and must lie beside a file of that name
	Runc    = "runc"
	Pause   = "pause"
	Logger  = "logger"
	Kubectl = "kubectl"
)

//go:embed all:bin
var embedded embed.FS

// ErrMissing means that this binary was linked before the helpers were built.
var ErrMissing = errors.New("this binary was built without its helpers: run `make helpers`, then build again")

// Unpack makes the helper called name executable somewhere below dir and gives its absolute path. It writes only if the
// same content is not there yet. A helper that was not built gives ErrMissing.
func Unpack(dir, name string) (string, error) {
	return unpack(embedded, dir, name)
}

func unpack(files fs.FS, dir, name string) (path string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("unpack helper %s: %w", name, err)
		}
	}()
	if dir, err = filepath.Abs(dir); err != nil {
		return "", err
	}
	line, err := fs.ReadFile(files, "bin/"+name+".sum")
	if errors.Is(err, fs.ErrNotExist) {
		return "", ErrMissing
	} else if err != nil {
		return "", err
	}
	var sum string
	var size int64
	if _, err := fmt.Sscanf(string(line), "%64s %d", &sum, &size); err != nil || len(sum) != 64 {
		return "", fmt.Errorf("malformed checksum %q", line)
	}
	path = filepath.Join(dir, sum[:16], name)
	// The size stands for the content: a file gets its name only after its hash was checked, and what a power failure
	// can still do to a file that was never synced is to leave it short.
	if info, err := os.Stat(path); err == nil && info.Size() == size && info.Mode().Perm()&0o111 != 0 {
		return path, nil
	}
	packed, err := files.Open("bin/" + name + ".zst")
	if errors.Is(err, fs.ErrNotExist) {
		return "", ErrMissing
	} else if err != nil {
		return "", err
	}
	defer packed.Close()
	return path, write(path, sum, packed)
}

// write decompresses packed into path by way of a temporary file beside it.
func write(path, sum string, packed io.Reader) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	dec, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	defer dec.Close()

	// While a file is open for writing the kernel refuses to execute it, and a process that some other goroutine starts
	// meanwhile holds a copy of our descriptor until its exec. So nothing may fork before the file is closed again.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	tmp, err := os.CreateTemp(filepath.Dir(path), ".unpack-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	hash := sha256.New()
	if _, err = io.Copy(io.MultiWriter(tmp, hash), dec); err == nil {
		err = tmp.Chmod(0o755)
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != sum {
		return fmt.Errorf("content has hash %s, not %s", got, sum)
	}
	return os.Rename(tmp.Name(), path)
}
