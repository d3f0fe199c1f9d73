// Package reference writes the manual of the command line, as Markdown and as man
// pages, from the same model that --help is made of.
package reference

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

// Markdown writes one page for all commands that are not hidden.
func Markdown(w io.Writer, app *kong.Node) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Reference\n\n<!-- Made by \"make reference\" from what --help prints; a test compares them. -->\n\n%s\n", app.Help)
	b.WriteString("\n## Commands\n\n| command | |\n|---|---|\n")
	for _, c := range commands(app) {
		fmt.Fprintf(&b, "| [`%s`](#%s) | %s |\n", name(c), strings.ReplaceAll(name(c), " ", "-"), cell(c.Help))
	}
	b.WriteString("\nEvery command takes `-h`, `--help`")
	for _, f := range flags(app) {
		fmt.Fprintf(&b, "; %s: %s", flagNames(f), strings.TrimSuffix(f.Help, "."))
	}
	b.WriteString(".\n")
	for _, c := range commands(app) {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n", name(c), c.Help)
		if c.Detail != "" {
			fmt.Fprintf(&b, "\n%s\n", c.Detail)
		}
		fmt.Fprintf(&b, "\n    %s\n", usage(c))
		if len(c.Aliases) > 0 {
			fmt.Fprintf(&b, "\nAlso `%s`.\n", strings.Join(c.Aliases, "`, `"))
		}
		if len(c.Positional) > 0 {
			b.WriteString("\n| argument | |\n|---|---|\n")
			for _, p := range c.Positional {
				fmt.Fprintf(&b, "| `%s` | %s |\n", p.Summary(), cell(p.Help))
			}
		}
		if list := flags(c); len(list) > 0 {
			b.WriteString("\n| flag | |\n|---|---|\n")
			for _, f := range list {
				fmt.Fprintf(&b, "| %s | %s |\n", flagNames(f), cell(f.Help+standard(f)))
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Man writes the man page of the whole command.
func Man(w io.Writer, app *kong.Node, version string) error {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH DBAKE 1 \"\" \"dbake %s\" \"User Commands\"\n.SH NAME\ndbake \\- build many container images over several BuildKit nodes\n", roff(version))
	b.WriteString(".SH SYNOPSIS\n.B dbake\n.I COMMAND\n[flags]\n.SH DESCRIPTION\n")
	for _, p := range strings.Split(app.Help, "\n\n") {
		fmt.Fprintf(&b, ".PP\n%s\n", roff(p))
	}
	b.WriteString(".SH COMMANDS\n")
	for _, c := range commands(app) {
		fmt.Fprintf(&b, ".SS %s\n%s\n.PP\n.nf\n%s\n.fi\n", roff(name(c)), roff(c.Help), roff(usage(c)))
		for _, p := range c.Positional {
			fmt.Fprintf(&b, ".TP\n.I %s\n%s\n", roff(p.Summary()), roff(p.Help))
		}
		for _, f := range flags(c) {
			fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(strings.ReplaceAll(flagNames(f), "`", "")), roff(f.Help+standard(f)))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// commands are the leaves, in the order of --help.
func commands(app *kong.Node) (list []*kong.Node) {
	for _, c := range app.Children {
		switch {
		case c.Hidden || c.Type != kong.CommandNode:
		case len(c.Children) == 0:
			list = append(list, c)
		default:
			list = append(list, commands(c)...)
		}
	}
	return list
}

// name is the command as it is typed.
func name(c *kong.Node) string {
	if c.Parent == nil {
		return c.Name
	}
	return name(c.Parent) + " " + c.Name
}

func usage(c *kong.Node) string {
	words := []string{name(c)}
	for _, f := range flags(c) {
		if f.Required {
			words = append(words, f.Summary())
		}
	}
	if len(flags(c)) > 0 {
		words = append(words, "[flags]")
	}
	for _, p := range c.Positional {
		words = append(words, p.Summary())
	}
	return strings.Join(words, " ")
}

// flags are those of the command itself.
func flags(c *kong.Node) (list []*kong.Flag) {
	for _, f := range c.Flags {
		if !f.Hidden && f.Name != "help" {
			list = append(list, f)
		}
	}
	return list
}

func flagNames(f *kong.Flag) string {
	text := "`" + f.Summary() + "`"
	if f.Short != 0 {
		text = fmt.Sprintf("`-%c`, %s", f.Short, text)
	}
	for _, a := range f.Aliases {
		text += ", `--" + a + "`"
	}
	return text
}

// standard returns the default of the flag, unless its help says it.
func standard(f *kong.Flag) string {
	if !f.HasDefault || f.Default == "" || strings.Contains(f.Help, "default") {
		return ""
	}
	return fmt.Sprintf(" Default: %s.", f.Default)
}

// cell fits text into a table of Markdown.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "\n", " ").Replace(text)
}

// roff escapes text for a man page.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\\`, "-", `\-`, "\n", " ").Replace(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text
	}
	return text
}
