package runtime

import (
	"context"
	"errors"
	"fmt"

	bkclient "github.com/moby/buildkit/client"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime/cacheentry"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/layout"
	"github.com/dbake/dbake/runtime/output"
	"github.com/dbake/dbake/runtime/publish"
	"github.com/dbake/dbake/runtime/registry"
	"github.com/dbake/dbake/runtime/sched"
)

// exports are the outputs of a run's jobs: they are written on nodes, the parts of targets
// that several nodes build are joined, and tags that a node may have written after it was
// lost are set right. What is set before the run is shared with workers, the rest belongs
// to the loop.
type exports struct {
	work     *work
	caches   *caches
	reporter *reporter
	workers  *workers
	outputs  [][]output.Output // by job
	dirs     *layout.Locks
	divided  []*divided
	putIndex func(ctx context.Context, index registry.Index, insecure bool) (ocispecs.Descriptor, error)
	tags     func(insecure []string) tagStore
	cut      map[int]cutPush // by job
}

func newExports(w *work, c *caches, t *reporter, ws *workers, dirs *layout.Locks) (*exports, error) {
	x := &exports{
		work: w, dirs: dirs, caches: c, reporter: t, workers: ws,
		divided: dividedTargets(w.Build), putIndex: w.putIndex, tags: w.openTags, cut: map[int]cutPush{},
	}
	parts := map[int]*divided{} // by job
	for _, d := range x.divided {
		for _, j := range d.jobs {
			parts[j] = d
		}
	}
	for i, j := range w.Jobs {
		outs, err := output.All(j.Target, w.Dir, w.Stdout, w.Load)
		if d := parts[i]; err == nil && d != nil {
			outs, err = d.divide(outs)
		} else if err == nil && w.Withhold {
			outs, err = output.Withhold(j.Target, outs)
		}
		if err != nil {
			return nil, err
		}
		x.outputs = append(x.outputs, outs)
	}
	return x, nil
}

// written are the outputs of a job that were written.
type written struct {
	images    []output.Image
	files     []string          // and directories that hold no image, as they were given
	responses []output.Response // by output
	spare     spareCaches
	// withheld is what is to be published of it; nil without [Build.Withhold].
	withheld *output.Withheld
}

// write has the node of p write the outputs of a job: one export-only solve for each, and one
// for the caches that need not be written. These have a solve of their own because a silent
// cache must not hold up an output. It returns the outputs that were written, also when not all
// were.
func (x *exports) write(p *submission, u sched.UnitID, known lookups) (w written, err error) {
	job, outs := x.work.Jobs[u], x.outputs[u]
	req, err := x.request(job, known)
	if err != nil {
		return w, err
	}
	var spare []bkclient.CacheOptionsEntry
	req.CacheTo, spare = divideCaches(req.CacheTo)
	if len(outs) == 0 && (len(req.CacheTo) > 0 || req.Provenance != "") {
		var resp map[string]string
		if resp, err = p.conn.Export(p.ctx, req, x.workers.observe(p.node, exportSource(job, 0))); err == nil {
			w.responses = []output.Response{{Values: resp}} // of a build that has a record, too
		}
	}
	if x.work.Withhold {
		w.withheld = &output.Withheld{}
	}
	for i, out := range outs {
		number := 0
		if len(outs) > 1 {
			number = i + 1
		}
		if i > 0 {
			req.CacheTo = nil // written once
		}
		var resp map[string]string
		var held publish.Held
		if resp, held, err = x.writeOne(p, job, out, number, req); err != nil {
			break
		}
		if out.Withheld != nil {
			w.withheld.Add(job.Target.Name, out, resp, held)
		}
		w.images = append(w.images, out.Images(resp)...)
		if name := out.Files(); name != "" {
			w.files = append(w.files, name)
		}
		w.responses = append(w.responses, output.Response{Pushed: out.Pushed, File: out.Dest, Values: resp})
	}
	if err == nil && len(spare) > 0 {
		x.writeSpare(p, job, req, spare, &w)
	}
	return w, err
}

// writeSpare writes the caches of a job that need not be written, and notes how that went.
func (x *exports) writeSpare(p *submission, job plan.Job, req daemon.ExportRequest, caches []bkclient.CacheOptionsEntry, w *written) {
	req.Entry, req.Place, req.Load, req.Provenance, req.CacheTo = nil, "", false, "", caches
	w.spare.from = exportSource(job, spareOutput)
	resp, err := p.conn.Export(p.ctx, req, x.workers.observe(p.node, w.spare.from))
	switch manifest := resp[cacheentry.ManifestKey]; {
	case err != nil:
		w.spare.err = fault.Plain(err)
	case manifest != "" && len(w.responses) > 0:
		w.responses[0].Values[cacheentry.ManifestKey] = manifest
		if w.withheld != nil && len(w.withheld.Responses) > 0 { // a part of a target has none
			w.withheld.Responses[0].Values[cacheentry.ManifestKey] = manifest
		}
	}
}

// writeOne writes one output. number counts several outputs from 1, and is 0 for the only one.
// held is what is to be published of it on this machine, if it is withheld.
func (x *exports) writeOne(p *submission, job plan.Job, out output.Output, number int, req daemon.ExportRequest) (resp map[string]string, held publish.Held, err error) {
	w := out.Begin(p.ctx, func(text string) {
		x.workers.reportWithin(p.ctx, waitMessage{node: p.node, text: "target " + job.Target.Name + " " + text})
	})
	if err := w.Prepare(); err != nil {
		return nil, nil, errors.Join(err, w.Discard())
	}
	req.Entry, req.Place = w.Export(), w.Place()
	req.Load, req.LoadEngine, req.Unlisted = out.Load != nil, x.work.LoadEngine, out.Withheld != nil
	resp, err = p.conn.Export(p.ctx, req, x.workers.observe(p.node, exportSource(job, number)))
	switch {
	case err != nil:
	case out.Withheld != nil:
		held, err = w.Hold(resp, x.dirs)
	default:
		err = w.Commit()
	}
	if err != nil {
		err = errors.Join(err, w.Discard())
		if here := (*fault.OutputError)(nil); errors.As(err, &here) {
			return nil, nil, err
		}
		if len(req.CacheTo) > 0 && fault.OfCache(err) {
			return nil, nil, fmt.Errorf("write the cache with the output of type %s: %w", out.Entry.Type, err)
		}
		return nil, nil, fmt.Errorf("write output of type %s: %w", out.Entry.Type, err)
	}
	return resp, held, nil
}

// exportSource returns the solve for an output of a job. number is that of writeOne, or
// spareOutput.
func exportSource(job plan.Job, number int) *solveSource {
	return &solveSource{
		targets: []string{job.Target.Name}, job: job.Name, export: true, output: number,
		id: fmt.Sprintf("%s\x00%d", job.Name, number),
	}
}

// request returns the part of the export requests that all outputs of a job have in common.
func (x *exports) request(job plan.Job, known lookups) (daemon.ExportRequest, error) {
	req := daemon.ExportRequest{Provenance: x.work.Provenance}
	for i, u := range job.Units {
		if i == 0 {
			req.Frontend = daemon.FrontendAttrs(job.Units)
			req.Index = u.MultiPlatform
		}
		img, err := x.work.image(u, known)
		if err != nil {
			return daemon.ExportRequest{}, err
		}
		req.Contents = append(req.Contents, img)
	}
	if len(job.Units) > 0 {
		for _, c := range x.caches.byUnit[job.Units[0].ID] {
			req.CacheTo = append(req.CacheTo, cacheentry.ForClient(c))
		}
	}
	return req, nil
}
