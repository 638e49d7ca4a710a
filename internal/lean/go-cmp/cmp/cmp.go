// SPDX-License-Identifier: Apache-2.0

// Package cmp stands in for github.com/google/go-cmp where bin/mini is built; the tests use the real one.
//
// Only etcd's consistency check wants it there, which is off unless ETCD_VERIFY asks for it, and then compares two maps of
// strings. The real package calls methods by names that are known at run time only, so that the linker would have to keep
// every exported method of every type in the binary: 23 MB of 120, with what else does so.
package cmp

import (
	"fmt"
	"reflect"
)

// Diff says how two values differ, and nothing where they are deeply equal.
func Diff(x, y any) string {
	if reflect.DeepEqual(x, y) {
		return ""
	}
	return fmt.Sprintf("- %v\n+ %v\n", x, y)
}
