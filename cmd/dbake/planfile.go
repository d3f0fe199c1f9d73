package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/engine"
	"github.com/dbake/dbake/internal/entitlement"
	"github.com/dbake/dbake/internal/redact"
	"github.com/dbake/dbake/internal/report"
	"github.com/dbake/dbake/runtime/nodeset"
)

// requestOf is the part of the command line that a saved plan keeps. Grants of --allow are
// not in it, nor are programs and directories of this machine: those are for the user who
// builds it to choose. Tokens and passwords are left out.
func requestOf(d *definitionFlags, n *nodeFlags, p *planFlags) report.Request {
	return report.Request{
		Files: redactEach(d.File), Targets: redactEach(d.Targets), Set: redactEach(d.Set), Vars: redactEach(d.Var),
		NoCache: d.NoCache, Pull: d.Pull,
		SBOM: d.SBOM, Provenance: d.Provenance, Policy: d.Policy, Push: d.Push, Load: d.Load,
		Strict: d.Strict != strictOff, Exclude: d.Exclude, WithDeps: d.WithDeps, Gates: d.Gate, Profiles: d.Profile,
		Nodes: n.Nodes, Builder: n.Builder, Platforms: n.Platform, MaxNodes: n.MaxNodes,
		CacheRegistry: p.CacheRegistry,
	}
}

// redactEach hides the secrets in each of values.
func redactEach(values []string) []string {
	var out []string
	for _, v := range values {
		out = append(out, redact.Text(v))
	}
	return out
}

// planFile returns the saved plan that the command line names, nil when it names
// targets: a plan is the only argument, and a file whose name ends in .json and
// whose content says that it is one. No target can have such a name.
func (a *app) planFile(args []string) (*report.File, error) {
	for _, name := range args {
		if !strings.HasSuffix(name, ".json") {
			continue
		}
		info, err := os.Stat(a.path(name))
		if err != nil || !info.Mode().IsRegular() {
			continue // a URL, or a target to be refused as unknown
		}
		f, err := os.Open(a.path(name))
		if err != nil {
			return nil, err
		}
		saved, err := report.ReadFile(f)
		err = errors.Join(err, f.Close())
		switch {
		case errors.Is(err, report.ErrNotPlan):
			return nil, usageError{fmt.Errorf("%s: %w; a definition is named with --file", name, err)}
		case err != nil:
			return nil, fmt.Errorf("%s: %w", name, err)
		case len(args) > 1:
			return nil, usageError{fmt.Errorf("%s is a plan, which says what to build: it stands alone", name)}
		}
		return saved, nil
	}
	return nil, nil
}

// useSaved replaces the flags of the definition by those of a saved plan. Nodes may be
// named anew, so that a plan can be built where addresses differ.
//
// A plan is data, whoever wrote it: it has no more rights than a definition that the user
// builds. Setting something in a plan grants nothing; the files it reads are those that the
// command may read; it names no program; and a policy is only switched off by the command.
func (c *buildCmd) useSaved(a *app, f *report.File) error {
	d := &c.definitionFlags
	r := f.Request
	given := requestOf(d, &nodeFlags{}, &planFlags{})
	given.Targets, given.Policy = nil, nil
	var err error
	if r.Files, given.Files, err = restoreEach("--file", r.Files, d.File); err != nil {
		return usageError{err}
	}
	if r.Set, given.Set, err = restoreEach("--set", r.Set, d.Set); err != nil {
		return usageError{err}
	}
	if r.Vars, given.Vars, err = restoreEach("--var", r.Vars, d.Var); err != nil {
		return usageError{err}
	}
	if !given.IsZero() {
		return usageError{errors.New("a plan says what to build: flags that change the definition cannot be added to it")}
	}
	if len(r.Targets) > 0 && strings.Contains(r.Targets[0], redact.Mark) {
		return usageError{fmt.Errorf("the plan does not hold the password in %s: make it for the URL without, and set BUILDX_BAKE_GIT_AUTH_TOKEN", r.Targets[0])}
	}
	if !slices.Equal(r.Policy, d.Policy) {
		return usageError{fmt.Errorf("the plan was made with other policies than the command has: to build it, give the flags%s", flags("--policy", r.Policy))}
	}
	if err := a.privileges().readPlan(r, d.Allow); err != nil {
		return err
	}
	*d = definitionFlags{
		File: r.Files, Targets: r.Targets, Set: r.Set, Var: r.Vars, NoCache: r.NoCache, Pull: r.Pull,
		SBOM: r.SBOM, Provenance: r.Provenance, Policy: r.Policy, Push: r.Push, Load: r.Load,
		Exclude: r.Exclude, WithDeps: r.WithDeps, Gate: r.Gates, Profile: r.Profiles,
		Allow: d.Allow, Call: d.Call, Check: d.Check, saved: true,
	}
	if r.Strict {
		d.Strict = strictWarn
	}
	if f.World != nil {
		if d.moment, err = engine.SavedMoment(f.World); err != nil {
			return err
		}
		a.progress.Note(d.moment.Note(a.env))
	}
	if c.MaxNodes == 0 {
		c.MaxNodes = r.MaxNodes
	}
	c.Platform = r.Platforms // which are part of the definition
	if n := &c.nodeFlags; len(n.Nodes) == 0 && n.Builder == "" {
		if err := plainNodes(r.Nodes); err != nil {
			return usageError{err}
		}
		n.Nodes, n.Builder = r.Nodes, r.Builder
		if hint := stateHint(r, stateDigest(a.path(n.StateDir))); hint != "" {
			a.progress.Note(hint)
		}
	}
	if len(c.CacheRegistry) == 0 {
		c.CacheRegistry = r.CacheRegistry
	}
	c.saved = f
	return nil
}

// stateDigest stands for a directory of local nodes in a plan, "" for the default one.
func stateDigest(dir string) digest.Digest {
	if dir == "" {
		return ""
	}
	return digest.FromString(filepath.Clean(dir))
}

// stateHint warns that a plan is for local nodes in another directory than the nodes in
// use; "" when it is not.
func stateHint(r report.Request, used digest.Digest) string {
	specs, err := nodeset.Parse(r.Nodes)
	local := len(r.Nodes) == 0 && r.Builder == "" || err == nil && slices.ContainsFunc(specs, func(s nodeset.Spec) bool { return s.Local > 0 })
	switch {
	case !local || r.State == used:
		return ""
	case used == "":
		return "the plan was made for local nodes with --state-dir: name that directory again to build on them, and with what they hold"
	case r.State == "":
		return "the plan was made for local nodes without --state-dir: build it without to build on them, and with what they hold"
	default:
		return "the plan was made for local nodes with another --state-dir: name that directory to build on them, and with what they hold"
	}
}

// restoreEach returns the values of a flag in a saved plan with the secrets that were
// left out of them, taken from those given again; rest are the values that are given
// besides.
func restoreEach(flag string, saved, given []string) (values, rest []string, err error) {
	rest = slices.Clone(given)
	for _, v := range saved {
		if strings.Contains(v, redact.Mark) {
			i := slices.IndexFunc(rest, func(g string) bool { return redact.Text(g) == v })
			if i < 0 {
				return nil, nil, fmt.Errorf("the plan does not hold the secrets in %s %s: give this flag again, with them", flag, v)
			}
			v = rest[i]
			rest = slices.Delete(rest, i, i+1)
		}
		values = append(values, v)
	}
	if len(rest) == 0 {
		rest = nil
	}
	return values, rest, nil
}

// flags writes a flag for each value.
func flags(name string, values []string) string {
	if len(values) == 0 {
		return ": none " + name
	}
	var b strings.Builder
	for _, v := range values {
		fmt.Fprintf(&b, " %s %s", name, v)
	}
	return b.String()
}

// readPlan refuses a plan whose definition is in files that the command may not
// read: those outside of the working directory that are not granted.
func (g *privileges) readPlan(r report.Request, allow []string) error {
	granted, err := entitlement.Parse(allow)
	if err != nil {
		return usageError{err}
	}
	remote := len(r.Targets) > 0 && ir.IsRemote(r.Targets[0])
	files := map[string]bool{}
	for _, name := range r.Files {
		name, cwd := ir.ParsePath(name)
		if name != "-" && !ir.IsRemote(name) && (cwd || !remote) {
			files[name] = true
		}
	}
	outside, err := g.Unreadable(files, granted)
	if err != nil {
		return err
	}
	for _, name := range outside {
		return fmt.Errorf("the plan reads a definition outside of the working directory: to build it, add --allow fs.read=%s", name)
	}
	return nil
}

// plainNodes refuses addresses in a plan that make this machine run a program or read
// files.
func plainNodes(values []string) error {
	if len(values) == 0 {
		return nil
	}
	specs, err := nodeset.Parse(values)
	if err != nil {
		return fmt.Errorf("nodes of the plan: %w", err)
	}
	for _, s := range specs {
		if s.Local == 0 && (!strings.HasPrefix(s.Addr, "tcp://") || s.TLS != nil) {
			return fmt.Errorf("the plan is for node %s at %s, which is reached with a program or files of this machine: a plan cannot choose these; name the nodes with --nodes or --builder", s.Name, s.Addr)
		}
	}
	return nil
}

// planBudget is how long a plan is searched for: a number of tasks to schedule,
// which gives the same plan on every machine, or a time, which does not. The zero
// value is the default of the strategy.
type planBudget struct {
	tasks int
	limit time.Duration
}

// UnmarshalText reads "20000000" or "2s".
func (b *planBudget) UnmarshalText(text []byte) error {
	s := string(text)
	if n, err := strconv.Atoi(s); err == nil && n >= 0 {
		b.tasks = n
		if n == 0 {
			b.tasks = -1 // to the strategies 0 is their default
		}
		return nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return fmt.Errorf("%q is neither a number of tasks, such as 20000000, nor a time, such as 2s", s)
	}
	b.tasks, b.limit = math.MaxInt32, d
	return nil
}
