package compiler

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
)

// sourceFile is a definition file as it was read: its name as the user gave it
// and its bytes.
type sourceFile struct {
	Name string
	Data []byte
}

// hclSource is a parsed file of the HCL family.
type hclSource struct {
	sourceFile
	body hcl.Body
	// json is true when the file was read in the JSON syntax, in which
	// expressions hide in strings.
	json bool
}

// classified are the definition files by family, each in the order given.
type classified struct {
	compose []sourceFile
	hcl     []hclSource
}

// parse classifies the files, and returns the definitions of the compose files among them.
//
// A compose file that is the only one is valid if reading it succeeds, and reading
// takes most of the time there is: it is checked on its own only for the error.
func parse(ctx context.Context, files []sourceFile, opt composeOptions) (classified, *config, error) {
	if oneCompose(files) {
		if byFamily, c, err := parseChecked(ctx, files, opt, true); err == nil {
			return byFamily, c, nil
		}
	}
	return parseChecked(ctx, files, opt, false)
}

func parseChecked(ctx context.Context, files []sourceFile, opt composeOptions, checked bool) (classified, *config, error) {
	byFamily, err := classify(ctx, files, opt, checked)
	if err != nil {
		return classified{}, nil, err
	}
	c := &config{}
	if len(byFamily.compose) == 0 {
		return byFamily, c, nil
	}
	targets, groups, err := parseCompose(ctx, byFamily.compose, opt)
	if err != nil {
		return classified{}, nil, err
	}
	for _, t := range targets {
		c.addTarget(t)
	}
	for i := range groups {
		c.groups = append(c.groups, &groups[i])
	}
	return byFamily, c, nil
}

// classify separates compose files from bake files and parses the latter.
//
// The name decides where it can: .yml and .yaml are compose, .json and .hcl are
// bake files in the syntax of that name. Anything else, standard input too, is
// what it can be read as: compose, then HCL, then JSON.
//
// Each compose file is also checked on its own, unless checked says that this is
// not needed.
func classify(ctx context.Context, files []sourceFile, opt composeOptions, checked bool) (classified, error) {
	var c classified
	for _, f := range files {
		if checked && hasComposeExtension(f.Name) {
			c.compose = append(c.compose, f)
			continue
		}
		isCompose, composeErr := looksLikeCompose(ctx, f, opt)
		if isCompose {
			if composeErr != nil {
				return classified{}, composeErr
			}
			c.compose = append(c.compose, f)
			continue
		}
		src, err := parseHCL(f)
		if err != nil {
			return classified{}, explainSyntax(f, composeErr, err)
		}
		c.hcl = append(c.hcl, src)
	}
	return c, nil
}

// oneCompose reports whether exactly one of the files can be a compose file, by
// its name.
func oneCompose(files []sourceFile) bool {
	n := 0
	for _, f := range files {
		switch {
		case hasComposeExtension(f.Name):
			n++
		case !hasBakeExtension(f.Name):
			return false
		}
	}
	return n == 1
}

// explainSyntax returns the error for a file that no syntax fits.
func explainSyntax(f sourceFile, composeErr error, err error) error {
	if composeErr == nil || hasBakeExtension(f.Name) {
		return err
	}
	both := fmt.Errorf("failed to parse %s: parsing yaml: %s, parsing hcl: %w", f.Name, composeErr, err)
	var advised *advisedError
	if errors.As(composeErr, &advised) {
		return fmt.Errorf("%w. %s", both, advised.advice)
	}
	return both
}

func hasComposeExtension(name string) bool {
	ext := strings.ToLower(filepath.Ext(name))
	return ext == ".yml" || ext == ".yaml"
}

func hasBakeExtension(name string) bool {
	return strings.HasSuffix(name, ".json") || strings.HasSuffix(name, ".hcl")
}

// maxNesting bounds how deep expressions may be nested. The parser recurses, and
// Go ends a process whose stack grows without bound.
const maxNesting = 10_000

// tooDeep reports whether the brackets, or the operators in front of one operand,
// of a file are nested beyond reason. Text in strings and comments counts as well,
// which does no harm at this depth.
func tooDeep(data []byte) bool {
	depth, prefix := 0, 0
	for _, c := range data {
		switch c {
		case '(', '[', '{':
			depth++
		case ')', ']', '}':
			depth = max(0, depth-1)
		}
		switch c {
		case '!', '-', '?':
			prefix++
		case ' ', '\t', '\n', '\r':
		default:
			prefix = 0
		}
		if depth > maxNesting || prefix > maxNesting {
			return true
		}
	}
	return false
}

// parseHCL parses a file of the HCL family. Diagnostics of a file whose name
// shows no syntax name it with the syntax appended, as "-.hcl".
func parseHCL(f sourceFile) (hclSource, error) {
	if tooDeep(f.Data) {
		return hclSource{}, fmt.Errorf("%s: expressions are nested more than %d levels deep", f.Name, maxNesting)
	}
	parser := hclparse.NewParser()
	switch {
	case strings.HasSuffix(f.Name, ".json"):
		file, diags := parser.ParseJSON(f.Data, f.Name)
		if diags.HasErrors() {
			return hclSource{}, diags
		}
		return hclSource{sourceFile: f, body: file.Body, json: true}, nil
	case strings.HasSuffix(f.Name, ".hcl"):
		file, diags := parser.ParseHCL(f.Data, f.Name)
		if diags.HasErrors() {
			return hclSource{}, diags
		}
		return hclSource{sourceFile: f, body: file.Body}, nil
	}

	asHCL := sourceFile{Name: f.Name + ".hcl", Data: f.Data}
	file, diags := parser.ParseHCL(f.Data, asHCL.Name)
	if !diags.HasErrors() {
		return hclSource{sourceFile: asHCL, body: file.Body}, nil
	}
	asJSON := sourceFile{Name: f.Name + ".json", Data: f.Data}
	if file, diags := parser.ParseJSON(f.Data, asJSON.Name); !diags.HasErrors() {
		return hclSource{sourceFile: asJSON, body: file.Body, json: true}, nil
	}
	return hclSource{}, diags
}
