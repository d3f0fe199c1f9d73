package simnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/dbake/dbake/internal/pause"
)

// layerPrefix begins the data of every layer.
const layerPrefix = "simulated layer "

// state is a step that some job uses: all that use it share one execution.
type state struct {
	digest   digest.Digest // by which clients know it
	original digest.Digest
	op       *pb.Op
	name     string
	ignore   bool // it ignores the cache
	inputs   []ref

	// These are guarded by process.mu.
	jobs   map[*job]bool
	caches map[*imported]bool
	log    []*controlapi.StatusResponse
	key    digest.Digest // "" until it is known
	flight *flight       // nil while nobody wants it
	result *result       // once it is there
	err    error         // of a failure that stays, as long as the step is used
}

// flight is the work on a state, as long as somebody waits for it.
type flight struct {
	done    chan struct{}
	cancel  context.CancelCauseFunc
	waiters int // guarded by process.mu
	result  *result
	err     error
}

// result is the result of a step.
type result struct {
	text    string // by which the node lists it
	key     digest.Digest
	layers  []digest.Digest
	created time.Time
	// from is where layers are fetched from that are not here; nil when all are.
	from source
}

// source is where layers can be fetched.
type source interface {
	fetch(ctx context.Context, d digest.Digest) ([]byte, error)
}

// output returns one of several results of a step.
func (r *result) output(i int) *result {
	if i == 0 || r == nil {
		return r
	}
	out := *r
	out.layers = append(slices.Clone(r.layers), digest.FromString(fmt.Sprint(layerPrefix, r.key, i)))
	return &out
}

// load finds or makes the states of a definition, and returns its result.
func (j *job) load(def *pb.Definition, caches []*imported) (ref, error) {
	ops := map[digest.Digest]*pb.Op{}
	var last *pb.Op
	for _, dt := range def.Def {
		op := &pb.Op{}
		if err := op.UnmarshalVT(dt); err != nil {
			return ref{}, fmt.Errorf("failed to parse llb proto op: %w", err)
		}
		ops[digest.FromBytes(dt)] = op
		last = op
	}
	if last == nil || len(last.Inputs) == 0 {
		return ref{}, errors.New("invalid LLB with no vertexes")
	}
	p := j.process
	p.mu.Lock()
	defer p.mu.Unlock()
	made := map[digest.Digest]*state{}
	var visit func(d digest.Digest) (*state, error)
	visit = func(d digest.Digest) (*state, error) {
		if st := made[d]; st != nil {
			return st, nil
		}
		op := ops[d]
		if op == nil {
			return nil, fmt.Errorf("invalid missing input digest %s", d)
		}
		if op.Op == nil {
			return nil, errors.New("invalid LLB op: unknown op")
		}
		var inputs []ref
		for _, in := range op.Inputs {
			st, err := visit(digest.Digest(in.Digest))
			if err != nil {
				return nil, err
			}
			inputs = append(inputs, ref{st, int(in.Index)})
		}
		md := def.Metadata[d.String()]
		st := p.state(d, md.GetIgnoreCache(), func() *state {
			return &state{original: d, op: op, name: nameOf(op, md), inputs: inputs}
		})
		st.join(j, caches)
		made[d] = st
		return st, nil
	}
	st, err := visit(digest.Digest(last.Inputs[0].Digest))
	return ref{st, int(last.Inputs[0].Index)}, err
}

// ignoring is under which digest a step is known that ignores the cache, while it is also
// used by somebody for whom it does not.
func ignoring(d digest.Digest) digest.Digest { return digest.FromString(d.String() + "-ignorecache") }

// state returns the state of a step, which make makes unless some job uses it: one that
// ignores the cache serves everybody, one that does not only those who do not mind. p.mu
// is held.
func (p *process) state(d digest.Digest, ignore bool, make func() *state) *state {
	if st := p.states[ignoring(d)]; st != nil {
		return st
	}
	st := p.states[d]
	if st != nil && ignore && !st.ignore {
		d = ignoring(d)
		st = nil
	}
	if st == nil {
		st = make()
		st.digest, st.ignore = d, ignore
		st.jobs, st.caches = map[*job]bool{}, map[*imported]bool{}
		v := st.vertex()
		st.log = append(st.log, &controlapi.StatusResponse{Vertexes: []*controlapi.Vertex{v}})
		p.states[d] = st
	}
	return st
}

// join has a job use a step. It gets all that is known of it. p.mu is held.
func (st *state) join(j *job, caches []*imported) {
	for _, c := range caches {
		st.caches[c] = true
	}
	if st.jobs[j] {
		return
	}
	st.jobs[j] = true
	j.states[st] = true
	for _, s := range st.log {
		j.say(s)
	}
}

func (st *state) vertex() *controlapi.Vertex {
	v := &controlapi.Vertex{Digest: st.digest.String(), Name: st.name}
	for _, in := range st.inputs {
		v.Inputs = append(v.Inputs, in.state.digest.String())
	}
	return v
}

// say reports to all jobs that use a step.
func (p *process) say(st *state, s *controlapi.StatusResponse) {
	p.mu.Lock()
	defer p.mu.Unlock()
	st.log = append(st.log, s)
	for j := range st.jobs {
		j.say(s)
	}
}

// begin reports that work on a step has begun; the function that it returns, that it has
// ended.
func (p *process) begin(st *state) (end func(cached bool, err error)) {
	v := st.vertex()
	v.Started = timestamppb.Now()
	p.say(st, &controlapi.StatusResponse{Vertexes: []*controlapi.Vertex{v}})
	return func(cached bool, err error) {
		v := v.CloneVT()
		v.Completed, v.Cached = timestamppb.Now(), cached
		if err != nil {
			v.Error = err.Error()
		}
		p.say(st, &controlapi.StatusResponse{Vertexes: []*controlapi.Vertex{v}})
	}
}

// run returns the result of a step, which is made unless it is there.
func (p *process) run(ctx context.Context, st *state) (*result, error) {
	p.mu.Lock()
	if st.result != nil || st.err != nil {
		defer p.mu.Unlock()
		return st.result, st.err
	}
	f := st.flight
	if f == nil {
		f = &flight{done: make(chan struct{})}
		var working context.Context
		working, f.cancel = context.WithCancelCause(p.ctx)
		st.flight = f
		p.wg.Go(func() {
			res, err := p.make(working, st)
			p.mu.Lock()
			defer p.mu.Unlock()
			f.result, f.err = res, err
			st.result = res
			if err != nil && working.Err() == nil {
				st.err = err
			}
			if st.flight == f {
				st.flight = nil
			}
			f.cancel(nil)
			close(f.done)
		})
	}
	f.waiters++
	p.mu.Unlock()
	select {
	case <-f.done:
		return f.result, f.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.waiters--; f.waiters == 0 {
		f.cancel(context.Cause(ctx))
		if st.flight == f {
			st.flight = nil // who comes next begins anew
		}
	}
	return nil, context.Cause(ctx)
}

// make looks a step up, and executes it if nobody has its result.
func (p *process) make(ctx context.Context, st *state) (*result, error) {
	if st.op.GetSource() != nil {
		return p.pull(ctx, st)
	}
	key, err := p.keyOf(ctx, st)
	if err != nil {
		return nil, err
	}
	if !st.ignore {
		if res := p.lookup(ctx, st, key); res != nil {
			p.begin(st)(true, nil)
			return res, nil
		}
	}
	inputs := make([]*result, len(st.inputs))
	eg, running := errgroup.WithContext(ctx)
	for i, in := range st.inputs {
		eg.Go(func() error {
			res, err := p.run(running, in.state)
			inputs[i] = res.output(in.output)
			return err
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	res, err := p.execute(ctx, st, key, inputs)
	if err != nil {
		return nil, errdefs.WrapVertex(err, st.digest)
	}
	return res, nil
}

// opDigest is the digest by which a step is looked up, besides its inputs.
func opDigest(op *pb.Op) digest.Digest {
	c := op.CloneVT()
	for _, in := range c.Inputs {
		in.Digest = ""
	}
	dt, err := c.Marshal()
	if err != nil {
		return ""
	}
	return digest.FromBytes(dt)
}

// chain is the key of a step on inputs.
func chain(op digest.Digest, inputs []digest.Digest) digest.Digest {
	var b strings.Builder
	b.WriteString(op.String())
	for _, in := range inputs {
		b.WriteString(" " + in.String())
	}
	return digest.FromString(b.String())
}

// keyOf returns the key by which a step is looked up. Sources have to be read for that.
func (p *process) keyOf(ctx context.Context, st *state) (digest.Digest, error) {
	p.mu.Lock()
	key := st.key
	p.mu.Unlock()
	if key != "" {
		return key, nil
	}
	if st.op.GetSource() != nil {
		res, err := p.run(ctx, st)
		if err != nil {
			return "", err
		}
		return res.key, nil
	}
	keys := make([]digest.Digest, len(st.inputs))
	for i, in := range st.inputs {
		k, err := p.keyOf(ctx, in.state)
		if err != nil {
			return "", err
		}
		keys[i] = chain(k, []digest.Digest{digest.Digest(fmt.Sprint(in.output))})
		if in.output == 0 {
			keys[i] = k
		}
	}
	key = chain(opDigest(st.op), keys)
	p.mu.Lock()
	defer p.mu.Unlock()
	st.key = key
	return key, nil
}

// lookup finds a result on the disk, or in the caches that a step may be taken from.
func (p *process) lookup(ctx context.Context, st *state, key digest.Digest) *result {
	p.disk.mu.Lock()
	res := p.disk.results[key]
	p.disk.mu.Unlock()
	// Of what was found in a cache and not fetched, a build that does not read the cache
	// has nothing.
	if res != nil && p.disk.holds(res) {
		return res
	}
	p.mu.Lock()
	caches := slices.SortedFunc(maps.Keys(st.caches), func(a, b *imported) int { return strings.Compare(a.id, b.id) })
	p.mu.Unlock()
	for _, c := range caches {
		select {
		case <-c.done:
		case <-ctx.Done():
			return nil
		}
		if found := c.results[key]; found != nil {
			res := *found
			res.text = st.recordText()
			p.disk.put(&res)
			return &res
		}
	}
	return nil
}

// put keeps a result.
func (d *disk) put(r *result) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.results[r.key] = r
}

// holds reports whether all layers of a result are here, or were made here.
func (d *disk) holds(r *result) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return r.from == nil || !slices.ContainsFunc(r.layers, func(l digest.Digest) bool { return d.blobs[l] == nil })
}

// pack makes blobs of the layers of a result.
func (d *disk) pack(r *result) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range r.layers {
		d.packs[l] = true
	}
}

// packed reports whether all layers of a result are blobs, here or in a cache.
func (d *disk) packed(r *result) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return r.from != nil || !slices.ContainsFunc(r.layers, func(l digest.Digest) bool { return !d.packs[l] })
}

// fetch has all layers of a result be here.
func (p *process) fetch(ctx context.Context, r *result) error {
	for _, l := range r.layers {
		p.disk.mu.Lock()
		_, here := p.disk.blobs[l]
		p.disk.mu.Unlock()
		if here || r.from == nil {
			continue
		}
		dt, err := r.from.fetch(ctx, l)
		if err != nil {
			return fmt.Errorf("could not fetch content descriptor %s (application/vnd.oci.image.layer.v1.tar+gzip) from remote: %w", l, err)
		}
		p.disk.mu.Lock()
		p.disk.blobs[l] = dt
		p.disk.mu.Unlock()
	}
	return nil
}

// pull reads a source.
func (p *process) pull(ctx context.Context, st *state) (_ *result, err error) {
	end := p.begin(st)
	defer func() { end(false, err) }()
	src := st.op.GetSource()
	kind, what, _ := strings.Cut(src.Identifier, "://")
	var content digest.Digest
	switch kind {
	case "docker-image":
		if err = pause.For(ctx, p.node.options.Timing.Pull); err != nil {
			return nil, err
		}
		content = digest.FromString(src.Identifier)
	case "local":
		if content, err = p.files(ctx, st, what); err != nil {
			return nil, errdefs.WrapVertex(err, st.digest)
		}
	default:
		return nil, errdefs.WrapVertex(fmt.Errorf("unsupported source %s", src.Identifier), st.digest)
	}
	res := &result{text: st.recordText(), key: content, created: time.Now()}
	p.disk.add(res, content)
	p.mu.Lock()
	defer p.mu.Unlock()
	st.key = res.key
	return res, nil
}

// add gives a result a layer of its own.
func (d *disk) add(r *result, content digest.Digest) {
	dt := []byte(layerPrefix + content.String())
	d.mu.Lock()
	defer d.mu.Unlock()
	l := digest.FromBytes(dt)
	d.blobs[l] = dt
	r.layers = append(r.layers, l)
}

// files asks a session for a directory, and returns a key of its content.
func (p *process) files(ctx context.Context, st *state, name string) (digest.Digest, error) {
	p.mu.Lock()
	session := ""
	for j := range st.jobs {
		session = max(session, j.session)
	}
	p.mu.Unlock()
	caller, err := p.caller(ctx, session)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "simnode-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	attr := func(key string) (list []string) {
		_ = json.Unmarshal([]byte(st.op.GetSource().Attrs[key]), &list) // absent is none
		return list
	}
	err = filesync.FSSync(ctx, caller, filesync.FSSendRequestOpt{
		Name: name, IncludePatterns: attr(pb.AttrIncludePatterns), ExcludePatterns: attr(pb.AttrExcludePatterns),
		FollowPaths: attr(pb.AttrFollowPaths), DestDir: dir,
	})
	if err != nil {
		return "", err
	}
	sum := digest.Canonical.Digester()
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		dt, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(sum.Hash(), "%s %d %s\n", strings.TrimPrefix(path, dir), len(dt), dt)
		return err
	})
	return sum.Digest(), err
}

// recordText is the description that BuildKit gives to the result of a step.
func (st *state) recordText() string {
	if e := st.op.GetExec(); e != nil {
		return "mount / from exec " + strings.Join(e.GetMeta().GetArgs(), " ")
	}
	return st.name
}

// execute carries out a step.
func (p *process) execute(ctx context.Context, st *state, key digest.Digest, inputs []*result) (_ *result, err error) {
	if st.op.GetPassthrough() != nil {
		return &result{text: st.recordText(), key: key}, nil
	}
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	end := p.begin(st)
	defer func() { end(false, err) }()
	for _, in := range inputs {
		if err := p.fetch(ctx, in); err != nil {
			return nil, err
		}
	}
	b := Behavior{}
	args := st.op.GetExec().GetMeta().GetArgs()
	if st.op.GetExec() != nil {
		b = behave(args)
		b.Took += p.node.options.Timing.Step
	}
	if slow := p.node.options.Slow; slow > 0 {
		b.Took = time.Duration(float64(b.Took) * slow)
	}
	for _, line := range b.Prints {
		p.say(st, &controlapi.StatusResponse{Logs: []*controlapi.VertexLog{{Vertex: st.digest.String(), Stream: 1, Msg: []byte(line + "\n"), Timestamp: timestamppb.Now()}}})
	}
	if err := pause.For(ctx, b.Took); err != nil {
		return nil, err
	}
	if sick := p.node.sickness(); sick != nil && st.op.GetExec() != nil {
		return nil, sick
	}
	p.disk.mu.Lock()
	if b.Flaky > 0 && p.disk.rand.Float64() < b.Flaky {
		b.Exit = 1
	}
	p.disk.mu.Unlock()
	if b.Exit != 0 {
		p.node.note(Execution{Vertex: st.original, Name: st.name, At: time.Now()})
		return nil, exitError(args, b.Exit)
	}
	res := &result{text: st.recordText(), key: key, created: time.Now()}
	content := []digest.Digest{}
	for i, in := range inputs {
		content = append(content, digest.FromString(fmt.Sprint(in.layers)))
		if i == parent(st.op) {
			res.layers = slices.Clone(in.layers)
		}
	}
	p.disk.mu.Lock()
	if b.Random {
		content = append(content, digest.Digest(fmt.Sprint(p.disk.rand.Uint64())))
	}
	p.disk.mu.Unlock()
	p.disk.add(res, chain(opDigest(st.op), content))
	p.disk.put(res)
	p.node.note(Execution{Vertex: st.original, Name: st.name, Layer: res.layers[len(res.layers)-1], At: time.Now()})
	return res, nil
}

// parent is the input on whose layers those of a step stand; -1 for none.
func parent(op *pb.Op) int {
	switch {
	case op.GetExec() != nil:
		for _, m := range op.GetExec().Mounts {
			if m.Dest == pb.RootMount {
				return int(m.Input)
			}
		}
	case op.GetFile() != nil:
		actions := op.GetFile().Actions
		at := slices.IndexFunc(actions, func(a *pb.FileAction) bool { return a.Output == 0 })
		for at >= 0 {
			in := int(actions[at].Input)
			if in < len(op.Inputs) {
				return in
			}
			at = in - len(op.Inputs)
		}
	}
	return -1
}

// nameOf is how clients see a step.
func nameOf(op *pb.Op, md *pb.OpMetadata) string {
	if name := md.GetDescription()["llb.customname"]; name != "" {
		return name
	}
	switch {
	case op.GetSource() != nil:
		return op.GetSource().Identifier
	case op.GetExec() != nil:
		return strings.Join(op.GetExec().GetMeta().GetArgs(), " ")
	case op.GetFile() != nil:
		return "file"
	}
	return "vertex"
}
