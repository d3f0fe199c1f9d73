package compiler

import (
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/dbake/dbake/compiler/ir"
)

// definition is one target as a file wrote it, or a stack of such definitions
// merged: the form every family of files is reduced to before inheritance.
//
// A nil pointer, slice or map is an attribute that was not set; an empty but
// non-nil slice was set to nothing, which for the attributes that replace
// (tags, platforms, cache-to, output) empties what was inherited.
//
// Elements of the lists held by pointer are shared between a definition and
// those that inherit from it, as they are in docker buildx: an override that
// changes an inherited secret or output is seen by every holder of the element,
// and what a child adds to an inherited cache-from may land in spare room of the
// list that its siblings hold too. Both show in what is printed, so the lists are
// appended to and deduplicated in place, never copied.
type definition struct {
	name             string
	description      string // "" is unset
	inherits         []string
	annotations      []string
	attest           []ir.Attest
	context          *string
	contexts         map[string]string
	dockerfile       *string
	dockerfileInline *string
	args             map[string]*string // a nil value is a null, which sets nothing
	labels           map[string]*string // as args
	tags             []string
	cacheFrom        []*ir.CacheEntry
	cacheTo          []ir.CacheEntry
	stage            *string // the attribute "target"
	secrets          []*ir.Secret
	ssh              []ir.SSH
	platforms        []string
	outputs          []*ir.Output
	pull             *bool
	noCache          *bool
	network          *string
	noCacheFilter    []string
	shmSize          *string
	ulimits          []string
	resources        *ir.Resources
	call             *string
	entitlements     []string
	extraHosts       map[string]*string // as args
	policy           []ir.Policy
	dependsOn        []string // extension of dbake
	gates            []string // extension of dbake
	builtWith        []string // by depends_on of compose, which orders nothing

	// Set on resolved targets only.
	linked        bool    // built for those that read it
	remoteContext *string // directory of the remote definition that is the context

	// origins holds the place of each attribute, in the form that
	// [ir.Target.Origins] documents.
	origins map[string]ir.Range
	// base says where relative local paths of the definition start when they
	// are read relative to the files that hold them.
	base pathBase
}

// targetAttr is everything that the language knows of an attribute of a target. A row of
// [attributes] is all that a new one takes here: its field in [definition] stands above.
type targetAttr struct {
	name string
	// field and result are the fields of definition and of ir.Target that hold it;
	// result is "" when only the compiler needs it.
	field, result string
	// entries is true for attributes that are maps, whose entries have an origin
	// each.
	entries bool

	decode decoder
	// show returns the value that references see; nil hides the attribute.
	show func(t *definition) cty.Value
	// merge lays what d sets over t.
	merge func(t, d *definition)
	// normalize drops what says nothing; nil drops nothing.
	normalize func(t *definition)
	// grows returns the length of a list to which everything inherited is added; nil
	// for others.
	grows func(t *definition) int
	// set are the keys of --set that change it.
	set []setKey
	// compose are the keys of a service that give it, the first that exists counts;
	// isSet reports whether one did, and names its entries.
	compose [][]string
	isSet   func(t *definition) bool
	names   func(t *definition) []string
	lower   func(t *definition, out *ir.Target)
	// print returns what is printed of it; nil leaves it out.
	print func(t *ir.Target) any
}

type decoder = func(t *definition, v cty.Value, expr hcl.Expression) hcl.Diagnostics

// setKey is a key of --set.
type setKey struct {
	key  string
	kind overrideKind
	// apply changes t; name is what follows the key, as NAME in args.NAME.
	apply func(t *definition, name string, o *override) error
}

// dependsOnAttribute orders a target after others without reading their results.
// It is dbake's own; docker buildx ignores it.
const dependsOnAttribute = "depends_on"

// gatesAttribute names the targets that must succeed before a target is published. Other
// tools ignore it.
const gatesAttribute = "gates"

func fieldGates(t *definition) *[]string { return &t.gates }

func targetAttribute(name string) *targetAttr {
	for i := range attributes {
		if attributes[i].name == name {
			return &attributes[i]
		}
	}
	return nil
}

// buildKey and bakeKey are the paths of keys in the build section of a service, and in
// the section of bake's own there.
func buildKey(keys ...string) []string { return append([]string{"build"}, keys...) }

func bakeKey(keys ...string) []string { return append([]string{"build", extensionKey}, keys...) }

// What the rows of the table have in common: the fields of a definition, and how those
// that are lists of more than strings are decoded and shown.
var (
	fieldAnnotations               = func(t *definition) *[]string { return &t.annotations }
	fieldInherits                  = func(t *definition) *[]string { return &t.inherits }
	fieldAttest                    = func(t *definition) *[]ir.Attest { return &t.attest }
	attestDecode, attestShow       = elements(decodeAttests, attestsValue, fieldAttest)
	fieldContext                   = func(t *definition) **string { return &t.context }
	fieldDockerfile                = func(t *definition) **string { return &t.dockerfile }
	fieldInline                    = func(t *definition) **string { return &t.dockerfileInline }
	fieldArgs                      = func(t *definition) *map[string]*string { return &t.args }
	fieldLabels                    = func(t *definition) *map[string]*string { return &t.labels }
	fieldExtraHosts                = func(t *definition) *map[string]*string { return &t.extraHosts }
	fieldTags                      = func(t *definition) *[]string { return &t.tags }
	cacheFromDecode, cacheFromShow = sharedList(decodeCacheEntries, cacheEntriesValue, func(t *definition) *[]*ir.CacheEntry { return &t.cacheFrom })
	cacheToDecode, cacheToShow     = elements(decodeCacheEntries, cacheEntriesValue, func(t *definition) *[]ir.CacheEntry { return &t.cacheTo })
	fieldStage                     = func(t *definition) **string { return &t.stage }
	secretDecode, secretShow       = sharedList(decodeSecrets, secretsValue, func(t *definition) *[]*ir.Secret { return &t.secrets })
	sshDecode, sshShow             = elements(decodeSSHs, sshsValue, func(t *definition) *[]ir.SSH { return &t.ssh })
	fieldPlatforms                 = func(t *definition) *[]string { return &t.platforms }
	outputDecode, outputShow       = sharedList(decodeOutputs, outputsValue, func(t *definition) *[]*ir.Output { return &t.outputs })
	fieldPull                      = func(t *definition) **bool { return &t.pull }
	fieldNoCache                   = func(t *definition) **bool { return &t.noCache }
	fieldNetwork                   = func(t *definition) **string { return &t.network }
	fieldNoCacheFilter             = func(t *definition) *[]string { return &t.noCacheFilter }
	fieldShmSize                   = func(t *definition) **string { return &t.shmSize }
	fieldUlimits                   = func(t *definition) *[]string { return &t.ulimits }
	fieldCall                      = func(t *definition) **string { return &t.call }
	fieldEntitlements              = func(t *definition) *[]string { return &t.entitlements }
	policyDecode, policyShow       = elements(decodePolicies, policiesValue, func(t *definition) *[]ir.Policy { return &t.policy })
)

// attributes are the attributes of a target, in the order in which they are printed.
var attributes = []targetAttr{
	{name: "description", field: "description", result: "Description",
		decode: plain(cty.String, func(t *definition) *string { return &t.description }),
		show:   func(t *definition) cty.Value { return cty.StringVal(t.description) },
		merge: func(t, d *definition) {
			if d.description != "" {
				t.description = d.description
			}
		},
		lower: func(t *definition, out *ir.Target) { out.Description = t.description },
		print: func(t *ir.Target) any { return unlessZero(t.Description) }},
	{name: "inherits", field: "inherits",
		decode: plain(cty.List(cty.String), fieldInherits), show: listShow(fieldInherits),
		merge: adds(fieldInherits)},
	{name: "annotations", field: "annotations", result: "Annotations",
		decode: plain(cty.List(cty.String), fieldAnnotations), show: listShow(fieldAnnotations),
		merge: adds(fieldAnnotations), normalize: distinct(fieldAnnotations), grows: length(fieldAnnotations),
		set: []setKey{{"annotation", listOverride, func(t *definition, _ string, o *override) error {
			t.annotations = extend(o, t.annotations, o.values)
			return nil
		}}},
		lower: func(t *definition, out *ir.Target) { out.Annotations = t.annotations },
		print: func(t *ir.Target) any { return unlessEmpty(escapeAll(t.Annotations)) }},
	{name: "attest", field: "attest", result: "Attest",
		decode: attestDecode, show: attestShow,
		merge:     func(t, d *definition) { t.attest = dedupeAttests(append(slices.Clip(t.attest), d.attest...)) },
		normalize: func(t *definition) { t.attest = dedupeAttests(t.attest) },
		set: []setKey{{"attest", listOverride, func(t *definition, _ string, o *override) error {
			list, err := parseAttests(o.values)
			if err != nil {
				return fmt.Errorf("invalid value for attest: %w", err)
			}
			t.attest = dedupeAttests(extend(o, t.attest, list))
			return nil
		}}},
		compose: [][]string{buildKey("provenance"), buildKey("sbom")}, isSet: hasElements(fieldAttest),
		lower: func(t *definition, out *ir.Target) { out.Attest = t.attest },
		print: func(t *ir.Target) any { return unlessEmpty(showAttests(t.Attest)) }},
	{name: "context", field: "context", result: "Context",
		decode: plain(cty.String, fieldContext), show: stringShow(fieldContext),
		merge:   replaces(fieldContext),
		set:     []setKey{textKey("context", fieldContext)},
		compose: [][]string{buildKey("context"), buildKey()}, isSet: present(fieldContext),
		// It is placed by itself: see [definition.source].
		lower: func(*definition, *ir.Target) {},
		print: func(t *ir.Target) any { return t.Context.Text }},
	{name: "contexts", field: "contexts", result: "Contexts", entries: true,
		decode: plain(cty.Map(cty.String), func(t *definition) *map[string]string { return &t.contexts }),
		show:   func(t *definition) cty.Value { return contextsValue(t.contexts) },
		merge: func(t, d *definition) {
			if len(d.contexts) > 0 && t.contexts == nil {
				t.contexts = make(map[string]string, len(d.contexts))
			}
			maps.Copy(t.contexts, d.contexts)
		},
		normalize: func(t *definition) {
			maps.DeleteFunc(t.contexts, func(_, v string) bool { return v == "" })
			if len(t.contexts) == 0 {
				t.contexts = nil
			}
		},
		set: []setKey{{"contexts", entryOverride, func(t *definition, name string, o *override) error {
			if t.contexts == nil {
				t.contexts = map[string]string{}
			}
			t.contexts[name] = o.value
			return nil
		}}},
		compose: [][]string{buildKey("additional_contexts"), bakeKey("contexts")},
		isSet:   func(t *definition) bool { return len(t.contexts) > 0 },
		names:   func(t *definition) []string { return ir.SortedKeys(t.contexts) },
		lower:   func(*definition, *ir.Target) {},
		print:   func(t *ir.Target) any { return unlessNone(showContexts(t.Contexts)) }},
	{name: "dockerfile", field: "dockerfile", result: "Dockerfile",
		decode: plain(cty.String, fieldDockerfile), show: stringShow(fieldDockerfile), merge: replaces(fieldDockerfile),
		set:     []setKey{textKey("dockerfile", fieldDockerfile)},
		compose: [][]string{buildKey("dockerfile")}, isSet: present(fieldDockerfile),
		lower: func(t *definition, out *ir.Target) { out.Dockerfile = *t.dockerfile },
		print: func(t *ir.Target) any { return t.Dockerfile }},
	{name: "dockerfile-inline", field: "dockerfileInline", result: "DockerfileInline",
		decode: plain(cty.String, fieldInline), show: stringShow(fieldInline), merge: replaces(fieldInline),
		compose: [][]string{buildKey("dockerfile_inline")}, isSet: present(fieldInline),
		lower: func(t *definition, out *ir.Target) { out.DockerfileInline = t.dockerfileInline },
		print: func(t *ir.Target) any {
			if t.DockerfileInline == nil {
				return nil
			}
			return escape(*t.DockerfileInline)
		}},
	{name: "args", field: "args", result: "Args", entries: true,
		decode: plain(cty.Map(cty.String), fieldArgs), show: mapShow(fieldArgs), merge: addsEntries(fieldArgs),
		set:     []setKey{entryKey("arg", fieldArgs)},
		compose: [][]string{buildKey("args")}, isSet: filledMap(fieldArgs), names: keysOf(fieldArgs),
		lower: func(t *definition, out *ir.Target) { out.Args = entries(t.args) },
		print: func(t *ir.Target) any { return unlessNone(escapeValues(t.Args)) }},
	{name: "labels", field: "labels", result: "Labels", entries: true,
		decode: plain(cty.Map(cty.String), fieldLabels), show: mapShow(fieldLabels), merge: addsEntries(fieldLabels),
		set:     []setKey{entryKey("label", fieldLabels)},
		compose: [][]string{buildKey("labels")}, isSet: filledMap(fieldLabels), names: keysOf(fieldLabels),
		lower: func(t *definition, out *ir.Target) { out.Labels = entries(t.labels) },
		print: func(t *ir.Target) any { return unlessNone(escapeValues(t.Labels)) }},
	{name: "tags", field: "tags", result: "Tags",
		decode: plain(cty.List(cty.String), fieldTags), show: listShow(fieldTags), merge: replacesList(fieldTags), normalize: distinct(fieldTags),
		set:     []setKey{listKey("tag", fieldTags)},
		compose: [][]string{bakeKey("tags"), buildKey("tags"), {"image"}}, isSet: hasElements(fieldTags),
		lower: func(t *definition, out *ir.Target) { out.Tags = t.tags },
		print: func(t *ir.Target) any { return unlessEmpty(t.Tags) }},
	{name: "cache-from", field: "cacheFrom", result: "CacheFrom",
		decode: cacheFromDecode, show: cacheFromShow,
		merge:     func(t, d *definition) { t.cacheFrom = mergeCacheFrom(t.cacheFrom, d.cacheFrom) },
		normalize: func(t *definition) { t.cacheFrom = dedupeCacheFrom(t.cacheFrom) },
		grows:     func(t *definition) int { return len(t.cacheFrom) },
		set: []setKey{{"cache-from", listOverride, func(t *definition, _ string, o *override) error {
			list, err := parseCacheEntries(o.values)
			if err != nil {
				return err
			}
			if o.append {
				t.cacheFrom = mergeCacheFrom(t.cacheFrom, pointers(list))
			} else {
				t.cacheFrom = pointers(list)
			}
			return nil
		}}},
		compose: [][]string{bakeKey("cache-from"), buildKey("cache_from")},
		isSet:   func(t *definition) bool { return len(t.cacheFrom) > 0 },
		lower:   func(t *definition, out *ir.Target) { out.CacheFrom = values(t.cacheFrom) },
		print:   func(t *ir.Target) any { return unlessEmpty(showCache(t.CacheFrom)) }},
	{name: "cache-to", field: "cacheTo", result: "CacheTo",
		decode: cacheToDecode, show: cacheToShow,
		merge:     replacesList(func(t *definition) *[]ir.CacheEntry { return &t.cacheTo }),
		normalize: func(t *definition) { t.cacheTo = dedupeCache(t.cacheTo) },
		set: []setKey{{"cache-to", listOverride, func(t *definition, _ string, o *override) error {
			list, err := parseCacheEntries(o.values)
			if err != nil {
				return err
			}
			t.cacheTo = dedupeCache(over(o, t.cacheTo, list))
			return nil
		}}},
		compose: [][]string{bakeKey("cache-to"), buildKey("cache_to")},
		isSet:   func(t *definition) bool { return len(t.cacheTo) > 0 },
		lower:   func(t *definition, out *ir.Target) { out.CacheTo = t.cacheTo },
		print:   func(t *ir.Target) any { return unlessEmpty(showCache(t.CacheTo)) }},
	{name: "target", field: "stage", result: "Stage",
		decode: plain(cty.String, fieldStage), show: stringShow(fieldStage), merge: replaces(fieldStage),
		set:     []setKey{textKey("target", fieldStage)},
		compose: [][]string{buildKey("target")}, isSet: present(fieldStage),
		lower: func(t *definition, out *ir.Target) { out.Stage = deref(t.stage) },
		print: func(t *ir.Target) any { return unlessUnset(t, "target", t.Stage) }},
	{name: "secret", field: "secrets", result: "Secrets",
		decode: secretDecode, show: secretShow,
		merge:     func(t, d *definition) { t.secrets = dedupeSecrets(append(slices.Clip(t.secrets), d.secrets...)) },
		normalize: func(t *definition) { t.secrets = dedupeSecrets(t.secrets) },
		set: []setKey{{"secret", secretOverride, func(t *definition, name string, o *override) error {
			if o.named {
				return t.overrideSecret(name, o.value)
			}
			list, err := parseSecrets(o.values)
			if err != nil {
				return fmt.Errorf("invalid value for outputs: %w", err)
			}
			t.secrets = dedupeSecrets(over(o, t.secrets, pointers(list)))
			return nil
		}}},
		compose: [][]string{bakeKey("secret"), buildKey("secrets")},
		isSet:   func(t *definition) bool { return len(t.secrets) > 0 },
		lower:   func(t *definition, out *ir.Target) { out.Secrets = values(t.secrets) },
		print:   func(t *ir.Target) any { return unlessEmpty(showSecrets(t.Secrets)) }},
	{name: "ssh", field: "ssh", result: "SSH",
		decode: sshDecode, show: sshShow,
		merge:     func(t, d *definition) { t.ssh = dedupeSSH(append(slices.Clip(t.ssh), d.ssh...)) },
		normalize: func(t *definition) { t.ssh = dedupeSSH(t.ssh) },
		set: []setKey{{"ssh", listOverride, func(t *definition, _ string, o *override) error {
			list, err := parseSSHs(o.values)
			if err != nil {
				return fmt.Errorf("invalid value for outputs: %w", err)
			}
			t.ssh = dedupeSSH(over(o, t.ssh, list))
			return nil
		}}},
		compose: [][]string{bakeKey("ssh"), buildKey("ssh")},
		isSet:   func(t *definition) bool { return len(t.ssh) > 0 },
		lower:   func(t *definition, out *ir.Target) { out.SSH = t.ssh },
		print:   func(t *ir.Target) any { return unlessEmpty(showSSH(t.SSH)) }},
	{name: "platforms", field: "platforms", result: "Platforms",
		decode: plain(cty.List(cty.String), fieldPlatforms), show: listShow(fieldPlatforms), merge: replacesList(fieldPlatforms), normalize: distinct(fieldPlatforms),
		set:     []setKey{listKey("platform", fieldPlatforms)},
		compose: [][]string{bakeKey("platforms"), buildKey("platforms")}, isSet: hasElements(fieldPlatforms),
		lower: func(t *definition, out *ir.Target) { out.Platforms = t.platforms },
		print: func(t *ir.Target) any { return unlessEmpty(t.Platforms) }},
	{name: "output", field: "outputs", result: "Outputs",
		decode: outputDecode, show: outputShow,
		merge:     replacesList(func(t *definition) *[]*ir.Output { return &t.outputs }),
		normalize: func(t *definition) { t.outputs = dedupeOutputs(t.outputs) },
		set: []setKey{
			{"output", listOverride, func(t *definition, _ string, o *override) error {
				list, err := parseOutputs(o.values)
				if err != nil {
					return fmt.Errorf("invalid value for outputs: %w", err)
				}
				t.outputs = dedupeOutputs(over(o, t.outputs, pointers(list)))
				return nil
			}},
			{"push", oneOverride, func(t *definition, _ string, o *override) error {
				on, err := parseBoolOverride("push", o.value)
				if err == nil {
					t.outputs = withPush(t.outputs, *on)
				}
				return err
			}},
			{"load", oneOverride, func(t *definition, _ string, o *override) error {
				on, err := parseBoolOverride("load", o.value)
				if err == nil {
					t.outputs = withLoad(t.outputs, *on)
				}
				return err
			}},
		},
		compose: [][]string{bakeKey("output")},
		isSet:   func(t *definition) bool { return len(t.outputs) > 0 },
		lower:   func(t *definition, out *ir.Target) { out.Outputs = values(t.outputs) },
		print:   func(t *ir.Target) any { return unlessEmpty(showOutputs(t.Outputs)) }},
	{name: "pull", field: "pull", result: "Pull",
		decode: plain(cty.Bool, fieldPull), show: boolShow(fieldPull), merge: replaces(fieldPull),
		set:     []setKey{flagKey("pull", fieldPull)},
		compose: [][]string{bakeKey("pull"), buildKey("pull")}, isSet: present(fieldPull),
		lower: func(t *definition, out *ir.Target) { out.Pull = t.pull },
		print: func(t *ir.Target) any { return unlessNil(t.Pull) }},
	{name: "no-cache", field: "noCache", result: "NoCache",
		decode: plain(cty.Bool, fieldNoCache), show: boolShow(fieldNoCache), merge: replaces(fieldNoCache),
		set:     []setKey{flagKey("no-cache", fieldNoCache)},
		compose: [][]string{bakeKey("no-cache"), buildKey("no_cache")}, isSet: present(fieldNoCache),
		lower: func(t *definition, out *ir.Target) { out.NoCache = t.noCache },
		print: func(t *ir.Target) any { return unlessNil(t.NoCache) }},
	{name: "network", field: "network", result: "Network",
		decode: plain(cty.String, fieldNetwork), show: stringShow(fieldNetwork), merge: replaces(fieldNetwork),
		set:     []setKey{textKey("network", fieldNetwork)},
		compose: [][]string{buildKey("network")}, isSet: present(fieldNetwork),
		lower: func(t *definition, out *ir.Target) { out.Network = t.network },
		print: func(t *ir.Target) any { return unlessNil(t.Network) }},
	{name: "no-cache-filter", field: "noCacheFilter", result: "NoCacheFilter",
		decode: plain(cty.List(cty.String), fieldNoCacheFilter), show: listShow(fieldNoCacheFilter),
		merge: adds(fieldNoCacheFilter), normalize: distinct(fieldNoCacheFilter), grows: length(fieldNoCacheFilter),
		set:     []setKey{listKey("no-cache-filter", fieldNoCacheFilter)},
		compose: [][]string{bakeKey("no-cache-filter")}, isSet: hasElements(fieldNoCacheFilter),
		lower: func(t *definition, out *ir.Target) { out.NoCacheFilter = t.noCacheFilter },
		print: func(t *ir.Target) any { return unlessEmpty(t.NoCacheFilter) }},
	{name: "shm-size", field: "shmSize", result: "ShmSize",
		decode: plain(cty.String, fieldShmSize), show: stringShow(fieldShmSize), merge: replaces(fieldShmSize),
		set:     []setKey{textKey("shm-size", fieldShmSize)},
		compose: [][]string{buildKey("shm_size")}, isSet: present(fieldShmSize),
		lower: func(t *definition, out *ir.Target) { out.ShmSize = t.shmSize },
		print: func(t *ir.Target) any { return unlessNil(t.ShmSize) }},
	{name: "ulimits", field: "ulimits", result: "Ulimits",
		decode: plain(cty.List(cty.String), fieldUlimits), show: listShow(fieldUlimits),
		merge: adds(fieldUlimits), normalize: distinct(fieldUlimits), grows: length(fieldUlimits),
		set:     []setKey{listKey("ulimit", fieldUlimits)},
		compose: [][]string{buildKey("ulimits")}, isSet: hasElements(fieldUlimits),
		lower: func(t *definition, out *ir.Target) { out.Ulimits = t.ulimits },
		print: func(t *ir.Target) any { return unlessEmpty(t.Ulimits) }},
	{name: "resources", field: "resources", result: "Resources", entries: true,
		decode: func(t *definition, v cty.Value, expr hcl.Expression) hcl.Diagnostics {
			return decodeComposite(v, expr, decodeResources, func(r *ir.Resources) { t.resources = r })
		},
		show: func(t *definition) cty.Value { return resourcesValue(t.resources) },
		merge: func(t, d *definition) {
			if d.resources != nil {
				t.resources = mergeResources(t.resources, d.resources)
			}
		},
		set: []setKey{{"resource", fieldOverride, func(t *definition, name string, o *override) error {
			return t.setResource(name, o.value)
		}}},
		lower: func(t *definition, out *ir.Target) { out.Resources = t.resources },
		print: func(t *ir.Target) any {
			if t.Resources == nil {
				return nil
			}
			return shownResources(*t.Resources)
		}},
	{name: "call", field: "call", result: "Call",
		decode: plain(cty.String, fieldCall), show: stringShow(fieldCall), merge: replaces(fieldCall),
		set:   []setKey{textKey("call", fieldCall)},
		lower: func(t *definition, out *ir.Target) { out.Call = deref(t.call) },
		print: func(t *ir.Target) any { return unlessUnset(t, "call", t.Call) }},
	{name: "entitlements", field: "entitlements", result: "Entitlements",
		decode: plain(cty.List(cty.String), fieldEntitlements), show: listShow(fieldEntitlements),
		merge: adds(fieldEntitlements), grows: length(fieldEntitlements),
		normalize: func(t *definition) {
			if t.network != nil && *t.network == "host" {
				t.entitlements = append(slices.Clip(t.entitlements), "network.host")
			}
			t.entitlements = dedupeStrings(t.entitlements)
		},
		set: []setKey{{"entitlement", listOverride, func(t *definition, _ string, o *override) error {
			t.entitlements = extend(o, t.entitlements, o.values)
			return nil
		}}},
		lower: func(t *definition, out *ir.Target) { out.Entitlements = t.entitlements },
		print: func(t *ir.Target) any { return unlessEmpty(t.Entitlements) }},
	{name: "extra-hosts", field: "extraHosts", result: "ExtraHosts", entries: true,
		decode: plain(cty.Map(cty.String), fieldExtraHosts), show: mapShow(fieldExtraHosts), merge: addsEntries(fieldExtraHosts),
		set:     []setKey{entryKey("extra-host", fieldExtraHosts)},
		compose: [][]string{buildKey("extra_hosts")}, isSet: filledMap(fieldExtraHosts), names: keysOf(fieldExtraHosts),
		lower: func(t *definition, out *ir.Target) { out.ExtraHosts = entries(t.extraHosts) },
		print: func(t *ir.Target) any { return unlessNone(escapeValues(t.ExtraHosts)) }},
	{name: "policy", field: "policy", result: "Policy",
		decode: policyDecode, show: policyShow,
		merge: func(t, d *definition) { t.policy = append(t.policy, d.policy...) },
		grows: func(t *definition) int { return len(t.policy) },
		set: []setKey{{"policy", listOverride, func(t *definition, _ string, o *override) error {
			list, err := parsePolicies(o.values)
			if err == nil {
				t.policy = over(o, t.policy, list)
			}
			return err
		}}},
		lower: func(t *definition, out *ir.Target) { out.Policy = t.policy },
		print: func(t *ir.Target) any { return unlessEmpty(showPolicies(t.Policy)) }},
	{name: dependsOnAttribute, field: "dependsOn", result: "DependsOn",
		decode:    plain(cty.List(cty.String), func(t *definition) *[]string { return &t.dependsOn }),
		merge:     adds(func(t *definition) *[]string { return &t.dependsOn }),
		normalize: distinct(func(t *definition) *[]string { return &t.dependsOn }),
		// What is not built orders nothing: see [definition.lower].
		lower: func(*definition, *ir.Target) {}},
	{name: gatesAttribute, field: "gates", result: "Gates",
		decode:    plain(cty.List(cty.String), fieldGates),
		merge:     adds(fieldGates),
		normalize: distinct(fieldGates),
		lower:     func(t *definition, out *ir.Target) { out.Gates = t.gates }},
}
