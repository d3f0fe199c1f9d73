package peers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// grace is how long a command that was interrupted may take to end.
const grace = 20 * time.Second

// contender is a way to build a project.
type contender struct {
	name string
	// prepare is called once for an arena, before the first build.
	prepare func(ctx context.Context, a *arena) error
	build   func(ctx context.Context, a *arena) error
}

// contenders returns dbake with each strategy, and the others if buildx is known.
func contenders(dbake, buildx string, strategies []string) []contender {
	var list []contender
	type variant struct{ name, strategy, reuse, cache string }
	variants := []variant{
		{"dbake", strategies[0], "", ""},
		{"dbake, always building", strategies[0], "never", ""},
		{"dbake, bases passed on", strategies[0], "", ",bases=true"},
	}
	for _, s := range strategies[1:] {
		variants = append(variants, variant{"dbake " + s, s, "", ""})
	}
	for _, v := range variants {
		list = append(list, contender{name: v.name, prepare: func(context.Context, *arena) error { return nil }, build: func(ctx context.Context, a *arena) error {
			args := []string{"build", "--progress", "plain", "--timings", "--strategy", v.strategy, "--cache-registry", a.registry.addr + "/" + cacheRepository + v.cache}
			if v.reuse != "" {
				args = append(args, "--reuse", v.reuse)
			}
			for _, n := range a.nodes {
				spec := n.name + "=" + n.addr
				if n.slots > 0 {
					spec += fmt.Sprintf(",slots=%d", n.slots)
				}
				args = append(args, "--nodes", spec)
			}
			return a.command(ctx, "build", dbake, args...)
		}})
	}
	if buildx == "" {
		return list
	}
	x := &bake{program: buildx}
	return append(list,
		contender{"queue", x.prepare, x.queue},
		contender{"bake, all nodes", x.prepare, func(ctx context.Context, a *arena) error { return x.all(ctx, a, "many") }},
		contender{"bake, one node", x.prepare, func(ctx context.Context, a *arena) error { return x.all(ctx, a, a.nodes[0].name) }},
	)
}

// bake builds with docker buildx.
type bake struct{ program string }

// prepare makes a builder for each node, and one of all nodes.
func (x *bake) prepare(ctx context.Context, a *arena) error {
	for i, n := range a.nodes {
		if err := a.command(ctx, "create", x.program, "create", "--name", n.name, "--driver", "remote", n.addr); err != nil {
			return err
		}
		args := []string{"create", "--name", "many", "--node", "many-" + n.name, "--driver", "remote"}
		if i > 0 {
			args = append(args, "--append")
		}
		if err := a.command(ctx, "create", x.program, append(args, n.addr)...); err != nil {
			return err
		}
	}
	out, err := a.output(ctx, x.program, "bake", "--print")
	if err != nil {
		return err
	}
	var printed struct {
		Group  map[string]struct{ Targets []string }
		Target map[string]any
	}
	if err := json.Unmarshal(out, &printed); err != nil {
		return fmt.Errorf("definition of %s: %w", a.project.name, err)
	}
	a.targets = expand(printed.Group, "default")
	return nil
}

// expand returns the targets of a group, each once.
func expand(groups map[string]struct{ Targets []string }, name string) []string {
	g, ok := groups[name]
	if !ok {
		return []string{name}
	}
	var list []string
	for _, member := range g.Targets {
		for _, t := range expand(groups, member) {
			if !slices.Contains(list, t) {
				list = append(list, t)
			}
		}
	}
	return list
}

// cacheFlags are the arguments with which a target has a cache of its own.
func (a *arena) cacheFlags(target string) []string {
	ref := fmt.Sprintf("type=registry,ref=%s/%s/%s", a.registry.addr, cacheRepository, target)
	return []string{"--set", target + ".cache-from=" + ref, "--set", target + ".cache-to=" + ref + ",mode=max"}
}

// all builds everything with one command.
func (x *bake) all(ctx context.Context, a *arena, builder string) error {
	args := []string{"bake", "--progress", "plain", "--builder", builder}
	for _, t := range a.targets {
		args = append(args, a.cacheFlags(t)...)
	}
	return a.command(ctx, "bake", x.program, args...)
}

// queue gives each node one target at a time.
func (x *bake) queue(ctx context.Context, a *arena) error {
	waiting := make(chan string, len(a.targets))
	for _, t := range a.targets {
		waiting <- t
	}
	close(waiting)
	eg, ctx := errgroup.WithContext(ctx)
	for _, n := range a.nodes {
		eg.Go(func() error {
			for t := range waiting {
				if err := ctx.Err(); err != nil {
					return err
				}
				args := append([]string{"bake", "--progress", "plain", "--builder", n.name}, a.cacheFlags(t)...)
				if err := a.command(ctx, "bake-"+t, x.program, append(args, t)...); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return eg.Wait()
}

// arena is where one contender builds one project: nodes, a registry and a home.
type arena struct {
	dir      string
	project  project
	nodes    []*node
	registry *registry
	programs programs
	upstream *registry // with the base images
	targets  []string  // of the default group, each once
	// logs is a directory for what builds print, each in a file of its own that begins
	// with label; "" is none.
	logs, label string
	// phases are those of the last command that said where its time went, in seconds.
	phases []Phase
}

// steps is the file in which nodes note the steps that they start.
func (a *arena) steps() string { return filepath.Join(a.dir, "steps") }

// source is the directory of the project's files.
func (a *arena) source() string { return filepath.Join(a.dir, "src") }

// openArena starts empty nodes and an empty registry below dir.
func openArena(ctx context.Context, dir string, p project, nodes, slots int, cpus float64, programs programs, upstream *registry) (_ *arena, err error) {
	a := &arena{dir: dir, project: p, programs: programs, upstream: upstream}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	for _, d := range []string{a.source(), filepath.Join(dir, "home")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	if err := p.write(a.source(), upstream.addr+"/library/busybox:1"); err != nil {
		return nil, err
	}
	if a.registry, err = newRegistry(ctx, filepath.Join(dir, "registry")); err != nil {
		return nil, err
	}
	if p.nodes > 0 {
		nodes = p.nodes
	}
	if p.unlimited {
		slots = 0
	}
	for i := range nodes {
		n := &node{name: fmt.Sprintf("n%d", i+1), slots: slots}
		n.dir = filepath.Join(dir, n.name)
		a.nodes = append(a.nodes, n)
		if n.quota, err = newQuota(fmt.Sprintf("/dbake-peers-%d/%s", os.Getpid(), n.name), cpus); err != nil {
			return nil, err
		}
	}
	return a, a.start(ctx)
}

// start starts all nodes at once.
func (a *arena) start(ctx context.Context) error {
	eg, ctx := errgroup.WithContext(ctx)
	for _, n := range a.nodes {
		eg.Go(func() error { return n.start(ctx, a.programs, a.upstream.addr, a.steps()) })
	}
	return eg.Wait()
}

// stop stops all nodes.
func (a *arena) stop() error {
	var eg errgroup.Group
	for _, n := range a.nodes {
		eg.Go(n.stop)
	}
	return eg.Wait()
}

// renew replaces the nodes by some that hold nothing.
func (a *arena) renew(ctx context.Context) error {
	if err := a.stop(); err != nil {
		return err
	}
	for _, n := range a.nodes {
		if err := n.forget(); err != nil {
			return err
		}
	}
	return a.start(ctx)
}

// close ends everything and removes it.
func (a *arena) close() error {
	var errs []error
	for _, n := range a.nodes {
		errs = append(errs, n.close())
	}
	if a.registry != nil {
		errs = append(errs, a.registry.close())
	}
	return errors.Join(append(errs, os.RemoveAll(a.dir))...)
}

// environ is that of every command: a home of the arena's own.
func (a *arena) environ() []string {
	home := filepath.Join(a.dir, "home")
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "BUILDX_CONFIG=" + filepath.Join(home, "buildx"),
		"REGISTRY=" + a.registry.addr, "DBAKE_REGISTRY=" + a.registry.addr,
	}
}

// command runs a program on the project. Its output is part of the error.
func (a *arena) command(ctx context.Context, what, program string, args ...string) error {
	var log bytes.Buffer
	cmd := a.cmd(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	err := cmd.Run()
	if phases := parsePhases(log.String()); phases != nil {
		a.phases = phases
	}
	if a.logs != "" && a.label != "" {
		name := strings.Map(plainRune, a.label+"_"+what) + ".log"
		if err := os.WriteFile(filepath.Join(a.logs, name), log.Bytes(), 0o644); err != nil {
			return err
		}
	}
	if err != nil {
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		return fmt.Errorf("%s: %w\n%s", what, err, strings.Join(lines[max(0, len(lines)-25):], "\n"))
	}
	return nil
}

// plainRune is for names of files.
func plainRune(r rune) rune {
	if r == ' ' || r == ',' || r == '/' {
		return '-'
	}
	return r
}

// output runs a program on the project and returns what it printed.
func (a *arena) output(ctx context.Context, program string, args ...string) ([]byte, error) {
	out, err := a.cmd(ctx, program, args...).Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil, fmt.Errorf("%s: %w\n%s", program, err, exit.Stderr)
	}
	return out, err
}

func (a *arena) cmd(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env = a.source(), a.environ()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = grace
	return cmd
}

// execution is what nodes noted of steps: how many were started, how long all took
// together, and the longest of them.
type execution struct {
	count         int
	took, longest time.Duration
}

// takeExecution returns what nodes executed since the last call.
func (a *arena) takeExecution() (execution, error) {
	text, err := os.ReadFile(a.steps())
	if errors.Is(err, os.ErrNotExist) {
		return execution{}, nil
	}
	if err != nil {
		return execution{}, err
	}
	return parseSteps(string(text)), os.Truncate(a.steps(), 0)
}

// parseSteps reads what the runtimes of nodes wrote: a line with the node for each start,
// and one with the nanoseconds for each end.
func parseSteps(text string) execution {
	var e execution
	for line := range strings.Lines(text) {
		switch fields := strings.Fields(line); len(fields) {
		case 1:
			e.count++
		case 2:
			ns, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				continue // half a line
			}
			e.took += time.Duration(ns)
			e.longest = max(e.longest, time.Duration(ns))
		}
	}
	return e
}

// sentBytes returns the bytes that clients sent to nodes so far.
func (a *arena) sentBytes() int64 {
	var sum int64
	for _, n := range a.nodes {
		sum += n.proxy.sent.Load()
	}
	return sum
}
