package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tonistiigi/go-csvvalue"
)

// execution is the value of --execution: whether the build goes on when a target fails, and
// when outputs are published. Some other flags are spellings of it.
type execution string

const (
	failFast    execution = "fail-fast"    // the first failure ends the build
	deferOutput execution = "defer-output" // as failFast, and outputs wait until all is built
	deferError  execution = "defer-error"  // what does not depend on the failure is built
	atomically  execution = "atomic"       // as failFast, and all is published, or nothing
)

// executionModes are its values, in the order of the help.
var executionModes = []execution{failFast, deferOutput, deferError, atomically}

// UnmarshalText implements encoding.TextUnmarshaler.
func (e *execution) UnmarshalText(text []byte) error {
	if *e = execution(strings.TrimSpace(string(text))); !slices.Contains(executionModes, *e) {
		return fmt.Errorf("invalid execution %q: expected fail-fast, defer-output, defer-error or atomic", text)
	}
	return nil
}

// spelling is a flag that was given, and what it says about the execution.
type spelling struct {
	flag string
	mode execution
}

// oneExecution returns what all given flags say, "" when there are none.
func oneExecution(given []spelling) (execution, error) {
	for _, s := range given {
		if first := given[0]; s.mode != first.mode {
			return "", fmt.Errorf("%s and %s exclude each other: the one is --execution=%s, the other --execution=%s", first.flag, s.flag, first.mode, s.mode)
		}
	}
	if len(given) == 0 {
		return "", nil
	}
	return given[0].mode, nil
}

// jobs is the value of --jobs: how many targets are built at once, and what --execution
// says.
type jobs struct {
	mode  execution // "" when the value names none
	limit int       // 0 is no limit
}

// UnmarshalText implements encoding.TextUnmarshaler for N and
// MODE|mode=MODE[,parallel=N] in any order.
func (j *jobs) UnmarshalText(text []byte) error {
	*j = jobs{}
	value := strings.TrimSpace(string(text))
	if value == "" {
		return nil
	}
	if _, err := strconv.Atoi(value); err == nil {
		value = "parallel=" + value
	}
	fields, err := csvvalue.Fields(value, nil)
	if err != nil {
		return fmt.Errorf("invalid jobs option: %w", err)
	}
	seen := map[string]bool{}
	for _, field := range fields {
		key, v, ok := strings.Cut(strings.TrimSpace(field), "=")
		if !ok {
			key, v = "mode", key
		}
		key, v = strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(v)
		if seen[key] {
			return fmt.Errorf("duplicate jobs option %q", key)
		}
		seen[key] = true
		switch key {
		case "mode":
			if j.mode.UnmarshalText([]byte(v)) != nil {
				return fmt.Errorf("invalid jobs mode %q: expected fail-fast, defer-output, defer-error or atomic", v)
			}
		case "parallel":
			if j.limit, err = strconv.Atoi(v); err != nil || j.limit < 0 {
				return fmt.Errorf("invalid jobs parallel value %q: must be a non-negative integer", v)
			}
		default:
			return fmt.Errorf("unknown jobs option %q: expected mode or parallel", key)
		}
	}
	return nil
}
