package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/go-units"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/cmd/dbake/internal/view"
	"github.com/dbake/dbake/internal/cachestore"
	"github.com/dbake/dbake/runtime/registry"
)

type cacheCmd struct {
	List  cacheListCmd  `cmd:"" name:"ls" help:"Show what a cache repository holds."`
	Prune cachePruneCmd `cmd:"" help:"Remove caches from a repository, in two phases: mark now, delete after the grace period."`
	Merge cacheMergeCmd `cmd:"" help:"Add caches to those of another place, such as a branch's to those of main."`
}

// cachePlace is a set of caches: the value of --cache-registry.
type cachePlace struct {
	cachestore.Place // its prefix is "" when none was given: all
	store            cachepolicy.Store
}

func parsePlace(value string) (cachePlace, error) {
	s, err := cachepolicy.ParseStore(value)
	if err != nil {
		return cachePlace{}, usageError{err}
	}
	p := cachePlace{Place: cachestore.Place{Repo: s.Name, Prefix: s.Prefix}, store: s}
	if !strings.Contains(value, s.Name+":"+s.Prefix) {
		p.Prefix = ""
	}
	return p, nil
}

// cacheClient returns a client for the registries of places.
func (a *app) cacheClient(places ...cachePlace) *registry.Client {
	o := registry.Options{Credentials: registry.DockerCredentials(a.docker()), Notify: a.progress.Note}
	for _, p := range places {
		if name, err := reference.ParseNormalizedNamed(p.Repo); err == nil && p.store.Insecure {
			o = o.Insecure(reference.Domain(name))
		}
	}
	return registry.New(o)
}

const repoHelp = `The repository, as given with --cache-registry: HOST/REPO for all its caches, HOST/REPO:TAG for those of one tag; ",insecure=true" may follow.`

type cacheListCmd struct {
	Repo   string `arg:"" name:"repository" help:"${repository}"`
	Format string `default:"table" enum:"table,json" help:"Output: table or json."`
}

func (c *cacheListCmd) Run(ctx contextBinding, a *app) error {
	place, err := parsePlace(c.Repo)
	if err != nil {
		return err
	}
	client := a.cacheClient(place)
	defer client.Close()
	entries, err := cachestore.List(ctx, client, place.Repo, place.Prefix)
	if err != nil {
		return err
	}
	if c.Format == "json" {
		return a.writeJSON(entries)
	}
	return view.Caches(a.stdout, entries, time.Now())
}

type cachePruneCmd struct {
	Repo      string        `arg:"" name:"repository" help:"${repository}"`
	KeepLast  int           `placeholder:"N" help:"Keep the N newest caches of each group of targets, whatever their tag."`
	OlderThan time.Duration `placeholder:"DURATION" help:"Remove caches whose newest result is older than this, for example 336h."`
	MaxSize   string        `placeholder:"BYTES" help:"Remove the oldest caches until the layers of the rest fit into this, for example 20GB."`
	Grace     time.Duration `default:"1h" placeholder:"DURATION" help:"How long marked caches stay for builds that run now; 0s deletes at once. The next prune after that deletes them."`
	DryRun    bool          `help:"Only show what would be removed."`
	Format    string        `default:"table" enum:"table,json" help:"Output: table or json."`
}

// rules returns the rules that the flags name.
func (c *cachePruneCmd) rules() (cachestore.Rules, error) {
	r := cachestore.Rules{KeepLast: c.KeepLast, OlderThan: c.OlderThan}
	if c.KeepLast < 0 || c.OlderThan < 0 || c.Grace < 0 {
		return r, usageError{errors.New("--keep-last, --older-than and --grace cannot be negative")}
	}
	if c.MaxSize != "" {
		var err error
		if r.MaxBytes, err = units.FromHumanSize(c.MaxSize); err != nil || r.MaxBytes <= 0 {
			return r, usageError{fmt.Errorf("--max-size %q is not a size such as 500MB or 20GB", c.MaxSize)}
		}
	}
	return r, nil
}

func (c *cachePruneCmd) Run(ctx contextBinding, a *app) error {
	place, err := parsePlace(c.Repo)
	if err != nil {
		return err
	}
	rules, err := c.rules()
	if err != nil {
		return err
	}
	if rules.IsZero() {
		a.progress.Note("no rule is given (--keep-last, --older-than, --max-size): only what was marked before is deleted")
	}
	client := a.cacheClient(place)
	defer client.Close()
	report, err := cachestore.Prune(ctx, client, cachestore.Request{
		Repo: place.Repo, Prefix: place.Prefix, Rules: rules, Grace: c.Grace, DryRun: c.DryRun, Now: time.Now(),
	})
	if report == nil {
		return err
	}
	if c.Format == "json" {
		return errors.Join(err, a.writeJSON(report))
	}
	return errors.Join(err, view.PruneReport(a.stdout, report, c.DryRun))
}

type cacheMergeCmd struct {
	From []string `arg:"" name:"from" help:"Where the caches are: HOST/REPO:TAG."`
	To   string   `required:"" placeholder:"HOST/REPO:TAG" help:"Where they are added."`
}

func (c *cacheMergeCmd) Run(ctx contextBinding, a *app) error {
	to, err := parsePlace(c.To)
	if err != nil {
		return err
	}
	places := []cachePlace{to}
	var from []cachestore.Place
	for _, value := range c.From {
		p, err := parsePlace(value)
		if err != nil {
			return err
		}
		p.Prefix = p.store.Prefix
		if p.Repo == to.Repo && p.Prefix == to.store.Prefix {
			return usageError{fmt.Errorf("%s is the destination itself", value)}
		}
		places = append(places, p)
		from = append(from, p.Place)
	}
	to.Prefix = to.store.Prefix
	client := a.cacheClient(places...)
	defer client.Close()
	merged, err := cachestore.Merge(ctx, client, to.Place, from)
	for _, m := range merged {
		whole := ""
		if !m.Whole {
			whole = ", in parts: together they are more than a node reads at once"
		}
		if _, err := fmt.Fprintf(a.stdout, "%s: %d caches%s\n", m.Tag, len(m.From), whole); err != nil {
			return err
		}
	}
	return err
}
