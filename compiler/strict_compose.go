package compiler

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/schema"
	"go.yaml.in/yaml/v4"

	"github.com/dbake/dbake/compiler/ir"
)

// What a strict reading objects to in compose files: what docker compose would
// refuse or do, and bake passes over.

// composeKeys are the keys that the compose specification knows.
type composeKeys struct{ service, build []string }

// readComposeKeys takes the keys from the schema of compose-go.
func readComposeKeys() (composeKeys, error) {
	var root schemaNode
	if err := json.Unmarshal([]byte(schema.Schema), &root); err != nil {
		return composeKeys{}, fmt.Errorf("read the compose schema: %w", err)
	}
	service := root.Defs["service"].properties(root.Defs)
	build := service["build"]
	return composeKeys{service: ir.SortedKeys(service), build: ir.SortedKeys(build.properties(root.Defs))}, nil
}

// schemaNode is a JSON schema as far as it names the properties of an object.
type schemaNode struct {
	Ref        string                `json:"$ref"`
	Properties map[string]schemaNode `json:"properties"`
	AllOf      []schemaNode          `json:"allOf"`
	AnyOf      []schemaNode          `json:"anyOf"`
	OneOf      []schemaNode          `json:"oneOf"`
	Defs       map[string]schemaNode `json:"$defs"`
}

func (n schemaNode) properties(defs map[string]schemaNode) map[string]schemaNode {
	all := map[string]schemaNode{}
	add := func(from map[string]schemaNode) {
		for name, p := range from {
			all[name] = p
		}
	}
	add(n.Properties)
	for _, part := range slices.Concat(n.AllOf, n.AnyOf, n.OneOf) {
		add(part.properties(defs))
	}
	if name, ok := strings.CutPrefix(n.Ref, "#/$defs/"); ok {
		add(defs[name].properties(defs))
	}
	return all
}

// ignoredBuildKeys are keys of a build section that bake has no attribute for.
var ignoredBuildKeys = map[string]string{
	"entitlements":    "write them in a bake file",
	"isolation":       "it is for Windows containers",
	"no_cache_filter": "write no-cache-filter under x-bake",
	"privileged":      "write the entitlement security.insecure in a bake file",
}

// extensionKeys are the keys of an x-bake section.
var extensionKeys = func() []string {
	var keys []string
	for f := range reflect.TypeFor[extension]().Fields() {
		keys = append(keys, f.Tag.Get("yaml"))
	}
	return keys
}()

// composeFiles finds what compose files say to nobody.
func (w *warner) composeFiles(files []sourceFile) error {
	if len(files) == 0 {
		return nil
	}
	keys, err := readComposeKeys()
	if err != nil {
		return err
	}
	for _, f := range files {
		for _, doc := range readComposeDocs(f.Name, f.Data, "") {
			c := composeWarner{warner: w, doc: doc, keys: keys}
			for _, top := range pairs(doc.root) {
				switch top.key.Value {
				case "services":
					for _, s := range pairs(top.value) {
						c.service(s.key.Value, s.value)
					}
				case extensionKey:
					c.at(top.key, "Misplaced x-bake", "x-bake belongs under the build section of a service.")
				}
			}
		}
	}
	return nil
}

// composeWarner looks at one document.
type composeWarner struct {
	*warner
	doc  *composeDoc
	keys composeKeys
}

func (c *composeWarner) at(node *yaml.Node, summary, format string, args ...any) {
	c.warn(c.doc.nodeRange(node), summary, fmt.Sprintf(format, args...))
}

// pairs returns the entries of a mapping, aliases followed, merges left out.
func pairs(node *yaml.Node) []composeEntry {
	node = resolveAlias(node)
	if node == nil || node.Kind != yaml.MappingNode {
		return nil
	}
	var list []composeEntry
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value != "<<" {
			list = append(list, composeEntry{node.Content[i], resolveAlias(node.Content[i+1])})
		}
	}
	return list
}

// isExtension reports whether a key is one that anybody may add.
func isExtension(key string) bool { return strings.HasPrefix(key, "x-") }

// service looks at one service. Unknown keys of its build section have been refused.
func (c *composeWarner) service(name string, node *yaml.Node) {
	var build *yaml.Node
	var platform *yaml.Node
	for _, e := range pairs(node) {
		switch key := e.key.Value; {
		case key == "build":
			build = e.value
		case key == "platform":
			platform = e.key
		case key == extensionKey:
			c.at(e.key, "Misplaced x-bake", "x-bake of service %q belongs under build.", name)
		case isExtension(key), slices.Contains(c.keys.service, key):
		case slices.Contains(c.keys.build, key):
			c.at(e.key, "Misplaced key", "%q of service %q belongs under build.", key, name)
		default:
			c.at(e.key, "Unknown key", "A service has no key %q.%s", key, suggest(key, c.keys.service))
		}
	}
	if build == nil {
		return
	}
	platforms := false
	for _, e := range pairs(build) {
		switch key := e.key.Value; {
		case key == extensionKey:
			platforms = c.extension(name, e.value) || platforms
		case key == "platforms":
			platforms = true
		case ignoredBuildKeys[key] != "":
			c.at(e.key, "Ignored key", "bake does not read %q: %s.", key, ignoredBuildKeys[key])
		}
		c.numbers(e.value, 0)
	}
	if platform != nil && !platforms {
		c.at(platform, "Ignored key", "bake does not read \"platform\" of a service, which docker compose builds service %q for: write platforms under build.", name)
	}
}

// extension looks at an x-bake section and reports whether it sets platforms.
func (c *composeWarner) extension(service string, node *yaml.Node) (platforms bool) {
	for _, e := range pairs(node) {
		switch key := e.key.Value; {
		case key == "platforms":
			platforms = true
		case slices.Contains(extensionKeys, key):
		case key == "push" || key == "load":
			c.at(e.key, "Unknown key", "x-bake of service %q has no key %q: write output = type=%s, or pass --%[2]s.", service, key,
				map[string]string{"push": "registry", "load": "docker"}[key])
		default:
			c.at(e.key, "Unknown key", "x-bake of service %q has no key %q.%s", service, key, suggest(key, extensionKeys))
		}
	}
	return platforms
}

// maxNumberDepth bounds how deep values are looked into; build sections are shallow.
const maxNumberDepth = 6

// numbers finds numbers that lose a zero when they become text.
func (c *composeWarner) numbers(node *yaml.Node, depth int) {
	if node == nil || depth > maxNumberDepth || node.Kind == yaml.AliasNode {
		return
	}
	if node.Kind == yaml.ScalarNode && node.Style == 0 && node.ShortTag() == "!!float" && losesZero(node.Value) {
		c.warnShortened(c.doc.nodeRange(node), node.Value)
	}
	for _, n := range node.Content {
		c.numbers(n, depth+1)
	}
}
