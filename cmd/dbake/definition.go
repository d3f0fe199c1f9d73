package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/alecthomas/kong"
	"github.com/containerd/platforms"

	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/compiler/ir"
)

// compilerOptions say how the definition is to be resolved.
func (a *app) compilerOptions(f *definitionFlags, env map[string]string, remote compiler.RemoteReader) compiler.Options {
	call := f.Call
	if f.Check {
		call = "check"
	}
	o := compiler.Options{
		Dir: a.dir, Env: env, Platform: platforms.Format(platforms.DefaultSpec()), Stdin: a.stdin, Terminal: isTerminal(a.stdout),
		Files: f.File, Targets: f.Targets, Vars: f.Var,
		Overrides: f.Set, Push: f.Push, Load: f.Load, NoCache: f.NoCache, Pull: f.Pull,
		Call: call, SBOM: f.SBOM, Provenance: f.Provenance, Policy: f.Policy,
		Remote:   remote,
		Profiles: f.Profile, Exclude: f.Exclude, WithDeps: f.WithDeps, Strict: f.Strict != strictOff, DeferFaults: f.deferFaults,
	}
	f.moment.apply(&o)
	return o
}

// compile resolves the definition and shows what --strict has to say about it. One
// that is elsewhere is read by remote; nil refuses it.
func (a *app) compile(ctx context.Context, f *definitionFlags, env map[string]string, remote compiler.RemoteReader) (*ir.Project, error) {
	p, err := compiler.Compile(ctx, a.compilerOptions(f, env, remote))
	if err != nil {
		return nil, err
	}
	if err := a.judge(p.Warnings, f.Strict); err != nil {
		return nil, err
	}
	return p, nil
}

// warn shows what may be wrong with a definition.
func (a *app) warn(warnings []*ir.SourceError) {
	for _, w := range warnings {
		a.progress.Warn(w.Error())
	}
}

// judge shows what --strict has to say, and returns an error if that is to be one.
func (a *app) judge(warnings []*ir.SourceError, level strictness) error {
	a.warn(warnings)
	if len(warnings) == 0 || level != strictError {
		return nil
	}
	return fmt.Errorf("warnings: %d, which --strict=error does not let pass", len(warnings))
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
