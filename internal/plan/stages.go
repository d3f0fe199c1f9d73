package plan

import "github.com/dbake/dbake/partition"

// WorthStage is the time in seconds at speed 1 from which a step is worth a unit of its own.
const WorthStage = 1

// Stages returns the steps that a plan made during the run may have a node build before what
// stands on them: those that are read together with others, which another node may have to send.
func Stages(p partition.Problem) []Intermediate {
	if len(p.Nodes) < 2 {
		return nil
	}
	var list []Intermediate
	joined := make([]bool, len(p.Vertices)) // what reads it, but for short steps, reads others too
	for v := len(p.Vertices) - 1; v >= 0; v-- {
		x := p.Vertices[v]
		short := x.Cost < WorthStage
		if joined[v] && !short {
			list = append(list, Intermediate{Vertex: v, Node: -1})
		}
		for _, u := range x.Inputs {
			joined[u] = joined[u] || len(x.Inputs) > 1 || short && joined[v]
		}
	}
	return list
}
