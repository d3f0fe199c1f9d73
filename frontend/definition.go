package frontend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/entitlements"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"

	"github.com/dbake/dbake/compiler/ir"
)

// rewriter turns a definition as recorded into one that means the same on every
// node and in every session. Ops that need no change keep their bytes.
type rewriter struct {
	rename map[string]string // local source names
	ids    *idTable
	target *ir.Target
	caps   *capSets
	// secrets and agents are what the ids mean that the target's own steps use.
	secrets map[string]Secret
	agents  map[string]ir.SSH
	pin     func(ctx context.Context, ref string, p *pb.Platform) (string, error)
	// commit pins a git source and reports whether it changed it.
	commit func(ctx context.Context, src *pb.SourceOp) (bool, error)
	// fetch gives an HTTP source the checksum of what its URL holds.
	fetch func(ctx context.Context, op *pb.Op, src *pb.SourceOp) (bool, error)
}

// apply returns def rewritten; def itself is left alone.
func (rw *rewriter) apply(ctx context.Context, def *pb.Definition) (*pb.Definition, error) {
	return rewrite(ctx, def, rw.op, rw.caps)
}

// rewrite returns def with each op as change leaves it, its inputs apart. change
// reports whether it changed anything.
func rewrite(ctx context.Context, def *pb.Definition, change func(context.Context, *pb.Op) (bool, error), caps *capSets) (*pb.Definition, error) {
	out := &pb.Definition{
		Def:      make([][]byte, 0, len(def.Def)),
		Metadata: make(map[string]*pb.OpMetadata, len(def.Metadata)),
	}
	digests := make(map[string]string, len(def.Def))
	emitted := make(map[string]bool, len(def.Def))
	for _, dt := range def.Def {
		var op pb.Op
		if err := op.UnmarshalVT(dt); err != nil {
			return nil, fmt.Errorf("decode LLB op: %w", err)
		}
		old := string(digest.FromBytes(dt))
		changed, err := change(ctx, &op)
		if err != nil {
			return nil, err
		}
		for _, in := range op.Inputs {
			next, ok := digests[in.Digest]
			if !ok {
				return nil, fmt.Errorf("LLB op %s stands before its input %s", old, in.Digest)
			}
			if next != in.Digest {
				in.Digest = next
				changed = true
			}
		}
		dgst := old
		if changed {
			// Attributes are a map: ordinary marshalling would give the op
			// several digests.
			if dt, err = (proto.MarshalOptions{Deterministic: true}).Marshal(&op); err != nil {
				return nil, fmt.Errorf("encode LLB op: %w", err)
			}
			dgst = string(digest.FromBytes(dt))
		}
		digests[old] = dgst
		if emitted[dgst] {
			continue // two ops became one
		}
		emitted[dgst] = true
		out.Def = append(out.Def, dt)
		if md := def.Metadata[old]; md != nil {
			md = ownMetadata(md, op.GetSource() != nil)
			if src := op.GetSource(); src != nil && src.Attrs[pb.AttrLocalUniqueID] == "" {
				delete(md.Caps, string(pb.CapSourceLocalUnique))
				delete(md.Caps, string(pb.CapSourceLocalSessionID))
			}
			if src := op.GetSource(); src != nil && src.Attrs[pb.AttrGitChecksum] != "" {
				gitCaps(src, md)
			}
			if src := op.GetSource(); src != nil && src.Attrs[pb.AttrHTTPChecksum] != "" {
				if md.Caps == nil {
					md.Caps = map[string]bool{}
				}
				md.Caps[string(pb.CapSourceHTTPChecksum)] = true
			}
			md.Caps = caps.share(md.Caps)
			out.Metadata[dgst] = md
		}
	}
	src, err := rewriteSource(ctx, def.Source, digests, change, caps)
	if err != nil {
		return nil, err
	}
	out.Source = src
	return out, nil
}

// ownMetadata returns a copy of md whose fields may be replaced, and, with caps, also the
// capabilities in it. All else is shared: nobody changes it.
func ownMetadata(md *pb.OpMetadata, caps bool) *pb.OpMetadata {
	if len(md.ProtoReflect().GetUnknown()) > 0 {
		return md.CloneVT()
	}
	md = &pb.OpMetadata{
		IgnoreCache: md.IgnoreCache, Description: md.Description, ExportCache: md.ExportCache,
		Caps: md.Caps, ProgressGroup: md.ProgressGroup, LinuxResources: md.LinuxResources,
	}
	if caps {
		md.Caps = maps.Clone(md.Caps)
	}
	return md
}

// capSets are the sets of capabilities that the ops of definitions need. There are few,
// and as a map for each op they are much of what a large build takes of memory.
type capSets struct {
	mu   sync.Mutex
	list []map[string]bool // guarded by mu
}

// share returns the set that is equal to caps; whoever changes it copies it first.
func (c *capSets) share(caps map[string]bool) map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, have := range c.list {
		if maps.Equal(have, caps) {
			return have
		}
	}
	c.list = append(c.list, caps)
	return caps
}

// rewriteSource rewrites the source maps.
func rewriteSource(ctx context.Context, src *pb.Source, digests map[string]string, change func(context.Context, *pb.Op) (bool, error), caps *capSets) (*pb.Source, error) {
	if src == nil {
		return nil, nil
	}
	out := &pb.Source{Locations: make(map[string]*pb.Locations, len(src.Locations))}
	for old, locs := range src.Locations {
		dgst, ok := digests[old]
		if !ok {
			continue
		}
		out.Locations[dgst] = locs // nobody changes it
	}
	for _, info := range src.Infos {
		if info.Definition != nil && info.Definition.Def != nil {
			def, err := rewrite(ctx, info.Definition, change, caps)
			if err != nil {
				return nil, err
			}
			// The text of the file is shared.
			info = &pb.SourceInfo{Filename: info.Filename, Data: info.Data, Definition: def, Language: info.Language}
		}
		out.Infos = append(out.Infos, info)
	}
	return out, nil
}

// op rewrites what op itself says, its inputs apart.
func (rw *rewriter) op(ctx context.Context, op *pb.Op) (changed bool, err error) {
	switch o := op.Op.(type) {
	case *pb.Op_Source:
		return rw.sourceOp(ctx, op, o.Source)
	case *pb.Op_Exec:
		for _, m := range o.Exec.Mounts {
			if s := m.SecretOpt; s != nil {
				changed = replace(&s.ID, rw.ids.own(rw.target, s.ID, rw.secrets)) || changed
			}
			if s := m.SSHOpt; s != nil {
				changed = replace(&s.ID, rw.ids.ownAgent(rw.target, s.ID, rw.agents)) || changed
			}
		}
		for _, s := range o.Exec.Secretenv {
			changed = replace(&s.ID, rw.ids.own(rw.target, s.ID, rw.secrets)) || changed
		}
		changed = sortScannerEnv(o.Exec.Meta) || changed
	}
	return changed, nil
}

func (rw *rewriter) sourceOp(ctx context.Context, op *pb.Op, src *pb.SourceOp) (changed bool, err error) {
	scheme, ref, _ := strings.Cut(src.Identifier, "://")
	switch scheme {
	case "local":
		if name, ok := rw.rename[ref]; ok {
			changed = replace(&src.Identifier, "local://"+name)
		}
		changed = remove(src.Attrs, pb.AttrLocalSessionID) || changed
		changed = remove(src.Attrs, pb.AttrLocalUniqueID) || changed
	case "oci-layout":
		changed = remove(src.Attrs, pb.AttrOCILayoutSessionID)
	case "docker-image":
		pinned, err := rw.pin(ctx, ref, op.Platform)
		if err != nil {
			return false, err
		}
		changed = replace(&src.Identifier, "docker-image://"+pinned)
	case "git":
		// The node is asked by the names that its session knows.
		if changed, err = rw.commit(ctx, src); err != nil {
			return false, err
		}
		changed = rw.ids.git(rw.target, src, rw.secrets) || changed
		if id, ok := src.Attrs[pb.AttrMountSSHSock]; ok {
			if final := rw.ids.ownAgent(rw.target, id, rw.agents); final != id {
				src.Attrs[pb.AttrMountSSHSock], changed = final, true
			}
		}
	case "http", "https":
		if changed, err = rw.fetch(ctx, op, src); err != nil {
			return false, err
		}
		changed = rw.ids.http(rw.target, src, rw.secrets) || changed
	}
	return changed, nil
}

// sortScannerEnv puts the environment of an SBOM scanner in order: BuildKit adds
// the parameters in the order of a map.
func sortScannerEnv(meta *pb.Meta) bool {
	const prefix = "BUILDKIT_SCAN_"
	i := slices.IndexFunc(meta.GetEnv(), func(e string) bool { return strings.HasPrefix(e, prefix+"DESTINATION=") })
	if i < 0 || slices.IsSorted(meta.Env[i:]) {
		return false
	}
	slices.Sort(meta.Env[i:])
	return true
}

func replace(s *string, v string) bool {
	if *s == v {
		return false
	}
	*s = v
	return true
}

func remove(m map[string]string, k string) bool {
	_, ok := m[k]
	delete(m, k)
	return ok
}

// pinReference returns ref with a digest, asking resolve for one if it has none.
func pinReference(ref string, resolve func(reference.Named) (string, error)) (string, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref, nil // not for us to judge
	}
	if _, ok := named.(reference.Digested); ok {
		return ref, nil
	}
	return resolve(named)
}

// facts are those that a definition needs from outside.
type facts struct {
	locals, stores, secrets, agents, entitlements, devices map[string]bool
	// moving is set when a source is not known by the files and images that were asked
	// for: one of a repository or a URL.
	moving bool
}

func newFacts() *facts {
	return &facts{
		locals:       map[string]bool{},
		stores:       map[string]bool{},
		secrets:      map[string]bool{},
		agents:       map[string]bool{},
		entitlements: map[string]bool{},
		devices:      map[string]bool{},
	}
}

// add takes the needs of def into account.
func (f *facts) add(def *pb.Definition) error {
	for _, dt := range def.GetDef() {
		var op pb.Op
		if err := op.UnmarshalVT(dt); err != nil {
			return fmt.Errorf("decode LLB op: %w", err)
		}
		switch o := op.Op.(type) {
		case *pb.Op_Source:
			f.source(o.Source)
		case *pb.Op_Exec:
			f.exec(o.Exec)
		}
	}
	return nil
}

func (f *facts) source(src *pb.SourceOp) {
	scheme, ref, _ := strings.Cut(src.Identifier, "://")
	f.moving = f.moving || scheme != "local" && scheme != "docker-image"
	switch scheme {
	case "local":
		f.locals[ref] = true
	case "oci-layout":
		f.stores[src.Attrs[pb.AttrOCILayoutStoreID]] = true
	case "git":
		for _, attr := range gitSecretAttrs {
			if id := src.Attrs[attr]; id != "" {
				f.secrets[id] = true
				f.secrets[id+"."+gitHost(src)] = true
			}
		}
		if id := src.Attrs[pb.AttrMountSSHSock]; id != "" {
			f.agents[id] = true
		}
	case "http", "https":
		if id := src.Attrs[pb.AttrHTTPAuthHeaderSecret]; id != "" {
			f.secrets[id] = true
			break
		}
		for _, s := range httpSecrets(src) {
			f.secrets[s.ID] = true
		}
	}
}

// gitHost returns the host of a git source, "" for one that takes no secrets.
func gitHost(src *pb.SourceOp) string {
	u, err := url.Parse(src.Attrs[pb.AttrFullRemoteURL])
	if err != nil {
		return "" // as user@host:path
	}
	return u.Host
}

func (f *facts) exec(e *pb.ExecOp) {
	for _, m := range e.Mounts {
		if s := m.SecretOpt; s != nil {
			f.secrets[s.ID] = true
		}
		if s := m.SSHOpt; s != nil {
			f.agents[s.ID] = true
		}
	}
	for _, s := range e.Secretenv {
		f.secrets[s.ID] = true
	}
	if e.Network == pb.NetMode_HOST {
		f.entitlements[string(entitlements.EntitlementNetworkHost)] = true
	}
	if e.Security == pb.SecurityMode_INSECURE {
		f.entitlements[string(entitlements.EntitlementSecurityInsecure)] = true
	}
	for _, d := range e.CdiDevices {
		if !d.Optional {
			f.entitlements[string(entitlements.EntitlementDevice)] = true
			f.devices[d.Name] = true
		}
	}
}

// origin is what a unit was made of, its definition and the answers of the frontend apart.
type origin struct {
	needs   *facts
	secrets map[string]Secret // that the unit's own steps use
	agents  map[string]ir.SSH
	images  []string // that it asked for itself
	assumed []string
}

// needsOf returns what the definitions of a unit need from outside.
func needsOf(unit *Unit) (*facts, error) {
	f := newFacts()
	if err := f.add(unit.Definition); err != nil {
		return nil, err
	}
	for _, a := range unit.Attestations {
		if err := f.add(a.Ref); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// take fills in what the unit refers to: that of its links, and its own.
func (u *Unit) take(in *inputs, made *origin) error {
	u.closure(in.links)
	for _, name := range ir.SortedKeys(in.sources) {
		if src := in.sources[name]; src.files == nil {
			setDefaultLocal(u.Locals, name, src.dir)
		}
	}
	for _, id := range ir.SortedKeys(in.ociStores) {
		setDefault(u.OCIStores, id, in.ociStores[id])
	}
	maps.Copy(u.Secrets, made.secrets)
	maps.Copy(u.SSH, made.agents)
	f := made.needs
	for name := range f.locals {
		if _, ok := u.Locals[name]; !ok {
			return errors.New("local source " + name + " is not known")
		}
	}
	keep(u.Locals, f.locals)
	keep(u.OCIStores, f.stores)
	keep(u.Secrets, f.secrets)
	keep(u.SSH, f.agents)
	u.Entitlements = ir.SortedKeys(f.entitlements)
	u.Devices = ir.SortedKeys(f.devices)
	return nil
}

func setDefaultLocal(m map[string]Local, name, dir string) {
	if _, ok := m[name]; !ok {
		m[name] = Local{Dir: dir}
	}
}

// keep removes the keys of m that are not wanted.
func keep[V any](m map[string]V, wanted map[string]bool) {
	for k := range m {
		if !wanted[k] {
			delete(m, k)
		}
	}
}

// platformSpec returns p, or the fallback when an op names none.
func platformSpec(p *pb.Platform, fallback ocispecs.Platform) ocispecs.Platform {
	if p == nil {
		return fallback
	}
	return p.Spec()
}

func marshalMetadata(md map[string][]byte) (string, error) {
	data, err := json.Marshal(md)
	if err != nil {
		return "", fmt.Errorf("metadata of a linked target: %w", err)
	}
	return string(data), nil
}
