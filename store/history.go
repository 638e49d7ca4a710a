package store

import (
	"sort"
	"sync"
	"time"
)

// record is one change of a collection.
type record struct {
	key           string
	before, after *Item // nil if there was, or is, none
	gone          *Item // before, as watchers who lose it see it; made on demand unless after is nil
	once          sync.Once
	revision      int64
	at            int64 // unix seconds
}

// lost is the item for a watcher that no longer matches.
func (r *record) lost() *Item {
	if r.after == nil {
		return r.gone
	}
	r.once.Do(func() { r.gone = r.before.at(r.revision) })
	return r.gone
}

// history is the last changes, oldest first. Records have consecutive positions; a change keeps its position for good.
type history struct {
	records []*record
	first   uint64 // position of records[0]
	floor   int64  // every change after this revision is here
}

const (
	historyAge = 75   // seconds: a client that reconnects finds its place without asking etcd
	historyMin = 16   // kept however old
	historyMax = 8192 // kept however young

	historyStart = 1 << 62 // first position, with room for older ones before it
)

func (h *history) end() uint64 { return h.first + uint64(len(h.records)) }

func (h *history) add(r *record) {
	r.at = time.Now().Unix()
	h.records = append(h.records, r)
	h.trim(r.at)
}

// trim drops what is too old or too much.
func (h *history) trim(now int64) {
	n := 0
	for left := len(h.records); left > historyMin && (left > historyMax || h.records[n].at < now-historyAge); left-- {
		h.floor = h.records[n].revision
		h.records[n] = nil
		n++
	}
	h.records = h.records[n:]
	h.first += uint64(n)
}

// prepend puts older records before the others, which makes them complete after the revision.
func (h *history) prepend(records []*record, after int64) {
	h.records = append(records, h.records...)
	h.first -= uint64(len(records))
	h.floor = after
}

// after is the position of the first change after the revision, which must not be below floor.
func (h *history) after(revision int64) uint64 {
	return h.first + uint64(sort.Search(len(h.records), func(i int) bool { return h.records[i].revision > revision }))
}

// slice copies up to max records from a position on; ok is false if some of them are gone.
func (h *history) slice(from, to uint64, max int) (_ []*record, ok bool) {
	if from < h.first {
		return nil, false
	}
	to = min(to, h.end(), from+uint64(max))
	if from >= to {
		return nil, true
	}
	return append([]*record(nil), h.records[from-h.first:to-h.first]...), true
}
