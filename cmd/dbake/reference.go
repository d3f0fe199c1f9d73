package main

import (
	"github.com/dbake/dbake/cmd/dbake/internal/reference"
)

// referenceCmd writes the manual; the packages of a release and docs/reference.md are
// made with it.
type referenceCmd struct {
	Format string `default:"markdown" enum:"markdown,man" help:"Output: markdown or man."`
}

func (c *referenceCmd) Run(a *app) error {
	var root cli
	parser, err := newParser(&root, a.stdout, a.stderr, func(int) {})
	if err != nil {
		return err
	}
	if c.Format == "man" {
		return reference.Man(a.stdout, parser.Model.Node, readVersions().Dbake)
	}
	return reference.Markdown(a.stdout, parser.Model.Node)
}
