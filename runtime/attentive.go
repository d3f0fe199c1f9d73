package runtime

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
)

const (
	// quietExport is how long an export may report nothing until the node is asked
	// whether the registry answers it, and how long until the next time. If it did
	// answer, that is doubled each time, up to quietMax.
	quietExport = 5 * time.Second
	quietMax    = 30 * time.Second
	// maxSilent is how often in a row the registry may be silent then.
	maxSilent = 3
	// longestQuiet is how long an export may report nothing although the registry answers,
	// and longestQuietCache that for caches alone. A node does not report how much of a
	// layer it has sent, so that a large one looks like one that the registry never takes.
	longestQuiet      = 2 * time.Hour
	longestQuietCache = 30 * time.Minute
	// quietShown is after how long it is shown that an export reports nothing. It is shown
	// again each time that it has taken twice as long.
	quietShown = time.Minute
)

// attentive is a daemon that gives up an export when the registry is silent, or never takes
// what it is sent. The daemon itself pushes without a deadline: a large layer may take long.
// So it is the registry that is asked, by the node, and only while the export reports nothing.
type attentive struct {
	daemon
	// silent returns the registries and services, each with its probe, that do not answer
	// the node within reachTimeout.
	silent func(ctx context.Context, probes map[string]string) []string
	// waits is called when a registry is silent.
	waits func(text string)
	// leaveOut has the node write no more caches to what has not answered.
	leaveOut func(where string)
}

// muteError reports that what an export writes to has not answered for a while, or that it
// answers and the export reports nothing.
type muteError struct {
	where   []string // as cacheHost names it
	silent  time.Duration
	answers bool
}

func (e *muteError) Error() string {
	var names []string
	for _, w := range e.where {
		names = append(names, service(w))
	}
	if e.answers {
		return fmt.Sprintf("nothing was heard for %s of what is sent to %s", e.silent.Round(time.Second), strings.Join(names, ", "))
	}
	return fmt.Sprintf("%s has not answered for %s", strings.Join(names, ", "), e.silent.Round(time.Second))
}

var _ daemon = (*attentive)(nil)

// Unwrap returns the daemon below.
func (d *attentive) Unwrap() daemon { return d.daemon }

// export implements daemon.
func (d *attentive) export(ctx context.Context, req exportRequest, observe func(*bkclient.SolveStatus)) (map[string]string, error) {
	return d.attend(ctx, req, observe, d.daemon.export)
}

// exportCache implements daemon.
func (d *attentive) exportCache(ctx context.Context, req exportRequest, observe func(*bkclient.SolveStatus)) (map[string]string, error) {
	return d.attend(ctx, req, observe, d.daemon.exportCache)
}

type exportFunc func(context.Context, exportRequest, func(*bkclient.SolveStatus)) (map[string]string, error)

func (d *attentive) attend(ctx context.Context, req exportRequest, observe func(*bkclient.SolveStatus), export exportFunc) (map[string]string, error) {
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
		err = &Rejected{mute}
	}
	giveUp(nil)
	<-watched
	if mute != nil {
		for _, c := range req.cacheTo {
			if host := cacheHost(ir.CacheEntry{Type: c.Type, Attrs: c.Attrs}); slices.Contains(mute.where, host) {
				d.leaveOut(host)
			}
		}
	}
	return resp, err
}

// watch gives up when both the export and the registry are silent, or the export is for
// longer than any would be.
func (d *attentive) watch(ctx context.Context, req exportRequest, heard <-chan struct{}, giveUp context.CancelCauseFunc) {
	probes, limit := req.probes(), longestQuiet
	if req.entry == nil {
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
		hosts := d.silent(ctx, probes)
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

// receivers are the registries and services that the export writes to, as cacheHost names
// them, in order.
func (req exportRequest) receivers() []string {
	hosts := slices.Collect(maps.Keys(req.pushes()))
	for _, c := range req.cacheTo {
		if c.Type != cacheLocal && c.Type != ir.TypeInline {
			hosts = append(hosts, cacheHost(ir.CacheEntry{Type: c.Type, Attrs: c.Attrs}))
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// pushes returns a ref in each registry that the output of the export goes to.
func (req exportRequest) pushes() map[string]string {
	refs := map[string]string{}
	if e := req.entry; e != nil && e.Type == bkclient.ExporterImage {
		if push, err := boolAttr(e.Attrs, "push"); err == nil && push {
			for name := range strings.SplitSeq(e.Attrs["name"], ",") {
				if host := registryHost(ir.CacheEntry{Type: cacheRegistry, Attrs: map[string]string{"ref": name}}); host != "" && refs[host] == "" {
					refs[host] = name
				}
			}
		}
	}
	return refs
}

// probes returns the hosts that the export writes to, as cacheHost names them, with a probe
// for each.
func (req exportRequest) probes() map[string]string {
	probes := map[string]string{}
	for host, ref := range req.pushes() {
		probes[host] = imageProbe(ref)
	}
	for _, c := range req.cacheTo {
		e := ir.CacheEntry{Type: c.Type, Attrs: c.Attrs}
		if host, probe := cacheHost(e), cacheProbe(e); probe != "" && probes[host] == "" {
			probes[host] = probe
		}
	}
	return probes
}
