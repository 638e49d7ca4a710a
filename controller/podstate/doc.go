// Package podstate answers the questions about a Pod that several controllers ask, in the terms of the API: is it ready,
// available, active, terminal, what port does a Service port mean on it, does it belong behind a Service at all.
//
// Everything here is a pure function of the objects and of the time handed in.
package podstate
