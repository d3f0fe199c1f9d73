package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

type versionCmd struct {
	Format string `default:"text" enum:"text,json" help:"Output: text or json."`
}

// bakeLanguage is the version of docker buildx whose bake files and flags are
// understood.
const bakeLanguage = "v0.38.2"

// versions are those of the parts of this executable.
type versions struct {
	Dbake    string `json:"dbake"`
	Commit   string `json:"commit,omitempty"`
	Modified bool   `json:"modified,omitempty"` // since the commit
	BuildKit string `json:"buildkit"`
	// Frontend is the Dockerfile frontend that compiles files without "# syntax=".
	Frontend string `json:"frontend"`
	Bake     string `json:"bake"` // the docker buildx whose language is spoken
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func readVersions() versions {
	v := versions{Dbake: "unknown", BuildKit: "unknown", Bake: bakeLanguage, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" {
			v.Dbake = info.Main.Version
		}
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Commit = s.Value
			case "vcs.modified":
				v.Modified = s.Value == "true"
			}
		}
		for _, d := range info.Deps {
			if d.Path == "github.com/moby/buildkit" {
				v.BuildKit = d.Version
			}
		}
	}
	v.Frontend = "dockerfile of BuildKit " + v.BuildKit
	return v
}

// Run prints the version of dbake and those of its parts.
func (c *versionCmd) Run(a *app) error {
	v := readVersions()
	if c.Format == "json" {
		return a.writeJSON(v)
	}
	commit := v.Commit
	switch {
	case commit == "":
		commit = "unknown"
	case v.Modified:
		commit += ", modified"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "dbake %s (BuildKit %s)\n", v.Dbake, v.BuildKit)
	for _, line := range [][2]string{
		{"commit", commit}, {"buildkit", v.BuildKit}, {"frontend", v.Frontend},
		{"bake", "docker buildx " + v.Bake}, {"go", v.Go + " " + v.Platform},
	} {
		fmt.Fprintf(&b, "  %-9s %s\n", line[0], line[1])
	}
	_, err := fmt.Fprint(a.stdout, b.String())
	return err
}
