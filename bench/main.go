// Command bench measures dbake. Its subcommands print what they measured and can be
// repeated by anyone:
//
//	go run ./bench sim -instance FILE   # one instance in virtual time
//	go run ./bench sim -dir DIR         # a table of strategies over many
//	go run ./bench real                 # builds on nodes of this machine: predicted and measured
//	go run ./bench peers -buildx FILE   # dbake beside docker buildx bake and a queue of targets
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/dbake/dbake/bench/peers"
	"github.com/dbake/dbake/bench/real"
	"github.com/dbake/dbake/bench/sim"
)

type command struct {
	name string
	help string
	run  func(ctx context.Context, args []string, stdout, stderr io.Writer) error
}

func commands() []command {
	return []command{
		{"sim", "compare strategies on scheduling instances in virtual time", sim.Main},
		{"real", "compare predictions and strategies with builds on real nodes", real.Main},
		{"peers", "compare dbake with docker buildx bake and a queue of targets", peers.Main},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	all := commands()
	i := -1
	if len(args) > 0 {
		i = slices.IndexFunc(all, func(c command) bool { return c.name == args[0] })
	}
	if i < 0 {
		fmt.Fprintln(stderr, "usage: bench COMMAND [flags]")
		for _, c := range all {
			fmt.Fprintf(stderr, "  %-8s %s\n", c.name, c.help)
		}
		return 2
	}
	if err := all[i].run(ctx, args[1:], stdout, stderr); err != nil {
		fmt.Fprintf(stderr, "bench %s: %v\n", args[0], err)
		return 1
	}
	return 0
}
