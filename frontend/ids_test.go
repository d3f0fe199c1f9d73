package frontend

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

// served is what one session offers for a whole project: the sources of all units
// under the ids of their definitions.
type served struct {
	secrets map[string]Secret
	agents  map[string]ir.SSH
}

func serve(t *testing.T, units []*Unit) served {
	all := served{map[string]Secret{}, map[string]ir.SSH{}}
	for _, u := range units {
		for id, s := range u.Secrets {
			if have, ok := all.secrets[id]; ok {
				require.Equal(t, have, s, "an id means one source")
			}
			all.secrets[id] = s
		}
		for id, a := range u.SSH {
			if have, ok := all.agents[id]; ok {
				require.Equal(t, have, a, "an id means one agent")
			}
			all.agents[id] = a
		}
	}
	return all
}

// first returns the secret that a node finds which asks for ids in order.
func (s served) first(ids ...string) string {
	for _, id := range ids {
		if secret, ok := s.secrets[id]; ok {
			return secret.Prefix + secret.Env
		}
	}
	return ""
}

// step returns the name of the target that an op was written for, and what a node
// gets for it from the session, as nodes ask; ok is false for ops that ask for
// nothing.
func (s served) step(op *pb.Op) (target, got string, ok bool) {
	switch o := op.Op.(type) {
	case *pb.Op_Exec:
		_, target, _ = strings.Cut(o.Exec.Meta.Args[len(o.Exec.Meta.Args)-1], "# ")
		for _, m := range o.Exec.Mounts {
			if m.SecretOpt != nil {
				return target, s.first(m.SecretOpt.ID), true
			}
			if m.SSHOpt != nil {
				return target, strings.Join(s.agents[cmp.Or(m.SSHOpt.ID, "default")].Paths, ","), true
			}
		}
		for _, e := range o.Exec.Secretenv {
			return target, s.first(e.ID), true
		}
	case *pb.Op_Source:
		src := o.Source
		header, token := src.Attrs[pb.AttrAuthHeaderSecret], src.Attrs[pb.AttrAuthTokenSecret]
		switch full := src.Attrs[pb.AttrFullRemoteURL]; {
		case strings.HasPrefix(src.Identifier, "git://"):
			u, err := url.Parse(full)
			if err != nil || u.Scheme == "ssh" {
				return strings.TrimSuffix(u.Path[1:], ".git"), strings.Join(s.agents[cmp.Or(src.Attrs[pb.AttrMountSSHSock], "default")].Paths, ","), true
			}
			return strings.TrimSuffix(u.Path[1:], ".git"), s.first(header+"."+u.Host, token+"."+u.Host, header, token), true
		case isHTTP(src.Identifier):
			u, err := url.Parse(src.Identifier)
			if err != nil {
				return "", "", false
			}
			if id := src.Attrs[pb.AttrHTTPAuthHeaderSecret]; id != "" {
				return u.Path[1:], s.first(id), true
			}
			// A node looks for both, and the second replaces the first.
			if token := s.first("HTTP_AUTH_TOKEN_" + u.Hostname()); token != "" {
				return u.Path[1:], "Bearer " + token, true
			}
			return u.Path[1:], s.first("HTTP_AUTH_HEADER_" + u.Hostname()), true
		}
	}
	return "", "", false
}

// want returns what a step of target t gets when t is built alone.
func want(t *ir.Target, ids ...string) string {
	for _, id := range ids {
		for _, s := range t.Secrets {
			if s.ID == id {
				if strings.HasPrefix(id, "HTTP_AUTH_TOKEN_") {
					return "Bearer " + s.Env
				}
				return s.Env
			}
		}
	}
	return ""
}

// Every step gets what its own target declares, whoever links the target and
// whatever others declare under the same ids, over links of depth 3.
func TestOwnersSecrets(t *testing.T) {
	secret := func(id, env string) ir.Secret { return ir.Secret{ID: id, Env: env} }
	gitIDs := []string{"GIT_AUTH_HEADER.example.com", "GIT_AUTH_TOKEN.example.com", "GIT_AUTH_HEADER", "GIT_AUTH_TOKEN"}
	httpIDs := []string{"HTTP_AUTH_TOKEN_example.com", "HTTP_AUTH_HEADER_example.com"}
	pairs := func(ids ...string) (list [][]ir.Secret) {
		list = append(list, nil, []ir.Secret{secret("other", "OTHER")})
		for _, id := range ids {
			list = append(list, []ir.Secret{secret(id, "ONE")}, []ir.Secret{secret(id, "TWO")},
				[]ir.Secret{secret(id, "ONE"), secret("other", "OTHER")})
		}
		for i, a := range ids {
			for _, b := range ids[i+1:] {
				list = append(list, []ir.Secret{secret(b, "ONE"), secret(a, "TWO")})
			}
		}
		return list
	}
	for name, kind := range map[string]struct {
		step     string // of the target %[1]s
		ids      []string
		declared [][]ir.Secret
	}{
		"secret": {"RUN --mount=type=secret,id=token true # %[1]s", []string{"token"}, pairs("token")},
		"ids that look scoped": {"RUN --mount=type=secret,id=token true # %[1]s", []string{"token"},
			pairs("token", "token.undeclared", "token."+sourceKey(secret("token", "ONE")))},
		"env":  {"RUN --mount=type=secret,id=token,env=TOKEN true # %[1]s", []string{"token"}, pairs("token")},
		"git":  {"ADD https://example.com/%[1]s.git /git", gitIDs, pairs(gitIDs...)},
		"http": {"ADD https://example.com/%[1]s /file", httpIDs, pairs(httpIDs...)},
		"port": {"ADD https://example.com:8443/%[1]s.git /git", []string{"GIT_AUTH_TOKEN.example.com:8443", "GIT_AUTH_TOKEN"}, pairs("GIT_AUTH_TOKEN.example.com:8443", "GIT_AUTH_TOKEN.example.com", "GIT_AUTH_TOKEN")},
		"file and step": {"ADD https://example.com/%[1]s /file\nRUN --mount=type=secret,id=HTTP_AUTH_TOKEN_example.com true # %[1]s-",
			httpIDs[:1], pairs(httpIDs[0])},
	} {
		t.Run(name, func(t *testing.T) {
			for i, owner := range kind.declared {
				for j, consumer := range kind.declared {
					p := chain(t, kind.step)
					p.Targets[0].Secrets, p.Targets[1].Secrets = owner, consumer
					p.Targets[2].Secrets = [][]ir.Secret{nil, owner, consumer}[(i+j)%3]
					checkSteps(t, p, func(target *ir.Target) string { return want(target, kind.ids...) })
				}
			}
		})
	}
}

// The same for agents.
func TestOwnersAgents(t *testing.T) {
	agents := [][]ir.SSH{nil, {{ID: "default", Paths: []string{"one"}}}, {{Paths: []string{"two"}}}, {{ID: "other", Paths: []string{"other"}}},
		{{ID: "default.undeclared", Paths: []string{"odd"}}}}
	for _, step := range []string{"RUN --mount=type=ssh true # %[1]s", "ADD ssh://git@127.0.0.1:1/%[1]s.git /git"} {
		for _, owner := range agents {
			for _, consumer := range agents {
				for _, top := range [][]ir.SSH{nil, owner, consumer} {
					p := chain(t, step)
					p.Targets[0].SSH, p.Targets[1].SSH, p.Targets[2].SSH = owner, consumer, top
					checkSteps(t, p, func(target *ir.Target) string {
						for _, a := range target.SSH {
							if cmp.Or(a.ID, "default") == "default" {
								return strings.Join(a.Paths, ",")
							}
						}
						return ""
					})
				}
			}
		}
	}
}

// chain returns three targets, each with a step of its own on top of the linked one.
func chain(t *testing.T, step string) *ir.Project {
	inline := func(name, from string) *string {
		return ptr(fmt.Sprintf("FROM "+from+"\n"+step+"\n", name))
	}
	return project(t, "",
		&ir.Target{Name: "low", DockerfileInline: inline("low", "alpine")},
		&ir.Target{Name: "mid", DockerfileInline: inline("mid", "base"), Contexts: map[string]ir.Source{"base": ir.ParseNamedContext("target:low")}},
		&ir.Target{Name: "top", DockerfileInline: inline("top", "base"), Contexts: map[string]ir.Source{"base": ir.ParseNamedContext("target:mid")}})
}

func checkSteps(t *testing.T, p *ir.Project, want func(*ir.Target) string) {
	t.Helper()
	units := compile(t, p)
	all := serve(t, units)
	for i, u := range units {
		found := map[string]string{}
		for _, op := range ops(t, u.Definition) {
			if target, got, ok := all.step(op); ok && !strings.HasSuffix(target, "-") {
				found[target] = got
			}
		}
		expected := map[string]string{}
		for _, target := range p.Targets[:i+1] {
			expected[target.Name] = want(target)
		}
		if !maps.Equal(expected, found) {
			t.Errorf("unit %s: steps get %v, want %v\nlow %v %v\nmid %v %v\ntop %v %v", u.ID, found, expected,
				p.Targets[0].Secrets, p.Targets[0].SSH, p.Targets[1].Secrets, p.Targets[1].SSH, p.Targets[2].Secrets, p.Targets[2].SSH)
		}
		require.NotContains(t, text(t, u.Definition), "linked.", "marks leave with no definition")
	}
}

// A Dockerfile that repeats a step of a linked target does not get its secret.
func TestRepeatedStep(t *testing.T) {
	const steps = "FROM alpine\nRUN --mount=type=secret,id=token cat /run/secrets/token\n"
	p := project(t, "",
		&ir.Target{Name: "low", DockerfileInline: ptr(steps), Secrets: []ir.Secret{{ID: "token", Env: "TOKEN"}}},
		&ir.Target{Name: "top", DockerfileInline: ptr(steps + "COPY --from=low / /low\n"), Contexts: map[string]ir.Source{"low": ir.ParseNamedContext("target:low")}})
	units := compile(t, p)
	all := serve(t, units)
	var got []string
	for _, op := range ops(t, units[1].Definition) {
		if _, secret, ok := all.step(op); ok {
			got = append(got, secret)
		}
	}
	require.ElementsMatch(t, []string{"TOKEN", ""}, got)
}
