package peers

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// The scenarios, in the order in which a contender goes through them.
const (
	cold       = "cold"
	noChange   = "no change"
	oneFile    = "one file"
	dependency = "dependency"
	newBase    = "new base"
	replaced   = "nodes replaced"
	slowNode   = "slow node"
	learned    = "learned"
)

// scenarios lists all of them.
var scenarios = []string{cold, noChange, oneFile, dependency, newBase, replaced, slowNode, learned}

// slowness is how much longer each step takes on the slow node, in seconds.
const slowness = 3

// Run is one build. The file formats are made of it.
type Run struct {
	// Commit is that of the sources of dbake; "" when it is not known.
	Commit    string  `json:"commit"`
	Project   string  `json:"project"`
	Scenario  string  `json:"scenario"`
	Contender string  `json:"contender"`
	Round     int     `json:"round"`
	Seconds   float64 `json:"seconds"`
	Bound     float64 `json:"bound_seconds,omitempty"`
	Steps     int     `json:"steps"`
	// StepSeconds is how long the steps took together, Longest the longest of them.
	StepSeconds float64 `json:"step_seconds"`
	Longest     float64 `json:"longest_step_seconds"`
	// Slots is how many steps all nodes run at once; 0 is no limit.
	Slots int `json:"slots"`
	// Pulls are those of the base images.
	Pulls    Pulls    `json:"pulls"`
	Requests Requests `json:"requests"`
	// Sent is the number of bytes from clients to nodes.
	Sent int64 `json:"bytes_sent"`
	// Layers is the number of distinct blobs pushed so far, caches apart.
	Layers int `json:"layers"`
	// Phases are those that dbake divides its time into.
	Phases []Phase `json:"phases,omitempty"`
	Error  string  `json:"error,omitempty"`
}

// measurement is what the command was asked to do.
type measurement struct {
	dir        string
	nodes      int
	slots      int
	cpus       float64 // of each node; 0 is no limit
	rounds     int
	before     map[string]int // rounds measured earlier, by project
	programs   programs
	contenders []contender
	projects   []project
	scenarios  map[string]bool
	bases      *bases
	report     func(Run)
	logs       string // directory for what builds print; "" is none
}

// measure runs all rounds of all projects.
func (m *measurement) measure(ctx context.Context) error {
	for _, p := range m.projects {
		for round := range m.rounds {
			for i := range m.contenders {
				c := m.contenders[(i+round+m.before[p.name])%len(m.contenders)]
				if err := m.contend(ctx, p, c, round+1); err != nil {
					return fmt.Errorf("%s, %s, round %d: %w", p.name, c.name, round+1, err)
				}
			}
		}
	}
	return nil
}

// contend takes one contender through the scenarios of a project.
func (m *measurement) contend(ctx context.Context, p project, c contender, round int) (err error) {
	if err := m.bases.reset(ctx); err != nil {
		return err
	}
	a, err := openArena(ctx, filepath.Join(m.dir, "arena"), p, m.nodes, m.slots, m.cpus, m.programs, m.bases.registry)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	if err := c.prepare(ctx, a); err != nil {
		return err
	}
	for _, s := range scenarios {
		if !m.scenarios[s] {
			continue
		}
		ok, err := m.set(ctx, a, s)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		a.logs, a.label = m.logs, fmt.Sprintf("%s_%s_%s_%d", p.name, s, c.name, round)
		r, err := a.measure(ctx, c, s)
		a.label = "" // what is between builds is not kept
		if err != nil {
			return err
		}
		r.Round = round
		m.report(r)
	}
	return nil
}

// set makes the world as a scenario wants it; false when the project has none such.
func (m *measurement) set(ctx context.Context, a *arena, scenario string) (bool, error) {
	switch scenario {
	case oneFile, dependency:
		e, ok := a.project.edits[scenario]
		if !ok {
			return false, nil
		}
		return true, e.make(a.source())
	case newBase:
		return true, m.bases.replace(ctx)
	case replaced:
		return true, a.renew(ctx)
	case slowNode, learned:
		if len(a.nodes) == 1 {
			return false, nil
		}
		a.nodes[len(a.nodes)-1].slow = 0
		if scenario == slowNode {
			a.nodes[len(a.nodes)-1].slow = slowness
		}
		return true, errors.Join(a.renew(ctx), a.registry.empty(ctx))
	}
	return true, nil
}

// measure builds once. That the build failed is noted in the run; an error is one
// of the measurement.
func (a *arena) measure(ctx context.Context, c contender, scenario string) (Run, error) {
	a.registry.count()
	a.upstream.countPulls()
	if _, err := a.takeExecution(); err != nil {
		return Run{}, err
	}
	r := Run{Project: a.project.name, Scenario: scenario, Contender: c.name}
	slots := 0
	for _, n := range a.nodes {
		r.Slots += n.slots
		slots += max(n.slots, 1)
	}
	if a.project.bound != nil && (scenario == cold || scenario == learned) {
		r.Bound = a.project.bound(slots).Seconds()
	}
	a.phases = nil
	before, start := a.sentBytes(), time.Now()
	err := c.build(ctx, a)
	r.Seconds = time.Since(start).Seconds()
	if err != nil {
		if ctx.Err() != nil {
			return Run{}, err
		}
		r.Error = err.Error()
	}
	r.Sent = a.sentBytes() - before
	r.Requests, r.Layers = a.registry.count()
	ran, err := a.takeExecution()
	r.Steps, r.StepSeconds, r.Longest = ran.count, ran.took.Seconds(), ran.longest.Seconds()
	r.Pulls = a.upstream.countPulls()
	r.Phases = a.phases
	return r, err
}
