// Package feed gives many controllers one subscription each to the shared informers.
//
// Each handler added to a client-go informer owns two goroutines and a ring of a thousand slots, and each event crosses
// both. A Set collects the handlers of all controllers first and adds one handler an informer, which calls them in turn.
// Handlers therefore must not block: a controller's handler computes keys and queues them, nothing more.
//
// A Set starts no goroutine of its own; the informers call it on theirs. Handlers of different kinds run at the same time,
// those of one kind never do.
package feed
