//go:build integration

package faults

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/moby/buildkit/client"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dbake/dbake/runtime/local"
	"github.com/dbake/dbake/runtime/local/localtest"
)

var (
	seedFlag = flag.Int("seed", 0, "seed of the first run; those after it count on")
	runsFlag = flag.Int("runs", 12, "how many runs")
)

const (
	nodeCount   = 3
	targetCount = 6

	// deadline is how long a run may take before it counts as hung. Without a fault
	// it takes some seconds.
	deadline = 2 * time.Minute

	// nodeTimeout is the --node-timeout of the runs: longer than the machine may be
	// busy with something else.
	nodeTimeout = 8 * time.Second

	// brief is how long a short interruption lasts.
	brief = 2 * time.Second

	// diskSize is the size of the file system of the last node.
	diskSize = 96 << 20
)

// moment is when a fault begins.
type moment string

const (
	before moment = "before the start"
	first  moment = "at the first step"
	middle moment = "at the fourth step"
	push   moment = "at the first upload"
)

// fault is a kind of fault, and how a run must end in spite of it.
type fault struct {
	name    string
	moments []moment
	// begin starts it on node n, and returns what is to be done when the run has
	// ended; nil is nothing. It may wait, as long as ctx lives.
	begin func(ctx context.Context, s *site, n int) (undo func())
	// mayFail is what the error must say if the run fails; nil when it must not.
	mayFail *regexp.Regexp
}

// fullDisk is the kind that can only be on the last node.
const fullDisk = "full disk"

var (
	early    = []moment{before, first, middle}
	late     = []moment{first, middle, push}
	anytime  = []moment{before, first, middle, push}
	uploads  = []moment{before, push}
	allFault = []fault{
		{"drop", anytime, func(_ context.Context, s *site, n int) func() {
			s.proxies[n].set(refuse)
			s.proxies[n].reset()
			return nil
		}, nil},
		{"kill", late, func(_ context.Context, s *site, n int) func() {
			s.signal(n, unix.SIGKILL)
			return nil
		}, nil},
		{"blackhole", anytime, func(_ context.Context, s *site, n int) func() {
			s.proxies[n].set(blackhole)
			return nil
		}, nil},
		{"registry 429", uploads, spoils(tooMany, 3, isUpload), nil},
		{"stop", late, func(_ context.Context, s *site, n int) func() {
			return s.stop(n)
		}, nil},
		{fullDisk, early, func(_ context.Context, s *site, _ int) func() { return s.fill() }, nil},
		{"half-close", late, func(_ context.Context, s *site, n int) func() {
			s.proxies[n].halfClose()
			return nil
		}, nil},
		{"registry 503", uploads, spoils(broken, 3, all), nil},
		{"reset", late, func(_ context.Context, s *site, n int) func() {
			s.proxies[n].reset()
			return nil
		}, nil},
		{"registry 401", []moment{before}, spoils(unauthorized, -1, isUpload), regexp.MustCompile(`(?i)401|unauthorized|denied|authori[sz]ation|credentials`)},
		{"all nodes dropped", late, func(_ context.Context, s *site, _ int) func() {
			for _, p := range s.proxies {
				p.set(refuse)
				p.reset()
			}
			return nil
		}, regexp.MustCompile(`(?i)node n\d|lost|not built`)},
		{"registry away for a while", []moment{middle, push}, func(ctx context.Context, s *site, _ int) func() {
			s.front.spoil(hangUp, -1, all)
			wait(ctx, 3*brief)
			s.front.spoil(honest, 0, nil)
			return nil
		}, nil},
		{"delay", early, func(_ context.Context, s *site, n int) func() {
			s.proxies[n].set(slow)
			return nil
		}, nil},
		{"brief blackhole", late, func(ctx context.Context, s *site, n int) func() {
			s.proxies[n].set(blackhole)
			wait(ctx, brief)
			s.proxies[n].set(pass)
			return nil
		}, nil},
		{"brief stop", late, func(ctx context.Context, s *site, n int) func() {
			resume := s.stop(n)
			wait(ctx, brief)
			resume()
			return nil
		}, nil},
		{"killed and gone", late, func(_ context.Context, s *site, n int) func() {
			s.proxies[n].set(refuse)
			s.signal(n, unix.SIGKILL)
			return nil
		}, nil},
		{"two nodes dropped", late, func(_ context.Context, s *site, n int) func() {
			for i := range 2 {
				p := s.proxies[(n+i)%nodeCount]
				p.set(refuse)
				p.reset()
			}
			return nil
		}, nil},
		{"registry cuts off", uploads, spoils(hangUp, 3, isUpload), nil},
		{"registry mute for a while", []moment{push}, func(ctx context.Context, s *site, _ int) func() {
			s.front.spoil(mute, 2, isUpload)
			wait(ctx, 2*brief)
			s.front.spoil(honest, 0, nil)
			return nil
		}, nil},
		{"registry mute", []moment{push}, spoils(mute, -1, all), regexp.MustCompile(`(?i)registry|push|timeout|answer|deadline|EOF`)},
		{"registry HTML", []moment{before}, spoils(html, -1, all), regexp.MustCompile(`(?i)html|unexpected|registry|content|not found|login`)},
		{"base image 503", []moment{before}, spoils(broken, 2, isRead), nil},
	}
)

func spoils(a answer, n int, match func(*http.Request) bool) func(context.Context, *site, int) func() {
	return func(_ context.Context, s *site, _ int) func() {
		s.front.spoil(a, n, match)
		return nil
	}
}

// wait waits for a time that is the fault.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// site is where the runs take place.
type site struct {
	t       *testing.T
	dbake   string
	dir     string // of the project
	state   string
	cluster *local.Cluster
	proxies []*proxy
	front   *front
	want    map[string]string // digests of an undisturbed run, by target
}

func newSite(t *testing.T) *site {
	localtest.Need(t)
	s := &site{t: t, dir: t.TempDir(), state: localtest.Dir(t)}
	s.dbake = filepath.Join(t.TempDir(), "dbake")
	out, err := exec.Command("go", "build", "-trimpath", "-o", s.dbake, "../../cmd/dbake").CombinedOutput()
	require.NoError(t, err, "%s", out)

	disk := s.disk()
	require.NoError(t, os.MkdirAll(disk, 0o700))
	require.NoError(t, unix.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=%d,mode=700", diskSize)))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(disk, unix.MNT_DETACH)) })
	s.cluster, err = local.Open(t.Context(), local.Options{StateDir: s.state, Nodes: nodeCount, Buildkitd: localtest.Buildkitd(t)})
	require.NoError(t, err)
	require.NoError(t, s.cluster.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, s.cluster.Stop(context.Background())) })
	for _, n := range s.cluster.Nodes() {
		p, err := newProxy("unix", strings.TrimPrefix(n.Addr, "unix://"))
		require.NoError(t, err)
		t.Cleanup(p.close)
		s.proxies = append(s.proxies, p)
	}
	s.front = newFront(s.cluster.Registry())
	t.Cleanup(s.front.close)
	s.write()
	r := s.run(t, "base", fault{}, before, 0, "base")
	require.Equal(t, "built", r.outcome, r.output)
	r = s.run(t, "undisturbed", fault{}, before, 0)
	require.Equal(t, "built", r.outcome, r.output)
	require.Len(t, r.digests, targetCount)
	s.want = r.digests
	return s
}

// write makes the project: a base image, and targets that share a stage. Their images
// are the same whenever they are built, and no step of one run is known in another.
func (s *site) write() {
	busybox, err := exec.LookPath("busybox")
	require.NoError(s.t, err)
	binary, err := os.ReadFile(busybox)
	require.NoError(s.t, err)
	require.NoError(s.t, os.WriteFile(filepath.Join(s.dir, "busybox"), binary, 0o755))
	var b strings.Builder
	fmt.Fprintf(&b, `
variable "RUN" {}
group "default" { targets = [for i in [1, 2, 3, 4, 5, 6] : "t${i}"] }
target "base" {
  dockerfile-inline = "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n"
  output = ["type=image,name=%[1]s/base:1,push=true"]
}
target "t" {
  name = "t${i}"
  matrix = { i = [1, 2, 3, 4, 5, 6] }
  dockerfile-inline = <<EOT
FROM %[1]s/base:1 AS shared
ARG RUN
RUN echo be""gin shared $RUN; sleep 0.5; echo shared >/shared
FROM shared AS build
COPY docker-bake.hcl /
RUN echo be""gin ${i}; sleep 1; echo ${i} | cat /shared - >/out
FROM scratch
COPY --from=build /out /
EOT
  args = { RUN = RUN, SOURCE_DATE_EPOCH = "0" }
  output = ["type=image,name=%[1]s/${RUN}/t${i}:1,push=true,rewrite-timestamp=true"]
}
`, s.front.addr())
	require.NoError(s.t, os.WriteFile(filepath.Join(s.dir, "docker-bake.hcl"), []byte(b.String()), 0o644))
}

// disk is where the file system of the last node is.
func (s *site) disk() string {
	return filepath.Join(s.state, "nodes", fmt.Sprintf("n%d", nodeCount))
}

// fill leaves no space on the disk of the last node.
func (s *site) fill() func() {
	path := filepath.Join(s.disk(), "ballast")
	f, err := os.Create(path)
	require.NoError(s.t, err)
	piece := make([]byte, 64<<10)
	for err == nil {
		_, err = f.Write(piece)
	}
	require.ErrorIs(s.t, err, unix.ENOSPC)
	require.NoError(s.t, f.Close())
	return func() { require.NoError(s.t, os.Remove(path)) }
}

// signal sends a signal to the daemon of a node, and returns its number. One that has
// just died gets none.
func (s *site) signal(n int, sig unix.Signal) int {
	st, err := local.ReadStatus(s.t.Context(), s.state)
	require.NoError(s.t, err)
	pid := st.Nodes[n].PID
	s.send(pid, sig)
	return pid
}

func (s *site) send(pid int, sig unix.Signal) {
	if pid == 0 {
		return
	}
	if err := unix.Kill(pid, sig); err != nil {
		require.ErrorIs(s.t, err, unix.ESRCH)
	}
}

// stop has the daemon of a node stand still until resume is called, which must not ask
// the daemon for anything.
func (s *site) stop(n int) (resume func()) {
	pid := s.signal(n, unix.SIGSTOP)
	return func() { s.send(pid, unix.SIGCONT) }
}

// recover ends all faults and waits until the nodes are well.
func (s *site) recover() {
	s.front.watch(nil)
	s.front.spoil(honest, 0, nil)
	for i, p := range s.proxies {
		p.set(pass)
		require.Eventually(s.t, func() bool {
			ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
			defer cancel()
			c, err := client.New(ctx, s.cluster.Nodes()[i].Addr)
			require.NoError(s.t, err)
			defer c.Close()
			_, err = c.Info(ctx)
			return err == nil
		}, time.Minute, 50*time.Millisecond, "node n%d is not well again", i+1)
	}
}

// result is what became of a run.
type result struct {
	outcome string // built, failed, hung, or what is wrong
	wrong   bool
	took    time.Duration
	noticed string // how long it took until dbake said something of the fault
	digests map[string]string
	output  string
}

// record is what a run says on standard error, as far as it matters here.
type record struct {
	Event, Message string
	Logs           []struct{ Data []byte }
}

// watcher reads the records of a run.
type watcher struct {
	all     bytes.Buffer
	steps   int
	errors  []string
	started map[moment]chan struct{}

	mu      sync.Mutex // guards what follows
	began   time.Time  // of the fault
	noticed time.Duration
}

func newWatcher() *watcher {
	return &watcher{started: map[moment]chan struct{}{first: make(chan struct{}), middle: make(chan struct{}), push: make(chan struct{})}}
}

// read reads until the end.
func (w *watcher) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		w.all.Write(append(lines.Bytes(), '\n'))
		var rec record
		if json.Unmarshal(lines.Bytes(), &rec) != nil {
			w.errors = append(w.errors, lines.Text())
			continue
		}
		for _, l := range rec.Logs {
			for range bytes.Count(l.Data, []byte("begin ")) {
				w.steps++
				switch w.steps {
				case 1:
					close(w.started[first])
				case 4:
					close(w.started[middle])
				}
			}
		}
		switch rec.Event {
		case "", "target", "summary":
		case "error":
			w.errors = append(w.errors, rec.Message)
			w.notice()
		default:
			w.notice()
		}
	}
	return lines.Err()
}

func (w *watcher) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.began = time.Now()
}

func (w *watcher) notice() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.began.IsZero() && w.noticed == 0 {
		w.noticed = time.Since(w.began)
	}
}

// run builds the targets while something is wrong.
func (s *site) run(t *testing.T, id string, f fault, at moment, n int, targets ...string) result {
	home := t.TempDir()
	metadata := filepath.Join(home, "metadata.json")
	args := []string{"build", "--progress", "rawjson", "--metadata-file", metadata, "--node-timeout", nodeTimeout.String(), "--var", "RUN=" + id}
	for i, p := range s.proxies {
		args = append(args, "--nodes", fmt.Sprintf("n%d=tcp://%s", i+1, p.listener.Addr()))
	}
	cmd := exec.Command(s.dbake, append(args, targets...)...)
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "BUILDX_NO_DEFAULT_ATTESTATIONS=1"}
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)

	w := newWatcher()
	once := sync.OnceFunc(func() { close(w.started[push]) })
	s.front.watch(func(r *http.Request) {
		if isUpload(r) {
			once()
		}
	})
	ctx, end := context.WithCancel(t.Context())
	defer end()
	var undo func()
	begin := func() {
		w.begin()
		if f.begin != nil {
			undo = f.begin(ctx, s, n)
		}
	}
	var trouble sync.WaitGroup
	if at == before {
		begin()
	} else {
		trouble.Go(func() {
			select {
			case <-w.started[at]:
				begin()
			case <-ctx.Done():
			}
		})
	}
	start := time.Now()
	require.NoError(t, cmd.Start())
	hung := false
	watchdog := time.AfterFunc(deadline, func() {
		hung = true
		_ = cmd.Process.Signal(unix.SIGQUIT) // says where everybody waits
		time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
	})
	readErr := w.read(stderr)
	runErr := cmd.Wait()
	watchdog.Stop()
	end()
	trouble.Wait()
	require.NoError(t, readErr)
	if undo != nil {
		undo()
	}
	s.recover()

	r := result{took: time.Since(start), output: w.all.String(), noticed: "-"}
	if w.noticed > 0 {
		r.noticed = fmt.Sprintf("%.1f s", w.noticed.Seconds())
	}
	if b, err := os.ReadFile(metadata); err == nil {
		r.digests = digests(t, b)
	}
	said := strings.Join(w.errors, "\n")
	switch {
	case hung:
		r.outcome, r.wrong = "hung", true
	case runErr == nil:
		r.outcome = "built"
		if s.want != nil {
			r.check(s, id)
		}
	case f.mayFail == nil:
		r.outcome, r.wrong = "failed: "+said, true
	case !f.mayFail.MatchString(said):
		r.outcome, r.wrong = "failed for another reason: "+said, true
	default:
		r.outcome = "failed, as it must"
	}
	return r
}

// check compares what was built, and what the registry has, with the undisturbed run.
func (r *result) check(s *site, id string) {
	for target, want := range s.want {
		if got := r.digests[target]; got != want {
			r.outcome, r.wrong = fmt.Sprintf("%s is %s instead of %s", target, got, want), true
			return
		}
		got, err := s.pushedDigest(id + "/" + target)
		if err != nil {
			r.outcome, r.wrong = err.Error(), true
			return
		}
		if got != want {
			r.outcome, r.wrong = fmt.Sprintf("%s is %q in the registry instead of %s", target, got, want), true
			return
		}
	}
}

// pushedDigest asks the registry itself for the digest of the tag 1 of a repository.
func (s *site) pushedDigest(repository string) (string, error) {
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodHead, "http://"+s.cluster.Registry()+"/v2/"+repository+"/manifests/1", nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Accept", ocispecs.MediaTypeImageManifest+", "+images.MediaTypeDockerSchema2Manifest)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	return resp.Header.Get("Docker-Content-Digest"), resp.Body.Close()
}

// digests reads the digest of each target from a metadata file.
func digests(t *testing.T, b []byte) map[string]string {
	var all map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(b, &all), "%s", b)
	found := map[string]string{}
	for target, raw := range all {
		var m struct {
			Digest string `json:"containerimage.digest"`
		}
		if json.Unmarshal(raw, &m) == nil && m.Digest != "" {
			found[target] = m.Digest
		}
	}
	return found
}

func TestFaults(t *testing.T) {
	s := newSite(t)
	var table bytes.Buffer
	tw := tabwriter.NewWriter(&table, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "SEED\tFAULT\tNODE\tWHEN\tTOOK\tNOTICED\tOUTCOME")
	var wrong []string
	for seed := *seedFlag; seed < *seedFlag+*runsFlag; seed++ {
		rnd := rand.New(rand.NewPCG(uint64(seed), 0))
		f := allFault[seed%len(allFault)]
		at := f.moments[rnd.IntN(len(f.moments))]
		n := rnd.IntN(nodeCount)
		if f.name == fullDisk {
			n = nodeCount - 1
		}
		r := s.run(t, fmt.Sprintf("run%d", seed), f, at, n)
		line := fmt.Sprintf("%d\t%s\tn%d\t%s\t%.1f s\t%s\t%s", seed, f.name, n+1, at, r.took.Seconds(), r.noticed, firstLine(r.outcome))
		fmt.Fprintln(tw, line)
		t.Log(strings.ReplaceAll(line, "\t", "  "))
		if r.wrong {
			wrong = append(wrong, fmt.Sprintf("-seed %d: %s, n%d %s: %s", seed, f.name, n+1, at, r.outcome))
		}
		if dir := os.Getenv("DBAKE_FAULTS_DIR"); dir != "" {
			require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("seed%d.jsonl", seed)), []byte(r.output), 0o600))
		}
	}
	require.NoError(t, tw.Flush())
	fmt.Print(table.String())
	slices.Sort(wrong)
	require.Empty(t, wrong, "runs that ended wrongly")
}

func firstLine(s string) string {
	line, _, more := strings.Cut(s, "\n")
	if len(line) > 120 {
		line, more = line[:120], true
	}
	if more {
		return line + "..."
	}
	return line
}
