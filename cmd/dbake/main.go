// Command dbake builds many container images over several BuildKit nodes from
// Docker Bake files: "dbake plan" says which node builds what, at what cost and
// why; "dbake build" does it; "dbake cluster" keeps local nodes running; "dbake
// history" carries what steps cost from machine to machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	clog "github.com/containerd/log"

	_ "github.com/dbake/dbake/cmd/dbake/internal/quietstart"
	"github.com/dbake/dbake/cmd/dbake/internal/view"
	"github.com/dbake/dbake/internal/dockerconfig"
	"github.com/dbake/dbake/runtime/fault"
)

func main() {
	if status, first := initStatus(); first {
		os.Exit(status)
	}
	trustRoots(os.Getenv)
	// Libraries log things such as connections that end; where these matter, they are in
	// our errors.
	log.SetOutput(io.Discard)
	clog.L.Logger.SetOutput(io.Discard)
	// A pipe without a reader is an error of the write, and must not end the process:
	// builds on nodes are to be ended in order.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	env := map[string]string{}
	for _, kv := range os.Environ() {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, env: env}
	args, err := os.Args[1:], error(nil)
	if len(args) > 0 && args[0] == forwardCommand {
		var status int
		if args, a.image, status, err = forward(args[1:], env, a.stdin); args == nil && err == nil {
			os.Exit(status)
		}
		a.buildx = args != nil
	} else {
		args, err = pluginArgs(os.Args[0], args, env)
	}
	if err == nil {
		a.dir, err = os.Getwd()
	}
	if err != nil {
		_ = a.showProgress(args) // this error is the one to report
		os.Exit(a.showError(err))
	}
	for _, name := range dockerVars {
		shareVar(name, env) // with the programs that are started
	}
	if self, err := os.Executable(); err == nil {
		a.supervisor = []string{self, "supervise"}
	}
	os.Exit(run(args, a))
}

// shareVar sets a variable of this process to its value in env.
func shareVar(name string, env map[string]string) {
	value, ok := env[name]
	if ok {
		_ = os.Setenv(name, value) // fails for names that are none
		return
	}
	_ = os.Unsetenv(name) // as above
}

// showError shows an error before a command runs and returns the exit status.
func (a *app) showError(err error) int {
	a.progress.Error(err, false)
	var usage usageError
	if errors.As(err, &usage) {
		return 2
	}
	return 1
}

// app is the world a command runs in: tests give it another one.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	dir            string            // the absolute working directory
	env            map[string]string // the environment; nothing reads another

	// supervisor is the command line of the process that owns shared local nodes. Only
	// main sets it, as only dbake itself understands it: a test binary would run its
	// tests once more. Without it local nodes are this process's own.
	supervisor []string

	// buildx is set for callers of docker buildx, which expect its errors and exit status.
	buildx bool
	// image is the call of docker buildx build to be answered, nil for none.
	image *imageCall
	mode  string // of the progress

	config *dockerconfig.Config // nil until it is needed; see docker

	args  []string // the command line, without the name of the command
	debug bool
	// progress shows everything on stderr.
	progress view.Progress
}

// docker returns the Docker configuration of the command.
func (a *app) docker() *dockerconfig.Config {
	if a.config == nil {
		a.config = dockerconfig.New(a.env, func(err error) {
			a.progress.Warn(fmt.Sprintf("the Docker configuration cannot be used, so registries are asked without credentials and steps get none of its proxies: %v", err))
		})
	}
	return a.config
}

// cli is the command line. Help text is the manual: every flag says what it does
// in one sentence.
type cli struct {
	Debug bool `short:"D" help:"Show the whole chain of causes of an error."`

	Build   buildCmd   `cmd:"" aliases:"bake,f" help:"Build targets over the nodes."`
	Plan    planCmd    `cmd:"" help:"Show which node would build what, at what cost and why, without building."`
	Cluster clusterCmd `cmd:"" help:"Keep BuildKit nodes and a registry running on this machine."`
	Warm    warmCmd    `cmd:"" help:"Build what targets share on every node, and write nothing: for new nodes and machine images."`
	Explain explainCmd `cmd:"" help:"Explain why the steps of a target ran in the last build, or, with --key, show what goes into its image."`
	History historyCmd `cmd:"" help:"Export and import what steps cost, to carry it between machines."`
	Cache   cacheCmd   `cmd:"" help:"List, prune and merge the caches of a repository."`
	Log     logCmd     `cmd:"" help:"Show what earlier builds did: no node is needed."`
	Trace   traceCmd   `cmd:"" help:"Write what a build did as a trace for other tools, or as a page."`
	State   stateCmd   `cmd:"" help:"List and delete what dbake keeps on this machine."`

	Nodes       nodesCmd       `cmd:"" help:"Show the nodes that a build would use: what they are, what they hold, and why one cannot be used."`
	InstallShim installShimCmd `cmd:"" help:"Make docker build, docker buildx bake and their callers build with dbake."`

	Completion completionCmd `cmd:"" help:"Print the script that completes the command line in a shell."`
	Version    versionCmd    `cmd:"" help:"Show the version, and those of BuildKit and of the Dockerfile frontend."`

	Reference referenceCmd `cmd:"" hidden:"" help:"Write the manual."`
	Supervise superviseCmd `cmd:"" hidden:"" help:"Run the local nodes of all commands that use them."`
}

const description = `Builds many container images over several BuildKit nodes, from the same files and with the same flags as "docker buildx bake".

"dbake [FLAGS] [TARGET...]" is "dbake build [FLAGS] [TARGET...]": "dbake build --help" shows its flags. As a plugin, docker runs it by "docker dbake".

Exit status: 0 done, 1 something failed, 2 the command line is wrong, 130 interrupted; with --call, the status of the check.`

// usageError is a problem of the command line itself.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// exitError ends the command with a status of its own; its message has been shown.
type exitError struct{ status int }

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", e.status) }

// errInterrupted is the cause of a context that ended by a signal.
var errInterrupted = errors.New("interrupted")

// run executes one command and returns its exit status.
func run(args []string, a *app) (status int) {
	if err := a.showProgress(args); err != nil && !asks(args) {
		a.progress.Error(err, false)
		return 2
	}
	var c cli
	exited := -1
	parser, err := newParser(c.grammar(args), a.stdout, a.stderr, func(code int) { exited = code })
	if err != nil {
		a.progress.Error(err, false)
		return 1
	}
	if asks(args) {
		if err := a.answerShell(parser.Model.Node, args); err != nil {
			return a.showError(err)
		}
		return 0
	}
	args = withCommand(parser.Model.Node, args)
	line, err := flagsFirst(parser.Model.Node, args)
	var kctx *kong.Context
	if err == nil {
		kctx, err = parser.Parse(line.args)
	}
	if exited >= 0 { // --help
		return exited
	}
	if err != nil {
		return a.showEnd(context.Background(), usageError{fmt.Errorf("%w (see %s --help)", err, line.command)})
	}

	line.lists.set()
	a.args, a.debug = args, c.Debug
	ctx, stop := a.interruptible()
	defer stop()
	return a.showEnd(ctx, kctx.Run(a, contextBinding{ctx}))
}

// showEnd shows how a command has ended and returns its exit status.
func (a *app) showEnd(ctx context.Context, err error) int {
	var exit exitError
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.status
	case errors.Is(context.Cause(ctx), errInterrupted):
		a.progress.Error(errInterrupted, false)
		return 130
	case readerGone(err):
		return 128 + int(syscall.SIGPIPE) // as if it had ended the process
	case errors.As(err, &usage) && !a.buildx:
		a.progress.Error(err, a.debug)
		return 2
	}
	a.progress.Error(err, a.debug)
	if a.buildx && a.mode == view.ModeRawJSON {
		// A program that runs docker buildx bake takes lines that are not JSON for the
		// error.
		fmt.Fprintf(a.stderr, "ERROR: %v\n", err)
	}
	return 1
}

// grammar returns what a parser of args reads into: c, or, where args begin with the name of
// a command, c without the other commands. To describe all takes as long as a small plan.
func (c *cli) grammar(args []string) any {
	if len(args) == 0 {
		return c
	}
	var fields []reflect.StructField
	found := false
	for f := range reflect.TypeFor[cli]().Fields() {
		if _, command := f.Tag.Lookup("cmd"); command {
			names := append(strings.Split(f.Tag.Get("aliases"), ","), strings.ToLower(f.Name))
			if slices.Contains(names, args[0]) {
				found = true
			} else {
				f.Tag = `kong:"-"`
			}
		}
		fields = append(fields, f)
	}
	if !found {
		return c
	}
	return reflect.ValueOf(c).Convert(reflect.PointerTo(reflect.StructOf(fields))).Interface() // but for its tags it is the same type
}

// newParser returns the parser that reads the command line into c, see [cli.grammar]. exit
// is called by --help.
func newParser(c any, stdout, stderr io.Writer, exit func(int)) (*kong.Kong, error) {
	return kong.New(c,
		kong.Name("dbake"), kong.Description(description),
		kong.Writers(stdout, stderr),
		kong.Exit(exit),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.Vars{"strategies": strategyNames(), "repository": repoHelp, "modes": view.ModeList()},
		kong.KindMapper(reflect.Bool, boolMapper{}),
	)
}

// envProgress replaces --progress=auto, as with docker buildx.
const envProgress = "BUILDKIT_PROGRESS"

// showProgress chooses how progress is shown, before the command line is judged: errors
// about it are already shown in that way.
func (a *app) showProgress(args []string) error {
	mode := view.ModeAuto
	for i, arg := range args {
		if arg == "--" {
			break
		}
		if value, ok := strings.CutPrefix(arg, "--progress="); ok {
			mode = value
		} else if arg == "--progress" && i+1 < len(args) {
			mode = args[i+1]
		}
	}
	from := ""
	if env := a.env[envProgress]; env != "" && mode == view.ModeAuto {
		mode, from = env, "$"+envProgress+": "
	}
	var err error
	a.mode = mode
	if a.progress, err = view.New(a.stderr, view.Options{Mode: mode, Keys: a.stdin, Env: a.env, Dir: a.dir}); err != nil {
		err = fmt.Errorf("%s%w", from, err)
		a.progress, _ = view.New(a.stderr, view.Options{Mode: view.ModePlain, Env: a.env, Dir: a.dir}) // is always there
	}
	return err
}

// readerGone reports whether err says that nobody reads what the command prints any
// more, as in "dbake build --print | head". An image that was to go there is another
// matter.
func readerGone(err error) bool {
	var output *fault.OutputError
	var path *fs.PathError
	return errors.Is(err, syscall.EPIPE) && !errors.As(err, &output) && errors.As(err, &path) && path.Path == os.Stdout.Name()
}

// contextBinding lets kong pass the context to a command's Run.
type contextBinding struct{ context.Context }

const (
	// interruptGrace is how long an interrupted command may take to stop its builds. Local
	// nodes end with the process, others with their connection.
	interruptGrace = 4500 * time.Millisecond
	// partingGrace is how long the last line may take to be read.
	partingGrace = 300 * time.Millisecond
)

// interruptible returns a context that ends at the first interrupt, or when the docker command
// that runs this as a plugin is to stop. The second one ends the process at once, and so does
// interruptGrace.
func (a *app) interruptible() (context.Context, func()) {
	hangup, release := hangups(a.env)
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	// Both the system and the shell report a closed terminal: the second report is no
	// demand to hurry. Under nohup neither counts.
	gone := make(chan os.Signal, 1)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(gone, syscall.SIGHUP)
	}
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var saying sync.WaitGroup
		defer saying.Wait() // not for long: after Interrupt no line waits for ever
		select {
		case <-signals:
		case <-gone:
		case <-hangup:
		case <-done:
			return
		}
		cancel(errInterrupted)
		a.progress.Interrupt()
		// A line that nobody reads holds up neither the clock nor the next signal.
		saying.Go(func() { a.progress.Note("stopping; interrupt again to quit at once") })
		late := time.NewTimer(interruptGrace)
		defer late.Stop()
		select {
		case <-signals:
			os.Exit(130)
		case <-late.C:
			said := make(chan struct{})
			go func() {
				defer close(said)
				a.progress.Note("quitting: not all could be ended in time")
			}()
			select {
			case <-said:
			case <-time.After(partingGrace):
			}
			os.Exit(130)
		case <-done:
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		signal.Stop(gone)
		close(done)
		<-ended
		release()
		cancel(nil)
	}
}
