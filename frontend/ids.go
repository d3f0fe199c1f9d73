package frontend

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"net/url"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/compiler/ir"
)

// Secret is a secret as a session serves it. Prefix is put before its value.
type Secret struct {
	ir.Secret
	Prefix string
}

// idTable gives secrets and SSH agents ids that mean one source throughout the
// project. An id that all targets use for the same source stays as it is, so that
// steps keep the digests they have elsewhere. Where targets declare different
// sources, it is replaced by one that names the source. A target that does not
// declare an id gets one that nobody declares: all targets are built in one
// session, and it must not get to see what another target declares.
//
// Each id is replaced once, by the table of the target whose Dockerfile wrote the
// step. Another target that links the result gets the definition with marked ids,
// see [idTable.mark], and takes the mark off again.
type idTable struct {
	secrets, ssh map[string]declaration // by id
	targets      int
	// linked begins the ids of steps that a linked target brings along. It is
	// random: no Dockerfile can write it.
	linked string
}

// declaration holds the sources of an id, and how many targets declare it.
type declaration struct {
	sources []string // keys, sorted, each once
	targets int      // how many declare it
}

func newIDTable(p *ir.Project) *idTable {
	it := &idTable{
		secrets: map[string]declaration{}, ssh: map[string]declaration{},
		targets: len(p.Targets), linked: "linked." + rand.Text() + ".",
	}
	add := func(m map[string]declaration, own map[string]string) {
		for id, key := range own {
			d := m[id]
			d.targets++
			if i, ok := slices.BinarySearch(d.sources, key); !ok {
				d.sources = slices.Insert(d.sources, i, key)
			}
			m[id] = d
		}
	}
	for _, t := range p.Targets {
		secrets, ssh := map[string]string{}, map[string]string{}
		for _, s := range t.Secrets {
			setDefault(secrets, s.ID, sourceKey(s))
		}
		for _, s := range t.SSH {
			s.ID = sshID(s.ID)
			setDefault(ssh, s.ID, sourceKey(s))
		}
		add(it.secrets, secrets)
		add(it.ssh, ssh)
	}
	return it
}

// sshID returns the id of an agent for which none is given.
func sshID(id string) string { return cmp.Or(id, "default") }

// sourceKey returns a short text that differs for different sources.
func sourceKey(s any) string {
	data, err := json.Marshal(s)
	if err != nil {
		return "" // plain structs of strings always marshal
	}
	return digest.FromBytes(data).Encoded()[:12]
}

// undeclared ends an id that other targets declare, but not the one whose step
// asks for it.
const undeclared = "undeclared"

// scopeID returns id with a suffix, as an id that no target declares.
func scopeID(declared map[string]declaration, id, suffix string) string {
	for id += "." + suffix; ; id += "_" {
		if _, ok := declared[id]; !ok {
			return id
		}
	}
}

// declaredSecret returns the secret that t declares as id.
func declaredSecret(t *ir.Target, id string) (ir.Secret, bool) {
	i := slices.IndexFunc(t.Secrets, func(s ir.Secret) bool { return s.ID == id })
	if i < 0 {
		return ir.Secret{}, false
	}
	return t.Secrets[i], true
}

// secret returns the id in definitions for id as target t uses it, and its
// source if t declares it.
func (it *idTable) secret(t *ir.Target, id string) (string, ir.Secret, bool) {
	s, own := declaredSecret(t, id)
	d, known := it.secrets[id]
	switch {
	case own && (len(d.sources) > 1 || isImplied(id) && d.targets < it.targets):
		id = scopeID(it.secrets, id, sourceKey(s))
	case !own && known:
		id = scopeID(it.secrets, id, undeclared)
	}
	return id, s, own
}

// agent is secret for SSH agents.
func (it *idTable) agent(t *ir.Target, id string) (string, ir.SSH, bool) {
	id = sshID(id)
	d, known := it.ssh[id]
	for _, s := range t.SSH {
		if s.ID = sshID(s.ID); s.ID == id {
			if len(d.sources) > 1 {
				id = scopeID(it.ssh, id, sourceKey(s))
			}
			return id, s, true
		}
	}
	if known {
		id = scopeID(it.ssh, id, undeclared)
	}
	return id, ir.SSH{}, false
}

// plain reports whether id, as it stands, means for t what t declares: its source,
// or nothing.
func (it *idTable) plain(t *ir.Target, id string) bool {
	final, _, _ := it.secret(t, id)
	return final == id
}

// The attributes of a git source that name secrets. A node asks for those of the
// host first, which end in a dot and the name of the host.
var gitSecretAttrs = []string{pb.AttrAuthHeaderSecret, pb.AttrAuthTokenSecret}

// git gives the secrets of a git source ids, and a node finds only those that t
// declares. It adds them to served and reports whether it changed the source.
func (it *idTable) git(t *ir.Target, src *pb.SourceOp, served map[string]Secret) bool {
	host := gitHost(src)
	plain := true
	own := map[string]ir.Secret{} // by id
	for _, attr := range gitSecretAttrs {
		id := src.Attrs[attr]
		if id == "" || strings.HasPrefix(id, it.linked) {
			continue
		}
		for _, id := range []string{id, id + "." + host} {
			plain = plain && it.plain(t, id)
			if s, ok := declaredSecret(t, id); ok {
				own[id] = s
			}
		}
	}
	suffix := undeclared
	if len(own) > 0 {
		suffix = sourceKey(own)
	}
	changed := false
	for _, attr := range gitSecretAttrs {
		id := src.Attrs[attr]
		if id == "" {
			continue
		}
		final, linked := strings.CutPrefix(id, it.linked)
		if !linked && !plain {
			final = scopeID(it.secrets, id, suffix)
		}
		if !linked {
			for _, of := range []string{"", "." + host} {
				if s, ok := own[id+of]; ok {
					served[final+of] = Secret{Secret: s}
				}
			}
		}
		if final != id {
			src.Attrs[attr], changed = final, true
		}
	}
	return changed
}

// http is git for files. For a source that names no secret, a node looks for those
// of its host, whatever target the source is of: so these are served only if all
// targets declare them alike. Else the sources of a target that declares one name
// it.
func (it *idTable) http(t *ir.Target, src *pb.SourceOp, served map[string]Secret) bool {
	if remove(src.Attrs, it.linked) {
		return true
	}
	set := func(id string) bool {
		if src.Attrs[pb.AttrHTTPAuthHeaderSecret] == id {
			return false
		}
		if src.Attrs == nil {
			src.Attrs = map[string]string{}
		}
		src.Attrs[pb.AttrHTTPAuthHeaderSecret] = id
		return true
	}
	if id := src.Attrs[pb.AttrHTTPAuthHeaderSecret]; id != "" {
		return set(it.own(t, id, served))
	}
	plain := true
	var own []Secret
	for _, implied := range httpSecrets(src) {
		if s, ok := declaredSecret(t, implied.ID); ok {
			implied.Secret = s
			own = append(own, implied)
			plain = plain && it.plain(t, s.ID)
		}
	}
	if plain {
		for _, s := range own {
			served[s.ID] = Secret{Secret: s.Secret}
		}
		return false
	}
	last := own[len(own)-1]
	id := scopeID(it.secrets, last.ID, sourceKey(last))
	served[id] = last
	return set(id)
}

// The ids of the secrets for an HTTP source begin so, and end in the name of its
// host.
const (
	httpHeaderSecret = "HTTP_AUTH_HEADER_"
	httpTokenSecret  = "HTTP_AUTH_TOKEN_"
)

// isImplied reports whether nodes look for a secret of this id of themselves.
func isImplied(id string) bool {
	return strings.HasPrefix(id, httpHeaderSecret) || strings.HasPrefix(id, httpTokenSecret)
}

// httpSecrets are the ids for which a node asks by the host of an HTTP source, and
// what it puts before the values. The last that it finds is what it uses.
func httpSecrets(src *pb.SourceOp) []Secret {
	u, err := url.Parse(src.Identifier)
	if err != nil {
		return nil
	}
	return []Secret{
		{Secret: ir.Secret{ID: httpHeaderSecret + u.Hostname()}},
		{Secret: ir.Secret{ID: httpTokenSecret + u.Hostname()}, Prefix: "Bearer "},
	}
}

// own returns the id of a secret in a step of t, or in one that a linked target
// brought along, and adds it to served if t declares it.
func (it *idTable) own(t *ir.Target, id string, served map[string]Secret) string {
	if final, ok := strings.CutPrefix(id, it.linked); ok {
		return final
	}
	final, s, ok := it.secret(t, id)
	if ok {
		served[final] = Secret{Secret: s}
	}
	return final
}

// ownAgent is own for SSH agents.
func (it *idTable) ownAgent(t *ir.Target, id string, served map[string]ir.SSH) string {
	if final, ok := strings.CutPrefix(id, it.linked); ok {
		return final
	}
	final, s, ok := it.agent(t, id)
	if ok {
		served[final] = s
	}
	return final
}

// mark marks the ids of a step for the frontend of a target that links it, and
// reports whether there are any.
func (it *idTable) mark(_ context.Context, op *pb.Op) (bool, error) {
	changed := false
	switch o := op.Op.(type) {
	case *pb.Op_Exec:
		for _, m := range o.Exec.Mounts {
			if s := m.SecretOpt; s != nil {
				s.ID, changed = it.linked+s.ID, true
			}
			if s := m.SSHOpt; s != nil {
				s.ID, changed = it.linked+s.ID, true
			}
		}
		for _, s := range o.Exec.Secretenv {
			s.ID, changed = it.linked+s.ID, true
		}
	case *pb.Op_Source:
		for _, attr := range []string{pb.AttrAuthHeaderSecret, pb.AttrAuthTokenSecret, pb.AttrMountSSHSock, pb.AttrHTTPAuthHeaderSecret} {
			if id, ok := o.Source.Attrs[attr]; ok && id != "" {
				o.Source.Attrs[attr], changed = it.linked+id, true
			}
		}
		if !changed && isHTTP(o.Source.Identifier) && slices.ContainsFunc(httpSecrets(o.Source), func(s Secret) bool {
			_, ok := it.secrets[s.ID]
			return ok
		}) {
			if o.Source.Attrs == nil {
				o.Source.Attrs = map[string]string{}
			}
			// Nodes do not look at attributes that they do not know.
			o.Source.Attrs[it.linked], changed = "", true
		}
	}
	return changed, nil
}
