package cachestore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/runtime/registry"
)

// Rules decide which caches are wanted. A cache goes when any rule is against it; a rule
// that is zero is against none.
type Rules struct {
	// KeepLast keeps that many of the caches that begin with the same target: the
	// newest, whatever their prefix.
	KeepLast int
	// OlderThan is against caches whose newest result is older.
	OlderThan time.Duration
	// MaxBytes is against the oldest caches until the layers of the rest fit.
	MaxBytes int64
}

// IsZero reports whether no cache is unwanted.
func (r Rules) IsZero() bool { return r == Rules{} }

// stepLife is how long the results of single steps are of use: longer than the run
// that sent them.
const stepLife = 24 * time.Hour

// Request describes a call of [Prune].
type Request struct {
	Repo   string // without a tag
	Prefix string // of the caches that the rules are about; "" = all
	Rules  Rules
	// Grace is how long a marked cache stays.
	Grace time.Duration
	// DryRun changes nothing.
	DryRun bool
	Now    time.Time
}

// Report lists what [Prune] did, or would do.
type Report struct {
	Kept    []Entry `json:"kept"`
	Marked  []Entry `json:"marked"`  // by this call
	Waiting []Entry `json:"waiting"` // marked before, in their grace period
	Deleted []Entry `json:"deleted"`
	// Freed is the size in bytes of the layers that only the deleted entries named.
	Freed int64 `json:"freed"`
	// Due is when the first marked cache may be deleted; zero when none is marked.
	Due time.Time `json:"due,omitzero"`
}

// Prune removes unwanted caches, as the doc of the package says. With an error the report
// holds the work done until then. The registry's own error is wrapped.
func Prune(ctx context.Context, reg Registry, req Request) (*Report, error) {
	entries, err := list(ctx, reg, req.Repo, req.Prefix)
	if err != nil {
		return nil, err
	}
	rep := &Report{}
	candidates, rest := splitUnwanted(entries, req)
	marks := map[digest.Digest]Entry{}
	for _, e := range rest {
		switch inScope := req.Prefix == "" || e.Prefix == req.Prefix; {
		case !inScope:
		case e.Kind != Marked:
			rep.Kept = append(rep.Kept, e)
		case marks[e.Digest].Tag == "" || e.Since.Before(marks[e.Digest].Since):
			marks[e.Digest] = e
		}
	}
	for _, e := range candidates {
		if _, ok := marks[e.Digest]; ok {
			continue // a registry that deletes no tags still has this one
		}
		mark, err := hide(ctx, reg, req, e)
		if err != nil {
			return rep, err
		}
		rep.Marked = append(rep.Marked, e)
		marks[e.Digest] = mark
	}
	s := sweeper{Request: req, reg: reg, report: rep, candidates: candidates, rest: rest}
	return rep, s.sweep(ctx, slices.Collect(maps.Values(marks)))
}

// splitUnwanted divides the entries: those that are to be marked, and all others.
func splitUnwanted(entries []Entry, req Request) (out, rest []Entry) {
	bad := map[string]bool{} // by group: a cache goes with all its parts
	var groups [][]Entry
	byGroup := map[string]int{}
	for _, e := range entries {
		inScope := req.Prefix == "" || e.Prefix == req.Prefix
		switch {
		case !inScope:
		case e.Kind == Step && !e.Newest.IsZero() && req.Now.Sub(e.Newest) > stepLife:
			bad[e.group] = true
		case e.Kind == Cluster:
			i, ok := byGroup[e.group]
			if !ok {
				i = len(groups)
				byGroup[e.group] = i
				groups = append(groups, nil)
			}
			groups[i] = append(groups[i], e)
		}
	}
	for _, g := range groups {
		slices.SortFunc(g, byAge)
	}
	slices.SortFunc(groups, func(x, y []Entry) int { return byAge(x[0], y[0]) })
	last := map[string]int{}
	var kept []Entry
	for _, g := range groups {
		newest := g[0]
		last[newest.Target]++
		after := append(slices.Clone(kept), g...)
		switch r := req.Rules; {
		case r.KeepLast > 0 && last[newest.Target] > r.KeepLast,
			r.OlderThan > 0 && req.Now.Sub(newest.Newest) > r.OlderThan,
			r.MaxBytes > 0 && layerBytes(after) > r.MaxBytes:
			bad[newest.group] = true
		default:
			kept = after
		}
	}
	for _, e := range entries {
		if bad[e.group] {
			out = append(out, e)
		} else {
			rest = append(rest, e)
		}
	}
	return out, rest
}

// hide puts a mark in the place of a tag and returns the mark.
func hide(ctx context.Context, reg Registry, req Request, e Entry) (Entry, error) {
	mark := e
	mark.Kind, mark.Since = Marked, req.Now
	mark.Tag = fmt.Sprintf("%s.pruned-%d-%s", e.Prefix, req.Now.Unix(), e.Digest.Encoded()[:12])
	if req.DryRun {
		return mark, nil
	}
	if err := reg.Push(ctx, req.Repo+":"+mark.Tag, e.descriptor(), e.raw); err != nil {
		return mark, err
	}
	err := reg.Delete(ctx, req.Repo+":"+e.Tag)
	if errors.Is(err, registry.ErrKept) || errors.Is(err, registry.ErrNotFound) {
		err = nil // the tag goes with the digest, or has gone
	}
	return mark, err
}

// sweeper is the second phase.
type sweeper struct {
	Request
	reg    Registry
	report *Report
	// candidates are unwanted now, rest are all other entries.
	candidates, rest []Entry
}

// sweep deletes the caches that were marked long enough ago.
func (s *sweeper) sweep(ctx context.Context, marks []Entry) error {
	slices.SortFunc(marks, func(x, y Entry) int {
		return cmp.Or(x.Since.Compare(y.Since), cmp.Compare(x.Tag, y.Tag))
	})
	var due []Entry
	for _, m := range marks {
		end := m.Since.Add(s.Grace)
		if !end.After(s.Now) {
			due = append(due, m)
			continue
		}
		s.report.Waiting = append(s.report.Waiting, m)
		if s.report.Due.IsZero() || end.Before(s.report.Due) {
			s.report.Due = end
		}
	}
	if len(due) == 0 {
		return nil
	}
	wanted, err := s.findWanted(ctx)
	if err != nil {
		return err
	}
	used := map[digest.Digest]bool{} // layers that stay
	for _, e := range append(slices.Clone(s.rest), s.report.Waiting...) {
		for _, l := range e.layers {
			if e.Kind != Marked || !slices.ContainsFunc(due, func(m Entry) bool { return m.Digest == e.Digest }) {
				used[l.Digest] = true
			}
		}
	}
	for _, m := range due {
		ref := s.Repo + "@" + m.Digest.String()
		if wanted[m.Digest] {
			ref = s.Repo + ":" + m.Tag // the mark alone
		}
		if !s.DryRun {
			if err := s.reg.Delete(ctx, ref); err != nil && !errors.Is(err, registry.ErrNotFound) {
				return err
			}
		}
		if wanted[m.Digest] {
			continue
		}
		s.report.Deleted = append(s.report.Deleted, m)
		for _, l := range m.layers {
			if !used[l.Digest] {
				used[l.Digest] = true
				s.report.Freed += l.Size
			}
		}
	}
	return nil
}

// findWanted returns the digests that a tag stands for which is neither a mark nor
// unwanted: one that was listed, or one that a build has written since.
func (s *sweeper) findWanted(ctx context.Context) (map[digest.Digest]bool, error) {
	wanted := map[digest.Digest]bool{}
	known := map[string]bool{}
	for _, e := range s.rest {
		known[e.Tag] = true
		if e.Kind != Marked {
			wanted[e.Digest] = true
		}
	}
	if s.DryRun {
		return wanted, nil
	}
	tags, err := s.reg.Tags(ctx, s.Repo)
	if err != nil {
		return nil, err
	}
	for _, tag := range tags {
		if known[tag] || markTag.MatchString(tag) {
			continue
		}
		e := parseTag(tag, s.Prefix)
		if err := e.read(ctx, s.reg, s.Repo); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(s.candidates, func(c Entry) bool { return c.Tag == tag && c.Digest == e.Digest }) {
			wanted[e.Digest] = true
		}
	}
	return wanted, nil
}
