package compiler

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/dbake/dbake/compiler/ir"
)

// WriteJSON writes p as `docker buildx bake --print` does: indented by two
// spaces, names sorted, attributes in the order of the language, what is not set
// left out, a newline at the end.
func WriteJSON(w io.Writer, p *ir.Project) error {
	doc := shownProject{Target: make(map[string]shownTarget, len(p.Targets))}
	for _, g := range p.Groups {
		if doc.Group == nil {
			doc.Group = make(map[string]shownGroup, len(p.Groups))
		}
		doc.Group[g.Name] = shownGroup{Description: g.Description, Targets: g.Targets}
	}
	for _, t := range p.Targets {
		doc.Target[t.Name] = showTarget(t)
	}
	data, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return fmt.Errorf("print project: %w", err)
	}
	if _, err := w.Write(append(data, '\n')); err != nil {
		return fmt.Errorf("print project: %w", err)
	}
	return nil
}

type shownProject struct {
	Group  map[string]shownGroup  `json:"group,omitempty"`
	Target map[string]shownTarget `json:"target"`
}

type shownGroup struct {
	Description string   `json:"description,omitempty"`
	Targets     []string `json:"targets"`
}

// shownTarget is a target in the shape of the output. Pointers to strings may
// point at "", which is shown.
type shownTarget struct {
	Description      string            `json:"description,omitempty"`
	Annotations      []string          `json:"annotations,omitempty"`
	Attest           []map[string]any  `json:"attest,omitempty"`
	Context          string            `json:"context"`
	Contexts         map[string]string `json:"contexts,omitempty"`
	Dockerfile       string            `json:"dockerfile"`
	DockerfileInline *string           `json:"dockerfile-inline,omitempty"`
	Args             map[string]string `json:"args,omitempty"`
	Labels           map[string]string `json:"labels,omitempty"`
	Tags             []string          `json:"tags,omitempty"`
	CacheFrom        []map[string]any  `json:"cache-from,omitempty"`
	CacheTo          []map[string]any  `json:"cache-to,omitempty"`
	Stage            *string           `json:"target,omitempty"`
	Secrets          []shownSecret     `json:"secret,omitempty"`
	SSH              []shownSSH        `json:"ssh,omitempty"`
	Platforms        []string          `json:"platforms,omitempty"`
	Outputs          []map[string]any  `json:"output,omitempty"`
	Pull             *bool             `json:"pull,omitempty"`
	NoCache          *bool             `json:"no-cache,omitempty"`
	Network          *string           `json:"network,omitempty"`
	NoCacheFilter    []string          `json:"no-cache-filter,omitempty"`
	ShmSize          *string           `json:"shm-size,omitempty"`
	Ulimits          []string          `json:"ulimits,omitempty"`
	Resources        *shownResources   `json:"resources,omitempty"`
	Call             *string           `json:"call,omitempty"`
	Entitlements     []string          `json:"entitlements,omitempty"`
	ExtraHosts       map[string]string `json:"extra-hosts,omitempty"`
	Policy           []shownPolicy     `json:"policy,omitempty"`
}

type shownSecret struct {
	ID  string `json:"id,omitempty"`
	Src string `json:"src,omitempty"`
	Env string `json:"env,omitempty"`
}

type shownSSH struct {
	ID    string   `json:"id,omitempty"`
	Paths []string `json:"paths,omitempty"`
}

type shownResources struct {
	Memory     *string `json:"memory,omitempty"`
	MemorySwap *string `json:"memory-swap,omitempty"`
	CPUShares  *int64  `json:"cpu-shares,omitempty"`
	CPUPeriod  *int64  `json:"cpu-period,omitempty"`
	CPUQuota   *int64  `json:"cpu-quota,omitempty"`
	CpusetCPUs *string `json:"cpuset-cpus,omitempty"`
	CpusetMems *string `json:"cpuset-mems,omitempty"`
}

// shownPolicy has the names that docker buildx prints, which it cannot read back.
type shownPolicy struct {
	Files    []shownPolicyFile
	Reset    bool
	Disabled bool
	Strict   *bool
	LogLevel *string
}

type shownPolicyFile struct {
	Filename string
	Data     []byte
}

func showTarget(t *ir.Target) shownTarget {
	s := shownTarget{
		Description:      t.Description,
		Annotations:      escapeAll(t.Annotations),
		Context:          t.Context.Text,
		Contexts:         showContexts(t.Contexts),
		Dockerfile:       t.Dockerfile,
		DockerfileInline: t.DockerfileInline,
		Args:             escapeValues(t.Args),
		Labels:           escapeValues(t.Labels),
		Tags:             t.Tags,
		CacheFrom:        showCache(t.CacheFrom),
		CacheTo:          showCache(t.CacheTo),
		Stage:            shownString(t, "target", t.Stage),
		Platforms:        t.Platforms,
		Pull:             t.Pull,
		NoCache:          t.NoCache,
		Network:          t.Network,
		NoCacheFilter:    t.NoCacheFilter,
		ShmSize:          t.ShmSize,
		Ulimits:          t.Ulimits,
		Call:             shownString(t, "call", t.Call),
		Entitlements:     t.Entitlements,
		ExtraHosts:       escapeValues(t.ExtraHosts),
	}
	if t.DockerfileInline != nil {
		text := escape(*t.DockerfileInline)
		s.DockerfileInline = &text
	}
	if t.Resources != nil {
		r := shownResources(*t.Resources)
		s.Resources = &r
	}
	for _, a := range t.Attest {
		m := showMap(a.Attrs, "type", a.Type)
		if a.Disabled {
			m["disabled"] = true
		}
		s.Attest = append(s.Attest, m)
	}
	for _, v := range t.Secrets {
		s.Secrets = append(s.Secrets, shownSecret(v))
	}
	for _, v := range t.SSH {
		s.SSH = append(s.SSH, shownSSH(v))
	}
	for _, o := range t.Outputs {
		m := showMap(o.Attrs, "type", o.Type)
		if o.Dest != "" {
			m["dest"] = o.Dest
		}
		s.Outputs = append(s.Outputs, m)
	}
	for _, p := range t.Policy {
		v := shownPolicy{Reset: p.Reset, Disabled: p.Disabled, Strict: p.Strict, LogLevel: p.LogLevel}
		if p.Filename != "" {
			v.Files = []shownPolicyFile{{Filename: p.Filename}}
			for _, name := range p.More {
				v.Files = append(v.Files, shownPolicyFile{Filename: name})
			}
		}
		s.Policy = append(s.Policy, v)
	}
	return s
}

// shownString returns a string that is shown even if empty, once it was set.
func shownString(t *ir.Target, attr, value string) *string {
	if _, set := t.Origins[attr]; !set && value == "" {
		return nil
	}
	return &value
}

func showContexts(sources map[string]ir.Source) map[string]string {
	if sources == nil {
		return nil
	}
	out := make(map[string]string, len(sources))
	for name, s := range sources {
		out[name] = s.Text
	}
	return out
}

func showCache(list []ir.CacheEntry) []map[string]any {
	var out []map[string]any
	for _, e := range list {
		out = append(out, showMap(e.Attrs, "type", e.Type))
	}
	return out
}

func showMap(attrs map[string]string, key, value string) map[string]any {
	m := make(map[string]any, len(attrs)+1)
	for k, v := range attrs {
		m[k] = v
	}
	m[key] = value
	return m
}

// escape keeps a string from being taken for a template when the output is read
// as a bake file.
func escape(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "${", "$${"), "%{", "%%{")
}

func escapeAll(list []string) []string {
	var out []string
	for _, s := range list {
		out = append(out, escape(s))
	}
	return out
}

func escapeValues(m map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = escape(v)
	}
	return out
}
