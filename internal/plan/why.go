package plan

// Why is the reason why a step has to be executed on a node.
type Why string

// The reasons; the first that holds is given.
const (
	// WhyNoCache: the target asks for it.
	WhyNoCache Why = "cache not wanted"
	// WhyDear: the result is in the registry, and to fetch it would not end sooner.
	WhyDear Why = "built sooner than fetched"
	// WhyPruned: the step was run there, and the result was thrown away.
	WhyPruned Why = "no longer on the node"
	// WhyFiles: the step was run there with other files.
	WhyFiles Why = "changed files"
	// WhySource: the step was run there on another base image or source.
	WhySource Why = "changed base or source"
	// WhyCommand: at its place in the Dockerfile stood another command.
	WhyCommand Why = "edited command"
	// WhyElsewhere: another node holds the result, and its transfer would not end
	// sooner.
	WhyElsewhere Why = "built on another node only"
	// WhyEmpty: nothing is known to be held by the node.
	WhyEmpty Why = "node holds nothing yet"
	// WhyNew: none of the above.
	WhyNew Why = "never built here"
)

// Why returns why vertex i, whose inputs among steps are all held, is not held by node n.
func (b *Build) Why(i, n int, nodes []Node) Why {
	holds, v, name := nodes[n].Holds, b.Graph.Vertices[i], b.Names.list[i]
	switch {
	case v.IgnoreCache:
		return WhyNoCache
	case b.cached[name.result]:
		return WhyDear
	case nodes[n].Lost[name.result]:
		return WhyPruned
	case name.files && holds.Ops[name.op]:
		return WhyFiles
	case name.place != "" && holds.Forms[name.form]:
		return WhySource
	case name.place != "" && holds.Places[name.place]:
		return WhyCommand
	}
	for m, other := range nodes {
		if m != n && other.Holds.Results[name.result] {
			return WhyElsewhere
		}
	}
	if len(holds.Results) == 0 {
		return WhyEmpty
	}
	return WhyNew
}
