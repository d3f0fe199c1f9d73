package main

import (
	"fmt"
	"runtime/debug"
)

type versionCmd struct{}

// Run prints the version of dbake and that of the BuildKit it is made with.
func (versionCmd) Run(a *app) error {
	version, buildkit := "unknown", "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
		for _, d := range info.Deps {
			if d.Path == "github.com/moby/buildkit" {
				buildkit = d.Version
			}
		}
	}
	_, err := fmt.Fprintf(a.stdout, "dbake %s (BuildKit %s)\n", version, buildkit)
	return err
}
