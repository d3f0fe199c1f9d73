package cost

import (
	"bytes"
	"fmt"
	"math/rand"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func inMemory(t *testing.T) *Store {
	t.Helper()
	s, err := Open(InMemory, Options{})
	require.NoError(t, err)
	return s
}

func key(name string) digest.Digest { return digest.FromString(name) }

func run(name, slot, command string) Step {
	return Step{Key: key(name), Slot: slot, Kind: Run, Command: command}
}

func took(node string, d time.Duration, at int) Sample {
	return Sample{Node: node, Took: d, When: start.Add(time.Duration(at) * time.Hour)}
}

func TestMeasured(t *testing.T) {
	s := inMemory(t)
	step := run("a", "api/build/1", "make")
	for i, d := range []time.Duration{10, 11, 12, 300, 9} {
		x := took("n1", d*time.Second, i)
		x.Bytes = int64(i) * 100
		s.Record(step, x)
	}
	p := s.Predict(step)
	require.Equal(t, Measured, p.Source)
	require.Equal(t, 11*time.Second, p.Duration)
	require.Equal(t, 5, p.Samples)
	require.Equal(t, int64(250), p.Bytes)
	require.InDelta(t, 0.135, p.Spread, 0.001)
}

func TestMeasuredTwiceIsOnce(t *testing.T) {
	s := inMemory(t)
	for range 3 {
		s.Record(run("a", "", "make"), took("n1", time.Second, 0))
	}
	require.Equal(t, 1, s.Predict(run("a", "", "make")).Samples)
}

func TestRecentSamplesCount(t *testing.T) {
	s := inMemory(t)
	step := run("a", "", "make")
	for i := range 100 {
		s.Record(step, took("n1", 100*time.Second, i))
	}
	for i := range maxSamples {
		s.Record(step, took("n1", 10*time.Second, 100+i))
	}
	require.Equal(t, 10*time.Second, s.Predict(step).Duration)
	require.Equal(t, maxSamples, s.Predict(step).Samples)
}

func TestSimilar(t *testing.T) {
	s := inMemory(t)
	s.Record(run("v1", "api/build/3", "go build ./old"), took("n1", 50*time.Second, 1))
	s.Record(run("v2", "api/build/3", "go build ./..."), took("n1", 40*time.Second, 2))
	s.Record(run("v3", "api/build/3", "go build ./old"), took("n1", 70*time.Second, 3))
	s.Record(run("x", "web/build/3", "go build ./..."), took("n1", 1*time.Second, 4))

	p := s.Predict(run("new", "api/build/3", "go build ./..."))
	require.Equal(t, Similar, p.Source)
	require.Equal(t, 40*time.Second, p.Duration, "the same command on other inputs, not the latest version")

	p = s.Predict(run("new", "api/build/3", "go build ./cmd"))
	require.Equal(t, Similar, p.Source)
	require.Equal(t, 50*time.Second, p.Duration, "the median of the three versions")
	require.Equal(t, 3, p.Samples)

	require.Equal(t, Prior, s.Predict(Step{Key: key("new"), Slot: "api/build/3", Kind: Copy}).Source, "the step is another one now")
	require.Equal(t, Prior, s.Predict(run("new", "", "go build ./...")).Source)
}

func TestSimilarPrefersThePlatform(t *testing.T) {
	s := inMemory(t)
	amd, arm := run("1", "a/0/1", "make"), run("2", "a/0/1", "make")
	amd.Platform, arm.Platform = "linux/amd64", "linux/arm64"
	s.Record(amd, took("n1", 10*time.Second, 1))
	s.Record(arm, took("n1", 90*time.Second, 2))
	step := run("3", "a/0/1", "make -j")
	step.Platform = "linux/amd64"
	require.Equal(t, 10*time.Second, s.Predict(step).Duration)
}

func TestSimilarCopyGrowsWithItsBytes(t *testing.T) {
	s := inMemory(t)
	step := Step{Key: key("v1"), Slot: "a/0/2", Kind: Copy, InputBytes: 100 * mb}
	x := took("n1", 4*time.Second, 1)
	x.Bytes = 100 * mb
	s.Record(step, x)
	step.Key, step.InputBytes = key("v2"), 200*mb
	p := s.Predict(step)
	require.Equal(t, Similar, p.Source)
	require.Equal(t, 8*time.Second, p.Duration)
	require.Equal(t, int64(200*mb), p.Bytes)
}

func TestPrior(t *testing.T) {
	for _, c := range []struct {
		command string
		family  string
		min     time.Duration
		max     time.Duration
	}{
		{"mkdir -p /app", "trivial", 0, time.Second},
		{"", "trivial", 0, time.Second},
		{"echo 'apt-get install everything' > /x", "trivial", 0, time.Second},
		{"apt-get update && apt-get install -y --no-install-recommends curl git", "apt", 15 * time.Second, 40 * time.Second},
		{"apt-get -qq -y install curl", "apt", 10 * time.Second, 30 * time.Second},
		{"rm -rf /var/lib/apt/lists/* && apt-get clean", "trivial", 0, time.Second},
		{"apk add --no-cache ca-certificates", "apk", time.Second, 10 * time.Second},
		{"dnf -y install gcc", "dnf", 20 * time.Second, 60 * time.Second},
		{"RUN --mount=type=cache,target=/root/.cache pip install -r requirements.txt", "pip", 10 * time.Second, 40 * time.Second},
		{"python3 -m pip install flask", "pip", 10 * time.Second, 40 * time.Second},
		{"npm ci", "npm", 20 * time.Second, time.Minute},
		{"npm run build", "node-build", 20 * time.Second, time.Minute},
		{"yarn", "yarn", 20 * time.Second, time.Minute},
		{"yarn build", "node-build", 20 * time.Second, time.Minute},
		{"CGO_ENABLED=0 GOOS=linux go build -o /out ./...", "go", 20 * time.Second, time.Minute},
		{"go mod download", "go-mod", 5 * time.Second, 30 * time.Second},
		{"cargo build --release", "cargo", time.Minute, 5 * time.Minute},
		{"./mvnw -q package", "maven", time.Minute, 3 * time.Minute},
		{"./gradlew build", "gradle", time.Minute, 3 * time.Minute},
		{"set -ex; ./configure --prefix=/usr && make -j4 && make install", "make", time.Minute, 4 * time.Minute},
		{"/bin/sh -c 'go build ./...'", "go", 20 * time.Second, time.Minute},
		{"if [ -f x ]; then npm ci; fi", "npm", 20 * time.Second, time.Minute},
		{"curl -fsSL https://example.com/x | tar -xz -C /", "download", 2 * time.Second, 20 * time.Second},
		{"/opt/do-something", "shell", 2 * time.Second, 20 * time.Second},
		{"echo \"unfinished", "trivial", 0, time.Second},
		{"a=b c=d", "trivial", 0, time.Second},
	} {
		g := prior(Step{Kind: Run, Command: c.command})
		require.Equal(t, c.family, g.family, "%q", c.command)
		require.GreaterOrEqual(t, g.took, c.min, "%q", c.command)
		require.LessOrEqual(t, g.took, c.max, "%q", c.command)
	}

	s := inMemory(t)
	small := s.Predict(Step{Kind: Copy, InputBytes: 1 * mb})
	large := s.Predict(Step{Kind: Copy, InputBytes: 1000 * mb})
	require.Equal(t, Prior, small.Source)
	require.Less(t, small.Duration, time.Second)
	require.Greater(t, large.Duration, 2*time.Second)
	require.Equal(t, int64(1000*mb), large.Bytes)
	require.Greater(t, s.Predict(Step{Kind: From, InputBytes: 800 * mb}).Duration, 5*time.Second)
	require.Greater(t, s.Predict(Step{Kind: From}).Duration, time.Second)
	require.Equal(t, Prediction{Duration: 200 * time.Millisecond, Source: Prior, Spread: 1}, s.Predict(Step{}))
}

func TestPriorLearnsFamilies(t *testing.T) {
	s := inMemory(t)
	step := run("new", "z/0/1", "go build ./cmd/z")
	table := s.Predict(step)
	for i := range kinship {
		s.Record(run(fmt.Sprint(i), fmt.Sprint(i), "go build ./cmd/x"), took("n1", 4*time.Second, i))
	}
	p := s.Predict(step)
	require.Equal(t, Prior, p.Source)
	require.Equal(t, 4*time.Second, p.Duration)
	require.Equal(t, kinship, p.Samples)
	require.Less(t, p.Duration, table.Duration)
	require.GreaterOrEqual(t, p.Spread, 0.3)
}

// Fewer than half of the samples, however wrong, keep the prediction within the
// range of the others.
func TestOutliersDoNotMoveTheMedian(t *testing.T) {
	for seed := range int64(200) {
		r := rand.New(rand.NewSource(seed))
		s := inMemory(t)
		step := run("a", "", "make")
		n := 3 + r.Intn(maxSamples-2)
		bad := r.Intn((n + 1) / 2)
		lo, hi := time.Hour, time.Duration(0)
		for i, k := range r.Perm(n) {
			d := 10*time.Second + time.Duration(r.Intn(4000))*time.Millisecond
			if k < bad {
				d = time.Duration(1 + r.Int63n(int64(100*time.Hour)))
			} else {
				lo, hi = min(lo, d), max(hi, d)
			}
			s.Record(step, took("n1", d, i))
		}
		p := s.Predict(step)
		require.GreaterOrEqual(t, p.Duration, lo-time.Microsecond, "seed %d", seed)
		require.LessOrEqual(t, p.Duration, hi+time.Microsecond, "seed %d", seed)
	}
}

// The order in which samples come does not matter.
func TestOrderOfRecording(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	var samples []Sample
	for i := range 3 * maxSamples {
		samples = append(samples, took(fmt.Sprintf("n%d", r.Intn(3)), time.Duration(1+r.Intn(100))*time.Second, i))
	}
	step := run("a", "s", "make")
	var want string
	for range 20 {
		r.Shuffle(len(samples), func(i, j int) { samples[i], samples[j] = samples[j], samples[i] })
		s := inMemory(t)
		for _, x := range samples {
			s.Record(step, x)
		}
		var b bytes.Buffer
		require.NoError(t, s.Export(&b))
		if want == "" {
			want = b.String()
		}
		require.Equal(t, want, b.String())
	}
}

func TestSpeeds(t *testing.T) {
	s := inMemory(t)
	r := rand.New(rand.NewSource(1))
	true_ := map[string]float64{"fast": 2, "normal": 1, "slow": 0.5}
	for i := range 40 {
		step := run(fmt.Sprint(i), "", "make")
		cost := 5 + 50*r.Float64()
		for j, n := range []string{"fast", "normal", "slow"} {
			d := cost / true_[n] * (0.9 + 0.2*r.Float64())
			if r.Intn(10) == 0 {
				d *= 20 // something else ran there
			}
			s.Record(step, took(n, time.Duration(d*float64(time.Second)), 3*i+j))
		}
	}
	// A node that shares nothing with others.
	s.Record(run("lonely", "", "make"), took("new", 7*time.Second, 0))

	fast, n := s.Speed("fast")
	require.Equal(t, 40, n)
	normal, _ := s.Speed("normal")
	slow, _ := s.Speed("slow")
	require.InDelta(t, 2, fast/normal, 0.2)
	require.InDelta(t, 2, normal/slow, 0.2)
	require.InDelta(t, 1, normal, 0.2, "the speeds are those declared, 1, on the whole")
	v, n := s.Speed("new")
	require.Equal(t, 1., v)
	require.Zero(t, n)

	// What was measured on one node predicts what another needs.
	step := run("only-fast", "", "make")
	s.Record(step, took("fast", 10*time.Second, 1000))
	p := s.Predict(step)
	require.InDelta(t, 40, p.Duration.Seconds()/slow, 5)
}

func TestDeclaredSpeeds(t *testing.T) {
	s, err := Open(InMemory, Options{Speeds: map[string]float64{"big": 4}})
	require.NoError(t, err)
	v, _ := s.Speed("big")
	require.Equal(t, 4., v)
	s.Record(run("a", "", "make"), took("big", 10*time.Second, 0))
	require.Equal(t, 40*time.Second, s.Predict(run("a", "", "make")).Duration)
	// Twenty steps say that it is no faster than the other.
	for i := range 20 {
		step := run(fmt.Sprint(i), "", "make")
		s.Record(step, took("big", 10*time.Second, i))
		s.Record(step, took("small", 10*time.Second, i))
	}
	big, _ := s.Speed("big")
	small, _ := s.Speed("small")
	require.InDelta(t, 1, big/small, 0.15)
}

func TestNothingToRecord(t *testing.T) {
	s := inMemory(t)
	s.Record(Step{Kind: Run}, took("n1", time.Second, 0))
	s.Record(run("a", "", "make"), took("n1", 0, 0))
	s.Record(run("a", "", "make"), took("n1", -time.Second, 0))
	require.Zero(t, s.Len())
	s.Record(run("a", "", "make"), Sample{Took: time.Second})
	require.Equal(t, 1, s.Len())
}

func BenchmarkPredict(b *testing.B) {
	s, err := Open(InMemory, Options{})
	require.NoError(b, err)
	for i := range maxSteps {
		for j := range 3 {
			s.Record(run(fmt.Sprint(i), fmt.Sprint(i), "go build ./x"), took(fmt.Sprint("n", (i+j)%5), time.Minute, j))
		}
	}
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			s.invalidate()
			s.Predict(run("7", "7", "go build ./x"))
		}
	})
	b.Run("next", func(b *testing.B) {
		for b.Loop() {
			s.Predict(run("7", "7", "go build ./x"))
		}
	})
}
