// Package leftovers finds and ends what nodes leave on a machine when their mini has ended: the processes of pods by their
// cgroups and of their shims by their program, mounts below a data dir, and the links that give long socket paths a short name.
//
// Everything here works on what is half gone already, and a second call continues where the first one failed. Nothing is
// remembered, and no goroutine is started. The callers say what is theirs: a cgroup, a directory; nothing outside is touched.
package leftovers
