package runtime

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/sched"
)

// work is the work of a run, with answers to the question which step belongs to whom. It
// does not change during a run, so the loop and its workers share it.
type work struct {
	*Build
	units    map[ir.UnitID]*frontend.Unit
	steps    map[ir.UnitID][]digest.Digest // that each unit needs
	images   map[ir.UnitID][]*llbmerge.Vertex
	vertex   map[digest.Digest]sched.VertexID
	ignoring []sched.VertexID  // steps that ignore the cache
	layouts  map[string]string // directories of OCI image layouts, by id

	mu     sync.Mutex
	stepOf map[sched.VertexID][]string // targets whose step it is, once asked for; guarded by mu
}

func newWork(b *Build) *work {
	w := &work{
		Build:   b,
		units:   map[ir.UnitID]*frontend.Unit{},
		steps:   map[ir.UnitID][]digest.Digest{},
		images:  map[ir.UnitID][]*llbmerge.Vertex{},
		vertex:  make(map[digest.Digest]sched.VertexID, len(b.Graph.Vertices)),
		stepOf:  map[sched.VertexID][]string{},
		layouts: maps.Clone(b.Inputs.Layouts),
	}
	if w.layouts == nil {
		w.layouts = map[string]string{}
	}
	for i, v := range b.Graph.Vertices {
		w.vertex[v.Digest] = sched.VertexID(i)
		if v.IgnoreCache {
			w.ignoring = append(w.ignoring, sched.VertexID(i))
		}
		for _, u := range v.Users {
			switch {
			case v.Kind.IsStep():
				w.steps[ir.UnitID(u)] = append(w.steps[ir.UnitID(u)], v.Digest)
			case v.Kind == llbmerge.KindImage:
				w.images[ir.UnitID(u)] = append(w.images[ir.UnitID(u)], v)
			}
		}
	}
	for _, j := range b.Jobs {
		for _, u := range j.Units {
			w.units[u.ID] = u
			maps.Copy(w.layouts, u.OCIStores)
		}
	}
	return w
}

// isStep reports whether a vertex does work on other vertices' results, and is neither a
// source nor a join.
func (w *work) isStep(d digest.Digest) bool {
	v, ok := w.vertex[d]
	return ok && w.Graph.Vertices[v].Kind.IsStep()
}

// isShared reports whether a vertex is of the graph, and not one that a solve has for
// itself.
func (w *work) isShared(d digest.Digest) bool {
	_, ok := w.vertex[d]
	return ok
}

// step returns the number of the step that a unit stands for; ok is false when it
// stands for a job.
func (w *work) step(u sched.UnitID) (step int, ok bool) {
	return int(u) - len(w.Jobs), int(u) >= len(w.Jobs)
}

// stepVertex returns the vertex of a step, and its definition's root.
func (w *work) stepVertex(step int) (*llbmerge.Vertex, llbmerge.Root) {
	v := w.Graph.Vertices[w.Steps[step].Vertex]
	return v, llbmerge.Root{Digest: v.Digest}
}

// needs reports whether a unit needs a step.
func (w *work) needs(u sched.UnitID, v sched.VertexID) bool {
	if step, ok := w.step(u); ok {
		root, _ := w.stepVertex(step)
		return w.Graph.Needs(root.Digest, w.Graph.Vertices[v].Digest)
	}
	users := w.Graph.Vertices[v].Users
	return slices.ContainsFunc(w.Jobs[u].Units, func(x *frontend.Unit) bool { return slices.Contains(users, string(x.ID)) })
}

// needAny reports whether some of the units needs some of the steps.
func (w *work) needAny(units []sched.UnitID, steps []sched.VertexID) bool {
	return slices.ContainsFunc(steps, func(v sched.VertexID) bool {
		return slices.ContainsFunc(units, func(u sched.UnitID) bool { return w.needs(u, v) })
	})
}

// onDemand reports whether a unit only sends a result that a node turned out to need.
func (w *work) onDemand(u sched.UnitID) bool {
	step, ok := w.step(u)
	return ok && w.Steps[step].Node < 0
}

// owners returns the jobs whose step a vertex is: those that need it, but for those
// that have it from a target which they read and which needs it, too.
func (w *work) owners(v *llbmerge.Vertex) []int {
	jobs := w.jobsWith(v)
	names := map[string]bool{}
	for _, j := range jobs {
		names[w.Jobs[j].Target.Name] = true
	}
	return slices.DeleteFunc(jobs, func(j int) bool {
		return slices.ContainsFunc(w.Jobs[j].Target.Links(), func(name string) bool { return names[name] })
	})
}

// stepTargets returns the targets whose step a vertex is.
func (w *work) stepTargets(v sched.VertexID) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	list, ok := w.stepOf[v]
	if !ok {
		for _, j := range w.owners(w.Graph.Vertices[v]) {
			list = appendNew(list, w.Jobs[j].Target.Name)
		}
		w.stepOf[v] = list
	}
	return list
}

// targetsOf returns the targets that units are built for, in the order of the plan.
func (w *work) targetsOf(units []sched.UnitID) []string {
	var jobs []int
	for _, u := range units {
		if step, ok := w.step(u); ok {
			v, _ := w.stepVertex(step)
			jobs = append(jobs, w.owners(v)...)
		} else {
			jobs = append(jobs, int(u))
		}
	}
	slices.Sort(jobs)
	var names []string
	for _, j := range jobs {
		names = appendNew(names, w.Jobs[j].Target.Name)
	}
	return names
}

// jobNames names those of the units that are jobs.
func (w *work) jobNames(units []sched.UnitID) []string {
	var names []string
	for _, u := range units {
		if _, ok := w.step(u); !ok {
			names = append(names, w.Jobs[u].Name)
		}
	}
	return names
}

// jobsWith returns the jobs that need a vertex.
func (w *work) jobsWith(v *llbmerge.Vertex) []int {
	var jobs []int
	for i, j := range w.Jobs {
		if needs(j, v) {
			jobs = append(jobs, i)
		}
	}
	return jobs
}

// source returns the place of a step in the Dockerfile of the first unit whose step
// it is; nil when it has no place.
func (w *work) source(v *llbmerge.Vertex) *ir.SourceError {
	for _, j := range w.owners(v) {
		for _, u := range w.Jobs[j].Units {
			for _, l := range v.Locations {
				if l.Unit != string(u.ID) || l.File == nil || len(l.Ranges) == 0 {
					continue
				}
				file := l.File.CloneVT()
				if u.Dockerfile != "" {
					file.Filename = u.Dockerfile
				}
				var excerpt strings.Builder
				if err := (&bkerrdefs.Source{Info: file, Ranges: l.Ranges}).Print(&excerpt); err != nil {
					continue
				}
				first, last := l.Ranges[0].GetStart(), l.Ranges[len(l.Ranges)-1].GetEnd()
				return &ir.SourceError{
					Range: ir.Range{
						Filename: file.Filename,
						Start:    ir.Pos{Line: int(first.GetLine()), Column: int(first.GetCharacter()) + 1},
						End:      ir.Pos{Line: int(last.GetLine()), Column: int(last.GetCharacter()) + 1},
					},
					Summary: v.Step, Excerpt: excerpt.String(),
				}
			}
		}
	}
	return nil
}

// jobsOf returns the jobs among units, and those that need the steps among them.
func (w *work) jobsOf(units []sched.UnitID) []plan.Job {
	var jobs []plan.Job
	for _, u := range units {
		step, ok := w.step(u)
		if !ok {
			jobs = append(jobs, w.Jobs[u])
			continue
		}
		v, _ := w.stepVertex(step)
		for _, j := range w.jobsWith(v) {
			jobs = append(jobs, w.Jobs[j])
		}
	}
	return jobs
}

// plannedWarm reports whether the plan takes v to be on the node.
func (w *work) plannedWarm(n sched.NodeID, v *llbmerge.Vertex) bool {
	return int(n) < len(w.Sched.Nodes) && slices.Contains(w.Sched.Nodes[n].Warm, w.vertex[v.Digest])
}

// stepChain returns the steps on whose layers those of v stand, the lowest first, and v.
func (w *work) stepChain(v sched.VertexID) []sched.VertexID {
	var list []sched.VertexID
	for {
		x := w.Graph.Vertices[v]
		if !x.Kind.IsStep() {
			break
		}
		list = append(list, v)
		k := plan.LayerParent(x)
		if k < 0 || k >= len(x.Inputs) {
			break
		}
		v = w.vertex[x.Inputs[k]]
	}
	slices.Reverse(list)
	return list
}

// below returns the vertices below v, and of v and these, those that read directories of the
// client as another input than their first.
func (w *work) below(v *llbmerge.Vertex) (all map[digest.Digest]bool, readers []digest.Digest) {
	all = map[digest.Digest]bool{}
	var walk func(v *llbmerge.Vertex)
	walk = func(v *llbmerge.Vertex) {
		reads := false
		for i, d := range v.Inputs {
			in := w.Graph.Vertices[w.vertex[d]]
			reads = reads || i > 0 && in.Kind == llbmerge.KindLocal
			if !all[d] {
				all[d] = true
				walk(in)
			}
		}
		if reads {
			readers = append(readers, v.Digest)
		}
	}
	walk(v)
	return all, readers
}

// emulates returns how many times longer steps take on a node that joined late, by
// platform that it emulates; nil for nodes that the plan knows.
func (w *work) emulates(n sched.NodeID, native ocispecs.Platform) map[string]float64 {
	if int(n) < len(w.Sched.Nodes) && w.Sched.Nodes[n].From == 0 {
		return nil
	}
	slower := map[string]float64{}
	for _, v := range w.Sched.Vertices {
		if p, err := platforms.Parse(v.Platform); v.Platform != "" && err == nil && plan.Emulates(native, p) {
			slower[v.Platform] = plan.Emulation
		}
	}
	return slower
}

// mostRecords is how many records a cache of these units may have before what it has
// kept of earlier builds is dropped: a step has one or two.
func (w *work) mostRecords(units []ir.UnitID) int {
	seen := map[int]bool{}
	for _, u := range units {
		for _, i := range w.Cache.Records[u] {
			seen[i] = true
		}
	}
	return 4*len(seen) + 100
}

// image is the input of an exporter for a unit.
func (w *work) image(u *frontend.Unit, known lookups) (daemon.Content, error) {
	img := daemon.Content{
		Definition: u.Definition, Platform: u.ExportPlatform,
		Metadata:     map[string][]byte{},
		Attestations: u.Attestations,
	}
	if u.Frontend == "" {
		img.Request = u.FrontendAttrs
	}
	if !u.IsEmpty() {
		// The merged graph's form of the unit: its digests are those that were
		// evaluated.
		def, err := w.Graph.Slice(string(u.ID))
		if err != nil {
			return daemon.Content{}, err
		}
		img.Definition = known.in(def)
	}
	for k, v := range u.Metadata {
		img.Metadata[k] = v
	}
	if u.Config != nil {
		img.Metadata[exptypes.ExporterImageConfigKey] = u.Config
	}
	return img, nil
}

// stepsOf returns the steps that units need, each once.
func (w *work) stepsOf(units []ir.UnitID) []digest.Digest {
	var list []digest.Digest
	seen := map[digest.Digest]bool{}
	for _, u := range units {
		for _, d := range w.steps[u] {
			if !seen[d] {
				seen[d] = true
				list = append(list, d)
			}
		}
	}
	return list
}
