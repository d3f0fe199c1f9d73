package frontend

import (
	"cmp"
	"encoding/json"
	"slices"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/compiler/ir"
)

// idTable gives secrets and SSH agents ids that mean one source throughout the
// project. An id that all targets use for the same source stays as it is, so that
// steps keep the digests they have elsewhere. Where targets declare different
// sources, it is replaced by one that names the source. A target that does not
// declare an id gets one that nobody declares: all targets are built in one
// session, and it must not get to see what another target declares.
type idTable struct {
	secrets, ssh map[string]bool // ids that are declared; true = with several sources
}

func newIDTable(p *ir.Project) *idTable {
	secrets, ssh := map[string][]string{}, map[string][]string{}
	for _, t := range p.Targets {
		for _, s := range t.Secrets {
			secrets[s.ID] = append(secrets[s.ID], sourceKey(s))
		}
		for _, s := range t.SSH {
			s.ID = sshID(s.ID)
			ssh[s.ID] = append(ssh[s.ID], sourceKey(s))
		}
	}
	return &idTable{secrets: ambiguous(secrets), ssh: ambiguous(ssh)}
}

func ambiguous(sources map[string][]string) map[string]bool {
	m := map[string]bool{}
	for id, keys := range sources {
		slices.Sort(keys)
		m[id] = len(slices.Compact(keys)) > 1
	}
	return m
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
const undeclared = ".undeclared"

// secret returns the id in definitions for id as target t uses it, and its
// source if t declares it.
func (it *idTable) secret(t *ir.Target, id string) (string, ir.Secret, bool) {
	for _, s := range t.Secrets {
		if s.ID == id {
			if it.secrets[id] {
				return id + "." + sourceKey(s), s, true
			}
			return id, s, true
		}
	}
	if _, ok := it.secrets[id]; ok {
		id += undeclared
	}
	return id, ir.Secret{}, false
}

// agent is secret for SSH agents.
func (it *idTable) agent(t *ir.Target, id string) (string, ir.SSH, bool) {
	id = sshID(id)
	for _, s := range t.SSH {
		if s.ID = sshID(s.ID); s.ID == id {
			if it.ssh[id] {
				return id + "." + sourceKey(s), s, true
			}
			return id, s, true
		}
	}
	if _, ok := it.ssh[id]; ok {
		id += undeclared
	}
	return id, ir.SSH{}, false
}
