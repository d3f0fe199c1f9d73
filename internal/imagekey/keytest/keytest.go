// Package keytest makes projects that are edited at random, and says by a model of its
// own which of their images are made of the same. Tests compare keys with it.
//
// The model knows nothing of graphs: it knows what it has written into Dockerfiles, and
// looks at directories itself.
package keytest

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Project is a project on disk.
type Project struct {
	Dir      string
	Registry string // of the base images
	// Push makes a tag of a base image stand for another version of it.
	Push func(base string, version int) error
	// Platforms are those that services may be built for; the first is that of all at
	// the beginning, and of those that run something always.
	Platforms []string

	rng      *rand.Rand
	services []*service
	bases    []int // versions
	ignored  []string
	flavor   int // a build arg that is used
	commit   int // a build arg that is not
	tag      int
	count    int // of names made up
}

// service is a target.
type service struct {
	name      string
	base      int
	source    string // the directory it copies, or a link to one
	copies    string // how it does so
	lines     []string
	stage     string // the name of its first stage
	comment   int
	label     int
	runs      bool // something, as only a node of its platform can
	secret    bool
	platforms []string
}

// New writes a project of n services.
func New(dir, registry string, seed uint64, n int, platforms []string, push func(base string, version int) error) (*Project, error) {
	p := &Project{
		Dir: dir, Registry: registry, Push: push, Platforms: platforms,
		rng: rand.New(rand.NewPCG(seed, 14)), bases: []int{1, 1}, ignored: []string{"**/*.tmp"},
	}
	for i := range p.bases {
		if err := push(baseName(i), 1); err != nil {
			return nil, err
		}
	}
	p.write("common/lib.txt", "lib\n")
	p.write("common/deep/er/data", "data\n")
	p.write("token", "secret 0\n")
	for i := range n {
		s := &service{name: fmt.Sprintf("svc%d", i), base: i % 2, stage: "build", copies: "%s", runs: i%3 == 0, secret: i%3 == 0, platforms: platforms[:1]}
		s.source = s.name + "/src"
		p.write(s.source+"/main.txt", s.name+"\n")
		p.write(s.source+"/run.sh", "echo "+s.name+"\n")
		p.write(s.source+"/sub/part", "part\n")
		p.write(s.source+"/scratch.tmp", "0\n")
		p.write(s.name+"/notes.md", "not copied\n")
		if i == 1 {
			// One service copies through a link.
			must(os.Symlink(s.source, filepath.Join(dir, "alias")))
			s.source = "alias"
		}
		switch i {
		case 4:
			s.copies = "%s/*" // what a pattern matches
		case 5:
			s.copies = "--parents %s"
		}
		p.services = append(p.services, s)
	}
	return p, p.Write()
}

func baseName(i int) string { return fmt.Sprintf("base%d", i) }

func must(err error) {
	if err != nil {
		panic(err) // the disk of a test
	}
}

func (p *Project) path(name string) string { return filepath.Join(p.Dir, filepath.FromSlash(name)) }

func (p *Project) write(name, text string) {
	must(os.MkdirAll(filepath.Dir(p.path(name)), 0o755))
	must(os.WriteFile(p.path(name), []byte(text), 0o644))
}

func (p *Project) fresh() int { p.count++; return p.count }

// Targets are the names of the services.
func (p *Project) Targets() []string {
	var names []string
	for _, s := range p.services {
		names = append(names, s.name)
	}
	return names
}

// Write writes the definition, the Dockerfiles and the ignore file.
func (p *Project) Write() error {
	var bake strings.Builder
	for _, s := range p.services {
		fmt.Fprintf(&bake, "target %q {\n  dockerfile = %q\n  tags = [\"%s/out/%s:%d\"]\n  platforms = [\"%s\"]\n", s.name, s.name+"/Dockerfile", p.Registry, s.name, p.tag, strings.Join(s.platforms, `", "`))
		fmt.Fprintf(&bake, "  output = [\"type=image,push=true,rewrite-timestamp=true\"]\n  attest = [\"type=provenance,disabled=true\"]\n")
		fmt.Fprintf(&bake, "  args = { REGISTRY = %q, FLAVOR = \"f%d\", COMMIT = \"c%d\", SOURCE_DATE_EPOCH = \"1767225600\" }\n", p.Registry, p.flavor, p.commit)
		if s.secret {
			fmt.Fprintf(&bake, "  secret = [\"id=token,src=token\"]\n")
		}
		bake.WriteString("}\n")
	}
	fmt.Fprintf(&bake, "group \"default\" { targets = [\"%s\"] }\n", strings.Join(p.Targets(), `", "`))
	p.write("docker-bake.hcl", bake.String())
	p.write(".dockerignore", strings.Join(p.ignored, "\n")+"\n")
	for _, s := range p.services {
		var d strings.Builder
		fmt.Fprintf(&d, "# comment %d\nARG REGISTRY\nFROM ${REGISTRY}/%s:1 AS %s\nARG FLAVOR\n%s\nCOPY common /common\n", s.comment, baseName(s.base), s.stage, s.flavor())
		fmt.Fprintf(&d, "FROM ${REGISTRY}/%s:1\nCOPY --from=%s /flavor /common /in/\nCOPY %s /src\n", baseName(s.base), s.stage, fmt.Sprintf(s.copies, s.source))
		for _, line := range s.lines {
			fmt.Fprintln(&d, line)
		}
		if s.secret {
			fmt.Fprintln(&d, "RUN --mount=type=secret,id=token test -s /run/secrets/token")
		}
		fmt.Fprintf(&d, "LABEL version=\"%d\"\n", s.label)
		p.write(s.name+"/Dockerfile", d.String())
	}
	return nil
}

// flavor is the instruction that makes the file /flavor.
func (s *service) flavor() string {
	if s.runs {
		return "RUN echo $FLAVOR >/flavor"
	}
	return "COPY <<EOF /flavor\n$FLAVOR\nEOF"
}

// Truth says what each image is made of: equal texts are equal images.
func (p *Project) Truth() map[string]string {
	truth := map[string]string{}
	for _, s := range p.services {
		var b strings.Builder
		fmt.Fprintf(&b, "base %d version %d\nflavor %d\nlabel %d\nsecret %v\nplatforms %q\nlines %q\n",
			s.base, p.bases[s.base], p.flavor, s.label, s.secret, s.platforms, s.lines)
		for _, dir := range []string{"common", s.source} {
			if link, err := os.Readlink(p.path(dir)); err == nil {
				fmt.Fprintf(&b, "%s leads to %s\n", dir, link)
				dir = link
			}
			p.tree(&b, dir)
		}
		truth[s.name] = b.String()
	}
	return truth
}

// tree writes what is below a directory and not ignored. A directory all of whose
// files are ignored is there all the same.
func (p *Project) tree(b *strings.Builder, dir string) {
	must(filepath.WalkDir(p.path(dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(p.Dir, path)
		must(err)
		if p.ignores(rel) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		must(err)
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			link, err := os.Readlink(path)
			must(err)
			fmt.Fprintf(b, "%s -> %s\n", rel, link)
		case info.IsDir():
			fmt.Fprintf(b, "%s %v\n", rel, info.Mode())
		default:
			data, err := os.ReadFile(path)
			must(err)
			fmt.Fprintf(b, "%s %v %q\n", rel, info.Mode(), data)
		}
		return nil
	}))
}

// ignores reports whether the ignore file leaves a path out: it holds names of files
// and one kind of pattern.
func (p *Project) ignores(rel string) bool {
	return slices.ContainsFunc(p.ignored, func(pattern string) bool {
		if end, ok := strings.CutPrefix(pattern, "**/*"); ok {
			return strings.HasSuffix(rel, end)
		}
		return rel == pattern || strings.HasPrefix(rel, pattern+"/")
	})
}

// files returns the regular files below the directories that services copy, and beside
// them.
func (p *Project) files() []string {
	var list []string
	for _, s := range append([]*service{{name: "common"}}, p.services...) {
		must(filepath.WalkDir(p.path(s.name), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && d.Name() != "Dockerfile" {
				rel, relErr := filepath.Rel(p.Dir, path)
				must(relErr)
				list = append(list, filepath.ToSlash(rel))
			}
			return err
		}))
	}
	return list
}

func pick[T any](p *Project, list []T) T { return list[p.rng.IntN(len(list))] }

// Edit makes one change at random and returns what it was.
func (p *Project) Edit() string {
	edits := []func() string{
		p.editFile, p.editFile, p.editFile, p.chmod, p.rename, p.add, p.remove, p.touch, p.link, p.unlink, p.directory,
		p.editLines, p.editLines, p.cosmetic, p.argument, p.moveBase, p.ignore, p.secretValue, p.platform, p.retag, p.relabel, p.alias, p.rebase,
	}
	what := pick(p, edits)()
	must(p.Write())
	return what
}

func (p *Project) editFile() string {
	name := pick(p, p.files())
	must(os.WriteFile(p.path(name), fmt.Appendf(nil, "edit %d\n", p.rng.IntN(4)), 0o644))
	return "edit " + name
}

func (p *Project) chmod() string {
	name, mode := pick(p, p.files()), pick(p, []fs.FileMode{0o600, 0o644, 0o755})
	must(os.Chmod(p.path(name), mode))
	return fmt.Sprintf("chmod %o %s", mode, name)
}

func (p *Project) rename() string {
	name := pick(p, p.files())
	to := filepath.ToSlash(filepath.Join(filepath.Dir(name), fmt.Sprintf("renamed%d", p.fresh())))
	must(os.Rename(p.path(name), p.path(to)))
	return "rename " + name + " to " + to
}

func (p *Project) add() string {
	name := filepath.ToSlash(filepath.Join(filepath.Dir(pick(p, p.files())), pick(p, []string{"new", "new.tmp", "note"})))
	must(os.RemoveAll(p.path(name)))
	p.write(name, "new\n")
	return "add " + name
}

func (p *Project) remove() string {
	list := slices.DeleteFunc(p.files(), func(name string) bool {
		return strings.HasSuffix(name, "main.txt") || strings.HasSuffix(name, "lib.txt") // so that no directory becomes empty
	})
	if len(list) == 0 {
		return "remove nothing"
	}
	name := pick(p, list)
	must(os.Remove(p.path(name)))
	return "remove " + name
}

// touch changes times only, which are not part of an image's key.
func (p *Project) touch() string {
	name := pick(p, p.files())
	data, err := os.ReadFile(p.path(name))
	must(err)
	info, err := os.Stat(p.path(name))
	must(err)
	must(os.Remove(p.path(name)))
	must(os.WriteFile(p.path(name), data, info.Mode().Perm()))
	must(os.Chmod(p.path(name), info.Mode().Perm()))
	return "touch " + name
}

func (p *Project) link() string {
	name := filepath.Join(filepath.Dir(pick(p, p.files())), "link")
	to := pick(p, []string{"main.txt", "lib.txt", "/etc/passwd", "nowhere"})
	must(os.RemoveAll(p.path(name)))
	must(os.Symlink(to, p.path(name)))
	return "link " + name + " to " + to
}

// unlink puts a file in the place of a link.
func (p *Project) unlink() string {
	name := filepath.Join(filepath.Dir(pick(p, p.files())), "link")
	must(os.RemoveAll(p.path(name)))
	p.write(filepath.ToSlash(name), "no link\n")
	return "no link " + name
}

func (p *Project) directory() string {
	dir := pick(p, p.services).name + "/src/sub"
	must(os.MkdirAll(p.path(dir), 0o755))
	mode := pick(p, []fs.FileMode{0o755, 0o700})
	must(os.Chmod(p.path(dir), mode))
	return fmt.Sprintf("chmod %o %s", mode, dir)
}

func (p *Project) editLines() string {
	s := pick(p, p.services)
	if len(s.lines) > 0 && p.rng.IntN(2) == 0 {
		s.lines = slices.Delete(slices.Clone(s.lines), 0, 1)
		return "fewer lines in " + s.name
	}
	lines := []string{"ENV A=1", "ENV A=2", "WORKDIR /x", "COPY --chmod=600 common /more", "LABEL more=1", "STOPSIGNAL SIGINT"}
	if s.runs {
		lines = append(lines, "RUN true", "RUN echo extra >/extra")
	}
	s.lines = append(slices.Clone(s.lines), pick(p, lines))
	return "more lines in " + s.name
}

// cosmetic changes nothing that is in an image.
func (p *Project) cosmetic() string {
	s := pick(p, p.services)
	s.comment = p.fresh()
	s.stage = pick(p, []string{"build", "compile", "x"})
	return "comment in " + s.name
}

func (p *Project) argument() string {
	if p.rng.IntN(3) == 0 {
		p.flavor = p.rng.IntN(3)
		return "a used arg"
	}
	p.commit = p.fresh()
	return "an unused arg"
}

func (p *Project) moveBase() string {
	i := p.rng.IntN(len(p.bases))
	p.bases[i] = 1 + p.rng.IntN(3)
	must(p.Push(baseName(i), p.bases[i]))
	return fmt.Sprintf("base %d is version %d", i, p.bases[i])
}

func (p *Project) ignore() string {
	if len(p.ignored) > 1 && p.rng.IntN(2) == 0 {
		p.ignored = p.ignored[:len(p.ignored)-1]
		return "ignore less"
	}
	name := pick(p, slices.DeleteFunc(p.files(), func(name string) bool {
		return strings.HasSuffix(name, "main.txt") || strings.HasSuffix(name, "lib.txt")
	}))
	p.ignored = append(p.ignored, name)
	return "ignore " + name
}

// secretValue changes what no key may depend on.
func (p *Project) secretValue() string {
	p.write("token", fmt.Sprintf("secret %d\n", p.fresh()))
	return "the value of a secret"
}

func (p *Project) platform() string {
	s := pick(p, slices.DeleteFunc(slices.Clone(p.services), func(s *service) bool { return s.runs }))
	s.platforms = slices.Clone(p.Platforms[:1+p.rng.IntN(len(p.Platforms))])
	return fmt.Sprintf("platforms of %s: %s", s.name, s.platforms)
}

func (p *Project) retag() string {
	p.tag = p.fresh()
	return "new tags"
}

func (p *Project) relabel() string {
	s := pick(p, p.services)
	s.label = p.rng.IntN(3)
	return "label of " + s.name
}

// alias has the link that a service copies through lead to another directory.
func (p *Project) alias() string {
	to := pick(p, p.services).name + "/src"
	must(os.RemoveAll(p.path("alias")))
	must(os.Symlink(to, p.path("alias")))
	return "alias leads to " + to
}

func (p *Project) rebase() string {
	s := pick(p, p.services)
	s.base = p.rng.IntN(len(p.bases))
	return "another base for " + s.name
}
