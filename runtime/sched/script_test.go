package sched

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite golden files")

// TestScripts plays testdata/*.txt: blocks of commands, each followed by "----" and
// everything that happened because of them. A line that starts with # is a comment.
//
//	add-nodes N [speed=F] [slots=N] [assumed] [platforms=A,B]     nodes n1, n2, ...
//	node NAME [speed=F] [slots=N] [assumed] [memory=N] [platforms=A,B] [warm=V,...] [filled=M,...]
//	vertex NAME COST [in=V,...] [bytes=N] [memory=N] [platform=P] [once] [flaky] [mounts=M,... cold=F]
//	unit NAME ROOT [after=U,...] [platforms=P,...] [nodes=N,...] [early] [on-demand] [stage] [gates=U,...] [shut]
//	network [bandwidth=N] [latency=D] [cached=V,...]
//	options [steal] [keep-going] [defer-output] [ahead=N] [jobs=N] [attempts=N] [retry-steps=N] [backoff=D]
//	plan NODE U,U U ...                                 a partition per word
//	pool U,U U ...
//	start                                               new scheduler, nothing is up
//	at D                                                the time of what follows
//	up NODE|all [emulates=P:F,...] [empty] [holds=V,...]    lose NODE [reconnecting] [ERR...]
//	replan NODE U,U U ... [/ NODE ...]                  another plan
//	drain NODE                   undrain NODE                 share NODE TENANTS
//	begin V NODE                 step V NODE TOOK|cached    published V
//	unsent V                     missed V NODE
//	built U [PART]               exported U [PART]
//	done U                       built and exported
//	fail U [PART] [vertex=V] [retryable] [execution=N way=W] [ERR...]
//	end PART [retryable] [ERR...]
//	cancel [REASON...]           tick
//	status                       moves
//	stabilize                    all that was asked for happens, one thing a second
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(f)
			require.NoError(t, err)
			got := newScript(t).play(string(data))
			if *update {
				require.NoError(t, os.WriteFile(f, []byte(got), 0o644))
				return
			}
			require.Equal(t, string(data), got)
		})
	}
}

type script struct {
	t     *testing.T
	cfg   Config
	verts []string
	s     *Scheduler
	now   time.Duration
	out   strings.Builder
	open  []Submit
	gates map[UnitID]string
}

func newScript(t *testing.T) *script { return &script{t: t} }

func (sc *script) play(text string) string {
	var doc strings.Builder
	for _, block := range strings.Split(strings.TrimSpace(text), "\n\n") {
		in, _, _ := strings.Cut(block, "\n----")
		sc.out.Reset()
		commands := false
		for _, line := range strings.Split(in, "\n") {
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			commands = true
			sc.command(strings.Fields(line))
		}
		if doc.Len() > 0 {
			doc.WriteString("\n")
		}
		doc.WriteString(in + "\n")
		if commands {
			doc.WriteString("----\n" + sc.out.String())
		}
	}
	return doc.String()
}

// args splits words into key=value pairs, flags and the rest.
func args(words []string, flags ...string) (map[string]string, []string) {
	kv := map[string]string{}
	var rest []string
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		switch {
		case ok:
			kv[k] = v
		case slices.Contains(flags, w):
			kv[w] = w
		default:
			rest = append(rest, w)
		}
	}
	return kv, rest
}

func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func (sc *script) duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	require.NoError(sc.t, err)
	return d
}

func (sc *script) number(s string) int {
	if s == "" {
		return 0
	}
	n, err := strconv.Atoi(s)
	require.NoError(sc.t, err)
	return n
}

func (sc *script) vertex(name string) VertexID {
	i := slices.Index(sc.verts, name)
	require.GreaterOrEqual(sc.t, i, 0, "vertex %s", name)
	return VertexID(i)
}

// factors reads PLATFORM:FACTOR,...
func (sc *script) factors(s string) map[string]float64 {
	var out map[string]float64
	for _, f := range list(s) {
		name, factor, _ := strings.Cut(f, ":")
		x, err := strconv.ParseFloat(factor, 64)
		require.NoError(sc.t, err)
		if out == nil {
			out = map[string]float64{}
		}
		out[name] = x
	}
	return out
}

func (sc *script) vertices(s string) []VertexID {
	var out []VertexID
	for _, n := range list(s) {
		out = append(out, sc.vertex(n))
	}
	return out
}

func (sc *script) unit(name string) UnitID {
	i := slices.IndexFunc(sc.cfg.Units, func(u Unit) bool { return u.Name == name })
	require.GreaterOrEqual(sc.t, i, 0, "unit %s", name)
	return UnitID(i)
}

func (sc *script) units(s string) []UnitID {
	var out []UnitID
	for _, n := range list(s) {
		out = append(out, sc.unit(n))
	}
	return out
}

func (sc *script) node(name string) NodeID {
	i := slices.IndexFunc(sc.cfg.Nodes, func(n Node) bool { return n.Name == name })
	require.GreaterOrEqual(sc.t, i, 0, "node %s", name)
	return NodeID(i)
}

func (sc *script) command(w []string) {
	kv, rest := args(w[1:], "steal", "keep-going", "retryable", "elsewhere", "reconnecting", "cached", "output", "assumed", "defer-output", "early", "once", "on-demand", "stage", "flaky", "shut", "empty")
	factor := func(name string) float64 {
		if kv[name] == "" {
			return 0
		}
		f, err := strconv.ParseFloat(kv[name], 64)
		require.NoError(sc.t, err)
		return f
	}
	speed := func() float64 { return factor("speed") }
	switch w[0] {
	case "add-nodes":
		for range sc.number(rest[0]) {
			sc.cfg.Nodes = append(sc.cfg.Nodes, Node{
				Name: fmt.Sprintf("n%d", len(sc.cfg.Nodes)+1), Speed: speed(),
				Slots: sc.number(kv["slots"]), SlotsAssumed: kv["assumed"] != "", Platforms: list(kv["platforms"]),
			})
		}
	case "node":
		sc.cfg.Nodes = append(sc.cfg.Nodes, Node{
			Name: rest[0], Speed: speed(), Slots: sc.number(kv["slots"]), SlotsAssumed: kv["assumed"] != "", Memory: int64(sc.number(kv["memory"])),
			Platforms: list(kv["platforms"]), Warm: sc.vertices(kv["warm"]), Filled: list(kv["filled"]), Fetches: sc.vertices(kv["fetches"]),
		})
	case "vertex":
		sc.cfg.Vertices = append(sc.cfg.Vertices, Vertex{
			Cost: sc.duration(rest[1]), Bytes: int64(sc.number(kv["bytes"])), Memory: int64(sc.number(kv["memory"])),
			Inputs: sc.vertices(kv["in"]), Platform: kv["platform"], Output: kv["output"] != "", Once: kv["once"] != "", Flaky: kv["flaky"] != "",
			Mounts: list(kv["mounts"]), Cold: factor("cold"),
		})
		sc.verts = append(sc.verts, rest[0])
	case "unit":
		u := Unit{
			Name: rest[0], Root: sc.vertex(rest[1]), Platforms: list(kv["platforms"]),
			After: sc.units(kv["after"]),
			Early: kv["early"] != "", OnDemand: kv["on-demand"] != "", Stage: kv["stage"] != "",
			Shut: kv["shut"] != "",
		}
		if sc.gates == nil {
			sc.gates = map[UnitID]string{}
		}
		sc.gates[UnitID(len(sc.cfg.Units))] = kv["gates"] // of units that may follow
		for _, n := range list(kv["nodes"]) {
			u.Nodes = append(u.Nodes, sc.node(n))
		}
		sc.cfg.Units = append(sc.cfg.Units, u)
	case "network":
		sc.cfg.Network = Network{Bandwidth: int64(sc.number(kv["bandwidth"])), Cached: sc.vertices(kv["cached"])}
		if kv["latency"] != "" {
			sc.cfg.Network.Latency = sc.duration(kv["latency"])
		}
	case "options":
		sc.cfg.Options = Options{
			Steal: kv["steal"] != "", KeepGoing: kv["keep-going"] != "", DeferOutput: kv["defer-output"] != "",
			Ahead: sc.number(kv["ahead"]),
			Jobs:  sc.number(kv["jobs"]), MaxAttempts: sc.number(kv["attempts"]), RetrySteps: sc.number(kv["retry-steps"]),
		}
		if kv["backoff"] != "" {
			sc.cfg.Options.Backoff = sc.duration(kv["backoff"])
		}
	case "plan":
		n := sc.node(rest[0])
		for len(sc.cfg.Plan) <= int(n) {
			sc.cfg.Plan = append(sc.cfg.Plan, nil)
		}
		for _, p := range rest[1:] {
			sc.cfg.Plan[n] = append(sc.cfg.Plan[n], sc.units(p))
		}
	case "begins":
		// A word for each unit, in their order: TIME@STEP.
		for _, w := range rest {
			at, step, _ := strings.Cut(w, "@")
			sc.cfg.Begin = append(sc.cfg.Begin, Begin{At: sc.duration(at), Step: sc.vertex(step)})
		}
	case "pool":
		for _, p := range rest {
			sc.cfg.Pool = append(sc.cfg.Pool, sc.units(p))
		}
	case "start":
		for u, names := range sc.gates {
			sc.cfg.Units[u].Gates = sc.units(names)
		}
		var err error
		if sc.s, err = New(sc.cfg); err != nil {
			fmt.Fprintln(&sc.out, err)
		}
	case "at":
		sc.now = sc.duration(rest[0])
	case "up":
		for i, n := range sc.cfg.Nodes {
			if rest[0] == "all" || rest[0] == n.Name {
				sc.step(NodeUp{At: sc.now, Node: NodeID(i), Emulates: sc.factors(kv["emulates"]), Empty: kv["empty"] != "", Holds: sc.vertices(kv["holds"])})
			}
		}
	case "lose":
		sc.step(NodeLost{At: sc.now, Node: sc.node(rest[0]), Err: strings.Join(rest[1:], " "), Reconnecting: kv["reconnecting"] != ""})
	case "drain", "undrain":
		sc.step(NodeDrain{At: sc.now, Node: sc.node(rest[0]), On: w[0] == "drain"})
	case "replan":
		e := NewPlan{At: sc.now, Plan: make([][]Partition, len(sc.cfg.Nodes))}
		for _, one := range strings.Split(strings.Join(rest, " "), " / ") {
			words := strings.Fields(one)
			for _, p := range words[1:] {
				n := sc.node(words[0])
				e.Plan[n] = append(e.Plan[n], sc.units(p))
			}
		}
		sc.step(e)
	case "share":
		sc.step(NodeShared{At: sc.now, Node: sc.node(rest[0]), Tenants: sc.number(rest[1])})
	case "begin":
		sc.step(VertexStarted{At: sc.now, Vertex: sc.vertex(rest[0]), Node: sc.node(rest[1])})
	case "step":
		e := VertexDone{At: sc.now, Vertex: sc.vertex(rest[0]), Node: sc.node(rest[1]), Cached: kv["cached"] != ""}
		if !e.Cached {
			e.Took = sc.duration(rest[2])
		}
		sc.step(e)
	case "published":
		sc.step(VertexCached{At: sc.now, Vertex: sc.vertex(rest[0])})
	case "unsent":
		sc.step(VertexUnsent{At: sc.now, Vertex: sc.vertex(rest[0])})
	case "missed":
		sc.step(VertexMissed{At: sc.now, Vertex: sc.vertex(rest[0]), Node: sc.node(rest[1])})
	case "built":
		sc.step(UnitBuilt{At: sc.now, Unit: sc.unit(rest[0]), Partition: sc.part(rest)})
	case "exported":
		sc.step(UnitExported{At: sc.now, Unit: sc.unit(rest[0]), Partition: sc.part(rest)})
	case "done":
		p := sc.part(rest)
		sc.step(UnitBuilt{At: sc.now, Unit: sc.unit(rest[0]), Partition: p})
		sc.step(UnitExported{At: sc.now, Unit: sc.unit(rest[0]), Partition: p})
	case "fail":
		v := NoVertex
		if kv["vertex"] != "" {
			v = sc.vertex(kv["vertex"])
		}
		where, words := rest[:1], rest[1:]
		if len(words) > 0 && isPartition(words[0]) {
			where, words = rest[:2], words[1:]
		}
		sc.step(UnitFailed{
			At: sc.now, Unit: sc.unit(rest[0]), Partition: sc.part(where), Vertex: v,
			Retryable: kv["retryable"] != "", Elsewhere: kv["elsewhere"] != "", Err: strings.Join(words, " "),
			Execution: sc.number(kv["execution"]), Way: kv["way"],
		})
	case "end":
		sc.step(PartitionEnded{
			At: sc.now, Partition: sc.partition(rest[0]),
			Retryable: kv["retryable"] != "", Err: strings.Join(rest[1:], " "),
		})
	case "cancel":
		sc.step(Cancel{At: sc.now, Reason: strings.Join(rest, " ")})
	case "tick":
		sc.step(Tick{At: sc.now})
	case "status":
		for i, n := range sc.s.Status() {
			fmt.Fprintf(&sc.out, "%s up=%v open=%d speed=%.2f ends=%s queued=%s\n",
				sc.cfg.Nodes[i].Name, n.Up, n.Open, n.Speed, n.Ends.Round(time.Second), sc.names(n.Queued))
		}
	case "moves":
		for _, m := range sc.s.Moves() {
			sc.move(m)
		}
	case "stabilize":
		sc.stabilize()
	default:
		sc.t.Fatalf("unknown command %q", w[0])
	}
}

func (sc *script) partition(s string) PartitionID {
	return PartitionID(sc.number(strings.TrimPrefix(s, "p")))
}

// isPartition reports whether a word is the name of a partition.
func isPartition(word string) bool {
	_, err := strconv.Atoi(strings.TrimPrefix(word, "p"))
	return strings.HasPrefix(word, "p") && err == nil
}

// part returns the submission named in rest[1], or the last with the unit.
func (sc *script) part(rest []string) PartitionID {
	if len(rest) > 1 {
		return sc.partition(rest[1])
	}
	u := sc.unit(rest[0])
	for i := len(sc.open) - 1; i >= 0; i-- {
		if slices.Contains(sc.open[i].Units, u) {
			return sc.open[i].Partition
		}
	}
	return 0
}

func (sc *script) names(us []UnitID) string {
	names := make([]string, len(us))
	for i, u := range us {
		names[i] = sc.cfg.Units[u].Name
	}
	return "[" + strings.Join(names, " ") + "]"
}

func (sc *script) move(m Move) {
	fmt.Fprintf(&sc.out, "%s %s %s: %s -> %s, there %s, here %s, set-up %s\n", m.At.Round(time.Second), m.Why, sc.names(m.Units),
		sc.cfg.Nodes[m.From].Name, sc.cfg.Nodes[m.To].Name,
		m.There.Round(time.Second), m.Here.Round(time.Second), m.Setup.Round(time.Second))
}

func (sc *script) step(ev Event) {
	for _, c := range sc.s.Step(ev) {
		switch c := c.(type) {
		case Submit:
			sc.open = append(sc.open, c)
			fmt.Fprintf(&sc.out, "submit p%d on %s: %s %s", c.Partition, sc.cfg.Nodes[c.Node].Name, sc.names(c.Units), c.Why)
			tries := 0
			for _, u := range c.Units {
				tries = max(tries, sc.s.units[u].tries)
			}
			if tries > 0 {
				fmt.Fprintf(&sc.out, ", attempt %d", tries+1)
			}
			if c.Delay > 0 {
				fmt.Fprintf(&sc.out, ", after %s", c.Delay)
			}
			fmt.Fprintln(&sc.out)
		case Export:
			fmt.Fprintf(&sc.out, "export %s of p%d\n", sc.cfg.Units[c.Unit].Name, c.Partition)
		case Defer:
			fmt.Fprintf(&sc.out, "defer %s of p%d\n", sc.cfg.Units[c.Unit].Name, c.Partition)
		case Release:
			fmt.Fprintf(&sc.out, "release %s of p%d\n", sc.cfg.Units[c.Unit].Name, c.Partition)
		case CancelPartition:
			fmt.Fprintf(&sc.out, "cancel p%d: %s\n", c.Partition, c.Reason)
		case Abandon:
			sc.open = slices.DeleteFunc(sc.open, func(s Submit) bool { return s.Partition == c.Partition })
			fmt.Fprintf(&sc.out, "abandon p%d: %s\n", c.Partition, c.Reason)
		case Reopen:
			var lost []string
			for _, v := range c.Lost {
				lost = append(lost, sc.verts[v])
			}
			fmt.Fprintf(&sc.out, "reopen %s: %s lost with %s\n", sc.names(c.Units), strings.Join(lost, " "), sc.cfg.Nodes[c.Node].Name)
		case Differ:
			var steps []string
			for _, v := range c.Steps {
				steps = append(steps, sc.verts[v])
			}
			fmt.Fprintf(&sc.out, "differ on %s: %s\n", sc.cfg.Nodes[c.Node].Name, strings.Join(steps, " "))
		case Finish:
			fmt.Fprintf(&sc.out, "finish %s\n", c.Reason)
			for i, o := range c.Outcomes {
				fmt.Fprintf(&sc.out, "  %s %s", sc.cfg.Units[i].Name, o.State)
				if o.Node != NoNode {
					fmt.Fprintf(&sc.out, " on %s at %s", sc.cfg.Nodes[o.Node].Name, o.At)
				}
				fmt.Fprintf(&sc.out, ", submitted %d", o.Submits)
				if o.Vertex != NoVertex {
					fmt.Fprintf(&sc.out, ", step %s", sc.verts[o.Vertex])
				}
				if o.Reason != "" {
					fmt.Fprintf(&sc.out, ": %s", o.Reason)
				}
				fmt.Fprintln(&sc.out)
			}
		}
	}
	if e, ok := ev.(PartitionEnded); ok {
		sc.open = slices.DeleteFunc(sc.open, func(s Submit) bool { return s.Partition == e.Partition })
	}
}

// stabilize finishes the oldest submission again and again, until none is left.
func (sc *script) stabilize() {
	for len(sc.open) > 0 {
		p := sc.open[0]
		sc.now += time.Second
		for _, u := range p.Units {
			sc.step(UnitBuilt{At: sc.now, Partition: p.Partition, Unit: u})
			if len(sc.open) > 0 && sc.open[0].Partition == p.Partition {
				sc.step(UnitExported{At: sc.now, Partition: p.Partition, Unit: u})
			}
		}
		sc.step(PartitionEnded{At: sc.now, Partition: p.Partition})
	}
}
