// Package store keeps API objects in etcd and answers reads and watches of them from memory.
package store
