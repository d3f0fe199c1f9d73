package daemon

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerui"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/dockerconfig"
)

// Definitions reads build definitions from git repositories and HTTP servers. A node of the
// pool fetches them: what it can reach counts, not what this machine can. A repository that is
// built, too, is then fetched only once.
type Definitions struct {
	Pool *Pool
	// Env is the environment that credentials are read from.
	Env map[string]string
	// Docker holds the credentials for registries.
	Docker *dockerconfig.Config
	// Path returns a file name of the user's as an absolute one.
	Path func(string) string
	// Notify shows a line while something is waited for; may be nil.
	Notify func(line string)

	tree *pb.Definition
}

var _ compiler.RemoteReader = (*Definitions)(nil)

// The variables that give access to the repository of a definition. Case does not
// matter.
const (
	envGitToken  = "BUILDX_BAKE_GIT_AUTH_TOKEN"
	envGitHeader = "BUILDX_BAKE_GIT_AUTH_HEADER"
	envGitSSH    = "BUILDX_BAKE_GIT_SSH"
	envGitAdvice = "BUILDX_BAKE_GIT_ADVICE"
)

const (
	// maxDefinition is the largest single file that is taken for a definition.
	maxDefinition = 2 << 20
	// headerSize is how much of a file has to be read to recognise an archive.
	headerSize = 1024
)

// Tree is the repository or archive that the last definition was read from; nil
// when there was none, or it was a single file.
func (d *Definitions) Tree() *pb.Definition { return d.tree }

// ReadDefinition implements compiler.RemoteReader.
func (d *Definitions) ReadDefinition(ctx context.Context, url string, names []string, optional bool) (*compiler.RemoteDefinition, error) {
	in := Inputs{Env: d.Env, Docker: d.Docker, Secrets: map[string]SecretSource{}, SSH: map[string][]string{}}
	read := readHTTP
	repository, isGit, err := dockerui.DetectGitContext(url, nil, llb.GitAdvice(gitAdvice(d.Env)))
	if isGit {
		if err != nil {
			return nil, err
		}
		for _, s := range GitSecrets(url, d.Env) {
			in.Secrets[s.ID] = SecretSource{Env: s.Env}
		}
		if agent, ok := GitAgent(url, d.Env); ok {
			for i, p := range agent.Paths {
				agent.Paths[i] = d.Path(p)
			}
			in.SSH[agent.ID] = agent.Paths
		}
		read = func(ctx context.Context, c gateway.Client, _ string, names []string, optional bool) (*fetched, error) {
			return readTree(ctx, c, *repository, names, optional)
		}
	}
	var f *fetched
	err = d.Pool.anywhere(ctx, ocispecs.Platform{}, func(_ string, l *link) error {
		var sent Transfers
		offer, err := in.services(&sent)
		if err != nil {
			return err
		}
		err = l.gatewayFollowed(ctx, offer.attachables(nil), fetchWait{note: d.Notify}, func(ctx context.Context, c gateway.Client) (err error) {
			f, err = read(ctx, c, url, names, optional)
			return err
		})
		if err != nil {
			return &NodeError{Node: l.spec.Name, Addr: l.spec.Addr, Op: "fetch", Err: err}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	d.tree = f.tree
	def := &compiler.RemoteDefinition{Files: f.files, Tree: f.tree != nil}
	if isGit {
		def.URL = url
	}
	return def, nil
}

// fetched is the content of a URL.
type fetched struct {
	files []compiler.RemoteFile
	tree  *pb.Definition // nil for a single file
}

// readHTTP reads a single file, or files of an archive.
func readHTTP(ctx context.Context, c gateway.Client, url string, names []string, optional bool) (*fetched, error) {
	st, name, ok := dockerui.DetectHTTPContext(url)
	if !ok {
		return nil, errors.New("neither a git repository nor an HTTP URL")
	}
	_, ref, err := solveState(ctx, c, *st)
	if err != nil {
		return nil, err
	}
	header, err := ref.ReadFile(ctx, gateway.ReadRequest{Filename: name, Range: &gateway.FileRange{Length: headerSize}})
	if err != nil {
		return nil, err
	}
	if isArchive(header) {
		tree := llb.Scratch().File(llb.Copy(*st, "/"+name, "/", &llb.CopyInfo{AttemptUnpack: true}),
			dockerui.WithInternalName("unpack "+url))
		return readTree(ctx, c, tree, names, optional)
	}
	info, err := ref.StatFile(ctx, gateway.StatRequest{Path: name})
	if err != nil {
		return nil, err
	}
	if info.Size > maxDefinition {
		return nil, fmt.Errorf("non-archive definition URL bigger than maximum allowed size: %d bytes are more than %d", info.Size, int64(maxDefinition))
	}
	data := header
	if info.Size > int64(len(header)) {
		if data, err = ref.ReadFile(ctx, gateway.ReadRequest{Filename: name}); err != nil {
			return nil, err
		}
	}
	return &fetched{files: []compiler.RemoteFile{{Name: url, Data: data}}}, nil
}

// readTree reads files of a repository or archive.
func readTree(ctx context.Context, c gateway.Client, st llb.State, names []string, optional bool) (*fetched, error) {
	def, ref, err := solveState(ctx, c, st)
	if err != nil {
		return nil, err
	}
	f := &fetched{tree: def}
	for _, name := range names {
		if _, err := ref.StatFile(ctx, gateway.StatRequest{Path: name}); err != nil {
			// The tree is there: a path in it that cannot be read does not exist.
			if optional && ctx.Err() == nil {
				continue
			}
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		data, err := ref.ReadFile(ctx, gateway.ReadRequest{Filename: name})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		f.files = append(f.files, compiler.RemoteFile{Name: name, Data: data})
	}
	return f, nil
}

// solveState builds st. Errors in getting it then differ from those of files that it lacks.
func solveState(ctx context.Context, c gateway.Client, st llb.State) (*pb.Definition, gateway.Reference, error) {
	def, err := st.Marshal(ctx)
	if err != nil {
		return nil, nil, err
	}
	res, err := c.Solve(ctx, gateway.SolveRequest{Definition: def.ToPB(), Evaluate: true})
	if err != nil {
		return nil, nil, err
	}
	ref, err := res.SingleRef()
	if err != nil {
		return nil, nil, err
	}
	return def.ToPB(), ref, nil
}

// isArchive reports whether a file that begins with header is one that nodes
// unpack: a tar archive, compressed or not.
func isArchive(header []byte) bool {
	for _, magic := range []string{"BZh", "\x1f\x8b\x08", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if bytes.HasPrefix(header, []byte(magic)) {
			return true
		}
	}
	// What zstd calls a skippable frame may precede the first one.
	if len(header) >= 8 && binary.LittleEndian.Uint32(header)&^0xf == 0x184d2a50 {
		return true
	}
	// A header that is followed by more of its kind than was read is no error.
	_, err := tar.NewReader(bytes.NewReader(header)).Next()
	return err == nil || errors.Is(err, io.ErrUnexpectedEOF) && bytes.HasPrefix(header[min(len(header), 257):], []byte("ustar"))
}

// GitSecrets returns the secrets in the environment for the git host of a remote. They are for
// that host alone, since a target may read from others.
func GitSecrets(remote string, env map[string]string) []ir.Secret {
	u := ir.ParseGit(remote)
	if u == nil || u.Host == "" {
		return nil
	}
	var list []ir.Secret
	for _, s := range []ir.Secret{{ID: llb.GitAuthTokenKey, Env: envGitToken}, {ID: llb.GitAuthHeaderKey, Env: envGitHeader}} {
		if name, ok := variable(env, s.Env); ok {
			list = append(list, ir.Secret{ID: s.ID + "." + u.Host, Env: name})
		}
	}
	return list
}

// GitAgent returns the ssh agent, or the keys, in the environment for a remote repository; ok
// is false when it is not read over ssh.
func GitAgent(remote string, env map[string]string) (agent ir.SSH, ok bool) {
	if !ir.ParseGit(remote).SSH() {
		return ir.SSH{}, false
	}
	agent.ID = "default"
	if name, ok := variable(env, envGitSSH); ok && env[name] != "" {
		agent.Paths = strings.Split(env[name], ",")
	}
	return agent, true
}

// gitAdvice reports whether git may print advice while it fetches a definition.
func gitAdvice(env map[string]string) bool {
	on, err := strconv.ParseBool(env[envGitAdvice])
	return err == nil && on
}

// variable returns the name of a variable in env that differs from name in case
// at most.
func variable(env map[string]string, name string) (string, bool) {
	if _, ok := env[name]; ok {
		return name, true
	}
	for _, k := range slices.Sorted(maps.Keys(env)) {
		if strings.EqualFold(k, name) {
			return k, true
		}
	}
	return "", false
}
