// Package cni is the pod network of a node.
package cni
