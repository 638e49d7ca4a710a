// Package fairness shares places among users, so that one who asks for everything at once does not starve the others.
//
// A Queue has a number of places. Who finds one free takes it; otherwise the request waits in its user's line. A place that
// gets free goes to the user with the fewest requests under way, of several to the one who has waited longest. So a user
// alone may have all places, and a newcomer gets the next one that is free however many requests others have waiting.
//
// Lines have an end: a request that finds its user's line full, or waits for too long, is refused (429). That is a limit for
// each user and not for all together, which keeps a flood of one from filling the lines of others.
//
// Only users with requests under way or waiting take memory: a map entry each. There is no goroutine and no timer of the
// queue's own; a waiting request is the goroutine that serves it.
package fairness
