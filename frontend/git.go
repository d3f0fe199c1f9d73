package frontend

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/gitutil"
)

// commits are those that the references of git sources stand for during one run.
type commits struct {
	mu   sync.Mutex
	refs map[string]*commit // by URL and reference
}

// commit is a node's answer about one reference.
type commit struct {
	mu  sync.Mutex
	git *sourceresolver.ResolveGitResponse // nil until a node was asked
}

// get returns what resolve finds, which is called once for a key unless it fails.
func (c *commits) get(key string, resolve func() (*sourceresolver.ResolveGitResponse, error)) (*sourceresolver.ResolveGitResponse, error) {
	c.mu.Lock()
	if c.refs == nil {
		c.refs = map[string]*commit{}
	}
	one := c.refs[key]
	if one == nil {
		one = &commit{}
		c.refs[key] = one
	}
	c.mu.Unlock()
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.git != nil {
		return one.git, nil
	}
	git, err := resolve()
	if err == nil {
		one.git = git
	}
	return git, err
}

// pinGit has the source say which commit its reference stands for and reports
// whether it did not before. Nodes from before BuildKit 0.26 do not say.
func (r *recorder) pinGit(ctx context.Context, src *pb.SourceOp) (bool, error) {
	ref, _, _ := strings.Cut(fragment(src.Identifier), ":")
	if r.commits == nil || src.Attrs[pb.AttrGitChecksum] != "" || gitutil.IsCommitSHA(ref) || r.llbCaps.Supports(pb.CapSourceGitChecksum) != nil {
		return false, nil
	}
	url := src.Attrs[pb.AttrFullRemoteURL]
	node, err := r.nodeOr("context", "the commit of %s#%s has to be found", url, ref)
	if err != nil {
		return false, err
	}
	git, err := r.commits.get(url+"#"+ref, func() (*sourceresolver.ResolveGitResponse, error) {
		res, err := node.ResolveSourceMetadata(ctx, src.CloneVT(), sourceresolver.Opt{
			LogName: fmt.Sprintf("[internal] find the commit of %s#%s", url, ref),
		})
		if err != nil {
			return nil, fmt.Errorf("find the commit of %s#%s: %w", url, ref, err)
		}
		if res.Git == nil {
			return &sourceresolver.ResolveGitResponse{}, nil
		}
		return res.Git, nil
	})
	if err != nil || git.Checksum == "" {
		return false, err
	}
	if src.Attrs == nil {
		src.Attrs = map[string]string{}
	}
	src.Attrs[pb.AttrGitChecksum] = git.Checksum
	// A branch may move during the run; then the commit is fetched by its name.
	// With the directory .git, which records how it was fetched, nothing but the
	// check is added.
	if strings.HasPrefix(git.Ref, "refs/heads/") && src.Attrs[pb.AttrKeepGitDir] == "" && r.llbCaps.Supports(pb.CapSourceGitFetchByCommit) == nil {
		src.Attrs[pb.AttrGitFetchByCommit] = "true"
	}
	return true, nil
}

// fragment returns what follows the number sign.
func fragment(url string) string {
	_, f, _ := strings.Cut(url, "#")
	return f
}

// gitCaps are the capabilities that the attributes of a pinned source need.
func gitCaps(src *pb.SourceOp, md *pb.OpMetadata) {
	if md.Caps == nil {
		md.Caps = map[string]bool{}
	}
	md.Caps[string(pb.CapSourceGitChecksum)] = true
	if src.Attrs[pb.AttrGitFetchByCommit] != "" {
		md.Caps[string(pb.CapSourceGitFetchByCommit)] = true
	}
}

// pin returns def with the commits of its git sources.
func (r *recorder) pin(ctx context.Context, def *pb.Definition) (*pb.Definition, error) {
	return rewrite(ctx, def, func(ctx context.Context, op *pb.Op) (bool, error) {
		if src := op.GetSource(); src != nil && strings.HasPrefix(src.Identifier, "git://") {
			return r.pinGit(ctx, src)
		}
		return false, nil
	}, &capSets{})
}
