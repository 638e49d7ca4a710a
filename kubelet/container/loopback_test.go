// SPDX-License-Identifier: Apache-2.0

package container

import (
	"archive/tar"
	"bytes"
	"encoding/pem"
	"io"
	"testing"

	"github.com/vishvananda/netlink"
)

func pemOf(r *testRegistry) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw})
}

func untar(t testing.TB, data []byte) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files
		} else if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// loopbackUp is what a pod network does in every sandbox.
func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}
