package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dbake/dbake/internal/localfile"
	"github.com/dbake/dbake/internal/redact"
	"github.com/dbake/dbake/internal/report"
	"github.com/dbake/dbake/runtime"
)

// output runs write on standard output, when name is "" or "-", or on a file, which is
// replaced whole or not at all. Tokens and passwords in URLs are left out.
func (a *app) output(ctx context.Context, name string, write func(io.Writer) error) error {
	var buf strings.Builder
	if err := write(&buf); err != nil {
		return err
	}
	text := redact.Text(buf.String())
	if name == "" || name == "-" {
		_, err := io.WriteString(a.stdout, text)
		return err
	}
	waiting := func() { a.progress.Note(fmt.Sprintf("waiting for a reader of the pipe %s", name)) }
	if err := localfile.Write(ctx, a.path(name), []byte(text), waiting); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// metadata returns the exporters' responses for each target with outputs. The parts of a
// target that was divided are no image of it until they are joined.
func metadata(r *runtime.Result) map[string]map[string]any {
	parts, done := map[string]int{}, map[string]int{}
	for _, j := range r.Jobs {
		parts[j.Target]++
		if j.State.Good() {
			done[j.Target]++
		}
	}
	byTarget := map[string]map[string]any{}
	for _, j := range r.Jobs {
		whole := done[j.Target] == parts[j.Target]
		if !whole && (parts[j.Target] > 1 || len(j.Metadata) == 0) {
			continue
		}
		if byTarget[j.Target] == nil {
			byTarget[j.Target] = map[string]any{}
		}
		maps.Copy(byTarget[j.Target], j.Metadata)
	}
	return byTarget
}

// hurry bounds the wait for a reader of the metadata when the build has failed.
const hurry = 2 * time.Second

// writeMetadata writes the metadata of each target to the file of --metadata-file, if there
// is one. A command that has failed does not wait for a reader.
func (c *buildCmd) writeMetadata(ctx context.Context, a *app, content any, failed bool) error {
	if c.MetadataFile == "" {
		return nil
	}
	c.metadataWritten = true
	dt, err := json.MarshalIndent(content, "", "  ")
	if err != nil {
		return fmt.Errorf("encode metadata: %w", err)
	}
	if failed {
		var stop func()
		ctx, stop = context.WithTimeoutCause(ctx, hurry, errors.New("the build has failed, and nobody reads about it"))
		defer stop()
	}
	waiting := func() { a.progress.Note(fmt.Sprintf("the metadata waits for a reader of the pipe %s", c.MetadataFile)) }
	if err := localfile.Write(ctx, a.path(c.MetadataFile), dt, waiting); err != nil {
		return fmt.Errorf("write metadata: %w", err)
	}
	return nil
}

// maxMetadata bounds what is read of a metadata file.
const maxMetadata = 64 << 20

// dropMetadata empties the metadata file of an earlier run, so that nobody takes it for
// this run's. A file with other content is left alone.
func (c *buildCmd) dropMetadata(ctx context.Context, a *app) error {
	if c.MetadataFile == "" || c.metadataWritten {
		return nil
	}
	place, err := localfile.Locate(a.path(c.MetadataFile))
	if err != nil || !place.Exists() || place.IsStream() || place.IsDir() {
		return nil // found out when it is written
	}
	dt, err := localfile.Read(place.Path(), maxMetadata)
	if err != nil || !isMetadata(dt) {
		return nil
	}
	if err := localfile.Write(ctx, place.Path(), []byte("{}"), nil); err != nil {
		return fmt.Errorf("empty the metadata of an earlier run: %w", err)
	}
	return nil
}

// isMetadata reports whether a file looks like a metadata file with something in it:
// an object of objects, and no bake file, which some put there by mistake.
func isMetadata(dt []byte) bool {
	var doc map[string]any
	if json.Unmarshal(dt, &doc) != nil || len(doc) == 0 {
		return false
	}
	for key, v := range doc {
		if _, ok := v.(map[string]any); !ok && !strings.HasPrefix(key, "buildx.build.") {
			return false
		}
	}
	return !slices.ContainsFunc([]string{"target", "group", "variable", "services"}, func(key string) bool {
		_, ok := doc[key]
		return ok
	})
}

// writeJSON prints a value for programs.
func (a *app) writeJSON(v any) error { return report.WriteJSON(a.stdout, v) }
