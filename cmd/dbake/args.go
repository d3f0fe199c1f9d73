package main

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"
)

// withCommand returns args with the default command, build, when they name none.
func withCommand(root *kong.Node, args []string) []string {
	build := subcommand(root, "build")
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "--help" || arg == "-h":
			return args
		case arg == "--version" || arg == "-v":
			return append([]string{"version"}, args[i+1:]...)
		case arg != "--" && len(arg) > 1 && arg[0] == '-':
			if _, wantsValue := plainFlag(build, arg); wantsValue {
				i++
			}
			continue
		case subcommand(root, arg) != nil:
			return args
		}
		break
	}
	return append([]string{"build"}, args...)
}

// arrangement is a command line in the order in which the parser reads it.
type arrangement struct {
	args  []string
	lists listValues
	// command is the command that it names, such as "dbake cache ls".
	command string
}

// flagsFirst returns args with the flags moved to the front. The parser takes the names of
// targets from one place of the command line only; docker buildx takes them from anywhere.
//
// Values of flags that are lists of whole values are left out of args: the parser moves
// all that is left of the command line for every flag, which takes quadratic time.
//
// An error is about a flag whose value is missing.
func flagsFirst(root *kong.Node, args []string) (arrangement, error) {
	var flags, names []string
	made := arrangement{command: root.Name}
	node := root
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "--":
			made.args = append(append(append(flags, "--"), names...), args[i+1:]...)
			return made, nil
		case made.lists.take(node, args, &i):
		case len(arg) > 1 && arg[0] == '-':
			arg, wantsValue := plainFlag(node, arg)
			flags = append(flags, arg)
			if wantsValue {
				if i++; i == len(args) {
					return made, fmt.Errorf("%s needs a value", arg)
				}
				flags = append(flags, args[i])
			}
		case subcommand(node, arg) != nil:
			node = subcommand(node, arg)
			made.command += " " + node.Name
			flags = append(flags, arg)
		case node == root:
			made.args, made.lists = args, nil
			return made, nil // no such command
		default:
			names = append(names, arg)
		}
	}
	made.args = append(flags, names...)
	return made, nil
}

// listValues are values of flags in their order.
type listValues []listValue

type listValue struct {
	flag  *kong.Flag
	value string
}

// take takes --FLAG=VALUE or --FLAG VALUE at args[*i] if the flag is a list of whole
// values, and moves *i to its end. Malformed flags are left to the parser, and so is a flag
// with a short form, since its values must stay in order.
func (l *listValues) take(node *kong.Node, args []string, i *int) bool {
	name, ok := strings.CutPrefix(args[*i], "--")
	if !ok {
		return false
	}
	name, value, inline := strings.Cut(name, "=")
	f := flagOf(node, func(f *kong.Flag) bool { return f.Name == name })
	if f == nil || f.Short != 0 || f.Tag.Sep != -1 || f.Target.Type() != reflect.TypeFor[[]string]() {
		return false
	}
	if !inline {
		if *i+1 == len(args) || strings.HasPrefix(args[*i+1], "-") {
			return false
		}
		*i++
		value = args[*i]
	}
	*l = append(*l, listValue{f, value})
	return true
}

// set puts the values behind those that the parser has found.
func (l listValues) set() {
	for _, v := range l {
		v.flag.Target.Set(reflect.Append(v.flag.Target, reflect.ValueOf(v.value)))
	}
}

// subcommand returns the command of node with a name or alias.
func subcommand(node *kong.Node, name string) *kong.Node {
	for _, child := range node.Children {
		if child.Type != kong.CommandNode {
			continue
		}
		if child.Name == name {
			return child
		}
		for _, alias := range child.Aliases {
			if alias == name {
				return child
			}
		}
	}
	return nil
}

// plainFlag returns an argument of flags as the parser knows it, -f=x being -fx
// elsewhere, and whether the next argument is the value of its last flag.
func plainFlag(node *kong.Node, arg string) (plain string, wantsValue bool) {
	if name, ok := strings.CutPrefix(arg, "--"); ok {
		f := flagOf(node, func(f *kong.Flag) bool { return f.Name == name })
		return arg, f != nil && !f.IsBool()
	}
	for i, short := range arg[1:] {
		f := flagOf(node, func(f *kong.Flag) bool { return f.Short == short })
		if f == nil {
			return arg, false
		}
		if !f.IsBool() {
			end := 1 + i + len(string(short))
			return arg[:end] + strings.TrimPrefix(arg[end:], "="), end == len(arg)
		}
	}
	return arg, false
}

func flagOf(node *kong.Node, is func(*kong.Flag) bool) *kong.Flag {
	for _, group := range node.AllFlags(false) {
		for _, f := range group {
			if is(f) {
				return f
			}
		}
	}
	return nil
}

// boolMapper reads boolean flags. It accepts the values that docker buildx does.
type boolMapper struct{}

func (boolMapper) IsBool() bool { return true }

func (boolMapper) Decode(ctx *kong.DecodeContext, target reflect.Value) error {
	on := true
	if ctx.Scan.Peek().Type == kong.FlagValueToken {
		text := ctx.Scan.Pop().String()
		var err error
		if on, err = strconv.ParseBool(text); err != nil {
			return fmt.Errorf("invalid value %q: expected true or false", text)
		}
	}
	target.SetBool(on)
	return nil
}
