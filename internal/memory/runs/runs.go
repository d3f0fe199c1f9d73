// Package runs records builds: which steps ran on which node, when and for how long, and
// the results of the targets. Each run is a file; the last [Most] are kept.
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
	// MaxSize bounds all of them together, in bytes: the newest one stays, whatever its
	// size.
	MaxSize = 256 << 20
	// maxFile bounds what is read of a run, in bytes.
	maxFile = 64 << 20
)

// Outcomes of a run.
const (
	Done        = "done"
	Failed      = "failed"
	Interrupted = "interrupted"
)

// Run is the record of one build. Times are in seconds, those of steps since the start of
// the first one.
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
	// Lead is how long after Started the first step began.
	Lead float64 `json:"lead_s,omitempty"`
	// Tasks are the work of nodes besides steps, Moves the jobs that went to another node
	// than planned; their times are those of steps.
	Tasks []Task `json:"tasks,omitempty"`
	Moves []Move `json:"moves,omitempty"`
	// FailedSteps are the steps that failed, whether or not they succeeded after that.
	FailedSteps []FailedStep `json:"failed_steps,omitempty"`
	// Recipes are those of the steps, Files the sets of files that they read, Key names the
	// key of the hashes in both.
	Recipes []Recipe  `json:"recipes,omitempty"`
	Files   []FileSet `json:"files,omitempty"`
	Key     string    `json:"key,omitempty"`
}

// Task is work of a node besides steps.
type Task struct {
	Kind    TaskKind `json:"kind"`
	Name    string   `json:"name"`
	Targets []string `json:"targets"`
	Node    string   `json:"node"`
	Start   float64  `json:"start_s"`
	Took    float64  `json:"took_s"`
	Error   string   `json:"error,omitempty"`
}

// TaskKind is the kind of a task.
type TaskKind string

// The kinds of tasks.
const (
	Pull   TaskKind = "pull"   // a base image, a repository or a URL is read
	Send   TaskKind = "files"  // files of the user are sent
	Fetch  TaskKind = "fetch"  // the result of a step comes from another node, or from a cache
	Export TaskKind = "export" // an output or a cache is written
)

// FailedStep is a step that failed.
type FailedStep struct {
	Name    string   `json:"name"`
	Targets []string `json:"targets"` // whose step it is
	// Verdict is "flaky", "fails everywhere" or "failed".
	Verdict  string    `json:"verdict"`
	Failures []Failure `json:"failures"`
	Passed   string    `json:"passed,omitempty"` // the node on which it succeeded
}

// Failure is an execution that failed.
type Failure struct {
	Node     string `json:"node"`
	ExitCode string `json:"exit_code"`
}

// Move is work that went to another node than planned.
type Move struct {
	At      float64  `json:"at_s"`
	Targets []string `json:"targets"`
	Node    string   `json:"node"`
	From    string   `json:"from,omitempty"`
	Why     string   `json:"why"`
}

// Node is the work of one node.
type Node struct {
	Name   string  `json:"name"`
	Ran    int     `json:"ran"`
	Cached int     `json:"cached"`
	Busy   float64 `json:"busy_s"`
	Lost   string  `json:"lost,omitempty"` // why it was given up
	// State names the state of the node: with another one it has lost its results.
	State string `json:"state,omitempty"`
}

// Target is the result of one target.
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
	// Operation identifies the work of the step and all below it, Result that with the
	// files they read.
	Operation string `json:"operation"`
	Result    string `json:"result"`
	// Recipe is the place of what it is made of in [Run.Recipes], from 1; 0 is not kept.
	Recipe int `json:"recipe,omitempty"`
}

// Store is a directory of runs. The zero Store remembers nothing.
type Store struct {
	Dir string
	// MaxSize is the bound of all runs together, in bytes; 0 is the constant.
	MaxSize int64
}

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
	var size int64
	for i, id := range ids {
		size += s.size(id)
		if i < Most && (i == 0 || size <= cmp.Or(s.MaxSize, MaxSize)) {
			continue
		}
		if err := s.forget(id); err != nil {
			return err
		}
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

// Latest returns the newest run that a target had a part in, of a project if there is one, and
// the one before of the same project; nil where there is none. An empty target is any. Runs
// that cannot be read count as missing.
func (s Store) Latest(project, target string) (now, before *Run, err error) {
	ids, err := s.List()
	if err != nil {
		return nil, nil, err
	}
	var other *Run // the newest of any project
	for i, id := range ids {
		r, err := s.Read(id)
		if err != nil || target != "" && r.Target(target).Name == "" {
			continue
		}
		if r.Project == project {
			now, before = r, s.earlier(ids[i+1:], r.Project, target)
			return now, before, nil
		}
		if other == nil {
			other = r
		}
	}
	if other == nil {
		return nil, nil, ErrNone
	}
	before, err = s.Before(other, target)
	return other, before, err
}

// Before returns the newest run before r of the same project that a target had a part
// in; nil is none.
func (s Store) Before(r *Run, target string) (*Run, error) {
	ids, err := s.List()
	if err != nil {
		return nil, err
	}
	return s.earlier(slices.DeleteFunc(ids, func(id string) bool { return id >= r.ID }), r.Project, target), nil
}

func (s Store) earlier(ids []string, project, target string) *Run {
	for _, id := range ids {
		r, err := s.Read(id)
		if err == nil && r.Project == project && (target == "" || r.has(target)) {
			return r
		}
	}
	return nil
}

// ErrNone reports that there is no such run.
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
// longer in the second, then those that took less, each sorted by what they made up. Of a
// step that several nodes ran the longest time counts.
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
	longest := func(x, y *Step) *Step {
		if x != nil && x.Took >= y.Took {
			return x
		}
		return y
	}
	note(then, func(p *pair, s *Step) { p.then = longest(p.then, s) })
	note(now, func(p *pair, s *Step) { p.now = longest(p.now, s) })
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
