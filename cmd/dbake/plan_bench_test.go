package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkPlan runs "dbake plan --offline" for four nodes as a process, on projects of
// services that each have a Dockerfile and some files of their own and link one of a few
// bases. It reports the processor time and the most memory of the first run and of the
// second, which remembers it; nothing has changed in between.
//
//	BEFORE=/path/to/another/dbake go test ./cmd/dbake -run '^$' -bench Plan -benchtime 1x
//
// With BEFORE, that program takes turns with this one, with a memory of its own.
func BenchmarkPlan(b *testing.B) {
	tools := map[string]string{"": filepath.Join(b.TempDir(), "dbake")}
	out, err := exec.Command("go", "build", "-trimpath", "-o", tools[""], ".").CombinedOutput()
	require.NoError(b, err, "%s", out)
	names := []string{""}
	if before := os.Getenv("BEFORE"); before != "" {
		tools["before-"] = before
		names = append(names, "before-")
	}
	for _, n := range []int{9, 100, 1_000, 5_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			dir := b.TempDir()
			writeServices(b, dir, n)
			cpu, memory := map[string]float64{}, map[string]float64{}
			for b.Loop() {
				homes := map[string]string{}
				for _, run := range []string{"first", "second"} {
					for _, tool := range names {
						if homes[tool] == "" {
							homes[tool] = b.TempDir()
						}
						cmd := exec.Command(tools[tool], "plan", "--offline", "--nodes", "a=tcp://a:1", "--nodes", "b=tcp://b:1", "--nodes", "c=tcp://c:1", "--nodes", "d=tcp://d:1")
						cmd.Dir, cmd.Env = dir, []string{"HOME=" + homes[tool], "PATH=" + os.Getenv("PATH")}
						out, err := cmd.Output()
						require.NoError(b, err)
						require.NotEmpty(b, out)
						used := cmd.ProcessState.SysUsage().(*syscall.Rusage)
						cpu[tool+run] += (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
						memory[tool+run] = max(memory[tool+run], float64(used.Maxrss)/1024)
					}
				}
			}
			b.ReportMetric(0, "ns/op") // of all together says nothing
			for name := range cpu {
				b.ReportMetric(cpu[name]*1000/float64(b.N), name+"-cpu-ms")
				b.ReportMetric(memory[name], name+"-MiB")
			}
		})
	}
}

// BenchmarkStart runs short commands as processes. It reports their processor time, most of
// which is what it takes to start. BEFORE is as for [BenchmarkPlan].
//
//	BEFORE=/path/to/another/dbake go test ./cmd/dbake -run '^$' -bench Start -benchtime 50x
func BenchmarkStart(b *testing.B) {
	tools := map[string]string{"": filepath.Join(b.TempDir(), "dbake")}
	out, err := exec.Command("go", "build", "-trimpath", "-o", tools[""], ".").CombinedOutput()
	require.NoError(b, err, "%s", out)
	if before := os.Getenv("BEFORE"); before != "" {
		tools["before-"] = before
	}
	dir := b.TempDir()
	writeServices(b, dir, 4) // nine targets with their bases
	for _, command := range []string{"version", "--help", "plan --offline --nodes a=tcp://a:1"} {
		b.Run(strings.Fields(command)[0], func(b *testing.B) {
			home, cpu := b.TempDir(), map[string]float64{}
			for b.Loop() {
				for name, tool := range tools {
					cmd := exec.Command(tool, strings.Fields(command)...)
					cmd.Dir, cmd.Env = dir, []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}
					require.NoError(b, cmd.Run())
					cpu[name] += (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
				}
			}
			b.ReportMetric(0, "ns/op") // of all together says nothing
			for name := range cpu {
				b.ReportMetric(cpu[name]*1000/float64(b.N), name+"cpu-ms")
			}
		})
	}
}

// writeServices writes a project of n targets besides its bases, with eight steps each.
func writeServices(b *testing.B, dir string, n int) {
	b.Helper()
	write := func(name, text string) {
		file := filepath.Join(dir, name)
		require.NoError(b, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(b, os.WriteFile(file, []byte(text), 0o600))
	}
	const bases = 5
	var bake strings.Builder
	var all []string
	for i := range bases {
		write(fmt.Sprintf("base%d/Dockerfile", i), fmt.Sprintf("FROM golang:1.2%d\nRUN apk add git make\nRUN install tools %d\n", i, i))
		fmt.Fprintf(&bake, "target \"base%d\" {\n  context = \"base%d\"\n}\n", i, i)
	}
	for i := range n {
		name := fmt.Sprintf("svc%04d", i)
		all = append(all, fmt.Sprintf("%q", name))
		write(name+"/Dockerfile", fmt.Sprintf(`FROM base AS build
ARG VERSION=0
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg go mod download
COPY . .
RUN go vet ./...
RUN go build -ldflags "-X main.version=$VERSION" -o /out/%s .
FROM alpine
RUN apk add ca-certificates
COPY --from=build /out/%s /usr/bin/
RUN adduser -D %s
ENTRYPOINT ["/usr/bin/%s"]
`, name, name, name, name))
		write(name+"/go.mod", "module example.com/"+name+"\n")
		write(name+"/go.sum", "")
		for k := range 18 {
			write(fmt.Sprintf("%s/pkg%d/file.go", name, k), fmt.Sprintf("package pkg%d // of %s\n", k, name))
		}
		fmt.Fprintf(&bake, "target %q {\n  context = %q\n  contexts = { base = \"target:base%d\" }\n  args = { VERSION = \"1.%d\" }\n  tags = [\"registry.example.com/%s:latest\"]\n}\n", name, name, i%bases, i, name)
	}
	write("docker-bake.hcl", fmt.Sprintf("group \"default\" {\n  targets = [%s]\n}\n", strings.Join(all, ", "))+bake.String())
}
