// Package fairness says which requests the server works on and which wait: API Priority and Fairness (KEP-1040).
//
// FlowSchemas sort requests: the first that matches, by precedence and name, gives a request its priority level and, with
// its distinguisher, its flow. They are compiled when the objects change (Set) and read without a lock (Classify).
//
// A level has seats: its share of the server's. A request takes one, an expensive one more, and gives them back when it is
// done. Some of a level's seats it may lend, and some of others' it may borrow:
//
//	min = nominal - what it lends ≤ nominal ≤ max = nominal + what it may borrow
//
// Upstream moves limits between levels every ten seconds, after how many seats each could have used. Here it is decided for
// each request at the moment it comes or one ends, by two rules:
//
//   - up to its min a level always gets its seats; seats beyond come out of what nobody holds or has a min for;
//   - of several levels that want those, the one with the smallest part of its nominal in use comes first, so that nobody
//     borrows while a level has less than its nominal. One whose next request is wide is waited for, not overtaken.
//
// So a level that wants its nominal seats has them as soon as borrowed ones come back, a lender needs to do nothing for it,
// and together no more seats are taken than there are. The exempt level takes none and never waits.
//
// Within a level flows are dealt a hand of its queues (shuffle sharding), and a request joins the emptiest of them. A seat
// goes to the queue with the fewest seats in use, of several to the one that has had the fewest so far. Upstream counts
// seconds on seats; counting seats in use is fair in the same way, since who keeps them for long has more of them. A level
// without queues, a full queue and a wait that was too long are refusals (429).
//
// Without objects the mandatory levels and schemas are there. A level that was deleted keeps its share until its requests
// have ended. There are no goroutines and no timers of the package's own; a waiting request is the goroutine that serves
// it, and queues that nobody waits in take a few words.
package fairness
