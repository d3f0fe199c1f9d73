package main

import (
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/dbake/dbake/internal/engine"
	"github.com/dbake/dbake/internal/memory"
	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/internal/plan"
)

var update = flag.Bool("update", false, "rewrite the expected output in testdata/script")

// lastStatus is the key of the exit status of the last dbake of a script.
type lastStatus struct{}

// TestScript runs the archives of testdata/script. Beside what testscript knows,
// a script has the commands
//
//	dbake [NAME=VALUE...] ARG...   run dbake with nothing but this environment
//	status N                       the last dbake must have ended with N
//	measure HOME SECONDS           note in the history of HOME that each step of the
//	                               default targets took that long
//
// A dbake that may end with another status than 0 is written "! dbake". $WORK/home
// is the home directory; there is no network and no daemon.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Values[lastStatus{}] = new(int)
			return os.MkdirAll(filepath.Join(e.WorkDir, "home"), 0o755)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"dbake":   dbakeCommand,
			"status":  statusCommand,
			"measure": measureCommand,
		},
	})
}

func dbakeCommand(ts *testscript.TestScript, neg bool, args []string) {
	var stdout, stderr strings.Builder
	a := &app{
		stdin: strings.NewReader(""), stdout: io.MultiWriter(ts.Stdout(), &stdout), stderr: io.MultiWriter(ts.Stderr(), &stderr),
		dir: ts.MkAbs("."),
		// A Docker engine of this machine is none of theirs.
		env: map[string]string{"HOME": ts.MkAbs(filepath.Join(ts.Getenv("WORK"), "home")), "DOCKER_HOST": "unix://" + ts.MkAbs("no-docker.sock")},
	}
	for len(args) > 0 {
		name, value, ok := strings.Cut(args[0], "=")
		if !ok || strings.ToUpper(name) != name {
			break
		}
		a.env[name] = value
		args = args[1:]
	}
	began := time.Now()
	status := run(args, a)
	*ts.Value(lastStatus{}).(*int) = status
	ts.Check(checkDocuments(a.dir, args, began, status, stdout.String(), stderr.String()))
	if (status != 0) != neg {
		ts.Fatalf("dbake ended with status %d", status)
	}
}

// measureCommand does what a build does when it has ended.
func measureCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: measure HOME SECONDS")
	}
	took, err := time.ParseDuration(args[1] + "s")
	ts.Check(err)
	a := &app{stdin: strings.NewReader(""), stdout: ts.Stdout(), stderr: ts.Stderr(), dir: ts.MkAbs("."), env: map[string]string{"HOME": ts.MkAbs(args[0])}}
	ts.Check(a.showProgress(nil))
	ctx := context.Background()
	session := a.engine().Open(engine.Request{Definition: (&definitionFlags{}).options(a), History: cost.InMemory, Nodes: engine.Nodes{Late: true}})
	defer func() { ts.Check(session.Close()) }()
	ts.Check(session.Through(ctx, engine.Prepare))
	build := session.Build()
	history, err := memory.New(a.env, a.progress.Warn).History("")
	ts.Check(err)
	var list []plan.Measurement
	for _, v := range build.Graph.Vertices {
		if v.Kind.IsStep() {
			list = append(list, plan.Measurement{Node: "tcp://a:1234", Vertex: v.Digest, Took: took})
		}
	}
	build.Record(history, list, nil, nil, time.Now())
	ts.Check(history.Close())
}

func statusCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: status N")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if got := *ts.Value(lastStatus{}).(*int); got != want {
		ts.Fatalf("dbake ended with status %d, not %d", got, want)
	}
}
