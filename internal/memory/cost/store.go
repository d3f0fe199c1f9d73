package cost

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// InMemory is the path of a history that is kept nowhere.
const InMemory = "none"

// Options are what a store needs beside its path. The zero value is good.
type Options struct {
	// Timeout is how long to wait for the lock of the file; 0 = 5 s.
	Timeout time.Duration
	// ReadOnly never writes: Flush does nothing.
	ReadOnly bool
	// Own is set when nobody but dbake puts a file at the path: one that is no history is
	// damaged, and moved aside. A history of a later version is not.
	Own bool
	// Speeds are the declared speeds of nodes, by name; 1 where there is none.
	Speeds map[string]float64
}

// Store is a history of steps.
type Store struct {
	path    string
	options Options

	mu                        sync.Mutex             // guards what follows
	steps                     map[string]*record     // by key
	pending                   map[string]*record     // recorded since the last Flush
	machines, pendingMachines map[string]Machine     // by node
	notes                     []string               // what Open and Flush have to say
	slots                     map[string][]string    // keys by slot; nil = to be built
	kin                       map[string][]float64   // normalised seconds by family; nil = to be built
	speeds                    map[string]speed       // nil = to be learned
	size                      map[string]familyBytes // layer bytes by family
}

type familyBytes []float64

// Notes returns what the user should know about the history: that it was damaged
// and moved aside, for example. The slice is the caller's.
func (s *Store) Notes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.notes)
}

// Len returns the number of steps known.
func (s *Store) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.steps)
}

// Record notes that a step was executed. It is kept in memory until Flush. Samples
// without a duration and steps without a key are dropped.
func (s *Store) Record(step Step, sample Sample) {
	sample, ok := clean(sample)
	if !ok || step.Key == "" || len(step.Key) > maxText {
		return
	}
	r := describe(step)
	r.samples = []Sample{sample}
	s.mu.Lock()
	defer s.mu.Unlock()
	add(s.steps, string(step.Key), r)
	add(s.pending, string(step.Key), r)
	s.invalidate()
}

// RecordFailure notes that a step was executed and failed, as Record does.
func (s *Store) RecordFailure(step Step, f Failure) {
	if step.Key == "" || len(step.Key) > maxText {
		return
	}
	r := describe(step)
	r.failures = []Failure{f.clean()}
	s.mu.Lock()
	defer s.mu.Unlock()
	add(s.steps, string(step.Key), r)
	add(s.pending, string(step.Key), r)
	s.invalidate()
}

// Trials counts the latest executions of a step on the same inputs that failed, and all
// of them.
func (s *Store) Trials(step Step, inputs string) (failed, all int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.steps[string(step.Key)]
	if r == nil || step.Key == "" || inputs == "" {
		return 0, 0
	}
	return r.trials(inputs)
}

// describe returns a record without any execution.
func describe(step Step) *record {
	r := &record{
		slot: clip(step.Slot), kind: step.Kind, family: prior(step).family,
		platform: clip(step.Platform), input: max(0, step.InputBytes),
	}
	if step.Command != "" {
		r.command = digest.FromString(step.Command).Encoded()
	}
	return r
}

// add merges r into the records; they do not keep r itself.
func add(to map[string]*record, key string, r *record) {
	if old := to[key]; old != nil {
		old.merge(r)
		return
	}
	to[key] = r.clone()
}

// invalidate drops what is derived from the records.
func (s *Store) invalidate() { s.slots, s.kin, s.size, s.speeds = nil, nil, nil, nil }

// derive builds what is derived from the records.
func (s *Store) derive() {
	if s.slots != nil {
		return
	}
	s.speeds = learnSpeeds(s.steps, s.options.Speeds)
	s.slots = map[string][]string{}
	s.kin = map[string][]float64{}
	s.size = map[string]familyBytes{}
	for key, r := range s.steps {
		if r.slot != "" {
			s.slots[r.slot] = append(s.slots[r.slot], key)
		}
		if r.kind != Run {
			continue
		}
		if took, bytes, n := s.sum(r.samples); n > 0 {
			s.kin[r.family] = append(s.kin[r.family], median(took))
			if len(bytes) > 0 {
				s.size[r.family] = append(s.size[r.family], median(bytes))
			}
		}
	}
	for _, keys := range s.slots {
		// The latest version first.
		slices.SortFunc(keys, func(a, b string) int {
			return cmp.Or(s.steps[b].last().Compare(s.steps[a].last()), cmp.Compare(a, b))
		})
	}
}

// factor is the speed of a node by which durations are multiplied.
func (s *Store) factor(node string) float64 {
	if sp, ok := s.speeds[node]; ok {
		return sp.factor
	}
	if d := s.options.Speeds[node]; d > 0 && !math.IsInf(d, 0) {
		return d
	}
	return 1
}

// Speed returns the speed of a node as learned from steps that ran on other nodes,
// too, and how many steps show it: a step predicted to take d takes d / speed there.
// With 0 steps it is the declared speed, or 1.
func (s *Store) Speed(node string) (speed float64, steps int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.derive()
	return s.factor(node), s.speeds[node].steps
}

// sum returns the normalised durations, in seconds, and the known sizes of samples.
func (s *Store) sum(samples []Sample) (took, bytes []float64, n int) {
	for _, x := range samples {
		took = append(took, x.Took.Seconds()*s.factor(x.Node))
		if x.Bytes > 0 {
			bytes = append(bytes, float64(x.Bytes))
		}
	}
	return took, bytes, len(samples)
}

// versions is how many earlier versions of a step are looked at.
const versions = 3

// kinship is how many steps of a family must be known to be better than the table.
const kinship = 3

// Predict returns what a step is expected to cost.
func (s *Store) Predict(step Step) Prediction {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.derive()
	if r := s.steps[string(step.Key)]; r != nil && step.Key != "" && len(r.samples) > 0 {
		return s.predict(Measured, r.samples, 1)
	}
	if p, ok := s.similar(step); ok {
		return p
	}
	return s.guess(step)
}

// noticeable is how many times longer a step takes with cold mounts, at least, for that to be
// no noise.
const noticeable = 1.1

// predict returns the time of steps by their samples, apart for cold and filled cache mounts
// where both were measured.
func (s *Store) predict(src Source, samples []Sample, scale float64) Prediction {
	p := s.predictAlike(src, samples, scale)
	of := func(m Mounts) []Sample {
		return slices.DeleteFunc(slices.Clone(samples), func(x Sample) bool { return x.Mounts != m })
	}
	cold, filled := of(Cold), of(Filled)
	if len(cold) == 0 || len(filled) == 0 {
		return p
	}
	slow, fast := s.predictAlike(src, cold, scale), s.predictAlike(src, filled, scale)
	if slow.Duration < seconds(fast.Duration.Seconds()*noticeable) || fast.Duration <= 0 {
		return p
	}
	p.Duration, p.Samples, p.Spread, p.Filled = slow.Duration, slow.Samples, slow.Spread, fast.Duration
	return p
}

// predictAlike is predict for samples that are not told apart.
func (s *Store) predictAlike(src Source, samples []Sample, scale float64) Prediction {
	took, bytes, n := s.sum(samples)
	med := median(took)
	p := Prediction{
		Duration: seconds(med * scale), Bytes: int64(median(bytes) * scale),
		Source: src, Samples: n, Spread: spread(took, med),
	}
	var cores []float64
	for _, x := range samples {
		if x.CPU > 0 {
			cores = append(cores, x.CPU.Seconds()/x.Took.Seconds())
		}
		p.Memory = max(p.Memory, x.Memory)
	}
	p.Cores = median(cores)
	return p
}

func seconds(x float64) time.Duration {
	return time.Duration(min(x, 1e9) * float64(time.Second))
}

// similar looks for earlier versions of the step: those with the same command before
// others, of the same platform before others, then the latest.
func (s *Store) similar(step Step) (Prediction, bool) {
	var command string
	if step.Command != "" {
		command = digest.FromString(step.Command).Encoded()
	}
	var keys []string
	for _, key := range s.slots[clip(step.Slot)] {
		if r := s.steps[key]; step.Slot != "" && r.kind == step.Kind && len(r.samples) > 0 {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return Prediction{}, false
	}
	rank := func(key string) int {
		r, n := s.steps[key], 0
		if r.platform != step.Platform {
			n += 2
		}
		if r.command != command {
			n++
		}
		return n
	}
	best := rank(slices.MinFunc(keys, func(a, b string) int { return cmp.Compare(rank(a), rank(b)) }))
	var samples []Sample
	var inputs []float64
	taken := 0
	for _, key := range keys {
		if rank(key) != best || taken == versions {
			continue
		}
		taken++
		r := s.steps[key]
		samples = append(samples, r.samples...)
		if r.input > 0 {
			inputs = append(inputs, float64(r.input))
		}
	}
	scale := 1.
	// What is copied or pulled takes time by its size; what is run may or may not.
	if step.Kind != Run && step.InputBytes > 0 && len(inputs) > 0 {
		scale = max(1./16, min(float64(step.InputBytes)/median(inputs), 16))
	}
	return s.predict(Similar, samples, scale), true
}

// guess predicts by kind. Once enough steps of a family are known, their median
// takes the place of the table's figure.
func (s *Store) guess(step Step) Prediction {
	g := prior(step)
	p := Prediction{Duration: g.took, Bytes: g.bytes, Source: Prior, Spread: 1}
	if known := s.kin[g.family]; step.Kind == Run && len(known) >= kinship {
		known = slices.Clone(known)
		med := median(known)
		p.Duration, p.Samples, p.Spread = seconds(med), len(known), max(0.3, spread(known, med))
		if sizes := s.size[g.family]; len(sizes) > 0 {
			p.Bytes = int64(median(slices.Clone(sizes)))
		}
	}
	return p
}

var (
	// ErrLocked reports that another process kept the history locked for too long.
	ErrLocked = errors.New("the history is in use by another process")
	// ErrForeign reports that a file is no history, or one of a later version.
	ErrForeign = errors.New("not a history file of this version")
)

// Open reads the history at path, which need not exist yet; InMemory is one that is
// kept nowhere. It fails with ErrLocked, with ErrForeign, or when the file cannot be
// read; a damaged history is moved aside, see Notes.
//
// The store can be used although there is an error: it knows nothing, and keeps what
// is recorded only after ErrLocked. It is nil when there is no path.
func Open(path string, o Options) (*Store, error) {
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Second
	}
	s := &Store{
		path: path, options: o, steps: map[string]*record{}, pending: map[string]*record{},
		machines: map[string]Machine{}, pendingMachines: map[string]Machine{},
	}
	switch path {
	case "":
		return nil, errors.New("open history: no path")
	case InMemory:
		return s, nil
	}
	if err := s.load(); err != nil {
		if !errors.Is(err, ErrLocked) {
			s.path = InMemory
		}
		return s, fmt.Errorf("open history %s: %w", path, err)
	}
	return s, nil
}

// Close is Flush; the store can still be asked afterwards.
func (s *Store) Close() error { return s.Flush() }
