package main

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// parseArgs reads a command line as run does.
func parseArgs(t *testing.T, args ...string) (*cli, error) {
	t.Helper()
	a := &app{env: map[string]string{}}
	require.NoError(t, a.showProgress(nil))
	var c cli
	parser, err := newParser(c.grammar(args), a.stdout, a.stderr, func(int) {})
	require.NoError(t, err)
	line, err := flagsFirst(parser.Model.Node, args)
	if err != nil {
		return nil, err
	}
	_, err = parser.Parse(line.args)
	line.lists.set()
	return &c, err
}

func TestValuesOfLists(t *testing.T) {
	c, err := parseArgs(t, "build", "web", "--set", "a.args.X=1,2", "-f", "one", "--set=b.tags=--x", "--file", "two", "api", "--var=V=", "--set", "c.args.Y", "-ffour", "--push", "--", "--set")
	require.NoError(t, err)
	require.Equal(t, []string{"a.args.X=1,2", "b.tags=--x", "c.args.Y"}, c.Build.Set)
	require.Equal(t, []string{"one", "two", "four"}, c.Build.File)
	require.Equal(t, []string{"V="}, c.Build.Var)
	require.Equal(t, []string{"web", "api", "--set"}, c.Build.Targets)
	require.True(t, c.Build.Push)

	_, err = parseArgs(t, "build", "--set", "--push")
	require.ErrorContains(t, err, "--set: ")
	_, err = parseArgs(t, "build", "--set")
	require.EqualError(t, err, "--set needs a value")
	_, err = parseArgs(t, "version", "--set=x")
	require.ErrorContains(t, err, "unknown flag --set")
}

// A parser of one command says of it what a parser of all commands says.
func TestGrammar(t *testing.T) {
	var whole cli
	all, err := newParser(&whole, io.Discard, io.Discard, func(int) {})
	require.NoError(t, err)
	for _, command := range all.Model.Children {
		for _, name := range append(command.Aliases, command.Name) {
			var help [2]strings.Builder
			var one cli
			for i, grammar := range []any{&whole, one.grammar([]string{name})} {
				parser, err := newParser(grammar, &help[i], &help[i], func(int) { panic("help") })
				require.NoError(t, err)
				require.PanicsWithValue(t, "help", func() { _, _ = parser.Parse([]string{name, "--help"}) })
			}
			require.Equal(t, help[0].String(), help[1].String())
		}
	}
	c, err := parseArgs(t, "plan", "-D", "--offline", "web")
	require.NoError(t, err)
	require.True(t, c.Debug)
	require.True(t, c.Plan.Offline)
	require.Equal(t, []string{"web"}, c.Plan.Targets)
	for _, args := range [][]string{nil, {"web"}, {"--debug", "plan"}, {"install-shim"}, {"__complete", "plan"}} {
		require.Same(t, c, c.grammar(args))
	}
}

// BenchmarkManyOverrides parses as many values of --set as a command line takes.
func BenchmarkManyOverrides(b *testing.B) {
	args := []string{"build"}
	for i := range 20_000 {
		args = append(args, "--set", fmt.Sprintf("*.args.V%d=x", i))
	}
	for b.Loop() {
		a := &app{env: map[string]string{}}
		var c cli
		parser, err := newParser(&c, a.stdout, a.stderr, func(int) {})
		require.NoError(b, err)
		line, err := flagsFirst(parser.Model.Node, args)
		require.NoError(b, err)
		_, err = parser.Parse(line.args)
		require.NoError(b, err)
		line.lists.set()
		require.Len(b, c.Build.Set, 20_000)
	}
}
