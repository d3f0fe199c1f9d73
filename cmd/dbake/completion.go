package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/dbake/dbake/cmd/dbake/internal/view"
	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/runtime/nodeset"
)

//go:embed completion.bash
var bashCompletion string

//go:embed completion.zsh
var zshCompletion string

//go:embed completion.fish
var fishCompletion string

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Run prints the script that completes the command line in a shell.
func (c *completionCmd) Run(a *app) error {
	_, err := io.WriteString(a.stdout, map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}[c.Shell])
	return err
}

// directive says how the shell is to treat completions. The bits are those of docker's
// completion library, since docker reads this output.
type directive int

const (
	noSpace  directive = 2  // the word goes on
	noFiles  directive = 4  // nothing but the completions
	onlyDirs directive = 16 // names of directories

	anyFile directive = 0
)

// completion is a word that may stand at the cursor.
type completion struct{ value, help string }

// completionTimeout bounds how long a definition may take to be read for a completion.
const completionTimeout = 2 * time.Second

// complete prints the completions of the last of args, one a line, and then the directive.
func complete(a *app, root *kong.Node, args []string) error {
	if len(args) == 0 {
		args = []string{""}
	}
	ctx, cancel := context.WithTimeout(context.Background(), completionTimeout)
	defer cancel()
	list, d := (&completer{app: a, root: root}).at(ctx, args[:len(args)-1], args[len(args)-1])
	var b strings.Builder
	for _, c := range list {
		if c.help == "" {
			fmt.Fprintln(&b, c.value)
			continue
		}
		fmt.Fprintf(&b, "%s\t%s\n", c.value, c.help)
	}
	fmt.Fprintf(&b, ":%d\n", d)
	_, err := io.WriteString(a.stdout, b.String())
	return err
}

// completer completes one command line.
type completer struct {
	app  *app
	root *kong.Node

	node    *kong.Node // the command
	given   definitionFlags
	names   []string // what is neither a flag nor a command
	started bool     // a command or a name was given
}

// at returns the completions of word after the words before.
func (c *completer) at(ctx context.Context, before []string, word string) ([]completion, directive) {
	waiting := c.read(before)
	switch {
	case waiting != nil:
		return c.values(ctx, waiting, word)
	case strings.HasPrefix(word, "--") && strings.Contains(word, "="):
		name, value, _ := strings.Cut(word[2:], "=")
		if f := flagOf(c.flags(), func(f *kong.Flag) bool { return f.Name == name }); f != nil {
			return c.values(ctx, f, value)
		}
		return nil, noFiles
	case strings.HasPrefix(word, "-"):
		return c.flagNames(word), noFiles
	}
	var list []completion
	if !c.started || len(c.node.Children) > 0 {
		list = c.commands(word)
	}
	switch {
	case c.node == c.root && (len(c.names) > 0 || !c.started), c.takesTargets():
		targets := c.targets(ctx, word)
		list = append(list, targets...)
		if len(list) == 0 && c.node.Name == "build" {
			return nil, anyFile // of a plan
		}
		return list, noFiles
	case c.node.Name == "completion":
		for _, shell := range []string{"bash", "zsh", "fish"} {
			list = c.add(list, word, shell, "")
		}
	case len(c.node.Children) == 0 && len(c.node.Positional) > 0:
		return list, anyFile
	}
	return list, noFiles
}

// read parses the words before the cursor. It returns the flag whose value follows, nil
// when none does.
func (c *completer) read(before []string) (waiting *kong.Flag) {
	c.node = c.root
	for _, arg := range before {
		switch {
		case waiting != nil:
			c.note(waiting, arg)
			waiting = nil
		case len(arg) > 1 && arg[0] == '-':
			name, value, inline := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
			is := func(f *kong.Flag) bool { return f.Name == name }
			if arg[1] != '-' {
				if _, wants := plainFlag(c.flags(), arg); !wants {
					continue
				}
				short := []rune(arg)[len([]rune(arg))-1]
				is = func(f *kong.Flag) bool { return f.Short == short }
			}
			f := flagOf(c.flags(), is)
			switch {
			case f == nil || f.IsBool():
			case inline:
				c.note(f, value)
			default:
				waiting = f
			}
		case subcommand(c.node, arg) != nil && len(c.names) == 0:
			c.node, c.started = subcommand(c.node, arg), true
		default:
			c.names, c.started = append(c.names, arg), true
		}
	}
	return waiting
}

// flags returns the node with the flags that may stand at the cursor: those of the command,
// which is build when none is named.
func (c *completer) flags() *kong.Node {
	if c.node == c.root {
		return subcommand(c.root, "build")
	}
	return c.node
}

// note remembers the flags that choose the definition.
func (c *completer) note(f *kong.Flag, value string) {
	switch f.Name {
	case "file":
		c.given.File = append(c.given.File, value)
	case "var":
		c.given.Var = append(c.given.Var, value)
	case "profile":
		c.given.Profile = append(c.given.Profile, value)
	}
}

func (c *completer) takesTargets() bool {
	return slices.ContainsFunc(c.node.Positional, func(p *kong.Value) bool { return p.Name == "target" })
}

func (c *completer) add(list []completion, word, value, help string) []completion {
	if !strings.HasPrefix(value, word) {
		return list
	}
	first, _, _ := strings.Cut(strings.ReplaceAll(help, "\n", " "), ". ")
	return append(list, completion{value, strings.TrimSuffix(first, ".")})
}

func (c *completer) commands(word string) (list []completion) {
	for _, n := range c.node.Children {
		if n.Type == kong.CommandNode && !n.Hidden {
			list = c.add(list, word, n.Name, n.Help)
		}
	}
	return list
}

func (c *completer) flagNames(word string) (list []completion) {
	for _, group := range c.flags().AllFlags(true) {
		for _, f := range group {
			list = c.add(list, word, "--"+f.Name, f.Help)
		}
	}
	slices.SortFunc(list, func(a, b completion) int { return strings.Compare(a.value, b.value) })
	return list
}

// fixedValues are the values that flags may have, by flag; those that end in a sign go on.
var fixedValues = map[string][]string{
	"list":      {"targets", "variables", "type=targets,format=json", "type=variables,format=json"},
	"call":      {"check", "outline", "targets"},
	"strict":    {"off", "warn", "error"},
	"jobs":      {"fail-fast", "defer-output", "defer-error", "atomic"},
	"execution": {"fail-fast", "defer-output", "defer-error", "atomic"},
	"platform":  {"linux/amd64", "linux/arm64", "linux/arm/v7", "linux/386", "linux/ppc64le", "linux/riscv64", "linux/s390x"},
	"nodes":     {"local:", "tcp://", "unix://", "ssh://", "docker://", "docker-container://", "kube-pod://"},
	"allow":     {"network.host", "security.insecure", "device", "ssh", "fs=", "fs.read=", "fs.write=", "buildx.local.delete"},
}

// values returns what the value of a flag may be.
func (c *completer) values(ctx context.Context, f *kong.Flag, word string) (list []completion, d directive) {
	switch f.Name {
	case "progress":
		return c.among(word, view.Modes())
	case "builder":
		return c.among(word, nodeset.Builders(c.app.docker()))
	case "strategy", "compare":
		var names []string
		for _, s := range partition.Strategies() {
			names = append(names, s.Name())
		}
		if f.Name == "compare" {
			names = append(names, "all")
		}
		return c.among(word, names)
	case "explain", "exclude":
		return c.targets(ctx, word), noFiles
	case "set":
		for _, t := range c.targets(ctx, word) {
			list = append(list, completion{t.value + ".", t.help})
		}
		return list, noFiles | noSpace
	case "var":
		for _, v := range c.list(ctx, "variables") {
			list = c.add(list, word, v.Name+"=", v.Description)
		}
		return list, noFiles | noSpace
	case "profile":
		return nil, noFiles
	}
	return c.declaredValues(f, word)
}

// declaredValues returns the values that a flag's own declaration allows.
func (c *completer) declaredValues(f *kong.Flag, word string) (list []completion, d directive) {
	switch f.Name {
	case "file", "output", "history", "metadata-file", "summary-json", "buildkitd":
		return nil, anyFile
	}
	switch {
	case fixedValues[f.Name] != nil:
		return c.among(word, fixedValues[f.Name])
	case f.Enum != "":
		return c.among(word, strings.Split(f.Enum, ","))
	case f.PlaceHolder == "DIR":
		return nil, onlyDirs
	case f.PlaceHolder == "FILE":
		return nil, anyFile
	}
	return nil, noFiles
}

// among completes a word to one of several values.
func (c *completer) among(word string, values []string) (list []completion, d directive) {
	ends := false // the word, with one of them
	for _, v := range values {
		list = c.add(list, word, v, "")
	}
	for _, v := range list {
		ends = ends || strings.TrimRight(v.value, "=:/") == v.value
	}
	if len(list) > 0 && !ends {
		return list, noFiles | noSpace
	}
	return list, noFiles
}

// targets returns the targets and groups of the definition at hand.
func (c *completer) targets(ctx context.Context, word string) (list []completion) {
	for _, t := range c.list(ctx, "targets") {
		if !slices.Contains(c.names, t.Name) {
			list = c.add(list, word, t.Name, t.Description)
		}
	}
	return list
}

// listedItem is a line of a listing.
type listedItem struct{ Name, Description string }

// list returns the targets or the variables of the definition, nothing if it cannot be
// read: an error has no place on a line that is being typed.
func (c *completer) list(ctx context.Context, kind string) []listedItem {
	if slices.Contains(c.given.File, "-") || slices.ContainsFunc(c.given.File, func(name string) bool { return c.isPipe(name) }) || slices.ContainsFunc(c.names, ir.IsRemote) {
		return nil // not to be read, or not now
	}
	var out bytes.Buffer
	o := c.given.options(c.app)
	o.Env = c.app.env
	if _, err := compiler.List(ctx, o, "type="+kind+",format=json", &out); err != nil {
		return nil
	}
	var list []listedItem
	if json.Unmarshal(out.Bytes(), &list) != nil {
		return nil
	}
	return list
}

// isPipe reports whether reading the file would consume it.
func (c *completer) isPipe(name string) bool {
	info, err := os.Stat(filepath.Clean(c.app.path(name)))
	return err == nil && info.Mode()&(fs.ModeNamedPipe|fs.ModeSocket|fs.ModeDevice) != 0
}
