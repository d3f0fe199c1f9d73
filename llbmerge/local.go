package llbmerge

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// Local describes the files that a vertex reads from a directory of the client.
type Local struct {
	// Name is the name of the source in the graph: the identity that the caller
	// gave to the directory.
	Name string
	// FollowPaths, IncludePatterns and ExcludePatterns narrow what is
	// transferred. Without FollowPaths and IncludePatterns it is everything that
	// is not excluded.
	FollowPaths, IncludePatterns, ExcludePatterns []string
}

// localSource is a local source of one unit on its way into the graph.
type localSource struct {
	Local
	// attrs are the attributes that neither narrow the source nor belong to one
	// session.
	attrs map[string]string
	group *localGroup
}

// localGroup gathers the sources that become one vertex.
type localGroup struct {
	hint string
	// everything is set when a member is not narrowed at all.
	everything bool
	paths      map[string]bool
	// What finish makes of the group: the paths of all members and their
	// attributes. The op is encoded once, for the first member; encoding a union
	// of all units for each unit would take quadratic time.
	follow []string
	attrs  map[string]string
	bytes  []byte
	digest digest.Digest
}

// parseLocal reads the attributes of a local source that is called name in the
// graph.
func parseLocal(src *pb.SourceOp, name string) (*localSource, error) {
	l := &localSource{Local: Local{Name: name}, attrs: map[string]string{}}
	for k, v := range src.Attrs {
		var err error
		switch k {
		case pb.AttrLocalSessionID, pb.AttrLocalUniqueID, pb.AttrSharedKeyHint:
		case pb.AttrFollowPaths:
			l.FollowPaths, err = parseList(v)
		case pb.AttrIncludePatterns:
			l.IncludePatterns, err = parseList(v)
		case pb.AttrExcludePatterns:
			l.ExcludePatterns, err = parseList(v)
		case pb.AttrLocalDiffer:
			if v != "" && v != pb.AttrLocalDifferMetadata { // both are the default
				l.attrs[k] = v
			}
		case pb.AttrMetadataTransfer:
			var on bool
			if on, err = strconv.ParseBool(v); on {
				l.attrs[k] = "true"
			}
		default:
			l.attrs[k] = v
		}
		if err != nil {
			return nil, fmt.Errorf("local source %q: attribute %s: %w", src.Identifier, k, err)
		}
	}
	// In what order paths are followed makes no difference.
	for i, p := range l.FollowPaths {
		l.FollowPaths[i] = cleanPath(p)
	}
	slices.Sort(l.FollowPaths)
	l.FollowPaths = slices.Compact(l.FollowPaths)
	if len(l.IncludePatterns) == 0 && slices.Contains(l.FollowPaths, ".") {
		l.FollowPaths = nil
	}
	return l, nil
}

func parseList(v string) ([]string, error) {
	var list []string
	if err := json.Unmarshal([]byte(v), &list); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, nil
	}
	return list, nil
}

// cleanPath returns p as a node sees it, relative to the directory.
func cleanPath(p string) string { return path.Join(".", p) }

// joinGroup puts n into the group of the sources that it may become one with.
// widening reports that its users cannot see more files than they select.
func (b *builder) joinGroup(n *node, widening bool) error {
	l := n.local
	everything := len(l.FollowPaths) == 0 && len(l.IncludePatterns) == 0
	alone := !everything && !(widening && len(l.FollowPaths) > 0 && !slices.ContainsFunc(l.FollowPaths, isOdd))
	n.op.Op = nil // written by finish
	rest, err := deterministic.Marshal(n.op)
	if err != nil {
		return fmt.Errorf("local source %q: %w", l.Name, err)
	}
	id := struct {
		Name             string
		Include, Exclude []string
		Attrs            map[string]string
		Rest             []byte // platform and constraints
		Alone            bool
		Follow           []string
	}{l.Name, l.IncludePatterns, l.ExcludePatterns, l.attrs, rest, alone, nil}
	if alone {
		id.Follow = l.FollowPaths
	}
	key, err := json.Marshal(id)
	if err != nil {
		return fmt.Errorf("local source %q: %w", l.Name, err)
	}
	g := b.groups[string(key)]
	if g == nil {
		g = &localGroup{hint: "dbake-" + digest.FromBytes(key).Encoded()[:16], paths: map[string]bool{}}
		b.groups[string(key)] = g
	}
	l.group = g
	g.everything = g.everything || everything
	for _, p := range l.FollowPaths {
		g.paths[p] = true
	}
	return nil
}

// finish writes the local source of n, as its group has it, into the op and the
// metadata, and returns the op's bytes and digest.
func (n *node) finish() ([]byte, digest.Digest, error) {
	l, g := n.local, n.local.group
	if g.attrs == nil {
		if err := g.finish(l); err != nil {
			return nil, "", fmt.Errorf("local source %q: %w", l.Name, err)
		}
	}
	l.FollowPaths = g.follow
	caps := map[string]bool{}
	maps.Copy(caps, n.meta.Caps)
	n.meta = ownMetadata(n.meta)
	n.meta.Caps = caps
	delete(caps, string(pb.CapSourceLocalUnique))
	delete(caps, string(pb.CapSourceLocalSessionID))
	caps[string(pb.CapSourceLocal)] = true
	for attr, c := range localCaps {
		if _, ok := g.attrs[attr]; ok {
			caps[c] = true
		} else {
			delete(caps, c)
		}
	}
	n.op.Op = &pb.Op_Source{Source: &pb.SourceOp{Identifier: "local://" + l.Name, Attrs: g.attrs}}
	if g.bytes == nil {
		dt, err := deterministic.Marshal(n.op)
		if err != nil {
			return nil, "", fmt.Errorf("encode local source %q: %w", l.Name, err)
		}
		g.bytes, g.digest = dt, digest.FromBytes(dt)
	}
	return g.bytes, g.digest, nil
}

// localCaps are the capabilities that attributes ask for.
var localCaps = map[string]string{
	pb.AttrSharedKeyHint:   string(pb.CapSourceLocalSharedKeyHint),
	pb.AttrFollowPaths:     string(pb.CapSourceLocalFollowPaths),
	pb.AttrIncludePatterns: string(pb.CapSourceLocalIncludePatterns),
	pb.AttrExcludePatterns: string(pb.CapSourceLocalExcludePatterns),
}

// finish computes what the members have in common; l is one of them.
func (g *localGroup) finish(l *localSource) error {
	if !g.everything {
		for p := range g.paths {
			g.follow = append(g.follow, p)
		}
		slices.Sort(g.follow)
	}
	g.attrs = l.attrs
	g.attrs[pb.AttrSharedKeyHint] = g.hint
	for attr, values := range map[string][]string{
		pb.AttrFollowPaths:     g.follow,
		pb.AttrIncludePatterns: l.IncludePatterns,
		pb.AttrExcludePatterns: l.ExcludePatterns,
	} {
		if len(values) == 0 {
			continue
		}
		dt, err := json.Marshal(values)
		if err != nil {
			return err
		}
		g.attrs[attr] = string(dt)
	}
	return nil
}

// isOdd reports whether following p next to other paths could mean something else
// than following it alone: a node takes the followed paths for patterns; some
// exclude files and some are errors for the whole transfer.
func isOdd(p string) bool {
	return p != strings.TrimSpace(p) || p == "." || p == ".." ||
		strings.HasPrefix(p, "../") || strings.HasPrefix(p, "!") ||
		strings.ContainsAny(p, `[]\^`) ||
		strings.ContainsAny(p, "*?") && strings.ContainsAny(p, "+(){}|$")
}

// selects reports whether op sees of its given input no more than some of paths,
// each of which stands for the files that it matches.
func selects(op *pb.Op, input int, paths []string) bool {
	has := func(elem ...string) bool {
		_, ok := slices.BinarySearch(paths, cleanPath(path.Join(elem...)))
		return ok
	}
	switch o := op.Op.(type) {
	case *pb.Op_File:
		for _, a := range o.File.GetActions() {
			if a.GetInput() == int64(input) || reads(a, int64(input)) {
				return false
			}
			if a.GetSecondaryInput() != int64(input) {
				continue
			}
			c := a.GetCopy()
			switch {
			case c == nil:
				return false
			case len(c.IncludePatterns) == 0:
				if !has(c.Src) {
					return false
				}
			case strings.ContainsAny(c.Src, `*?[\`):
				return false
			default:
				for _, p := range c.IncludePatterns {
					if !has(c.Src, p) {
						return false
					}
				}
			}
		}
		return true
	case *pb.Op_Exec:
		for _, m := range o.Exec.GetMounts() {
			if m.GetInput() != int64(input) {
				continue
			}
			switch m.MountType {
			case pb.MountType_SECRET, pb.MountType_SSH, pb.MountType_TMPFS:
				continue // their input is not looked at
			case pb.MountType_BIND:
			default:
				return false
			}
			if m.Output != int64(pb.SkipOutput) || m.Dest == pb.RootMount || !has(m.Selector) {
				return false
			}
		}
		return true
	}
	return false
}

// reads reports whether a looks up users or groups in the given input.
func reads(a *pb.FileAction, input int64) bool {
	var owner *pb.ChownOpt
	switch x := a.Action.(type) {
	case *pb.FileAction_Copy:
		owner = x.Copy.GetOwner()
	case *pb.FileAction_Mkfile:
		owner = x.Mkfile.GetOwner()
	case *pb.FileAction_Mkdir:
		owner = x.Mkdir.GetOwner()
	case *pb.FileAction_Symlink:
		owner = x.Symlink.GetOwner()
	}
	for _, o := range []*pb.UserOpt{owner.GetUser(), owner.GetGroup()} {
		if n := o.GetByName(); n != nil && n.Input == input {
			return true
		}
	}
	return false
}

// groupLocals decides for every narrowed source of a unit whether it may be
// widened, by looking at all its users.
func (b *builder) groupLocals(g *unitGraph) error {
	seen := make([]bool, len(g.nodes)) // more than was selected
	if g.root >= 0 {
		seen[g.root] = true
	}
	for _, n := range g.nodes {
		for i, in := range n.inputs {
			l := g.nodes[in].local
			if l == nil || seen[in] {
				continue
			}
			if !selects(n.op, i, l.FollowPaths) {
				seen[in] = true
			}
		}
	}
	for i := range g.nodes {
		if g.nodes[i].local == nil {
			continue
		}
		if err := b.joinGroup(&g.nodes[i], !seen[i]); err != nil {
			return err
		}
	}
	return nil
}
