package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/dbake/dbake/cmd/dbake/internal/view"
	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/cost"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/warm"
	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/sched"
)

type buildCmd struct {
	definitionFlags
	nodeFlags
	planFlags

	Print        bool   `help:"Print the resolved definition as JSON and build nothing."`
	List         string `placeholder:"WHAT" help:"List targets or variables and build nothing; type=WHAT,format=json for JSON."`
	Progress     string `default:"auto" env:"BUILDKIT_PROGRESS" placeholder:"MODE" help:"How progress is shown: auto, plain, tty, quiet or rawjson."`
	MetadataFile string `placeholder:"FILE" help:"Write the digests and descriptors of what was built, as JSON by target."`
	KeepGoing    bool   `short:"k" help:"When a target fails, still build all that does not depend on it."`
	NoSteal      bool   `help:"Let no node take over what was planned for another."`
}

func (c *buildCmd) Run(ctx contextBinding, a *app) (err error) {
	if c.Print && c.List != "" {
		return usageError{errors.New("--print and --list are mutually exclusive")}
	}
	if c.Print || c.List != "" {
		return c.describe(ctx, a)
	}
	mode, err := view.ParseMode(c.Progress)
	if err != nil {
		return usageError{err}
	}
	nodes, err := a.findNodes(ctx, &c.nodeFlags)
	if err != nil {
		return err
	}
	project, err := a.compile(ctx, &c.definitionFlags, nodes.environment(a.env))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, nodes.stop()) }()
	pool, err := nodes.start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.Close()) }()

	history, err := a.openHistory(c.History)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, history.Close()) }()
	infos := pool.Nodes()
	build, err := plan.Prepare(ctx, project, a.frontendOptions(nodes, infos, &runtime.Gateway{Pool: pool, Env: a.env, Path: a.path}), history)
	if err != nil {
		return err
	}
	ready, err := dialled(infos, a.ledger())
	if err != nil {
		return err
	}
	p, err := makePlan(ctx, build, ready, &c.planFlags)
	if err != nil {
		return err
	}
	request, err := c.request(ctx, a, project, build, p)
	if err != nil {
		return err
	}

	progress, err := view.NewProgress(a.stderr, mode, len(infos) > 1)
	if err != nil {
		return err
	}
	result, err := pool.Run(ctx, request, progress.Observe)
	progress.Close()
	if result == nil {
		return err
	}
	if rememberErr := a.remember(build, history, infos, result); rememberErr != nil {
		fmt.Fprintf(a.stderr, "WARNING: %v\n", rememberErr)
	}
	if c.Progress != "quiet" || err != nil {
		view.Summary(a.stderr, result, p.Bound)
	}
	if err != nil {
		return err
	}
	if c.MetadataFile != "" {
		return a.writeMetadata(c.MetadataFile, result)
	}
	return nil
}

// describe prints the definition instead of building it.
func (c *buildCmd) describe(ctx context.Context, a *app) error {
	var nodes *nodes
	if len(c.Nodes) > 0 {
		var err error
		if nodes, err = a.findNodes(ctx, &c.nodeFlags); err != nil {
			return err
		}
	}
	if c.List != "" {
		return compiler.List(ctx, a.compilerOptions(&c.definitionFlags, nodes.environment(a.env)), c.List, a.stdout)
	}
	project, err := a.compile(ctx, &c.definitionFlags, nodes.environment(a.env))
	if err != nil {
		return err
	}
	return compiler.WriteJSON(a.stdout, project)
}

// request puts together what the run needs.
func (c *buildCmd) request(ctx context.Context, a *app, project *ir.Project, build *plan.Build, p *plan.Plan) (*runtime.Build, error) {
	r := &runtime.Build{
		Graph: build.Graph, Jobs: build.Jobs,
		Sched: runtime.Schedule(p, sched.Options{
			Jobs: c.Jobs, KeepGoing: c.KeepGoing, Steal: !c.NoSteal && len(p.Nodes) > 1,
			Backoff: time.Second,
		}),
		Inputs: runtime.Inputs{
			Dirs: build.Locals(), Secrets: map[string]runtime.SecretSource{}, SSH: map[string][]string{},
			Env: a.env, SharedKey: a.sharedKey(project.Dir),
		},
		Entitlements: build.Entitlements(),
		Dir:          project.Dir, Stdout: a.stdout,
	}
	for id, s := range build.Secrets {
		r.Inputs.Secrets[id] = runtime.SecretSourceOf(s, a.env, a.path)
	}
	for id, s := range build.SSH {
		r.Inputs.SSH[id] = s.Paths
	}
	var err error
	if r.Cache, err = a.caches(ctx, c.CacheRegistry, build); err != nil {
		return nil, err
	}
	return r, nil
}

// frontendOptions say how Dockerfiles are compiled for the nodes.
func (a *app) frontendOptions(n *nodes, infos []runtime.NodeInfo, gw frontend.Gateway) frontend.Options {
	opts := frontend.Options{
		Dir:     a.dir,
		Gateway: gw,
		Resolver: frontend.NewRegistryResolver(frontend.RegistryOptions{
			Mirrors: n.mirrors(), CacheDir: a.cacheDir("images"), DockerConfig: a.env["DOCKER_CONFIG"],
		}),
		DefaultProvenance: "mode=min,inline-only=true",
	}
	if v := a.env["BUILDX_NO_DEFAULT_ATTESTATIONS"]; v != "" && v != "0" && v != "false" {
		opts.DefaultProvenance = ""
	}
	if len(infos) > 0 && len(infos[0].Platforms) > 0 {
		opts.NodePlatform = infos[0].Platforms[0]
	}
	return opts
}

// makePlan divides the build among the nodes.
func makePlan(ctx context.Context, b *plan.Build, nodes []plan.Node, f *planFlags) (*plan.Plan, error) {
	strategy, err := partition.Lookup(f.Strategy)
	if err != nil {
		return nil, usageError{err}
	}
	return plan.Make(ctx, b, nodes, strategy, partition.Options{})
}

// strategyNames lists the strategies for the help text.
func strategyNames() string {
	var names string
	for i, s := range partition.Strategies() {
		if i > 0 {
			names += ", "
		}
		names += s.Name()
	}
	return names
}

// remember notes what the steps of a run took and where their results are.
func (a *app) remember(b *plan.Build, history *cost.Store, infos []runtime.NodeInfo, r *runtime.Result) error {
	now := time.Now()
	addr := map[string]string{}
	var errs []error
	for i, n := range r.Nodes {
		addr[n.Name] = infos[i].Addr
		if n.Lost == nil {
			errs = append(errs, a.ledger().Add(infos[i].Addr, infos[i].ID, b.Held(n.Held), now))
		}
	}
	var list []plan.Measurement
	for _, m := range r.Measured {
		list = append(list, plan.Measurement{Node: addr[m.Node], Vertex: m.Vertex, Took: m.Took})
	}
	b.Record(history, list, now)
	return errors.Join(errs...)
}

// ledger is where it is remembered what nodes hold.
func (a *app) ledger() warm.Ledger { return warm.Ledger{Dir: a.cacheDir("nodes")} }

// openHistory opens the cost history: FILE, "none", or that of the user.
func (a *app) openHistory(name string) (*cost.Store, error) {
	switch dir := a.cacheDir(""); {
	case name == "" && dir == "":
		name = cost.InMemory
	case name == "":
		name = filepath.Join(dir, "history.db")
	case name != cost.InMemory:
		name = a.path(name)
	}
	history, err := cost.Open(name, cost.Options{})
	if err != nil {
		return nil, err
	}
	for _, note := range history.Notes() {
		fmt.Fprintf(a.stderr, "WARNING: %s\n", note)
	}
	return history, nil
}

// cacheDir returns a directory below the user's cache directory, "" when there is
// none.
func (a *app) cacheDir(name string) string {
	base := a.env["XDG_CACHE_HOME"]
	if base == "" && a.env["HOME"] != "" {
		base = filepath.Join(a.env["HOME"], ".cache")
	}
	if base == "" {
		return ""
	}
	return filepath.Join(base, "dbake", name)
}

// path returns a file name of the user's as an absolute one; "" stays "".
func (a *app) path(name string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(a.dir, name)
}

// sharedKey tells this project on this machine from all others, without telling
// the nodes its path.
func (a *app) sharedKey(dir string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown" // then only the path tells projects apart
	}
	sum := sha256.Sum256([]byte(host + "\x00" + dir))
	return hex.EncodeToString(sum[:16])
}

// writeMetadata writes the exporters' responses by target, all or nothing.
func (a *app) writeMetadata(name string, r *runtime.Result) error {
	byTarget := map[string]map[string]any{}
	for _, j := range r.Jobs {
		if byTarget[j.Target] == nil {
			byTarget[j.Target] = map[string]any{}
		}
		for k, v := range j.Metadata {
			byTarget[j.Target][k] = v
		}
	}
	dt, err := json.MarshalIndent(byTarget, "", "  ")
	if err != nil {
		return fmt.Errorf("encode metadata: %w", err)
	}
	path := a.path(name)
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write metadata: %w", err)
	}
	_, err = tmp.Write(dt)
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write metadata: %w", errors.Join(err, os.Remove(tmp.Name())))
	}
	return nil
}
