package peers

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"

	"github.com/dbake/dbake/compiler"
)

// monorepo is a Go monorepo whose steps compute: a base that compiles the standard
// library, and services on it.
func monorepo() project {
	services := names("svc", 12)
	return project{
		name: "monorepo", help: "12 Go services on a base that compiles the standard library; steps compute",
		bases: []string{"busybox", "static", "golang"},
		write: func(dir, _ string) error {
			pairs := []string{
				"docker-bake.hcl", definition(services, noLinks),
				"go.mod", "module example.com/monorepo\n\ngo 1.21\n",
				"lib/lib.go", "// Package lib is what all services share.\npackage lib\n\n// Name is the name of the product.\nconst Name = \"monorepo\"\n",
			}
			for i, s := range services {
				pairs = append(pairs,
					"cmd/"+s+"/main.go", fmt.Sprintf("package main\n\nimport (\n\t\"encoding/json\"\n\t\"net/http\"\n\n\t\"example.com/monorepo/lib\"\n)\n\nfunc main() {\n\thttp.HandleFunc(\"/%d\", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(lib.Name) })\n\t_ = http.ListenAndServe(\":8080\", nil)\n}\n", i),
					s+"/Dockerfile", fmt.Sprintf(`FROM golang:1 AS std
RUN CGO_ENABLED=0 go build std
FROM std AS lib
WORKDIR /src
COPY go.mod ./
COPY lib ./lib
RUN CGO_ENABLED=0 go build ./lib
FROM lib AS build
COPY cmd/%[1]s ./cmd/%[1]s
RUN CGO_ENABLED=0 go build -o /app ./cmd/%[1]s
FROM static:1
COPY --from=build /app /app
ENTRYPOINT ["/app"]
`, s))
			}
			return files(dir, pairs...)
		},
		edits: map[string]edit{
			oneFile:    {"cmd/svc05/main.go", "\n// changed\n"},
			dependency: {"lib/lib.go", "\n// changed\n"},
		},
	}
}

// linkedImages is a real project: the images of isle-buildkit with the links that their bake
// file gives them. Base images from elsewhere and what the steps do are replaced by
// sleeps of 1 to 6 s, since there is no network here.
func linkedImages(dir string) project {
	p := project{
		name: "isle", help: "the 29 images of isle-buildkit, which start from each other; steps sleep",
		bases: []string{"busybox"},
		edits: map[string]edit{oneFile: {"riprap/app", "changed\n"}, dependency: {"tomcat/app", "changed\n"}},
	}
	read := func() ([]string, map[string][]string, error) { return links(dir) }
	p.write = func(to, busybox string) error {
		targets, parents, err := read()
		if err != nil {
			return err
		}
		var bake strings.Builder
		bake.WriteString("variable \"REGISTRY\" {}\n\ngroup \"default\" {\n  targets = [\"" + strings.Join(targets, "\", \"") + "\"]\n}\n")
		var pairs []string
		for _, t := range targets {
			fmt.Fprintf(&bake, "\ntarget %q {\n  dockerfile = \"%s/Dockerfile\"\n  tags = [\"${REGISTRY}/isle/%s:latest\"]\n  output = [\"type=registry\"]\n  contexts = {\n", t, t, t)
			from, copies := busybox, ""
			for i, parent := range parents[t] {
				fmt.Fprintf(&bake, "    %s = \"target:%s\"\n", parent, parent)
				if i == 0 {
					from = parent
				} else {
					copies += fmt.Sprintf("COPY --from=%s /app-%s /\n", parent, parent)
				}
			}
			bake.WriteString("  }\n}\n")
			pairs = append(pairs, t+"/app", t+"\n", t+"/Dockerfile",
				fmt.Sprintf("FROM %s\n%sCOPY %s/app /app-%s\nRUN sleep %d && cp /app-%s /done-%s\n", from, copies, t, t, sleepOf(t), t, t))
		}
		return files(to, append(pairs, "docker-bake.hcl", bake.String())...)
	}
	p.bound = func(slots int) time.Duration {
		targets, parents, err := read()
		if err != nil {
			return 0
		}
		var all, longest int
		ends := map[string]int{}
		var end func(t string) int
		end = func(t string) int {
			if ends[t] == 0 {
				for _, parent := range parents[t] {
					ends[t] = max(ends[t], end(parent))
				}
				ends[t] += sleepOf(t)
			}
			return ends[t]
		}
		for _, t := range targets {
			all += sleepOf(t)
			longest = max(longest, end(t))
		}
		return max(time.Duration(longest)*time.Second, time.Duration(all)*time.Second/time.Duration(slots))
	}
	return p
}

// sleepOf is how long the step of a target sleeps, in seconds.
func sleepOf(target string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(target)) // never fails
	return 1 + int(h.Sum32()%6)
}

// links returns the targets that a bake file builds, and which of them each starts from.
func links(dir string) (targets []string, parents map[string][]string, err error) {
	p, err := compiler.Compile(context.Background(), compiler.Options{Dir: dir, Env: map[string]string{}, Platform: platforms.Format(platforms.DefaultSpec())})
	if err != nil {
		return nil, nil, err
	}
	parents = map[string][]string{}
	for _, t := range p.Targets {
		targets = append(targets, t.Name)
		list := t.Links()
		slices.Sort(list)
		parents[t.Name] = list
	}
	return targets, parents, nil
}
