package cost

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// The JSON lines of a history: a header, then a line for each step, by key, and one for
// each node that reported its machine.

const linesVersion = 1

type header struct {
	Version int `json:"dbakeHistory"`
}

type stepLine struct {
	Key      string       `json:"key"`
	Slot     string       `json:"slot,omitempty"`
	Kind     Kind         `json:"kind"`
	Family   string       `json:"family,omitempty"`
	Command  string       `json:"command,omitempty"` // digest
	Platform string       `json:"platform,omitempty"`
	Input    int64        `json:"inputBytes,omitempty"`
	Samples  []sampleLine `json:"samples"`
	// Failures are executions that ended with an exit code.
	Failures []failureLine `json:"failures,omitempty"`
}

type failureLine struct {
	Node   string    `json:"node"`
	When   time.Time `json:"when"`
	Inputs string    `json:"inputs,omitempty"`
}

type sampleLine struct {
	Node  string        `json:"node"`
	Took  time.Duration `json:"tookNs"`
	Bytes int64         `json:"bytes,omitempty"`
	When  time.Time     `json:"when"`

	CPU    time.Duration `json:"cpuNs,omitempty"`
	Memory int64         `json:"memory,omitempty"`
	Inputs string        `json:"inputs,omitempty"`
	Mounts Mounts        `json:"mounts,omitempty"`
}

// machineLine is a line about a node. They stand behind those of the steps.
type machineLine struct {
	Node    string  `json:"node"`
	Machine Machine `json:"machine"`
}

// maxLine bounds a line that is read: maxSamples samples with names of maxText.
const maxLine = 1 << 20

// Export writes the history as JSON lines: the same bytes for the same history.
func (s *Store) Export(w io.Writer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := writeLines(w, s.steps, s.machines); err != nil {
		return fmt.Errorf("export history: %w", err)
	}
	return nil
}

func writeLines(w io.Writer, steps map[string]*record, machines map[string]Machine) error {
	b := bufio.NewWriter(w)
	enc := json.NewEncoder(b)
	if err := enc.Encode(header{linesVersion}); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(steps)) {
		r := steps[key]
		l := stepLine{key, r.slot, r.kind, r.family, r.command, r.platform, r.input, []sampleLine{}, nil}
		for _, x := range r.samples {
			l.Samples = append(l.Samples, sampleLine(x))
		}
		for _, f := range r.failures {
			l.Failures = append(l.Failures, failureLine(f))
		}
		if err := enc.Encode(l); err != nil {
			return err
		}
	}
	for _, node := range slices.Sorted(maps.Keys(machines)) {
		if err := enc.Encode(machineLine{node, machines[node]}); err != nil {
			return err
		}
	}
	return b.Flush()
}

// Import takes in what Export wrote, all of it or nothing, and returns the number of
// steps read. They reach the file with the next Flush.
func (s *Store) Import(r io.Reader) (int, error) {
	steps, machines, err := parseLines(r)
	if err != nil {
		return 0, fmt.Errorf("import history: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for node, m := range machines {
		addMachine(s.machines, node, m)
		addMachine(s.pendingMachines, node, m)
	}
	for key, x := range steps {
		add(s.steps, key, x)
		add(s.pending, key, x)
	}
	s.invalidate()
	return len(steps), nil
}

func parseLines(r io.Reader) (map[string]*record, map[string]Machine, error) {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 1<<16), maxLine)
	if !sc.Scan() {
		return nil, nil, errors.Join(sc.Err(), errors.New("line 1: no header"))
	}
	var h header
	if err := json.Unmarshal(sc.Bytes(), &h); err != nil || h.Version == 0 {
		return nil, nil, fmt.Errorf("line 1: %w: no header", ErrForeign)
	}
	if h.Version != linesVersion {
		return nil, nil, fmt.Errorf("line 1: %w: version %d", ErrForeign, h.Version)
	}
	steps, machines := map[string]*record{}, map[string]Machine{}
	n := 1
	for sc.Scan() {
		n++
		if len(sc.Bytes()) == 0 {
			continue
		}
		var l struct {
			stepLine
			machineLine
		}
		if err := json.Unmarshal(sc.Bytes(), &l); err != nil {
			return nil, nil, fmt.Errorf("line %d: %w", n, err)
		}
		if l.Key == "" && l.Node != "" {
			if len(l.Node) <= maxText && l.Machine.valid() {
				addMachine(machines, l.Node, l.Machine)
			}
			continue
		}
		if l.Key == "" || len(l.Key) > maxText {
			return nil, nil, fmt.Errorf("line %d: bad key", n)
		}
		rec := &record{
			slot: clip(l.Slot), kind: Kind(clip(string(l.Kind))), family: clip(l.Family), command: clip(l.Command),
			platform: clip(l.Platform), input: max(0, l.Input),
		}
		for _, x := range l.Samples {
			if x, ok := clean(Sample(x)); ok {
				rec.samples = append(rec.samples, x)
			}
		}
		for _, f := range l.Failures {
			rec.failures = append(rec.failures, Failure(f).clean())
		}
		if len(rec.samples)+len(rec.failures) == 0 {
			continue
		}
		sorted := &record{}
		sorted.merge(rec)
		add(steps, l.Key, sorted)
		bound(steps)
	}
	if err := sc.Err(); err != nil {
		return nil, nil, fmt.Errorf("line %d: %w", n+1, err)
	}
	return steps, machines, nil
}
