// SPDX-License-Identifier: Apache-2.0

// Package downward resolves what a pod may learn about itself: fieldRef and resourceFieldRef of environment variables
// and downwardAPI volumes. It is pure and starts no goroutines. A field that does not exist is an error, an unset one is "".
// The rules are those of upstream's pkg/fieldpath and pkg/api/v1/resource.
package downward
