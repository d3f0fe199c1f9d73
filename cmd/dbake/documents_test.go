package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dbake/dbake/cmd/dbake/internal/schematest"
)

// checkDocuments checks the documents that a command has printed or written against
// their schemas. It is asked after every command of scripts and integration tests; began is
// when the command was started.
func checkDocuments(dir string, args []string, began time.Time, status int, stdout, stderr string) error {
	value := func(names ...string) string {
		for i, a := range args {
			for _, name := range names {
				if v, ok := strings.CutPrefix(a, name+"="); ok {
					return v
				}
				if a == name && i+1 < len(args) {
					return args[i+1]
				}
			}
		}
		return ""
	}
	// written is a file that the command may have written since a time; nil when it has
	// not.
	written := func(name string, since time.Time) []byte {
		if name == "" {
			return nil
		}
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		if info, err := os.Stat(name); err != nil || !info.Mode().IsRegular() || !info.ModTime().After(since) {
			return nil
		}
		data, _ := os.ReadFile(name) // or it is not there any more
		return data
	}
	var errs []error
	check := func(name string, data []byte) {
		if len(data) > 0 {
			errs = append(errs, schematest.Check(name, data))
		}
	}
	switch metadata := value("--metadata-file"); status {
	case 0:
		check("metadata", written(metadata, time.Time{}))
	case 1: // a build that failed lists what it built, or leaves alone what was there
		check("metadata", written(metadata, began))
	}
	summary := written(value("--summary-json"), time.Time{})
	if value("--summary-json") == "-" {
		summary = []byte(stdout)
	}
	var doc struct{ State string }
	if json.Unmarshal(summary, &doc) == nil && doc.State != "" {
		check("summary", summary)
	}
	if status < 2 && value("--progress") == "rawjson" {
		errs = append(errs, schematest.CheckLines("rawjson", []byte(stderr)))
	}
	planned := "plan"
	if slices.Contains(args, "--curve") {
		planned = "curve"
	}
	// With --against a plan prints what is to be built, and is none.
	if status == 0 && slices.Contains(args, "plan") && value("--format") == "json" && value("--against") == "" {
		if file := value("-o", "--output"); file != "" && file != "-" {
			check(planned, written(file, time.Time{}))
		} else {
			check(planned, []byte(stdout))
		}
	}
	return errors.Join(errs...)
}
