package cachepolicy

import (
	"fmt"
	"maps"
	"math/rand"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

var repo = Repo{Name: "r:5000/team/cache", Prefix: "dbake"}

// build makes the units of targets that are given as NAME or NAME@P1,P2.
func build(targets ...string) []ir.Unit {
	p := &ir.Project{}
	for _, t := range targets {
		name, pl, multi := strings.Cut(t, "@")
		tgt := &ir.Target{Name: name}
		if multi {
			tgt.Platforms = strings.Split(pl, ",")
		}
		p.Targets = append(p.Targets, tgt)
	}
	return p.Units()
}

// nodes reads "a=0 b=1".
func nodes(s string) map[ir.UnitID]int {
	m := map[ir.UnitID]int{}
	for f := range strings.FieldsSeq(s) {
		u, n, _ := strings.Cut(f, "=")
		i, err := strconv.Atoi(n)
		if err != nil {
			panic(err) // a mistake in the test's own table
		}
		m[ir.UnitID(u)] = i
	}
	return m
}

func cluster(units ...ir.UnitID) Cluster { return Cluster{Units: units} }

func registryCache(ref string, attrs ...string) ir.CacheEntry {
	e := ir.CacheEntry{Type: "registry", Attrs: map[string]string{"ref": ref}}
	for _, a := range attrs {
		k, v, _ := strings.Cut(a, "=")
		e.Attrs[k] = v
	}
	return e
}

func upTo(from, to int) []int {
	var s []int
	for i := from; i < to; i++ {
		s = append(s, i)
	}
	return s
}

const tail = "image-manifest=true,mode=max,oci-mediatypes=true,ref=r:5000/team/cache:"

func TestDecide(t *testing.T) {
	api, web := Name([]ir.UnitID{"api", "web"}), Name([]ir.UnitID{"db"})
	ab := []Cluster{cluster("web", "api"), cluster("db")}
	for _, tc := range []struct {
		name string
		in   Input
		edit func(map[string]*ir.Target)
		want string
	}{
		{
			name: "no registry and nothing asked for: nothing",
			in:   Input{Units: build("api", "web"), Nodes: nodes("api=0 web=0")},
		},
		{
			name: "one ref for a cluster, and all of them for every solve",
			in: Input{Store: Store{Repo: repo}, Units: build("api", "web", "db"), Clusters: ab, Nodes: nodes("api=0 web=0 db=1"), Fleet: 2,
				Known: map[string][]string{repo.Name: {"dbake-" + api, "dbake-" + web, "latest", "other-" + web}}},
			want: `
import registry,ref=r:5000/team/cache:dbake-api-9697d54d [cluster] the cache of cluster api-9697d54d
import registry,ref=r:5000/team/cache:dbake-db-52a3e7b3 [cluster] the cache of cluster db-52a3e7b3
export registry,TAILdbake-api-9697d54d on 0 of api, web [cluster] one export for 2 units
export registry,TAILdbake-db-52a3e7b3 on 1 of db [cluster] one export for 1 unit
`,
		},
		{
			name: "first run: the registry has nothing, and says so",
			in: Input{Store: Store{Repo: repo}, Units: build("api", "web"), Clusters: []Cluster{cluster("api", "web")}, Nodes: nodes("api=0 web=0"), Fleet: 2,
				Known: map[string][]string{repo.Name: nil}},
			want: `
export registry,TAILdbake-api-9697d54d on 0 of api, web [cluster] one export for 2 units
no import registry r:5000/team/cache:dbake-api-9697d54d [absent] the registry does not have it yet
`,
		},
		{
			name: "a registry that was not asked is guessed at",
			in: Input{Store: Store{Repo: repo, Insecure: true, Attrs: map[string]string{"compression": "zstd"}}, Units: build("api", "web"), Clusters: []Cluster{cluster("api", "web")},
				Nodes: nodes("api=0 web=0"), Fleet: 3},
			want: `
import registry,ref=r:5000/team/cache:dbake-api-9697d54d,registry.insecure=true [cluster] the cache of cluster api-9697d54d, if it exists: the registry's tags are not known
import registry,ref=r:5000/team/cache:dbake-api-9697d54d-0,registry.insecure=true [cluster] the cache of cluster api-9697d54d, if it exists: the registry's tags are not known
import registry,ref=r:5000/team/cache:dbake-api-9697d54d-1,registry.insecure=true [cluster] the cache of cluster api-9697d54d, if it exists: the registry's tags are not known
export registry,compression=zstd,TAILdbake-api-9697d54d,registry.insecure=true on 0 of api, web [cluster] one export for 2 units
`,
		},
		{
			// Numbers follow the units, not the nodes: 7 comes before 3.
			name: "a cluster on several nodes has a ref for each, which become one; that one is read, and not the parts",
			in: Input{Store: Store{Repo: repo}, Units: build("api", "web"), Clusters: []Cluster{cluster("api", "web")}, Nodes: nodes("api=7 web=3"), Fleet: 8,
				Known: map[string][]string{repo.Name: {"dbake-" + api + "-2", "dbake-" + api, "dbake-" + api + "-0"}}},
			want: `
import registry,ref=r:5000/team/cache:dbake-api-9697d54d [cluster] the cache of cluster api-9697d54d
export registry,TAILdbake-api-9697d54d-0 on 7 of api [cluster-node] the cluster is built on 2 nodes, and an export replaces its ref
export registry,TAILdbake-api-9697d54d-1 on 3 of web [cluster-node] the cluster is built on 2 nodes, and an export replaces its ref
join r:5000/team/cache:dbake-api-9697d54d of r:5000/team/cache:dbake-api-9697d54d-0, r:5000/team/cache:dbake-api-9697d54d-1 [join] 2 parts, 0 records together
no import registry r:5000/team/cache:dbake-api-9697d54d-0 [joined] the ref of cluster api-9697d54d holds all its parts
no import registry r:5000/team/cache:dbake-api-9697d54d-2 [joined] the ref of cluster api-9697d54d holds all its parts
`,
		},
		{
			name: "where parts were never joined, as this machine may not write, all are read",
			in: Input{Store: Store{Repo: repo}, Units: build("api", "web"), Clusters: []Cluster{cluster("api", "web")}, Nodes: nodes("api=0 web=0"), Fleet: 2,
				Known: map[string][]string{repo.Name: {"dbake-" + api + "-1", "dbake-" + api + "-0"}}},
			want: `
import registry,ref=r:5000/team/cache:dbake-api-9697d54d-0 [cluster] the cache of cluster api-9697d54d
import registry,ref=r:5000/team/cache:dbake-api-9697d54d-1 [cluster] the cache of cluster api-9697d54d
export registry,TAILdbake-api-9697d54d on 0 of api, web [cluster] one export for 2 units
`,
		},
		{
			// a and c share all but a few records, b nothing.
			name: "a cluster that no importer could read is split where least is written twice",
			in: Input{Store: Store{Repo: repo}, Units: build("a", "b", "c"), Clusters: []Cluster{cluster("a", "b", "c")}, Nodes: nodes("a=0 b=0 c=0"),
				Records: map[ir.UnitID][]int{"a": upTo(0, 1500), "b": upTo(5000, 6500), "c": upTo(100, 1600)},
				Known:   map[string][]string{repo.Name: nil}},
			want: `
export registry,TAILdbake-a-880553fc-0 on 0 of a, c [cluster-split] together the units on this node have more than the 2600 records that an importer reads
export registry,TAILdbake-a-880553fc-1 on 0 of b [cluster-split] together the units on this node have more than the 2600 records that an importer reads
no import registry r:5000/team/cache:dbake-a-880553fc [absent] the registry does not have it yet
`,
		},
		{
			name: "a unit that is too large alone",
			in: Input{Store: Store{Repo: repo}, Units: build("a"), Nodes: nodes("a=0"), Records: map[ir.UnitID][]int{"a": upTo(0, 11)}, limits: limits{records: 10},
				Known: map[string][]string{repo.Name: nil}},
			want: `
export registry,TAILdbake-a-87428fc5 on 0 of a [too-large] a alone has 11 records, more than the 10 that an importer reads
no import registry r:5000/team/cache:dbake-a-87428fc5 [absent] the registry does not have it yet
warning [too-large] the cache of a has about 11 records; BuildKit reads at most 10 of one ref, so builds elsewhere may start cold
`,
		},
		{
			name: "what failed keeps its cache",
			in: Input{Store: Store{Repo: repo}, Units: build("api", "web", "db"), Clusters: ab, Nodes: nodes("web=1"),
				Known: map[string][]string{repo.Name: {"dbake-" + api}}},
			want: `
import registry,ref=r:5000/team/cache:dbake-api-9697d54d [cluster] the cache of cluster api-9697d54d
export registry,TAILdbake-web-4ded89b3 on 1 of web [partly-built] other units of the cluster were not built, and its ref may hold theirs
no import registry r:5000/team/cache:dbake-db-52a3e7b3 [absent] the registry does not have it yet
no export registry r:5000/team/cache:dbake-db-52a3e7b3 [not-built] none of its units was built
`,
		},
		{
			name: "siblings: those of this build's targets first, up to the limit",
			in: Input{Store: Store{Repo: repo}, Units: build("web"), Nodes: nodes("web=0"), limits: limits{siblings: 2},
				Known: map[string][]string{repo.Name: {"dbake-web-00000000-1", "dbake-aaa-00000000", "dbake-aab-00000000", "dbake-short-123"}}},
			want: `
import registry,ref=r:5000/team/cache:dbake-web-00000000-1 [sibling] the cache of another set of targets, web-00000000
import registry,ref=r:5000/team/cache:dbake-aaa-00000000 [sibling] the cache of another set of targets, aaa-00000000
export registry,TAILdbake-web-4ded89b3 on 0 of web [cluster] one export for 1 unit
no import registry r:5000/team/cache:dbake-web-4ded89b3 [absent] the registry does not have it yet
no import registry r:5000/team/cache:dbake-aab-00000000 [limit] 2 refs of other sets of targets are imported already
warning [limit] 1 cache ref left unread in r:5000/team/cache: of the refs that other sets of targets wrote, the first 2 are read; delete old tags with prefix dbake-
`,
		},
		{
			name: "no siblings wanted, no warning",
			in: Input{Store: Store{Repo: repo}, Units: build("web"), limits: limits{siblings: -1},
				Known: map[string][]string{repo.Name: {"dbake-aaa-00000000"}}},
			want: `
no import registry r:5000/team/cache:dbake-web-4ded89b3 [absent] the registry does not have it yet
no import registry r:5000/team/cache:dbake-aaa-00000000 [limit] 0 refs of other sets of targets are imported already
no export registry r:5000/team/cache:dbake-web-4ded89b3 [not-built] none of its units was built
`,
		},
		{
			name: "no-cache reads nothing and still writes",
			in: Input{Store: Store{Repo: repo}, NoCache: true, Units: build("web"), Nodes: nodes("web=0"),
				Known: map[string][]string{repo.Name: {"dbake-web-4ded89b3"}}},
			edit: func(ts map[string]*ir.Target) { ts["web"].CacheFrom = []ir.CacheEntry{registryCache("r/web:c")} },
			want: `
export registry,TAILdbake-web-4ded89b3 on 0 of web [cluster] one export for 1 unit
no import registry r/web:c [no-cache] the build was asked not to use the cache
no import registry r:5000/team/cache:dbake-web-4ded89b3 [no-cache] the build was asked not to use the cache
`,
		},
		{
			name: "the targets' own entries: the union is read, each is written with its target",
			in:   Input{Units: build("api", "web"), Nodes: nodes("api=0 web=1")},
			edit: func(ts map[string]*ir.Target) {
				ts["web"].CacheFrom = []ir.CacheEntry{registryCache("r/web"), registryCache("r/base:1")}
				ts["api"].CacheFrom = []ir.CacheEntry{registryCache("r/base:1", "x=y"), {Type: "local", Attrs: map[string]string{"src": "c"}}, {Type: "gha"}}
				ts["web"].CacheTo = []ir.CacheEntry{registryCache("r/web", "mode=max"), {Type: "inline"}}
				ts["api"].CacheTo = []ir.CacheEntry{registryCache("r/api:latest"), registryCache("r/api", "mode=max")}
			},
			want: `
import registry,ref=r/base:1,x=y [target] cache-from of target api
import local,src=c [target] cache-from of target api
import gha [target] cache-from of target api
import registry,ref=r/web [target] cache-from of target web
export registry,ref=r/api:latest on 0 with api [target] cache-to of target api
export registry,mode=max,ref=r/web on 1 with web [target] cache-to of target web
export inline on 1 with web [inline] it is part of the image
no import registry r/base:1 [duplicate] it is imported already
no export registry r/api [duplicate] target api exports there already
`,
		},
		{
			name: "a target on several nodes writes several parts and reads them",
			in: Input{Units: build("app@linux/amd64,linux/arm64,linux/s390x"), Nodes: nodes("app@linux/amd64=1 app@linux/arm64=0 app@linux/s390x=0"), Fleet: 2,
				Known: map[string][]string{"r/app": {"cache", "cache-1", "cache-7"}}},
			edit: func(ts map[string]*ir.Target) {
				ts["app"].CacheFrom = []ir.CacheEntry{registryCache("r/app:cache"), registryCache("r/app:other"), {Type: "gha", Attrs: map[string]string{"scope": "app"}}}
				ts["app"].CacheTo = []ir.CacheEntry{
					registryCache("r/app:cache", "mode=max"),
					{Type: "gha", Attrs: map[string]string{"scope": "app"}},
					{Type: "s3", Attrs: map[string]string{"bucket": "b", "name": "x;y"}},
					{Type: "odd", Attrs: map[string]string{"where": "w"}},
				}
			},
			want: `
import registry,ref=r/app:cache [target] cache-from of target app
import registry,ref=r/app:cache-1 [target-part] target app was exported by several nodes
import registry,ref=r/app:other [target] cache-from of target app
import gha,scope=app [target] cache-from of target app
import gha,scope=app-1 [target-part] target app was exported by several nodes
export registry,mode=max,ref=r/app:cache on 1 with app@linux/amd64 [target-part] target app is built on 2 nodes, and an export replaces its place
export registry,mode=max,ref=r/app:cache-1 on 0 with app@linux/arm64, app@linux/s390x [target-part] target app is built on 2 nodes, and an export replaces its place
export gha,scope=app on 1 with app@linux/amd64 [target-part] target app is built on 2 nodes, and an export replaces its place
export gha,scope=app-1 on 0 with app@linux/arm64, app@linux/s390x [target-part] target app is built on 2 nodes, and an export replaces its place
export s3,bucket=b,name=x;y on 1 with app@linux/amd64 [target-part] target app is built on 2 nodes, and an export replaces its place
export s3,bucket=b,name=x-1;y-1 on 0 with app@linux/arm64, app@linux/s390x [target-part] target app is built on 2 nodes, and an export replaces its place
export odd,where=w on 1 with app@linux/amd64 [target-part] target app is built on 2 nodes, and an export replaces its place
warning [target-part] target app is built on 2 nodes and exports its cache to odd; only what app@linux/amd64 builds is exported, since the rest would overwrite it
`,
		},
		{
			name: "targets that overwrite each other or a cluster",
			in: Input{Store: Store{Repo: repo}, Units: build("api", "web"), Clusters: []Cluster{cluster("api", "web")}, Nodes: nodes("api=0 web=1"),
				Known: map[string][]string{repo.Name: nil}},
			edit: func(ts map[string]*ir.Target) {
				ts["api"].CacheTo = []ir.CacheEntry{registryCache("r/c", "mode=max"), {Type: "local", Attrs: map[string]string{"dest": "d/"}}}
				ts["web"].CacheTo = []ir.CacheEntry{registryCache("r/c:latest"), {Type: "local", Attrs: map[string]string{"dest": "d", "mode": "max"}},
					registryCache("r:5000/team/cache:dbake-" + api + "-1")}
			},
			want: `
export registry,TAILdbake-api-9697d54d-0 on 0 of api [cluster-node] the cluster is built on 2 nodes, and an export replaces its ref
export registry,TAILdbake-api-9697d54d-1 on 1 of web [cluster-node] the cluster is built on 2 nodes, and an export replaces its ref
join r:5000/team/cache:dbake-api-9697d54d of r:5000/team/cache:dbake-api-9697d54d-0, r:5000/team/cache:dbake-api-9697d54d-1 [join] 2 parts, 0 records together
export registry,mode=max,ref=r/c on 0 with api [target] cache-to of target api
export local,dest=d/ on 0 with api [target] cache-to of target api
export registry,ref=r/c:latest on 1 with web [target] cache-to of target web
export local,dest=d,mode=max on 1 with web [target] cache-to of target web
export registry,ref=r:5000/team/cache:dbake-api-9697d54d-1 on 1 with web [target] cache-to of target web
no import registry r:5000/team/cache:dbake-api-9697d54d [absent] the registry does not have it yet
warning [same-place] targets api, web export their cache to one place, local d/: the last to finish overwrites the others; give each its own, or leave cache-to out and use --cache-registry
warning [same-place] targets api, web export their cache to one place, registry r/c: the last to finish overwrites the others; give each its own, or leave cache-to out and use --cache-registry
warning [same-place] target web exports its cache to registry r:5000/team/cache:dbake-api-9697d54d-1, which is where the cache of cluster api-9697d54d goes; use another tag
`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.edit != nil {
				ts := map[string]*ir.Target{}
				for _, u := range tc.in.Units {
					ts[u.Target.Name] = u.Target
				}
				tc.edit(ts)
			}
			p := Decide(tc.in)
			want := strings.ReplaceAll(strings.TrimPrefix(tc.want, "\n"), "TAIL", tail)
			require.Equal(t, want, p.String())
		})
	}
}

func TestWarningPointsAtTheFile(t *testing.T) {
	units := build("a", "b")
	at := ir.Range{Filename: "docker-bake.hcl", Start: ir.Pos{Line: 3, Column: 1}, End: ir.Pos{Line: 3, Column: 9}}
	for _, u := range units {
		u.Target.CacheTo = []ir.CacheEntry{registryCache("r/c")}
	}
	units[0].Target.Origins = map[string]ir.Range{"cache-to": at}
	p := Decide(Input{Units: units, Nodes: nodes("a=0 b=0")})
	require.Len(t, p.Warnings, 1)
	require.Equal(t, at, p.Warnings[0].Range)
}

func TestRepositories(t *testing.T) {
	units := build("a", "b@linux/amd64,linux/arm64")
	units[0].Target.CacheTo = []ir.CacheEntry{registryCache("r/a:c")}
	units[1].Target.CacheTo = []ir.CacheEntry{registryCache("r:5/b:c"), registryCache("r/b2"), {Type: "gha"}}
	require.Equal(t, []string{"r/b2", "r:5/b", repo.Name}, Repositories(Input{Store: Store{Repo: repo}, Units: units}))
	require.Empty(t, Repositories(Input{Units: build("a")}))
}

func TestEntriesAreFresh(t *testing.T) {
	units := build("a")
	units[0].Target.CacheFrom = []ir.CacheEntry{{Type: "local", Attrs: map[string]string{"src": "c"}}}
	units[0].Target.CacheTo = []ir.CacheEntry{{Type: "local", Attrs: map[string]string{"dest": "c"}}}
	p := Decide(Input{Units: units, Nodes: nodes("a=4")})
	p.ImportEntries()[0].Attrs["digest"] = "x"
	p.TargetExports[0].Entry.Attrs["digest"] = "x"
	require.NotContains(t, p.ImportEntries()[0].Attrs, "digest")
	require.NotContains(t, units[0].Target.CacheTo[0].Attrs, "digest")
	require.NotContains(t, units[0].Target.CacheFrom[0].Attrs, "digest")
}

func TestParseStore(t *testing.T) {
	host := Repo{Name: "host:5000/c", Prefix: "dbake"}
	for value, want := range map[string]Store{
		"host:5000/c":                            {Repo: host},
		"host:5000/c:main":                       {Repo: Repo{Name: "host:5000/c", Prefix: "main"}},
		"type=registry,ref=host:5000/c,mode=max": {Repo: host},
		"host:5000/c,insecure=true":              {Repo: host, Insecure: true},
		"host:5000":                              {Repo: Repo{Name: "host:5000/dbake/cache", Prefix: "dbake"}},
		"ref=host:5000/c,insecure=true,mode=min": {Repo: host, Insecure: true, Attrs: map[string]string{"mode": "min"}},
		"host:5000/c,registry.insecure=1":        {Repo: host, Insecure: true},
		"host:5000/c,ignore-error=false":         {Repo: host, Required: true},
		"host:5000/c,ignore-error=true":          {Repo: host},
		"host:5000/c,compression=zstd,compression-level=3,force-compression=true": {
			Repo: host, Attrs: map[string]string{"compression": "zstd", "compression-level": "3", "force-compression": "true"}},
	} {
		got, err := ParseStore(value)
		require.NoError(t, err, value)
		if want.Attrs == nil {
			want.Attrs = map[string]string{}
		}
		require.Equal(t, want, got, value)
	}
	for value, want := range map[string]string{
		"":                              "the cache registry is empty",
		"insecure=true":                 "the cache registry is empty",
		"host/c,zstd":                   `"zstd" is not ATTR=VALUE`,
		"host/c,colour=red":             "unknown attribute colour; known are bases, compression, compression-level,",
		"host/c,mode=most":              `mode cannot be "most"`,
		"host/c,image-manifest=false":   `image-manifest cannot be "false"`,
		"host/c,compression=lz4":        `compression cannot be "lz4"`,
		"host/c,compression-level=high": `compression-level cannot be "high"`,
		"host/c,insecure=perhaps":       `insecure cannot be "perhaps"`,
		"type=gha,ref=host/c":           `type cannot be "gha"`,
		"host/c,ref=host/d":             "ref is given twice",
		"https://host/c":                "leave the scheme out",
		`host/c,"x`:                     `cache registry "host/c,\"x": `,
	} {
		_, err := ParseStore(value)
		require.ErrorContains(t, err, want, value)
	}
}

// TestSeveralStores reads and writes each store as if it were the only one.
func TestSeveralStores(t *testing.T) {
	first := Store{Repo: repo, Required: true}
	second := Store{Repo: Repo{Name: "other/c", Prefix: "p"}, Insecure: true, Attrs: map[string]string{"mode": "min"}}
	in := Input{Units: build("a", "b"), Clusters: []Cluster{cluster("a", "b")}, Nodes: nodes("a=0 b=1"), Fleet: 2, Known: map[string][]string{"other/c": {"p-a-00000000"}}}
	in.Store = first
	alone := Decide(in)
	in.Store = second
	other := Decide(in)
	in.Store, in.More = first, []Store{second}
	require.Equal(t, []string{"other/c", repo.Name}, Repositories(in))
	p := Decide(in)
	require.Equal(t, slices.Concat(alone.Imports, other.Imports), p.Imports)
	require.Equal(t, slices.Concat(alone.Exports, other.Exports), p.Exports)
	require.Equal(t, slices.Concat(alone.Joins, other.Joins), p.Joins)
	require.Len(t, p.Exports, 4)
	require.True(t, p.Exports[0].Required && p.Joins[0].Required)
	require.False(t, p.Exports[2].Required || p.Joins[1].Required)
	require.Equal(t, "min", p.Exports[2].Entry.Attrs["mode"])
	require.Equal(t, "true", p.Exports[2].Entry.Attrs["registry.insecure"])
}

// TestReads checks that solves of one cluster read the same caches, and no solve that
// of another cluster.
func TestReads(t *testing.T) {
	units := build("a", "b", "c", "d")
	units[0].Target.CacheFrom = []ir.CacheEntry{registryCache("r/own"), registryCache("r/both")}
	units[2].Target.CacheFrom = []ir.CacheEntry{registryCache("r/both")}
	ab, c := cluster("a", "b"), cluster("c")
	p := Decide(Input{Store: Store{Repo: repo}, Units: units, Clusters: []Cluster{ab}, Nodes: nodes("a=0 b=1 c=0 d=0"), Known: map[string][]string{
		repo.Name: {"dbake-" + ab.Name(), "dbake-" + c.Name(), "dbake-" + Name([]ir.UnitID{"old"})},
	}})
	reads := func(units ...ir.UnitID) []string {
		var refs []string
		for _, im := range p.Imports {
			if im.Reads(units) {
				refs = append(refs, strings.TrimPrefix(im.Entry.Attrs["ref"], repo.Name+":dbake-"))
			}
		}
		slices.Sort(refs)
		return refs
	}
	old := Name([]ir.UnitID{"old"})
	require.Equal(t, []string{ab.Name(), old, "r/both", "r/own"}, reads("a"))
	require.Equal(t, reads("a"), reads("b"))
	require.Equal(t, []string{c.Name(), old, "r/both"}, reads("c"))
	require.Equal(t, []string{old}, reads("d"), "it has no cache yet")
	require.Equal(t, []string{ab.Name(), c.Name(), old, "r/both", "r/own"}, reads("b", "c"))
}

func TestParseRepo(t *testing.T) {
	for _, tc := range []struct {
		ref  string
		want Repo
	}{
		{"host:5000/team/cache", Repo{"host:5000/team/cache", "dbake"}},
		{"host/cache:main", Repo{"host/cache", "main"}},
		{"team/cache", Repo{"team/cache", "dbake"}},
		{"[::1]:5000/cache:x_1", Repo{"[::1]:5000/cache", "x_1"}},
		{"host:5000", Repo{"host:5000/dbake/cache", "dbake"}},
		{"registry.example.com", Repo{"registry.example.com/dbake/cache", "dbake"}},
		{"localhost", Repo{"localhost/dbake/cache", "dbake"}},
		{"[::1]:5000", Repo{"[::1]:5000/dbake/cache", "dbake"}},
	} {
		got, err := ParseRepo(tc.ref)
		require.NoError(t, err, tc.ref)
		require.Equal(t, tc.want, got)
	}
	for ref, want := range map[string]string{
		"":                               "the cache registry is empty",
		"https://host/cache":             "leave the scheme out",
		"host/cache@sha256:abc":          "a digest cannot be written to",
		"cache":                          "name a repository in the registry",
		"host/Cache":                     "its path is in lower case",
		"host/cache:":                    `"" cannot start a tag`,
		"host/cache:-a":                  `"-a" cannot start a tag`,
		"h/c:" + strings.Repeat("a", 65): "of at most 64",
		"host/cache dir":                 "not the name of a repository",
	} {
		_, err := ParseRepo(ref)
		require.ErrorContains(t, err, want, ref)
	}
}

func TestName(t *testing.T) {
	require.Equal(t, Name([]ir.UnitID{"a", "b"}), Name([]ir.UnitID{"b", "a"}))
	require.NotEqual(t, Name([]ir.UnitID{"a", "b"}), Name([]ir.UnitID{"a"}))
	long := Name([]ir.UnitID{ir.UnitID(strings.Repeat("Ünit/", 30) + "@linux/amd64")})
	require.Regexp(t, `^[a-z0-9_.-]{1,49}$`, long)
	r := Repo{Name: "h/c", Prefix: strings.Repeat("p", maxPrefix)}
	tag := r.tag(long, 1000)
	require.LessOrEqual(t, len(tag), 128)
	c, ok := r.cutTag(tag)
	require.True(t, ok)
	require.Equal(t, long, c)
}

func TestGroup(t *testing.T) {
	// 1 and 2 are expensive, 9 is a base image that all share.
	records := map[ir.UnitID][]int{"a": {9, 1}, "b": {9, 2}, "c": {9, 1, 2}, "d": {9}, "e": nil}
	expensive := func(v int) bool { return v < 9 }
	got := Group([]ir.UnitID{"e", "d", "c", "b", "a"}, records, expensive)
	require.Equal(t, []Cluster{cluster("a", "b", "c"), cluster("d"), cluster("e")}, got)
	// Without c, a and b have nothing dear in common; d is not touched.
	got = Group([]ir.UnitID{"a", "b", "d"}, records, expensive)
	require.Equal(t, []Cluster{cluster("a"), cluster("b"), cluster("d")}, got)
}

// The laws of the package comment, on random builds.
func TestLaws(t *testing.T) {
	const seed = 7
	rng := rand.New(rand.NewSource(seed))
	for range 300 {
		in := randomInput(rng)
		p := Decide(in)

		// The order of the input does not matter.
		q := in
		q.Units = slices.Clone(in.Units)
		rng.Shuffle(len(q.Units), func(i, j int) { q.Units[i], q.Units[j] = q.Units[j], q.Units[i] })
		q.Clusters = slices.Clone(in.Clusters)
		rng.Shuffle(len(q.Clusters), func(i, j int) { q.Clusters[i], q.Clusters[j] = q.Clusters[j], q.Clusters[i] })
		require.Equal(t, p.String(), showDecision(q))

		// Imports do not depend on the placement.
		q = in
		q.Nodes = map[ir.UnitID]int{}
		for _, u := range in.Units {
			q.Nodes[u.ID] = rng.Intn(3)
		}
		other := Decide(q)
		require.Equal(t, p.Imports, other.Imports)

		// Numbers of nodes do not show in the refs.
		q = in
		q.Nodes = map[ir.UnitID]int{}
		for u, n := range in.Nodes {
			q.Nodes[u] = 10 - n
		}
		other = Decide(q)
		require.ElementsMatch(t, refs(p), refs(other))

		// Each unit that was built is exported once, no ref is written twice,
		// and no part is too large unless it is one unit.
		seen := map[ir.UnitID]bool{}
		places := map[string]bool{}
		for _, e := range p.Exports {
			require.False(t, places[e.Entry.Attrs["ref"]])
			places[e.Entry.Attrs["ref"]] = true
			require.True(t, e.Records <= in.limits.records || len(e.Units) == 1)
			for _, u := range e.Units {
				require.False(t, seen[u])
				seen[u] = true
				require.Equal(t, in.Nodes[u], e.Node)
			}
		}
		require.Equal(t, slices.Sorted(maps.Keys(in.Nodes)), slices.Sorted(maps.Keys(seen)))

		// What one run writes the next one reads, whatever its placement.
		q.Known = map[string][]string{repo.Name: nil}
		for _, ref := range refs(p) {
			_, tag := cutRef(ref)
			q.Known[repo.Name] = append(q.Known[repo.Name], tag)
		}
		q.limits.siblings = 1000
		other = Decide(q)
		read := map[string]bool{}
		for _, im := range other.Imports {
			require.False(t, read[im.Entry.Attrs["ref"]])
			read[im.Entry.Attrs["ref"]] = true
		}
		for _, ref := range refs(p) {
			require.True(t, read[ref], ref)
		}
	}
}

func showDecision(in Input) string {
	p := Decide(in)
	return p.String()
}

func refs(p Policy) []string {
	var refs []string
	for _, e := range p.Exports {
		refs = append(refs, e.Entry.Attrs["ref"])
	}
	return refs
}

func randomInput(rng *rand.Rand) Input {
	in := Input{Store: Store{Repo: repo}, Fleet: 3, Nodes: map[ir.UnitID]int{}, Records: map[ir.UnitID][]int{}, limits: limits{records: 20}}
	var names []string
	for i := range 1 + rng.Intn(8) {
		names = append(names, fmt.Sprintf("t%d", i))
	}
	in.Units = build(names...)
	var ids []ir.UnitID
	for _, u := range in.Units {
		ids = append(ids, u.ID)
		if rng.Intn(5) > 0 {
			in.Nodes[u.ID] = rng.Intn(3)
		}
		start := rng.Intn(30)
		in.Records[u.ID] = upTo(start, start+rng.Intn(25))
	}
	in.Clusters = Group(ids, in.Records, func(v int) bool { return v%5 == 0 })
	if rng.Intn(2) == 0 {
		in.Known = map[string][]string{repo.Name: {"dbake-" + in.Clusters[0].Name(), "dbake-" + in.Clusters[0].Name() + "-1", "dbake-x-01234567"}}
	}
	return in
}
