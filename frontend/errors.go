package frontend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/patternmatcher"

	"github.com/dbake/dbake/compiler/ir"
)

// sourceError returns err as an error that points at the user's files: at the
// line of the Dockerfile when the frontend named one, else at the attribute of the
// target that is the reason.
func (c *compilation) sourceError(in *inputs, err error) error {
	var need *needsNode
	var done *ir.SourceError
	switch {
	case errors.As(err, &need), errors.As(err, &done):
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	if errors.Is(err, filepath.ErrBadPattern) {
		if bad := c.badIgnore(in, err); bad != nil {
			return bad
		}
	}
	out := &ir.SourceError{Summary: summary(in, err), Err: err}
	var excerpts []string
	for _, src := range errdefs.Sources(err) {
		if src.Info == nil {
			continue
		}
		r, excerpt := c.locate(in, src.Info, src.Ranges)
		if out.Range.IsZero() {
			out.Range = r
		}
		if excerpt != "" && !slices.Contains(excerpts, excerpt) {
			excerpts = append(excerpts, excerpt)
		}
	}
	out.Excerpt = strings.Join(excerpts, "")
	if out.Range.IsZero() {
		out.Range = c.blame(in, err)
	}
	return out
}

// lintSign begins the error of a Dockerfile whose warnings are errors, by "# check=error=true".
// The names of the rules follow in no order, and nothing says which lines they are about.
const lintSign = "lint violation found for rules: "

// withFindings returns the error of a Dockerfile whose warnings are errors with the lines that
// they are about; other errors as they are.
func withFindings(warnings []Warning, err error) error {
	_, rules, ok := strings.Cut(err.Error(), lintSign)
	if !ok || len(warnings) == 0 {
		return err
	}
	names := strings.Split(rules, ", ")
	slices.Sort(names)
	out := &ir.SourceError{Range: warnings[0].Range, Summary: lintSign + strings.Join(names, ", "), Err: err}
	var found []string
	for _, w := range warnings {
		found = append(found, w.Message) // which ends with the line
		if w.Excerpt != "" && !strings.Contains(out.Excerpt, w.Excerpt) {
			out.Excerpt += w.Excerpt
		}
	}
	out.Detail = strings.Join(found, "; ")
	return out
}

// badIgnore returns the line of a .dockerignore that holds no pattern, nil when none is
// found on this machine.
func (c *compilation) badIgnore(in *inputs, err error) error {
	var files []string
	if dir := in.sources[recordedDockerfile].dir; dir != "" {
		files = append(files, filepath.Join(dir, in.attrs["filename"]+".dockerignore"))
	}
	if dir := in.sources[recordedContext].dir; dir != "" {
		files = append(files, filepath.Join(dir, ".dockerignore"))
	}
	for _, file := range files {
		data, readErr := os.ReadFile(file)
		if readErr != nil {
			continue
		}
		for i, line := range strings.Split(string(data), "\n") {
			pattern := strings.TrimPrefix(strings.TrimSpace(line), "!")
			if pattern == "" || strings.HasPrefix(pattern, "#") {
				continue
			}
			if _, patternErr := patternmatcher.New([]string{pattern}); patternErr != nil {
				r := ir.Range{Filename: c.show(file)}
				r.Start = ir.Pos{Line: i + 1, Column: 1}
				r.End = ir.Pos{Line: i + 1, Column: len([]rune(line)) + 1}
				return &ir.SourceError{Range: r, Summary: fmt.Sprintf("%q: %v", pattern, patternErr), Err: err}
			}
		}
		break // the first that is there counts
	}
	return nil
}

// summary returns the text of an error of the frontend, which knows the Dockerfile
// by its last name only. Parse errors repeat their line, which is left in: the
// line of a Dockerfile that stands in a bake file is shown nowhere else.
func summary(in *inputs, err error) string {
	msg := strings.TrimSpace(err.Error())
	if name := in.attrs["filename"]; name != "" && !in.inline {
		msg = strings.Replace(msg, "failed to read dockerfile: open "+name+":", "failed to read dockerfile: open "+in.dockerfilePath+":", 1)
	}
	return msg
}

// blame returns the attribute that an error without a line is about.
func (c *compilation) blame(in *inputs, err error) ir.Range {
	t := in.unit.Target
	msg := err.Error()
	switch {
	case strings.Contains(msg, "target stage "):
		if t.Stage != "" {
			return t.Origin("target")
		}
	case strings.Contains(msg, "failed to read dockerfile"):
		return t.Origin("dockerfile")
	case strings.Contains(msg, "failed to parse platform"), strings.Contains(msg, "target platform"):
		return t.Origin("platforms")
	case strings.Contains(msg, "invalid SOURCE_DATE_EPOCH"):
		return t.Origin("args.SOURCE_DATE_EPOCH")
	case strings.Contains(msg, "BUILDKIT_DOCKERFILE_CHECK"):
		return t.Origin("args.BUILDKIT_DOCKERFILE_CHECK")
	case in.attrs["attest:sbom"] != "" && (strings.HasPrefix(msg, "scanner ") || strings.HasPrefix(msg, "failed to resolve source metadata")):
		// Images of the Dockerfile come with a line.
		return t.Origin("attest")
	case strings.Contains(msg, "Dockerfile cannot be empty"), strings.Contains(msg, "no stages to build"),
		strings.Contains(msg, "file with no instructions"):
		if in.inline {
			return t.Origin("dockerfile-inline")
		}
		return ir.Range{Filename: in.dockerfilePath}
	}
	return t.Origin("")
}

// locate returns the place in the user's files of ranges in a Dockerfile, and an
// excerpt that shows them.
func (c *compilation) locate(in *inputs, info *pb.SourceInfo, ranges []*pb.Range) (ir.Range, string) {
	info = info.CloneVT()
	info.Filename = in.dockerfilePath
	var excerpt bytes.Buffer
	if err := (&errdefs.Source{Info: info, Ranges: ranges}).Print(&excerpt); err != nil {
		excerpt.Reset()
	}
	if in.inline {
		// The range of a heredoc or a JSON string does not map to lines.
		if r := in.unit.Target.Origin("dockerfile-inline"); !r.IsZero() {
			return r, excerpt.String()
		}
	}
	r := ir.Range{Filename: in.dockerfilePath}
	if len(ranges) == 0 {
		return r, ""
	}
	lines := bytes.Split(info.Data, []byte("\n"))
	offset := func(line int) int {
		n := 0
		for _, l := range lines[:min(max(line-1, 0), len(lines))] {
			n += len(l) + 1
		}
		return n
	}
	first, last := ranges[0].Start, ranges[0].End
	for _, rg := range ranges[1:] {
		if rg.Start.GetLine() < first.GetLine() {
			first = rg.Start
		}
		if rg.End.GetLine() > last.GetLine() {
			last = rg.End
		}
	}
	start, end := int(first.GetLine()), int(max(last.GetLine(), first.GetLine()))
	r.Start = ir.Pos{Line: start, Column: int(first.GetCharacter()) + 1}
	r.Start.Byte = offset(start) + int(first.GetCharacter())
	r.End = ir.Pos{Line: end, Column: int(last.GetCharacter()) + 1}
	// The parser knows lines only: the whole of the last line is meant.
	if last.GetCharacter() == 0 && end >= 1 && end <= len(lines) {
		line := bytes.TrimRight(lines[end-1], "\r")
		r.End.Column = len([]rune(string(line))) + 1
		r.End.Byte = offset(end) + len(line)
		return r, excerpt.String()
	}
	r.End.Byte = offset(end) + int(last.GetCharacter())
	return r, excerpt.String()
}
