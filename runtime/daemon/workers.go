package daemon

import (
	"context"
	"sync"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc"
)

// BuildKit's client asks a daemon for its workers before each build, only to pass them on to
// frontends. So each of our builds would begin with a question whose answer is known since the
// link was opened.

// workersFresh is how long the last answer counts for a question that is ours.
const workersFresh = time.Second

// workersKey marks the calls for which the last answer will do, however old it is.
type workersKey struct{}

// workersTold is the last answer of a daemon that was asked for its workers.
type workersTold struct {
	mu     sync.Mutex
	answer *controlapi.ListWorkersResponse // nil as long as there is none; guarded by mu
	at     time.Time                       // guarded by mu
}

// recall returns a context in which builds begin without a question for the workers.
func (w *workersTold) recall(ctx context.Context) context.Context {
	return context.WithValue(ctx, workersKey{}, true)
}

// age returns how old the last answer is; false when there is none.
func (w *workersTold) age() (time.Duration, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Since(w.at), w.answer != nil
}

// intercept is a [grpc.UnaryClientInterceptor].
func (w *workersTold) intercept(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	resp, ok := reply.(*controlapi.ListWorkersResponse)
	if !ok {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	if ctx.Value(workersKey{}) != nil {
		w.mu.Lock()
		answer := w.answer
		w.mu.Unlock()
		if answer != nil {
			resp.Record = answer.CloneVT().GetRecord()
			return nil
		}
	}
	if err := invoke(ctx, method, req, reply, cc, opts...); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer, w.at = resp.CloneVT(), time.Now()
	return nil
}
