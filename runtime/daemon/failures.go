package daemon

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	bkclient "github.com/moby/buildkit/client"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/runtime/fault"
)

// statusWait is how long a failure waits for the status that shows it.
const statusWait = 5 * time.Second

// failures are the steps whose failure the status of a build has shown. A solve reports its
// failure in another stream, which may be faster. The last output of the step, and which
// execution it was, are known only when the status has come.
type failures struct {
	mu   sync.Mutex
	seen map[string]chan struct{} // by vertex: closed when its failure was shown; guarded by mu
	lost map[digest.Digest]bool   // vertices that could not read a result below them; guarded by mu
}

// signal returns the channel that is closed when the failure of a vertex was shown.
func (f *failures) signal(vertex string) chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen == nil {
		f.seen = map[string]chan struct{}{}
	}
	if f.seen[vertex] == nil {
		f.seen[vertex] = make(chan struct{})
	}
	return f.seen[vertex]
}

// observe takes in the status of the build, after everybody else has.
func (f *failures) observe(st *bkclient.SolveStatus) {
	for _, v := range st.Vertexes {
		if v.Error == "" || v.Completed == nil {
			continue
		}
		if _, gone := fault.LostBlob(errors.New(v.Error)); gone {
			f.noteLost(v.Digest)
		}
		c := f.signal(v.Digest.String())
		select {
		case <-c:
		default:
			close(c)
		}
	}
}

// await waits until the failure of the vertex that err is about was shown.
func (f *failures) await(ctx context.Context, err error) {
	var ve *bkerrdefs.VertexError
	if !errors.As(err, &ve) {
		return
	}
	t := time.NewTimer(statusWait)
	defer t.Stop()
	select {
	case <-f.signal(ve.Digest):
	case <-t.C:
	case <-ctx.Done():
	}
}

func (f *failures) noteLost(d digest.Digest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost == nil {
		f.lost = map[digest.Digest]bool{}
	}
	f.lost[d] = true
}

// hit reports whether a definition has a vertex that could not read a result below it. A build
// that loads the definition, too, keeps the node from trying that again.
func (f *failures) hit(def *pb.Definition) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.lost) > 0 && slices.ContainsFunc(def.Def, func(dt []byte) bool {
		d := digest.FromBytes(dt)
		return f.lost[d] || f.lost[Ignoring(d)]
	})
}

// Ignoring returns the digest under which a node knows a vertex that ignores the cache, while
// it knows the same vertex without that, too (solver/jobs.go, loadUnlocked).
func Ignoring(d digest.Digest) digest.Digest {
	return digest.FromString(d.String() + "-ignorecache")
}
