// Package warm remembers which steps a node holds the results of.
//
// A [Ledger] is one small file for each node address, in a directory of the user's cache.
// It is a memory, not a truth: a node may have thrown results away since, or may have been
// given a new root. The latter is noticed by the id that a node keeps in its root, the
// former by asking: a node lists its cache records ([Record]), and the ledger knows the
// text and the time by which to recognise the result of a step among them ([Trace]).
//
// A step has four identities ([Names]). Only that of its result proves that it need not
// run; the others explain the difference when it has to. Each is a type of its own, so that
// none is ever looked for among the others.
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

// maxMounts bounds the cache mounts of a node: those not filled for longest go first.
const maxMounts = 1000

// maxFile bounds what is read of a file in bytes: maxSteps steps with traces take less
// than half of it.
const maxFile = 64 << 20

// Ledger is a directory of files. The zero Ledger remembers nothing. A file that cannot be read
// counts as missing.
type Ledger struct {
	Dir string
	// Warn takes errors of reading; nil drops them.
	Warn func(error)
	// Wait bounds the wait for another process that writes the same file; 0 is that of
	// all folders.
	Wait time.Duration
}

// file is the ledger of one node.
type file struct {
	Addr string `json:"addr"`
	// ID is the id of the node's worker, kept in its root.
	ID string `json:"id"`
	// Results, Ops, Places and Forms are the names of the steps whose results are
	// held, with the time when each was last seen, in seconds since 1970.
	Results map[ResultID]int64 `json:"results"`
	Ops     map[OpID]int64     `json:"operations,omitempty"`
	Places  map[PlaceID]int64  `json:"places,omitempty"`
	Forms   map[FormID]int64   `json:"forms,omitempty"`
	// Traces are those of the results that can be asked for.
	Traces map[ResultID]Trace `json:"traces,omitempty"`
	// Mounts are the cache mounts that steps have filled, with the time when one last did, and
	// MountTraces the traces of those whose making was seen.
	Mounts      map[MountID]int64 `json:"mounts,omitempty"`
	MountTraces map[MountID]Trace `json:"mountTraces,omitempty"`
}

// The identities of a step.
type (
	// ResultID covers the operation and the content of the files that it reads: a node that
	// holds this result need not run the step.
	ResultID digest.Digest
	// OpID covers what the step and all below it do, whatever is in the files.
	OpID digest.Digest
	// PlaceID is where in which Dockerfile the step stands.
	PlaceID digest.Digest
	// FormID is what it does there, apart from its inputs.
	FormID digest.Digest
	// MountID is a cache mount as steps of one platform use it.
	MountID digest.Digest
)

// Names are the identities by which a step is remembered. Result is never "". Op is ""
// when no files are read, as it says no more than Result then; Place and Form are ""
// when the place is not known.
type Names struct {
	Result ResultID
	Op     OpID
	Place  PlaceID
	Form   FormID
}

// Holdings are the steps whose results a node holds, and the cache mounts that it has filled.
type Holdings struct {
	Results map[ResultID]bool
	Ops     map[OpID]bool
	Places  map[PlaceID]bool
	Forms   map[FormID]bool
	Mounts  map[MountID]bool
	// Proven are those of Results that were found among the records of the node.
	Proven map[ResultID]bool
}

// NewHoldings returns the holdings of a node with the results of some steps.
func NewHoldings(steps []Names) Holdings {
	h := Holdings{Results: map[ResultID]bool{}, Ops: map[OpID]bool{}, Places: map[PlaceID]bool{}, Forms: map[FormID]bool{}, Mounts: map[MountID]bool{}}
	for _, n := range steps {
		note(h.Results, n.Result, true)
		note(h.Ops, n.Op, true)
		note(h.Places, n.Place, true)
		note(h.Forms, n.Form, true)
	}
	return h
}

// note sets m[id] unless there is no id.
func note[K ~string, V any](m map[K]V, id K, value V) {
	if id != "" {
		m[id] = value
	}
}

// Trace identifies a result among a node's cache records.
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

// Record is one of a node's cache records.
type Record struct {
	Text  string
	Made  time.Time
	Bytes int64
}

// Records are those of a node, by a digest of the text.
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

// Holds returns the steps whose results the node at addr held when it was last used. With
// an id, a node that has another one by now holds nothing.
func (l Ledger) Holds(addr, id string) Holdings {
	f, ok := l.load(addr)
	if !ok || id != "" && f.ID != id {
		return Holdings{}
	}
	return f.holdings()
}

// load returns the ledger of a node; ok is false when there is none.
func (l Ledger) load(addr string) (f file, ok bool) {
	if l.Dir == "" {
		return file{}, false
	}
	data, err := l.folder().Read(name(addr))
	if err != nil && l.Warn != nil {
		l.Warn(fmt.Errorf("read what %s holds: %w", addr, err))
	}
	return decode(data, addr), err == nil
}

func (f *file) holdings() Holdings {
	return Holdings{Results: keySet(f.Results), Ops: keySet(f.Ops), Places: keySet(f.Places), Forms: keySet(f.Forms), Mounts: keySet(f.Mounts)}
}

func keySet[K comparable](times map[K]int64) map[K]bool {
	m := make(map[K]bool, len(times))
	for id := range times {
		m[id] = true
	}
	return m
}

// Check is Holds for a node that was asked which results it keeps: those that it has lost
// are not in held, but in lost. A result that cannot be found among the records of any node
// is believed, unless all that can be are lost.
func (l Ledger) Check(addr, id string, records Records) (held Holdings, lost map[ResultID]bool) {
	f, ok := l.load(addr)
	if !ok || f.ID != id {
		return Holdings{}, nil
	}
	held, lost = f.holdings(), map[ResultID]bool{}
	held.Proven = map[ResultID]bool{}
	for d, t := range f.Traces {
		switch _, found := records.Find(t); {
		case !held.Results[d]:
		case found:
			held.Proven[d] = true
		default:
			delete(held.Results, d)
			lost[d] = true
		}
	}
	if len(lost) > 0 && len(lost) == len(f.Traces) {
		return Holdings{}, keySet(f.Results)
	}
	for m, t := range f.MountTraces {
		if _, found := records.Find(t); !found {
			delete(held.Mounts, m)
		}
	}
	return held, lost
}

// Gain is what a run has added to what a node holds.
type Gain struct {
	// Steps are those whose results it holds, and Traces those of the steps that were run.
	Steps  []Names
	Traces map[ResultID]Trace
	// Mounts are the cache mounts that steps have filled, with what shows each of them among
	// the records of the node if one of these steps has made it.
	Mounts map[MountID][]Trace
}

// Add notes what the node has gained. Of its traces, and of earlier ones, those are kept that
// fit the records of the node. Without records none is: whether they would be found is not
// known. A mount that is not found was there before, or is believed to be there.
func (l Ledger) Add(addr, id string, more Gain, records Records, now time.Time) error {
	if len(more.Steps)+len(more.Mounts) == 0 {
		return nil
	}
	return l.update(addr, id, func(f *file) {
		if len(more.Steps) > 0 {
			f.add(more.Steps, more.Traces, records, now)
		}
		f.fill(more.Mounts, records, now)
		f.trim()
	})
}

// Succeed notes that the node or cache with the id from has the id to now, and still holds
// its results. Nothing is known of one with another id.
func (l Ledger) Succeed(addr, from, to string) error {
	return l.update(addr, from, func(f *file) { f.ID = to })
}

// update changes what is known of the node with an id; of one with another id that is nothing.
func (l Ledger) update(addr, id string, change func(*file)) error {
	if l.Dir == "" {
		return nil
	}
	err := l.folder().Update(name(addr), func(old []byte) ([]byte, error) {
		f := decode(old, addr)
		if f.ID != id {
			f = file{}
		}
		f.Addr, f.ID = addr, id
		change(&f)
		return json.Marshal(f)
	})
	if err != nil {
		return fmt.Errorf("remember what %s holds: %w", addr, err)
	}
	return nil
}

// fill notes that steps have filled cache mounts. Of the traces of a mount the first that is
// found is kept.
func (f *file) fill(mounts map[MountID][]Trace, records Records, now time.Time) {
	for m, traces := range mounts {
		ensure(&f.Mounts)[m] = now.Unix()
		if _, found := records.Find(f.MountTraces[m]); !found {
			delete(f.MountTraces, m)
		}
		for _, t := range traces {
			if _, found := records.Find(t); found {
				ensure(&f.MountTraces)[m] = t
				break
			}
		}
	}
}

// add notes steps and their traces.
func (f *file) add(steps []Names, traces map[ResultID]Trace, records Records, now time.Time) {
	for _, n := range steps {
		note(ensure(&f.Results), n.Result, now.Unix())
		note(ensure(&f.Ops), n.Op, now.Unix())
		note(ensure(&f.Places), n.Place, now.Unix())
		note(ensure(&f.Forms), n.Form, now.Unix())
		t, ran := traces[n.Result]
		if !ran {
			t = f.Traces[n.Result]
		}
		if _, found := records.Find(t); found {
			ensure(&f.Traces)[n.Result] = t
		} else {
			delete(f.Traces, n.Result) // held all the same, but in an unknown way
		}
	}
}

// ensure returns the map, which is made if it was nil.
func ensure[K comparable, V any](m *map[K]V) map[K]V {
	if *m == nil {
		*m = map[K]V{}
	}
	return *m
}

// trim drops the oldest names beyond the limit.
func (f *file) trim() {
	trim(f.Results, maxSteps)
	trim(f.Ops, maxSteps)
	trim(f.Places, maxSteps)
	trim(f.Forms, maxSteps)
	trim(f.Mounts, maxMounts)
	maps.DeleteFunc(f.MountTraces, func(m MountID, _ Trace) bool { return f.Mounts[m] == 0 })
	maps.DeleteFunc(f.Traces, func(d ResultID, _ Trace) bool { return f.Results[d] == 0 })
}

// trim keeps so many names, those that are the youngest.
func trim[K comparable](times map[K]int64, most int) {
	if len(times) <= most {
		return
	}
	sorted := slices.Sorted(maps.Values(times))
	oldest := sorted[len(sorted)-most]
	maps.DeleteFunc(times, func(_ K, at int64) bool { return at < oldest })
}

func (l Ledger) folder() folder.Folder {
	return folder.Folder{Dir: l.Dir, Limit: maxFile, Wait: l.Wait}
}

func name(addr string) string {
	sum := sha256.Sum256([]byte(addr))
	return hex.EncodeToString(sum[:12]) + ".json"
}

// decode reads a file; a damaged one counts as missing.
func decode(data []byte, addr string) file {
	var f file
	if json.Unmarshal(data, &f) != nil || f.Addr != addr {
		return file{}
	}
	return f
}
