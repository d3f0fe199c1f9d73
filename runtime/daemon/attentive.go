package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	bkclient "github.com/moby/buildkit/client"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/runtime/cacheentry"
	"github.com/dbake/dbake/runtime/fault"
)

const (
	// quietExport is how long an export may report nothing before the node is asked whether the
	// registry answers it, and how long until the next question. Each answer doubles it, up to
	// quietMax.
	quietExport = 5 * time.Second
	quietMax    = 30 * time.Second
	// maxSilent is how often in a row the registry may give no answer.
	maxSilent = 3
	// longestQuiet is how long an export may report nothing although the registry answers, and
	// longestQuietCache that for caches alone. A node does not report how much of a layer it has
	// sent: a large one looks like one that the registry never takes.
	longestQuiet      = 2 * time.Hour
	longestQuietCache = 30 * time.Minute
	// quietShown is how long an export reports nothing before that is shown. It is shown again
	// each time that it has lasted twice as long.
	quietShown = time.Minute
)

// attentive is a daemon that gives up an export when the registry is silent, or never takes
// what it is sent. The daemon itself pushes without a deadline, since a large layer may take
// long. So the node asks the registry, and only while the export reports nothing.
type attentive struct {
	Daemon
	witness Witness
	// waits is called when a registry is silent.
	waits func(text string)
}

// muteError reports that what an export writes to has not answered for a while, or that it
// answers and the export reports nothing.
type muteError struct {
	where   []string // as cacheentry.Server names it
	silent  time.Duration
	answers bool
}

func (e *muteError) Error() string {
	var names []string
	for _, w := range e.where {
		names = append(names, cacheentry.Title(w))
	}
	if e.answers {
		return fmt.Sprintf("sending to %s showed no progress for %s", strings.Join(names, ", "), e.silent.Round(time.Second))
	}
	return fmt.Sprintf("%s has not answered for %s", strings.Join(names, ", "), e.silent.Round(time.Second))
}

var _ Daemon = (*attentive)(nil)

// Unwrap returns the daemon below.
func (d *attentive) Unwrap() Daemon { return d.Daemon }

// Export implements Daemon.
func (d *attentive) Export(ctx context.Context, req ExportRequest, observe func(*bkclient.SolveStatus)) (map[string]string, error) {
	return d.attend(ctx, req, observe, d.Daemon.Export)
}

// ExportCache implements Daemon.
func (d *attentive) ExportCache(ctx context.Context, req ExportRequest, observe func(*bkclient.SolveStatus)) (map[string]string, error) {
	return d.attend(ctx, req, observe, d.Daemon.ExportCache)
}

type exportFunc func(context.Context, ExportRequest, func(*bkclient.SolveStatus)) (map[string]string, error)

func (d *attentive) attend(ctx context.Context, req ExportRequest, observe func(*bkclient.SolveStatus), export exportFunc) (map[string]string, error) {
	if len(req.receivers()) == 0 {
		return export(ctx, req, observe)
	}
	exporting, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	heard := make(chan struct{}, 1)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		d.watch(exporting, req, heard, giveUp)
	}()
	resp, err := export(exporting, req, func(st *bkclient.SolveStatus) {
		select {
		case heard <- struct{}{}:
		default:
		}
		observe(st)
	})
	var mute *muteError
	if err != nil && ctx.Err() == nil && errors.As(context.Cause(exporting), &mute) {
		err = &fault.Rejected{Err: mute}
	}
	giveUp(nil)
	<-watched
	if mute != nil {
		for _, c := range req.CacheTo {
			if host := cacheentry.Server(ir.CacheEntry{Type: c.Type, Attrs: c.Attrs}); slices.Contains(mute.where, host) {
				d.witness.LeaveOut(host)
			}
		}
	}
	return resp, err
}

// watch gives up when both the export and the registry are silent, or when the export is silent
// for longer than any would be.
func (d *attentive) watch(ctx context.Context, req ExportRequest, heard <-chan struct{}, giveUp context.CancelCauseFunc) {
	probes, limit := req.probes(), longestQuiet
	if req.Entry == nil {
		limit = longestQuietCache
	}
	since, silent, wait, show := time.Now(), 0, quietExport, quietShown
	for {
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-heard:
			t.Stop()
			since, silent, wait, show = time.Now(), 0, quietExport, quietShown
			continue
		case <-t.C:
		}
		hosts := d.witness.Silent(ctx, probes)
		if ctx.Err() != nil {
			return
		}
		if len(hosts) == 0 {
			quiet := &muteError{where: req.receivers(), silent: time.Since(since), answers: true}
			if quiet.silent >= limit {
				giveUp(quiet)
				return
			}
			if quiet.silent >= show {
				d.waits(quiet.Error())
				show = 2 * quiet.silent
			}
			silent, wait = 0, min(2*wait, quietMax)
			continue
		}
		silent++
		wait = quietExport
		mute := &muteError{where: hosts, silent: time.Since(since)}
		if silent == maxSilent {
			giveUp(mute)
			return
		}
		d.waits(mute.Error())
	}
}

// receivers returns the registries and services that the export writes to, as cacheentry.Server
// names them, in order.
func (req ExportRequest) receivers() []string {
	hosts := slices.Collect(maps.Keys(req.pushes()))
	for _, c := range req.CacheTo {
		if c.Type != ir.TypeLocal && c.Type != ir.TypeInline {
			hosts = append(hosts, cacheentry.Server(ir.CacheEntry{Type: c.Type, Attrs: c.Attrs}))
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// pushes returns a ref in each registry that the output of the export goes to.
func (req ExportRequest) pushes() map[string]string {
	refs := map[string]string{}
	if e := req.Entry; e != nil && e.Type == bkclient.ExporterImage {
		if push, err := ir.Switch(e.Attrs, "push"); err == nil && push {
			for name := range strings.SplitSeq(e.Attrs["name"], ",") {
				if host := cacheentry.Registry(ir.CacheEntry{Type: ir.TypeRegistry, Attrs: map[string]string{"ref": name}}); host != "" && refs[host] == "" {
					refs[host] = name
				}
			}
		}
	}
	return refs
}

// probes returns a probe for each host that the export writes to. The key is the host, as
// cacheentry.Server names it.
func (req ExportRequest) probes() map[string]string {
	probes := map[string]string{}
	for host, ref := range req.pushes() {
		probes[host] = cacheentry.ImageProbe(ref)
	}
	for _, c := range req.CacheTo {
		e := ir.CacheEntry{Type: c.Type, Attrs: c.Attrs}
		if host, probe := cacheentry.Server(e), cacheentry.Probe(e); probe != "" && probes[host] == "" {
			probes[host] = probe
		}
	}
	return probes
}
