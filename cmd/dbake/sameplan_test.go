package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
	apitypes "github.com/moby/buildkit/api/types"
	"github.com/moby/buildkit/client/buildid"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	apicapspb "github.com/moby/buildkit/util/apicaps/pb"
	digest "github.com/opencontainers/go-digest"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/dbake/dbake/internal/engine"
	"github.com/dbake/dbake/internal/report"
)

// planOf returns the digest of the plan that a session of a request makes, or the
// error that it ends with.
func planOf(t *testing.T, a *app, r engine.Request) (digest.Digest, string) {
	t.Helper()
	s := a.engine().Open(r)
	defer func() { require.NoError(t, s.Close()) }()
	if err := s.Through(t.Context(), engine.Access); err != nil {
		return "", err.Error()
	}
	if len(s.Definition().Targets) == 0 {
		return "", "nothing to build"
	}
	if err := s.Through(t.Context(), engine.Divide); err != nil {
		return "", err.Error()
	}
	definitions, err := s.Definitions()
	require.NoError(t, err)
	full, err := report.New(t.Context(), s.Build(), s.Plan())
	require.NoError(t, err)
	require.NoError(t, full.Reasons(t.Context()))
	var b bytes.Buffer
	require.NoError(t, full.File(report.Request{}, definitions).Write(&b))
	return digest.FromBytes(b.Bytes()), ""
}

// requests returns what "dbake plan ARGS" and "dbake build ARGS" ask of the engine.
func requests(t *testing.T, a *app, args ...string) (planned, built engine.Request) {
	t.Helper()
	require.NoError(t, a.showProgress(nil))
	parse := func(command string) *cli {
		var c cli
		parser, err := newParser(&c, a.stdout, a.stderr, func(int) {})
		require.NoError(t, err)
		line, err := flagsFirst(parser.Model.Node, append([]string{command}, args...))
		require.NoError(t, err)
		_, err = parser.Parse(line.args)
		require.NoError(t, err)
		line.lists.set()
		return &c
	}
	var err error
	c := parse("plan")
	planned, err = c.Plan.request(a)
	require.NoError(t, err)
	c = parse("build")
	c.Build.moment = planned.Moment // the same world
	built, err = c.Build.request(a)
	require.NoError(t, err)
	return planned, built
}

// What "plan" shows is what "build" does, for the projects of all scripts. Nobody is
// asked: facts of nodes are those that are given.
func TestPlanIsWhatIsBuilt(t *testing.T) {
	scripts, err := filepath.Glob(filepath.Join("testdata", "script", "*.txtar"))
	require.NoError(t, err)
	plans := 0
	for _, script := range scripts {
		archive, err := txtar.ParseFile(script)
		require.NoError(t, err)
		a := &app{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, dir: t.TempDir()}
		a.env = map[string]string{"HOME": t.TempDir(), "BUILDX_GIT_LABELS": "full"}
		for _, f := range archive.Files {
			name := filepath.Join(a.dir, f.Name)
			require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
			require.NoError(t, os.WriteFile(name, f.Data, 0o600))
		}
		for _, nodes := range [][]string{
			{"--nodes", "one=tcp://127.0.0.1:1,platforms=linux/arm64", "--nodes", "two=tcp://127.0.0.1:2,speed=2,slots=3"},
			{"--nodes", "one=tcp://127.0.0.1:1"},
			{"--strategy", "round-robin", "--nodes", "local:2", "--state-dir", t.TempDir()},
		} {
			p, b := requests(t, a, append(nodes, "--history", "none", "--allow", "fs=*")...)
			p.Reach, b.Reach = engine.Offline, engine.Offline
			p.Admit, b.Admit, b.Load = nil, nil, nil // these ask the user, and this machine's engine
			want, whyNot := planOf(t, a, p)
			got, whyNeither := planOf(t, a, b)
			require.Equal(t, want, got, "%s %s", script, nodes)
			require.Equal(t, whyNot, whyNeither, "%s %s", script, nodes)
			if want != "" {
				plans++
			}
		}
	}
	require.Greater(t, plans, 10)
}

// answeringNode is a BuildKit node that says what it is, and builds nothing.
type answeringNode struct {
	controlapi.UnimplementedControlServer
	platform *pb.Platform
	lacks    []apicaps.CapID
	version  string       // "" = it does not say
	begun    atomic.Int64 // builds

	mu   sync.Mutex
	ends map[string]chan struct{} // of solves, by ref; guarded by mu
}

func (d *answeringNode) end(ref string) chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ends[ref] == nil {
		d.ends[ref] = make(chan struct{})
	}
	return d.ends[ref]
}

func (d *answeringNode) ListWorkers(context.Context, *controlapi.ListWorkersRequest) (*controlapi.ListWorkersResponse, error) {
	return &controlapi.ListWorkersResponse{Record: []*apitypes.WorkerRecord{{
		ID: "worker", Platforms: []*pb.Platform{d.platform}, BuildkitVersion: &apitypes.BuildkitVersion{Version: d.version},
	}}}, nil
}

func (d *answeringNode) DiskUsage(context.Context, *controlapi.DiskUsageRequest) (*controlapi.DiskUsageResponse, error) {
	return &controlapi.DiskUsageResponse{}, nil
}

func (d *answeringNode) Session(stream controlapi.Control_SessionServer) error {
	for {
		if _, err := stream.Recv(); err != nil {
			return nil
		}
	}
}

func (d *answeringNode) Solve(ctx context.Context, r *controlapi.SolveRequest) (*controlapi.SolveResponse, error) {
	select {
	case <-d.end(r.Ref):
		return &controlapi.SolveResponse{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (d *answeringNode) Status(*controlapi.StatusRequest, controlapi.Control_StatusServer) error {
	return nil
}

// bridge is what it offers to frontends.
type bridge struct {
	gwpb.UnimplementedLLBBridgeServer
	*answeringNode
}

func (d bridge) Solve(context.Context, *gwpb.SolveRequest) (*gwpb.SolveResponse, error) {
	return nil, errors.New("builds nothing")
}

func (d bridge) Ping(context.Context, *gwpb.PingRequest) (*gwpb.PongResponse, error) {
	d.begun.Add(1)
	var caps []*apicapspb.APICap
	for _, c := range pb.Caps.All() {
		if !slices.Contains(d.lacks, apicaps.CapID(c.ID)) {
			caps = append(caps, c)
		}
	}
	return &gwpb.PongResponse{FrontendAPICaps: gwpb.Caps.All(), LLBCaps: caps, Workers: []*apitypes.WorkerRecord{{ID: "worker"}}}, nil
}

func (d bridge) Return(ctx context.Context, _ *gwpb.ReturnRequest) (*gwpb.ReturnResponse, error) {
	close(d.end(buildid.FromIncomingContext(ctx)))
	return &gwpb.ReturnResponse{}, nil
}

// start serves the daemon and returns its address.
func (d *answeringNode) start(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	d.ends = map[string]chan struct{}{}
	srv := grpc.NewServer()
	controlapi.RegisterControlServer(srv, d)
	gwpb.RegisterLLBBridgeServer(srv, bridge{answeringNode: d})
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Stop()
		require.NoError(t, <-done)
	})
	return "tcp://" + l.Addr().String()
}

// A plan has the nodes' own word on what they are and support, as a build has.
func TestPlanAsksNodes(t *testing.T) {
	node := &answeringNode{platform: &pb.Platform{OS: "linux", Architecture: "s390x"}, lacks: []apicaps.CapID{pb.CapMergeOp, pb.CapAttestations}}
	addr := node.start(t)
	a := &app{stdin: strings.NewReader(""), stderr: io.Discard, dir: t.TempDir()}
	a.env = map[string]string{"HOME": t.TempDir()}
	require.NoError(t, os.WriteFile(filepath.Join(a.dir, "file"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(a.dir, "Dockerfile"), []byte(`FROM scratch AS linux-s390x
RUN for s390x
COPY --link file /
FROM scratch AS linux-amd64
RUN for amd64
FROM scratch AS linux-arm64
RUN for arm64
FROM ${TARGETOS}-${TARGETARCH}
RUN end
`), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(a.dir, "docker-bake.hcl"), []byte("target \"default\" {}\n"), 0o600))
	args := []string{"--history", "none", "--nodes", "one=" + addr}

	var out bytes.Buffer
	a.stdout = &out
	require.Zero(t, run(append([]string{"plan", "--format", "json"}, args...), a))
	require.Contains(t, out.String(), "RUN for s390x")
	shown, err := report.ReadFile(&out)
	require.NoError(t, err)
	for _, step := range shown.Steps {
		require.NotEqual(t, "merge", step.Kind, "the node does not support it")
	}
	shown.Request, shown.World = report.Request{}, nil
	for i := range shown.Targets {
		require.NotEmpty(t, shown.Targets[i].ImageKey)
		shown.Targets[i].ImageKey = "" // a build does not say
	}
	var b bytes.Buffer
	require.NoError(t, shown.Write(&b))

	_, built := requests(t, a, args...)
	got, failed := planOf(t, a, built)
	require.Empty(t, failed)
	require.Equal(t, digest.FromBytes(b.Bytes()), got)
}

// A node whose capabilities are known is not asked for them again, until it is another one or
// has another version. One that does not know its version is asked each time.
func TestCapsAreAskedOnce(t *testing.T) {
	node := &answeringNode{platform: &pb.Platform{OS: "linux", Architecture: "amd64"}, lacks: []apicaps.CapID{pb.CapMergeOp}, version: "v1"}
	addr := node.start(t)
	a := &app{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, dir: t.TempDir()}
	a.env = map[string]string{"HOME": t.TempDir()}
	require.NoError(t, os.WriteFile(filepath.Join(a.dir, "file"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(a.dir, "Dockerfile"), []byte("FROM scratch\nCOPY --link file /\nCOPY --link file /b\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(a.dir, "docker-bake.hcl"), []byte("target \"default\" {}\n"), 0o600))
	_, built := requests(t, a, "--nodes", "one="+addr)
	plan := func() string {
		before := node.begun.Load()
		d, failed := planOf(t, a, built)
		require.Empty(t, failed)
		return fmt.Sprint(node.begun.Load()-before, d)
	}
	first, _ := strings.CutPrefix(plan(), "1")
	require.Equal(t, "0"+first, plan(), "the plan is the same")
	node.version = "v2"
	require.Equal(t, "1"+first, plan())
	require.Equal(t, "0"+first, plan())
	node.version = "v0.0.0+unknown"
	require.Equal(t, "1"+first, plan())
	require.Equal(t, "1"+first, plan())
}
