package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/dbake/dbake/internal/dockerconfig"
	"github.com/dbake/dbake/internal/localfile"
	"github.com/dbake/dbake/runtime/nodeset"
)

const (
	buildxName = "buildx"
	buildxFile = "docker-" + buildxName
	// asideFile is the name that install-shim gives to a docker-buildx in the place of the
	// shim. It is not the name of a plugin, so docker does not see it.
	asideFile = "dbake-real-buildx"
	// shimMark is in every shim: a file without it is not ours to replace or remove.
	shimMark = "# Written by dbake install-shim."
	// forwardCommand is what a shim calls: dbake forward-buildx REAL [FLAG...] -- ARG...
	forwardCommand = "forward-buildx"
)

type installShimCmd struct {
	Dir string `arg:"" help:"Where docker looks for plugins before it finds the real docker-buildx, such as ~/.docker/cli-plugins."`

	Buildx        string   `placeholder:"FILE" help:"The real docker-buildx (default: what docker would find; one that is in DIR already is kept there under another name)."`
	Nodes         []string `sep:"none" placeholder:"ADDR" help:"Nodes to build on when a command names no builder, as of build. Repeatable."`
	CacheRegistry []string `sep:"none" placeholder:"REF" help:"Repository through which the nodes share results, as of build. Repeatable."`
	StateDir      string   `placeholder:"DIR" help:"Where local nodes keep their state, as of build."`
	Buildkitd     string   `placeholder:"FILE" help:"The buildkitd of local nodes, as of build."`
	Remove        bool     `help:"Remove the shim from DIR, and put the real docker-buildx back that was there."`
}

// Run writes the shim.
func (c *installShimCmd) Run(a *app) error {
	dir := a.path(c.Dir)
	shim := filepath.Join(dir, buildxFile)
	if c.Remove {
		return c.remove(a, shim)
	}
	flags, err := c.flags(a)
	if err != nil {
		return usageError{err}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	real, aside, err := c.realBuildx(a, shim)
	if err != nil {
		return err
	}
	if aside {
		if err := os.Rename(shim, real); err != nil {
			return fmt.Errorf("keep the real docker-buildx: %w", err)
		}
	}
	if err := localfile.Write(context.Background(), shim, []byte(shimScript(self, real, flags)), nil); err != nil {
		return fmt.Errorf("write the shim: %w", err)
	}
	if err := os.Chmod(shim, 0o755); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "%s: docker buildx bake and build are dbake, everything else is %s\n", shim, real)
	return err
}

// flags returns what the shim adds to every build, with names of files that hold in every
// directory.
func (c *installShimCmd) flags(a *app) ([]string, error) {
	var flags []string
	if len(c.Nodes) > 0 {
		if _, err := nodeset.Parse(c.Nodes); err != nil {
			return nil, err
		}
	}
	for _, n := range c.Nodes {
		flags = append(flags, "--nodes="+n)
	}
	if _, err := (&planFlags{CacheRegistry: c.CacheRegistry}).cacheStores(); err != nil {
		return nil, err
	}
	for _, r := range c.CacheRegistry {
		flags = append(flags, "--cache-registry="+r)
	}
	if c.StateDir != "" {
		flags = append(flags, "--state-dir="+a.path(c.StateDir))
	}
	if c.Buildkitd != "" {
		flags = append(flags, "--buildkitd="+a.path(c.Buildkitd))
	}
	return flags, nil
}

// shimScript returns the shim. It is a script: commands of others do not start dbake. Whether a
// word is the name of a command is for dbake to find out.
func shimScript(self, real string, flags []string) string {
	quoted := quote(self) + " " + forwardCommand + " " + quote(real)
	for _, f := range flags {
		quoted += " " + quote(f)
	}
	return `#!/bin/sh
` + shimMark + ` "bake" and "build" go to dbake, everything else to the real docker-buildx.
if [ -x ` + quote(self) + ` ]; then
	for word do
		case $word in bake | f | build | b) exec ` + quoted + ` -- "$@" ;; esac
	done
fi
exec ` + quote(real) + ` "$@"
`
}

// quote writes s as one word of a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// realBuildx returns the docker-buildx that runs all other commands. aside is the name to
// rename it to when it is in the place of the shim.
func (c *installShimCmd) realBuildx(a *app, shim string) (real string, aside bool, err error) {
	kept := filepath.Join(filepath.Dir(shim), asideFile)
	if c.Buildx != "" {
		real = a.path(c.Buildx)
		if mine, err := isShim(real); err != nil || mine {
			return "", false, errors.Join(err, fmt.Errorf("%s is a shim itself; name the real docker-buildx", real))
		}
		if same(real, shim) {
			return kept, true, nil
		}
		if mine, err := isShim(shim); err == nil && !mine {
			return "", false, fmt.Errorf("%s is not a shim and would be lost: move it away, or leave --buildx out to keep it", shim)
		}
		return real, false, nil
	}
	if mine, err := isShim(shim); err == nil && !mine {
		return kept, true, nil
	}
	if _, err := os.Stat(kept); err == nil {
		return kept, false, nil
	}
	for _, dir := range pluginDirs(a.docker()) {
		found := filepath.Join(dir, buildxFile)
		if info, err := os.Stat(found); err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			continue
		}
		if mine, err := isShim(found); err == nil && !mine {
			return found, false, nil
		}
	}
	return "", false, fmt.Errorf("there is no docker-buildx where docker looks for plugins (%s): name the real one with --buildx", strings.Join(pluginDirs(a.docker()), ", "))
}

// pluginDirs returns where docker looks for plugins, in its order.
func pluginDirs(config *dockerconfig.Config) []string {
	return append(config.PluginDirs(), "/usr/local/lib/docker/cli-plugins", "/usr/local/libexec/docker/cli-plugins", "/usr/lib/docker/cli-plugins", "/usr/libexec/docker/cli-plugins")
}

// isShim reports whether a file is a shim of ours.
func isShim(name string) (bool, error) {
	f, err := os.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	head, err := io.ReadAll(io.LimitReader(f, 1024))
	return bytes.Contains(head, []byte(shimMark)), err
}

func same(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// remove removes a shim and restores the program that was in its place.
func (c *installShimCmd) remove(a *app, shim string) error {
	switch mine, err := isShim(shim); {
	case errors.Is(err, fs.ErrNotExist):
		a.progress.Note("there is no shim in " + filepath.Dir(shim))
		return nil
	case err != nil:
		return err
	case !mine:
		return fmt.Errorf("%s is not a shim of dbake: it is left alone", shim)
	}
	kept := filepath.Join(filepath.Dir(shim), asideFile)
	err := os.Rename(kept, shim)
	if errors.Is(err, fs.ErrNotExist) {
		return os.Remove(shim)
	}
	return err
}

// translate returns the command line of dbake for a docker-buildx that is called with args,
// and applies the flags of docker to env. flags are those of install-shim. image holds the
// rest of a call of "build". It returns errForeign when the real docker-buildx is meant.
func translate(flags, args []string, env map[string]string) (command []string, image *imageCall, err error) {
	var g dockerFlags
	rest, err := g.parse(args)
	if err != nil || len(rest) == 0 || rest[0] != buildxName {
		g, rest = dockerFlags{}, args // called by itself, as compose does
	} else {
		rest = rest[1:]
	}
	set := pflag.NewFlagSet(buildxName, pflag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.SetInterspersed(false)
	builder := set.String("builder", "", "")
	debug := set.BoolP("debug", "D", false, "")
	if err := set.Parse(rest); err != nil {
		return nil, nil, errForeign // for the real one to say
	}
	if rest = set.Args(); len(rest) == 0 {
		return nil, nil, errForeign
	}
	switch rest[0] {
	case "bake", "f":
		rest = append([]string{"build"}, rest[1:]...)
	case "build", "b":
		if image, err = newImageCall(rest[1:], env); err != nil {
			return nil, nil, err
		}
		rest = image.command
	default:
		return nil, nil, errForeign
	}
	// docker build names the builder of its context in this way.
	named := namedBuilder(rest, *builder)
	if named == "" && image != nil {
		named = env[envBuilder]
	}
	if err := g.apply(env); err != nil {
		return nil, nil, err
	}
	onNodes := func(f string) bool { return strings.HasPrefix(f, "--nodes=") }
	if (named != "" || !slices.ContainsFunc(flags, onNodes)) && nodeset.Foreign(named, dockerconfig.New(env, nil)) {
		return nil, nil, errForeign
	}
	if *debug || g.debug || g.logLevel == "debug" {
		command = append(command, "--debug")
	}
	command = append(command, "build")
	if *builder != "" {
		command = append(command, "--builder="+*builder)
	}
	for _, f := range flags {
		// The nodes of the shim are those of commands that name no builder.
		if !onNodes(f) || named == "" {
			command = append(command, f)
		}
	}
	return append(command, rest[1:]...), image, nil
}

// envBuilder names the builder of commands that name none.
const envBuilder = "BUILDX_BUILDER"

// namedBuilder returns the builder that the arguments of bake name, or those of docker buildx
// before them; "" is none.
func namedBuilder(args []string, before string) string {
	for i, arg := range args {
		if arg == "--" {
			break
		}
		if value, ok := strings.CutPrefix(arg, "--builder="); ok {
			return value
		}
		if arg == "--builder" && i+1 < len(args) {
			return args[i+1]
		}
	}
	return before
}

// forward handles a call of a shim: it returns the command line of dbake, with the rest of
// a call of "build", or runs the real docker-buildx and returns its exit status, with no
// command.
func forward(args []string, env map[string]string, stdin io.Reader) (command []string, image *imageCall, status int, err error) {
	end := slices.Index(args, "--")
	if end < 1 {
		return nil, nil, 2, usageError{errors.New("this command is for the shim that install-shim writes")}
	}
	real, flags, rest := args[0], args[1:end], args[end+1:]
	command, image, err = translate(flags, rest, env)
	if errors.Is(err, errForeign) {
		return nil, nil, runProgram(real, rest), nil
	}
	if err == nil && image != nil {
		err = image.readDockerfile(stdin)
	}
	return command, image, 0, err
}

// stopping bounds how long a program may take to stop.
const stopping = 10 * time.Second

// runProgram runs a program in place of this one and returns its exit status.
func runProgram(name string, args []string) int {
	replaceProcess(name, args) // returns where a process cannot be replaced
	cmd := exec.Command(name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.WaitDelay = stopping
	if err := cmd.Run(); cmd.ProcessState == nil {
		fmt.Fprintf(os.Stderr, "ERROR: %v\n", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}
