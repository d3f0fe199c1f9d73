package compiler

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/dbake/dbake/compiler/ir"
)

// extensionKey is the key of a build section that holds attributes of targets
// which compose has no key for.
const extensionKey = "x-bake"

// extension is the content of an x-bake section. Keys it does not know say
// nothing.
type extension struct {
	Tags          stringOrList      `yaml:"tags"`
	CacheFrom     stringOrList      `yaml:"cache-from"`
	CacheTo       stringOrList      `yaml:"cache-to"`
	Secrets       stringOrList      `yaml:"secret"`
	SSH           stringOrList      `yaml:"ssh"`
	Platforms     stringOrList      `yaml:"platforms"`
	Outputs       stringOrList      `yaml:"output"`
	Pull          *bool             `yaml:"pull"`
	NoCache       *bool             `yaml:"no-cache"`
	NoCacheFilter stringOrList      `yaml:"no-cache-filter"`
	Contexts      map[string]string `yaml:"contexts"`
}

// ownExtensionKey is the key of a build section that holds what only dbake knows of a target.
const ownExtensionKey = "x-dbake"

// composeGates returns the targets that an x-dbake section names as gates. What it does not
// know is an error: a gate that is misspelled would let everything through.
func composeGates(extensions map[string]any) ([]string, error) {
	section := extensions[ownExtensionKey]
	if section == nil {
		return nil, nil
	}
	data, err := yaml.Marshal(section)
	if err != nil {
		return nil, err
	}
	var own struct {
		Gates stringOrList `yaml:"gates"`
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&own); err != nil {
		return nil, fmt.Errorf("%s has one key, gates, with a list of services: %w", ownExtensionKey, err)
	}
	var gates []string
	for _, name := range own.Gates {
		gates = append(gates, composeTargetName(name))
	}
	return gates, nil
}

// stringOrList is a list of strings, or one string of them separated by blanks.
type stringOrList []string

func (l *stringOrList) UnmarshalYAML(node *yaml.Node) error {
	var list []string
	if node.Decode(&list) == nil {
		*l = list
		return nil
	}
	var words string
	if err := node.Decode(&words); err != nil {
		return err
	}
	*l = strings.Fields(words)
	return nil
}

// extendTarget adds what the x-bake section among extensions says to a target.
// Lists are added to what compose's own keys gave; a named context that compose
// gave stays.
func extendTarget(d *definition, extensions map[string]any) error {
	section := extensions[extensionKey]
	if section == nil {
		return nil
	}
	// Through YAML, so that scalars convert to strings as YAML has it.
	data, err := yaml.Marshal(section)
	if err != nil {
		return err
	}
	var ext extension
	if err := yaml.Unmarshal(data, &ext); err != nil {
		var mismatch *yaml.TypeError
		if errors.As(err, &mismatch) { // in the words of docker buildx
			for i, text := range mismatch.Errors {
				text = strings.ReplaceAll(text, fmt.Sprintf("into %T", ext), "into bake.xbake")
				mismatch.Errors[i] = strings.ReplaceAll(text, fmt.Sprintf("into %T", ext.Contexts), "into bake.stringMap")
			}
		}
		return err
	}

	d.tags = extendStrings(d.tags, ext.Tags)
	d.platforms = extendStrings(d.platforms, ext.Platforms)
	d.noCacheFilter = extendStrings(d.noCacheFilter, ext.NoCacheFilter)
	if err := extendElements("cache-from", ext.CacheFrom, parseCacheEntries, func(more []ir.CacheEntry) {
		d.cacheFrom = mergeCacheFrom(d.cacheFrom, pointers(more))
	}); err != nil {
		return err
	}
	if err := extendElements("cache-to", ext.CacheTo, parseCacheEntries, func(more []ir.CacheEntry) {
		d.cacheTo = dedupeCache(append(d.cacheTo, more...))
	}); err != nil {
		return err
	}
	if err := extendElements("output", ext.Outputs, parseOutputs, func(more []ir.Output) {
		d.outputs = pointers(more)
	}); err != nil {
		return err
	}
	if err := extendElements("secret", ext.Secrets, parseSecrets, func(more []ir.Secret) {
		d.secrets = extendUnique(d.secrets, pointers(more), dedupeSecrets)
	}); err != nil {
		return err
	}
	if err := extendElements("ssh", ext.SSH, parseSSHs, func(more []ir.SSH) {
		d.ssh = extendUnique(d.ssh, more, dedupeSSH)
		slices.SortFunc(d.ssh, compareSSH)
	}); err != nil {
		return err
	}
	replace(&d.pull, ext.Pull)
	replace(&d.noCache, ext.NoCache)
	if len(ext.Contexts) > 0 {
		contexts := composeContexts(ext.Contexts)
		maps.Copy(contexts, d.contexts)
		d.contexts = contexts
	}
	return nil
}

// extendStrings returns a with b added and later duplicates dropped; without b it
// is a as it is.
func extendStrings(a, b []string) []string {
	if len(b) == 0 {
		return a
	}
	return unique(slices.Concat(a, b))
}

// extendElements parses the strings of a key and hands the elements on,
// if there are any strings.
func extendElements[T any](key string, list []string, parse func([]string) ([]T, error), add func([]T)) error {
	if len(list) == 0 {
		return nil
	}
	elements, err := parse(list)
	if err != nil {
		return inBuild(err, key)
	}
	add(elements)
	return nil
}

// extendUnique returns a with b added, one element of each ID. Duplicates within
// b alone are left for the target to settle, after it has been sorted: which of
// them wins is then another.
func extendUnique[T any](a, b []T, dedupe func([]T) []T) []T {
	if a == nil {
		return b
	}
	return dedupe(append(a, b...))
}
