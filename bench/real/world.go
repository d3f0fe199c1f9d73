package real

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/platforms"

	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/internal/engine"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/nodeset"
)

// world is this machine with local nodes, which can be made to forget. Nodes run while
// something is built; between builds there is only what they keep in dir.
type world struct {
	dir       string // of everything
	buildkitd string
	nodes     int
	slots     int
	frozen    bool // nothing is learned any more

	duplicates plan.Duplicates
}

// open makes the base images.
func open(ctx context.Context, w world, bases string) (*world, error) {
	env, err := HostEnv(ctx)
	if err == nil {
		_, _, err = w.build(ctx, bases, env, partition.DefaultStrategy)
	}
	if err != nil {
		return nil, fmt.Errorf("make the base images: %w", err)
	}
	return &w, nil
}

// HostEnv says where the base images find what they are made of.
func HostEnv(ctx context.Context) (map[string]string, error) {
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

// state is where nodes and registry keep their state.
func (w *world) state() string { return filepath.Join(w.dir, "state") }

// renew replaces the nodes by some that hold nothing. The registry keeps what it has.
func (w *world) renew() error { return os.RemoveAll(filepath.Join(w.state(), "nodes")) }

// build plans the project in dir and carries the plan out.
func (w *world) build(ctx context.Context, dir string, env map[string]string, strategy string) (_ *plan.Plan, _ *runtime.Result, err error) {
	specs, err := nodeset.Parse([]string{fmt.Sprintf("local:%d,slots=%d", w.nodes, w.slots)})
	if err != nil {
		return nil, nil, err
	}
	divide, err := partition.Lookup(strategy)
	if err != nil {
		return nil, nil, err
	}
	all := map[string]string{"XDG_CACHE_HOME": filepath.Join(w.dir, "memory")}
	maps.Copy(all, env)
	s := engine.New(engine.Config{Dir: dir, Env: all, Stdout: io.Discard, Report: deaf{}}).Open(engine.Request{
		Definition: compiler.Options{Dir: dir, Platform: platforms.Format(platforms.DefaultSpec())},
		Nodes:      engine.Nodes{Specs: specs, StateDir: w.state(), Buildkitd: w.buildkitd},
		Reach:      engine.Started,
		Strategy:   divide,
		Duplicates: w.duplicates,
	})
	defer func() { err = errors.Join(err, s.Close()) }()
	last := engine.Remember
	if w.frozen {
		last = engine.Run
	}
	if err := s.Through(ctx, last); err != nil {
		return nil, nil, err
	}
	result, err := s.Result()
	return s.Plan(), result, err
}

// deaf is an [engine.Reporter] that nobody reads.
type deaf struct{}

func (deaf) Note(string)                               {}
func (deaf) Warn(string)                               {}
func (deaf) Begin(*plan.Build, *plan.Plan, bool) error { return nil }
func (deaf) Observe(runtime.Event)                     {}
func (deaf) End()                                      {}
