package simnode

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
)

// Behavior is the effect of a step's command. The words of a shell that are known are
// these; all others do nothing:
//
//	sleep SECONDS
//	echo TEXT          prints a line, unless it goes to a file
//	exit CODE, false   ends the step
//	flaky PART         ends so large a part of its executions, drawn by the node, with code 1
//	/dev/urandom, date anywhere: no two executions give the same result
type Behavior struct {
	Took   time.Duration
	Prints []string
	Random bool
	Exit   uint32
	Flaky  float64
}

// behave reads a command.
func behave(args []string) Behavior {
	var b Behavior
	command := strings.Join(args, " ")
	if len(args) == 3 && args[1] == "-c" {
		command = args[2]
	}
	b.Random = strings.Contains(command, "/dev/urandom") || strings.Contains(command, "date")
	for _, part := range strings.FieldsFunc(command, func(r rune) bool { return r == ';' || r == '&' || r == '\n' }) {
		words := strings.Fields(part)
		if len(words) == 0 {
			continue
		}
		switch words[0] {
		case "sleep":
			if s, err := strconv.ParseFloat(words[len(words)-1], 64); err == nil {
				b.Took += time.Duration(s * float64(time.Second))
			}
		case "echo":
			if !strings.Contains(part, ">") {
				b.Prints = append(b.Prints, strings.Join(words[1:], " "))
			}
		case "flaky":
			if part, err := strconv.ParseFloat(words[len(words)-1], 64); err == nil {
				b.Flaky = part
			}
		case "false":
			b.Exit = 1
			return b
		case "exit":
			code, err := strconv.ParseUint(words[len(words)-1], 10, 8)
			if err == nil {
				b.Exit = uint32(code)
			}
			return b
		}
	}
	return b
}

// exitError is the failure of a command.
func exitError(args []string, code uint32) error {
	return fmt.Errorf("process %q did not complete successfully: %w", strings.Join(args, " "), &gatewayapi.ExitError{ExitCode: code})
}
