package plan

import (
	"encoding/json"
	"io"
	"time"

	"github.com/dbake/dbake/internal/cost"
)

// formatVersion is that of the JSON form; it changes when a field changes its
// meaning or goes.
const formatVersion = 1

// seconds is a duration as JSON has it.
func seconds(d time.Duration) float64 { return d.Seconds() }

type planJSON struct {
	Version    int         `json:"version"`
	Strategy   string      `json:"strategy"`
	Makespan   float64     `json:"makespan_s"`
	LowerBound float64     `json:"lower_bound_s"`
	Single     float64     `json:"single_node_s,omitempty"`
	Proven     bool        `json:"proven_optimal"`
	Nodes      []nodeJSON  `json:"nodes"`
	Targets    []jobJSON   `json:"targets"`
	Stages     []stageJSON `json:"shared_stages"`
	Assumed    []string    `json:"assumed_images,omitempty"`
}

type nodeJSON struct {
	Name       string     `json:"name"`
	Addr       string     `json:"addr,omitempty"`
	Speed      float64    `json:"speed"`
	Slots      int        `json:"slots"`
	Partitions [][]string `json:"partitions"` // target names; each inner list is one solve
	Busy       float64    `json:"busy_s"`
	Finish     float64    `json:"finish_s"`
	Steps      int        `json:"steps"`
}

type jobJSON struct {
	Name   string              `json:"name"`
	Node   string              `json:"node"`
	Done   float64             `json:"done_s"`
	Own    float64             `json:"own_s"`
	Shared float64             `json:"shared_s"`
	Steps  int                 `json:"steps"`
	Warm   int                 `json:"steps_held"`
	From   map[cost.Source]int `json:"costs_from"`
}

type stageJSON struct {
	Name    string   `json:"name"`
	Steps   int      `json:"steps"`
	Cost    float64  `json:"cost_s"`
	Targets []string `json:"targets"`
	Nodes   []string `json:"nodes"`
}

// WriteJSON writes the plan, indented. Times are in seconds since the start of
// the run; costs are those of a node of speed 1.
func (p *Plan) WriteJSON(w io.Writer) error {
	out := planJSON{
		Version: formatVersion, Strategy: p.Strategy,
		Makespan: seconds(p.Makespan), LowerBound: seconds(p.Bound), Single: seconds(p.Single), Proven: p.Proven,
		Stages: []stageJSON{}, Assumed: p.Assumed,
	}
	for n, node := range p.Nodes {
		s := p.Shares[n]
		nj := nodeJSON{
			Name: node.Name, Addr: node.Addr, Speed: node.Speed, Slots: node.Slots, Partitions: [][]string{},
			Busy: seconds(s.Busy), Finish: seconds(s.Finish), Steps: s.Steps,
		}
		for _, part := range s.Partitions {
			var names []string
			for _, j := range part {
				names = append(names, p.Jobs[j].Name)
			}
			nj.Partitions = append(nj.Partitions, names)
		}
		out.Nodes = append(out.Nodes, nj)
	}
	for _, j := range p.Jobs {
		out.Targets = append(out.Targets, jobJSON{
			Name: j.Name, Node: p.Nodes[j.Node].Name, Done: seconds(j.Done),
			Own: seconds(j.Own), Shared: seconds(j.Shared), Steps: j.Steps, Warm: j.Warm, From: j.From,
		})
	}
	for _, s := range p.Stages {
		out.Stages = append(out.Stages, stageJSON{Name: s.Name, Steps: s.Steps, Cost: seconds(s.Cost), Targets: s.Jobs, Nodes: s.Nodes})
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(out)
}
