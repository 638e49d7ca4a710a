// Package clients runs clients that other people wrote, unmodified, against a cluster: the Node client of the npm registry
// (folder node). It needs what `make clients` installs, so its test is built with the tag clients alone.
package clients
