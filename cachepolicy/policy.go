package cachepolicy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dbake/dbake/compiler/ir"
)

// Input is the input of [Decide].
type Input struct {
	// Store is where clusters are kept; the zero Store means that only what the
	// targets ask for themselves is imported and exported.
	Store
	// More are further places where clusters are kept: they are read after Store and
	// written beside it.
	More []Store
	// NoCache leaves out every import. Exports stay.
	NoCache bool
	// Units are the units of this build, each once.
	Units []ir.Unit
	// Clusters hold each unit at most once; a unit in none is a cluster of its
	// own. See [Group].
	Clusters []Cluster
	// Nodes says where a unit is built. A unit without an entry is not built in
	// this run (not started, or failed) and not exported.
	Nodes map[ir.UnitID]int
	// Records are the vertices that a unit needs, by numbers of the caller's
	// choice: one number is one vertex, whichever unit needs it. Each becomes
	// about one record of a cache. A unit without an entry counts as nothing.
	Records map[ir.UnitID][]int
	// Bytes are about how large the results of records are, as far as is known; by
	// number.
	Bytes []int64
	// Fleet is the number of nodes of this run. It serves to guess the names of
	// parts where a registry was not asked, and for nothing else.
	Fleet int
	// Known are the tags of each repository that was asked; a repository without
	// an entry was not asked. [Repositories] says which are worth asking.
	Known map[string][]string

	limits limits // as tests set them
}

// limits bound the size of a cache and the number of imports; 0 is the constant.
type limits struct{ records, siblings int }

const (
	// maxRecords is the greatest number of records in one export. It leaves a
	// tenth of the importer's 1 MiB free, since the size of a record varies with
	// its number of inputs: 1<<20 / 361 bytes is 2,904 records.
	maxRecords = 2600
	// maxSiblings is the greatest number of refs imported by the rule "sibling":
	// what each solve reads before its first cache hit stays below 16 times two
	// small documents.
	maxSiblings = 16
)

// Cluster is a set of units that share expensive steps.
type Cluster struct {
	Units []ir.UnitID
}

// Name returns the part of the ref that stands for c: [Name] of its units.
func (c Cluster) Name() string { return Name(c.Units) }

// Policy lists the caches to import and export.
type Policy struct {
	// Imports are for the solves of their units on every node, in this order.
	Imports []Import
	// Exports are one solve each, on the part's node, of exactly its units: at
	// the earliest when those are done, and none waits for another.
	Exports []Export
	// Joins are done when the exports they name are written.
	Joins []Join
	// TargetExports go with the export solve of the target on that node.
	TargetExports []TargetExport
	// Skipped are the caches that were considered and left out.
	Skipped []Skipped
	// Warnings are for the user.
	Warnings []Warning
}

// Import is a cache to read.
type Import struct {
	Entry ir.CacheEntry
	// Units are those whose solves read it, sorted: whole clusters, so that solves
	// which share a step agree. Nil is every unit.
	Units  []ir.UnitID
	Rule   string
	Reason string
}

// Export is a cluster, or a part of one, to write.
type Export struct {
	Cluster string
	Node    int
	Units   []ir.UnitID // sorted
	Records int         // estimate; 0 = not known
	Entry   ir.CacheEntry
	// Required makes it an error when it cannot be written.
	Required bool
	Rule     string
	Reason   string
}

// Join makes one cache of the parts of a cluster. A step that was found in one
// cache is of no help to find the next one in another, so importing parts beside
// each other misses what is in the middle of a part.
type Join struct {
	Ref   string
	Parts []string
	// Cluster and Units are what it holds, Base the one of Parts that was there before
	// the build and whose results are kept; "" is none. Only a [Writer] sets them.
	Cluster string
	Units   []ir.UnitID
	Base    string
	// Required makes it an error when it cannot be joined.
	Required bool
	Reason   string
}

// TargetExport is a cache that a target asks to write.
type TargetExport struct {
	Target string
	Node   int
	Units  []ir.UnitID // those of the target on this node, sorted
	Entry  ir.CacheEntry
	Rule   string
	Reason string
}

// Skipped is a cache that is not imported or exported.
type Skipped struct {
	Export bool
	Ref    string
	Rule   string
	Reason string
}

// Warning is something the user should know, and where it comes from.
type Warning struct {
	Rule  string
	Text  string
	Range ir.Range // zero when nothing in the files is its cause
}

// Reads reports whether a solve of units reads im.
func (im Import) Reads(units []ir.UnitID) bool {
	return im.Units == nil || slices.ContainsFunc(units, func(u ir.UnitID) bool {
		_, found := slices.BinarySearch(im.Units, u)
		return found
	})
}

// ImportEntries returns the entries of p.Imports. Each call makes new maps: the
// BuildKit client writes into those of its caller, and solves run at one time.
func (p *Policy) ImportEntries() []ir.CacheEntry {
	entries := make([]ir.CacheEntry, len(p.Imports))
	for i, im := range p.Imports {
		entries[i] = clone(im.Entry)
	}
	return entries
}

// String returns the policy as text, one decision a line.
func (p *Policy) String() string {
	var b strings.Builder
	for _, im := range p.Imports {
		fmt.Fprintf(&b, "import %s [%s] %s\n", entryString(im.Entry), im.Rule, im.Reason)
	}
	for _, e := range p.Exports {
		fmt.Fprintf(&b, "export %s on %d of %s [%s] %s\n", entryString(e.Entry), e.Node, joinUnits(e.Units), e.Rule, e.Reason)
	}
	for _, j := range p.Joins {
		fmt.Fprintf(&b, "join %s of %s [join] %s\n", j.Ref, strings.Join(j.Parts, ", "), j.Reason)
	}
	for _, e := range p.TargetExports {
		fmt.Fprintf(&b, "export %s on %d with %s [%s] %s\n", entryString(e.Entry), e.Node, joinUnits(e.Units), e.Rule, e.Reason)
	}
	for _, s := range p.Skipped {
		what := "import"
		if s.Export {
			what = "export"
		}
		fmt.Fprintf(&b, "no %s %s [%s] %s\n", what, s.Ref, s.Rule, s.Reason)
	}
	for _, w := range p.Warnings {
		fmt.Fprintf(&b, "warning [%s] %s\n", w.Rule, w.Text)
	}
	return b.String()
}

func entryString(e ir.CacheEntry) string {
	var b strings.Builder
	b.WriteString(e.Type)
	for _, k := range ir.SortedKeys(e.Attrs) {
		fmt.Fprintf(&b, ",%s=%s", k, e.Attrs[k])
	}
	return b.String()
}

func joinUnits(units []ir.UnitID) string {
	names := make([]string, len(units))
	for i, u := range units {
		names[i] = string(u)
	}
	return strings.Join(names, ", ")
}
