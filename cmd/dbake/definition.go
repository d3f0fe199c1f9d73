package main

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/alecthomas/kong"
	"github.com/containerd/platforms"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/engine"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/runtime/nodeset"
)

// engine returns the engine that takes definitions through all stages.
func (a *app) engine() *engine.Engine { return a.engineFor(a.progress) }

// engineFor is engine with a reporter of its own.
func (a *app) engineFor(report engine.Reporter) *engine.Engine {
	return engine.New(engine.Config{
		Dir: a.dir, Env: a.env, Stdout: a.stdout, Report: report,
		Supervisor: a.supervisor, Command: a.title(), Docker: a.docker(),
	})
}

// request returns the request that the flags make of the engine.
func (a *app) request(d *definitionFlags, n *nodeFlags, p *planFlags) (engine.Request, error) {
	r := engine.Request{
		Definition: d.options(a), Moment: d.moment,
		Judge:    func(warnings []*ir.SourceError) error { return a.judge(warnings, d.Strict) },
		Planning: partition.Options{Budget: p.PlanBudget.tasks}, Limit: p.PlanBudget.limit,
		History: a.historyFile(p.History),
	}
	switch p.Reuse {
	case "auto":
		r.Reuse = engine.ReuseAuto
	case "always":
		r.Reuse = engine.ReuseAlways
	}
	var err error
	if r.Strategy, err = partition.Lookup(p.Strategy); err != nil {
		return r, usageError{err}
	}
	if p.Duplicates != "" { // else a saved plan may have its own
		if r.Duplicates, err = plan.ParseDuplicates(p.Duplicates); err != nil {
			return r, usageError{err}
		}
	}
	if r.Stores, err = p.cacheStores(); err != nil {
		return r, err
	}
	r.Definition.Platforms = n.Platform
	r.Nodes, err = n.choice(a)
	return r, err
}

// choice returns which nodes are used, and how long they are waited for.
func (f *nodeFlags) choice(a *app) (engine.Nodes, error) {
	n, err := f.nodeChoice.choice(a)
	if err != nil {
		return n, err
	}
	if n.Timeout = f.NodeTimeout; n.Timeout <= 0 {
		return n, usageError{fmt.Errorf("invalid value %s for --node-timeout: it must be longer than 0", f.NodeTimeout)}
	}
	for _, text := range f.Expect {
		e, err := engine.ParseExpectation(text)
		if err != nil {
			return n, usageError{err}
		}
		n.Expect = append(n.Expect, e)
	}
	return n, nil
}

// choice returns which nodes are used.
func (f *nodeChoice) choice(a *app) (engine.Nodes, error) {
	n := engine.Nodes{Builder: f.Builder, EngineFirst: a.buildx, StateDir: a.path(f.StateDir), Buildkitd: a.path(f.Buildkitd), Platforms: f.Platform, Max: f.MaxNodes}
	if len(f.Nodes) > 0 && f.Builder != "" {
		return n, usageError{errors.New("--nodes and --builder exclude each other")}
	}
	for _, name := range f.Platform {
		if _, err := platforms.Parse(name); err != nil && name != "local" {
			return n, usageError{fmt.Errorf("invalid value %q for --platform: %w", name, err)}
		}
	}
	if f.MaxNodes < 0 {
		return n, usageError{fmt.Errorf("invalid value %d for --max-nodes: it must not be negative", f.MaxNodes)}
	}
	if len(f.Nodes) == 0 {
		return n, nil
	}
	var err error
	if n.Specs, err = nodeset.Parse(f.Nodes); err != nil {
		return n, usageError{err}
	}
	return n, nil
}

// options returns how the definition is to be resolved.
func (f *definitionFlags) options(a *app) compiler.Options {
	call := f.Call
	if f.Check {
		call = "check"
	}
	o := compiler.Options{
		Dir: a.dir, Platform: platforms.Format(platforms.DefaultSpec()), Stdin: a.stdin, Terminal: isTerminal(a.stdout),
		Files: f.File, Targets: f.Targets, Vars: f.Var,
		Overrides: f.Set, Push: f.Push, Load: f.Load, NoCache: f.NoCache, Pull: f.Pull,
		Call: call, SBOM: f.SBOM, Provenance: f.Provenance, Policy: f.Policy,
		Profiles: f.Profile, Exclude: f.Exclude, WithDeps: f.WithDeps, Gates: f.Gate, Strict: f.Strict != strictOff, DeferFaults: f.deferFaults,
	}
	if a.image != nil {
		o.Stdin, o.SetName = a.image.definition(), a.image.flagOf
	}
	return o
}

// cacheStores returns the stores that --cache-registry names.
func (f *planFlags) cacheStores() ([]cachepolicy.Store, error) {
	var stores []cachepolicy.Store
	for _, value := range f.CacheRegistry {
		store, err := cachepolicy.ParseStore(value)
		if err != nil {
			return nil, usageError{err}
		}
		for _, other := range stores {
			if other.Repo == store.Repo {
				return nil, usageError{fmt.Errorf("--cache-registry names %s twice", store.Name)}
			}
		}
		stores = append(stores, store)
	}
	return stores, nil
}

// warn shows the warnings about a definition.
func (a *app) warn(warnings []*ir.SourceError) {
	for _, w := range warnings {
		a.progress.Warn(w.Error())
	}
}

// judge shows the findings of --strict, and returns an error if they are to be one.
func (a *app) judge(warnings []*ir.SourceError, level strictness) error {
	a.warn(warnings)
	if len(warnings) == 0 || level != strictError {
		return nil
	}
	return fmt.Errorf("warnings: %d, which --strict=error does not allow", len(warnings))
}

// strictness is the value of --strict, which may be given without one.
type strictness string

const (
	strictOff   strictness = ""
	strictWarn  strictness = "warn"
	strictError strictness = "error"
)

// IsBool implements kong.BoolMapperValue: the flag alone asks for warnings.
func (*strictness) IsBool() bool { return true }

// Decode implements kong.MapperValue.
func (s *strictness) Decode(ctx *kong.DecodeContext) error {
	*s = strictWarn
	if ctx.Scan.Peek().Type != kong.FlagValueToken {
		return nil
	}
	text := ctx.Scan.Pop().String()
	switch on, err := strconv.ParseBool(text); {
	case text == string(strictError):
		*s = strictError
	case text == string(strictWarn), err == nil && on:
	case text == "off", err == nil:
		*s = strictOff
	default:
		return fmt.Errorf("invalid value %q: expected off, warn or error", text)
	}
	return nil
}
