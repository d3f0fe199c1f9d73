package schedfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/dbake/dbake/partition"
)

// Format is the value of the format key in every instance.
const Format = "dbake-sched/1"

// registry is how a result names the registry as the source of a fetch.
const registry = "@registry"

// ErrFormat is wrapped by every error about the contents of a file.
var ErrFormat = errors.New("not a " + Format + " file")

// Instance is a problem with its name and class; both are for people.
type Instance struct {
	Name    string
	Class   string
	Problem partition.Problem
}

type instanceJSON struct {
	Format   string       `json:"format"`
	Name     string       `json:"name"`
	Class    string       `json:"class"`
	Note     string       `json:"note"`
	Nodes    []nodeJSON   `json:"nodes"`
	Network  networkJSON  `json:"network"`
	Vertices []vertexJSON `json:"vertices"`
	Targets  []targetJSON `json:"targets"`
}

type nodeJSON struct {
	Name      string   `json:"name"`
	Speed     float64  `json:"speed"`
	Slots     int      `json:"slots"`
	Platforms []string `json:"platforms"`
	// Emulates holds the platforms that it runs slower by a factor.
	Emulates map[string]float64 `json:"emulates,omitempty"`
	Warm     []string           `json:"warm"`
	// Filled names the cache mounts that it has filled.
	Filled []string `json:"filled,omitempty"`
}

type networkJSON struct {
	Bandwidth float64  `json:"bandwidth_bytes_per_s"`
	Latency   float64  `json:"latency_s"`
	Cached    []string `json:"cached,omitempty"`
	// Links is how many transfers there are at once in each direction, 0 = no limit.
	Links int `json:"links,omitempty"`
}

type vertexJSON struct {
	ID       string   `json:"id"`
	Cost     float64  `json:"cost_s"`
	Bytes    float64  `json:"bytes"`
	Inputs   []string `json:"inputs"`
	Platform string   `json:"platform,omitempty"`
	Once     bool     `json:"once,omitempty"`
	// Mounts are the cache mounts that it works with. Where they are not filled, it takes Cold
	// times as long.
	Mounts []string `json:"mounts,omitempty"`
	Cold   float64  `json:"cold,omitempty"`
}

type targetJSON struct {
	Name      string   `json:"name"`
	Root      string   `json:"root"`
	Platforms []string `json:"platforms,omitempty"`
	After     []string `json:"after,omitempty"`
}

// Read decodes one instance. Unknown keys are ignored; "after" of a target, a list
// of targets that must be done first, "once" of a vertex, which may have one result
// only, its "mounts" and "cold", "filled" of a node and "links" of the network are ours.
func Read(r io.Reader) (Instance, error) {
	var f instanceJSON
	if err := json.NewDecoder(r).Decode(&f); err != nil {
		return Instance{}, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if f.Format != Format {
		return Instance{}, fmt.Errorf("%w: format is %q", ErrFormat, f.Format)
	}
	d := decoder{vertices: make(map[string]partition.VertexID, len(f.Vertices))}
	if err := d.addVertices(f.Vertices); err != nil {
		return Instance{}, err
	}
	if err := d.addNodes(f.Nodes); err != nil {
		return Instance{}, err
	}
	if err := d.setNetwork(f.Network); err != nil {
		return Instance{}, err
	}
	if err := d.addTargets(f.Targets); err != nil {
		return Instance{}, err
	}
	if err := d.problem.Validate(); err != nil {
		return Instance{}, fmt.Errorf("instance %s: %w", f.Name, err)
	}
	return Instance{Name: f.Name, Class: f.Class, Problem: d.problem}, nil
}

// decoder makes a problem of what an instance says, which names vertices and targets by
// text.
type decoder struct {
	problem  partition.Problem
	vertices map[string]partition.VertexID // those that were added
}

// resolve returns the vertices of some names, which stand at a place in the instance.
func (d *decoder) resolve(where string, ids []string) ([]partition.VertexID, error) {
	var out []partition.VertexID
	for _, id := range ids {
		v, ok := d.vertices[id]
		if !ok {
			return nil, fmt.Errorf("%w: %s: unknown vertex %q", ErrFormat, where, id)
		}
		out = append(out, v)
	}
	return out, nil
}

func (d *decoder) addVertices(list []vertexJSON) error {
	for i, v := range list {
		inputs, err := d.resolve("vertex "+v.ID, v.Inputs)
		if err != nil {
			return err
		}
		if _, twice := d.vertices[v.ID]; twice {
			return fmt.Errorf("%w: vertex %q twice", ErrFormat, v.ID)
		}
		if v.Bytes < 0 || v.Bytes > math.MaxInt64/2 {
			return fmt.Errorf("%w: vertex %q: size out of range", ErrFormat, v.ID)
		}
		d.vertices[v.ID] = partition.VertexID(i)
		d.problem.Vertices = append(d.problem.Vertices, partition.Vertex{
			Name: v.ID, Cost: partition.Seconds(v.Cost), Bytes: int64(math.Round(v.Bytes)), Inputs: inputs, Platform: v.Platform, Once: v.Once,
			Mounts: v.Mounts, Cold: v.Cold,
		})
	}
	return nil
}

func (d *decoder) addNodes(list []nodeJSON) error {
	seen := make(map[string]bool, len(list))
	for _, n := range list {
		warm, err := d.resolve("node "+n.Name, n.Warm)
		if err != nil {
			return err
		}
		if seen[n.Name] || len(n.Name) > 0 && n.Name[0] == '@' {
			return fmt.Errorf("%w: bad or second node name %q", ErrFormat, n.Name)
		}
		seen[n.Name] = true
		d.problem.Nodes = append(d.problem.Nodes, partition.Node{
			Name: n.Name, Speed: n.Speed, Slots: n.Slots, Platforms: n.Platforms, Emulates: n.Emulates, Warm: warm, Filled: n.Filled,
		})
	}
	return nil
}

func (d *decoder) setNetwork(n networkJSON) error {
	cached, err := d.resolve("network", n.Cached)
	d.problem.Network = partition.Network{Bandwidth: n.Bandwidth, Latency: partition.Seconds(n.Latency), Cached: cached, Links: n.Links}
	return err
}

func (d *decoder) addTargets(list []targetJSON) error {
	targets := make(map[string]partition.TargetID, len(list))
	for i, t := range list {
		root, err := d.resolve("target "+t.Name, []string{t.Root})
		if err != nil {
			return err
		}
		if _, twice := targets[t.Name]; twice {
			return fmt.Errorf("%w: target %q twice", ErrFormat, t.Name)
		}
		targets[t.Name] = partition.TargetID(i)
		d.problem.Targets = append(d.problem.Targets, partition.Target{Name: t.Name, Root: root[0], Platforms: t.Platforms})
	}
	for i, t := range list {
		for _, name := range t.After {
			first, ok := targets[name]
			if !ok {
				return fmt.Errorf("%w: target %s: after unknown target %q", ErrFormat, t.Name, name)
			}
			d.problem.Targets[i].After = append(d.problem.Targets[i].After, first)
		}
	}
	return nil
}

// Write encodes in; Read gives it back.
func Write(w io.Writer, in Instance) error {
	p := in.Problem
	names := func(ids []partition.VertexID) []string {
		out := []string{}
		for _, v := range ids {
			out = append(out, p.Vertices[v].Name)
		}
		return out
	}
	f := instanceJSON{
		Format: Format, Name: in.Name, Class: in.Class,
		Network: networkJSON{
			Bandwidth: p.Network.Bandwidth, Latency: float64(p.Network.Latency), Cached: names(p.Network.Cached), Links: p.Network.Links,
		},
	}
	for _, v := range p.Vertices {
		f.Vertices = append(f.Vertices, vertexJSON{
			ID: v.Name, Cost: float64(v.Cost), Bytes: float64(v.Bytes), Inputs: names(v.Inputs), Platform: v.Platform, Once: v.Once,
			Mounts: v.Mounts, Cold: v.Cold,
		})
	}
	for _, n := range p.Nodes {
		f.Nodes = append(f.Nodes, nodeJSON{
			Name: n.Name, Speed: n.Speed, Slots: n.Slots, Platforms: n.Platforms, Emulates: n.Emulates, Warm: names(n.Warm), Filled: n.Filled,
		})
	}
	for _, t := range p.Targets {
		target := targetJSON{Name: t.Name, Root: p.Vertices[t.Root].Name, Platforms: t.Platforms}
		for _, d := range t.After {
			target.After = append(target.After, p.Targets[d].Name)
		}
		f.Targets = append(f.Targets, target)
	}
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	if err := e.Encode(f); err != nil {
		return fmt.Errorf("write instance %s: %w", in.Name, err)
	}
	return nil
}

// Result is an assignment in the words of the format, with the claims made for it.
type Result struct {
	Makespan   float64           `json:"makespan_s"`
	LowerBound float64           `json:"lower_bound_s"`
	Assignment map[string]string `json:"assignment"`
	PerNode    []Share           `json:"per_node"`
}

// Share is how a node's work differs from building all it needs in default order.
type Share struct {
	Node  string            `json:"node"`
	Fetch map[string]string `json:"fetch,omitempty"`
	Build []string          `json:"build,omitempty"`
	Order []string          `json:"order,omitempty"`
}

// NewResult puts a plan for p into the words of the format.
func NewResult(p partition.Problem, plan partition.Plan) Result {
	r := Result{
		Makespan: float64(plan.Schedule.Makespan), LowerBound: float64(plan.Bound.Max),
		Assignment: make(map[string]string, len(p.Targets)), PerNode: []Share{},
	}
	for t, n := range plan.Assignment.Node {
		r.Assignment[p.Targets[t].Name] = p.Nodes[n].Name
	}
	for n, s := range plan.Assignment.Shares {
		share := Share{Node: p.Nodes[n].Name}
		for _, f := range s.Fetch {
			if share.Fetch == nil {
				share.Fetch = make(map[string]string, len(s.Fetch))
			}
			from := registry
			if f.From != partition.Registry {
				from = p.Nodes[f.From].Name
			}
			share.Fetch[p.Vertices[f.Vertex].Name] = from
		}
		for _, v := range s.Build {
			share.Build = append(share.Build, p.Vertices[v].Name)
		}
		for _, v := range s.Order {
			share.Order = append(share.Order, p.Vertices[v].Name)
		}
		if share.Fetch != nil || share.Build != nil || share.Order != nil {
			r.PerNode = append(r.PerNode, share)
		}
	}
	return r
}
