package frontend

import (
	"context"
	"strconv"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/util/gitutil"

	"github.com/dbake/dbake/compiler/ir"
)

// capGitQuery is asked of a frontend that is given a git URL with a query.
const capGitQuery = "moby.buildkit.frontend.gitquerystring"

// gitQueries settles contexts that are git URLs with a query, which not every frontend
// reads: one that does not is not asked to, or, with [Options.GitQueryAsInput], is
// given the repository instead of the URL.
func (c *compilation) gitQueries(ctx context.Context, in *inputs) error {
	for _, attr := range ir.SortedKeys(in.attrs) {
		main := attr == recordedContext
		if !main && !strings.HasPrefix(attr, "context:") {
			continue
		}
		url := in.attrs[attr]
		if _, git, err := dfgitutil.ParseGitRef(url); err != nil || !git {
			continue
		}
		if ref, err := gitutil.ParseURL(url); err != nil || len(ref.Query) == 0 {
			continue
		}
		if !c.GitQueryAsInput {
			need := capGitQuery
			if !main {
				need += "+forward"
			}
			in.needCap(need)
			continue
		}
		where := "context"
		var keep *bool
		if main {
			if v, err := strconv.ParseBool(in.attrs["build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR"]); err == nil {
				keep = &v
			}
		} else {
			where = "contexts." + strings.TrimPrefix(attr, "context:")
		}
		var opts []llb.GitOption
		if advice, _ := strconv.ParseBool(in.attrs["build-arg:BUILDKIT_GIT_ADVICE"]); advice {
			opts = append(opts, llb.GitAdvice(true))
		}
		st, ok, err := dockerui.DetectGitContext(url, keep, opts...)
		if err != nil {
			return in.at(where, err, "%s: %v", url, err)
		}
		if !ok {
			continue
		}
		def, err := st.Marshal(ctx, llb.Platform(c.NodePlatform))
		if err != nil {
			return in.at(where, err, "%s: %v", url, err)
		}
		in.attrs["input:"+attr] = url
		if !main {
			name := "git_state_" + attr
			in.attrs[attr], in.defs[name] = "input:"+name, def.ToPB()
			continue
		}
		delete(in.attrs, attr)
		in.defs[recordedContext] = def.ToPB()
		if in.dockerfileRoot == url {
			in.defs[recordedDockerfile] = in.defs[recordedContext]
		}
	}
	return nil
}

// needCap adds something that the frontend must be able to do.
func (in *inputs) needCap(name string) {
	const key = "frontend.caps"
	caps := map[string]bool{name: true}
	for _, have := range strings.Split(in.attrs[key], ",") {
		if have != "" {
			caps[have] = true
		}
	}
	in.attrs[key] = strings.Join(ir.SortedKeys(caps), ",")
}
