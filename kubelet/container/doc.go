// Package container runs a node's pods' sandboxes and containers on containerd and keeps its images.
package container
