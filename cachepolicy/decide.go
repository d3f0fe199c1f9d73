package cachepolicy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dbake/dbake/compiler/ir"
)

// Decide returns the policy for a build.
func Decide(in Input) Policy {
	d := newDecider(in)
	stores := slices.Concat([]Store{in.Store}, in.More)
	d.imports(d.candidates())
	for _, s := range stores {
		d.in.Store, d.siblings = s, 0
		if !s.Repo.IsZero() {
			d.imports(d.repoCandidates())
			d.clusterExports()
		}
	}
	d.in.Store = in.Store
	d.targetExports()
	d.warnSamePlace()
	return d.policy
}

// Elsewhere returns what is to be written to in.More when the build is over. nodes says where
// units were built.
func (in Input) Elsewhere(nodes map[ir.UnitID]int) (exports []Export, joins []Join) {
	for _, s := range in.More {
		one := in
		one.Store, one.More, one.Nodes = s, nil, nodes
		p := Decide(one)
		exports, joins = append(exports, p.Exports...), append(joins, p.Joins...)
	}
	return exports, joins
}

// Repositories returns the repositories whose tags [Decide] would make use of,
// sorted.
func Repositories(in Input) []string {
	d := newDecider(in)
	repos := map[string]bool{}
	for _, s := range slices.Concat([]Store{in.Store}, in.More) {
		if !s.Repo.IsZero() {
			repos[s.Repo.Name] = true
		}
	}
	for _, t := range d.targets {
		if len(d.units[t.Name]) < 2 {
			continue // written by one node, hence never in parts
		}
		for _, e := range t.CacheTo {
			if repo, _ := cutRef(e.Attrs["ref"]); e.Type == ir.TypeRegistry && repo != "" {
				repos[repo] = true
			}
		}
	}
	return ir.SortedKeys(repos)
}

// decider holds what the rules look at.
type decider struct {
	in       Input
	limits   limits
	targets  []*ir.Target           // by name
	units    map[string][]ir.UnitID // of a target, in its order
	clusters []Cluster              // by name
	names    map[string]bool        // of the clusters
	slugs    map[string]bool        // of the units
	of       map[ir.UnitID]Cluster  // the cluster of a unit
	imported map[string]ir.CacheEntry
	siblings int
	complete bool // the registry has the ref of every cluster of this build
	policy   Policy
}

func newDecider(in Input) *decider {
	d := &decider{in: in, limits: in.limits, units: map[string][]ir.UnitID{}, names: map[string]bool{}, slugs: map[string]bool{}, of: map[ir.UnitID]Cluster{}, imported: map[string]ir.CacheEntry{}}
	if d.limits.records == 0 {
		d.limits.records = maxRecords
	}
	if d.limits.siblings == 0 {
		d.limits.siblings = maxSiblings
	}
	grouped := map[ir.UnitID]bool{}
	for _, c := range in.Clusters {
		units := slices.Compact(slices.Sorted(slices.Values(c.Units)))
		if len(units) > 0 {
			d.clusters = append(d.clusters, Cluster{Units: units})
		}
		for _, u := range units {
			grouped[u] = true
		}
	}
	for _, u := range in.Units {
		if _, ok := d.units[u.Target.Name]; !ok {
			d.targets = append(d.targets, u.Target)
		}
		d.units[u.Target.Name] = append(d.units[u.Target.Name], u.ID)
		d.slugs[slugOf(u.ID)] = true
		if !grouped[u.ID] {
			d.clusters = append(d.clusters, Cluster{Units: []ir.UnitID{u.ID}})
		}
	}
	for _, us := range d.units {
		slices.Sort(us)
	}
	slices.SortFunc(d.targets, func(a, b *ir.Target) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(d.clusters, func(a, b Cluster) int { return cmp.Compare(a.Name(), b.Name()) })
	for _, c := range d.clusters {
		d.names[c.Name()] = true
		for _, u := range c.Units {
			d.of[u] = c
		}
	}
	return d
}

// tags returns the tags of a repository; ok is false when it was not asked.
func (d *decider) tags(repo string) (tags []string, ok bool) {
	tags, ok = d.in.Known[repo]
	return slices.Compact(slices.Sorted(slices.Values(tags))), ok
}

func (d *decider) skip(export bool, e ir.CacheEntry, rule, reason string) {
	d.policy.Skipped = append(d.policy.Skipped, Skipped{Export: export, Ref: display(e), Rule: rule, Reason: reason})
}

func (d *decider) warn(rule string, at ir.Range, format string, args ...any) {
	d.policy.Warnings = append(d.policy.Warnings, Warning{Rule: rule, Text: fmt.Sprintf(format, args...), Range: at})
}

// candidate is a cache that might be imported.
type candidate struct {
	entry   ir.CacheEntry
	units   []ir.UnitID // whose solves would read it; nil = all
	target  string      // whose cache-from it is
	cluster string      // whose ref in Repo it is
	part    bool        // a part of a target's own cache
	joined  bool        // a part of a cluster whose ref holds all parts
	absent  bool        // the registry was asked and does not have it
	guessed bool        // the registry was not asked
}

// importRules decide over candidates; the first that gives a reason wins. A rule
// with skip leaves the candidate out.
var importRules = []struct {
	name   string
	skip   bool
	reason func(*decider, candidate) string
}{
	{"no-cache", true, func(d *decider, _ candidate) string {
		return when(d.in.NoCache, "the build was asked not to use the cache")
	}},
	{"duplicate", true, func(d *decider, c candidate) string {
		_, ok := d.imported[importKey(c.entry)]
		return when(ok, "it is imported already")
	}},
	{"target", false, func(_ *decider, c candidate) string {
		return when(c.target != "" && !c.part, "cache-from of target "+c.target)
	}},
	{"absent", true, func(_ *decider, c candidate) string {
		return when(c.absent, "the registry does not have it yet")
	}},
	{"joined", true, func(_ *decider, c candidate) string {
		return when(c.joined, "the ref of cluster "+c.cluster+" holds all its parts")
	}},
	{"target-part", false, func(_ *decider, c candidate) string {
		return when(c.part, "target "+c.target+" was exported by several nodes")
	}},
	{"cluster", false, func(d *decider, c candidate) string {
		switch {
		case !d.names[c.cluster]:
			return ""
		case c.guessed:
			return "the cache of cluster " + c.cluster + ", if it exists: the registry's tags are not known"
		}
		return "the cache of cluster " + c.cluster
	}},
	{"complete", true, func(d *decider, _ candidate) string {
		return when(d.complete, "every cluster of this build has a ref of its own")
	}},
	{"limit", true, func(d *decider, _ candidate) string {
		return when(d.siblings >= d.limits.siblings, fmt.Sprintf("%d refs of other sets of targets are imported already", d.siblings))
	}},
	{"sibling", false, func(_ *decider, c candidate) string {
		return "the cache of another set of targets, " + c.cluster
	}},
}

func when(cond bool, reason string) string {
	if cond {
		return reason
	}
	return ""
}

// imports decides over candidates. Those of the targets come first: of two entries
// for one ref the daemon follows the first, and the user's attributes should count.
func (d *decider) imports(candidates []candidate) {
	limited := 0
	for _, c := range candidates {
		for _, r := range importRules {
			reason := r.reason(d, c)
			if reason == "" {
				continue
			}
			if r.skip {
				d.skip(false, c.entry, r.name, reason)
				if r.name == "duplicate" {
					d.widen(c)
				}
				if r.name == "limit" {
					limited++
				}
			} else {
				d.policy.Imports = append(d.policy.Imports, Import{Entry: clone(c.entry), Units: c.units, Rule: r.name, Reason: reason})
				d.imported[importKey(c.entry)] = c.entry
				if r.name == "sibling" {
					d.siblings++
				}
			}
			break
		}
	}
	if limited > 0 && d.limits.siblings > 0 {
		d.warn("limit", ir.Range{}, "%s left unread in %s: of the refs that other sets of targets wrote, the first %d are read; delete old tags with prefix %s-",
			count(limited, "cache ref"), d.in.Repo.Name, d.limits.siblings, d.in.Repo.Prefix)
	}
}

// widen lets the units of c read the import that c is a duplicate of.
func (d *decider) widen(c candidate) {
	key := importKey(c.entry)
	i := slices.IndexFunc(d.policy.Imports, func(im Import) bool { return importKey(im.Entry) == key })
	im := &d.policy.Imports[i]
	if im.Units == nil || c.units == nil {
		im.Units = nil
		return
	}
	im.Units = slices.Compact(slices.Sorted(slices.Values(slices.Concat(im.Units, c.units))))
}

// beside returns the units of the clusters of t, sorted: those that share steps with
// it, and so have to read the same caches.
func (d *decider) beside(t *ir.Target) []ir.UnitID {
	var units []ir.UnitID
	for _, u := range d.units[t.Name] {
		units = append(units, d.of[u].Units...)
	}
	slices.Sort(units)
	return slices.Compact(units)
}

// candidates returns the caches that targets say they read.
func (d *decider) candidates() []candidate {
	var cs []candidate
	for _, t := range d.targets {
		first := len(cs)
		for _, e := range t.CacheFrom {
			cs = append(cs, candidate{entry: e, target: t.Name})
			cs = append(cs, d.targetParts(t, e)...)
		}
		units := d.beside(t)
		for i := range cs[first:] {
			cs[first+i].units = units
		}
	}
	return cs
}

// targetParts returns the further parts of a cache that t both reads and writes.
func (d *decider) targetParts(t *ir.Target, from ir.CacheEntry) []candidate {
	writes := slices.ContainsFunc(t.CacheTo, func(to ir.CacheEntry) bool {
		v := to.Attrs[placeAttr(to.Type, true)]
		w := from.Attrs[placeAttr(from.Type, false)]
		if to.Type == ir.TypeRegistry {
			v, w = withTag(v), withTag(w)
		}
		return to.Type == from.Type && v == w
	})
	if !writes {
		return nil
	}
	var have map[string]bool
	asked := false
	if from.Type == ir.TypeRegistry {
		repo, _ := cutRef(from.Attrs["ref"])
		var tags []string
		if tags, asked = d.tags(repo); asked {
			have = map[string]bool{}
			for _, tag := range tags {
				have[repo+":"+tag] = true
			}
		}
	}
	// A target is written in at most as many parts as it has units.
	most := len(d.units[t.Name])
	if !asked {
		most = min(most, d.in.Fleet)
	}
	var cs []candidate
	for n := 1; n < most; n++ {
		e, ok := withPart(from, n, false)
		if !ok {
			break
		}
		if !asked || have[e.Attrs["ref"]] {
			cs = append(cs, candidate{entry: e, target: t.Name, part: true})
		}
	}
	return cs
}

// repoCandidates returns the refs of Repo: this build's clusters by name, then the others,
// those that begin with a target of this build first.
func (d *decider) repoCandidates() []candidate {
	ref := d.in.importEntry
	tags, asked := d.tags(d.in.Repo.Name)
	var own, near, far []candidate
	seen := map[string]bool{}
	whole := map[string]bool{} // clusters with a ref that is no part
	for _, c := range d.clusters {
		// Where the whole is too large to be joined, a ref for it is an old one.
		whole[c.Name()] = slices.Contains(tags, d.in.Repo.tag(c.Name(), -1)) && d.records(c.Units) <= d.limits.records
	}
	d.complete = !slices.ContainsFunc(d.clusters, func(c Cluster) bool { return !whole[c.Name()] })
	for _, tag := range tags {
		cluster, ok := d.in.Repo.cutTag(tag)
		if !ok {
			continue
		}
		c := candidate{entry: ref(tag), cluster: cluster, units: d.clusterUnits(cluster)}
		c.joined = whole[cluster] && tag != d.in.Repo.tag(cluster, -1)
		switch {
		case d.names[cluster]:
			seen[cluster] = true
			own = append(own, c)
		case d.slugs[cluster[:len(cluster)-len("-01234567")]]:
			near = append(near, c)
		default:
			far = append(far, c)
		}
	}
	for _, c := range d.clusters {
		name := c.Name()
		if seen[name] {
			continue
		}
		own = append(own, candidate{entry: ref(d.in.Repo.tag(name, -1)), cluster: name, units: c.Units, absent: asked, guessed: !asked})
		if asked || d.in.Fleet < 2 {
			continue
		}
		// A part needs at least one unit.
		for n := range min(d.in.Fleet, len(c.Units)) {
			own = append(own, candidate{entry: ref(d.in.Repo.tag(name, n)), cluster: name, units: c.Units, guessed: true})
		}
	}
	slices.SortStableFunc(own, func(a, b candidate) int { return cmp.Compare(a.cluster, b.cluster) })
	return slices.Concat(own, near, far)
}

// clusterUnits returns the units of the cluster of this build with that name; nil
// when there is none.
func (d *decider) clusterUnits(name string) []ir.UnitID {
	for _, c := range d.clusters {
		if c.Name() == name {
			return c.Units
		}
	}
	return nil
}

// exportRules decide over the parts of clusters; the first that gives a reason
// wins.
var exportRules = []struct {
	name   string
	reason func(*decider, *part) string
}{
	{"partly-built", func(_ *decider, p *part) string {
		return when(p.partly, "other units of the cluster were not built, and its ref may hold theirs")
	}},
	{"too-large", func(d *decider, p *part) string {
		return when(len(p.seen) > d.limits.records, fmt.Sprintf("%s alone has %d records, more than the %d that an importer reads", p.units[0], len(p.seen), d.limits.records))
	}},
	{"cluster-split", func(d *decider, p *part) string {
		return when(p.cut, fmt.Sprintf("together the units on this node have more than the %d records that an importer reads", d.limits.records))
	}},
	{"cluster-node", func(_ *decider, p *part) string {
		return when(p.nodes > 1, fmt.Sprintf("the cluster is built on %d nodes, and an export replaces its ref", p.nodes))
	}},
	{"cluster", func(_ *decider, p *part) string {
		return fmt.Sprintf("one export for %s", count(len(p.units), "unit"))
	}},
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func (d *decider) clusterExports() {
	for _, c := range d.clusters {
		built := Cluster{}
		for _, u := range c.Units {
			if _, ok := d.in.Nodes[u]; ok {
				built.Units = append(built.Units, u)
			}
		}
		if len(built.Units) == 0 {
			e := d.in.exportEntry(d.in.Repo.tag(c.Name(), -1))
			d.skip(true, e, "not-built", "none of its units was built")
			continue
		}
		name := built.Name()
		parts := cutCluster(&d.in, built, d.limits.records)
		first := len(d.policy.Exports)
		for i, p := range parts {
			p.partly = len(built.Units) < len(c.Units)
			tag := d.in.Repo.tag(name, i)
			if len(parts) == 1 {
				tag = d.in.Repo.tag(name, -1)
			}
			d.clusterExport(p, tag)
		}
		d.join(name, parts, d.policy.Exports[first:])
	}
}

// join decides whether the parts of a cluster become one ref: when all of them are
// written, and are together within what an importer reads.
func (d *decider) join(name string, parts []*part, exports []Export) {
	if len(parts) < 2 || len(exports) < len(parts) {
		return
	}
	var units []ir.UnitID
	for _, p := range parts {
		units = append(units, p.units...)
	}
	records := d.records(units)
	if records > d.limits.records {
		return
	}
	j := Join{Ref: d.in.Repo.Name + ":" + d.in.Repo.tag(name, -1), Required: d.in.Required, Reason: fmt.Sprintf("%s, %s together", count(len(parts), "part"), count(records, "record"))}
	for _, x := range exports {
		j.Parts = append(j.Parts, x.Entry.Attrs["ref"])
	}
	d.policy.Joins = append(d.policy.Joins, j)
}

// records returns the number of records that units have together.
func (d *decider) records(units []ir.UnitID) int {
	seen := map[int]bool{}
	for _, u := range units {
		for _, v := range d.in.Records[u] {
			seen[v] = true
		}
	}
	return len(seen)
}

func (d *decider) clusterExport(p *part, tag string) {
	entry := d.in.exportEntry(tag)
	for _, r := range exportRules {
		reason := r.reason(d, p)
		if reason == "" {
			continue
		}
		if len(p.seen) > d.limits.records {
			d.warn("too-large", ir.Range{}, "the cache of %s has about %d records; BuildKit reads at most %d of one ref, so builds elsewhere may start cold", p.units[0], len(p.seen), d.limits.records)
		}
		d.policy.Exports = append(d.policy.Exports, Export{
			Cluster: p.cluster, Node: p.node, Units: p.units, Records: len(p.seen),
			Entry: entry, Required: d.in.Required, Rule: r.name, Reason: reason,
		})
		return
	}
}

// share is the part of a target that one node builds.
type share struct {
	node  int
	units []ir.UnitID
}

// shares returns the nodes that build a target, that of the smallest unit first.
func (d *decider) shares(t *ir.Target) []share {
	perNode := map[int][]ir.UnitID{}
	for _, u := range d.units[t.Name] {
		if n, ok := d.in.Nodes[u]; ok {
			perNode[n] = append(perNode[n], u)
		}
	}
	shares := make([]share, 0, len(perNode))
	for _, n := range slices.Sorted(maps.Keys(perNode)) {
		shares = append(shares, share{n, perNode[n]})
	}
	slices.SortFunc(shares, func(a, b share) int { return cmp.Compare(a.units[0], b.units[0]) })
	return shares
}

func (d *decider) targetExports() {
	for _, t := range d.targets {
		shares := d.shares(t)
		seen := map[string]bool{}
		for _, e := range t.CacheTo {
			key := exportKey(e)
			switch {
			case len(shares) == 0:
				d.skip(true, e, "not-built", "target "+t.Name+" was not built")
				continue
			case seen[key]:
				d.skip(true, e, "duplicate", "target "+t.Name+" exports there already")
				continue
			}
			seen[key] = true
			for i, s := range shares {
				d.targetExport(t, e, i, s, len(shares))
			}
		}
	}
}

func (d *decider) targetExport(t *ir.Target, e ir.CacheEntry, i int, s share, of int) {
	out := TargetExport{Target: t.Name, Node: s.node, Units: s.units, Entry: clone(e)}
	switch {
	case e.Type == ir.TypeInline:
		out.Rule, out.Reason = "inline", "it is part of the image"
	case of > 1:
		out.Rule = "target-part"
		out.Reason = fmt.Sprintf("target %s is built on %d nodes, and an export replaces its place", t.Name, of)
		if i == 0 {
			break
		}
		moved, ok := withPart(e, i, true)
		if !ok {
			d.warn("target-part", t.Origin("cache-to"), "target %s is built on %d nodes and exports its cache to %s; only what %s builds is exported, since the rest would overwrite it",
				t.Name, of, display(e), joinUnits(d.shares(t)[0].units))
			return
		}
		out.Entry = moved
	default:
		out.Rule, out.Reason = "target", "cache-to of target "+t.Name
	}
	d.policy.TargetExports = append(d.policy.TargetExports, out)
}

// warnSamePlace finds exports that would overwrite each other.
func (d *decider) warnSamePlace() {
	type writer struct {
		target string
		entry  ir.CacheEntry
	}
	places := map[string][]writer{}
	for _, e := range d.policy.TargetExports {
		if e.Entry.Type == ir.TypeInline {
			continue
		}
		k := exportKey(e.Entry)
		places[k] = append(places[k], writer{e.Target, e.Entry})
	}
	clusters := map[string]string{}
	for _, e := range d.policy.Exports {
		clusters[exportKey(e.Entry)] = e.Cluster
	}
	for _, k := range ir.SortedKeys(places) {
		ws := places[k]
		var names []string
		for _, w := range ws {
			if !slices.Contains(names, w.target) {
				names = append(names, w.target)
			}
		}
		at := d.target(ws[0].target).Origin("cache-to")
		if len(names) > 1 {
			d.warn("same-place", at, "targets %s export their cache to one place, %s: the last to finish overwrites the others; give each its own, or leave cache-to out and use --cache-registry",
				strings.Join(names, ", "), display(ws[0].entry))
		}
		if c, ok := clusters[k]; ok {
			d.warn("same-place", at, "target %s exports its cache to %s, which is where the cache of cluster %s goes; use another tag", names[0], display(ws[0].entry), c)
		}
	}
}

func (d *decider) target(name string) *ir.Target {
	i, _ := slices.BinarySearchFunc(d.targets, name, func(t *ir.Target, name string) int { return cmp.Compare(t.Name, name) })
	return d.targets[i]
}
