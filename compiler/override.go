package compiler

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/dbake/dbake/compiler/ir"
)

// override is what the command line says about one key of one target. Values of
// several --set of one key are collected.
type override struct {
	value  string
	values []string
	append bool // as the last --set of the key has it
}

// overrides are the overrides of each target by key.
type overrides map[string]map[string]*override

// parseOverrides reads the arguments of --set, each PATTERN.KEY[.NAME][+]=VALUE.
// Keys are judged later, when a target that matches is resolved. A build argument
// named without a value gets the one that lookup finds, or is left out; without
// lookup, because the environment is not to be used, it is set to "".
func parseOverrides(args []string, c *config, lookup func(string) (string, bool)) (overrides, error) {
	all := overrides{}
	for _, arg := range args {
		left, value, hasValue := strings.Cut(arg, "=")
		key, appends := strings.CutSuffix(left, "+")
		parts := strings.SplitN(key, ".", 3)
		if len(parts) < 2 {
			return nil, fmt.Errorf("invalid override key %s, expected target.name", key)
		}
		pattern, attr := parts[0], parts[1]
		if !hasValue && attr != "args" {
			return nil, fmt.Errorf("invalid override %s, expected target.name=value", arg)
		}
		names, err := c.matchTargets(pattern)
		if err != nil {
			return nil, err
		}

		named := false
		switch attr {
		case "args", "contexts", "resources", "secret":
			named = true
			if len(parts) != 3 {
				return nil, fmt.Errorf("invalid key %s, %s requires name", left, attr)
			}
			if appends && (attr == "resources" || attr == "secret") {
				return nil, fmt.Errorf("invalid key %s, %s does not support append", left, attr)
			}
		}
		if named && !hasValue && lookup != nil {
			if value, hasValue = lookup(parts[2]); !hasValue {
				continue
			}
		}

		path := strings.Join(parts[1:], ".")
		for _, name := range names {
			t := all[name]
			if t == nil {
				t = map[string]*override{}
				all[name] = t
			}
			o := t[path]
			if o == nil {
				o = &override{}
				t[path] = o
			}
			if collects(attr) {
				o.append = appends
				o.values = append(o.values, value)
			} else if hasValue {
				o.value = value
			}
		}
	}
	return all, nil
}

// collects reports whether the values of several --set of an attribute add up.
func collects(attr string) bool {
	switch attr {
	case "annotations", "attest", "cache-from", "cache-to", "entitlements", "network",
		"output", "platform", "policy", "secrets", "ssh", "tags":
		return true
	}
	return false
}

// overrideOrder is the order in which overrides of a target are applied where
// they touch the same attribute; all others follow by name.
var overrideOrder = []string{"secrets", "secret", "output", "push", "load"}

// apply applies the overrides of one target.
//
// The keys network, no-cache-filter and ulimits do not take the value given: what
// they hold is emptied, as it is by docker buildx.
func (t *definition) apply(keys map[string]*override) error {
	names := ir.SortedKeys(keys)
	slices.SortStableFunc(names, func(a, b string) int { return overrideRank(a) - overrideRank(b) })
	for _, key := range names {
		if err := t.applyOne(key, keys[key]); err != nil {
			return err
		}
	}
	return nil
}

func overrideRank(key string) int {
	attr, _, _ := strings.Cut(key, ".")
	if i := slices.Index(overrideOrder, attr); i >= 0 {
		return i + 1
	}
	return 0
}

func (t *definition) applyOne(key string, o *override) error {
	attr, name, hasName := strings.Cut(key, ".")
	if !hasName {
		switch attr {
		case "labels":
			return fmt.Errorf("invalid format for %s, expecting %s.<name>=<value>", attr, attr)
		case "extra-hosts":
			return fmt.Errorf("invalid format for %s, expecting %s.<hostname>=<ip>", attr, attr)
		}
	}
	value := o.value
	origin := key
	var err error
	switch attr {
	case "context":
		t.context = &value
	case "dockerfile":
		t.dockerfile = &value
	case "target":
		t.stage = &value
	case "call":
		t.call = &value
	case "network":
		t.network = &value
	case "shm-size":
		t.shmSize = &value
	case "args":
		setEntries(&t.args, map[string]*string{name: &value})
	case "labels":
		setEntries(&t.labels, map[string]*string{name: &value})
	case "extra-hosts":
		setEntries(&t.extraHosts, map[string]*string{name: &value})
	case "contexts":
		if t.contexts == nil {
			t.contexts = map[string]string{}
		}
		t.contexts[name] = value
	case "resources":
		err = t.setResource(name, value)
	case "tags":
		t.tags = o.over(t.tags)
	case "platform":
		origin = "platforms"
		t.platforms = o.over(t.platforms)
	case "no-cache-filter":
		t.noCacheFilter = o.over(t.noCacheFilter)
	case "ulimits":
		t.ulimits = o.over(t.ulimits)
	case "annotations":
		t.annotations = append(slices.Clip(t.annotations), o.values...)
	case "entitlements":
		t.entitlements = append(slices.Clip(t.entitlements), o.values...)
	case "no-cache":
		t.noCache, err = parseBoolOverride(attr, value)
	case "pull":
		t.pull, err = parseBoolOverride(attr, value)
	case "push", "load":
		origin = "output"
		var on *bool
		if on, err = parseBoolOverride(attr, value); err == nil {
			if attr == "push" {
				t.outputs = withPush(t.outputs, *on)
			} else {
				t.outputs = withLoad(t.outputs, *on)
			}
		}
	case "secret":
		err = t.overrideSecret(name, value)
	default:
		if attr == "secrets" {
			origin = "secret"
		}
		err = t.applyElements(attr, o)
	}
	if err != nil {
		return err
	}
	if t.origins == nil {
		t.origins = map[string]ir.Range{}
	}
	t.origins[origin] = ir.Range{Filename: "--set " + key}
	return nil
}

// applyElements applies overrides of the lists whose items are more than strings.
func (t *definition) applyElements(attr string, o *override) error {
	switch attr {
	case "cache-from":
		list, err := parseCacheEntries(o.values)
		if err != nil {
			return err
		}
		if o.append {
			t.cacheFrom = mergeCacheFrom(t.cacheFrom, pointers(list))
		} else {
			t.cacheFrom = pointers(list)
		}
	case "cache-to":
		list, err := parseCacheEntries(o.values)
		if err != nil {
			return err
		}
		t.cacheTo = dedupeCache(over(o, t.cacheTo, list))
	case "output":
		list, err := parseOutputs(o.values)
		if err != nil {
			return fmt.Errorf("invalid value for outputs: %w", err)
		}
		t.outputs = dedupeOutputs(over(o, t.outputs, pointers(list)))
	case "secrets":
		list, err := parseSecrets(o.values)
		if err != nil {
			return fmt.Errorf("invalid value for outputs: %w", err)
		}
		t.secrets = dedupeSecrets(over(o, t.secrets, pointers(list)))
	case "ssh":
		list, err := parseSSHs(o.values)
		if err != nil {
			return fmt.Errorf("invalid value for outputs: %w", err)
		}
		t.ssh = dedupeSSH(over(o, t.ssh, list))
	case "attest":
		list, err := parseAttests(o.values)
		if err != nil {
			return fmt.Errorf("invalid value for attest: %w", err)
		}
		t.attest = dedupeAttests(append(slices.Clip(t.attest), list...))
	case "policy":
		list, err := parsePolicies(o.values)
		if err != nil {
			return err
		}
		t.policy = over(o, t.policy, list)
	default:
		return fmt.Errorf("unknown key: %s", attr)
	}
	return nil
}

// over returns the values given, appended to list if the override says so.
func (o *override) over(list []string) []string { return over(o, list, o.values) }

func over[T any](o *override, list, given []T) []T {
	if o.append {
		return append(slices.Clip(list), given...)
	}
	return given
}

func parseBoolOverride(key, value string) (*bool, error) {
	b, err := strconv.ParseBool(value)
	if err != nil {
		return nil, fmt.Errorf("invalid value %s for boolean key %s", value, key)
	}
	return &b, nil
}

func (t *definition) setResource(name, value string) error {
	r := mergeResources(t.resources, &ir.Resources{})
	if field, ok := resourceStrings(r)[name]; ok {
		*field = &value
	} else if field, ok := resourceNumbers(r)[name]; ok {
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return fmt.Errorf("invalid value %s for int64 key resources.%s", value, name)
		}
		*field = &n
	} else {
		return fmt.Errorf("unknown resources key %s", name)
	}
	t.resources = r
	return nil
}

// overrideSecret changes where a declared secret comes from.
func (t *definition) overrideSecret(id, value string) error {
	if id == "" {
		return fmt.Errorf("invalid format for secret, expecting secret.<id>=<value>")
	}
	for _, s := range t.secrets {
		if s.ID != id {
			continue
		}
		next, err := parseSecret(value)
		if err != nil {
			return err
		}
		if next.ID != "" && next.ID != id {
			return fmt.Errorf("secret override id %q does not match declared secret %q", next.ID, id)
		}
		s.Src, s.Env = next.Src, next.Env
		return nil
	}
	return fmt.Errorf("secret %q must be declared before it can be overridden", id)
}

// withPush returns outputs with push switched on or off. On: images are pushed,
// and where nothing but docker exports are asked for, an image output that pushes
// is added. Off: registry outputs go, images stay where they are built.
func withPush(outputs []*ir.Output, on bool) []*ir.Output {
	if !on {
		kept := slices.Clone(outputs)
		for i := 0; i < len(kept); {
			switch kept[i].Type {
			case "registry":
				// The last one takes the place, in the order of docker buildx.
				last := len(kept) - 1
				kept[i] = kept[last]
				kept = kept[:last]
				continue
			case "image":
				setAttr(kept[i], "push", "false")
			}
			i++
		}
		return kept
	}
	add := true
	for _, o := range outputs {
		if o.Type != "docker" {
			add = false
		}
		if o.Type == "image" {
			setAttr(o, "push", "true")
		}
	}
	if add {
		outputs = append(slices.Clip(outputs), &ir.Output{Type: "image", Attrs: map[string]string{"push": "true"}})
	}
	return outputs
}

func setAttr(o *ir.Output, key, value string) {
	if o.Attrs == nil {
		o.Attrs = map[string]string{}
	}
	o.Attrs[key] = value
}

// withLoad returns outputs with an export to the local docker added, unless there
// is one already or something other than images is exported.
func withLoad(outputs []*ir.Output, on bool) []*ir.Output {
	if !on {
		return outputs
	}
	for _, o := range outputs {
		switch o.Type {
		case "docker":
			if o.Dest == "" {
				return outputs
			}
		case "image", "registry", "oci":
		default:
			return outputs
		}
	}
	return append(slices.Clip(outputs), &ir.Output{Type: "docker"})
}
