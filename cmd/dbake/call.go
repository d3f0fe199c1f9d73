package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/tonistiigi/go-csvvalue"

	"github.com/dbake/dbake/cmd/dbake/internal/view"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/registry"
)

// callFlag is the value of --call.
type callFlag struct {
	method       string // "" is to build
	json         bool
	ignoreStatus bool
}

// callFlag reads --call and --check.
func (f *definitionFlags) callFlag() (callFlag, error) {
	if f.Call == "" {
		if f.Check {
			return callFlag{method: frontend.Method("check")}, nil
		}
		return callFlag{}, nil
	}
	fields, err := csvvalue.Fields(f.Call, nil)
	if err != nil {
		return callFlag{}, fmt.Errorf("invalid value %q for --call: %w", f.Call, err)
	}
	var c callFlag
	named := false
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		switch {
		case !ok && named:
			return callFlag{}, fmt.Errorf("invalid print value: %s", f.Call)
		case !ok:
			c.method, named = frontend.Method(field), true
		case key == "format":
			c.json = value == "json"
		case key == "ignorestatus":
			if c.ignoreStatus, err = strconv.ParseBool(value); err != nil {
				return callFlag{}, fmt.Errorf("invalid ignorestatus print value: %s: %w", value, err)
			}
		default:
			return callFlag{}, fmt.Errorf("invalid print field: %s", field)
		}
	}
	if f.Check && c.method != frontend.Method("check") {
		return callFlag{}, fmt.Errorf("--check and --call=%s exclude each other", f.Call)
	}
	return c, nil
}

// split divides the targets of p into those that ask for something other than a
// build and a project of the others. What the others link to is built for them,
// whatever it asks for itself. The agents that contexts need are declared in it.
func split(p *ir.Project) (called []*ir.Target, build *ir.Project) {
	needed := map[string]bool{}
	for i := len(p.Targets) - 1; i >= 0; i-- {
		// Links point to earlier targets only.
		if t := p.Targets[i]; frontend.Method(t.Call) == "" || needed[t.Name] {
			for _, name := range t.Links() {
				needed[name] = true
			}
		}
	}
	rest := *p
	rest.Targets = nil
	kept := map[string]bool{}
	for _, t := range p.Targets {
		if frontend.Method(t.Call) != "" {
			called = append(called, t)
			if !needed[t.Name] {
				continue
			}
			linked := *t
			linked.Call, linked.Linked = "", true
			linked.Outputs, linked.CacheTo = nil, nil
			t = &linked
		}
		kept[t.Name] = true
		if gone := func(name string) bool { return !kept[name] }; slices.ContainsFunc(t.DependsOn, gone) {
			free := *t
			free.DependsOn = slices.DeleteFunc(slices.Clone(t.DependsOn), gone)
			t = &free
		}
		rest.Targets = append(rest.Targets, t)
	}
	return called, withAgents(&rest)
}

// withAgents declares the agent of the environment for the targets whose context
// is read over ssh and that declare none.
func withAgents(p *ir.Project) *ir.Project {
	out := *p
	out.Targets = slices.Clone(p.Targets)
	for i, t := range p.Targets {
		if len(t.SSH) == 0 && isGitSSH(t.Context) {
			forwarding := *t
			forwarding.SSH = []ir.SSH{{ID: "default"}}
			out.Targets[i] = &forwarding
		}
	}
	return &out
}

// callAll answers for a command line with --call: no target is built.
func (c *buildCmd) callAll(ctx context.Context, a *app, flag callFlag) (err error) {
	var found *nodes
	if len(c.Nodes) > 0 || c.Builder != "" {
		if found, err = a.findNodes(ctx, &c.nodeFlags); err != nil {
			return err
		}
	}
	standby := &standby{app: a, flags: &c.nodeFlags, nodes: found}
	defer func() { err = errors.Join(err, standby.close()) }()
	project, err := a.compile(ctx, &c.definitionFlags, found.environment(a.env), standby)
	if err != nil {
		return err
	}
	if err := a.admit(ctx, project, &c.definitionFlags); err != nil {
		return err
	}
	return c.answer(ctx, a, standby.withAccess(project), standby, nil, nil, flag)
}

// answer prints what the targets of p that are not to be built ask for, and ends
// the command with the status of the answers. known is what is known of the nodes, nil
// when they have not been asked; built is the metadata of targets that were built in
// this run.
func (c *buildCmd) answer(ctx context.Context, a *app, p *ir.Project, standby *standby, known *facts, built map[string]map[string]any, flag callFlag) error {
	if known == nil {
		known = &facts{}
		if standby.nodes != nil {
			var err error
			if known, err = standby.guess(ctx, false); err != nil {
				return err
			}
		}
	}
	opts := standby.frontendOptions(ctx, known, 0, false)
	offline := frontend.NewRegistryResolver(frontend.RegistryOptions{CacheDir: a.cacheDir("images"), Offline: true})
	opts.Resolver = &unreachable{Resolver: opts.Resolver, offline: offline, noted: map[string]bool{}, note: func(image string, err error) {
		a.progress.Warn(fmt.Sprintf("cannot inspect %s (%v); assuming defaults", image, err))
	}}
	answers, err := frontend.Call(ctx, withAgents(p), opts)
	if err != nil {
		return err
	}
	slices.SortFunc(answers, func(x, y *frontend.Called) int { return cmp.Compare(x.Target.Name, y.Target.Name) })

	var status int
	if flag.json {
		if status, err = view.CallsJSON(a.stdout, p, answers, flag.ignoreStatus); err != nil {
			return err
		}
	} else {
		status = view.Calls(a.stdout, answers, flag.ignoreStatus)
	}
	if c.MetadataFile != "" {
		byTarget := built
		if byTarget == nil {
			byTarget = map[string]map[string]any{}
		}
		for _, answer := range answers {
			resp := map[string]string{}
			for k, v := range answer.Result {
				resp[k] = string(v)
			}
			byTarget[answer.Target.Name] = runtime.Metadata(resp)
			if json.Valid(answer.JSON()) {
				byTarget[answer.Target.Name]["result.json"] = answer.JSON()
			}
		}
		if err := c.writeMetadata(ctx, a, byTarget, false); err != nil {
			return err
		}
	}
	if status != 0 {
		return exitError{status}
	}
	return nil
}

// unreachable answers from what is known, and with a guess, where the network
// does not: a check of a Dockerfile is worth having without its base image.
type unreachable struct {
	frontend.Resolver
	offline frontend.Resolver
	note    func(image string, err error)

	mu    sync.Mutex
	noted map[string]bool // guarded by mu
}

// Resolve implements frontend.Resolver.
func (u *unreachable) Resolve(ctx context.Context, req frontend.ImageRequest) (*frontend.Image, error) {
	img, err := u.Resolver.Resolve(ctx, req)
	if err == nil || ctx.Err() != nil || !errors.Is(err, registry.ErrUnreachable) && !errors.Is(err, registry.ErrBusy) {
		return img, err
	}
	img, offlineErr := u.offline.Resolve(ctx, req)
	if offlineErr != nil {
		return nil, errors.Join(err, offlineErr)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if name := req.Ref.String(); img.Assumed && !u.noted[name] {
		u.noted[name] = true
		u.note(name, err)
	}
	return img, nil
}
