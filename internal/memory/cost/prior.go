package cost

import (
	"path"
	"strings"
	"time"
)

// guess is what is expected of a command that nothing is known about.
type guess struct {
	family string
	took   time.Duration
	bytes  int64
}

const mb = 1 << 20

// tool describes the commands of one family: their names, which subcommands they are
// (nil = any), and what they cost, at all and for each argument (a package, usually).
// The figures are those of a machine that fetches at some 20 MB/s and compiles on a
// few cores; only their ratio matters once the history has seen a few steps.
type tool struct {
	family   string
	names    []string
	subs     []string
	took     time.Duration
	each     time.Duration
	bytes    int64
	eachByte int64
}

// tools are tried in order.
var tools = []tool{
	{"apt", words("apt-get apt aptitude"), words("install upgrade dist-upgrade full-upgrade build-dep"), 12 * time.Second, 2 * time.Second, 20 * mb, 8 * mb},
	{"apt-update", words("apt-get apt aptitude"), words("update"), 6 * time.Second, 0, 30 * mb, 0},
	{"apk", words("apk"), words("add upgrade"), 2 * time.Second, 700 * time.Millisecond, 2 * mb, 5 * mb},
	{"dnf", words("dnf yum microdnf zypper tdnf"), words("install update upgrade groupinstall in"), 25 * time.Second, 2 * time.Second, 60 * mb, 8 * mb},
	{"pacman", words("pacman"), nil, 15 * time.Second, 2 * time.Second, 40 * mb, 8 * mb},
	{"pip", words("pip pip3 uv poetry pipenv pdm conda mamba micromamba"), words("install sync add create"), 12 * time.Second, 3 * time.Second, 60 * mb, 15 * mb},
	{"npm", words("npm pnpm bun"), words("install i ci add"), 30 * time.Second, time.Second, 200 * mb, 5 * mb},
	{"yarn", words("yarn"), words("install add --frozen-lockfile --immutable workspaces"), 30 * time.Second, 0, 200 * mb, 0},
	{"node-build", words("npm pnpm bun yarn npx next vite webpack tsc ng turbo nx"), nil, 35 * time.Second, 0, 20 * mb, 0},
	{"cargo-fetch", words("cargo"), words("fetch vendor"), 15 * time.Second, 0, 100 * mb, 0},
	{"cargo", words("cargo rustc cross"), nil, 120 * time.Second, 0, 300 * mb, 0},
	{"go-mod", words("go"), words("mod get"), 10 * time.Second, 0, 150 * mb, 0},
	{"go", words("go"), nil, 30 * time.Second, 0, 50 * mb, 0},
	{"maven", words("mvn mvnw mvnd"), nil, 80 * time.Second, 0, 150 * mb, 0},
	{"gradle", words("gradle gradlew sbt mill ant"), nil, 90 * time.Second, 0, 200 * mb, 0},
	{"dotnet", words("dotnet msbuild nuget"), nil, 45 * time.Second, 0, 150 * mb, 0},
	{"bundler", words("bundle bundler gem"), nil, 30 * time.Second, 0, 80 * mb, 0},
	{"composer", words("composer"), nil, 15 * time.Second, 0, 60 * mb, 0},
	{"mix", words("mix rebar3 stack cabal"), nil, 60 * time.Second, 0, 100 * mb, 0},
	{"configure", words("configure autoreconf autogen.sh"), nil, 15 * time.Second, 0, 5 * mb, 0},
	{"make", words("make gmake cmake ninja meson bazel scons"), nil, 60 * time.Second, 0, 40 * mb, 0},
	{"cc", words("gcc g++ cc c++ clang clang++ ld javac protoc"), nil, 5 * time.Second, 0, 5 * mb, 0},
	{"download", words("curl wget aria2c"), nil, 4 * time.Second, 0, 20 * mb, 0},
	{"git", words("git svn hg"), nil, 6 * time.Second, 0, 30 * mb, 0},
	{"archive", words("tar unzip gzip gunzip xz bzip2 zip 7z dpkg rpm"), nil, 2 * time.Second, 0, 20 * mb, 0},
	{"trivial", words("mkdir rmdir echo printf ln chmod chown chgrp rm touch cp mv cat tee sed true false : cd set export unset test [ [[ " +
		"useradd groupadd adduser addgroup usermod passwd install ldconfig update-ca-certificates which date id ls pwd mktemp find xargs grep " +
		"head tail tr cut sort uniq uname hostname apt-mark apt-cache apt-get apt apk yum dnf pip pip3 update-alternatives setcap stat env exit source . umask"),
		nil, 100 * time.Millisecond, 0, mb / 4, 0},
}

const (
	// startup is the time to start and end a container.
	startup = 300 * time.Millisecond
	// copyRate and pullRate are bytes per second.
	copyRate = 150 * mb
	pullRate = 40 * mb
	// unknownImage stands for the size of an image of unknown size.
	unknownImage = 40 * mb
)

func words(s string) []string { return strings.Fields(s) }

// prior guesses the cost of a step from nothing but what it is.
func prior(s Step) guess {
	switch s.Kind {
	case Run:
		g := command(s.Command)
		g.took += startup
		return g
	case Copy, Add:
		took := 150*time.Millisecond + transfer(s.InputBytes, copyRate)
		return guess{string(s.Kind), took, max(0, s.InputBytes)}
	case From:
		size := s.InputBytes
		if size <= 0 {
			size = unknownImage
		}
		return guess{string(From), 500*time.Millisecond + transfer(size, pullRate), size}
	case Export:
		return guess{string(Export), 500 * time.Millisecond, 0}
	}
	return guess{string(Other), 200 * time.Millisecond, 0}
}

func transfer(bytes, rate int64) time.Duration {
	return time.Duration(float64(max(0, bytes)) / float64(rate) * float64(time.Second))
}

// command guesses a command line: the sum of its commands, with the family of the
// dearest.
func command(line string) guess {
	total := guess{family: "trivial"}
	var dearest time.Duration
	for _, c := range split(line) {
		g := simple(c)
		total.took += g.took
		total.bytes += g.bytes
		if g.took > dearest {
			dearest, total.family = g.took, g.family
		}
	}
	return total
}

// split cuts a command line into simple commands. It is no shell: quotes only keep
// their contents from being cut, and what it gets wrong costs a bad guess.
func split(line string) [][]string {
	var out [][]string
	var cur []string
	var word strings.Builder
	var quote rune
	flush := func() {
		if word.Len() > 0 {
			cur = append(cur, word.String())
			word.Reset()
		}
	}
	end := func() {
		flush()
		if len(cur) > 0 {
			out = append(out, cur)
			cur = nil
		}
	}
	escaped := false
	for _, r := range line {
		switch {
		case escaped:
			escaped = false
			if r != '\n' && r != '\r' {
				word.WriteRune(r)
			}
		case quote != 0:
			if r == quote {
				quote = 0
			} else {
				word.WriteRune(r)
			}
		case r == '\\':
			escaped = true
		case r == '\'' || r == '"':
			quote = r
		case r == ' ' || r == '\t' || r == '\r':
			flush()
		case strings.ContainsRune(";&|\n(){}", r):
			end()
		default:
			word.WriteRune(r)
		}
	}
	end()
	return out
}

// simple guesses one command.
func simple(args []string) guess {
	args = unwrap(args)
	if len(args) == 0 {
		return guess{family: "trivial"}
	}
	name := path.Base(args[0])
	// python -m pip is pip.
	if strings.HasPrefix(name, "python") && len(args) > 2 && args[1] == "-m" {
		args = args[2:]
		name = args[0]
	}
	// A shell given a command line runs that.
	if (name == "sh" || name == "bash" || name == "ash" || name == "dash") && len(args) > 2 && strings.HasPrefix(args[1], "-") && strings.HasSuffix(args[1], "c") {
		return command(strings.Join(args[2:], " "))
	}
	for _, t := range tools {
		if !contains(t.names, name) {
			continue
		}
		at := 0
		if t.subs != nil {
			if at = subcommand(args, t.subs); at < 0 {
				if !(t.family == "yarn" && len(args) == 1) {
					continue
				}
				at = 0
			}
		}
		n := int64(0)
		for _, a := range args[at+1:] {
			if !strings.HasPrefix(a, "-") {
				n++
			}
		}
		n = min(n, 200)
		return guess{t.family, t.took + time.Duration(n)*t.each, t.bytes + n*t.eachByte}
	}
	return guess{"shell", 8 * time.Second, 10 * mb}
}

// subcommand returns the index of the first of subs among the first few arguments
// (options may come before it), or -1.
func subcommand(args, subs []string) int {
	for i := 1; i < len(args) && i < 8; i++ {
		if contains(subs, args[i]) {
			return i
		}
	}
	return -1
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// unwrap drops what stands before the command itself: RUN and its options,
// assignments, words of the shell's grammar, wrappers.
func unwrap(args []string) []string {
	for len(args) > 0 {
		switch a := args[0]; {
		case contains(wrappers, a), strings.HasPrefix(a, "--"):
		case strings.Contains(a, "=") && !strings.HasPrefix(a, "-") && !strings.ContainsAny(strings.SplitN(a, "=", 2)[0], "/ "):
		default:
			return args
		}
		args = args[1:]
	}
	return nil
}

var wrappers = words("RUN run sudo env time nice exec command eval if then else elif do while until for fi done ! nohup doas ionice")
