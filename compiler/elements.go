package compiler

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tonistiigi/go-csvvalue"

	"github.com/dbake/dbake/compiler/ir"
)

// An element is one item of the list attributes that hold more than a string:
// cache-from, cache-to, output, attest, secret, ssh and policy. Each may be
// written as a string of comma-separated key=value fields, the form the command
// line and compose files know, or as an object; both come down to the same value
// here.
//
// The two forms are not equally strict, and the files in the world rely on it:
// strings ignore the case of keys and refuse what they do not know, objects are
// taken as they are.

// typeKey is the field of cache entries, outputs and attestations that names
// their kind.
const typeKey = "type"

// splitFields splits an element's string at its commas, respecting quotes.
func splitFields(s string) ([]string, error) {
	fields, err := csvvalue.Fields(s, nil)
	if err != nil {
		return nil, fmt.Errorf("split %q into fields: %w", s, err)
	}
	return fields, nil
}

// splitField splits a field at its first "=".
func splitField(field string) (key, value string, err error) {
	key, value, ok := strings.Cut(field, "=")
	if !ok {
		return "", "", fmt.Errorf("invalid value %s", field)
	}
	return key, value, nil
}

// parseBool reads the boolean value of a field.
func parseBool(field, value string) (bool, error) {
	b, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("invalid value %s: %w", field, err)
	}
	return b, nil
}

// parseEach parses the strings of a list that are not empty. An empty string is
// the "nothing" of a conditional such as `condition ? "x" : ""`. The result is
// nil for a nil list only: a list of nothing still says that nothing is wanted.
func parseEach[T any](list []string, parse func(string) (T, error)) ([]T, error) {
	if list == nil {
		return nil, nil
	}
	out := make([]T, 0, len(list))
	for _, s := range list {
		if s == "" {
			continue
		}
		v, err := parse(s)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// parseCacheEntries parses the strings of a cache-from or cache-to list.
func parseCacheEntries(list []string) ([]ir.CacheEntry, error) {
	groups, err := parseEach(list, parseCacheEntry)
	if err != nil || groups == nil {
		return nil, err
	}
	out := make([]ir.CacheEntry, 0, len(list))
	for _, g := range groups {
		out = append(out, g...)
	}
	return out, nil
}

// parseCacheEntry parses one string of a cache list: the fields of one entry, or
// references of a registry, each an entry.
func parseCacheEntry(s string) ([]ir.CacheEntry, error) {
	fields, err := splitFields(s)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(s, "=") {
		entries := make([]ir.CacheEntry, 0, len(fields))
		for _, ref := range fields {
			entry, err := registryCache(ref)
			if err != nil {
				return nil, err
			}
			entries = append(entries, entry)
		}
		return entries, nil
	}
	entry := ir.CacheEntry{Attrs: make(map[string]string, len(fields))}
	for _, field := range fields {
		key, value, err := splitField(field)
		if err != nil {
			return nil, err
		}
		if key = strings.ToLower(key); key == typeKey {
			entry.Type = value
		} else {
			entry.Attrs[key] = value
		}
	}
	if entry.Type == "" {
		return nil, fmt.Errorf("type required for %q", s)
	}
	return []ir.CacheEntry{entry}, nil
}

// registryCache is the entry that a bare reference stands for. A field that was
// quoted may still hold commas; it is then no reference.
func registryCache(ref string) (ir.CacheEntry, error) {
	parts, err := splitFields(ref)
	if err != nil {
		return ir.CacheEntry{}, err
	}
	switch len(parts) {
	case 0:
		return ir.CacheEntry{}, fmt.Errorf("type required for %q", ref)
	case 1:
	default:
		return ir.CacheEntry{}, fmt.Errorf("invalid value %s", parts[0])
	}
	return ir.CacheEntry{Type: ir.TypeRegistry, Attrs: map[string]string{"ref": parts[0]}}, nil
}

// cacheEntryFromMap returns the cache entry of an object.
func cacheEntryFromMap(m map[string]string) (ir.CacheEntry, error) {
	entry := ir.CacheEntry{Type: m[typeKey], Attrs: without(m, typeKey)}
	if entry.Type == "" {
		text, err := json.Marshal(m)
		if err != nil {
			return ir.CacheEntry{}, fmt.Errorf("type required: %w", err)
		}
		return ir.CacheEntry{}, fmt.Errorf("type required for %q", text)
	}
	return entry, nil
}

// without returns a copy of m without some keys.
func without(m map[string]string, keys ...string) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = v
	}
	for _, k := range keys {
		delete(out, k)
	}
	return out
}

// stdio is the path that stands for standard output, and where it is not
// allowed for standard input.
const stdio = "-"

var errOutputType = errors.New("type is required for output")

// parseOutputs parses the strings of an output list.
func parseOutputs(list []string) ([]ir.Output, error) { return parseEach(list, parseOutput) }

// parseOutput parses an output: its fields, or only the directory that a local
// export goes to, or "-" for a tar archive on standard output.
func parseOutput(s string) (ir.Output, error) {
	fields, err := splitFields(s)
	if err != nil {
		return ir.Output{}, err
	}
	out := ir.Output{Attrs: make(map[string]string, len(fields))}
	// A single field is a path even when it holds a "=", unless it is the type.
	if len(fields) == 1 && fields[0] == s && !strings.HasPrefix(s, typeKey+"=") {
		out.Type, out.Dest = ir.TypeLocal, s
		if s == stdio {
			out.Type = ir.TypeTar
		}
		return out, nil
	}
	for _, field := range fields {
		key, value, err := splitField(field)
		if err != nil {
			return ir.Output{}, err
		}
		switch key = strings.TrimSpace(strings.ToLower(key)); key {
		case typeKey:
			out.Type = value
		case "dest":
			out.Dest = value
		default:
			out.Attrs[key] = value
		}
	}
	if out.Type == "" {
		return ir.Output{}, errOutputType
	}
	return out, nil
}

// outputFromMap returns the output of an object.
func outputFromMap(m map[string]string) (ir.Output, error) {
	out := ir.Output{Type: m[typeKey], Dest: m["dest"], Attrs: without(m, typeKey, "dest")}
	if out.Type == "" {
		return ir.Output{}, errOutputType
	}
	return out, nil
}

// parseAttests parses the strings of an attest list.
func parseAttests(list []string) ([]ir.Attest, error) { return parseEach(list, parseAttest) }

// parseAttest parses the fields of an attestation. Only the keys type and
// disabled ignore case; the others are parameters of a generator, which has its
// own opinion.
func parseAttest(s string) (ir.Attest, error) {
	fields, err := splitFields(s)
	if err != nil {
		return ir.Attest{}, err
	}
	a := ir.Attest{Attrs: make(map[string]string, len(fields))}
	for _, field := range fields {
		key, value, err := splitField(field)
		if err != nil {
			return ir.Attest{}, err
		}
		switch strings.TrimSpace(strings.ToLower(key)) {
		case typeKey:
			a.Type = value
		case "disabled":
			if a.Disabled, err = parseBool(field, value); err != nil {
				return ir.Attest{}, err
			}
		default:
			a.Attrs[key] = value
		}
	}
	if a.Type == "" {
		return ir.Attest{}, errors.New("attestation type not specified")
	}
	return a, nil
}

// attestFromMap returns the attestation of an object, which may lack a type.
func attestFromMap(m map[string]string) (ir.Attest, error) {
	a := ir.Attest{Type: m[typeKey], Attrs: without(m, typeKey, "disabled")}
	if v, ok := m["disabled"]; ok {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return ir.Attest{}, fmt.Errorf("invalid value for disabled: %w", err)
		}
		a.Disabled = b
	}
	return a, nil
}

// attestShorthand returns the fields of an attestation for the value of an option
// such as --sbom or of the compose key sbom: a truth value switches it on or off,
// anything else is its parameters. An empty value asks for nothing.
func attestShorthand(attestType, value string) string {
	if value == "" {
		return ""
	}
	if on, err := strconv.ParseBool(value); err == nil {
		return fmt.Sprintf("type=%s,disabled=%t", attestType, !on)
	}
	return fmt.Sprintf("type=%s,%s", attestType, value)
}

// parseSecrets parses the strings of a secret list.
func parseSecrets(list []string) ([]ir.Secret, error) { return parseEach(list, parseSecret) }

// parseSecret parses the fields of a secret.
func parseSecret(s string) (ir.Secret, error) {
	fields, err := splitFields(s)
	if err != nil {
		return ir.Secret{}, fmt.Errorf("failed to parse csv secret: %w", err)
	}
	var secret ir.Secret
	var fromEnv bool
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return ir.Secret{}, fmt.Errorf("invalid field '%s' must be a key=value pair", field)
		}
		switch key = strings.ToLower(key); key {
		case typeKey:
			if value != "file" && value != "env" {
				return ir.Secret{}, fmt.Errorf("unsupported secret type %q", value)
			}
			fromEnv = value == "env"
		case "id":
			secret.ID = value
		case "source", "src":
			secret.Src = value
		case "env":
			secret.Env = value
		default:
			return ir.Secret{}, fmt.Errorf("unexpected key '%s' in '%s'", key, field)
		}
	}
	// With type=env the source names a variable, not a file.
	if fromEnv && secret.Env == "" {
		secret.Src, secret.Env = "", secret.Src
	}
	return secret, nil
}

// parseSSHs parses the strings of an ssh list.
func parseSSHs(list []string) ([]ir.SSH, error) { return parseEach(list, parseSSH) }

// parseSSH parses "ID" or "ID=PATH,PATH"; it knows no quotes.
func parseSSH(s string) (ir.SSH, error) {
	id, paths, ok := strings.Cut(s, "=")
	if !ok {
		return ir.SSH{ID: id}, nil
	}
	return ir.SSH{ID: id, Paths: strings.Split(paths, ",")}, nil
}

// compareSSH orders entries by ID, then by paths.
func compareSSH(a, b ir.SSH) int {
	if c := strings.Compare(a.ID, b.ID); c != 0 {
		return c
	}
	return slices.Compare(a.Paths, b.Paths)
}

// parsePolicies parses the strings of a policy list; unlike in the other lists an
// empty string is an element.
func parsePolicies(list []string) ([]ir.Policy, error) {
	out := make([]ir.Policy, 0, len(list))
	for _, s := range list {
		p, err := parsePolicy(s)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// parsePolicy parses the fields of a source policy.
func parsePolicy(s string) (ir.Policy, error) {
	fields, err := splitFields(s)
	if err != nil {
		return ir.Policy{}, err
	}
	return policyFromFields(fields)
}

// policyFromMap returns the policy of an object; an empty value says nothing.
func policyFromMap(m map[string]string) (ir.Policy, error) {
	fields := make([]string, 0, len(m))
	for _, k := range ir.SortedKeys(m) {
		if m[k] != "" {
			fields = append(fields, k+"="+m[k])
		}
	}
	return policyFromFields(fields)
}

func policyFromFields(fields []string) (ir.Policy, error) {
	var p ir.Policy
	for _, field := range fields {
		key, value, err := splitField(field)
		if err != nil {
			return ir.Policy{}, err
		}
		switch strings.TrimSpace(strings.ToLower(key)) {
		case "filename":
			switch {
			case value == "":
				return ir.Policy{}, fmt.Errorf("invalid value %s", field)
			case p.Filename == "":
				p.Filename = value
			default:
				p.More = append(p.More, value)
			}
		case "reset":
			p.Reset, err = parseBool(field, value)
		case "disabled":
			p.Disabled, err = parseBool(field, value)
		case "strict":
			var strict bool
			strict, err = parseBool(field, value)
			p.Strict = &strict
		case "log-level":
			var level string
			level, err = logLevel(field, value)
			p.LogLevel = &level
		default:
			err = fmt.Errorf("invalid value %s", field)
		}
		if err != nil {
			return ir.Policy{}, err
		}
	}
	return p, nil
}

// logLevel returns the name that a level of logging is printed by.
func logLevel(field, value string) (string, error) {
	switch level := strings.ToLower(value); level {
	case "panic", "fatal", "error", "warning", "info", "debug", "trace":
		return level, nil
	case "warn":
		return "warning", nil
	}
	return "", fmt.Errorf("invalid value %s: not a valid logrus Level: %q", field, value)
}
