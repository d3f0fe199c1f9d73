package peers

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// project is what contenders build: a bake file with a default group.
type project struct {
	name string
	help string
	// bases names the base images that it starts from.
	bases []string
	// write makes its files in dir. busybox is the reference of the base image.
	write func(dir, busybox string) error
	// edits says how to make the changes of scenarios; one that is absent is not run.
	edits map[string]edit
	// bound is the shortest time in which slots slots can execute it; nil when it is
	// not known.
	bound func(slots int) time.Duration
	// unlimited is set when it is built on nodes without a limit of steps.
	unlimited bool
	// nodes is the number of nodes that it is built on; 0 = as asked for.
	nodes int
}

// edit changes one file of a project.
type edit struct {
	file string
	text string // appended
}

func (e edit) make(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, e.file), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err = f.WriteString(e.text); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// projects returns all projects, the quick ones first.
func projects(storefront, isle string) []project {
	return []project{
		independent("independent", 12, 8, 1),
		independent("small", 8, 3, 0),
		services(),
		fat(),
		ladder(),
		{
			name: "storefront", help: "services in Go on one toolchain, and sites; steps compute",
			bases: []string{"busybox", "static", "golang"},
			write: func(dir, _ string) error { return os.CopyFS(dir, os.DirFS(storefront)) },
			edits: map[string]edit{
				oneFile:    {"services/cart/main.go", "\n// changed\n"},
				dependency: {"go.mod", "\n// changed\n"},
			},
		},
		monorepo(),
		linkedImages(isle),
	}
}

// files writes files, given as pairs of name and text.
func files(dir string, pairs ...string) error {
	for i := 0; i < len(pairs); i += 2 {
		name := filepath.Join(dir, pairs[i])
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, []byte(pairs[i+1]), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// definition is a bake file with a target for each name; link returns the target
// that a target starts from, "" for none.
func definition(names []string, link func(i int) string) string {
	var b strings.Builder
	b.WriteString("variable \"REGISTRY\" {}\n\ngroup \"default\" {\n  targets = [\"" + strings.Join(names, "\", \"") + "\"]\n}\n")
	for i, name := range names {
		fmt.Fprintf(&b, "\ntarget %q {\n  dockerfile = \"%s/Dockerfile\"\n  tags = [\"${REGISTRY}/bench/%s:latest\"]\n  output = [\"type=registry\"]\n", name, name, name)
		if parent := link(i); parent != "" {
			fmt.Fprintf(&b, "  contexts = {\n    parent = \"target:%s\"\n  }\n", parent)
		}
		b.WriteString("}\n")
	}
	return b.String()
}

func noLinks(int) string { return "" }

func names(prefix string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%s%02d", prefix, i+1)
	}
	return list
}

// independent has n targets that share nothing, of one step of some seconds each.
func independent(name string, n, seconds, nodes int) project {
	return project{
		name: name, help: fmt.Sprintf("%d targets that share nothing, one step of %d s each", n, seconds),
		bases: []string{"busybox"}, unlimited: true, nodes: nodes,
		write: func(dir, busybox string) error {
			targets := names("t", n)
			pairs := []string{"docker-bake.hcl", definition(targets, noLinks)}
			for _, t := range targets {
				pairs = append(pairs, t+"/app", t+"\n",
					t+"/Dockerfile", fmt.Sprintf("FROM %s\nCOPY %s/app /app\nRUN sleep %d && cp /app /%s\n", busybox, t, seconds, t))
			}
			return files(dir, pairs...)
		},
		edits: map[string]edit{oneFile: {"t03/app", "changed\n"}},
		bound: func(int) time.Duration { return time.Duration(seconds) * time.Second },
	}
}

// services has 24 targets of four families on one base.
func services() project {
	const base, family, own, families, count = 4, 6, 6, 4, 24
	return project{
		name: "services", help: "24 services of 4 families on one base; steps sleep 4, 6 and 6 s",
		bases: []string{"busybox"},
		write: func(dir, busybox string) error {
			targets := names("s", count)
			pairs := []string{"docker-bake.hcl", definition(targets, noLinks), "base/lib", "base\n"}
			for f := range families {
				pairs = append(pairs, fmt.Sprintf("family%d/lib", f), fmt.Sprintf("family %d\n", f))
			}
			for i, t := range targets {
				f := i % families
				pairs = append(pairs, t+"/app", t+"\n", t+"/Dockerfile", fmt.Sprintf(`FROM %s AS base
COPY base/lib /lib-base
RUN sleep %d && cp /lib-base /base
FROM base AS family
COPY family%d/lib /lib-family
RUN sleep %d && cp /lib-family /family
FROM family
COPY %s/app /app
RUN sleep %d && cp /app /done
`, busybox, base, f, family, t, own))
			}
			return files(dir, pairs...)
		},
		edits: map[string]edit{oneFile: {"s07/app", "changed\n"}, dependency: {"family2/lib", "changed\n"}},
		bound: func(slots int) time.Duration {
			// No target's own step can run before its family is there.
			return (base+family)*time.Second + max(own*time.Second, count*own*time.Second/time.Duration(slots))
		},
	}
}

// fat has 60 small targets on one base that takes longer and is large.
func fat() project {
	const base, own, count = 5, 1, 60
	return project{
		name: "fat", help: "60 targets of 1 s on one base of 5 s and 40 MB",
		bases: []string{"busybox"},
		write: func(dir, busybox string) error {
			targets := names("t", count)
			pairs := []string{"docker-bake.hcl", definition(targets, noLinks), "base/lib", "base\n"}
			for _, t := range targets {
				pairs = append(pairs, t+"/app", t+"\n", t+"/Dockerfile", fmt.Sprintf(`FROM %s AS base
COPY base/lib /lib-base
RUN sleep %d && dd if=/dev/urandom of=/fat bs=1M count=40 2>/dev/null
FROM base
COPY %s/app /app
RUN sleep %d && cp /app /done
`, busybox, base, t, own))
			}
			return files(dir, pairs...)
		},
		edits: map[string]edit{oneFile: {"t07/app", "changed\n"}, dependency: {"base/lib", "changed\n"}},
		bound: func(slots int) time.Duration {
			// Nothing else can run before the base is there, on one node at least.
			return base*time.Second + max(own*time.Second, count*own*time.Second/time.Duration(slots))
		},
	}
}

// ladder has targets that start from each other: a rung and two leaves on each.
func ladder() project {
	const rungs, step = 5, 3
	var targets, parents []string
	for i := range rungs {
		parent := ""
		if i > 0 {
			parent = fmt.Sprintf("rung%d", i)
		}
		rung := fmt.Sprintf("rung%d", i+1)
		targets, parents = append(targets, rung), append(parents, parent)
		for k := range 2 {
			targets, parents = append(targets, fmt.Sprintf("leaf%d%c", i+1, 'a'+k)), append(parents, rung)
		}
	}
	return project{
		name: "ladder", help: "15 targets, each from another: 5 rungs with 2 leaves each; steps sleep 3 s",
		bases: []string{"busybox"},
		write: func(dir, busybox string) error {
			pairs := []string{"docker-bake.hcl", definition(targets, func(i int) string { return parents[i] })}
			for i, t := range targets {
				from := "parent"
				if parents[i] == "" {
					from = busybox
				}
				pairs = append(pairs, t+"/app", t+"\n", t+"/Dockerfile", fmt.Sprintf("FROM %s\nCOPY %s/app /app-%s\nRUN sleep %d && cp /app-%s /%s\n", from, t, t, step, t, t))
			}
			return files(dir, pairs...)
		},
		edits: map[string]edit{oneFile: {"leaf5a/app", "changed\n"}, dependency: {"rung3/app", "changed\n"}},
		bound: func(slots int) time.Duration {
			return max((rungs+1)*step*time.Second, 3*rungs*step*time.Second/time.Duration(slots))
		},
	}
}
