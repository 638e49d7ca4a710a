// SPDX-License-Identifier: Apache-2.0

// Package helpers carries the programs that a node runs beside mini: the containerd shim, runc, pause,
// the log writer of a container, and kubectl.
//
// They are separate programs because they run once for every pod, container or command, and the one fat binary would cost
// each of them tens of megabytes. `make helpers` builds them from the versions pinned in go.mod and from the C sources
// in folder c, compresses them into folder bin, and the linker embeds that. A binary linked without them works until it
// needs one; Unpack then says what to do.
//
// Unpack writes a helper once, to DIR/HASH/NAME, and gives its path. HASH is of the content, so the programs of two
// versions of mini live beside each other: a shim of the old version is still running after an upgrade and may be called
// again. Nothing here deletes a version. A file appears under its name only when complete, so that any number of
// processes may unpack at the same moment.
//
// The package starts no goroutine and keeps nothing in memory.
package helpers
