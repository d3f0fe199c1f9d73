// Package schematest checks in tests that what dbake prints is what docs/schema says.
//
// The schemas are open: later versions add properties and values, and readers must take
// them. Here they are closed, so that what is printed without standing in its schema fails
// a test: an object has the properties that are listed and no others, and the examples of
// a string are all its values.
package schematest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Check returns an error when a JSON document is not what the schema of that name says,
// as "plan".
func Check(name string, document []byte) error {
	schema, err := schemas(name)
	if err != nil {
		return err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := schema.Validate(doc); err != nil {
		return fmt.Errorf("%s: %w:\n%s", name, err, document)
	}
	return nil
}

// CheckLines checks a document in each line that is not empty.
func CheckLines(name string, lines []byte) error {
	for line := range bytes.Lines(lines) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if err := Check(name, line); err != nil {
			return err
		}
	}
	return nil
}

// compiled are the schemas that were asked for, by name.
var compiled sync.Map // of func() (*jsonschema.Schema, error)

func schemas(name string) (*jsonschema.Schema, error) {
	once, _ := compiled.LoadOrStore(name, sync.OnceValues(func() (*jsonschema.Schema, error) { return compile(name) }))
	return once.(func() (*jsonschema.Schema, error))()
}

// compile reads a schema and closes it.
func compile(name string) (*jsonschema.Schema, error) {
	dir, err := directory()
	if err != nil {
		return nil, err
	}
	file := name + ".json"
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return nil, err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	shut(doc)
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource(file, doc); err != nil {
		return nil, err
	}
	return c.Compile(file)
}

// shut closes the objects and strings of a schema.
func shut(v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			shut(e)
		}
	case map[string]any:
		for _, e := range v {
			shut(e)
		}
		_, listed := v["properties"].(map[string]any)
		if _, open := v["additionalProperties"]; listed && !open && v["type"] == "object" {
			v["additionalProperties"] = false
		}
		if examples, ok := v["examples"].([]any); ok && v["type"] == "string" {
			v["enum"] = examples
		}
	}
}

// directory is docs/schema of the repository that the test runs in.
func directory() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "docs", "schema"), nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("docs/schema: not in the repository")
		}
		dir = parent
	}
}
