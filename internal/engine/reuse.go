package engine

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/imagekey"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/report"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/output"
	"github.com/dbake/dbake/runtime/publish"
	"github.com/dbake/dbake/runtime/registry"
)

// ReuseMode says when an image that was pushed is taken for the one that is asked for.
type ReuseMode int

const (
	ReuseNever  ReuseMode = iota // everything is built
	ReuseAuto                    // when nothing that was asked for would differ, but times in attestations
	ReuseAlways                  // even if attestations that were asked for would differ
)

const (
	// reuseParallel is how many images are looked up at once.
	reuseParallel = 8
	// recordTimeout bounds how long a build that has ended waits until others can
	// know of its images.
	recordTimeout = 20 * time.Second
)

// Images are the images of the targets of a session: their keys, and which of
// them are there already, so that their targets are not built.
type Images struct {
	engine  *Engine
	request *Request
	pushed  pushed

	full *plan.Build // of everything
	keys map[string]imagekey.Key
	kept []kept
}

// kept is a target that is not built.
type kept struct {
	target string
	record imagekey.Record
	export output.Export
	origin map[string]any // what the metadata says of its build
	set    []setName
	why    string // it is left out for this reason; "" when its image is unchanged
}

// setName is a name that an unchanged image has to be given, and a repository of the
// same registry that has the image.
type setName struct{ name, from string }

// reusable returns the only output of a target if that is an image that is pushed; for
// others ok is false. All else that a target writes needs a node, or files of it.
func (im *Images) reusable(t *ir.Target) (e output.Export, ok bool) {
	list, err := output.Exports(t, im.engine.Dir)
	if err != nil || len(list) != 1 || !list[0].Pushed || len(list[0].Names) == 0 || t.NoCache != nil && *t.NoCache {
		return e, false
	}
	if slices.ContainsFunc(t.CacheTo, func(c ir.CacheEntry) bool { return c.Type == "local" }) {
		return e, false
	}
	return list[0], true
}

// mayRest reports whether the nodes may be left alone until it is known that there is something
// to build. It returns what is assumed of them until then.
func (im *Images) mayRest(ctx context.Context, p *ir.Project, n *standby) (*facts, bool) {
	if im.request.Reuse == ReuseNever || n.pool != nil {
		return nil, false
	}
	if !slices.ContainsFunc(p.Targets, func(t *ir.Target) bool { _, ok := im.reusable(t); return ok }) {
		return nil, false
	}
	f, known := n.recall()
	if n.nodes.hasEngine() && !known {
		return nil, false // what a Docker engine can write is not known before it is asked
	}
	if f.hostGateway == "" && slices.ContainsFunc(p.Targets, wantsHostGateway) {
		return nil, false // a Docker engine may know it
	}
	if !n.restRegistry(ctx) {
		return nil, false
	}
	rests := im.pushed.any(ctx)
	n.rest(rests)
	return f, rests
}

// judge names the images of all targets and decides which targets are kept: those that
// have the same image, and those that are unchanged since the state that the request
// names.
func (im *Images) judge(ctx context.Context, full *plan.Build, unchanged map[string]bool) error {
	im.full, im.kept = full, nil
	exports := map[string]output.Export{}
	named := im.request.Keys || im.request.Since != nil // whether keys are wanted
	for _, j := range im.full.Jobs {
		if j.Target.Linked {
			continue
		}
		if e, ok := im.reusable(j.Target); ok {
			exports[j.Target.Name] = e
		}
		// What is built without the cache is what later builds take.
		_, ok := im.recordable(j.Target)
		named = named || ok
	}
	if !named {
		return nil
	}
	var err error
	if im.keys, err = im.engine.imageKeys(ctx, im.full, im.request.Atomic); err != nil {
		return err
	}
	found := make([]*kept, len(im.full.Jobs))
	var eg errgroup.Group
	eg.SetLimit(reuseParallel)
	for i, j := range im.full.Jobs {
		name := j.Target.Name
		if unchanged[name] {
			found[i] = &kept{target: name, why: "not since " + im.request.Since.Name()}
			continue
		}
		e, ok := exports[name]
		if !ok || im.request.Reuse == ReuseNever || im.request.Reach == Offline {
			continue
		}
		k := im.keys[name]
		if k.Unknown != "" || k.Anew {
			continue
		}
		r, ok := im.pushed.find(ctx, k, im.request.Reuse == ReuseAlways)
		if !ok {
			continue
		}
		eg.Go(func() error {
			k := im.lookUp(ctx, name, e, r)
			if k != nil && len(k.set) > 0 && len(j.Target.Gates) > 0 {
				k = nil // its gates decide whether it gets the names, so they are built with it
			}
			if k != nil && !im.pushed.origin(ctx, k, j.Units, im.request.Provenance, im.request.Reuse == ReuseAlways) {
				k = nil
			}
			found[i] = k
			return nil
		})
	}
	_ = eg.Wait() // what is not found is built
	for _, k := range found {
		if k != nil {
			im.kept = append(im.kept, *k)
		}
	}
	return ctx.Err()
}

// imageKeys returns the keys of the images of all targets of a build, by target. Targets
// whose outputs are wrong have none. With withheld, they are those of images that get their
// tags later: their attestations do not hold them.
func (e *Engine) imageKeys(ctx context.Context, b *plan.Build, withheld bool) (map[string]imagekey.Key, error) {
	makeup, err := b.Makeup(ctx, e.memory.Files())
	if err != nil {
		return nil, err
	}
	keys := map[string]imagekey.Key{}
	for _, j := range b.Jobs {
		list, err := output.Exports(j.Target, e.Dir)
		if err != nil {
			continue // the build says so
		}
		var outputs []imagekey.Output
		for _, x := range list {
			if withheld {
				x = x.Withheld()
			}
			outputs = append(outputs, imagekey.Output{Type: x.Type, Attrs: x.Attrs})
		}
		if keys[j.Target.Name], err = imagekey.ForJob(makeup, j, outputs); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// lookUp asks the registry whether the image of a target is where its names are. It
// returns nil when the target has to be built.
func (im *Images) lookUp(ctx context.Context, target string, e output.Export, r imagekey.Record) *kept {
	k := &kept{target: target, record: r, export: e}
	for _, name := range e.Names {
		ref := name
		if e.ByDigest {
			ref = repoOf(name) + "@" + r.Image.Digest.String()
		}
		is, err := im.pushed.digest(ctx, ref, e.Insecure)
		if err == nil && is == r.Image.Digest {
			continue
		}
		from := ""
		if err == nil {
			from, err = im.holder(ctx, name, e, r)
		}
		if err != nil {
			if ctx.Err() == nil && !registry.SpeaksPlainHTTP(err) {
				im.pushed.silent(name, err)
			}
			return nil
		}
		if from == "" {
			return nil // it is gone
		}
		k.set = append(k.set, setName{name, from})
	}
	return k
}

// holder returns a repository in the registry of a name that has the image: that of the
// name, of another name of the target, or one that the image was pushed to. It is ""
// when there is none.
func (im *Images) holder(ctx context.Context, name string, e output.Export, r imagekey.Record) (string, error) {
	repos := []string{repoOf(name)}
	for _, other := range e.Names {
		repos = append(repos, repoOf(other))
	}
	repos = append(repos, r.Repos...)
	seen := map[string]bool{}
	for _, repo := range repos {
		if seen[repo] || domain(repo) != domain(name) {
			continue
		}
		seen[repo] = true
		is, err := im.pushed.digest(ctx, repo+"@"+r.Image.Digest.String(), e.Insecure)
		if err != nil {
			return "", err
		}
		if is == r.Image.Digest {
			return repo, nil
		}
	}
	return "", nil
}

// repoOf returns the repository of a name.
func repoOf(name string) string {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return ref.Name()
}

// remaining returns the targets that are to be built, by name, without those that are only
// linked.
func (im *Images) remaining() map[string]bool {
	left := map[string]bool{}
	for _, j := range im.full.Jobs {
		if !j.Target.Linked {
			left[j.Target.Name] = true
		}
	}
	for _, k := range im.kept {
		delete(left, k.target)
	}
	return left
}

// Idle reports whether nothing is left to build.
func (im *Images) Idle() bool { return len(im.kept) > 0 && len(im.remaining()) == 0 }

// leave returns the build of the targets that are left of b, which is of everything. It returns
// b itself when there is nothing to leave out, or nothing left.
func (im *Images) leave(ctx context.Context, b *plan.Build, known func() plan.Memory) (*plan.Build, error) {
	if len(im.kept) == 0 || im.Idle() {
		return b, nil
	}
	return b.Only(ctx, im.remaining(), known())
}

// leftOf returns the part of a saved plan that is carried out: nothing for targets that are not
// in the build of what is left.
func (im *Images) leftOf(f *report.File, build *plan.Build) *plan.Saved {
	saved := f.SavedPlan()
	if len(im.kept) == 0 {
		return saved
	}
	built := map[string]bool{} // targets
	for _, j := range build.Jobs {
		built[j.Target.Name] = true
	}
	gone := map[string]bool{} // jobs
	for _, t := range f.Targets {
		name := t.Target
		if name == "" {
			name = t.Name
		}
		gone[t.Name] = !built[name]
	}
	saved.Parts = slices.DeleteFunc(saved.Parts, func(p plan.Part) bool { return !built[p.Target] })
	for n := range saved.Nodes {
		var parts [][]string
		for _, names := range saved.Nodes[n].Partitions {
			if names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return gone[name] }); len(names) > 0 {
				parts = append(parts, names)
			}
		}
		saved.Nodes[n].Partitions = parts
	}
	return saved
}

// lacking returns the names that unchanged images lack.
func (im *Images) lacking() []publish.Tag {
	var list []publish.Tag
	for _, k := range im.kept {
		for _, set := range k.set {
			list = append(list, publish.Tag{Target: k.target, Name: set.name, From: set.from, Image: k.record.Image.Digest, Insecure: k.export.Insecure})
		}
	}
	return list
}

// keep gives unchanged images the names that they lack, and returns the ends of all
// targets that are not built. With [Request.Atomic] they have been published with the others.
func (im *Images) keep(ctx context.Context) ([]runtime.JobResult, error) {
	list := make([]runtime.JobResult, len(im.kept))
	errs := make([]error, len(im.kept))
	var eg errgroup.Group
	eg.SetLimit(reuseParallel)
	for i, k := range im.kept {
		eg.Go(func() error {
			list[i], errs[i] = im.keepOne(ctx, k)
			return nil
		})
	}
	_ = eg.Wait() // they report through errs
	return list, errors.Join(errs...)
}

// keepOne is keep for one target.
func (im *Images) keepOne(ctx context.Context, k kept) (runtime.JobResult, error) {
	r := runtime.JobResult{Job: k.target, Target: k.target, State: runtime.Unchanged, Reason: k.why}
	if k.why != "" {
		return r, nil
	}
	for _, set := range k.set {
		if im.request.Atomic {
			break
		}
		if err := im.pushed.write(ctx, set.name, set.from, k.record.Image.Digest, k.export.Insecure); err != nil {
			err = fmt.Errorf("target %s: name its unchanged image %s: %w", k.target, set.name, err)
			r.State, r.Reason, r.Err = runtime.Failed, err.Error(), err
			return r, err
		}
	}
	values := map[string]string{}
	maps.Copy(values, k.record.Values)
	values[exptypes.ExporterImageDigestKey] = k.record.Image.Digest.String()
	values[exptypes.ExporterImageNameKey] = strings.Join(k.export.Names, ",")
	for _, name := range k.export.Names {
		r.Images = append(r.Images, output.Image{Name: name, Digest: k.record.Image.Digest.String(), Place: output.InRegistry})
	}
	r.Metadata = output.Metadata(values)
	maps.Copy(r.Metadata, k.origin)
	return r, nil
}

// addTo adds the ends of targets that were not built to a result, in the order of a
// project. That such a target was built as a part of another one is not reported.
func (im *Images) addTo(result *runtime.Result, p *ir.Project, list []runtime.JobResult) {
	place := map[string]int{}
	for i, t := range p.Targets {
		place[t.Name] = i
	}
	names := map[string]bool{}
	for _, j := range list {
		names[j.Target] = true
	}
	jobs := slices.DeleteFunc(result.Jobs, func(j runtime.JobResult) bool { return names[j.Target] && j.State == runtime.Done })
	result.Jobs = append(jobs, list...)
	slices.SortStableFunc(result.Jobs, func(x, y runtime.JobResult) int { return place[x.Target] - place[y.Target] })
}

// remember records the images that were pushed and whose files are still what they were when
// their keys were made. It records where unchanged images are now. bases has answered for base
// images.
func (im *Images) remember(ctx context.Context, result *runtime.Result, bases *frontend.RegistryResolver, now time.Time) error {
	ctx, stop := context.WithTimeout(ctx, recordTimeout)
	defer stop()
	var more, known imagekey.Records
	for _, k := range im.kept {
		if k.why != "" {
			continue
		}
		r := k.record
		for _, set := range k.set {
			r.Repos = append(slices.Clone(r.Repos), repoOf(set.name))
		}
		r.Repos = slices.Compact(slices.Sorted(slices.Values(r.Repos)))
		if len(k.set) > 0 {
			more.Add(r)
		} else if _, ok := im.pushed.own().Find(im.keys[k.target], im.request.Reuse == ReuseAlways); !ok {
			known.Add(r)
		}
	}
	built := im.pushedNow(result, now)
	last := map[string]imagekey.Key{}
	if len(built) > 0 {
		again, err := im.full.Reread(ctx, im.engine.memory.Files())
		if err != nil {
			return err
		}
		keys, err := im.engine.imageKeys(ctx, again, im.request.Atomic)
		if err != nil {
			return err
		}
		for name, r := range built {
			if keys[name].Same(im.keys[name]) {
				more.Add(r)
				last[name] = im.keys[name]
			}
		}
	}
	if more.Len() > 0 && bases != nil {
		list, documents := bases.Recollect()
		more.Bases.Add(now.Unix(), list, documents)
	}
	images := im.engine.images()
	return errors.Join(images.Add(known), images.SetLast(im.full.Project.Dir, last), im.pushed.record(ctx, more))
}

// pushedNow returns the records of the images that the run has pushed, by target, as far
// as they have keys.
func (im *Images) pushedNow(result *runtime.Result, now time.Time) map[string]imagekey.Record {
	list := map[string]imagekey.Record{}
	whole := map[string]bool{}
	for _, t := range result.Targets() {
		// An image that was held back is there, by its digest, and can be named.
		whole[t.Name] = t.State == runtime.Done || t.State == runtime.Unpublished
	}
	targets := map[string]*ir.Target{}
	for _, j := range im.full.Jobs {
		targets[j.Target.Name] = j.Target
	}
	told := map[string]map[string]any{} // by target, of all its parts
	for _, j := range result.Jobs {
		if told[j.Target] == nil {
			told[j.Target] = map[string]any{}
		}
		maps.Copy(told[j.Target], j.Metadata)
	}
	for _, j := range result.Jobs {
		t, k := targets[j.Target], im.keys[j.Target]
		if t == nil || t.Linked || !whole[j.Target] || k.Digest == "" || k.Unknown != "" {
			continue
		}
		e, ok := im.recordable(t)
		if !ok {
			continue
		}
		r := imagekey.Record{Key: k.Digest, Attested: k.Attested, Target: k.Target, Time: now.Unix(), Values: map[string]string{}, Origin: daemon.OriginOf(told[j.Target], im.request.Provenance != "")}
		for name, v := range j.Metadata {
			if !strings.HasPrefix(name, "containerimage.") {
				continue
			}
			switch v := v.(type) {
			case string:
				r.Values[name] = v
			case json.RawMessage:
				r.Values[name] = base64.StdEncoding.EncodeToString(v)
				if name == exptypes.ExporterImageDescriptorKey && json.Unmarshal(v, &r.Image) != nil {
					r.Image = ocispecs.Descriptor{}
				}
			}
		}
		if r.Image.Digest == "" || r.Image.Digest.String() != r.Values[exptypes.ExporterImageDigestKey] {
			continue
		}
		r.Image = ocispecs.Descriptor{MediaType: r.Image.MediaType, Digest: r.Image.Digest, Size: r.Image.Size}
		for _, name := range e.Names {
			r.Repos = append(r.Repos, repoOf(name))
		}
		slices.Sort(r.Repos)
		r.Repos = slices.Compact(r.Repos)
		r.Trim()
		list[j.Target] = r
	}
	return list
}

// recordable is reusable for a target that may have been built without the cache.
func (im *Images) recordable(t *ir.Target) (output.Export, bool) {
	cached := *t
	cached.NoCache = nil
	return im.reusable(&cached)
}

// Keys returns the keys of the images of all targets, by target. The request must have asked
// for them.
func (im *Images) Keys() map[string]imagekey.Key { return im.keys }

// Unchanged is a target that is not built.
type Unchanged struct {
	Target string
	// Set are the names that its image is to be given.
	Set []string
	// Why says why it is left out when that is not because of its image.
	Why string
}

// ListUnchanged returns the targets that are not built, in the order of the project.
func (im *Images) ListUnchanged() []Unchanged {
	var list []Unchanged
	for _, k := range im.kept {
		u := Unchanged{Target: k.target, Why: k.why}
		for _, set := range k.set {
			u.Set = append(u.Set, set.name)
		}
		list = append(list, u)
	}
	return list
}

// Always returns, by target that pushes its image, why it is built in every run.
func (im *Images) Always() map[string]string {
	list := map[string]string{}
	for _, j := range im.full.Jobs {
		k := im.keys[j.Target.Name]
		if _, ok := im.recordable(j.Target); !ok {
			continue
		}
		switch {
		case k.Unknown != "":
			list[j.Target.Name] = k.Unknown
		case k.Anew || j.Target.NoCache != nil && *j.Target.NoCache:
			list[j.Target.Name] = "the cache is not wanted"
		}
	}
	return list
}

// Last returns, by target, the keys of what was last pushed from this machine. Their lines
// are hashed.
func (im *Images) Last() (map[string]imagekey.Key, error) {
	return im.engine.images().Last(im.full.Project.Dir)
}

// wantsHostGateway reports whether a target has a host whose address is that of the machine
// that it is built on.
func wantsHostGateway(t *ir.Target) bool {
	for _, ips := range t.ExtraHosts {
		if slices.Contains(strings.Split(ips, ","), ir.HostGateway) {
			return true
		}
	}
	return false
}
