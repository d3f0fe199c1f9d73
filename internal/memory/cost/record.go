package cost

import (
	"cmp"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"time"
)

const (
	// maxSamples is kept for each step, the latest.
	maxSamples = 16
	// maxSteps is kept in a history; those that ran longest ago are dropped first.
	maxSteps = 20_000
	// maxText bounds names in the history.
	maxText = 1 << 10
)

// record is what the history knows about one step.
type record struct {
	slot     string
	kind     Kind
	family   string
	command  string // digest
	platform string
	input    int64
	samples  []Sample // by time, latest last
}

// last is when the step ran last.
func (r *record) last() time.Time {
	if len(r.samples) == 0 {
		return time.Time{}
	}
	return r.samples[len(r.samples)-1].When
}

// merge adds what other knows. The description of the one that ran later wins.
func (r *record) merge(other *record) {
	if !other.last().Before(r.last()) {
		samples := r.samples
		*r = *other
		r.samples = samples
	}
	all := slices.Concat(r.samples, other.samples)
	slices.SortFunc(all, compareSamples)
	all = slices.CompactFunc(all, func(a, b Sample) bool { return compareSamples(a, b) == 0 })
	if len(all) > maxSamples {
		all = all[len(all)-maxSamples:]
	}
	r.samples = all
}

func (r *record) clone() *record {
	c := *r
	c.samples = slices.Clone(r.samples)
	return &c
}

// compareSamples orders by time; samples that differ in nothing are one.
func compareSamples(a, b Sample) int {
	return cmp.Or(
		a.When.Compare(b.When),
		cmp.Compare(a.Node, b.Node),
		cmp.Compare(a.Took, b.Took),
		cmp.Compare(a.Bytes, b.Bytes),
		cmp.Compare(a.CPU, b.CPU),
		cmp.Compare(a.Memory, b.Memory),
	)
}

// clean brings a sample into the form in which it is kept; ok is false when it says
// nothing.
func clean(x Sample) (Sample, bool) {
	if x.Took <= 0 || x.Bytes < 0 || x.CPU < 0 || x.Memory < 0 {
		return x, false
	}
	x.Node = clip(x.Node)
	if y := x.When.Year(); y < 1970 || y > 2200 { // not in nanoseconds of 64 bits
		x.When = time.Unix(0, 0)
	}
	x.When = time.Unix(0, x.When.UnixNano()).UTC()
	return x, true
}

func clip(s string) string { return s[:min(len(s), maxText)] }

// The encoding of a record: its fields in order, integers as varints, strings with
// their length before them. The first encoding had no CPU and Memory.

const encoding = 2

var errRecord = errors.New("malformed record")

func (r *record) encode() []byte {
	b := []byte{encoding}
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	text(r.slot)
	text(string(r.kind))
	text(r.family)
	text(r.command)
	text(r.platform)
	b = binary.AppendVarint(b, r.input)
	b = binary.AppendUvarint(b, uint64(len(r.samples)))
	for _, x := range r.samples {
		text(x.Node)
		b = binary.AppendVarint(b, int64(x.Took))
		b = binary.AppendVarint(b, x.Bytes)
		b = binary.AppendVarint(b, x.When.UnixNano())
		b = binary.AppendVarint(b, int64(x.CPU))
		b = binary.AppendVarint(b, x.Memory)
	}
	return b
}

func decode(b []byte) (*record, error) {
	if len(b) == 0 || b[0] < 1 || b[0] > encoding {
		return nil, errRecord
	}
	version := b[0]
	b = b[1:]
	bad := false
	uint := func() uint64 {
		x, n := binary.Uvarint(b)
		if n <= 0 {
			bad, b = true, nil
			return 0
		}
		b = b[n:]
		return x
	}
	int := func() int64 {
		x, n := binary.Varint(b)
		if n <= 0 {
			bad, b = true, nil
			return 0
		}
		b = b[n:]
		return x
	}
	text := func() string {
		n := uint()
		if n > uint64(len(b)) {
			bad, b = true, nil
			return ""
		}
		s := string(b[:n])
		b = b[n:]
		return s
	}
	r := &record{slot: text(), kind: Kind(text()), family: text(), command: text(), platform: text(), input: int()}
	n := uint()
	if n > math.MaxInt16 {
		return nil, errRecord
	}
	for range n {
		if bad {
			break
		}
		x := Sample{Node: text(), Took: time.Duration(int()), Bytes: int()}
		x.When = time.Unix(0, int()).UTC()
		if version > 1 {
			x.CPU, x.Memory = time.Duration(int()), int()
		}
		r.samples = append(r.samples, x)
	}
	if bad || len(b) > 0 {
		return nil, errRecord
	}
	return r, nil
}
