package main

import (
	"context"

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
	return compiler.Options{
		Dir: a.dir, Env: env, Platform: platforms.Format(platforms.DefaultSpec()), Stdin: a.stdin, Terminal: isTerminal(a.stdout),
		Files: f.File, Targets: f.Targets, Vars: f.Var,
		Overrides: f.Set, Push: f.Push, Load: f.Load, NoCache: f.NoCache, Pull: f.Pull,
		Call: call, SBOM: f.SBOM, Provenance: f.Provenance, Policy: f.Policy,
		Remote:   remote,
		Profiles: f.Profile, Exclude: f.Exclude, WithDeps: f.WithDeps, Strict: f.Strict,
	}
}

// compile resolves the definition and shows what --strict has to say about it. One
// that is elsewhere is read by remote; nil refuses it.
func (a *app) compile(ctx context.Context, f *definitionFlags, env map[string]string, remote compiler.RemoteReader) (*ir.Project, error) {
	p, err := compiler.Compile(ctx, a.compilerOptions(f, env, remote))
	if err != nil {
		return nil, err
	}
	a.warn(p.Warnings)
	return p, nil
}

// warn shows what --strict has to say.
func (a *app) warn(warnings []*ir.SourceError) {
	for _, w := range warnings {
		a.progress.Warn(w.Error())
	}
}
