package compiler

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
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
		doc.Target[t.Name] = shownTarget{t}
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

// shownTarget is a target in the shape of the output: what is printed of each
// attribute, in their order.
type shownTarget struct{ *ir.Target }

// MarshalJSON implements json.Marshaler.
func (t shownTarget) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for _, a := range attributes {
		if a.print == nil {
			continue
		}
		v := a.print(t.Target)
		if v == nil {
			continue
		}
		data, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.name, err)
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(append(strconv.AppendQuote(b, a.name), ':'), data...)
	}
	return append(b, '}'), nil
}

// unlessZero, unlessEmpty, unlessNone and unlessNil are nil for what is left out.
func unlessZero[T comparable](v T) any {
	var zero T
	if v == zero {
		return nil
	}
	return v
}

func unlessEmpty[T any](list []T) any {
	if len(list) == 0 {
		return nil
	}
	return list
}

func unlessNone(m map[string]string) any {
	if len(m) == 0 {
		return nil
	}
	return m
}

func unlessNil[T any](v *T) any {
	if v == nil {
		return nil
	}
	return *v
}

// unlessUnset is nil for a string that was not set; one that was set to "" is shown.
func unlessUnset(t *ir.Target, attr, value string) any {
	if _, set := t.Origins[attr]; !set && value == "" {
		return nil
	}
	return value
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

func showAttests(list []ir.Attest) []map[string]any {
	var out []map[string]any
	for _, a := range list {
		m := showMap(a.Attrs, "type", a.Type)
		if a.Disabled {
			m["disabled"] = true
		}
		out = append(out, m)
	}
	return out
}

func showSecrets(list []ir.Secret) []shownSecret {
	var out []shownSecret
	for _, v := range list {
		out = append(out, shownSecret(v))
	}
	return out
}

func showSSH(list []ir.SSH) []shownSSH {
	var out []shownSSH
	for _, v := range list {
		out = append(out, shownSSH(v))
	}
	return out
}

func showOutputs(list []ir.Output) []map[string]any {
	var out []map[string]any
	for _, o := range list {
		m := showMap(o.Attrs, "type", o.Type)
		if o.Dest != "" {
			m["dest"] = o.Dest
		}
		out = append(out, m)
	}
	return out
}

func showPolicies(list []ir.Policy) []shownPolicy {
	var out []shownPolicy
	for _, p := range list {
		v := shownPolicy{Reset: p.Reset, Disabled: p.Disabled, Strict: p.Strict, LogLevel: p.LogLevel}
		if p.Filename != "" {
			v.Files = []shownPolicyFile{{Filename: p.Filename}}
			for _, name := range p.More {
				v.Files = append(v.Files, shownPolicyFile{Filename: name})
			}
		}
		out = append(out, v)
	}
	return out
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
