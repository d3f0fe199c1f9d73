package plan

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/memory/filesum"
	"github.com/dbake/dbake/llbmerge"
)

// Makeup lists the inputs of the results of a build, independent of the machine: unlike the
// names that steps have on nodes and in histories, it does not depend on directories, other
// targets, sources of secrets and this machine's access to the network.
type Makeup struct {
	build *Build
	list  []Ingredient     // by vertex
	users map[string][]int // the vertices of a unit, ascending
	roots map[ir.UnitID]content
}

// Ingredient is one vertex of a makeup.
type Ingredient struct {
	Step string
	Kind llbmerge.Kind
	// Does identifies the work of the vertex, apart from its inputs and files.
	Does digest.Digest
	// Files are the names, modes and contents of what it reads of the user's
	// directories; "" when it reads none.
	Files digest.Digest
	// Result covers all of that, and the results below.
	Result digest.Digest
	// Base is the image, repository or URL of a source; "" for others.
	Base string
	// Unknown is why the same vertex may have another result tomorrow; "" when there is no
	// reason.
	Unknown string
	// Anew is set when the vertex has to be built even if its result is known.
	Anew bool
}

// Makeup returns the inputs of the results of b.
func (b *Build) Makeup(ctx context.Context, files *filesum.Cache) (*Makeup, error) {
	m := &Makeup{build: b, list: make([]Ingredient, len(b.Graph.Vertices)), users: map[string][]int{}, roots: map[ir.UnitID]content{}}
	for i, v := range b.Graph.Vertices {
		form, err := m.does(v)
		if err != nil {
			return nil, fmt.Errorf("find out what %s is made of: %w", v.Step, err)
		}
		for _, u := range v.Users {
			m.users[u] = append(m.users[u], i)
		}
		p := &m.list[i]
		*p = Ingredient{Step: v.Step, Kind: v.Kind, Does: digest.FromBytes(form), Anew: v.IgnoreCache}
		p.Base, p.Unknown = source(v)
		result := slices.Clone(form)
		for k, in := range v.Inputs {
			result = binary.AppendUvarint(append(result, m.list[b.graph.index[in]].Result...), uint64(v.Op.GetInputs()[k].GetIndex()))
		}
		if key := b.Names.list[i].read.key; key != "" {
			p.Files = digest.FromString(key)
			result = append(result, p.Files...)
		}
		p.Result = digest.FromBytes(result)
	}
	r := &reader{dirs: b.Locals(), seen: map[string]content{}, sums: files}
	for _, u := range b.Units {
		root, ok := b.Graph.Root(string(u.ID))
		if !ok {
			continue
		}
		if v := b.Graph.Vertices[b.graph.index[root.Digest]]; v.Local != nil {
			whole, err := r.whole(ctx, v.Local)
			if err != nil {
				return nil, err
			}
			m.roots[u.ID] = whole
		}
	}
	return m, nil
}

// Unit returns the name of the result of a unit, and the parts that it is made of, in
// an order in which each stands before those that need it.
func (m *Makeup) Unit(id ir.UnitID) (digest.Digest, []Ingredient) {
	root, ok := m.build.Graph.Root(string(id))
	if !ok {
		return digest.FromString("empty"), nil
	}
	var parts []Ingredient
	for _, i := range m.users[string(id)] {
		parts = append(parts, m.list[i])
	}
	result := fmt.Sprintf("%s %d", m.list[m.build.graph.index[root.Digest]].Result, root.Index)
	if whole, local := m.roots[id]; local {
		result += " " + whole.key
	}
	return digest.FromString(result), parts
}

// does encodes the work of a vertex, apart from its inputs and files.
func (m *Makeup) does(v *llbmerge.Vertex) ([]byte, error) {
	if v.Local != nil {
		return []byte("local"), nil // what is read of it counts where it is read
	}
	return encodePlain(v.Op, m.build.Secrets)
}

// encodePlain encodes an op without its inputs, its worker constraints and all that is
// of one machine or one project: how images are resolved whose digest is known, the
// proxies that steps reach the network by, and the ids that secrets have been given.
func encodePlain(op *pb.Op, secrets map[string]frontend.Secret) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(plainOp(op, secrets))
}

// plainOp is the op that [encodePlain] encodes; it shares nothing with the one given.
func plainOp(op *pb.Op, secrets map[string]frontend.Secret) *pb.Op {
	op = &pb.Op{Op: op.CloneVT().GetOp(), Platform: op.GetPlatform()}
	name := func(id string) string {
		if s, ok := secrets[id]; ok {
			return s.ID
		}
		return strings.TrimSuffix(strings.TrimRight(id, "_"), ".undeclared")
	}
	switch o := op.Op.(type) {
	case *pb.Op_Source:
		if ref, ok := strings.CutPrefix(o.Source.Identifier, "docker-image://"); ok && isPinned(ref) {
			delete(o.Source.Attrs, pb.AttrImageResolveMode)
		}
		for k, v := range o.Source.Attrs {
			if s, ok := secrets[v]; ok {
				o.Source.Attrs[k] = s.ID
			}
		}
		if ref, ok := strings.CutPrefix(o.Source.Identifier, "oci-layout://"); ok {
			// The digest says what it is, in whichever directory.
			if _, is, pinned := strings.Cut(ref, "@"); pinned {
				o.Source.Identifier = "oci-layout://@" + is
				delete(o.Source.Attrs, pb.AttrOCILayoutStoreID)
			}
		}
		if strings.HasPrefix(o.Source.Identifier, "local://") {
			o.Source = &pb.SourceOp{Identifier: "local"}
		}
	case *pb.Op_Exec:
		if o.Exec.Meta != nil {
			o.Exec.Meta.ProxyEnv = nil
		}
		for _, mount := range o.Exec.Mounts {
			if s := mount.SecretOpt; s != nil {
				s.ID = name(s.ID)
			}
			if s := mount.SSHOpt; s != nil {
				s.ID = "" // which agent answers makes no difference to the result
			}
		}
		for _, s := range o.Exec.Secretenv {
			s.ID = name(s.ID)
		}
	}
	return op
}

// Definition names the work of a definition that stands for itself, such as the scan for an
// SBOM. Files do not count.
func (m *Makeup) Definition(def *pb.Definition) (digest.Digest, error) {
	results := map[string]digest.Digest{}
	var last digest.Digest
	for _, dt := range def.GetDef() {
		var op pb.Op
		if err := op.UnmarshalVT(dt); err != nil {
			return "", fmt.Errorf("decode LLB op: %w", err)
		}
		form, err := encodePlain(&op, m.build.Secrets)
		if err != nil {
			return "", fmt.Errorf("encode LLB op: %w", err)
		}
		for _, in := range op.Inputs {
			form = binary.AppendUvarint(append(form, results[in.Digest]...), uint64(in.Index))
		}
		last = digest.FromBytes(form)
		results[string(digest.FromBytes(dt))] = last
	}
	return last, nil
}

func isPinned(ref string) bool {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return false
	}
	_, ok := named.(reference.Digested)
	return ok
}

// source returns where a source comes from, and why it may be something else tomorrow.
func source(v *llbmerge.Vertex) (base, unknown string) {
	src := v.Op.GetSource()
	if src == nil {
		if v.Kind == llbmerge.KindBuild || v.Kind == llbmerge.KindUnknown {
			return "", "the work of " + v.Step + " cannot be inspected"
		}
		return "", ""
	}
	base = src.GetIdentifier()
	switch v.Kind {
	case llbmerge.KindImage:
		base = strings.TrimPrefix(base, "docker-image://")
		if !isPinned(base) {
			unknown = "the digest of " + base + " is not known"
		}
	case llbmerge.KindOCILayout:
		if !strings.Contains(base, "@") {
			unknown = "the digest of " + base + " is not known"
		}
	case llbmerge.KindHTTP:
		if src.Attrs[pb.AttrHTTPChecksum] == "" {
			unknown = base + " has no checksum"
		}
	case llbmerge.KindGit:
		ref, _, _ := strings.Cut(afterHash(base), ":")
		if src.Attrs[pb.AttrGitChecksum] == "" && !isCommit(ref) {
			unknown = "the commit of " + base + " is not known"
		}
	case llbmerge.KindLocal:
		base = ""
	case llbmerge.KindBlob:
	default:
		unknown = "the content of " + base + " cannot be known"
	}
	return base, unknown
}

func afterHash(url string) string {
	_, after, _ := strings.Cut(url, "#")
	return after
}

// isCommit reports whether a git reference is the whole name of a commit.
func isCommit(ref string) bool {
	return (len(ref) == 40 || len(ref) == 64) && strings.Trim(ref, "0123456789abcdef") == ""
}

// Reread returns b with the present state of the files that its steps read.
func (b *Build) Reread(ctx context.Context, files *filesum.Cache) (*Build, error) {
	now := *b
	var err error
	if now.Names, _, err = newNames(ctx, b.graph, b.Units, b.Names.base, Memory{Files: files, List: b.Names.files}); err != nil {
		return nil, err
	}
	return &now, nil
}

// Only returns the build of some targets of b, by name, of their gates, and of what all these
// link to. Targets that are only linked write nothing.
func (b *Build) Only(ctx context.Context, wanted map[string]bool, known Memory) (*Build, error) {
	keep := map[string]bool{}
	for _, t := range b.Project.Targets {
		for _, name := range t.Gates {
			keep[name] = keep[name] || wanted[t.Name]
		}
	}
	for i := len(b.Project.Targets) - 1; i >= 0; i-- {
		// Links point to earlier targets only.
		if t := b.Project.Targets[i]; wanted[t.Name] || keep[t.Name] {
			keep[t.Name] = true
			for _, name := range t.Links() {
				keep[name] = true
			}
		}
	}
	left := *b.Project
	left.Targets = nil
	now := map[string]*ir.Target{}
	for _, t := range b.Project.Targets {
		if !keep[t.Name] {
			continue
		}
		one := *t
		one.DependsOn = slices.DeleteFunc(slices.Clone(t.DependsOn), func(name string) bool { return !keep[name] })
		if !wanted[t.Name] {
			one.Linked = true
			one.Outputs, one.CacheTo = nil, nil
		}
		left.Targets = append(left.Targets, &one)
		now[t.Name] = &one
	}
	var units []*frontend.Unit
	for _, u := range b.Units {
		if t := now[u.Target.Name]; t != nil {
			one := *u
			one.Target = t
			units = append(units, &one)
		}
	}
	out, faults, err := assemble(ctx, &left, units, known)
	if err == nil {
		err = Join(faults)
	}
	if err != nil {
		return nil, err
	}
	out.remarked = b.Units
	return out.WithDuplicates(b.rule.duplicates), nil
}
