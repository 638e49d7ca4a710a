// Command stored shows how mini keeps its kinds in etcd, for the test that holds them against upstream's storage codec:
// package e2e/conformance/roundtrip, which lives in a module of other versions and can only talk to this one through a pipe.
//
//	stored examples -n 5    writes objects of every kind that is kept in etcd, n each, the first with every field filled
//	stored decode           reads such objects, whose bytes somebody else made, and writes what mini understands
//
// Both speak JSON, one Object a line. The kinds come from the server's own rows, so that a new one cannot be forgotten;
// beside them stand the RangeAllocation of node ports, which no client sees, and a custom resource. Objects are random but
// the same in each run, and are taken as if a client had sent them, with the row's defaults. What is in them is not valid,
// since a codec must not care.
package main
