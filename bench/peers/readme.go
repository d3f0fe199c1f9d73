package peers

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/dbake/dbake/bench/real"
)

// The lines between which a README holds the tables of the last run.
const (
	beginMark = "<!-- the rest is written by \"go run ./bench peers -readme\" -->"
	endMark   = "<!-- up to here -->"
)

// facts are what a reader has to know of a run.
type facts struct {
	command, when       string
	cpu, kernel, memory string
	buildx              string
}

// about returns the arguments of the command, and the buildx that it ran.
func (s *settings) about() (args []string, buildx string) { return os.Args[1:], s.buildx }

// first returns the first line that a command prints; "" when it fails.
func first(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}

// commitHere returns the commit of the sources, and says whether they were changed since.
func commitHere() string {
	commit := first("git", "rev-parse", "--short=12", "HEAD")
	if commit != "" && first("git", "status", "--porcelain", "--untracked-files=no") != "" {
		commit += " with changes"
	}
	return commit
}

// machine finds out about the machine. What cannot be found out is left
// empty.
func machine(args []string, buildx string) facts {
	f := facts{command: "go run ./bench " + strings.Join(args, " "), when: time.Now().UTC().Format(time.DateOnly)}
	f.kernel = first("uname", "-sr")
	if buildx != "" {
		f.buildx = first(buildx, "version")
	}
	f.cpu = fmt.Sprintf("%d × %s", runtime.NumCPU(), field("/proc/cpuinfo", "model name"))
	f.memory = field("/proc/meminfo", "MemTotal")
	return f
}

// field returns the first value of a key in a file of lines "key: value".
func field(file, key string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// writeReadme replaces what stands between the marks of a file.
func writeReadme(name string, runs []Run, f facts) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(text, []byte(beginMark))
	_, after, too := bytes.Cut(rest, []byte(endMark))
	if !ok || !too {
		return fmt.Errorf("%s: the lines %q and %q are missing", name, beginMark, endMark)
	}
	var b bytes.Buffer
	b.Write(before)
	b.WriteString(beginMark + "\n")
	if err := errors.Join(writeFacts(&b, runs, f), writeVerdict(&b, runs), writeTables(&b, runs)); err != nil {
		return err
	}
	b.WriteString("\n" + endMark)
	b.Write(after)
	return os.WriteFile(name, b.Bytes(), 0o644)
}

func writeFacts(w io.Writer, runs []Run, f facts) error {
	commits := order(runs, func(r Run) string { return r.Commit })
	what := "Commit "
	if len(commits) > 1 {
		what = "Commits "
	}
	_, err := fmt.Fprintf(w, "\n    %s\n\n%s%s, %s, on %s, %s of memory, %s; %s.\n", f.command, what, strings.Join(commits, ", "), f.when, f.cpu, f.memory, f.kernel, f.buildx)
	return err
}

// even is the difference within which two times count as the same.
const even = 0.05

// verdict is the time of a contender against dbake's where one is clearly faster.
type verdict struct {
	project, scenario, contender string
	ratio                        float64
}

// verdicts returns where a contender was faster than the baseline, the worst first, and
// how it did on the whole.
func verdicts(runs []Run) (losses []verdict, means map[string]float64) {
	base := baseline(runs)
	logs := map[string][]float64{}
	for _, p := range order(runs, func(r Run) string { return r.Project }) {
		for _, s := range scenarios {
			for _, c := range ranking(runs) {
				if strings.HasPrefix(c, base) {
					continue // one of its own
				}
				got := collect(runs, p, s, c, base)
				if len(got.ratio) == 0 {
					continue
				}
				ratio := real.Median(got.ratio)
				logs[c] = append(logs[c], math.Log(ratio))
				if ratio < 1-even {
					losses = append(losses, verdict{p, s, c, ratio})
				}
			}
		}
	}
	slices.SortStableFunc(losses, func(a, b verdict) int {
		switch {
		case a.ratio < b.ratio:
			return -1
		case a.ratio > b.ratio:
			return 1
		}
		return 0
	})
	means = map[string]float64{}
	for c, list := range logs {
		sum := 0.
		for _, x := range list {
			sum += x
		}
		means[c] = math.Exp(sum / float64(len(list)))
	}
	return losses, means
}

// writeVerdict names what was lost, and says how things are on the whole.
func writeVerdict(w io.Writer, runs []Run) error {
	base := baseline(runs)
	losses, means := verdicts(runs)
	fmt.Fprintf(w, "\nGeometric mean of all times against %s:", base)
	var list []string
	for _, c := range slices.Sorted(maps.Keys(means)) {
		list = append(list, fmt.Sprintf("%s %.2f", c, means[c]))
	}
	fmt.Fprintf(w, " %s.\n\n", strings.Join(list, "; "))
	if len(losses) == 0 {
		_, err := fmt.Fprintf(w, "Nothing was faster than %s anywhere, by more than %.0f %%.\n", base, 100*even)
		return err
	}
	fmt.Fprintf(w, "Lost, by more than %.0f %%:\n\n", 100*even)
	for _, v := range losses {
		if _, err := fmt.Fprintf(w, "- %s, %s: %s takes %.2f of the time\n", v.project, v.scenario, v.contender, v.ratio); err != nil {
			return err
		}
	}
	return nil
}
