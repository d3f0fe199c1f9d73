package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/moby/buildkit/client/llb/sourceresolver"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/dockerconfig"
	"github.com/dbake/dbake/internal/pause"
	"github.com/dbake/dbake/runtime/fault"
)

const (
	// imageTimeout bounds how long one node may take to say what an image is. imageNext is how
	// long until another node is asked besides.
	imageTimeout = 45 * time.Second
	imageNext    = 10 * time.Second
	// imageBudget is how long nodes are asked again when their registry is away or asks to come
	// later.
	imageBudget = 20 * time.Second
)

// Images resolves images through nodes. Nodes reach registries as their own configuration
// says, with mirrors, authorities and names that this machine does not have; they log in
// with the user's credentials.
type Images struct {
	Pool *Pool
	Env  map[string]string
	// Docker holds the credentials for registries.
	Docker *dockerconfig.Config
	// Skip reports whether a node knows no more than this machine; nil skips none.
	Skip func(NodeInfo) bool
	// Notify shows a line while a registry is waited for; may be nil.
	Notify func(line string)
}

// Resolve asks one node, and another where that one fails or is slow. Nodes for the image's
// platform come first. The error is that of the first, as a [*NodeError], or
// [frontend.ErrNoNode].
func (m *Images) Resolve(ctx context.Context, req frontend.ImageRequest) (*frontend.Image, error) {
	var askers []imageAsker
	for _, n := range m.Pool.preferring(req.Platform) {
		if m.Skip != nil && m.Skip(n.lastInfo()) {
			continue
		}
		askers = append(askers, imageAsker{name: n.spec.Name, ask: func(ctx context.Context) (*frontend.Image, error) {
			l, err := n.current()
			if err != nil {
				return nil, err
			}
			in := Inputs{Env: m.Env, Docker: m.Docker}
			var sent Transfers
			offer, err := in.services(&sent)
			if err != nil {
				return nil, err
			}
			img, err := l.image(ctx, offer.attachables(nil), req)
			if err != nil {
				return nil, &NodeError{Node: n.spec.Name, Addr: n.spec.Addr, Op: "image " + req.Ref.String(), Err: fault.Plain(err)}
			}
			return img, nil
		}})
	}
	return resolveImage(ctx, askers, m.Notify)
}

// imageAsker asks one node for one image.
type imageAsker struct {
	name string
	ask  func(context.Context) (*frontend.Image, error)
}

// resolveImage asks all until one answers, and all again as long as some registry
// may answer later.
func resolveImage(ctx context.Context, askers []imageAsker, notify func(string)) (*frontend.Image, error) {
	if len(askers) == 0 {
		return nil, frontend.ErrNoNode
	}
	start, wait := time.Now(), time.Second
	for {
		img, err := firstImage(ctx, askers)
		if err == nil || ctx.Err() != nil || !fault.Retryable(err) || time.Since(start)+wait > imageBudget {
			return img, err
		}
		if notify != nil {
			notify(fmt.Sprintf("%v; trying again in %s", err, wait))
		}
		if err := pause.For(ctx, wait); err != nil {
			return nil, err
		}
		wait *= 2
	}
}

// firstImage returns the first image that comes back, or the error of the first
// asker.
func firstImage(ctx context.Context, askers []imageAsker) (*frontend.Image, error) {
	ctx, cancel := context.WithCancel(ctx)
	var eg errgroup.Group
	defer func() {
		cancel()
		_ = eg.Wait() // they answer through the channel
	}()
	type answer struct {
		by  int
		img *frontend.Image
		err error
	}
	answers := make(chan answer, len(askers))
	errs := make([]error, len(askers))
	next, open := 0, 0
	ask := func() {
		i := next
		next, open = next+1, open+1
		eg.Go(func() error {
			one, stop := context.WithTimeoutCause(ctx, imageTimeout, fmt.Errorf("node %s did not answer within %s", askers[i].name, imageTimeout))
			defer stop()
			img, err := askers[i].ask(one)
			if err != nil && one.Err() != nil {
				err = context.Cause(one)
			}
			answers <- answer{by: i, img: img, err: err}
			return nil
		})
	}
	ask()
	slow := time.NewTicker(imageNext)
	defer slow.Stop()
	for open > 0 {
		select {
		case a := <-answers:
			if open--; a.err == nil {
				return a.img, nil
			}
			if errs[a.by] = a.err; ctx.Err() == nil && next < len(askers) {
				ask()
			}
		case <-slow.C:
			if next < len(askers) {
				ask()
			}
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, errs[0]
}

// image asks a node for an image as the Dockerfile frontend on that node would.
func (l *link) image(ctx context.Context, attach []session.Attachable, req frontend.ImageRequest) (*frontend.Image, error) {
	var img *frontend.Image
	err := l.gateway(ctx, attach, func(ctx context.Context, c gateway.Client) error {
		res, err := c.ResolveSourceMetadata(ctx, &pb.SourceOp{Identifier: "docker-image://" + req.Ref.String()}, sourceresolver.Opt{
			LogName:  "[internal] load metadata for " + req.Ref.String(),
			ImageOpt: &sourceresolver.ResolveImageOpt{Platform: &req.Platform},
		})
		switch {
		case err != nil:
			return err
		case res.Image == nil || res.Image.Digest == "":
			return errors.New("the node did not describe the image")
		}
		img = &frontend.Image{Digest: res.Image.Digest, Config: res.Image.Config}
		return nil
	})
	return img, err
}
