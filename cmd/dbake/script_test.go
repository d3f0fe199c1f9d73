package main

import (
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "rewrite the expected output in testdata/script")

// lastStatus is the key of the exit status of the last dbake of a script.
type lastStatus struct{}

// TestScript runs the archives of testdata/script. Beside what testscript knows,
// a script has the commands
//
//	dbake [NAME=VALUE...] ARG...   run dbake with nothing but this environment
//	status N                       the last dbake must have ended with N
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
			return os.Mkdir(filepath.Join(e.WorkDir, "home"), 0o755)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"dbake":  dbakeCommand,
			"status": statusCommand,
		},
	})
}

func dbakeCommand(ts *testscript.TestScript, neg bool, args []string) {
	a := &app{
		stdin: strings.NewReader(""), stdout: ts.Stdout(), stderr: ts.Stderr(),
		dir: ts.MkAbs("."),
		env: map[string]string{"HOME": ts.MkAbs(filepath.Join(ts.Getenv("WORK"), "home"))},
	}
	for len(args) > 0 {
		name, value, ok := strings.Cut(args[0], "=")
		if !ok || strings.ToUpper(name) != name {
			break
		}
		a.env[name] = value
		args = args[1:]
	}
	status := run(args, a)
	*ts.Value(lastStatus{}).(*int) = status
	if (status != 0) != neg {
		ts.Fatalf("dbake ended with status %d", status)
	}
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
