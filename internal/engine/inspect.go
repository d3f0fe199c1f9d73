package engine

import (
	"context"
	"errors"

	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/nodeset"
)

// NodeState describes one of the nodes of a session.
type NodeState struct {
	daemon.Inspection
	Spec nodeset.Spec
	// Drained says why it is to go, and so gets no work; "" when it is not.
	Drained string
	// Rests is set for a node of this machine that is started when it is needed.
	Rests bool
	// Slots is how many steps it is counted on to run at once; SlotsAssumed, that nobody
	// said so.
	Slots        int
	SlotsAssumed bool
	// Held is how many of the Steps of the definition it holds; Steps is 0 when there
	// is no definition.
	Held, Steps int
}

// Inspect asks the nodes of the session, without starting any, for their properties and,
// with definition, for the results of it that they hold. The stage [Choose] must have been
// done.
func (s *Session) Inspect(ctx context.Context, definition bool) ([]NodeState, error) {
	n := s.standby.nodes
	held := map[string]int{}
	steps := 0
	if definition {
		if err := s.Through(ctx, Divide); err != nil {
			return nil, err
		}
		for _, v := range s.build.Graph.Vertices {
			if v.Kind.IsStep() {
				steps++
			}
		}
		for _, node := range s.plan.Problem.Nodes {
			for _, v := range node.Warm {
				if int(v) < len(s.build.Graph.Vertices) && s.build.Graph.Vertices[v].Kind.IsStep() {
					held[node.Name]++
				}
			}
		}
	}
	marked, err := n.choice.drainMarks().read()
	if err != nil {
		n.warn(err.Error())
	}
	var list []NodeState
	for i, x := range daemon.Inspect(ctx, n.specs) {
		_, drained := marked[n.specs[i].Addr]
		state := NodeState{Inspection: x, Spec: n.specs[i], Rests: x.Err != nil && n.mayRest(n.specs[i]), Held: held[n.specs[i].Name], Steps: steps}
		switch {
		case drained:
			state.Drained = "dbake nodes drain"
		case x.Info.Drains:
			state.Drained = "its label dbake.drain"
		}
		state.Slots, _, state.SlotsAssumed = slots(n.specs[i])
		list = append(list, state)
	}
	return list, nil
}

// Usable reports whether a build would use the node.
func (n NodeState) Usable() bool {
	return n.Drained == "" && (n.Rests || n.Err == nil && len(n.Info.Platforms) > 0)
}

// Health describes in a few words whether a node can be used, and its limits.
func (n NodeState) Health() string {
	switch {
	case n.Drained != "":
		return n.Drained + " says that it is to go, so it gets no work"
	case n.Rests:
		return "started when it is needed"
	case n.Err != nil:
		// Its name and address stand beside it.
		var node *daemon.NodeError
		if errors.As(n.Err, &node) {
			return node.Op + ": " + node.Err.Error()
		}
		return n.Err.Error()
	case n.Info.OwnStore:
		return "no images of type oci, indexes, attestations and caches: the Docker engine's containerd image store is off"
	case len(n.Info.Platforms) == 0:
		return "it says no platform, and gets no work"
	}
	return "ok"
}
