// Command run makes a throwaway cluster of a server and agents, runs chosen conformance tests against it and tells what
// became of each: `make conformance` is the way to call it.
//
// Tests that may share the cluster run first, several at a time, then the serial ones alone. Each result is shown as it
// comes. In the end there is a table by group and by milestone, and for each failure the first lines of why; all of it stays in
// the folder that -out names, with the log of each failed test, of the test runner and of every node. The cluster is always
// deleted, also after an interrupt.
package main
