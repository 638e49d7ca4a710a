// SPDX-License-Identifier: Apache-2.0

// Command pack compresses one built helper for embedding: it writes OUT.zst and, beside it, OUT.sum with the SHA-256 and
// the size of the file as it will be unpacked. The same input gives the same bytes on every machine.
package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"

	"github.com/klauspost/compress/zstd"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: pack FILE OUT")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func run(in, out string) error {
	raw, err := os.ReadFile(in)
	if err != nil {
		return err
	}
	var packed bytes.Buffer
	// One goroutine, because the split into blocks must not depend on the number of cores.
	w, err := zstd.NewWriter(&packed, zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
	if err != nil {
		return err
	}
	if _, err := w.Write(raw); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := os.WriteFile(out+".zst", packed.Bytes(), 0o644); err != nil {
		return err
	}
	return os.WriteFile(out+".sum", fmt.Appendf(nil, "%x %d\n", sha256.Sum256(raw), len(raw)), 0o644)
}
