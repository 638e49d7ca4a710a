// Package check says what a machine lacks to be a node of mini, and the fix for each.
//
// It tries things rather than reading lists of modules: links and rules are made in a network namespace of its own that is
// gone when it returns, so a check changes nothing on the machine (a kernel module that the try loads stays loaded).
// Every check runs to its end whatever the others found, so that a person sees all that is missing at once.
package check
