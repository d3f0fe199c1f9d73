package runtime

import (
	"context"
	"errors"
	"fmt"
	"strings"

	bkclient "github.com/moby/buildkit/client"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/pause"
	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/sched"
)

// errNodeLost is the cause of work that ends because its node is gone.
var errNodeLost = errors.New("node lost")

// carryOut starts the work of a command and returns the events that follow at once.
func (r *run) carryOut(cmd sched.Command) []sched.Event {
	switch cmd := cmd.(type) {
	case sched.Submit:
		return r.submit(cmd)
	case sched.Export:
		// When the submission has ended, the event that says so is still queued. It has the unit
		// built again.
		if p := r.submissions.at(cmd.Partition); p != nil {
			r.export(p, cmd.Unit)
		}
	case sched.Release:
		if p := r.submissions.at(cmd.Partition); p != nil {
			return r.closeUnit(p, cmd.Unit)
		}
	case sched.Reopen:
		r.reopen(cmd)
	case sched.Differ:
		r.exchange.warnRelics(r.nodes[cmd.Node], cmd.Steps)
	case sched.CancelPartition:
		if p := r.submissions.at(cmd.Partition); p != nil {
			return r.cancel(p, cmd.Reason)
		}
	case sched.Abandon:
		if p := r.submissions.at(cmd.Partition); p != nil {
			r.abandon(p, cmd.Reason)
		}
	}
	return nil
}

// submit starts the solve of some units on a node.
func (r *run) submit(cmd sched.Submit) []sched.Event {
	n := r.nodes[cmd.Node]
	p := r.submissions.add(cmd, n, r.work.targetsOf(cmd.Units), r.bases.of(n.id, cmd.Units))
	jobs := r.work.jobsOf(p.units)
	planned := cmd.Why == sched.Planned && !r.accounts.begun(p.units)
	imports, takes := r.exchange.importsFor(n, jobs, r.caches.importsOf(jobs, planned))
	p.slice.Takes = takes
	if err := p.cut(r.work, r.lost.lookups(n), r.lost.count(n), imports); err != nil {
		return []sched.Event{r.end(p, err.Error(), false)}
	}
	p.slice.Anew = r.work.needAny(p.units, n.flawed) || r.work.needAny(p.units, r.lost.failures(n))
	if cmd.Why != sched.Planned {
		r.reporter.move(cmd, r.sched.Moves())
	}
	for _, u := range p.units {
		if _, ok := r.work.step(u); !ok {
			r.accounts.submit(u, n, r.reporter.since())
			r.reporter.job(u, n, "submitted", nil)
		}
	}
	if events := r.failReaders(p); len(events) > 0 {
		return append(events, r.end(p, events[0].(sched.UnitFailed).Err, false))
	}
	if n.conn == nil {
		n.wait(p)
		return nil
	}
	r.begin(p)
	return nil
}

// begin starts the solve of p through the connection that its node has.
func (r *run) begin(p *submission) {
	p.begin(r.unread.count(p.node))
	name := p.node.info.Name
	r.workers.start(func() {
		defer p.cancel(nil)
		err := pause.For(p.ctx, p.delay)
		if err == nil {
			r.bases.seed(p.ctx, p.conn, name, p.bases, func(text string) {
				r.workers.report(waitMessage{node: p.node, text: text})
			})
			err = p.evaluate(r.workers)
		}
		r.workers.report(solvedMessage{p: p, err: err, cancelled: context.Cause(p.ctx)})
	})
}

// evaluate runs the solve of p until its results are released.
func (p *submission) evaluate(ws *workers) error {
	if len(p.slice.Single) == 0 {
		// Every unit is empty, as FROM scratch alone is: nothing to run.
		ws.report(evaluatedMessage{p})
		select {
		case <-p.release:
			return nil
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		}
	}
	observe := ws.observe(p.node, &solveSource{targets: p.targets})
	return p.conn.Evaluate(p.ctx, p.slice, observe, func() { ws.report(evaluatedMessage{p}) }, p.release)
}

// export writes the outputs of a unit, or sends the result of a step to the other nodes.
func (r *run) export(p *submission, u sched.UnitID) {
	p.beginWrite(u)
	r.activity.export(1)
	known := r.lost.lookups(p.node).present()
	m := exportedMessage{p: p, unit: u}
	write := func() { m.written, m.err = r.exports.write(p, u, known) }
	if step, ok := r.work.step(u); ok {
		send := r.exchange.send(p, step, known, r.workers)
		write = func() { m.sent, m.timing, m.detour, m.err = send() }
	}
	r.workers.start(func() {
		write()
		m.cancelled = p.ctx.Err() != nil
		r.workers.report(m)
	})
}

// cancel asks for an early end of p.
func (r *run) cancel(p *submission, reason string) []sched.Event {
	if p.state == submitted {
		return []sched.Event{r.end(p, reason, false)}
	}
	p.move(unwanted)
	p.cancel(errors.New(reason))
	if p.conn.Broken() {
		// Its worker has reported, or has nothing more to say.
		return []sched.Event{r.end(p, reason, false)}
	}
	return nil
}

// abandon ends p, whose node is gone; the scheduler wants to hear no more of it.
func (r *run) abandon(p *submission, reason string) {
	if p.state != submitted {
		r.exports.cutOff(p)
		p.cancel(fmt.Errorf("%w: %s", errNodeLost, reason))
	}
	r.submissions.end(p)
}

// end closes the books on p; with retryable set, its failed units may be tried again.
func (r *run) end(p *submission, err string, retryable bool) sched.PartitionEnded {
	r.submissions.end(p)
	return sched.PartitionEnded{At: r.reporter.since(), Partition: p.id, Err: err, Retryable: retryable}
}

// settle updates a submission after an event and the scheduler's answer to it. A unit's
// fate is settled when it is exported or has failed, or when it was built and the scheduler
// neither wants its outputs nor will. With no unit left, the solve that holds the results
// may end.
func (r *run) settle(ev sched.Event, cmds []sched.Command) []sched.Event {
	var id sched.PartitionID
	var unit sched.UnitID
	switch ev := ev.(type) {
	case sched.UnitBuilt:
		for _, cmd := range cmds {
			switch cmd {
			case sched.Export{Partition: ev.Partition, Unit: ev.Unit}, sched.Defer{Partition: ev.Partition, Unit: ev.Unit}:
				return nil // the results are still needed
			}
		}
		id, unit = ev.Partition, ev.Unit
	case sched.UnitExported:
		id, unit = ev.Partition, ev.Unit
	case sched.UnitFailed:
		id, unit = ev.Partition, ev.Unit
	default:
		return nil
	}
	p := r.submissions.at(id)
	if p == nil {
		return nil
	}
	return r.closeUnit(p, unit)
}

// closeUnit notes that the results of a unit are needed no longer. With the last unit of its
// submission, the solve that holds the results ends.
func (r *run) closeUnit(p *submission, unit sched.UnitID) []sched.Event {
	if !p.settle(unit) {
		return nil
	}
	if !r.caches.shared {
		p.letGo() // its worker reports the end
		return nil
	}
	// Caches are written from these results when all is built.
	p.node.hold(p.letGo)
	return []sched.Event{r.end(p, "", false)}
}

// reopen forgets the outputs of jobs that are to be built again because they rest on lost
// results.
func (r *run) reopen(cmd sched.Reopen) {
	node := r.nodes[cmd.Node]
	var steps, again, keep []string
	rests := map[int]bool{} // jobs that rest on them; true when done
	for _, v := range cmd.Lost {
		if int(v) >= len(r.work.Graph.Vertices) {
			continue
		}
		steps = append(steps, r.work.Graph.Vertices[v].Step)
		for _, j := range r.work.jobsWith(r.work.Graph.Vertices[v]) {
			rests[j] = r.accounts.isDone(j)
		}
	}
	for _, u := range cmd.Units {
		if _, step := r.work.step(u); !step {
			again = append(again, r.accounts.reopen(u, node))
			delete(rests, int(u))
		}
	}
	for j := range r.work.Jobs {
		if rests[j] {
			keep = append(keep, r.accounts.describe(j))
		}
	}
	if len(again)+len(keep) == 0 {
		return // nobody has seen anything of it
	}
	text := fmt.Sprintf("node %s was lost with the only result of %s, which is built again", node.info.Name, strings.Join(steps, ", "))
	if len(again) > 0 {
		text += fmt.Sprintf("; so is what was made with it: %s", strings.Join(again, ", "))
	}
	if len(keep) > 0 {
		text += fmt.Sprintf("; still made with the lost one: %s", strings.Join(keep, ", "))
	}
	r.reporter.warn(text)
}

// fail notes why a unit failed.
func (r *run) fail(p *submission, u sched.UnitID, f failure) sched.Event {
	r.accounts.fail(u, p.node, f)
	return sched.UnitFailed{At: r.reporter.since(), Partition: p.id, Unit: u, Vertex: f.vertex, Err: f.err.Summary(), Retryable: f.retryable, Elsewhere: f.elsewhere, Execution: f.execution, Way: f.way}
}

// statusMessage is progress of a solve.
type statusMessage struct {
	node   *nodeRun
	from   *solveSource
	status *bkclient.SolveStatus
}

func (m statusMessage) take(r *run) []sched.Event {
	n := m.node
	events := append(r.takeUnread(n), r.exchange.noteImports(n, m.status)...)
	r.unwritten.note(m.from, m.status)
	m.status = r.lost.unalias(m.status)
	fresh, changes := n.tracker.observe(m.status, m.from)
	r.reporter.status(n, fresh)
	n.follow(changes, m.status)
	r.reporter.catchUp(n)
	for _, c := range changes {
		v, ok := r.work.vertex[c.vertex]
		if !ok {
			continue
		}
		if c.repeated {
			r.exchange.noteRepetition(n, v)
			continue
		}
		if !c.cached {
			events = append(events, r.noteSources(n, v)...)
		}
		if !c.done {
			events = append(events, sched.VertexStarted{At: r.reporter.since(), Node: n.id, Vertex: v})
			continue
		}
		if !c.cached {
			r.exchange.noteExecution(n, v)
		}
		events = append(events, sched.VertexDone{At: r.reporter.since(), Node: n.id, Vertex: v, Took: c.took, Cached: c.cached})
		for _, p := range r.submissions.of(n) {
			for _, u := range p.reach(c.vertex) {
				events = append(events, r.noteBuilt(p, u)...)
			}
		}
	}
	return events
}

// noteSources notes that a node has the sources of a step that it runs. A source's own report
// does not say so: its first completion only means that its content is known.
func (r *run) noteSources(n *nodeRun, v sched.VertexID) []sched.Event {
	var events []sched.Event
	todo, seen := []sched.VertexID{v}, map[sched.VertexID]bool{}
	for len(todo) > 0 {
		inputs := r.work.Graph.Vertices[todo[0]].Inputs
		todo = todo[1:]
		for _, d := range inputs {
			// The ends of steps are reported; those of vertices that join others are not.
			if in, ok := r.work.vertex[d]; ok && !seen[in] && !r.work.isStep(d) {
				seen[in] = true
				todo = append(todo, in)
				events = append(events, sched.VertexDone{At: r.reporter.since(), Node: n.id, Vertex: in, Cached: true})
			}
		}
	}
	return events
}

// noteBuilt notes that the results of a unit are there.
func (r *run) noteBuilt(p *submission, u sched.UnitID) []sched.Event {
	if p.state == ended || !p.progress(u, built) {
		return nil
	}
	if _, ok := r.work.step(u); !ok {
		r.waves.noteBuilt(u, p.node)
		r.reporter.job(u, p.node, "built", nil)
	}
	return []sched.Event{sched.UnitBuilt{At: r.reporter.since(), Partition: p.id, Unit: u}}
}

// evaluatedMessage reports that every root of a submission is there.
type evaluatedMessage struct{ p *submission }

func (m evaluatedMessage) take(r *run) []sched.Event {
	events := r.takeUnread(m.p.node)
	for _, u := range m.p.units {
		events = append(events, r.noteBuilt(m.p, u)...)
	}
	return events
}

// solvedMessage reports that the solve of a submission has ended.
type solvedMessage struct {
	p         *submission
	err       error
	cancelled error // why the solve was ended early; nil when it was not
	searched  bool  // the node was searched for lost results
	passing   bool  // what was lost was there again too often
}

func (m solvedMessage) take(r *run) []sched.Event {
	p := m.p
	r.reporter.reportSolve(p)
	switch {
	case p.state == ended:
		return nil
	case !p.endSolve(m):
		return nil
	case m.err == nil:
		return []sched.Event{r.end(p, "", false)}
	case p.conn.Broken() && p.state != unwanted:
		if p.node.defers(p.conn, m) {
			return nil
		}
		return []sched.Event{r.end(p, fmt.Sprintf("the connection to node %s broke: %v", p.node.info.Name, context.Cause(p.conn.Ended)), true)}
	case m.cancelled != nil:
		return []sched.Event{r.end(p, m.cancelled.Error(), false)}
	}
	events := r.takeUnread(p.node)
	if r.unread.count(p.node) > p.unread && r.work.isTransfer(m.err) {
		// The next transfer leaves out what made this one fail.
		return append(events, r.end(p, fault.Plain(m.err).Error(), true))
	}
	if !m.searched {
		m.searched = true
		if r.lost.search(p, m.err, p.units, m) {
			return events
		}
	}
	return append(events, m.fail(r)...)
}

// fail ends a submission that could not be solved, and blames its units.
func (m solvedMessage) fail(r *run) []sched.Event {
	p := m.p
	if u := p.units[0]; r.work.onDemand(u) { // such a unit is submitted by itself
		ev := sched.UnitFailed{At: r.reporter.since(), Partition: p.id, Unit: u, Vertex: sched.NoVertex, Err: fault.Plain(m.err).Error()}
		var failed *fault.StepFailed
		if errors.As(fault.Classify(m.err, nil), &failed) {
			// It is executed again, and sent, or fails what waits for it. Nobody else may report
			// this execution.
			f := r.accounts.explain(p.node, m.err)
			ev.Vertex, ev.Err, ev.Execution, ev.Way = f.vertex, f.err.Summary(), f.execution, f.way
		} else {
			r.exchange.warnUnsent(p.node, u, m.err)
		}
		return []sched.Event{ev, r.end(p, ev.Err, false)}
	}
	var events []sched.Event
	f := r.accounts.explain(p.node, m.err)
	f.retryable = f.retryable || m.passing
	for _, u := range p.openUnits() {
		if f.blames(r.work, u) {
			events = append(events, r.fail(p, u, f))
		}
	}
	events = append(events, r.end(p, f.err.Summary(), f.retryable))
	return append(events, r.bar(p.node)...)
}

// exportedMessage reports how writing the outputs of a unit ended.
type exportedMessage struct {
	p       *submission
	unit    sched.UnitID
	written written        // as far as it went
	sent    *ir.CacheEntry // what a step was sent as
	timing  timing         // of that
	detour  error          // why it was not sent through the registry
	err     error
	// cancelled is set when the export ended because its submission was ended.
	cancelled bool
	deferred  bool // it was taken before, and waited for the node
	searched  bool // the node was searched for lost results
	again     bool // what was lost is built again, or is there again
	passing   bool // that has been too often
}

func (m exportedMessage) take(r *run) []sched.Event {
	p := m.p
	if !m.deferred {
		r.activity.export(-1)
		m.deferred = true
	}
	if m.err != nil && p.conn.Broken() {
		if p.state == running && p.node.defers(p.conn, m) {
			return nil
		}
		r.exports.cutOff(p)
	}
	if !m.searched && m.err != nil && !m.cancelled {
		m.searched = true
		if r.lost.search(p, m.err, []sched.UnitID{m.unit}, m) {
			return nil
		}
	}
	solved := p.endWrite(m.unit)
	if p.state == ended {
		r.accounts.warnOfRest(m.written.withheld.Discard())
		return nil
	}
	events := m.note(r)
	if solved != nil {
		events = append(events, solved.take(r)...)
	}
	return events
}

func (m exportedMessage) note(r *run) []sched.Event {
	step, sends := r.work.step(m.unit)
	if m.again {
		r.accounts.warnOfRest(m.written.withheld.Discard())
		return []sched.Event{sched.UnitFailed{
			At: r.reporter.since(), Partition: m.p.id, Unit: m.unit, Vertex: sched.NoVertex, Err: fault.Plain(m.err).Error(), Retryable: true, Again: true,
		}}
	}
	exported := sched.UnitExported{At: r.reporter.since(), Partition: m.p.id, Unit: m.unit}
	if sends {
		if m.detour != nil && !m.cancelled {
			r.exchange.detour(m.p.node, step, m.detour)
		}
		switch {
		case m.cancelled:
			return nil // the end of the solve says why
		case m.err != nil:
			// That is not a failure: a node that needs it builds it.
			return append(r.exchange.noteUnsent(m.p.node, step, m.err), exported)
		}
		return append(r.exchange.noteSent(m.p.node, step, m.sent, m.timing), exported)
	}
	if m.err != nil {
		if len(m.written.responses) > 0 {
			r.accounts.keep(m.unit, m.written)
			r.accounts.drop(m.unit)
		}
		if m.cancelled {
			return nil // the end of the solve says why
		}
		f := r.accounts.explain(m.p.node, m.err)
		f.retryable = f.retryable || m.passing
		events := []sched.Event{r.fail(m.p, m.unit, f)}
		return append(events, r.bar(m.p.node)...)
	}
	m.p.node.succeed()
	r.unwritten.fail(m.written.spare)
	res := r.accounts.finish(m.unit, m.p.node, m.written)
	r.reporter.job(m.unit, m.p.node, "exported", res)
	return []sched.Event{exported}
}
