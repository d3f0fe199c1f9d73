package frontend

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	"github.com/tonistiigi/fsutil/types"

	"github.com/dbake/dbake/compiler/ir"
)

// stubNode is a node whose sources hold the given files, and whose foreign
// frontend turns every line "COPY x" of the Dockerfile into a copy from the
// context.
type stubNode struct {
	gateway.Client
	files map[string]string
	refs  map[string]string // of git repositories, by the end of their URL

	mu       sync.Mutex // guards the fields below
	sessions []Session
	solved   []gateway.SolveRequest
	resolved []string
}

func (n *stubNode) Build(ctx context.Context, s Session, fn func(context.Context, gateway.Client) error) error {
	n.mu.Lock()
	n.sessions = append(n.sessions, s)
	n.mu.Unlock()
	return fn(ctx, n)
}

func (n *stubNode) BuildOpts() gateway.BuildOpts {
	return gateway.BuildOpts{SessionID: "session-of-the-node"}
}

func (n *stubNode) Solve(ctx context.Context, req gateway.SolveRequest) (*gateway.Result, error) {
	n.mu.Lock()
	n.solved = append(n.solved, req)
	session := n.sessions[len(n.sessions)-1]
	n.mu.Unlock()
	res := gateway.NewResult()
	if req.Frontend == "" {
		res.SetRef(stubRef{files: n.files})
		return res, nil
	}
	data, err := os.ReadFile(filepath.Join(session.Locals[req.FrontendOpt["dockerfilekey"]], req.FrontendOpt["filename"]))
	if err != nil {
		return nil, err
	}
	st := llb.Image("busybox")
	for line := range strings.Lines(string(data)) {
		if file, ok := strings.CutPrefix(strings.TrimSpace(line), "COPY "); ok {
			st = st.File(llb.Copy(llb.Local("context", llb.SessionID("session-of-the-node")), file, "/"))
		}
	}
	def, err := st.Marshal(ctx)
	if err != nil {
		return nil, err
	}
	res.SetRef(stubRef{def: def.ToPB()})
	res.AddMeta("containerimage.config", []byte(`{"os":"linux","architecture":"amd64"}`))
	return res, nil
}

func (n *stubNode) ResolveSourceMetadata(_ context.Context, op *pb.SourceOp, _ sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	if !strings.HasPrefix(op.Identifier, "git://") {
		return nil, errors.New("no metadata")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.resolved = append(n.resolved, op.Identifier)
	res := &sourceresolver.MetaResponse{Op: op}
	if n.refs != nil {
		ref, _, _ := strings.Cut(fragment(op.Identifier), ":")
		if n.refs[ref] == "" {
			return nil, errors.New("repository does not contain ref " + ref)
		}
		// Another commit each time.
		res.Git = &sourceresolver.ResolveGitResponse{Ref: n.refs[ref], Checksum: fmt.Sprintf("%040d", len(n.resolved))}
	}
	return res, nil
}

type stubRef struct {
	files map[string]string
	def   *pb.Definition
}

func (r stubRef) ToState() (llb.State, error)    { return defState(r.def) }
func (r stubRef) Evaluate(context.Context) error { return nil }
func (r stubRef) ReadFile(_ context.Context, req gateway.ReadRequest) ([]byte, error) {
	data, ok := r.files[req.Filename]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: req.Filename, Err: fs.ErrNotExist}
	}
	return []byte(data), nil
}

func (r stubRef) StatFile(_ context.Context, req gateway.StatRequest) (*types.Stat, error) {
	data, ok := r.files[req.Path]
	if !ok {
		return nil, &fs.PathError{Op: "stat", Path: req.Path, Err: fs.ErrNotExist}
	}
	return &types.Stat{Size: int64(len(data))}, nil
}

func (r stubRef) ReadDir(context.Context, gateway.ReadDirRequest) ([]*types.Stat, error) {
	return nil, nil
}

func compileOn(t *testing.T, n *stubNode, p *ir.Project) (*Unit, error) {
	t.Helper()
	o := options()
	o.Gateway = n
	units, err := Compile(t.Context(), p, o)
	if err != nil {
		require.Empty(t, units)
		return nil, err
	}
	return units[0], nil
}

func TestRemoteContext(t *testing.T) {
	n := &stubNode{files: map[string]string{
		"sub/Dockerfile": "FROM alpine\nCOPY . /\n",
		"context":        "FROM alpine\nENV FROM=http\n",
		"Dockerfile":     "RUM true\n",
	}}
	u, err := compileOn(t, n, project(t, "", &ir.Target{Name: "t", Context: ir.ParseContext("https://example.com/repo.git#main", nil), Dockerfile: "sub/Dockerfile"}))
	require.NoError(t, err)
	require.Empty(t, u.Locals)
	golden(t, "git-context", text(t, u.Definition))

	u, err = compileOn(t, n, project(t, "", &ir.Target{Name: "t", Context: ir.ParseContext("https://example.com/Dockerfile.txt", nil)}))
	require.NoError(t, err)
	require.Contains(t, string(u.Config), "FROM=http")

	_, err = compileOn(t, n, project(t, "", &ir.Target{Name: "t", Context: ir.ParseContext("https://example.com/repo.git", nil)}))
	require.EqualError(t, err, "Dockerfile:1,1-9: dockerfile parse error on line 1: unknown instruction: RUM (did you mean RUN?)")

	n.files["sub/Dockerfile.rego"] = ""
	_, err = compileOn(t, n, project(t, "", &ir.Target{Name: "t", Context: ir.ParseContext("https://example.com/repo.git#main", nil), Dockerfile: "sub/Dockerfile"}))
	require.ErrorContains(t, err, "source policy sub/Dockerfile.rego of target t cannot be enforced")
}

// A reference means one commit throughout a run, and what is asked of the node is
// only what the definition does not say.
func TestGitCommits(t *testing.T) {
	const sha = "2222222222222222222222222222222222222222"
	refs := map[string]string{"": "refs/heads/main", "main": "refs/heads/main", "v1": "refs/tags/v1"}
	sources := func(t *testing.T, n *stubNode, caps *apicaps.CapSet, targets ...*ir.Target) []string {
		o := options()
		o.LLBCaps = caps
		if n != nil {
			o.Gateway = n
		}
		units, err := Compile(t.Context(), project(t, "", targets...), o)
		require.NoError(t, err)
		var list []string
		for _, u := range units {
			for i, op := range ops(t, u.Definition) {
				if src := op.GetSource(); src != nil && strings.HasPrefix(src.Identifier, "git://") {
					by := ""
					if src.Attrs[pb.AttrGitFetchByCommit] != "" {
						by = " by commit"
					}
					list = append(list, strings.TrimSpace(src.Identifier+" "+src.Attrs[pb.AttrGitChecksum]+by))
					caps := u.Definition.Metadata[string(digest.FromBytes(u.Definition.Def[i]))].Caps
					require.Equal(t, src.Attrs[pb.AttrGitChecksum] != "", caps[string(pb.CapSourceGitChecksum)])
					require.Equal(t, by != "", caps[string(pb.CapSourceGitFetchByCommit)])
				}
			}
		}
		return list
	}
	inline := func(name, add string) *ir.Target {
		return &ir.Target{Name: name, DockerfileInline: ptr("FROM alpine\nADD " + add + " /\n")}
	}
	first, second := fmt.Sprintf("%040d", 1), fmt.Sprintf("%040d", 2)
	for _, tc := range []struct {
		name     string
		node     *stubNode
		caps     *apicaps.CapSet
		targets  []*ir.Target
		want     []string
		resolved int
	}{
		{
			name: "branch", node: &stubNode{refs: refs, files: map[string]string{"Dockerfile": "FROM alpine\nCOPY . /\n"}},
			targets: []*ir.Target{
				{Name: "context", Context: ir.ParseContext("https://example.com/r.git#main", nil)}, inline("sub", "https://example.com/r.git#main:sub"),
				inline("other", "https://example.com/other.git#main"),
			},
			want: []string{
				"git://example.com/r.git#main " + first + " by commit", "git://example.com/r.git#main:sub " + first + " by commit",
				"git://example.com/other.git#main " + second + " by commit",
			},
			resolved: 2,
		},
		{
			name: "default branch", node: &stubNode{refs: refs}, targets: []*ir.Target{inline("a", "https://example.com/r.git")},
			want: []string{"git://example.com/r.git " + first + " by commit"}, resolved: 1,
		},
		{
			name: "tag", node: &stubNode{refs: refs}, targets: []*ir.Target{inline("a", "https://example.com/r.git#v1")},
			want: []string{"git://example.com/r.git#v1 " + first}, resolved: 1,
		},
		{
			name: "with .git", node: &stubNode{refs: refs}, targets: []*ir.Target{inline("a", "--keep-git-dir=true https://example.com/r.git#main")},
			want: []string{"git://example.com/r.git#main " + first}, resolved: 1,
		},
		{
			name: "node that cannot fetch a commit", node: &stubNode{refs: refs}, caps: capsWithout(pb.CapSourceGitFetchByCommit),
			targets: []*ir.Target{inline("a", "https://example.com/r.git#main")},
			want:    []string{"git://example.com/r.git#main " + first}, resolved: 1,
		},
		{
			name: "commit", node: &stubNode{refs: refs}, targets: []*ir.Target{inline("a", "https://example.com/r.git#"+sha), inline("b", "--checksum="+sha+" https://example.com/r.git#main")},
			want: []string{"git://example.com/r.git#" + sha, "git://example.com/r.git#main " + sha},
		},
		{
			name: "node that does not tell", node: &stubNode{}, targets: []*ir.Target{inline("a", "https://example.com/r.git#main")},
			want: []string{"git://example.com/r.git#main"}, resolved: 1,
		},
		{
			name: "no node", targets: []*ir.Target{inline("a", "https://example.com/r.git#main")},
			want: []string{"git://example.com/r.git#main"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := sources(t, tc.node, tc.caps, tc.targets...)
			if tc.name == "branch" { // whichever was compiled first
				got = swap(got, first, second)
			}
			require.Equal(t, tc.want, got)
			if tc.node != nil {
				require.Len(t, tc.node.resolved, tc.resolved)
				for _, req := range tc.node.solved {
					var op pb.Op
					require.NoError(t, op.UnmarshalVT(req.Definition.Def[0]))
					require.NotEmpty(t, op.GetSource().Attrs[pb.AttrGitChecksum], "what is read is of the commit")
				}
			}
		})
	}

	_, err := compileOn(t, &stubNode{refs: refs}, project(t, "", inline("a", "https://example.com/r.git#gone")))
	require.ErrorContains(t, err, "find the commit of https://example.com/r.git#gone: repository does not contain ref gone")
}

// swap exchanges two texts if the first element holds the second of them.
func swap(list []string, a, b string) []string {
	if len(list) == 0 || !strings.Contains(list[0], b) {
		return list
	}
	var out []string
	for _, s := range list {
		out = append(out, strings.NewReplacer(a, b, b, a).Replace(s))
	}
	return out
}

// Directories of a remote definition that have no URL, and named contexts, are
// copied out of its tree.
func TestRemoteTree(t *testing.T) {
	def, err := llb.Git("https://example.com/repo.git", "").Marshal(t.Context())
	require.NoError(t, err)
	n := &stubNode{files: map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\nCOPY --from=other . /\n"}}
	o := options()
	o.Gateway, o.Tree = n, def.ToPB()
	token := ir.Secret{ID: "GIT_AUTH_TOKEN.example.com", Env: "TOKEN"}
	target := &ir.Target{Name: "t", Context: ir.Tree("sub", ""), Contexts: map[string]ir.Source{"other": {Kind: ir.SourceTree, Text: "../dir", Path: "../dir"}},
		Secrets: []ir.Secret{token}}
	p := project(t, "-- Dockerfile --\nFROM wrong\n", target,
		&ir.Target{Name: "u", DockerfileInline: ptr("FROM scratch\n"), Secrets: []ir.Secret{{ID: "GIT_AUTH_TOKEN", Env: "OTHER"}}})
	target.Context = ir.Tree("sub", "") // as it is without a URL
	units, err := Compile(t.Context(), p, o)
	require.NoError(t, err)
	require.Empty(t, units[0].Locals)
	// The other target's token is not taken where this one is not set.
	require.Equal(t, []Secret{{Secret: token}}, slices.Collect(maps.Values(units[0].Secrets)))
	golden(t, "remote-tree", text(t, units[0].Definition))

	// Up from a URL leads nowhere, but the tree has a root.
	target.Context = ir.Tree("../sub", "https://example.com/repo.git#:../sub")
	again, err := Compile(t.Context(), p, o)
	require.NoError(t, err)
	require.Equal(t, text(t, units[0].Definition), text(t, again[0].Definition))

	o.Tree = nil
	_, err = Compile(t.Context(), p, o)
	require.ErrorContains(t, err, "a remote definition that was not fetched")
}

// A local Dockerfile for a remote context is read here.
func TestRemoteContextLocalDockerfile(t *testing.T) {
	u := compile(t, project(t, "-- Dockerfile --\nFROM alpine\nCOPY x /\n",
		&ir.Target{Name: "t", Context: ir.ParseContext("https://example.com/repo.git#main:dir", nil), Dockerfile: "cwd://Dockerfile"}))[0]
	require.Contains(t, text(t, u.Definition), "git://example.com/repo.git#main:dir")
}

func TestRemoteDockerfile(t *testing.T) {
	n := &stubNode{files: map[string]string{"Dockerfile": "FROM alpine\nCOPY x /\n"}}
	p := project(t, "-- x --\n", &ir.Target{Name: "t", Dockerfile: "https://example.com/Dockerfile"})
	u, err := compileOn(t, n, p)
	require.NoError(t, err)
	require.Len(t, u.Locals, 1)
	require.Len(t, n.solved, 1)

	n.files["Dockerfile"] = "RUM\n"
	_, err = compileOn(t, n, p)
	require.EqualError(t, err, "https://example.com/Dockerfile:1,1-4: dockerfile parse error on line 1: unknown instruction: RUM (did you mean RUN?)")
}

func TestForeignFrontend(t *testing.T) {
	n := &stubNode{}
	p := project(t, "-- svc/Dockerfile --\n# syntax=example.com/other:1 arg\nCOPY x\n-- svc/x --\n", &ir.Target{
		Name: "t", Context: ir.ParseContext("svc", nil), Args: map[string]string{"A": "1"}, Secrets: []ir.Secret{{ID: "s", Env: "S"}}})
	u, err := compileOn(t, n, p)
	require.NoError(t, err)
	golden(t, "foreign", text(t, u.Definition))
	require.JSONEq(t, `{"os":"linux","architecture":"amd64"}`, string(u.Config))
	require.Len(t, u.Locals, 1)

	req := n.solved[0]
	require.Equal(t, "gateway.v0", req.Frontend)
	require.False(t, req.Evaluate)
	require.Regexp(t, `^example.com/other:1@sha256:[0-9a-f]{64}$`, req.FrontendOpt["source"], "all nodes run the same frontend")
	require.Equal(t, "example.com/other:1 arg", req.FrontendOpt["cmdline"])
	require.Equal(t, "1", req.FrontendOpt["build-arg:A"])
	session := n.sessions[0]
	require.Equal(t, must(realPath(filepath.Join(p.Dir, "svc"))), session.Locals["context"])
	require.Equal(t, map[string]Secret{"s": {Secret: ir.Secret{ID: "s", Env: "S"}}}, session.Secrets)
	require.NotContains(t, u.FrontendAttrs, "source")
}

// Inline Dockerfiles and the results of linked targets are handed to the node.
func TestForeignFrontendInputs(t *testing.T) {
	n := &stubNode{}
	p := project(t, "-- Dockerfile --\nFROM alpine\nCOPY x /\n-- x --\n",
		&ir.Target{Name: "parent"},
		&ir.Target{Name: "t", DockerfileInline: ptr("# syntax=example.com/other:1\nCOPY x\n"), Contexts: map[string]ir.Source{"base": ir.ParseNamedContext("target:parent")}})
	o := options()
	o.Gateway = n
	units, err := Compile(t.Context(), p, o)
	require.NoError(t, err)
	require.Len(t, units, 2)
	require.Contains(t, n.solved[0].FrontendInputs, "base")
	require.Equal(t, "input:base", n.solved[0].FrontendOpt["context:base"])
	for name, dir := range n.sessions[0].Locals {
		if strings.HasPrefix(name, "inline-") {
			require.NoDirExists(t, dir, "staged files must be removed")
		}
	}
	require.Contains(t, ir.SortedKeys(maps.Clone(n.sessions[0].Locals)), ir.SortedKeys(units[0].Locals)[0])
}

// Options.Syntax sends even the Dockerfile frontend's own image to the node.
func TestSyntaxRemote(t *testing.T) {
	n := &stubNode{}
	o := options()
	o.Gateway = n
	o.Syntax = SyntaxRemote
	_, err := Compile(t.Context(), project(t, "-- Dockerfile --\n# syntax=docker/dockerfile:1\nFROM x\n-- plain/Dockerfile --\nFROM alpine\n",
		&ir.Target{Name: "t"}, &ir.Target{Name: "u", Context: ir.ParseContext("plain", nil)}), o)
	require.NoError(t, err)
	require.Len(t, n.solved, 1)
	require.Regexp(t, `^docker.io/docker/dockerfile:1@sha256:[0-9a-f]{64}$`, n.solved[0].FrontendOpt["source"])
}

func TestGatewayError(t *testing.T) {
	o := options()
	o.Gateway = gatewayFunc(func(context.Context, Session, func(context.Context, gateway.Client) error) error {
		return errors.New("node n1: connection refused")
	})
	_, err := Compile(t.Context(), project(t, "", &ir.Target{Name: "t", Context: ir.ParseContext("https://example.com/repo.git", nil)}), o)
	require.EqualError(t, err, "bake.hcl:1,1-9: node n1: connection refused")
}

// What was printed on the node belongs to the error of what failed there; an error that
// comes back as text gives way to the one that was sent.
func TestGatewayOutput(t *testing.T) {
	fails := func(wrap func(error) error) error {
		o := options()
		o.Gateway = gatewayFunc(func(ctx context.Context, s Session, fn func(context.Context, gateway.Client) error) error {
			return wrap(fn(ctx, failingNode{}))
		})
		_, err := Compile(t.Context(), project(t, "-- Dockerfile --\n# syntax=example.com/fails\nFROM x\n", &ir.Target{Name: "t"}), o)
		return err
	}
	require.ErrorContains(t, fails(func(err error) error { return fmt.Errorf("%w\nlast output:\n  cannot parse line 7", err) }),
		"the frontend example.com/fails ended with exit code: 4; what it printed is in the log of the node's daemon\nlast output:\n  cannot parse line 7")
	require.NotContains(t, fails(func(err error) error { return errors.New("rpc: " + err.Error()) }).Error(), "rpc: ")
}

// failingNode is a node whose frontend fails.
type failingNode struct{ gateway.Client }

func (failingNode) BuildOpts() gateway.BuildOpts { return gateway.BuildOpts{} }

func (failingNode) Solve(context.Context, gateway.SolveRequest) (*gateway.Result, error) {
	return nil, errors.New("exit code: 4")
}

type gatewayFunc func(context.Context, Session, func(context.Context, gateway.Client) error) error

func (f gatewayFunc) Build(ctx context.Context, s Session, fn func(context.Context, gateway.Client) error) error {
	return f(ctx, s, fn)
}

// A link named "dockerfile" holds the Dockerfile.
func TestLinkAsDockerfile(t *testing.T) {
	n := &stubNode{files: map[string]string{"Dockerfile": "FROM alpine\nENV FROM=link\n"}}
	p := project(t, "-- Dockerfile --\nFROM alpine\n",
		&ir.Target{Name: "parent"},
		&ir.Target{Name: "child", Contexts: map[string]ir.Source{"dockerfile": ir.ParseNamedContext("target:parent")}})
	o := options()
	o.Gateway = n
	units, err := Compile(t.Context(), p, o)
	require.NoError(t, err)
	require.Contains(t, string(units[1].Config), "FROM=link")
}
