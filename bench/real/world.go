package real

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/platforms"

	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/cost"
	"github.com/dbake/dbake/internal/filesum"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/local"
	"github.com/dbake/dbake/runtime/nodeset"
	"github.com/dbake/dbake/runtime/registry"
	"github.com/dbake/dbake/runtime/sched"
)

// stopTimeout bounds how long daemons are asked to end before they are killed.
const stopTimeout = 30 * time.Second

// world is a cluster on this machine, whose nodes can be made to forget.
type world struct {
	options local.Options
	slots   int
	cluster *local.Cluster
	history *cost.Store
	files   *filesum.Cache
	frozen  bool // nothing is learned any more
}

// open starts the cluster below dir and makes the base images.
func open(ctx context.Context, o local.Options, slots int, bases string) (*world, error) {
	history, err := cost.Open(cost.InMemory, cost.Options{})
	if err != nil {
		return nil, err
	}
	w := &world{options: o, slots: slots, history: history, files: filesum.Open("", time.Now())}
	if err := w.start(ctx); err != nil {
		return nil, err
	}
	env, err := hostEnv(ctx)
	if err == nil {
		_, _, err = w.build(ctx, bases, env, partition.DefaultStrategy)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make the base images: %w", err), w.stop())
	}
	return w, nil
}

// hostEnv says where the base images find what they are made of.
func hostEnv(ctx context.Context) (map[string]string, error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT", "GOVERSION").Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	goroot, version, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	version, _, _ = strings.Cut(strings.TrimPrefix(version, "go"), " ")
	return map[string]string{"BUSYBOX_DIR": filepath.Dir(busybox), "GOROOT": goroot, "GO_VERSION": version}, nil
}

func (w *world) start(ctx context.Context) error {
	var err error
	if w.cluster, err = local.Open(ctx, w.options); err != nil {
		return err
	}
	if w.cluster.Kept() > 0 {
		return fmt.Errorf("%s is in use by a cluster that is kept running", w.options.StateDir)
	}
	return w.cluster.Start(ctx)
}

func (w *world) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return w.cluster.Stop(ctx)
}

// renew replaces the nodes by some that hold nothing. The registry keeps what it
// has.
func (w *world) renew(ctx context.Context) error {
	if err := w.stop(); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(w.options.StateDir, "nodes")); err != nil {
		return err
	}
	return w.start(ctx)
}

// build plans the project in dir and carries the plan out, on nodes of which nothing
// is known to be held.
func (w *world) build(ctx context.Context, dir string, env map[string]string, strategy string) (p *plan.Plan, r *runtime.Result, err error) {
	var specs []nodeset.Spec
	for _, n := range w.cluster.Nodes() {
		specs = append(specs, nodeset.Spec{Name: n.Name, Addr: n.Addr, Speed: 1, Slots: w.slots})
	}
	pool, err := runtime.Dial(ctx, specs, runtime.DialOptions{})
	if err != nil {
		return nil, nil, err
	}
	defer pool.Close()
	infos := pool.Nodes()

	b, err := w.prepare(ctx, dir, env, infos)
	if err != nil {
		return nil, nil, err
	}
	var nodes []plan.Node
	for _, i := range infos {
		nodes = append(nodes, plan.Node{Name: i.Name, Addr: i.Addr, Speed: i.Speed, Slots: i.Slots, Platforms: i.Platforms})
	}
	s, err := partition.Lookup(strategy)
	if err != nil {
		return nil, nil, err
	}
	if p, err = plan.Make(ctx, b, nodes, s, partition.Options{}); err != nil {
		return nil, nil, err
	}
	request := &runtime.Build{
		Graph: b.Graph, Jobs: b.Jobs, Steps: p.Exchange.Steps, Dir: dir, Stdout: io.Discard,
		Sched:  runtime.Schedule(p, sched.Options{Steal: len(nodes) > 1, Backoff: time.Second, Ahead: 1, NoHedge: true}),
		Inputs: runtime.Inputs{Dirs: b.Locals(), Env: env, SharedKey: dir},
	}
	if r, err = pool.Run(ctx, request, func(runtime.Event) {}); err != nil {
		return nil, nil, err
	}
	if w.frozen {
		return p, r, nil
	}
	slots := map[string]int{}
	for _, n := range nodes {
		slots[n.Name] = n.Slots
	}
	var list []plan.Measurement
	for _, m := range r.Measured {
		list = append(list, plan.Measurement{Node: m.Node, Vertex: m.Vertex, Job: m.Job, Start: m.Start, Took: m.Took})
	}
	b.Record(w.history, list, slots, nil, time.Now())
	return p, r, nil
}

// prepare compiles the project in dir.
func (w *world) prepare(ctx context.Context, dir string, env map[string]string, infos []runtime.NodeInfo) (*plan.Build, error) {
	local := w.cluster.Registry()
	all := map[string]string{"DBAKE_REGISTRY": local}
	for k, v := range env {
		all[k] = v
	}
	project, err := compiler.Compile(ctx, compiler.Options{Dir: dir, Env: all, Platform: platforms.Format(platforms.DefaultSpec())})
	if err != nil {
		return nil, err
	}
	client := registry.New(registry.Options{Hosts: map[string]registry.Host{
		"docker.io": {Mirrors: []string{local}},
		local:       {PlainHTTP: true},
	}})
	defer client.Close()
	return plan.Prepare(ctx, project, frontend.Options{
		Dir: dir, NodePlatform: infos[0].Platforms[0],
		Resolver: frontend.NewRegistryResolver(frontend.RegistryOptions{Client: client}),
	}, plan.Memory{History: w.history, Files: w.files})
}
