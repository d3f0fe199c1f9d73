package runtime

import (
	"context"
	"fmt"
	"slices"
	"strings"

	bkclient "github.com/moby/buildkit/client"

	"github.com/dbake/dbake/compiler/ir"
)

// exportVertex starts the name of the vertex that writes a cache, in BuildKit's status, and
// exportGHA is the whole name where that is the cache of GitHub Actions.
const (
	exportVertex = "exporting cache to "
	exportGHA    = "exporting to GitHub Actions Cache"
)

// cacheTarget returns where a vertex writes a cache to, by its name. ok reports whether it
// is such a vertex.
func cacheTarget(vertex string) (where string, ok bool) {
	if vertex == exportGHA {
		return "the cache of GitHub Actions", true
	}
	return strings.CutPrefix(vertex, exportVertex)
}

// unwritten are the caches that targets write with their outputs and that could not be
// written, by output. With ignore-error=true the outputs succeed all the same, and nothing
// else reports it. It belongs to the loop.
type unwritten map[outputOf]unwrittenCaches

// spareOutput is the number of the solve that writes the caches of a job which need not be
// written.
const spareOutput = -1

// divideCaches divides caches into those that an output is written with and those that need
// not be written. Inline caches are parts of images.
func divideCaches(caches []bkclient.CacheOptionsEntry) (with, spare []bkclient.CacheOptionsEntry) {
	for _, c := range caches {
		if c.Type != ir.TypeInline && (ir.CacheEntry{Type: c.Type, Attrs: c.Attrs}).MayFail() {
			spare = append(spare, c)
		} else {
			with = append(with, c)
		}
	}
	return with, spare
}

// spareCaches reports how the writing of caches went that need not be written.
type spareCaches struct {
	from *solveSource // nil when there were none
	err  error
}

// fail notes that caches which need not be written were not, and why. It overrides the node's
// own reports.
func (x unwritten) fail(c spareCaches) {
	if c.err != nil {
		x[outputOf{c.from.job, c.from.output}] = unwrittenCaches{from: c.from, faults: []string{fmt.Sprintf("the cache cannot be written: %v", c.err)}}
	}
}

// unwrittenCaches are those of one output; only its last try counts.
type unwrittenCaches struct {
	from   *solveSource
	faults []string
}

// outputOf names an output of a job.
type outputOf struct {
	job    string
	number int
}

// note keeps why caches could not be written, according to the status of a solve. An export
// that was ended has not failed: who ends one reports why.
func (x unwritten) note(from *solveSource, st *bkclient.SolveStatus) {
	if from == nil || from.job == "" {
		return
	}
	key := outputOf{from.job, from.output}
	kept := x[key]
	if kept.from != from {
		kept = unwrittenCaches{from: from}
	}
	for _, v := range st.Vertexes {
		if where, ok := cacheTarget(v.Name); ok && v.Error != "" && !strings.HasSuffix(v.Error, context.Canceled.Error()) {
			kept.faults = appendNew(kept.faults, fmt.Sprintf("the cache cannot be written to %s: %s", where, v.Error))
		}
	}
	x[key] = kept
}

// of returns why caches of a job could not be written.
func (x unwritten) of(job string) []string {
	var faults []string
	for of, kept := range x {
		if of.job == job {
			faults = append(faults, kept.faults...)
		}
	}
	slices.Sort(faults)
	return faults
}
