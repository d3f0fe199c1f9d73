package simnode

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	apitypes "github.com/moby/buildkit/api/types"
	"github.com/moby/buildkit/client/buildid"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/grpcerrors"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/dbake/dbake/internal/pause"
)

// process is the daemon of a node from its start to its end.
type process struct {
	controlapi.UnimplementedControlServer
	node   *Node
	disk   *disk
	listen *listener
	server *grpc.Server
	ctx    context.Context
	cancel context.CancelFunc
	// sessions are those of clients.
	sessions *session.Manager
	slots    chan struct{}
	wg       sync.WaitGroup

	mu      sync.Mutex
	jobs    map[string]*job          // by ref; guarded by mu
	past    map[string]*job          // those that ended a moment ago; guarded by mu
	changed chan struct{}            // closed and replaced when jobs changes; guarded by mu
	states  map[digest.Digest]*state // of steps that some job uses; guarded by mu
}

func newProcess(n *Node, d *disk) *process {
	slots := n.options.Slots
	if slots == 0 {
		slots = 4
	}
	p := &process{
		node: n, disk: d, listen: newListener(), slots: make(chan struct{}, slots),
		jobs: map[string]*job{}, past: map[string]*job{}, changed: make(chan struct{}), states: map[digest.Digest]*state{},
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.sessions, _ = session.NewManager() // it never fails
	p.server = grpc.NewServer(
		grpc.UnaryInterceptor(grpcerrors.UnaryServerInterceptor), grpc.StreamInterceptor(grpcerrors.StreamServerInterceptor),
		grpc.WaitForHandlers(true),
	)
	controlapi.RegisterControlServer(p.server, p)
	gatewayapi.RegisterLLBBridgeServer(p.server, &bridge{process: p})
	p.wg.Go(func() { _ = p.server.Serve(p.listen) }) // ends with close
	return p
}

// close ends the process, and waits.
func (p *process) close() {
	p.cancel()
	p.server.Stop()
	p.wg.Wait()
}

// usedKeys are the keys of the results that builds use.
func (p *process) usedKeys() map[digest.Digest]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	used := map[digest.Digest]bool{}
	for _, st := range p.states {
		used[st.key] = true
	}
	return used
}

// job is one build.
type job struct {
	process  *process
	ref      string
	session  string
	ctx      context.Context
	began    time.Time
	internal bool // not listed

	// These are guarded by process.mu.
	states   map[*state]bool
	caches   map[string]*imported // by type and attributes
	log      []*controlapi.StatusResponse
	more     chan struct{} // closed and replaced when log grows or the job ends
	ended    bool
	refs     map[string]ref
	returned chan *gatewayapi.ReturnRequest
}

// ref is a result that a client has been given a name for.
type ref struct {
	state  *state
	output int
}

// Session implements the control API.
func (p *process) Session(stream controlapi.Control_SessionServer) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	conn := &sessionConn{stream: stream, ended: make(chan struct{})}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	stop := context.AfterFunc(p.ctx, cancel)
	defer stop()
	return p.sessions.HandleConn(ctx, conn, md)
}

// sessionConn is a session's stream as a connection. That of BuildKit waits in Close for
// a reader that waits for the client; in a bubble, time does not pass meanwhile.
type sessionConn struct {
	stream controlapi.Control_SessionServer
	rest   []byte // of the last message; used by the one reader
	write  sync.Mutex
	once   sync.Once
	ended  chan struct{}
	address
}

// Read implements net.Conn.
func (c *sessionConn) Read(b []byte) (int, error) {
	for len(c.rest) == 0 {
		m, err := c.stream.Recv()
		if err != nil {
			return 0, err
		}
		c.rest = m.Data
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// Write implements net.Conn.
func (c *sessionConn) Write(b []byte) (int, error) {
	select {
	case <-c.ended:
		return 0, net.ErrClosed
	default:
	}
	c.write.Lock()
	defer c.write.Unlock()
	if err := c.stream.Send(&controlapi.BytesMessage{Data: b}); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close implements net.Conn. The reader ends with the stream.
func (c *sessionConn) Close() error {
	c.once.Do(func() { close(c.ended) })
	return nil
}

// LocalAddr implements net.Conn.
func (c *sessionConn) LocalAddr() net.Addr { return c.address }

// RemoteAddr implements net.Conn.
func (c *sessionConn) RemoteAddr() net.Addr { return c.address }

// SetDeadline implements net.Conn.
func (c *sessionConn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (c *sessionConn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn.
func (c *sessionConn) SetWriteDeadline(time.Time) error { return nil }

// Info implements the control API.
func (p *process) Info(context.Context, *controlapi.InfoRequest) (*controlapi.InfoResponse, error) {
	return &controlapi.InfoResponse{BuildkitVersion: &apitypes.BuildkitVersion{Package: "github.com/moby/buildkit", Version: "v0.34.2"}}, nil
}

func (p *process) worker() *apitypes.WorkerRecord {
	return &apitypes.WorkerRecord{ID: p.disk.id, Labels: p.node.labels(), Platforms: []*pb.Platform{{OS: "linux", Architecture: "amd64"}}}
}

// ListenBuildHistory implements the control API, as far as a list of the builds under way.
func (p *process) ListenBuildHistory(req *controlapi.BuildHistoryRequest, stream controlapi.Control_ListenBuildHistoryServer) error {
	if !req.ActiveOnly || !req.EarlyExit {
		return status.Error(codes.Unimplemented, "a simulated node lists the builds under way only")
	}
	p.mu.Lock()
	var list []*controlapi.BuildHistoryRecord
	for _, ref := range slices.Sorted(maps.Keys(p.jobs)) {
		if j := p.jobs[ref]; !j.internal {
			list = append(list, &controlapi.BuildHistoryRecord{Ref: ref, CreatedAt: timestamppb.New(j.began)})
		}
	}
	p.mu.Unlock()
	for _, r := range list {
		if err := stream.Send(&controlapi.BuildHistoryEvent{Type: controlapi.BuildHistoryEventType_STARTED, Record: r}); err != nil {
			return err
		}
	}
	return nil
}

// ListWorkers implements the control API.
func (p *process) ListWorkers(context.Context, *controlapi.ListWorkersRequest) (*controlapi.ListWorkersResponse, error) {
	return &controlapi.ListWorkersResponse{Record: []*apitypes.WorkerRecord{p.worker()}}, nil
}

// DiskUsage implements the control API.
func (p *process) DiskUsage(context.Context, *controlapi.DiskUsageRequest) (*controlapi.DiskUsageResponse, error) {
	p.disk.mu.Lock()
	defer p.disk.mu.Unlock()
	resp := &controlapi.DiskUsageResponse{}
	for _, k := range slices.Sorted(maps.Keys(p.disk.results)) {
		r := p.disk.results[k]
		resp.Record = append(resp.Record, &controlapi.UsageRecord{ID: k.Encoded(), Size: 1, RecordType: "regular", Description: r.text, CreatedAt: timestamppb.New(r.created)})
	}
	return resp, nil
}

// Prune implements the control API.
func (p *process) Prune(_ *controlapi.PruneRequest, stream controlapi.Control_PruneServer) error {
	used := p.usedKeys()
	p.disk.mu.Lock()
	var gone []digest.Digest
	for _, k := range slices.Sorted(maps.Keys(p.disk.results)) {
		if !used[k] {
			delete(p.disk.results, k)
			gone = append(gone, k)
		}
	}
	p.disk.sweep()
	p.disk.mu.Unlock()
	for _, k := range gone {
		if err := stream.Send(&controlapi.UsageRecord{ID: k.Encoded(), Size: 1, RecordType: "regular"}); err != nil {
			return err
		}
	}
	return nil
}

// Solve implements the control API: a build that the client leads through the gateway, and
// the outputs of its result.
func (p *process) Solve(ctx context.Context, req *controlapi.SolveRequest) (*controlapi.SolveResponse, error) {
	if req.Frontend != "" || req.Definition != nil {
		return nil, status.Error(codes.Unimplemented, "a simulated node solves through the gateway only")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(p.ctx, func() { cancel(errors.New("the daemon is shutting down")) })
	defer stop()
	if req.Session != "" {
		caller, err := p.caller(ctx, req.Session)
		if err != nil {
			return nil, err
		}
		// A build ends with its session.
		over := context.AfterFunc(caller.Context(ctx), func() { cancel(errors.New("the session has ended")) })
		defer over()
	}
	j := &job{
		process: p, ref: req.Ref, session: req.Session, ctx: ctx, began: time.Now(), internal: req.Internal, states: map[*state]bool{}, caches: map[string]*imported{},
		more: make(chan struct{}), refs: map[string]ref{}, returned: make(chan *gatewayapi.ReturnRequest, 1),
	}
	p.enter(j)
	defer p.leave(j)
	var ret *gatewayapi.ReturnRequest
	select {
	case ret = <-j.returned:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if ret.Error != nil {
		return nil, grpcerrors.FromGRPC(status.ErrorProto(ret.Error))
	}
	resp, err := j.export(ctx, req, ret.Result)
	if err != nil {
		return nil, err
	}
	return &controlapi.SolveResponse{ExporterResponse: resp}, nil
}

// sessionTimeout is how long a build waits for its session.
const sessionTimeout = 5 * time.Second

func (p *process) caller(ctx context.Context, id string) (session.Caller, error) {
	ctx, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	return p.sessions.Get(ctx, id, false)
}

func (p *process) enter(j *job) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.jobs[j.ref] = j
	close(p.changed)
	p.changed = make(chan struct{})
}

// statusKept is for how long a client can still ask what became of a build.
const statusKept = 10 * time.Second

// leave forgets a job, and the steps that no other uses.
func (p *process) leave(j *job) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.jobs, j.ref)
	p.past[j.ref] = j
	p.wg.Go(func() {
		_ = pause.For(p.ctx, statusKept) // or until the end of all
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.past, j.ref)
	})
	for st := range j.states {
		delete(st.jobs, j)
		if len(st.jobs) == 0 && p.states[st.digest] == st {
			delete(p.states, st.digest)
		}
	}
	j.ended = true
	close(j.more)
	j.more = make(chan struct{})
}

// find returns a build, for which it waits a moment.
func (p *process) find(ctx context.Context, id string) (*job, error) {
	timer := time.NewTimer(3 * time.Second)
	defer timer.Stop()
	for {
		p.mu.Lock()
		j, changed := p.jobs[id], p.changed
		p.mu.Unlock()
		if j != nil {
			return j, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return nil, errdefs.NewUnknownJobError(id)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-p.ctx.Done():
			return nil, context.Cause(p.ctx)
		}
	}
}

// Status implements the control API.
func (p *process) Status(req *controlapi.StatusRequest, stream controlapi.Control_StatusServer) error {
	p.mu.Lock()
	j := p.past[req.Ref]
	p.mu.Unlock()
	if j == nil {
		var err error
		if j, err = p.find(stream.Context(), req.Ref); err != nil {
			return err
		}
	}
	for sent := 0; ; {
		p.mu.Lock()
		list, more, ended := j.log[sent:], j.more, j.ended
		p.mu.Unlock()
		for _, s := range list {
			if err := stream.Send(s); err != nil {
				return err
			}
		}
		sent += len(list)
		if ended && len(list) == 0 {
			return nil
		}
		if len(list) > 0 {
			continue
		}
		select {
		case <-more:
		case <-stream.Context().Done():
			return context.Cause(stream.Context())
		}
	}
}

// say adds to the status for the client of a job; p.mu is held.
func (j *job) say(s *controlapi.StatusResponse) {
	j.log = append(j.log, s)
	close(j.more)
	j.more = make(chan struct{})
}

// bridge is the gateway API of a process.
type bridge struct {
	gatewayapi.UnimplementedLLBBridgeServer
	*process
}

// of returns the build that a call belongs to.
func (b *bridge) of(ctx context.Context) (*job, error) {
	id := buildid.FromIncomingContext(ctx)
	if id == "" {
		return nil, errors.New("no buildid found in context")
	}
	return b.find(ctx, id)
}

// Ping implements the gateway API.
func (b *bridge) Ping(ctx context.Context, _ *gatewayapi.PingRequest) (*gatewayapi.PongResponse, error) {
	if _, err := b.of(ctx); err != nil {
		return nil, err
	}
	return &gatewayapi.PongResponse{FrontendAPICaps: gatewayapi.Caps.All(), LLBCaps: pb.Caps.All(), Workers: []*apitypes.WorkerRecord{b.worker()}}, nil
}

// Return implements the gateway API.
func (b *bridge) Return(ctx context.Context, req *gatewayapi.ReturnRequest) (*gatewayapi.ReturnResponse, error) {
	j, err := b.of(ctx)
	if err != nil {
		return nil, err
	}
	select {
	case j.returned <- req:
	default: // it has returned before
	}
	return &gatewayapi.ReturnResponse{}, nil
}

// Solve implements the gateway API.
func (b *bridge) Solve(ctx context.Context, req *gatewayapi.SolveRequest) (*gatewayapi.SolveResponse, error) {
	j, err := b.of(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(j.ctx, func() { cancel(context.Cause(j.ctx)) })
	defer stop()
	caches := j.imports(req.CacheImports)
	if req.Definition == nil || len(req.Definition.Def) == 0 {
		return &gatewayapi.SolveResponse{Result: &gatewayapi.Result{Result: &gatewayapi.Result_Ref{Ref: &gatewayapi.Ref{}}}}, nil
	}
	r, err := j.load(req.Definition, caches)
	if err != nil {
		return nil, fmt.Errorf("failed to load LLB: %w", err)
	}
	if req.Evaluate {
		if _, err := b.run(ctx, r.state); err != nil {
			return nil, err
		}
	}
	b.mu.Lock()
	id := fmt.Sprint("ref", len(j.refs))
	j.refs[id] = r
	b.mu.Unlock()
	return &gatewayapi.SolveResponse{Result: &gatewayapi.Result{Result: &gatewayapi.Result_Ref{Ref: &gatewayapi.Ref{Id: id, Def: req.Definition}}}}, nil
}

// result returns what a name stands for, once it is there.
func (j *job) result(ctx context.Context, id string) (*result, error) {
	j.process.mu.Lock()
	r, ok := j.refs[id]
	j.process.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("no such ref: %s", id)
	}
	res, err := j.process.run(ctx, r.state)
	if err != nil {
		return nil, err
	}
	return res.output(r.output), nil
}

// Evaluate implements the gateway API.
func (b *bridge) Evaluate(ctx context.Context, req *gatewayapi.EvaluateRequest) (*gatewayapi.EvaluateResponse, error) {
	j, err := b.of(ctx)
	if err != nil {
		return nil, err
	}
	_, err = j.result(ctx, req.Ref)
	return &gatewayapi.EvaluateResponse{}, err
}

// ReadDir implements the gateway API. Nothing has files, but what is read has to be there.
func (b *bridge) ReadDir(ctx context.Context, req *gatewayapi.ReadDirRequest) (*gatewayapi.ReadDirResponse, error) {
	j, err := b.of(ctx)
	if err != nil {
		return nil, err
	}
	res, err := j.result(ctx, req.Ref)
	if err == nil {
		err = b.fetch(ctx, res)
	}
	return &gatewayapi.ReadDirResponse{}, err
}
