// Package runs remembers what builds did: which steps ran on which node, when and for how
// long, and what became of the targets. Each run is a file; the last [Most] are kept.
package runs

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/dbake/dbake/internal/memory/folder"
)

const (
	// Most is how many runs are kept.
	Most = 50
	// maxFile bounds what is read of a run, in bytes.
	maxFile = 64 << 20
)

// Outcomes of a run.
const (
	Done        = "done"
	Failed      = "failed"
	Interrupted = "interrupted"
)

// Run is what one build did. Times are in seconds, those of steps since the start of the
// first one.
type Run struct {
	ID      string    `json:"id"`
	Project string    `json:"project"` // the directory of the definition
	Started time.Time `json:"started"`
	Wall    float64   `json:"wall_s"`
	Outcome string    `json:"outcome"`
	// Predicted and Bound are those of the plan; 0 when nothing was planned.
	Predicted float64  `json:"predicted_s,omitempty"`
	Bound     float64  `json:"bound_s,omitempty"`
	Nodes     []Node   `json:"nodes"`
	Targets   []Target `json:"targets"`
	Steps     []Step   `json:"steps"`
}

// Node is what one node did.
type Node struct {
	Name   string  `json:"name"`
	Ran    int     `json:"ran"`
	Cached int     `json:"cached"`
	Busy   float64 `json:"busy_s"`
	Lost   string  `json:"lost,omitempty"` // why it was given up
}

// Target is what became of one target.
type Target struct {
	Name   string   `json:"name"`
	State  string   `json:"state"`
	Reason string   `json:"reason,omitempty"`
	Nodes  []string `json:"nodes,omitempty"`
}

// Step is one step on one node.
type Step struct {
	Name    string   `json:"name"`
	Targets []string `json:"targets"` // whose step it is
	Node    string   `json:"node"`
	Start   float64  `json:"start_s"`
	Took    float64  `json:"took_s"`
	Cached  bool     `json:"cached,omitempty"` // answered from a cache
	Error   string   `json:"error,omitempty"`  // the first line of it
	// Inputs are the steps of the same node that it stands on, by their places in Steps.
	Inputs []int `json:"inputs,omitempty"`
	// Operation names what the step and all below it do, Result that with the files they
	// read.
	Operation string `json:"operation"`
	Result    string `json:"result"`
}

// Store is a directory of runs. The zero Store remembers nothing.
type Store struct{ Dir string }

func (s Store) folder() folder.Folder { return folder.Folder{Dir: s.Dir, Limit: maxFile} }

// NewID returns the name of a run that starts now. Names sort by time.
func NewID(now time.Time) string {
	var b [3]byte
	rand.Read(b[:]) // never fails
	return now.UTC().Format("20060102T150405.000") + "-" + hex.EncodeToString(b[:])
}

const suffix = ".json"

// Add keeps a run, and of the earlier ones as many as there may be.
func (s Store) Add(r *Run) error {
	if s.Dir == "" {
		return nil
	}
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("remember the run: %w", err)
	}
	if err := s.folder().Write(r.ID+suffix, data); err != nil {
		return fmt.Errorf("remember the run: %w", err)
	}
	ids, err := s.List()
	if err != nil {
		return err
	}
	for len(ids) > Most {
		if err := os.Remove(s.folder().Path(ids[len(ids)-1] + suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget a run: %w", err)
		}
		ids = ids[:len(ids)-1]
	}
	return nil
}

// List returns the names of the runs, the newest first.
func (s Store) List() ([]string, error) {
	if s.Dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(s.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the runs: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), suffix); ok && e.Type().IsRegular() {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	slices.Reverse(ids)
	return ids, nil
}

// ErrNone says that there is no such run.
var ErrNone = errors.New("no such run")

// Read returns a run: the newest for "", else the one whose name begins with id.
func (s Store) Read(id string) (*Run, error) {
	ids, err := s.List()
	if err != nil {
		return nil, err
	}
	found := ""
	for _, known := range ids {
		if !strings.HasPrefix(known, id) {
			continue
		}
		if found != "" && id != "" {
			return nil, fmt.Errorf("several runs begin with %s; 'dbake log ls' lists them", id)
		}
		if found = known; id == "" {
			break
		}
	}
	if found == "" {
		return nil, ErrNone
	}
	data, err := s.folder().Read(found + suffix)
	if err != nil {
		return nil, fmt.Errorf("read run %s: %w", found, err)
	}
	if data == nil { // another process has forgotten it since
		return nil, ErrNone
	}
	r := &Run{}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("run %s is damaged: %w", found, err)
	}
	return r, nil
}

// CriticalPath returns the places of the steps that decided when the run was over: from
// the last that ended back through the input that ended last, in order of time.
func (r *Run) CriticalPath() []int {
	last := -1
	end := func(i int) float64 { return r.Steps[i].Start + r.Steps[i].Took }
	for i, s := range r.Steps {
		if !s.Cached && (last < 0 || end(i) > end(last)) {
			last = i
		}
	}
	var path []int
	for last >= 0 && len(path) <= len(r.Steps) {
		path = append(path, last)
		next := -1
		for _, in := range r.Steps[last].Inputs {
			if in >= 0 && in < len(r.Steps) && !r.Steps[in].Cached && (next < 0 || end(in) > end(next)) {
				next = in
			}
		}
		last = next
	}
	slices.Reverse(path)
	return path
}

// Change is a step that two runs did differently.
type Change struct {
	Step    string   `json:"step"`
	Targets []string `json:"targets"`
	// Then and Now are the seconds that it took; nil where it did not run.
	Then *float64 `json:"then_s"`
	Now  *float64 `json:"now_s"`
}

// Compare returns the steps that ran in one of two runs only, then those that took
// longer in the second, then those that took less, each sorted by what they made up.
func Compare(then, now *Run) []Change {
	type pair struct{ then, now *Step }
	pairs := map[string]*pair{}
	var names []string
	note := func(r *Run, set func(*pair, *Step)) {
		for i := range r.Steps {
			s := &r.Steps[i]
			if s.Cached {
				continue
			}
			key := s.Name + "\x00" + strings.Join(s.Targets, "\x00")
			if pairs[key] == nil {
				pairs[key] = &pair{}
				names = append(names, key)
			}
			set(pairs[key], s)
		}
	}
	note(then, func(p *pair, s *Step) { p.then = s })
	note(now, func(p *pair, s *Step) { p.now = s })
	list := []Change{}
	for _, key := range names {
		p := pairs[key]
		s := p.now
		if s == nil {
			s = p.then
		}
		c := Change{Step: s.Name, Targets: s.Targets}
		if p.then != nil {
			c.Then = &p.then.Took
		}
		if p.now != nil {
			c.Now = &p.now.Took
		}
		list = append(list, c)
	}
	rank := func(c Change) (group int, size float64) {
		switch {
		case c.Then == nil:
			return 0, *c.Now
		case c.Now == nil:
			return 1, *c.Then
		case *c.Now > *c.Then:
			return 2, *c.Now - *c.Then
		}
		return 3, *c.Then - *c.Now
	}
	slices.SortStableFunc(list, func(x, y Change) int {
		gx, sx := rank(x)
		gy, sy := rank(y)
		return cmp.Or(cmp.Compare(gx, gy), cmp.Compare(sy, sx))
	})
	return list
}
