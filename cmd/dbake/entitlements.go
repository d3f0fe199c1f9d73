package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"

	"github.com/dbake/dbake/cmd/dbake/internal/view"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/entitlement"
	"github.com/dbake/dbake/runtime/daemon"
)

// privileges compares projects with the grants, and asks the user for the rest.
type privileges struct {
	entitlement.Guard
	progress view.Progress
	stdin    io.Reader
	args     []string // the command line, without the name of the command
}

func (a *app) privileges() *privileges {
	return &privileges{
		Guard: entitlement.Guard{
			Dir: a.dir, Env: a.env, Path: a.path,
			SecretFile: func(s ir.Secret) string { return daemon.SecretSourceOf(s, a.env, a.path).File },
		},
		progress: a.progress, stdin: a.stdin, args: a.args,
	}
}

// beyond returns the privileges that the project requests and that neither --allow nor
// --set grants.
func (g *privileges) beyond(p *ir.Project, f *definitionFlags) (*entitlement.Request, error) {
	granted, err := entitlement.Parse(f.Allow)
	if err != nil {
		return nil, usageError{err}
	}
	missing, err := g.Missing(p, granted, !f.saved)
	if err != nil {
		return nil, err
	}
	return g.Request(missing, isRemote(p))
}

// authorize checks that the project asks for nothing that was not granted: on the
// command line, by a value of --set, or by the answer of a user who is asked.
func (g *privileges) authorize(ctx context.Context, p *ir.Project, f *definitionFlags) error {
	req, err := g.beyond(p, f)
	if err != nil {
		return err
	}
	return g.ask(ctx, req)
}

// warn lists the privileges that a build of the project would request. A plan needs no
// grant: it neither runs steps nor writes.
func (g *privileges) warn(p *ir.Project, f *definitionFlags) error {
	req, err := g.beyond(p, f)
	if err != nil {
		return err
	}
	if req.Refused() {
		g.progress.Warn(fmt.Sprintf("to build this, pass %q to grant requested privileges", req.Flags()))
	}
	return nil
}

// isRemote reports whether the definition was read from a URL.
func isRemote(p *ir.Project) bool {
	return slices.ContainsFunc(p.Targets, (*ir.Target).FromTree)
}

// ask shows the request and waits for the answer of a user at a terminal; without a
// terminal the request is refused. It asks nothing when a program reads the progress.
func (g *privileges) ask(ctx context.Context, r *entitlement.Request) error {
	if r.Empty() {
		return nil
	}
	terminal := isTerminal(g.stdin)
	var text strings.Builder
	showRequest(&text, r, g.args, terminal)
	if name := r.Switch(); name != "" {
		fmt.Fprintf(&text, "To disable filesystem entitlements checks, you can set %s=0 .\n\n", name)
	}
	if r.Refused() && terminal {
		fmt.Fprint(&text, "Do you want to grant requested privileges and continue? [y/N] ")
	}
	if !g.progress.Prompt(text.String()) {
		if !r.Refused() {
			return nil
		}
		return fmt.Errorf("additional privileges requested: pass %q to grant requested privileges", r.RequiredPart().Flags())
	}
	if !r.Refused() || terminal && answer(ctx, g.stdin) {
		return nil
	}
	return errors.New("additional privileges requested")
}

// showRequest writes a request, and the command line that would grant it.
func showRequest(w io.Writer, r *entitlement.Request, args []string, terminal bool) {
	fmt.Fprint(w, "Your build is requesting privileges for following possibly insecure capabilities:\n\n")
	for _, text := range r.Texts() {
		fmt.Fprintf(w, " - %s\n", text)
	}
	if terminal {
		fmt.Fprintf(w, "\nIn order to not see this message in the future pass %q to grant requested privileges.\n", r.Flags())
	} else {
		fmt.Fprintf(w, "\nPass %q to grant requested privileges.\n", r.Flags())
	}
	i := slices.IndexFunc(args, func(arg string) bool { return slices.Contains(buildNames, arg) })
	if i < 0 {
		return
	}
	line := append([]string{"dbake"}, args[:i+1]...)
	line = append(line, r.Flags())
	line = append(line, args[i+1:]...)
	fmt.Fprintf(w, "\nYour full command with requested privileges:\n\n%s\n\n", strings.Join(line, " "))
}

// buildNames are the names of the build command.
var buildNames = []string{"build", "bake", "f"}

// isTerminal reports whether a stream is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// answer waits for a line and reports whether it says yes.
func answer(ctx context.Context, r io.Reader) bool {
	line := make(chan string, 1)
	go func() {
		// A read of a terminal cannot be interrupted; if the user interrupts
		// instead, the process ends soon and the read with it.
		text, err := bufio.NewReader(r).ReadString('\n')
		if err != nil {
			text = ""
		}
		line <- text
	}()
	select {
	case <-ctx.Done():
		return false
	case text := <-line:
		return strings.EqualFold(strings.TrimSpace(text), "y")
	}
}
