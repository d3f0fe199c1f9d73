package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/platforms"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/pause"
	"github.com/dbake/dbake/runtime/cacheentry"
	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/layout"
	"github.com/dbake/dbake/runtime/nodeset"
	"github.com/dbake/dbake/runtime/simnode"
)

// A conformance case says what a daemon does that this package relies on. All are tried on
// the simulated daemon, and as integration tests on a real one.
var conformance = []struct {
	name string
	try  func(c *conformer)
}{
	{"a step runs, and is reported in order", (*conformer).solve},
	{"a step that has run is cached", (*conformer).checkCached},
	{"a step that fails names its exit code and vertex", (*conformer).fails},
	{"a cancelled solve ends, and the node goes on", (*conformer).cancels},
	{"a step that two builds need at once runs once", (*conformer).shares},
	{"a result that ignores the cache is kept while it is held", (*conformer).holds},
	{"what is pruned runs again", (*conformer).prunes},
	{"a cache stands for what ran", (*conformer).imports},
	{"a cache through the client stands for what ran", (*conformer).importsLocal},
	{"a cache that is not there is an error of its vertex alone", (*conformer).absentCache},
	{"a lost layer is found out by who reads it", (*conformer).losesBlob},
	{"an output has the digest that was reported", (*conformer).exports},
	{"an unknown op is refused, and the node goes on", (*conformer).unknownOp},
	{"a directory is read again when it has changed", (*conformer).files},
	{"a build is listed as long as it goes on", (*conformer).lists},
}

// subject is a daemon that the cases are tried on.
type subject struct {
	spec     nodeset.Spec
	registry string // the host of images and caches
	shell    []byte // the program that is sh, sleep and head; a simulated daemon needs none
	// digest returns what a name in the registry stands for, and manifest what that is;
	// lose deletes a blob there.
	digest   func(t *testing.T, ref string) string
	manifest func(t *testing.T, ref string) []byte
	lose     func(t *testing.T, blob string)
}

// conform tries all cases on a daemon.
func conform(t *testing.T, s subject) {
	for i, c := range conformance {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			x := &conformer{T: t, subject: s, salt: fmt.Sprintf("case %d", i), dir: dir}
			x.provide()
			c.try(x)
		})
	}
}

// conformer tries one case.
type conformer struct {
	*testing.T
	subject
	salt string // that no step of another case has
	dir  string // the local source
}

// provide fills the local source with a shell.
func (c *conformer) provide() {
	require.NoError(c, os.MkdirAll(filepath.Join(c.dir, "bin"), 0o755))
	for _, name := range []string{"sh", "sleep", "head"} {
		require.NoError(c, os.WriteFile(filepath.Join(c.dir, "bin", name), c.shell, 0o755))
	}
	require.NoError(c, os.WriteFile(filepath.Join(c.dir, "file"), []byte(c.salt), 0o644))
}

// base is the copy of the local source that steps stand on. As in a build, none stands on
// the source itself: a node knows that by its session only, and a copy by its content.
func (c *conformer) base() llb.State {
	return llb.Scratch().File(llb.Copy(llb.Local("context"), "/", "/"))
}

// run is a step on the base.
func (c *conformer) run(command string) llb.State { return c.then(c.base(), command) }

func (c *conformer) then(st llb.State, command string) llb.State {
	return st.Run(llb.Args([]string{"/bin/sh", "-c", command + "; echo " + c.salt})).Root()
}

func (c *conformer) definition(st llb.State) *pb.Definition {
	c.Helper()
	def, err := st.Marshal(c.Context(), llb.Platform(platforms.DefaultSpec()))
	require.NoError(c, err)
	return def.ToPB()
}

// imageOf is an image of the result of a definition.
func imageOf(def *pb.Definition) Content {
	return Content{Definition: def, Platform: platforms.DefaultSpec()}
}

// top is the digest of the step that a definition is about.
func top(def *pb.Definition) digest.Digest { return digest.FromBytes(def.Def[len(def.Def)-2]) }

// input is the definition of an input of the step that def is about. One made by itself
// could have other digests.
func (c *conformer) input(def *pb.Definition, i int) *pb.Definition {
	c.Helper()
	ops := map[digest.Digest]*pb.Op{}
	for _, dt := range def.Def {
		op := &pb.Op{}
		require.NoError(c, op.UnmarshalVT(dt))
		ops[digest.FromBytes(dt)] = op
	}
	in := ops[top(def)].Inputs[i]
	last, err := (&pb.Op{Inputs: []*pb.Input{in}}).Marshal()
	require.NoError(c, err)
	def = def.CloneVT()
	at := slices.IndexFunc(def.Def, func(dt []byte) bool { return digest.FromBytes(dt).String() == in.Digest })
	def.Def = append(def.Def[:at+1], last)
	return def
}

// connect returns a daemon in a build and session of its own.
func (c *conformer) connect(stores ...string) *solver {
	c.Helper()
	l, err := openLink(c.Context(), c.spec, time.Minute, func(time.Duration) {})
	require.NoError(c, err)
	_, err = l.probe(c.Context(), c.spec)
	require.NoError(c, err)
	in := Inputs{Dirs: map[string]string{"context": c.dir}}
	o := SessionOptions{Inputs: in, Sent: &Transfers{}, Stores: map[string]content.Store{}, Locks: &layout.Locks{}, Unheard: func(string) {}}
	for _, dir := range stores {
		o.Stores[cacheentry.StoreID(dir)] = layout.Store(dir)
	}
	conn, err := l.open(o)
	require.NoError(c, err)
	s := conn.Daemon.(*solver)
	s.asks = func(context.Context, map[string]string) []string { return nil }
	c.Cleanup(func() {
		s.End()
		conn.Stop()
		l.close()
	})
	return s
}

// heard is what was reported of solves.
type heard struct {
	mu       sync.Mutex
	statuses []*bkclient.SolveStatus
	started  chan digest.Digest
}

func newHeard() *heard { return &heard{started: make(chan digest.Digest, 1000)} }

func (h *heard) observe(st *bkclient.SolveStatus) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.statuses = append(h.statuses, st)
	for _, v := range st.Vertexes {
		if v.Started != nil && v.Completed == nil {
			h.started <- v.Digest
		}
	}
}

// of returns what was reported of a vertex, in order: "announced", "started", "completed",
// "cached" or "failed".
func (h *heard) of(d digest.Digest) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []string
	for _, st := range h.statuses {
		for _, v := range st.Vertexes {
			if v.Digest != d {
				continue
			}
			what := "announced"
			switch {
			case v.Error != "":
				what = "failed"
			case v.Cached && v.Completed != nil:
				what = "cached"
			case v.Completed != nil:
				what = "completed"
			case v.Started != nil:
				what = "started"
			}
			if len(list) == 0 || list[len(list)-1] != what {
				list = append(list, what)
			}
		}
	}
	return list
}

// ran reports whether a vertex was executed, as far as the status says.
func (h *heard) ran(d digest.Digest) bool { return slices.Contains(h.of(d), "completed") }

// output is what all steps printed.
func (h *heard) output() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var b strings.Builder
	for _, st := range h.statuses {
		for _, l := range st.Logs {
			b.Write(l.Data)
		}
	}
	return b.String()
}

// evaluate has a daemon evaluate a definition, and ends the build.
func (c *conformer) evaluate(s *solver, def *pb.Definition, imports ...ir.CacheEntry) (*heard, error) {
	h, err := c.within(s, def, imports...)
	s.End() // the end of the build is the end of its reports
	return h, err
}

// within has a daemon evaluate a definition in a build that goes on. As in a run, caches
// are written meanwhile: a later build of the session finds the copy of the source by the
// session, and a cache cannot name it by that.
func (c *conformer) within(s *solver, def *pb.Definition, imports ...ir.CacheEntry) (*heard, error) {
	h := newHeard()
	release := make(chan struct{})
	close(release)
	err := s.Evaluate(c.Context(), Partition{Single: []*pb.Definition{def}, Imports: imports}, h.observe, func() {}, release)
	return h, err
}

// evaluateAlone is evaluate in a build of its own, which does not fail.
func (c *conformer) evaluateAlone(def *pb.Definition, imports ...ir.CacheEntry) *heard {
	c.Helper()
	h, err := c.evaluate(c.connect(), def, imports...)
	require.NoError(c, err)
	return h
}

// prune has the daemon forget what no build uses.
func (c *conformer) prune() {
	c.Helper()
	s := c.connect()
	require.NoError(c, s.client.Prune(c.Context(), nil, bkclient.PruneAll))
}

func (c *conformer) solve() {
	def := c.definition(c.run("echo said"))
	h := c.evaluateAlone(def)
	told := h.of(top(def))
	require.Equal(c, []string{"started", "completed"}, slices.DeleteFunc(told, func(s string) bool { return s == "announced" }))
	require.Contains(c, h.output(), "said\n")
	require.Contains(c, h.output(), c.salt)
}

func (c *conformer) checkCached() {
	def := c.definition(c.run("echo said"))
	require.True(c, c.evaluateAlone(def).ran(top(def)))
	h := c.evaluateAlone(def)
	require.Contains(c, h.of(top(def)), "cached")
	require.NotContains(c, h.output(), "said")
	// What stands on it runs alone.
	more := c.definition(c.then(c.run("echo said"), "echo more"))
	h = c.evaluateAlone(more)
	require.True(c, h.ran(top(more)))
	require.Contains(c, h.of(top(c.input(more, 0))), "cached")
}

func (c *conformer) fails() {
	s := c.connect()
	def := c.definition(c.run("echo before; exit 3"))
	h, err := c.evaluate(s, def)
	var failed *fault.StepFailed
	require.ErrorAs(c, fault.Classify(err, nil), &failed)
	require.Equal(c, "3", failed.ExitCode)
	var vertex *bkerrdefs.VertexError
	require.ErrorAs(c, err, &vertex)
	require.Equal(c, top(def).String(), vertex.Digest)
	require.Equal(c, "failed", h.of(top(def))[len(h.of(top(def)))-1])
	// Another build tries it again.
	h, err = c.evaluate(c.connect(), def)
	require.ErrorAs(c, fault.Classify(err, nil), &failed)
	require.Contains(c, h.output(), "before")
}

func (c *conformer) cancels() {
	s := c.connect()
	def := c.definition(c.run("sleep 600"))
	h := newHeard()
	ctx, cancel := context.WithCancelCause(c.Context())
	done := make(chan error, 1)
	go func() {
		done <- s.Evaluate(ctx, Partition{Single: []*pb.Definition{def}}, h.observe, func() {}, nil)
	}()
	for d := range h.started {
		if d == top(def) {
			break
		}
	}
	why := errors.New("nobody wants it")
	cancel(why)
	require.ErrorIs(c, <-done, why)
	require.NoError(c, s.ping(c.Context()))
	next := c.definition(c.run("echo next"))
	require.True(c, c.evaluateAlone(next).ran(top(next)))
}

func (c *conformer) lists() {
	s, same, other := c.connect(), c.connect(), c.connect()
	s.tag, same.tag, other.tag = "aaaaaaaa", "aaaaaaaa", "bbbbbbbb"
	count := func(s *solver) int {
		n, err := s.Tenants(c.Context())
		require.NoError(c, err)
		return n
	}
	require.Zero(c, count(other))
	h := newHeard()
	ctx, cancel := context.WithCancel(c.Context())
	done := make(chan error, 2)
	for _, command := range []string{"sleep 600", "sleep 601"} {
		def := c.definition(c.run(command))
		go func() {
			done <- s.Evaluate(ctx, Partition{Single: []*pb.Definition{def}}, h.observe, func() {}, nil)
		}()
		for d := range h.started {
			if d == top(def) {
				break
			}
		}
	}
	require.Equal(c, 1, count(other))
	require.Zero(c, count(s))
	require.Zero(c, count(same))
	cancel()
	<-done
	<-done
	s.End()
	for count(other) > 0 { // the daemon may still be ending it
		require.NoError(c, pause.For(c.Context(), 10*time.Millisecond))
	}
}

func (c *conformer) shares() {
	def := c.definition(c.run("echo once; sleep 1"))
	var both sync.WaitGroup
	list := make([]*heard, 2)
	errs := make([]error, 2)
	for i := range list {
		s := c.connect()
		both.Go(func() { list[i], errs[i] = c.evaluate(s, def) })
	}
	both.Wait()
	require.NoError(c, errors.Join(errs...))
	// Both hear of the one execution, or one of them finds its result.
	var times []time.Time
	for _, h := range list {
		for _, st := range h.statuses {
			for _, v := range st.Vertexes {
				if v.Digest == top(def) && v.Completed != nil && !v.Cached {
					times = append(times, *v.Started)
				}
			}
		}
	}
	require.NotEmpty(c, times)
	for _, at := range times {
		require.True(c, at.Equal(times[0]), "%v", times)
	}
}

func (c *conformer) holds() {
	def := c.definition(c.base().Run(llb.Args([]string{"/bin/sh", "-c", "echo fresh; echo " + c.salt}), llb.IgnoreCache).Root())
	s := c.connect()
	first, release := newHeard(), make(chan struct{})
	there, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- s.Evaluate(c.Context(), Partition{Single: []*pb.Definition{def}}, first.observe, func() { close(there) }, release)
	}()
	select {
	case <-there:
	case err := <-done:
		require.NoError(c, err)
	}
	// The same build and another one use the result that is there.
	free := make(chan struct{})
	close(free)
	require.NoError(c, s.Evaluate(c.Context(), Partition{Single: []*pb.Definition{def}}, func(*bkclient.SolveStatus) {}, func() {}, free))
	c.evaluateAlone(def)
	close(release)
	require.NoError(c, <-done)
	s.End()
	require.Equal(c, 1, strings.Count(first.output(), "fresh\n"))
	// Nobody holds it any more.
	require.Contains(c, c.evaluateAlone(def).output(), "fresh\n")
}

func (c *conformer) prunes() {
	def := c.definition(c.run("echo said"))
	c.evaluateAlone(def)
	c.prune()
	require.True(c, c.evaluateAlone(def).ran(top(def)))
}

// chain is two steps, one on the other.
func (c *conformer) chain() (below, above *pb.Definition) {
	above = c.definition(c.then(c.run("head -c 9 /dev/urandom > /below"), "echo above > /above"))
	return c.input(above, 0), above
}

// send writes a cache of results, and returns the import of it.
func (c *conformer) send(s *solver, e ir.CacheEntry, mode string, defs ...*pb.Definition) ir.CacheEntry {
	c.Helper()
	req := ExportRequest{}
	for _, def := range defs {
		req.Contents = append(req.Contents, imageOf(def))
	}
	to := cacheentry.ForClient(e)
	to.Attrs["mode"], to.Attrs["image-manifest"], to.Attrs["oci-mediatypes"] = mode, "true", "true"
	req.CacheTo = []bkclient.CacheOptionsEntry{to}
	resp, err := s.ExportCache(c.Context(), req, func(*bkclient.SolveStatus) {})
	require.NoError(c, err)
	m := cacheentry.Manifest(resp)
	require.NotEmpty(c, m.Digest)
	if e.Type == ir.TypeLocal {
		return ir.CacheEntry{Type: ir.TypeLocal, Attrs: map[string]string{"src": e.Attrs["dest"], "digest": m.Digest.String()}}
	}
	require.Equal(c, m.Digest.String(), c.digest(c.T, e.Attrs["ref"]))
	return e
}

func (c *conformer) inRegistry(name string) ir.CacheEntry {
	return ir.CacheEntry{Type: ir.TypeRegistry, Attrs: map[string]string{"ref": c.registry + "/" + name + ":1"}}
}

func (c *conformer) imports() {
	aside := llb.AddMount("/aside", c.run("head -c 9 /dev/urandom > /beside"), llb.Readonly)
	st := c.run("head -c 9 /dev/urandom > /below").Run(llb.Args([]string{"/bin/sh", "-c", "echo above > /above; echo " + c.salt}), aside)
	above := c.definition(st.Root())
	below, beside := c.input(above, 0), c.input(above, 1)
	s := c.connect()
	_, err := c.within(s, above)
	require.NoError(c, err)
	least := c.send(s, c.inRegistry("least"), "min", above)
	all := c.send(s, c.inRegistry("all"), "max", above)
	s.End()
	c.prune()
	h := c.evaluateAlone(above, least)
	require.Contains(c, h.of(top(above)), "cached")
	require.False(c, h.ran(top(below)))
	// The one cache has the last result and those that it consists of, the other has all.
	for _, x := range []struct {
		of   *pb.Definition
		from ir.CacheEntry
		runs bool
	}{{below, least, false}, {beside, least, true}, {below, all, false}, {beside, all, false}} {
		c.prune()
		h := c.evaluateAlone(x.of, x.from)
		require.Equal(c, x.runs, h.ran(top(x.of)), x.from.Attrs["ref"])
		require.NotEqual(c, x.runs, slices.Contains(h.of(top(x.of)), "cached"), x.from.Attrs["ref"])
	}
}

func (c *conformer) importsLocal() {
	_, above := c.chain()
	dir := c.TempDir()
	s := c.connect()
	_, err := c.within(s, above)
	require.NoError(c, err)
	from := c.send(s, ir.CacheEntry{Type: ir.TypeLocal, Attrs: map[string]string{"dest": dir}}, "min", above)
	s.End()
	c.prune()
	h, err := c.evaluate(c.connect(dir), above, from)
	require.NoError(c, err)
	require.Contains(c, h.of(top(above)), "cached")
}

func (c *conformer) absentCache() {
	def := c.definition(c.run("echo said"))
	h := c.evaluateAlone(def, c.inRegistry("nothing"))
	require.True(c, h.ran(top(def)))
	var said []string
	for _, st := range h.statuses {
		for _, v := range st.Vertexes {
			if strings.HasPrefix(v.Name, cacheentry.ReadVertex) && v.Error != "" {
				said = append(said, v.Name+" "+v.Error)
			}
		}
	}
	require.NotEmpty(c, said)
	require.Contains(c, said[0], cacheentry.ReadVertex+c.registry+"/nothing:1")
	require.Contains(c, said[0], ": not found")
}

func (c *conformer) losesBlob() {
	below, above := c.chain()
	s := c.connect()
	_, err := c.within(s, above)
	require.NoError(c, err)
	from := c.send(s, c.inRegistry("lossy"), "max", above)
	blob := c.lastLayer(s, below)
	s.End()
	c.prune()
	c.lose(c.T, blob)
	// The step is taken to be there, until something reads it.
	s = c.connect()
	h, err := c.within(s, above, from)
	require.NoError(c, err)
	req := ExportRequest{Contents: []Content{imageOf(above)}, Entry: c.push("lossyimage")}
	_, err = s.Export(c.Context(), req, func(*bkclient.SolveStatus) {})
	found, ok := fault.LostBlob(err)
	require.True(c, ok, "%v", err)
	require.Equal(c, blob, found)
	chain := []*pb.Definition{below, above}
	require.Equal(c, 0, s.Unreadable(c.Context(), chain, []ir.CacheEntry{from}, func(*bkclient.SolveStatus) {}))
	s.End()
	require.Contains(c, h.of(top(above)), "cached")
	// A build that does not read the cache has none of it.
	plain := c.evaluateAlone(above)
	require.True(c, plain.ran(top(above)))
	require.True(c, plain.ran(top(below)))
	c.prune()
	// Made to ignore the cache, it is built again.
	again := c.plain(above)
	for _, dt := range again.Def {
		op := &pb.Op{}
		require.NoError(c, op.UnmarshalVT(dt))
		if op.GetExec() != nil {
			again.Metadata[digest.FromBytes(dt).String()] = &pb.OpMetadata{IgnoreCache: true}
		}
	}
	_, err = c.evaluate(c.connect(), again, from)
	require.NoError(c, err)
	require.Equal(c, 2, s.Unreadable(c.Context(), []*pb.Definition{c.plain(below), c.plain(above)}, nil, func(*bkclient.SolveStatus) {}))
}

// plain is a definition that looks every step up.
func (c *conformer) plain(def *pb.Definition) *pb.Definition {
	def = def.CloneVT()
	for d := range def.Metadata {
		def.Metadata[d] = &pb.OpMetadata{}
	}
	return def
}

func (c *conformer) push(name string) *bkclient.ExportEntry {
	return &bkclient.ExportEntry{Type: bkclient.ExporterImage, Attrs: map[string]string{"name": c.registry + "/" + name + ":1", "push": "true", "oci-mediatypes": "true"}}
}

func (c *conformer) exports() {
	_, def := c.chain()
	s := c.connect()
	_, err := c.evaluate(s, def)
	require.NoError(c, err)
	h := newHeard()
	var digests []string
	for _, name := range []string{"one", "two"} {
		resp, err := s.Export(c.Context(), ExportRequest{Contents: []Content{imageOf(def)}, Entry: c.push(name)}, h.observe)
		require.NoError(c, err)
		digests = append(digests, resp[exptypes.ExporterImageDigestKey])
		require.Equal(c, c.digest(c.T, c.registry+"/"+name+":1"), resp[exptypes.ExporterImageDigestKey])
	}
	require.NotEmpty(c, digests[0])
	require.False(c, h.ran(top(def)), "what is there is not built again")
}

func (c *conformer) unknownOp() {
	s := c.connect()
	op, err := (&pb.Op{Inputs: nil}).Marshal()
	require.NoError(c, err)
	last, err := (&pb.Op{Inputs: []*pb.Input{{Digest: digest.FromBytes(op).String()}}}).Marshal()
	require.NoError(c, err)
	_, err = c.evaluate(s, &pb.Definition{Def: [][]byte{op, last}})
	require.Error(c, err)
	var rejected *fault.Rejected
	require.ErrorAs(c, fault.Classify(err, nil), &rejected)
	def := c.definition(c.run("echo said"))
	require.True(c, c.evaluateAlone(def).ran(top(def)))
}

func (c *conformer) files() {
	def := c.definition(c.run("echo said"))
	require.True(c, c.evaluateAlone(def).ran(top(def)))
	require.False(c, c.evaluateAlone(def).ran(top(def)))
	require.NoError(c, os.WriteFile(filepath.Join(c.dir, "file"), []byte("other text"), 0o644))
	require.True(c, c.evaluateAlone(def).ran(top(def)))
}

// TestConformanceSimulated tries the cases on a simulated daemon.
func TestConformanceSimulated(t *testing.T) {
	r := &simnode.Registry{}
	n := simnode.New(simnode.Options{Registry: r})
	t.Cleanup(n.Close)
	conform(t, subject{
		spec: nodeset.Spec{Name: "node", Addr: n.Addr()}, registry: "registry.test",
		digest: func(_ *testing.T, ref string) string {
			d, _ := r.Resolve(ref)
			return d.String()
		},
		manifest: func(_ *testing.T, ref string) []byte {
			d, _ := r.Resolve(ref)
			dt, _ := r.Blob(d)
			return dt
		},
		lose: func(_ *testing.T, blob string) { r.Lose(digest.Digest(blob)) },
	})
}

// lastLayer returns the blob that a step has added to an image, which is pushed for it.
func (c *conformer) lastLayer(s *solver, def *pb.Definition) string {
	c.Helper()
	resp, err := s.Export(c.Context(), ExportRequest{Contents: []Content{imageOf(def)}, Entry: c.push("layers")}, func(*bkclient.SolveStatus) {})
	require.NoError(c, err)
	var m ocispecs.Manifest
	require.NoError(c, json.Unmarshal(c.manifest(c.T, c.registry+"/layers@"+resp[exptypes.ExporterImageDigestKey]), &m))
	return m.Layers[len(m.Layers)-1].Digest.String()
}
