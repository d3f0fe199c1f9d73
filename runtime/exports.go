package runtime

import (
	"context"
	"errors"
	"fmt"

	bkclient "github.com/moby/buildkit/client"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/internal/plan"
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
	outputs  [][]output // by job
	divided  []*divided
	putIndex func(ctx context.Context, index registry.Index, insecure bool) (ocispecs.Descriptor, error)
	tags     func(insecure []string) tagStore
	cut      map[int]cutPush // by job
}

func newExports(w *work, c *caches, t *reporter, ws *workers) (*exports, error) {
	x := &exports{
		work: w, caches: c, reporter: t, workers: ws,
		divided: dividedTargets(w.Build), putIndex: w.putIndex, tags: w.openTags, cut: map[int]cutPush{},
	}
	parts := map[int]*divided{} // by job
	for _, d := range x.divided {
		for _, j := range d.jobs {
			parts[j] = d
		}
	}
	for i, j := range w.Jobs {
		outs, err := outputs(j.Target, w.Dir, w.Stdout, w.Load)
		if d := parts[i]; err == nil && d != nil {
			outs, err = d.divide(outs)
		}
		if err != nil {
			return nil, err
		}
		x.outputs = append(x.outputs, outs)
	}
	return x, nil
}

// written is what was written of a job.
type written struct {
	images    []Image
	responses []response // by output
	spare     spareCaches
}

// write has the node of p write the outputs of a job: one export-only solve for each, and
// one for the caches that need not be written, so that these hold up no output when what
// they are written to falls silent. It returns what was written, also when not all of it
// was.
func (x *exports) write(p *submission, u sched.UnitID, known lookups) (w written, err error) {
	job, outs := x.work.Jobs[u], x.outputs[u]
	req, err := x.request(job, known)
	if err != nil {
		return w, err
	}
	var spare []bkclient.CacheOptionsEntry
	req.cacheTo, spare = divideCaches(req.cacheTo)
	if len(outs) == 0 && len(req.cacheTo) > 0 {
		_, err = p.conn.export(p.ctx, req, x.workers.observe(p.node, exportSource(job, 0)))
	}
	for i, out := range outs {
		number := 0
		if len(outs) > 1 {
			number = i + 1
		}
		if i > 0 {
			req.cacheTo = nil // written once
		}
		var resp map[string]string
		if resp, err = x.writeOne(p, job, out, number, req); err != nil {
			break
		}
		w.images = append(w.images, out.images(resp)...)
		w.responses = append(w.responses, response{pushed: out.pushed, file: out.dest, values: resp})
	}
	if err == nil && len(spare) > 0 {
		x.writeSpare(p, job, req, spare, &w)
	}
	return w, err
}

// writeSpare writes the caches of a job that need not be written, and notes how that went.
func (x *exports) writeSpare(p *submission, job plan.Job, req exportRequest, caches []bkclient.CacheOptionsEntry, w *written) {
	req.entry, req.place, req.load, req.provenance, req.cacheTo = nil, "", false, "", caches
	w.spare.from = exportSource(job, spareOutput)
	resp, err := p.conn.export(p.ctx, req, x.workers.observe(p.node, w.spare.from))
	switch manifest := resp[cacheManifest]; {
	case err != nil:
		w.spare.err = plain(err)
	case manifest != "" && len(w.responses) > 0:
		w.responses[0].values[cacheManifest] = manifest
	}
}

// writeOne writes one output: the number-th from 1 of several, or 0 for the only one.
func (x *exports) writeOne(p *submission, job plan.Job, out output, number int, req exportRequest) (map[string]string, error) {
	w := out.begin(p.ctx, func(text string) {
		x.workers.reportWithin(p.ctx, waitMessage{node: p.node, text: "target " + job.Target.Name + " " + text})
	})
	req.entry, req.place = w.export(), w.place()
	req.load, req.loadEngine = out.load != nil, x.work.LoadEngine
	resp, err := p.conn.export(p.ctx, req, x.workers.observe(p.node, exportSource(job, number)))
	if err == nil {
		err = w.commit()
	}
	if err != nil {
		err = errors.Join(err, w.discard())
		if here := (*OutputError)(nil); errors.As(err, &here) {
			return nil, err
		}
		return nil, fmt.Errorf("write output of type %s: %w", out.entry.Type, err)
	}
	return resp, nil
}

// exportSource is the solve for an output of a job, which is numbered as in writeOne, or
// spareOutput.
func exportSource(job plan.Job, number int) *solveSource {
	return &solveSource{
		targets: []string{job.Target.Name}, job: job.Name, export: true, output: number,
		id: fmt.Sprintf("%s\x00%d", job.Name, number),
	}
}

// request returns what all outputs of a job have in common.
func (x *exports) request(job plan.Job, known lookups) (exportRequest, error) {
	req := exportRequest{provenance: x.work.Provenance}
	for i, u := range job.Units {
		if i == 0 {
			req.frontend = frontendAttrs(job.Units)
			req.index = u.MultiPlatform
		}
		img, err := x.work.image(u, known)
		if err != nil {
			return exportRequest{}, err
		}
		req.images = append(req.images, img)
	}
	if len(job.Units) > 0 {
		for _, c := range x.caches.byUnit[job.Units[0].ID] {
			req.cacheTo = append(req.cacheTo, cacheEntry(c))
		}
	}
	return req, nil
}
