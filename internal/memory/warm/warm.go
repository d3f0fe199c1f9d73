// Package warm remembers which steps a node holds the results of.
//
// A [Ledger] is one small file for each node address, in a directory of the user's
// cache. It is a memory, not a truth: a node may have thrown results away since, or
// may have been given a new root. The latter is noticed by the id that a node keeps
// in its root, the former by asking: a node tells what it keeps ([Record]), and the
// ledger knows by which text and from which time the result of a step is found among
// that ([Trace]).
//
// Steps are named by digests that cover their inputs and the content they copy, so
// that an edited file makes the steps that read it cold.
package warm

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/internal/memory/folder"
)

// maxSteps bounds the file of a node: the steps not seen for longest go first.
const maxSteps = 50_000

// maxFile bounds what is read of a file in bytes: maxSteps steps with traces take less
// than half of it.
const maxFile = 64 << 20

// Ledger is a directory of files. The zero Ledger remembers nothing. What cannot be
// read is as if it were not there.
type Ledger struct {
	Dir string
	// Warn takes why something could not be read; nil for nobody.
	Warn func(error)
	// Wait bounds the wait for another process that writes the same file; 0 is that of
	// all folders.
	Wait time.Duration
}

// file is what is known of one node.
type file struct {
	Addr string `json:"addr"`
	// ID is the id of the node's worker, kept in its root.
	ID string `json:"id"`
	// Steps are the results held, with the time when each was last seen, in
	// seconds since 1970.
	Steps map[digest.Digest]int64 `json:"steps"`
	// Traces are those of the steps that can be asked for.
	Traces map[digest.Digest]Trace `json:"traces,omitempty"`
}

// Trace is by what a result is found among the records of a node.
type Trace struct {
	// Text is a digest of the record's text.
	Text digest.Digest `json:"text"`
	// From and To enclose the time when the record was made, by the clock of
	// the node, in milliseconds since 1970.
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// NewTrace returns the trace of a result whose step ran from one time to another.
func NewTrace(text string, from, to time.Time) Trace {
	return Trace{digest.FromString(text), from.UnixMilli(), to.UnixMilli() + 1}
}

// Record is a result that a node says it keeps.
type Record struct {
	Text  string
	Made  time.Time
	Bytes int64
}

// Records are what a node keeps, by a digest of the text.
type Records map[digest.Digest][]Record

// NewRecords makes records ready to be searched.
func NewRecords(list []Record) Records {
	rs := Records{}
	for _, r := range list {
		d := digest.FromString(r.Text)
		rs[d] = append(rs[d], r)
	}
	return rs
}

// Find returns the record that t leads to.
func (rs Records) Find(t Trace) (Record, bool) {
	for _, r := range rs[t.Text] {
		if at := r.Made.UnixMilli(); t.From <= at && at <= t.To {
			return r, true
		}
	}
	return Record{}, false
}

// Holds returns the steps that the node at addr held when it was last used. With
// an id, a node that has another one by now holds nothing.
func (l Ledger) Holds(addr, id string) map[digest.Digest]bool {
	f, ok := l.known(addr)
	if !ok || id != "" && f.ID != id {
		return nil
	}
	return f.held()
}

// known returns what is known of a node; ok is false when nothing is.
func (l Ledger) known(addr string) (f file, ok bool) {
	if l.Dir == "" {
		return file{}, false
	}
	data, err := l.folder().Read(name(addr))
	if err != nil && l.Warn != nil {
		l.Warn(fmt.Errorf("read what %s holds: %w", addr, err))
	}
	return decode(data, addr), err == nil
}

func (f *file) held() map[digest.Digest]bool {
	held := make(map[digest.Digest]bool, len(f.Steps))
	for d := range f.Steps {
		held[d] = true
	}
	return held
}

// Check is Holds for a node that was asked which results it keeps: those that it has
// no more are not in held, but in lost. What cannot be found among the records of any
// node is believed, unless everything that can is lost.
func (l Ledger) Check(addr, id string, records Records) (held, lost map[digest.Digest]bool) {
	f, ok := l.known(addr)
	if !ok || f.ID != id {
		return nil, nil
	}
	held, lost = f.held(), map[digest.Digest]bool{}
	for d, t := range f.Traces {
		if _, found := records.Find(t); held[d] && !found {
			delete(held, d)
			lost[d] = true
		}
	}
	if len(lost) > 0 && len(lost) == len(f.Traces) {
		return nil, f.held()
	}
	return held, lost
}

// Add notes that the node holds these steps. traces are those of the steps that were
// run; of these, and of earlier ones, those are kept that fit the records of the
// node. Without records none is: whether they would be found is not known.
func (l Ledger) Add(addr, id string, steps []digest.Digest, traces map[digest.Digest]Trace, records Records, now time.Time) error {
	if l.Dir == "" || len(steps) == 0 {
		return nil
	}
	err := l.folder().Update(name(addr), func(old []byte) ([]byte, error) {
		f := decode(old, addr)
		if f.ID != id {
			f = file{}
		}
		f.Addr, f.ID = addr, id
		f.add(steps, traces, records, now)
		f.trim()
		return json.Marshal(f)
	})
	if err != nil {
		return fmt.Errorf("remember what %s holds: %w", addr, err)
	}
	return nil
}

// add notes steps and their traces.
func (f *file) add(steps []digest.Digest, traces map[digest.Digest]Trace, records Records, now time.Time) {
	if f.Steps == nil {
		f.Steps = map[digest.Digest]int64{}
	}
	if f.Traces == nil {
		f.Traces = map[digest.Digest]Trace{}
	}
	for _, d := range steps {
		f.Steps[d] = now.Unix()
		t, ran := traces[d]
		if !ran {
			t = f.Traces[d]
		}
		if _, found := records.Find(t); found {
			f.Traces[d] = t
		} else {
			delete(f.Traces, d) // held all the same, but in a way that cannot be told
		}
	}
}

// trim drops the oldest steps beyond the limit.
func (f *file) trim() {
	if len(f.Steps) <= maxSteps {
		return
	}
	times := slices.Sorted(maps.Values(f.Steps))
	oldest := times[len(times)-maxSteps]
	maps.DeleteFunc(f.Steps, func(_ digest.Digest, at int64) bool { return at < oldest })
	maps.DeleteFunc(f.Traces, func(d digest.Digest, _ Trace) bool { return f.Steps[d] == 0 })
}

func (l Ledger) folder() folder.Folder {
	return folder.Folder{Dir: l.Dir, Limit: maxFile, Wait: l.Wait}
}

func name(addr string) string {
	sum := sha256.Sum256([]byte(addr))
	return hex.EncodeToString(sum[:12]) + ".json"
}

// decode reads a file; a damaged one is as none.
func decode(data []byte, addr string) file {
	var f file
	if json.Unmarshal(data, &f) != nil || f.Addr != addr {
		return file{}
	}
	return f
}
