package frontend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/subrequests/lint"
	"github.com/moby/buildkit/frontend/subrequests/outline"
	"github.com/moby/buildkit/frontend/subrequests/targets"
	"github.com/moby/buildkit/solver/pb"

	"github.com/dbake/dbake/compiler/ir"
)

// Called is the answer of the frontend to something other than "build": the
// lint, outline or target list of a Dockerfile.
type Called struct {
	Target *ir.Target
	// Method is the name of the request: "lint", "outline", "targets", ...
	Method string
	// Result is the answer as the frontend gave it: "result.json",
	// "result.txt", "result.statuscode", "version".
	Result map[string][]byte
	// StatusCode is the exit status that this answer asks for: 1 for a lint with findings.
	StatusCode int

	dockerfile string // what to call the Dockerfile
}

// Method returns what a value of the call attribute asks for; "" is to build.
func Method(call string) string {
	// The value may carry options for the printing: "outline,format=json".
	name, _, _ := strings.Cut(call, ",")
	switch name {
	case "build":
		return ""
	case "check":
		return "lint"
	}
	return name
}

// Call answers for those targets of p whose call attribute asks for something
// other than "build", in the order of p.Targets. What such a target links to is
// compiled, the target itself is not. The error is like that of [Compile].
func Call(ctx context.Context, p *ir.Project, o Options) ([]*Called, error) {
	c, err := newCompilation(p, o)
	if err != nil {
		return nil, err
	}
	var called []*Called
	var errs []error
	for _, t := range p.Targets {
		method := Method(t.Call)
		if method == "" {
			continue
		}
		res, err := c.call(ctx, t, method)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		called = append(called, res)
	}
	return called, errors.Join(errs...)
}

// call asks for the answer for one target.
func (c *compilation) call(ctx context.Context, t *ir.Target, method string) (*Called, error) {
	links, err := c.compileLinks(ctx, t)
	if err != nil {
		return nil, err
	}
	// The answers do not depend on the platform.
	u := ir.Unit{ID: ir.UnitID(t.Name), Target: t}
	if list := t.PlatformList(); len(list) > 0 {
		u.Platform = list[0]
	}
	in, err := c.prepare(ctx, u, links)
	if err != nil {
		return nil, &UnitError{Unit: u.ID, Err: err}
	}
	more := map[string]string{
		"requestid":     "frontend." + method,
		"frontend.caps": "moby.buildkit.frontend.subrequests+forward",
	}
	out := &Called{Target: t, Method: method, dockerfile: in.dockerfilePath}
	err = c.hereOrRemote(ctx, in, func(ctx context.Context, remote gateway.Client) error {
		_, res, err := c.build(ctx, in, remote, more)
		if err != nil {
			return err
		}
		out.Result = res.Metadata
		return nil
	})
	if err != nil {
		return nil, &UnitError{Unit: u.ID, Err: err}
	}
	if n, err := strconv.Atoi(string(out.Result["result.statuscode"])); err == nil {
		out.StatusCode = n
	}
	return out, nil
}

// compileLinks compiles what t links to.
func (c *compilation) compileLinks(ctx context.Context, t *ir.Target) (map[string][]*Unit, error) {
	wanted := map[string]bool{}
	var want func(*ir.Target)
	want = func(t *ir.Target) {
		for _, name := range t.Links() {
			if parent := c.project.Target(name); parent != nil && !wanted[name] {
				wanted[name] = true
				want(parent)
			}
		}
	}
	want(t)
	var units []ir.Unit
	for _, u := range c.project.Units() {
		if wanted[u.Target.Name] {
			units = append(units, u)
		}
	}
	compiled, err := c.all(ctx, units)
	if err != nil {
		return nil, err
	}
	links := map[string][]*Unit{}
	for _, u := range compiled {
		links[u.Target.Name] = append(links[u.Target.Name], u)
	}
	return links, nil
}

// JSON returns the answer as JSON.
func (c *Called) JSON() json.RawMessage { return c.Result["result.json"] }

// Print writes the answer for people. A lint that could not read the whole
// Dockerfile prints what it found before and returns the reason as an error.
func (c *Called) Print(w io.Writer) error {
	data := c.Result["result.json"]
	switch c.Method {
	case "lint":
		return c.printLint(w)
	case "outline":
		return outline.PrintOutline(data, w)
	case "targets":
		return targets.PrintTargets(data, w)
	}
	if text, ok := c.Result["result.txt"]; ok {
		data = text
	}
	_, err := w.Write(data)
	return err
}

func (c *Called) printLint(w io.Writer) error {
	var results lint.LintResults
	if err := json.Unmarshal(c.Result["result.json"], &results); err != nil {
		return fmt.Errorf("lint of target %s: %w", c.Target.Name, err)
	}
	named := func(info *pb.SourceInfo) *pb.SourceInfo {
		if info == nil {
			return nil
		}
		info = info.CloneVT()
		info.Filename = c.dockerfile
		return info
	}
	switch n := len(results.Warnings); {
	case n == 1:
		fmt.Fprintln(w, "Check complete, 1 warning has been found!")
	case n > 1:
		fmt.Fprintf(w, "Check complete, %d warnings have been found!\n", n)
	}
	if err := results.PrintTo(w, named); err != nil {
		return fmt.Errorf("lint of target %s: %w", c.Target.Name, err)
	}
	if results.Error == nil {
		if len(results.Warnings) == 0 {
			fmt.Fprintln(w, "Check complete, no warnings found.")
		}
		return nil
	}
	if len(results.Warnings) > 0 {
		fmt.Fprintln(w)
	}
	if int(results.Error.Location.SourceIndex) >= len(results.Sources) {
		return errors.New(results.Error.Message)
	}
	var text strings.Builder
	results.PrintErrorTo(&text, named)
	return errors.New(text.String())
}
