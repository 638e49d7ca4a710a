// Package work is the loop under every controller: a queue of keys, each worked on by at most one goroutine at a time.
//
// A key added while it waits is one entry; a key added while it is worked on is worked on once more. A key whose sync
// fails comes back after a delay that doubles for each failure in a row of that key alone, so one bad object never holds
// up another. AddAfter serves what is due to time (minReadySeconds, progress deadlines, tolerationSeconds): per key the
// earliest moment asked for wins, and a later Add does not cancel it.
//
// It differs from client-go's workqueue in what it costs when nothing happens: no goroutine, no ticker, no heartbeat.
// Workers start when there is a key to work on and end when there is none; a waiting key is one timer.
//
// Ahead tracks writes of our own that the informer has not shown yet, for the controllers that would otherwise do them
// twice.
package work
