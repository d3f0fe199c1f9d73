// Command schema writes the JSON schemas of what dbake prints, from the Go types that are
// printed and their comments.
//
//	go run ./scripts/schema [DIR]
//
// DIR is docs/schema if it is not given. The schema of the metadata file is not made here:
// what is in it is decided by BuildKit, so it is written by hand.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

const module = "github.com/dbake/dbake/"

// documents are the schemas to be made.
var documents = []document{
	{
		file: "plan.json", pkg: module + "internal/report", root: "File",
		title: "A plan: dbake plan --format json",
	},
	{
		file: "curve.json", pkg: module + "internal/report", root: "Curve",
		title: "What a build takes on 1 node and more: dbake plan --curve --format json",
	},
	{
		file: "summary.json", pkg: module + "cmd/dbake/internal/view", root: "outcomeJSON",
		title: "The summary of a build: dbake build --summary-json",
	},
	{
		file: "rawjson.json", pkg: module + "cmd/dbake/internal/view", root: "event", other: "status", by: "event",
		title: "A line of dbake build --progress rawjson: an event, or the status of steps",
	},
}

func main() {
	dir := filepath.Join("docs", "schema")
	if len(os.Args) > 1 {
		dir = os.Args[1]
	}
	if err := write(dir); err != nil {
		fmt.Fprintln(os.Stderr, "schema:", err)
		os.Exit(1)
	}
}

// write makes all schemas in dir.
func write(dir string) error {
	packages, err := load()
	if err != nil {
		return err
	}
	for _, d := range documents {
		data, err := d.schema(packages)
		if err != nil {
			return fmt.Errorf("%s: %w", d.file, err)
		}
		if err := os.WriteFile(filepath.Join(dir, d.file), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
