package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestJobsFlag(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		want jobs
		err  string
	}{
		{text: "", want: jobs{}},
		{text: "4", want: jobs{limit: 4}},
		{text: "0", want: jobs{}},
		{text: "fail-fast", want: jobs{mode: failFast}},
		{text: "defer-output", want: jobs{mode: deferOutput}},
		{text: "mode=defer-error", want: jobs{mode: deferError}},
		{text: "atomic,parallel=2", want: jobs{mode: atomically, limit: 2}},
		{text: "defer-error,parallel=2", want: jobs{mode: deferError, limit: 2}},
		{text: " PARALLEL = 2 , mode = defer-output ", want: jobs{mode: deferOutput, limit: 2}},
		{text: "-1", err: `invalid jobs parallel value "-1": must be a non-negative integer`},
		{text: "parallel=x", err: `invalid jobs parallel value "x": must be a non-negative integer`},
		{text: "99999999999999999999", err: `invalid jobs mode "99999999999999999999"`},
		{text: "all", err: `invalid jobs mode "all"`},
		{text: "2,3", err: `invalid jobs mode "2"`},
		{text: "defer-error,defer-output", err: `duplicate jobs option "mode"`},
		{text: "defer-error,limit=2", err: `unknown jobs option "limit"`},
		{text: `"`, err: "invalid jobs option"},
	} {
		var j jobs
		err := j.UnmarshalText([]byte(c.text))
		if c.err != "" {
			require.ErrorContains(t, err, c.err, c.text)
			continue
		}
		require.NoError(t, err, c.text)
		require.Equal(t, c.want, j, c.text)
	}
}

func TestOneExecution(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		given []spelling
		want  execution
		err   string
	}{
		{},
		{given: []spelling{{"--fail-fast", failFast}}, want: failFast},
		{given: []spelling{{"--execution=atomic", atomically}, {"--jobs=atomic", atomically}}, want: atomically},
		{given: []spelling{{"--jobs=atomic", atomically}, {"--keep-going", deferError}},
			err: "--jobs=atomic and --keep-going exclude each other: the one is --execution=atomic, the other --execution=defer-error"},
	} {
		got, err := oneExecution(c.given)
		if c.err != "" {
			require.EqualError(t, err, c.err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, c.want, got)
	}
}
