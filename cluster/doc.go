// Package cluster makes and removes throwaway mini clusters on one machine, for development, CI and mini's own end-to-end
// tests.
//
// A node is a network namespace with a data dir and a cgroup of its own, and a mini process in it. The nodes hang on a
// bridge that lives in one more namespace, so the machine's own network sees nothing of a cluster: no link, no route, no
// rule. What the machine may reach is handed over as sockets: the API server's and each published port's listener are
// opened on 127.0.0.1 in the machine's namespace and inherited by the server process, which answers or forwards from
// inside its own namespace.
//
// Everything of a cluster lies below its directory, and cluster.json there says what was made. It is written before
// anything else is made, and every removal treats "not there" as done, so that Delete works on whatever a crash at any
// point left behind. Mounts are found in the mount table by that directory, processes by the cgroup.
//
// The package starts processes and returns; it keeps no goroutine and no process of its own running. A node that dies
// stays dead until Start is called.
package cluster
