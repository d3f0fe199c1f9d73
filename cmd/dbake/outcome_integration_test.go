//go:build integration

package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What is left behind by a build on two nodes in which one target fails: the logs of
// all, the summary, the page of the job, and what a CI service reads.
func TestOutcome(t *testing.T) {
	w := newWorld(t, 2)
	dir := bakeDir(t, `
group "default" { targets = ["base", "api", "bad", "web"] }
target "base" {
  dockerfile-inline = <<EOT
FROM busybox:1
RUN echo shared
EOT
}
target "api" {
  contexts = { base = "target:base" }
  dockerfile-inline = "FROM base\nRUN echo api https://user:secret@example.com/"
}
target "web" {
  contexts = { base = "target:base" }
  dockerfile-inline = "FROM base\nRUN printf '::error::forged\\n##[error]forged\\n'"
}
target "bad" {
  dockerfile-inline = "FROM busybox:1\nRUN for i in $(seq 40); do echo line $i; done; exit 3"
}
`)
	build := func(env []string, args ...string) result {
		return remoteRun(t, w, dir, env, append(append([]string{"build", "-k", "--no-cache"}, w.on(2)...), args...)...)
	}
	t.Run("logs", func(t *testing.T) {
		tmp := t.TempDir()
		r := build([]string{"TMPDIR=" + tmp}, "--progress", "plain", "--summary-json", "summary.json")
		require.Equal(t, 1, r.status)
		logs := filepath.Join(tmp, "dbake-logs")
		require.Contains(t, r.stderr, "log of bad: "+logs+"/bad.log\nlogs of the targets: "+logs+"\n")
		bad := read(t, filepath.Join(logs, "bad.log"))
		for _, text := range []string{" line 1\n", " line 40\n", "exit code: 3", "bad failed\n"} {
			require.Contains(t, bad, text)
		}
		api := read(t, filepath.Join(logs, "api.log"))
		require.Contains(t, api, "xxxxx@example.com/")
		require.NotContains(t, api, "secret")
		require.Regexp(t, `api was built on n[12]\n`, api)
		require.NotContains(t, api, "line 1\n", "the log of another target")
		require.Regexp(t, ` shared\n`, read(t, filepath.Join(logs, "base.log")))

		var doc struct {
			Version int
			State   string
			Logs    string
			Built   int
			Errors  []struct {
				Targets []string
				Message string
				Source  struct{ Line int }
			}
			Targets []struct{ Name, State, Log string }
			Nodes   []struct{ Name string }
		}
		require.NoError(t, json.Unmarshal([]byte(read(t, filepath.Join(dir, "summary.json"))), &doc))
		require.Equal(t, 1, doc.Version)
		require.Equal(t, "failed", doc.State)
		require.Equal(t, 3, doc.Built)
		require.Equal(t, logs, doc.Logs)
		require.Len(t, doc.Nodes, 2)
		require.Equal(t, []string{"bad"}, doc.Errors[0].Targets)
		require.Equal(t, 2, doc.Errors[0].Source.Line)
		for _, target := range doc.Targets {
			require.Equal(t, filepath.Join(logs, target.Name+".log"), target.Log)
		}
	})

	t.Run("log-dir", func(t *testing.T) {
		tmp := t.TempDir()
		r := build([]string{"TMPDIR=" + tmp}, "--log-dir", "made/logs", "api")
		require.Zero(t, r.status, r.stderr)
		require.Contains(t, read(t, filepath.Join(dir, "made", "logs", "api.log")), "RUN echo api")
		require.NoDirExists(t, filepath.Join(tmp, "dbake-logs"))

		r = build([]string{"TMPDIR=" + tmp}, "--log-dir", "none", "api")
		require.Zero(t, r.status, r.stderr)
		require.NotContains(t, r.stderr, "logs of the targets")
		require.NoDirExists(t, filepath.Join(tmp, "dbake-logs"))

		r = build(nil, "--log-dir", "docker-bake.hcl", "api")
		require.Equal(t, 1, r.status)
		require.Contains(t, r.stderr, "ERROR: --log-dir: logs of targets: ")

		// Where no logs can be kept that nobody asked for, the build goes on.
		r = build([]string{"TMPDIR=" + filepath.Join(dir, "docker-bake.hcl")}, "--progress", "plain", "api")
		if r.status == 0 {
			require.Contains(t, r.stderr, "WARNING: cannot write the logs of targets: ")
		}
	})

	t.Run("github", func(t *testing.T) {
		page := filepath.Join(t.TempDir(), "page.md")
		r := build([]string{"GITHUB_ACTIONS=true", "GITHUB_WORKSPACE=" + dir, "GITHUB_STEP_SUMMARY=" + page, "TMPDIR=" + t.TempDir()})
		require.Equal(t, 1, r.status)
		require.Regexp(t, `(?m)^::group::n[12] \[api \d/2\] RUN echo api .* DONE `, r.stderr)
		require.Regexp(t, `(?m)^::error file=bad dockerfile-inline,line=2,col=1,title=target bad::`, r.stderr)
		require.NotContains(t, r.stderr, "##[")
		require.NotRegexp(t, `(?m)^\s*::error::forged`, r.stderr)
		require.Equal(t, strings.Count(r.stderr, "::group::"), strings.Count(r.stderr, "::endgroup::"))
		require.Contains(t, r.stderr, "\nline 1\n", "of a step that failed all is shown")
		require.Contains(t, read(t, page), "| bad |")
	})

	t.Run("gitlab", func(t *testing.T) {
		r := build([]string{"GITLAB_CI=true", "TMPDIR=" + t.TempDir()}, "api")
		require.Zero(t, r.status)
		require.Regexp(t, `\x1b\[0Ksection_start:\d+:dbake_step_\d+\[collapsed=true\]\r\x1b\[0K`, r.stderr)
	})
}
