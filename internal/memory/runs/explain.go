package runs

import (
	"math"
	"slices"
	"strings"
)

// Explanation lists why the steps of a target ran, or did not, in a run.
type Explanation struct {
	Target string `json:"target"`
	Run    string `json:"run"`
	Before string `json:"before,omitempty"` // the run that it is compared with; "" is none
	State  string `json:"state"`            // of the target
	Reason string `json:"reason,omitempty"`
	// Steps are in an order in which each stands after those it is made of.
	Steps []Reasons `json:"steps"`
	// Unknown is why the reasons are not known; "" when they are.
	Unknown string `json:"unknown,omitempty"`
}

// Fate is the treatment of a step in a run.
type Fate string

// The fates.
const (
	Ran     Fate = "ran"
	Cached  Fate = "cached"
	Broke   Fate = "failed"
	Unasked Fate = "not asked for" // no node looked at the step
	Source  Fate = "source"        // it is no step
)

// Reasons are why a step had its fate.
type Reasons struct {
	Name  string   `json:"name"`
	Fate  Fate     `json:"fate"`
	Nodes []string `json:"nodes,omitempty"`
	Took  float64  `json:"took_s,omitempty"`
	// Causes are why the step ran, or what has changed although it did not.
	Causes []Cause `json:"causes,omitempty"`
}

// Cause is one reason.
type Cause struct {
	Kind CauseKind `json:"kind"`
	// Name is that of the file, argument, secret or step.
	Name string `json:"name,omitempty"`
	// How is the kind of change: added, removed, edited or mode.
	How string `json:"how,omitempty"`
	// Then and Now are the values of both runs, as far as they may be shown.
	Then string `json:"then,omitempty"`
	Now  string `json:"now,omitempty"`
}

// CauseKind is a kind of reason: that of a part that has changed, or one of these.
type CauseKind string

// The causes besides those of parts.
const (
	CauseFile    CauseKind = "file"
	CauseFiles   CauseKind = "files" // some of too many to be named
	CauseAbove   CauseKind = "above" // a step or source that it is made of
	CauseNoCache CauseKind = "no-cache"
	CauseNew     CauseKind = "new"      // the run before had no such step
	CauseFirst   CauseKind = "first"    // there is no run before
	CauseFailed  CauseKind = "failed"   // it failed in the run before
	CauseUnasked CauseKind = "unasked"  // the run before did not get to it, or did not need it
	CauseNode    CauseKind = "node"     // it was on another node
	CauseRenewed CauseKind = "renewed"  // the node has lost its state since
	CauseLost    CauseKind = "lost"     // the node has thrown its result away since
	CauseAgain   CauseKind = "again"    // what it is made of ran once more, and may have another result
	CauseOther   CauseKind = "changed"  // something else of it
	CauseKnown   CauseKind = "answered" // it has changed, and its result was known from elsewhere
)

// has reports whether a run has the recipes of a target.
func (r *Run) has(target string) bool {
	return slices.ContainsFunc(r.Recipes, func(p Recipe) bool { return slices.Contains(p.Targets, target) })
}

// Target returns the result of a target; the zero value when it had no part in the run.
func (r *Run) Target(name string) Target {
	if i := slices.IndexFunc(r.Targets, func(t Target) bool { return t.Name == name }); i >= 0 {
		return r.Targets[i]
	}
	return Target{}
}

// ran is the treatment of one recipe in a run.
type ran struct {
	fate  Fate
	nodes []string
	took  float64
}

// fates returns the treatment of each recipe in a run.
func (r *Run) fates() []ran {
	list := make([]ran, len(r.Recipes))
	for i, p := range r.Recipes {
		list[i].fate = Unasked
		if p.Source {
			list[i].fate = Source
		}
	}
	for _, s := range r.Steps {
		i := s.Recipe - 1
		if i < 0 || i >= len(list) {
			continue
		}
		x := &list[i]
		fate := Ran
		switch {
		case s.Error != "":
			fate = Broke
		case s.Cached:
			fate = Cached
		}
		// An execution on one node counts before a held result on another.
		if x.fate == Unasked || x.fate == Cached && fate != Cached {
			x.fate, x.nodes, x.took = fate, nil, 0
		}
		if fate == x.fate && !slices.Contains(x.nodes, s.Node) {
			x.nodes = append(x.nodes, s.Node)
			x.took = max(x.took, s.Took)
		}
	}
	return list
}

// Explain finds out why the steps of a target ran in a run, compared with an earlier one;
// nil is none.
func Explain(before, now *Run, target string) Explanation {
	t := now.Target(target)
	e := Explanation{Target: target, Run: now.ID, State: t.State, Reason: t.Reason, Steps: []Reasons{}}
	if before != nil {
		e.Before = before.ID
	}
	switch {
	case !now.has(target):
		e.Unknown = "what the target is made of was not kept"
		return e
	case before != nil && before.Key != now.Key:
		e.Unknown = "the runs were kept with different keys, so that they cannot be compared"
		return e
	}
	x := &comparison{before: before, now: now, fates: now.fates(), same: map[int]int{}}
	mine := now.of(target)
	if before != nil {
		x.was = before.fates()
		x.same = match(before, before.of(target), now, mine)
	}
	for _, i := range mine {
		p := now.Recipes[i]
		e.Steps = append(e.Steps, Reasons{Name: p.Name, Fate: x.fates[i].fate, Nodes: x.fates[i].nodes, Took: x.fates[i].took, Causes: x.causes(i)})
	}
	return e
}

// of returns the places of the recipes of a target.
func (r *Run) of(target string) []int {
	var list []int
	for i, p := range r.Recipes {
		if slices.Contains(p.Targets, target) {
			list = append(list, i)
		}
	}
	return list
}

// comparison compares two runs.
type comparison struct {
	before, now *Run
	was, fates  []ran       // by recipe
	same        map[int]int // the recipe of before that became one of now
}

// causes returns why recipe i has its fate.
func (x *comparison) causes(i int) []Cause {
	p, fate := x.now.Recipes[i], x.fates[i].fate
	if x.before == nil {
		if fate == Ran || fate == Broke {
			return []Cause{{Kind: CauseFirst}}
		}
		return nil
	}
	var list []Cause
	ran := fate == Ran || fate == Broke
	if p.Anew && ran {
		list = append(list, Cause{Kind: CauseNoCache})
	}
	old, known := x.same[i]
	if !known {
		if ran || fate == Source {
			list = append(list, Cause{Kind: CauseNew})
		}
		return list
	}
	list = append(list, x.changes(i, old)...)
	switch {
	case ran && len(list) == 0:
		return []Cause{x.explainLoss(i, old)}
	case fate == Cached && len(list) > 0:
		list = append(list, Cause{Kind: CauseKnown})
	}
	return list
}

// changes are the differences between recipe i and the one that it was.
func (x *comparison) changes(i, old int) []Cause {
	p, was := x.now.Recipes[i], x.before.Recipes[old]
	if p.Hash == was.Hash {
		return nil
	}
	list := changedParts(was, p)
	files, named := changedFiles(x.before, was, x.now, p)
	for _, f := range files {
		list = append(list, Cause{Kind: CauseFile, Name: f.Path, How: f.How})
	}
	if !named {
		list = append(list, Cause{Kind: CauseFiles})
	}
	for _, in := range p.Inputs {
		from, ok := x.same[in]
		if !ok || x.before.Recipes[from].Hash != x.now.Recipes[in].Hash {
			list = append(list, Cause{Kind: CauseAbove, Name: x.now.Recipes[in].Name})
		}
	}
	if len(list) == 0 {
		list = append(list, Cause{Kind: CauseOther})
	}
	return list
}

// changedParts compares what two recipes do.
func changedParts(was, p Recipe) []Cause {
	type id struct {
		kind PartKind
		name string
	}
	old := map[id]Part{}
	for _, part := range was.Parts {
		old[id{part.Kind, part.Name}] = part
	}
	var list []Cause
	text := func(r Recipe, part Part) string {
		if part.Kind == PartCommand {
			return r.Text
		}
		return part.Value
	}
	for _, part := range p.Parts {
		key := id{part.Kind, part.Name}
		then, known := old[key]
		delete(old, key)
		if known && then.Hash == part.Hash {
			continue
		}
		c := Cause{Kind: CauseKind(part.Kind), Name: part.Name, How: "edited", Now: text(p, part)}
		if known {
			c.Then = text(was, then)
		} else {
			c.How = "added"
		}
		if c.Then == c.Now {
			c.Then, c.Now = "", ""
		}
		list = append(list, c)
	}
	for _, part := range was.Parts {
		if _, left := old[id{part.Kind, part.Name}]; left {
			list = append(list, Cause{Kind: CauseKind(part.Kind), Name: part.Name, How: "removed", Then: text(was, part)})
		}
	}
	return list
}

// explainLoss returns why a step ran although nothing of it has changed.
func (x *comparison) explainLoss(i, old int) Cause {
	was := x.was[old]
	switch was.fate {
	case Unasked, Source:
		return Cause{Kind: CauseUnasked}
	case Broke:
		return Cause{Kind: CauseFailed}
	}
	for _, in := range x.now.Recipes[i].Inputs {
		if f := x.fates[in].fate; f == Ran || f == Broke {
			return Cause{Kind: CauseAgain, Name: x.now.Recipes[in].Name}
		}
	}
	here := x.fates[i].nodes
	if !slices.ContainsFunc(here, func(n string) bool { return slices.Contains(was.nodes, n) }) {
		return Cause{Kind: CauseNode, Then: strings.Join(was.nodes, ", "), Now: strings.Join(here, ", ")}
	}
	for _, name := range here {
		then, now := x.before.node(name), x.now.node(name)
		if then.State != "" && now.State != "" && then.State != now.State {
			return Cause{Kind: CauseRenewed, Name: name}
		}
	}
	return Cause{Kind: CauseLost, Name: strings.Join(here, ", ")}
}

func (r *Run) node(name string) Node {
	if i := slices.IndexFunc(r.Nodes, func(n Node) bool { return n.Name == name }); i >= 0 {
		return r.Nodes[i]
	}
	return Node{}
}

// match finds what recipes of a target were in the run before: those of the same hash,
// then those of the same stage and text, then, between two of the stage that are known,
// those of the same instruction, in their order.
func match(before *Run, old []int, now *Run, list []int) map[int]int {
	same, taken := map[int]int{}, map[int]bool{}
	take := func(alike func(at, k int) bool) {
		for at, i := range list {
			if _, known := same[i]; known {
				continue
			}
			for _, k := range old {
				was, p := before.Recipes[k], now.Recipes[i]
				if !taken[k] && was.Stage == p.Stage && was.Source == p.Source && alike(at, k) {
					same[i], taken[k] = k, true
					break
				}
			}
		}
	}
	text := func(at, k int) (was, p Recipe) { return before.Recipes[k], now.Recipes[list[at]] }
	take(func(at, k int) bool { was, p := text(at, k); return was.Text == p.Text && was.Hash == p.Hash })
	take(func(at, k int) bool { was, p := text(at, k); return was.Text == p.Text })
	take(func(at, k int) bool {
		was, p := text(at, k)
		low, high := now.between(list, at, same)
		return word(was.Text) == word(p.Text) && k > low && k < high
	})
	return same
}

// between returns the places, in the run before, of the nearest steps of the same stage
// that are known on both sides of list[at].
func (r *Run) between(list []int, at int, same map[int]int) (low, high int) {
	low, high = -1, math.MaxInt
	find := func(k int) (place int, ok bool) {
		if r.Recipes[list[k]].Stage != r.Recipes[list[at]].Stage || r.Recipes[list[k]].Source {
			return 0, false
		}
		place, ok = same[list[k]]
		return place, ok
	}
	for k := at - 1; k >= 0; k-- {
		if was, ok := find(k); ok {
			low = was
			break
		}
	}
	for k := at + 1; k < len(list); k++ {
		if was, ok := find(k); ok {
			high = was
			break
		}
	}
	return low, high
}

// word is the instruction of a step.
func word(text string) string {
	first, _, _ := strings.Cut(text, " ")
	return first
}
