package runtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	bkclient "github.com/moby/buildkit/client"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/runtime/sched"
)

// errNodeLost is the cause of what ends because its node is gone.
var errNodeLost = errors.New("node lost")

// partitionRun is one submission. It belongs to the loop but for the fields that
// are set before its worker starts.
type partitionRun struct {
	id      sched.PartitionID
	node    *nodeRun
	units   []sched.UnitID
	targets []string // that the units are for
	slice   partition
	bases   []*llbmerge.Vertex // images that it may pull
	delay   time.Duration
	// conn is the connection through which it runs, nil while it waits for one; ctx
	// and cancel are set with it.
	conn    *connection
	cancel  context.CancelCauseFunc
	ctx     context.Context
	release chan struct{} // closed when its results are needed no longer

	open      map[sched.UnitID]bool // units whose fate is not settled
	missing   map[sched.UnitID]int  // roots that a unit waits for; absent = wait for the whole
	waiting   map[digest.Digest][]sched.UnitID
	reported  map[sched.UnitID]bool // UnitBuilt was sent
	failing   map[sched.UnitID]bool // units that read what could not be sent to the node
	exports   int                   // export workers running
	exporting map[sched.UnitID]bool // units whose outputs are not written yet
	unread    int                   // steps that read what its node was not sent, when it began
	solved    *solvedMessage        // kept until the last of them has reported
	unwanted  bool                  // the scheduler asked for its end
	ended     bool                  // PartitionEnded was sent
}

// message is what a worker tells the loop.
type message interface {
	// take notes the message and returns what the scheduler has to know.
	take(r *run) []sched.Event
}

// statusMessage is progress of a solve.
type statusMessage struct {
	node   *nodeRun
	from   *solveSource
	status *bkclient.SolveStatus
}

func (m statusMessage) take(r *run) []sched.Event {
	events := append(r.takeUnread(m.node), r.noteImports(m.node, m.status)...)
	r.noteExports(m.from, m.status)
	r.unalias(m.status)
	fresh, changes := m.node.tracker.observe(m.status, m.from)
	if len(fresh.Vertexes)+len(fresh.Statuses)+len(fresh.Logs)+len(fresh.Warnings) > 0 {
		r.observe(r.statusEvent(m.node, fresh))
	}
	m.node.follow(changes, m.status)
	for _, c := range changes {
		v, ok := r.vertex[c.vertex]
		if !ok {
			continue
		}
		if !c.done {
			events = append(events, sched.VertexStarted{At: r.since(), Node: m.node.id, Vertex: v})
			continue
		}
		if !c.cached {
			r.noteExecution(m.node, v)
		}
		events = append(events, sched.VertexDone{At: r.since(), Node: m.node.id, Vertex: v, Took: c.took, Cached: c.cached})
		for _, p := range r.partitions {
			if p.node == m.node {
				events = append(events, p.rootDone(r, c.vertex)...)
			}
		}
	}
	return events
}

// rootDone reports the units of p whose last root is d.
func (p *partitionRun) rootDone(r *run, d digest.Digest) []sched.Event {
	var events []sched.Event
	for _, u := range p.waiting[d] {
		if p.missing[u]--; p.missing[u] == 0 {
			events = append(events, p.built(r, u)...)
		}
	}
	delete(p.waiting, d)
	return events
}

func (p *partitionRun) built(r *run, u sched.UnitID) []sched.Event {
	if p.reported[u] || p.failing[u] || p.ended {
		return nil
	}
	p.reported[u] = true
	if _, ok := r.step(u); !ok {
		r.noteBuilt(u, p.node)
		r.observe(r.jobEvent(u, p.node, "built"))
	}
	return []sched.Event{sched.UnitBuilt{At: r.since(), Partition: p.id, Unit: u}}
}

// evaluatedMessage says that every root of a partition is there.
type evaluatedMessage struct{ p *partitionRun }

func (m evaluatedMessage) take(r *run) []sched.Event {
	events := r.takeUnread(m.p.node)
	for _, u := range m.p.units {
		events = append(events, m.p.built(r, u)...)
	}
	return events
}

// solvedMessage says that the solve of a partition has ended.
type solvedMessage struct {
	p         *partitionRun
	err       error
	cancelled error // why the solve was ended early; nil when it was not
	searched  bool  // for what its node has lost
}

func (m solvedMessage) take(r *run) []sched.Event {
	p := m.p
	switch {
	case p.ended:
		return nil
	case p.exports > 0:
		p.solved = &m
		return nil
	case m.err == nil:
		return p.end(r, "", false)
	case p.conn.broken() && !p.unwanted:
		if p.defers(m) {
			return nil
		}
		return p.end(r, fmt.Sprintf("the connection to node %s broke: %v", p.node.info.Name, context.Cause(p.conn.ended)), true)
	case m.cancelled != nil:
		return p.end(r, m.cancelled.Error(), false)
	}
	events := r.takeUnread(p.node)
	if len(p.node.unread) > p.unread && r.isTransfer(m.err) {
		// The next transfer leaves out what made this one fail.
		return append(events, p.end(r, plain(m.err).Error(), true)...)
	}
	if !m.searched {
		m.searched = true
		if r.findLost(p, m.err, p.units, m) {
			return events
		}
	}
	if r.onDemand(p.units[0]) {
		return append(events, r.notSent(p, m.err)...) // such a unit is submitted by itself
	}
	f := r.explain(p, m.err)
	for _, u := range p.units {
		if p.open[u] && !p.failing[u] && f.blames(r, u) {
			events = append(events, r.failed(p, u, f))
		}
	}
	events = append(events, p.end(r, f.err.Summary(), f.retryable)...)
	return append(events, r.bar(p.node)...)
}

// defers keeps a message about p, whose connection has ended, until the node is back
// or lost. It reports false when the node is back.
func (p *partitionRun) defers(m message) bool {
	n := p.node
	if n.conn != nil && n.conn != p.conn {
		return false
	}
	n.deferred = append(n.deferred, m)
	return true
}

// failed notes why a unit failed.
func (r *run) failed(p *partitionRun, u sched.UnitID, f failure) sched.Event {
	jobs := []int{int(u)}
	if step, ok := r.step(u); ok {
		v, _ := r.stepVertex(step)
		jobs = r.jobsWith(v)
	}
	for _, j := range jobs {
		r.results[j].Err = f.err
		f.err.Jobs = appendNew(f.err.Jobs, r.Jobs[j].Name)
		if f.vertex == sched.NoVertex {
			f.err.Targets = appendNew(f.err.Targets, r.Jobs[j].Target.Name)
		}
	}
	if f.elsewhere {
		r.noteSick(p.node, f.sickness, jobs)
	}
	return sched.UnitFailed{At: r.since(), Partition: p.id, Unit: u, Vertex: f.vertex, Err: f.err.Summary(), Retryable: f.retryable, Elsewhere: f.elsewhere}
}

// notSent notes that a result could not be sent. Whose step it is fails by itself if it
// was the step.
func (r *run) notSent(p *partitionRun, err error) []sched.Event {
	u := p.units[0]
	step, _ := r.step(u)
	v, _ := r.stepVertex(step)
	if ve := (*bkerrdefs.VertexError)(nil); !errors.As(err, &ve) {
		r.caches.warn(fmt.Sprintf("node %s: %s could not be handed over: %v", p.node.info.Name, v.Step, plain(err)))
	}
	events := []sched.Event{sched.UnitFailed{At: r.since(), Partition: p.id, Unit: u, Vertex: sched.NoVertex, Err: plain(err).Error()}}
	return append(events, p.end(r, plain(err).Error(), false)...)
}

// end closes the books on p.
func (p *partitionRun) end(r *run, err string, retryable bool) []sched.Event {
	p.ended = true
	delete(r.partitions, p.id)
	return []sched.Event{sched.PartitionEnded{At: r.since(), Partition: p.id, Err: err, Retryable: retryable}}
}

// exportedMessage says how the outputs of a unit went.
type exportedMessage struct {
	p         *partitionRun
	unit      sched.UnitID
	images    []Image
	responses []response     // by output, as far as they were written
	sent      *ir.CacheEntry // what a step was sent as
	detour    error          // why it was not sent through the registry
	err       error
	// cancelled is set when the export ended because its partition was ended.
	cancelled bool
	deferred  bool // it was taken before, and waited for the node
	searched  bool // for what its node has lost
	again     bool // that was found, and is built again
}

func (m exportedMessage) take(r *run) []sched.Event {
	if !m.deferred {
		r.busy.exports--
		m.deferred = true
	}
	if !m.p.ended && !m.p.unwanted && m.err != nil && m.p.conn.broken() && m.p.defers(m) {
		return nil
	}
	if m.err != nil && m.p.conn.broken() {
		r.cutOff(m.p)
	}
	if !m.searched && m.err != nil && !m.cancelled {
		m.searched = true
		if r.findLost(m.p, m.err, []sched.UnitID{m.unit}, m) {
			return nil
		}
	}
	delete(m.p.exporting, m.unit)
	m.p.exports--
	if m.p.ended {
		return nil
	}
	events := m.note(r)
	if m.p.exports == 0 && m.p.solved != nil {
		// The scheduler learns of the unit before it learns of the end.
		delete(m.p.open, m.unit)
		events = append(events, m.p.solved.take(r)...)
	}
	return events
}

func (m exportedMessage) note(r *run) []sched.Event {
	if m.again {
		return []sched.Event{sched.UnitFailed{
			At: r.since(), Partition: m.p.id, Unit: m.unit, Vertex: sched.NoVertex, Err: plain(m.err).Error(), Retryable: true, Again: true,
		}}
	}
	if _, ok := r.step(m.unit); ok {
		return r.noteSent(m)
	}
	if m.err != nil {
		if len(m.responses) > 0 { // what was written before it failed
			r.results[m.unit].Images, r.results[m.unit].Metadata = m.images, metadataOf(m.responses)
		}
		if m.cancelled {
			return nil // the end of the solve says why
		}
		events := []sched.Event{r.failed(m.p, m.unit, r.explain(m.p, m.err))}
		return append(events, r.bar(m.p.node)...)
	}
	m.p.node.sick = 0
	res := &r.results[m.unit]
	res.Node, res.State, res.Err = m.p.node.info.Name, Done, nil
	res.Images, res.Metadata = m.images, metadataOf(m.responses)
	m.p.node.jobs = append(m.p.node.jobs, res.Job)
	e := r.jobEvent(m.unit, m.p.node, "exported")
	e.Result = res
	r.observe(e)
	return []sched.Event{sched.UnitExported{At: r.since(), Partition: m.p.id, Unit: m.unit}}
}

// settle notes what an event and the scheduler's answer to it mean for a
// partition. A unit's fate is settled when it is exported or has failed, or when
// it was built and the scheduler neither wants its outputs nor will. With no unit
// left, the solve that holds the results may end.
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
	p := r.partitions[id]
	if p == nil {
		return nil
	}
	delete(p.open, unit)
	if len(p.open) > 0 {
		return nil
	}
	if !r.caches.shared {
		close(p.release) // its worker reports the end
		return nil
	}
	// Caches are written from these results when all is built.
	p.node.held = append(p.node.held, p.release)
	return p.end(r, "", false)
}

// carryOut starts what a command asks for and returns the events that follow at
// once.
func (r *run) carryOut(cmd sched.Command) []sched.Event {
	switch cmd := cmd.(type) {
	case sched.Submit:
		return r.submit(cmd)
	case sched.Export:
		if p := r.partitions[cmd.Partition]; int(cmd.Unit) < len(r.Jobs) {
			r.export(p, cmd.Unit)
		} else {
			r.send(p, cmd.Unit)
		}
	case sched.Reopen:
		r.reopen(cmd)
	case sched.CancelPartition:
		switch p := r.partitions[cmd.Partition]; {
		case p == nil:
		case p.conn == nil:
			return p.end(r, cmd.Reason, false) // it has not begun
		default:
			p.unwanted = true
			p.cancel(errors.New(cmd.Reason))
			if p.conn.broken() {
				// Its worker has reported, or has nothing more to say.
				return p.end(r, cmd.Reason, false)
			}
		}
	case sched.Abandon:
		if p := r.partitions[cmd.Partition]; p != nil {
			if p.conn != nil {
				r.cutOff(p)
				p.cancel(fmt.Errorf("%w: %s", errNodeLost, cmd.Reason))
			}
			p.end(r, "", false)
		}
	}
	return nil
}

// submit starts the solve of some units on a node.
func (r *run) submit(cmd sched.Submit) []sched.Event {
	p := &partitionRun{
		id: cmd.Partition, node: r.nodes[cmd.Node], units: cmd.Units, targets: r.targetsOf(cmd.Units), delay: cmd.Delay,
		release:   make(chan struct{}),
		open:      map[sched.UnitID]bool{},
		missing:   map[sched.UnitID]int{},
		waiting:   map[digest.Digest][]sched.UnitID{},
		reported:  map[sched.UnitID]bool{},
		exporting: map[sched.UnitID]bool{},
	}
	r.partitions[p.id] = p
	if err := r.slice(p); err != nil {
		return p.end(r, err.Error(), false)
	}
	p.bases = r.basesOf(p)
	if e := moveEvent(r, cmd); cmd.Why != sched.Planned && len(e.Jobs) > 0 {
		r.observe(e)
	}
	for _, u := range p.units {
		p.open[u] = true
		if _, ok := r.step(u); ok {
			continue
		}
		r.results[u].Node = p.node.info.Name
		r.observe(r.jobEvent(u, p.node, "submitted"))
	}
	if events := r.failReaders(p); len(events) > 0 {
		return append(events, p.end(r, events[0].(sched.UnitFailed).Err, false)...)
	}
	if p.node.conn == nil {
		p.node.waiting = append(p.node.waiting, p)
		return nil
	}
	r.begin(p)
	return nil
}

// begin starts the solve of p through the connection that its node has.
func (r *run) begin(p *partitionRun) {
	p.conn = p.node.conn
	p.unread = len(p.node.unread)
	p.ctx, p.cancel = context.WithCancelCause(p.conn.ended)
	r.workers.Go(func() error {
		defer p.cancel(nil)
		err := sleep(p.ctx, p.delay)
		if err == nil {
			r.seed(p)
			err = r.evaluate(p)
		}
		r.messages <- solvedMessage{p: p, err: err, cancelled: context.Cause(p.ctx)}
		return nil
	})
}

// evaluate runs the solve of p until its results are released.
func (r *run) evaluate(p *partitionRun) error {
	if len(p.slice.single) == 0 {
		// Every unit is empty, as FROM scratch alone is: nothing to run.
		r.messages <- evaluatedMessage{p}
		select {
		case <-p.release:
			return nil
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		}
	}
	observe := r.observeSolve(p.node, &solveSource{targets: p.targets})
	return p.conn.evaluate(p.ctx, p.slice, observe, func() { r.messages <- evaluatedMessage{p} }, p.release)
}

// jobsOf returns the jobs among units, and those that need the steps among them.
func (r *run) jobsOf(units []sched.UnitID) []plan.Job {
	var jobs []plan.Job
	for _, u := range units {
		step, ok := r.step(u)
		if !ok {
			jobs = append(jobs, r.Jobs[u])
			continue
		}
		v, _ := r.stepVertex(step)
		for _, j := range r.jobsWith(v) {
			jobs = append(jobs, r.Jobs[j])
		}
	}
	return jobs
}

// slice cuts the part of the graph that p needs, and notes the roots by whose end
// its units are known to be built.
func (r *run) slice(p *partitionRun) error {
	var ids []string
	p.slice.imports = r.importsFor(p.node, r.jobsOf(p.units))
	known := r.lookups(p.node)
	for _, u := range p.units {
		if step, ok := r.step(u); ok {
			_, root := r.stepVertex(step)
			def, err := r.Graph.SliceAt(root)
			if err != nil {
				return err
			}
			p.slice.single = append(p.slice.single, known.in(def))
			p.waiting[root.Digest] = append(p.waiting[root.Digest], u)
			p.missing[u]++
			continue
		}
		whole := false
		for _, unit := range r.Jobs[u].Units {
			if len(unit.Definition.GetDef()) == 0 {
				continue
			}
			id := string(unit.ID)
			def, err := r.Graph.Slice(id)
			if err != nil {
				return fmt.Errorf("slice of the graph for %s: %w", id, err)
			}
			p.slice.single = append(p.slice.single, known.in(def))
			ids = append(ids, id)
			root, ok := r.Graph.Root(id)
			if !ok || !r.isStep(root.Digest) {
				// That the key of a source is known does not mean that it is
				// there: only the end of the solve does.
				whole = true
				continue
			}
			p.waiting[root.Digest] = append(p.waiting[root.Digest], u)
			p.missing[u]++
		}
		if whole {
			p.missing[u] = -1
		}
	}
	if len(ids) == 0 || slices.ContainsFunc(p.units, func(u sched.UnitID) bool { return int(u) >= len(r.Jobs) }) {
		return nil
	}
	var err error
	if p.slice.joined, err = r.Graph.Slice(ids...); err != nil {
		return fmt.Errorf("slice of the graph: %w", err)
	}
	known.in(p.slice.joined)
	return nil
}

// export writes the outputs of a unit.
func (r *run) export(p *partitionRun, u sched.UnitID) {
	p.exports++
	r.busy.exports++
	p.exporting[u] = true
	outs, known := r.outputs[u], r.lookups(p.node)
	r.workers.Go(func() error {
		m := exportedMessage{p: p, unit: u}
		m.err = r.writeOutputs(p, u, outs, known, &m)
		m.cancelled = p.ctx.Err() != nil
		r.messages <- m
		return nil
	})
}

// writeOutputs runs one export-only solve for each output.
func (r *run) writeOutputs(p *partitionRun, u sched.UnitID, outs []output, known lookups, m *exportedMessage) error {
	job := r.Jobs[u]
	req, err := r.exportRequest(job, known)
	if err != nil {
		return err
	}
	if len(outs) == 0 && len(req.cacheTo) == 0 {
		return nil
	}
	if len(outs) == 0 {
		_, err := p.conn.export(p.ctx, req, r.observeOutput(p.node, job, 0))
		return err
	}
	for i, out := range outs {
		number := 0
		if len(outs) > 1 {
			number = i + 1
		}
		observe := r.observeOutput(p.node, job, number)
		one := req
		w := out.begin(p.ctx, func(text string) {
			select {
			case r.messages <- noticeMessage{node: p.node, target: job.Target.Name, text: text}:
			case <-p.ctx.Done():
			}
		})
		one.entry, one.place = w.export(), w.place()
		one.load, one.loadEngine = out.load != nil, r.LoadEngine
		if i > 0 {
			one.cacheTo = nil // written once
		}
		resp, err := p.conn.export(p.ctx, one, observe)
		if err == nil {
			err = w.commit()
		}
		if err != nil {
			err = errors.Join(err, w.discard())
			if here := (*OutputError)(nil); errors.As(err, &here) {
				return err
			}
			return fmt.Errorf("write output of type %s: %w", out.entry.Type, err)
		}
		m.images = append(m.images, out.images(resp)...)
		m.responses = append(m.responses, response{pushed: out.pushed, file: out.dest, values: resp})
	}
	return nil
}

// noticeMessage says what an output waits for.
type noticeMessage struct {
	node         *nodeRun
	target, text string
}

func (m noticeMessage) take(r *run) []sched.Event {
	r.observe(WaitEvent{At: r.since(), Node: m.node.info.Name, Text: "target " + m.target + " " + m.text})
	return nil
}

// observeSolve returns what takes the status of one solve in.
func (r *run) observeSolve(n *nodeRun, from *solveSource) func(*bkclient.SolveStatus) {
	return func(st *bkclient.SolveStatus) { r.messages <- statusMessage{node: n, from: from, status: st} }
}

// observeOutput is observeSolve for an output of a job: the number-th from 1 of
// several, or 0 for the only one.
func (r *run) observeOutput(n *nodeRun, job plan.Job, number int) func(*bkclient.SolveStatus) {
	return r.observeSolve(n, &solveSource{
		targets: []string{job.Target.Name}, job: job.Name, export: true, output: number,
		id: fmt.Sprintf("%s\x00%d", job.Name, number),
	})
}

// exportRequest returns what all outputs of a job have in common.
func (r *run) exportRequest(job plan.Job, known lookups) (exportRequest, error) {
	req := exportRequest{provenance: r.Provenance}
	for i, u := range job.Units {
		if i == 0 {
			req.frontend = frontendAttrs(job.Units)
			req.index = u.MultiPlatform
		}
		img, err := r.image(u, known)
		if err != nil {
			return exportRequest{}, err
		}
		req.images = append(req.images, img)
	}
	if len(job.Units) > 0 {
		for _, c := range r.caches.byUnit[job.Units[0].ID] {
			req.cacheTo = append(req.cacheTo, cacheEntry(c))
		}
	}
	return req, nil
}

// sleep waits for d or for the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
