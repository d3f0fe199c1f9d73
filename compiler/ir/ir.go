package ir

import (
	"maps"
	"slices"
	"strings"
)

// Project is a resolved build definition: the targets that were asked for, those
// they link to, and the groups that led to them.
type Project struct {
	// Dir is the absolute directory against which relative local paths stand:
	// the working directory of the command.
	Dir string
	// Groups are the groups reached from the request, "default" always among
	// them, sorted by name.
	Groups []Group
	// Targets are the targets to build, linked ones included, in topological
	// order; ties keep the order of definition.
	Targets []*Target
	// Given are what the command line names with --set.
	Given Given
	// Warnings are the objections of a strict reading of the files, in order of place; nil
	// unless asked for.
	Warnings []*SourceError
}

// Given is what values of --set name, for any target: the user who writes it grants it.
type Given struct {
	Entitlements []string
	Secrets      []string // ids
	// Dests are destinations of outputs, which --push or --load may have changed in
	// other respects.
	Dests []string
}

// Group is a named list of targets and groups.
type Group struct {
	Name        string
	Description string
	Targets     []string
	Range       Range
}

// HostGateway stands among the addresses of an extra host for that of the machine that the
// Docker engine runs on.
const HostGateway = "host-gateway"

// Target is one resolved bake target: inheritance, overrides and defaults are
// applied. Empty fields were not set.
type Target struct {
	Name        string
	Description string

	Annotations      []string
	Attest           []Attest
	Context          Source
	Contexts         map[string]Source
	Dockerfile       string // raw; "Dockerfile" by default
	DockerfileInline *string
	Args             map[string]string
	Labels           map[string]string
	Tags             []string
	CacheFrom        []CacheEntry
	CacheTo          []CacheEntry
	Stage            string // the "target" attribute: the Dockerfile stage to build
	Secrets          []Secret
	SSH              []SSH
	Platforms        []string
	Outputs          []Output
	Pull             *bool
	NoCache          *bool
	Network          *string
	NoCacheFilter    []string
	ShmSize          *string
	Ulimits          []string
	Resources        *Resources
	Call             string
	Entitlements     []string
	ExtraHosts       map[string]string // addresses, or HostGateway, divided by commas
	Policy           []Policy

	// DependsOn names targets of the project that must be built before this one
	// although none of their output is read (an extension of dbake).
	DependsOn []string
	// Gates names targets of the project that must succeed before the outputs of this one
	// are written (an extension of dbake).
	Gates []string
	// Linked is true for a target that is built only because another one names
	// it in its contexts, or as a gate.
	Linked bool

	// Fault is why the target cannot be built although its definition is right, as a
	// file of a secret that is missing; nil when there is nothing, and when such a
	// fault is that of the whole definition (see compiler.Options).
	Fault error `json:"-"`

	// Origins maps the path of an attribute, as "tags", "args.FOO" or
	// "contexts.base", to the range of the value in the user's files. The empty
	// path is the target's own block. Defaults have no entry.
	Origins map[string]Range
}

// Attest is one attestation request.
type Attest struct {
	Type     string // "provenance", "sbom"
	Disabled bool
	Attrs    map[string]string
}

// CacheEntry is one cache import or export.
type CacheEntry struct {
	Type  string
	Attrs map[string]string // without "type"
}

// Output is one export of a target's result.
type Output struct {
	Type  string
	Dest  string            // path on the client; "-" is stdout; "" when the type needs none
	Attrs map[string]string // without "type" and "dest"
}

// Secret is a named secret; exactly one of Src and Env is set, or neither (the
// secret is then looked up by its ID in the environment, then as a file).
type Secret struct {
	ID  string
	Src string
	Env string
}

// SSH is a forwarded agent or a set of private keys.
type SSH struct {
	ID    string
	Paths []string
}

// Resources are limits for the containers of RUN steps.
type Resources struct {
	Memory     *string
	MemorySwap *string
	CPUShares  *int64
	CPUPeriod  *int64
	CPUQuota   *int64
	CpusetCPUs *string
	CpusetMems *string
}

// Policy is one source policy option of a target.
type Policy struct {
	Filename string
	// More are further files of the same option, after Filename.
	More     []string `json:",omitempty"`
	Reset    bool
	Disabled bool
	Strict   *bool
	LogLevel *string
}

// Links returns the names of the targets that t reads as contexts, sorted,
// without duplicates.
func (t *Target) Links() []string {
	var names []string
	for _, s := range t.Contexts {
		if s.Kind == SourceTarget {
			names = append(names, s.Ref)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// FromTree reports whether t reads directories of a remote definition.
func (t *Target) FromTree() bool {
	if t.Context.Kind == SourceTree {
		return true
	}
	for _, s := range t.Contexts {
		if s.Kind == SourceTree {
			return true
		}
	}
	return false
}

// SetWhole reports whether the whole attribute is what --set made it.
func (t *Target) SetWhole(attr string) bool { return t.Origins[attr].Set == attr }

// Origin returns the range of the attribute at path, or of its nearest enclosing
// path, or of the target's block.
func (t *Target) Origin(path string) Range {
	for {
		if r, ok := t.Origins[path]; ok {
			return r
		}
		i := strings.LastIndexByte(path, '.')
		if i < 0 {
			return t.Origins[""]
		}
		path = path[:i]
	}
}

// Target returns the target of that name, or nil.
func (p *Project) Target(name string) *Target {
	for _, t := range p.Targets {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// UnitID names a unit: the target's name, with "@PLATFORM" appended when the
// target asks for a platform.
type UnitID string

// Unit is one target on one platform: what compiles to one LLB definition and one
// image config.
type Unit struct {
	ID       UnitID
	Target   *Target
	Platform string // as the user wrote it; "" is the default platform of the nodes
}

// Units returns the units of p in topological order: targets as they stand,
// platforms of a target in its own order.
func (p *Project) Units() []Unit {
	var units []Unit
	for _, t := range p.Targets {
		platforms := t.PlatformList()
		if len(platforms) == 0 {
			units = append(units, Unit{ID: UnitID(t.Name), Target: t})
		}
		for _, pl := range platforms {
			units = append(units, Unit{ID: UnitID(t.Name + "@" + pl), Target: t, Platform: pl})
		}
	}
	return units
}

// PlatformList returns the platforms of t one by one: an item of the attribute
// may itself hold several, separated by commas.
func (t *Target) PlatformList() []string {
	var list []string
	for _, item := range t.Platforms {
		for pl := range strings.SplitSeq(item, ",") {
			if pl = strings.TrimSpace(pl); pl != "" && !slices.Contains(list, pl) {
				list = append(list, pl)
			}
		}
	}
	return list
}

// SortedKeys returns the keys of m in byte order.
func SortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
