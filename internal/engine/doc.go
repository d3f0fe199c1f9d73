// Package engine takes a definition through all stages of dbake. It is the only
// package that knows all of them, and their order: see [Stage].
//
// An [Engine] is the world that sessions run in, a [Session] one definition on its way.
// Commands differ in how far they go: a definition is printed after [Compile], "dbake plan"
// stops at [Divide], "dbake build" goes to the end, and questions about Dockerfiles are
// answered after [Facts] by [Session.Answer]. Whom a session may ask for facts is its
// [Reach]; the order is the same for all.
//
// Nodes are started when something is to be built. Where images were pushed that may be
// those that are asked for ([Request].Reuse), that is known only after [Reuse]: until
// then Dockerfiles are compiled for what the nodes were when they were last asked, and
// again if they turn out to be something else.
//
// Nothing is printed here: what people should know goes to a [Reporter]. A session is
// used by one goroutine; it owns the nodes that it starts, the connections and what is
// remembered from run to run, and gives them back with [Session.Close].
package engine
