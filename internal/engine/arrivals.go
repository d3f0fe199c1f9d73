package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dbake/dbake/internal/memory/folder"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/nodeset"
)

// Expectation says that some nodes that do not answer yet will come a time after the start.
type Expectation struct {
	Nodes int
	After time.Duration
}

// ParseExpectation reads N@TIME.
func ParseExpectation(text string) (Expectation, error) {
	count, at, ok := strings.Cut(text, "@")
	n, err := strconv.Atoi(count)
	if !ok || err != nil || n < 1 {
		return Expectation{}, fmt.Errorf("invalid expectation %q: want N@TIME, a number of nodes and when they come after the start, such as 3@20s", text)
	}
	after, err := time.ParseDuration(at)
	if err != nil || after <= 0 {
		return Expectation{}, fmt.Errorf("invalid expectation %q: %q is no time after the start, such as 20s", text, at)
	}
	return Expectation{Nodes: n, After: after}, nil
}

const (
	// latest is how long after the start a node may be expected because it came then before.
	latest = 10 * time.Minute
	// soon is when a node is taken to come that is late.
	soon = time.Second
	// mostArrivals is how many arrivals of each node are remembered.
	mostArrivals = 5
	// maxArrivals bounds the file that they are kept in.
	maxArrivals = 1 << 20
)

// overdue is how long a node is planned for beyond its time: as long as its work waits for
// it in the run.
func (n *Nodes) overdue() time.Duration { return cmp.Or(n.Timeout, daemon.DefaultNodeTimeout) }

// patience is how long to wait for a node when none answers.
func (n *Nodes) patience() time.Duration {
	var most time.Duration
	for _, e := range n.Expect {
		most = max(most, e.After+n.overdue())
	}
	return most
}

// arrivals are the nodes of a pool that come later.
type arrivals struct {
	engine *Engine
	nodes  *nodes
	given  []Expectation
	// overdue is how long a node is planned for beyond its time.
	overdue time.Duration
}

// arrivalsOf returns those of the nodes that were chosen.
func arrivalsOf(s *standby) arrivals {
	return arrivals{engine: s.engine, nodes: s.nodes, given: s.choice.Expect, overdue: s.choice.overdue()}
}

// expect returns when the nodes in away are expected, after the start: those of the request, in
// their order, and otherwise those that were late before. age is the time since the start.
func (a arrivals) expect(away []nodeset.Spec, age time.Duration) map[string]time.Duration {
	at := map[string]time.Duration{}
	given := slices.Clone(a.given)
	slices.SortStableFunc(given, func(a, b Expectation) int { return cmp.Compare(a.After, b.After) })
	rest := away
	for _, e := range given {
		n := min(e.Nodes, len(rest))
		for _, spec := range rest[:n] {
			at[spec.Name] = e.After
		}
		rest = rest[n:]
	}
	if len(rest) > 0 {
		past := a.recall()
		for _, spec := range rest {
			if t, ok := usual(past.Came[spec.Addr]); ok {
				at[spec.Name] = t
			}
		}
	}
	for name, t := range at {
		switch {
		case t > age:
		case t+a.overdue < age:
			delete(at, name)
		default:
			at[name] = age + soon
		}
	}
	return at
}

// usual returns when a node is expected that came so many seconds after the start before; -1
// among them is never.
func usual(came []float64) (time.Duration, bool) {
	if len(came) == 0 {
		return 0, false
	}
	list := slices.Clone(came)
	for i, t := range list {
		if t < 0 {
			list[i] = math.Inf(1)
		}
	}
	slices.Sort(list)
	t := list[len(list)/2]
	return time.Duration(t * float64(time.Second)), t > 0 && t <= latest.Seconds()
}

// muster adds the nodes that have come since the facts were gathered, and those that are
// expected, to the nodes that b is planned for.
func (a arrivals) muster(ctx context.Context, f *facts, b *plan.Build) {
	if f.pool == nil {
		return
	}
	came := f.pool.Muster(ctx, func(info daemon.NodeInfo) bool {
		// Dockerfiles were compiled for the others.
		return !info.Drains && (!info.OwnStore || f.ownStore()) && (f.hostGateway == "" || info.HostGateway == f.hostGateway)
	})
	var more []plan.Node
	if len(came) > 0 {
		records := f.pool.Records(ctx)
		for i, info := range came {
			f.note(info, records[len(f.nodes)+i])
			more = append(more, plannerNode(info, records[len(f.nodes)+i], a.engine.memory.Nodes()))
			a.engine.Report.Note(fmt.Sprintf("node %s has come and takes part", info.Name))
		}
	}
	more = append(more, a.absent(f)...)
	for _, err := range f.pool.Absent() {
		a.engine.Report.Warn(fmt.Sprintf("%v; the build starts without it", err))
	}
	if len(more) > 0 {
		f.nodes = b.Capacity(append(f.nodes, more...))
	}
}

// absent returns the nodes that are to come, as the planner sees them. It tells the pool to
// expect them.
func (a arrivals) absent(f *facts) []plan.Node {
	var away []nodeset.Spec
	for _, info := range f.pool.All()[len(f.pool.Nodes()):] {
		away = append(away, info.Spec)
	}
	age := f.pool.Age()
	at := a.expect(away, age)
	var list []plan.Node
	var names []string
	for _, spec := range away {
		t, ok := at[spec.Name]
		if !ok {
			continue
		}
		n, err := a.nodes.toCome(spec, t-age, f.nodes[0])
		if err != nil {
			continue // it says so when it comes
		}
		list, names = append(list, n), append(names, spec.Name)
		a.engine.Report.Note(fmt.Sprintf("node %s is expected %s after the start", spec.Name, t.Round(time.Second)))
	}
	f.pool.Expect(names)
	return list
}

// postpone makes those of the nodes in away that are expected later come later. At least one
// other node is in f.
func (a arrivals) postpone(f *facts, away []nodeset.Spec) error {
	at := a.expect(away, 0)
	if len(at) == 0 {
		return nil
	}
	here := slices.IndexFunc(f.nodes, func(n plan.Node) bool {
		return !slices.ContainsFunc(away, func(spec nodeset.Spec) bool { return spec.Name == n.Name })
	})
	var silent []error
	for i, spec := range away {
		t, ok := at[spec.Name]
		if !ok {
			silent = append(silent, f.silent[i])
			continue
		}
		k := slices.IndexFunc(f.nodes, func(n plan.Node) bool { return n.Name == spec.Name })
		var err error
		if f.nodes[k], err = a.nodes.toCome(spec, t, f.nodes[here]); err != nil {
			return err
		}
	}
	f.silent = silent
	return nil
}

// toCome returns, as the planner sees it, a node that will come in a while. It is assumed to
// hold nothing, and to run what other runs unless its spec names platforms.
func (n *nodes) toCome(spec nodeset.Spec, in time.Duration, other plan.Node) (plan.Node, error) {
	node, err := n.assume(spec, warm.Ledger{})
	node.From = max(1, in)
	if len(node.Platforms) == 0 {
		node.Platforms = other.Platforms
	}
	return node, err
}

// pastArrivals are the times at which the nodes of a pool came up in earlier runs.
type pastArrivals struct {
	Addrs []string `json:"addrs"`
	// Came holds, by address, the seconds after the start, the last ones last; -1 is never.
	Came map[string][]float64 `json:"came"`
}

// file returns where the arrivals of earlier runs are kept.
func (a arrivals) file() (dir folder.Folder, name string, addrs []string) {
	return a.engine.poolFile(a.nodes, "arrivals", maxArrivals)
}

// recall returns what is remembered of the pool.
func (a arrivals) recall() pastArrivals {
	dir, name, addrs := a.file()
	if dir.Dir == "" {
		return pastArrivals{}
	}
	data, err := dir.Read(name)
	if err != nil {
		a.engine.memory.Forgets(fmt.Errorf("read when nodes came up: %w", err))
	}
	return decodeArrivals(data, addrs)
}

func decodeArrivals(data []byte, addrs []string) pastArrivals {
	var past pastArrivals
	if len(data) == 0 || json.Unmarshal(data, &past) != nil || !slices.Equal(past.Addrs, addrs) {
		return pastArrivals{}
	}
	return past
}

// remember notes when the nodes of a pool came up. Nothing is kept of a pool whose
// nodes have always been there.
func (a arrivals) remember(pool *daemon.Pool) error {
	dir, name, addrs := a.file()
	came := map[string]float64{}
	late := len(a.recall().Came) > 0
	for i, t := range pool.Arrivals() {
		switch addr := pool.All()[i].Addr; {
		case t < 0:
			came[addr] = -1
		case t > soon:
			came[addr] = t.Seconds()
		default:
			came[addr] = 0
		}
		late = late || t < 0 || t > soon
	}
	if dir.Dir == "" || !late {
		return nil
	}
	err := dir.Update(name, func(old []byte) ([]byte, error) {
		past := decodeArrivals(old, addrs)
		if past.Came == nil {
			past = pastArrivals{Addrs: addrs, Came: map[string][]float64{}}
		}
		for addr, t := range came {
			list := append(past.Came[addr], t)
			past.Came[addr] = list[max(0, len(list)-mostArrivals):]
		}
		return json.Marshal(past)
	})
	if err != nil {
		return fmt.Errorf("remember when nodes came up: %w", err)
	}
	return nil
}
