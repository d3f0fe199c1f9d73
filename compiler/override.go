package compiler

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tonistiigi/go-csvvalue"

	"github.com/dbake/dbake/compiler/ir"
)

// override is the command line's value for one key of one target. Values of several --set
// of one key are collected.
type override struct {
	value  string
	values []string
	append bool // as the last --set of the key has it
	// named is set when the key has a name, as KEY.NAME.
	named bool
	// clear is set once the key was given an empty value: nothing inherited stays.
	clear bool
	// flag is what messages call the last flag that says it.
	flag string
}

// overrides are the overrides of each target by key.
type overrides map[string]map[string]*override

// overrideKind is how the values of a key of --set are read.
type overrideKind int

const (
	unknownOverride overrideKind = iota
	oneOverride                  // one value, the last counts
	listOverride                 // values add up, an empty one clears
	entryOverride                // one value for each name: KEY.NAME
	fieldOverride                // as entryOverride, and nothing can be appended
	secretOverride               // a list, or KEY.ID
)

// settings are the keys of --set, each with the attribute that it changes.
var settings = func() map[string]setting {
	keys := map[string]setting{}
	for _, a := range attributes {
		for _, k := range a.set {
			keys[k.key] = setting{k, a.name}
		}
	}
	return keys
}()

type setting struct {
	setKey
	attribute string
}

// overrideNames are the other names of the keys of --set: those of the attributes.
var overrideNames = func() map[string]string {
	names := map[string]string{"secrets": "secret"}
	for key, s := range settings {
		if _, isKey := settings[s.attribute]; !isKey {
			names[s.attribute] = key
		}
	}
	return names
}()

// overrideKey is the part of a --set before the equals sign.
type overrideKey struct {
	// Pattern names the targets.
	Pattern string
	// Key is the key in the one form that all its names have in common, as "tag"
	// for "tags".
	Key string
	// Name is what follows the key, as NAME in args.NAME; Named is true when
	// something does.
	Name   string
	Named  bool
	Append bool // it ends in "+"

	text string // with the "+"
	word string // the key as it was written
}

// parseOverrideKey splits PATTERN.KEY[.NAME][+]. Whether the key exists, and has
// a name where it needs one, is not judged.
func parseOverrideKey(text string) (overrideKey, error) {
	k := overrideKey{text: text}
	plain, appends := strings.CutSuffix(text, "+")
	parts := strings.SplitN(plain, ".", 3)
	if len(parts) < 2 {
		return k, fmt.Errorf("invalid override key %s, expected target.name", plain)
	}
	k.Pattern, k.Key, k.Append, k.word = parts[0], parts[1], appends, parts[1]
	if name, ok := overrideNames[k.Key]; ok {
		k.Key = name
	}
	if k.Named = len(parts) == 3; k.Named {
		k.Name = parts[2]
	}
	return k, nil
}

// path is the key with its name, as KEY or KEY.NAME.
func (k overrideKey) path() string {
	if k.Named {
		return k.Key + "." + k.Name
	}
	return k.Key
}

// check reports a name where there can be none, and the lack of one.
func (k overrideKey) check() error {
	switch kind := settings[k.Key].kind; {
	case k.Named && (kind == listOverride || kind == oneOverride || k.word == "secrets"):
		return fmt.Errorf("invalid key %s, %s does not support subkeys", k.text, k.Key)
	case !k.Named && (kind == entryOverride || kind == fieldOverride):
		return fmt.Errorf("invalid key %s, %s requires name", k.text, k.Key)
	case k.Append && k.Named && (kind == fieldOverride || kind == secretOverride):
		return fmt.Errorf("invalid key %s, %s does not support append", k.text, k.Key)
	}
	return nil
}

// parseOverrides reads the arguments of --set, each PATTERN.KEY[.NAME][+]=VALUE.
// Keys that do not exist are judged later, when a target that matches is resolved.
// A build argument named without a value gets the one that lookup finds, or is left
// out; without lookup, because the environment is not to be used, it is set to "".
func parseOverrides(args arguments, c *config, lookup func(string) (string, bool)) (overrides, error) {
	all := overrides{}
	for i, arg := range args.set {
		left, value, hasValue := strings.Cut(arg, "=")
		key, err := parseOverrideKey(left)
		if err != nil {
			return nil, err
		}
		if key.word == "secrets" && key.Named {
			return nil, key.check()
		}
		if !hasValue && key.Key != "arg" {
			return nil, fmt.Errorf("invalid override %s, expected target.name=value", arg)
		}
		names, err := c.matchTargets(key.Pattern)
		if err != nil {
			return nil, err
		}
		if err := key.check(); err != nil {
			return nil, err
		}
		if !hasValue && lookup != nil {
			if value, hasValue = lookup(key.Name); !hasValue {
				continue
			}
		}
		for _, name := range names {
			o := all.of(name, key)
			o.set(key, value, hasValue)
			o.flag = args.name(i, key.path())
		}
	}
	return all, nil
}

// parseGiven returns the things that the arguments of --set name.
func parseGiven(args []string) (ir.Given, error) {
	var g ir.Given
	for _, arg := range args {
		left, value, _ := strings.Cut(arg, "=")
		key, err := parseOverrideKey(left)
		if err != nil {
			return g, err
		}
		switch {
		case key.Key == "entitlement":
			g.Entitlements = append(g.Entitlements, value)
		case key.Key == "secret" && key.Named:
			g.Secrets = append(g.Secrets, key.Name)
		case (key.Key == "secret" || key.Key == "output") && value != "":
			fields, err := csvvalue.Fields(value, nil)
			if err != nil {
				return g, fmt.Errorf("split %q into fields: %w", value, err)
			}
			if len(fields) == 1 {
				g.Dests = append(g.Dests, fields[0])
			}
			for _, field := range fields {
				switch k, v, _ := strings.Cut(field, "="); strings.ToLower(k) {
				case "id":
					g.Secrets = append(g.Secrets, v)
				case "dest":
					g.Dests = append(g.Dests, v)
				}
			}
		}
	}
	return g, nil
}

// of returns the override of a key of one target, a new one if there is none.
func (all overrides) of(target string, key overrideKey) *override {
	keys := all[target]
	if keys == nil {
		keys = map[string]*override{}
		all[target] = keys
	}
	path := key.path()
	o := keys[path]
	if o == nil {
		o = &override{named: key.Named}
		keys[path] = o
	}
	return o
}

// set takes in one --set.
func (o *override) set(key overrideKey, value string, hasValue bool) {
	kind := settings[key.Key].kind
	switch {
	case kind == listOverride, kind == secretOverride && !key.Named:
		if !key.Append && value == "" {
			o.clear, o.values = true, nil
		} else {
			o.values = append(o.values, value)
		}
		o.append = key.Append && !o.clear
	case hasValue:
		o.value = value
	}
}

// overrideOrder is the order in which overrides of a target are applied where
// they touch the same attribute; all others follow by name. A secret as a whole
// comes before the source of one.
var overrideOrder = []string{"secret", "output", "push", "load"}

// apply applies the overrides of one target.
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

func (t *definition) applyOne(path string, o *override) error {
	key, name, named := strings.Cut(path, ".")
	s, ok := settings[key]
	if !ok {
		return fmt.Errorf("unknown key: %s%s", key, suggest(key, knownOverrideKeys()))
	}
	if err := s.apply(t, name, o); err != nil && o.flag != setFlag+path {
		return fmt.Errorf("%s: %w", o.flag, err)
	} else if err != nil {
		return err
	}
	origin := s.attribute
	if named {
		origin += "." + name
	}
	if t.origins == nil {
		t.origins = map[string]ir.Range{}
	}
	t.origins[origin] = ir.Range{Filename: o.flag, Set: path}
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

// extend returns list with the values given, which are added without being asked to
// be, or the values alone if the override clears.
func extend[T any](o *override, list, given []T) []T {
	if o.clear {
		return given
	}
	return append(slices.Clip(list), given...)
}

// knownOverrideKeys returns all names of the keys of --set.
func knownOverrideKeys() []string {
	return slices.Concat(ir.SortedKeys(settings), ir.SortedKeys(overrideNames))
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
			case ir.TypeRegistry:
				// The last one takes the place, in the order of docker buildx.
				last := len(kept) - 1
				kept[i] = kept[last]
				kept = kept[:last]
				continue
			case ir.TypeImage:
				setAttr(kept[i], "push", "false")
			}
			i++
		}
		return kept
	}
	add := true
	for _, o := range outputs {
		if o.Type != ir.TypeDocker {
			add = false
		}
		if o.Type == ir.TypeImage {
			setAttr(o, "push", "true")
		}
	}
	if add {
		outputs = append(slices.Clip(outputs), &ir.Output{Type: ir.TypeImage, Attrs: map[string]string{"push": "true"}})
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
		case ir.TypeDocker:
			if o.Dest == "" {
				return outputs
			}
		case ir.TypeImage, ir.TypeRegistry, ir.TypeOCI:
		default:
			return outputs
		}
	}
	return append(slices.Clip(outputs), &ir.Output{Type: ir.TypeDocker})
}
