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
	// leastSamples of them are kept in each state of cache mounts, however old they are.
	leastSamples = 4
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
	// failures are those of the latest executions that failed, latest last.
	failures []Failure
}

// last is when the step ran last.
func (r *record) last() time.Time {
	var last time.Time
	if n := len(r.samples); n > 0 {
		last = r.samples[n-1].When
	}
	if n := len(r.failures); n > 0 && r.failures[n-1].When.After(last) {
		last = r.failures[n-1].When
	}
	return last
}

// merge adds what other knows. The description of the one that ran later wins.
func (r *record) merge(other *record) {
	if !other.last().Before(r.last()) {
		samples, failures := r.samples, r.failures
		*r = *other
		r.samples, r.failures = samples, failures
	}
	failures := slices.Concat(r.failures, other.failures)
	slices.SortFunc(failures, compareFailures)
	failures = slices.CompactFunc(failures, func(a, b Failure) bool { return compareFailures(a, b) == 0 })
	r.failures = failures[max(0, len(failures)-maxSamples):]
	all := slices.Concat(r.samples, other.samples)
	slices.SortFunc(all, compareSamples)
	all = slices.CompactFunc(all, func(a, b Sample) bool { return compareSamples(a, b) == 0 })
	r.samples = latest(all)
}

// latest returns the samples to be kept of some in order.
func latest(all []Sample) []Sample {
	count := map[Mounts]int{}
	for _, x := range all {
		count[x.Mounts]++
	}
	excess := len(all) - maxSamples
	return slices.DeleteFunc(all, func(x Sample) bool {
		drop := excess > 0 && (count[x.Mounts] > leastSamples || x.Mounts == "")
		if drop {
			excess--
			count[x.Mounts]--
		}
		return drop
	})
}

func (r *record) clone() *record {
	c := *r
	c.samples, c.failures = slices.Clone(r.samples), slices.Clone(r.failures)
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
		cmp.Compare(a.Inputs, b.Inputs),
		cmp.Compare(a.Mounts, b.Mounts),
	)
}

// compareFailures is compareSamples for failures.
func compareFailures(a, b Failure) int {
	return cmp.Or(a.When.Compare(b.When), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Inputs, b.Inputs))
}

// trials counts the executions on inputs that failed, and all of them, as far as both
// are remembered.
func (r *record) trials(inputs string) (failed, all int) {
	for _, f := range r.failures {
		if f.Inputs == inputs {
			failed, all = failed+1, all+1
		}
	}
	for _, x := range r.samples {
		if x.Inputs == inputs {
			all++
		}
	}
	return failed, all
}

// clean brings a sample into the form in which it is kept; ok is false when it says
// nothing.
func clean(x Sample) (Sample, bool) {
	if x.Took <= 0 || x.Bytes < 0 || x.CPU < 0 || x.Memory < 0 {
		return x, false
	}
	x.Node, x.When, x.Inputs = clip(x.Node), instant(x.When), clip(x.Inputs)
	if x.Mounts != Filled && x.Mounts != Cold {
		x.Mounts = ""
	}
	return x, true
}

// clean brings a failure into the form in which it is kept.
func (f Failure) clean() Failure {
	return Failure{Node: clip(f.Node), When: instant(f.When), Inputs: clip(f.Inputs)}
}

// instant is a time in the form in which it is kept: in nanoseconds of 64 bits.
func instant(t time.Time) time.Time {
	if y := t.Year(); y < 1970 || y > 2200 {
		t = time.Unix(0, 0)
	}
	return time.Unix(0, t.UnixNano()).UTC()
}

func clip(s string) string { return s[:min(len(s), maxText)] }

// The encoding of a record: its fields in order, integers as varints, strings with
// their length before them. The first encoding had no CPU and Memory, the second no Inputs
// and no failures, the third no Mounts.

const encoding = 4

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
		text(x.Inputs)
		text(string(x.Mounts))
	}
	b = binary.AppendUvarint(b, uint64(len(r.failures)))
	for _, f := range r.failures {
		text(f.Node)
		b = binary.AppendVarint(b, f.When.UnixNano())
		text(f.Inputs)
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
		if version > 2 {
			x.Inputs = text()
		}
		if version > 3 {
			x.Mounts = Mounts(text())
		}
		r.samples = append(r.samples, x)
	}
	if version > 2 {
		if n = uint(); n > math.MaxInt16 {
			return nil, errRecord
		}
		for range n {
			if bad {
				break
			}
			f := Failure{Node: text()}
			f.When, f.Inputs = time.Unix(0, int()).UTC(), text()
			r.failures = append(r.failures, f)
		}
	}
	if bad || len(b) > 0 {
		return nil, errRecord
	}
	return r, nil
}
