package cost

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
)

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path, Options{})
	require.NoError(t, err)
	return s
}

// fillStore writes a history with a few steps.
func fillStore(t *testing.T, path string) *Store {
	t.Helper()
	s := open(t, path)
	for i := range 200 {
		s.Record(run(fmt.Sprint(i), "slot", "make"), took("n1", time.Duration(1+i)*time.Second, i))
	}
	require.NoError(t, s.Close())
	return s
}

func export(t *testing.T, s *Store) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, s.Export(&b))
	return b.String()
}

func TestFileRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "history.db")
	s := fillStore(t, path)
	require.Equal(t, export(t, s), export(t, open(t, path)))
	require.Empty(t, s.Notes())

	// Nothing recorded, nothing written.
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, open(t, path).Close())
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, before, after)
}

func TestReadOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	fillStore(t, path)
	s, err := Open(path, Options{ReadOnly: true})
	require.NoError(t, err)
	s.Record(run("new", "", "make"), took("n1", time.Second, 0))
	require.NoError(t, s.Close())
	require.Equal(t, 200, open(t, path).Len())
}

// Two stores of one file, each with its own samples: both are kept.
func TestTwoAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	a, b := open(t, path), open(t, path)
	step := run("a", "", "make")
	a.Record(step, took("n1", time.Second, 1))
	b.Record(step, took("n2", 2*time.Second, 2))
	require.NoError(t, a.Close())
	require.NoError(t, b.Close())
	require.Equal(t, 2, open(t, path).Predict(step).Samples)
}

func TestManyProcesses(t *testing.T) {
	const processes, rounds = 3, 5
	if path := os.Getenv("COST_TEST_HISTORY"); path != "" {
		for i := range rounds {
			s := open(t, path)
			s.Record(run(os.Getenv("COST_TEST_KEY"), "", "make"), took("n1", time.Second, i))
			s.Record(run("shared", "", "make"), took(os.Getenv("COST_TEST_KEY"), time.Second, i))
			require.NoError(t, s.Close())
		}
		return
	}
	path := filepath.Join(t.TempDir(), "history.db")
	var wg sync.WaitGroup
	errs := make([]error, processes)
	for i := range processes {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0], "-test.run=^TestManyProcesses$", "-test.count=1")
			cmd.Env = append(os.Environ(), "COST_TEST_HISTORY="+path, fmt.Sprintf("COST_TEST_KEY=p%d", i))
			if out, err := cmd.CombinedOutput(); err != nil {
				errs[i] = fmt.Errorf("%w: %s", err, out)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	s := open(t, path)
	for i := range processes {
		require.Equal(t, rounds, s.Predict(run(fmt.Sprintf("p%d", i), "", "make")).Samples)
	}
	require.Equal(t, processes*rounds, s.Predict(run("shared", "", "make")).Samples)
}

func TestConcurrentUse(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "history.db"))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				s.Record(run(fmt.Sprint(j), "s", "make"), took(fmt.Sprint("n", i), time.Second, 8*j+i))
				s.Predict(run(fmt.Sprint(j), "s", "make"))
				if j%25 == 0 {
					_ = s.Flush()
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, s.Close())
	require.Equal(t, 50, open(t, s.path).Len())
}

func TestLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	fillStore(t, path)
	s, err := Open(path, Options{Timeout: time.Millisecond})
	require.NoError(t, err)
	s.Record(run("late", "", "make"), took("n1", 3*time.Second, 1))

	db, err := bolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	_, err = Open(path, Options{Timeout: time.Millisecond})
	require.ErrorIs(t, err, ErrLocked)
	require.NoError(t, s.Close(), "what cannot be written now is put aside")
	require.Len(t, s.leftBeside(), 1)
	require.Len(t, s.Notes(), 1)
	require.NoError(t, db.Close())

	next := open(t, path)
	require.Equal(t, 3*time.Second, next.Predict(run("late", "", "make")).Duration, "known although it is not in the file yet")
	next.Record(run("next", "", "make"), took("n1", time.Second, 1))
	require.NoError(t, next.Close())
	require.Empty(t, next.leftBeside())
	require.Equal(t, 202, open(t, path).Len())
}

// A damaged history never makes Open or Flush fail, panic or lose the file.
func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good.db")
	fillStore(t, good)
	data, err := os.ReadFile(good)
	require.NoError(t, err)
	r := rand.New(rand.NewSource(1))
	for i := range 60 {
		bad := bytes.Clone(data)
		switch i % 3 {
		case 0:
			bad = bad[:r.Intn(len(bad)-4096)+4096]
		case 1:
			for range 1 + r.Intn(2000) {
				bad[32+r.Intn(len(bad)-32)] = byte(r.Intn(256))
			}
		case 2:
			at := r.Intn(len(bad))
			clear(bad[at:min(len(bad), at+4096)])
		}
		path := filepath.Join(dir, fmt.Sprintf("h%d", i), "history.db")
		require.NoError(t, os.Mkdir(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, bad, 0o600))
		s, err := Open(path, Options{})
		if err != nil { // so damaged that it is no database any more
			require.ErrorIs(t, err, ErrForeign, "case %d", i)
			left, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, bad, left, "case %d", i)
			continue
		}
		s.Record(run("after", "", "make"), took("n1", time.Second, 1))
		require.NoError(t, s.Close(), "case %d", i)
		require.Equal(t, 1, open(t, path).Predict(run("after", "", "make")).Samples, "case %d", i)
		aside, err := filepath.Glob(path + ".damaged*")
		require.NoError(t, err)
		if len(s.Notes()) > 0 && len(aside) > 0 {
			kept, err := os.ReadFile(aside[0])
			require.NoError(t, err)
			require.Len(t, kept, len(bad))
		}
	}
}

func TestForeign(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "Dockerfile")
	require.NoError(t, os.WriteFile(text, []byte(strings.Repeat("FROM scratch\n", 9999)), 0o600))
	_, err := Open(text, Options{})
	require.ErrorIs(t, err, ErrForeign)

	other := filepath.Join(dir, "other.db")
	db, err := bolt.Open(other, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket([]byte("snapshots"))
		return err
	}))
	require.NoError(t, db.Close())
	_, err = Open(other, Options{})
	require.ErrorIs(t, err, ErrForeign)

	later := filepath.Join(dir, "later.db")
	fillStore(t, later)
	db, err = bolt.Open(later, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(metaBucket).Put(formatKey, []byte("dbake-history/2"))
	}))
	require.NoError(t, db.Close())
	_, err = Open(later, Options{})
	require.ErrorIs(t, err, ErrForeign)
	require.ErrorContains(t, err, "dbake-history/2")

	_, err = Open(dir, Options{})
	require.ErrorIs(t, err, ErrForeign)
	_, err = Open("", Options{})
	require.Error(t, err)

	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 3, "nothing was moved")
}

// Records that cannot be read are passed over and stay where they are.
func TestUnreadableRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	fillStore(t, path)
	put := func(v []byte) {
		db, err := bolt.Open(path, 0o600, nil)
		require.NoError(t, err)
		require.NoError(t, db.Update(func(tx *bolt.Tx) error { return tx.Bucket(stepsBucket).Put([]byte("odd"), v) }))
		require.NoError(t, db.Close())
	}
	put([]byte{99, 1, 2, 3})
	s := open(t, path)
	require.Equal(t, 200, s.Len())
	require.Len(t, s.Notes(), 1)
	s.Record(run("more", "", "make"), took("n1", time.Second, 1))
	require.NoError(t, s.Close())
	require.Len(t, open(t, path).Notes(), 1)
}

func TestPrune(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	fillStore(t, path)
	db, err := bolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error { return prune(tx.Bucket(stepsBucket), 100) }))
	require.NoError(t, db.Close())
	s := open(t, path)
	require.Equal(t, 90, s.Len())
	require.Equal(t, Measured, s.Predict(run("199", "", "")).Source)
	require.NotEqual(t, Measured, s.Predict(run("109", "", "")).Source)
}

func TestExportImport(t *testing.T) {
	a := fillStore(t, filepath.Join(t.TempDir(), "a.db"))
	text := export(t, a)
	path := filepath.Join(t.TempDir(), "b.db")
	b := open(t, path)
	for range 2 {
		n, err := b.Import(strings.NewReader(text))
		require.NoError(t, err)
		require.Equal(t, 200, n)
		require.Equal(t, text, export(t, b), "importing twice changes nothing")
		require.NoError(t, b.Close())
	}
	require.Equal(t, text, export(t, open(t, path)))
}

func TestImportErrors(t *testing.T) {
	const head = `{"dbakeHistory":1}` + "\n"
	for _, c := range []struct{ text, want string }{
		{"", "no header"},
		{"hello", "line 1"},
		{`{"dbakeHistory":2}`, "version 2"},
		{head + `{"key":"a","kind":"run","samples":[{"node":"n","tookNs":5,"when":"2026-01-01T00:00:00Z"}]}` + "\n{", "line 3"},
		{head + `{"kind":"run"}`, "line 2: bad key"},
		{head + strings.Repeat("x", maxLine+1), "line 2"},
	} {
		s := inMemory(t)
		n, err := s.Import(strings.NewReader(c.text))
		require.ErrorContains(t, err, c.want)
		require.Zero(t, n)
		require.Zero(t, s.Len(), "all or nothing")
	}
	// Samples that say nothing are dropped; unknown fields are left for later versions.
	s := inMemory(t)
	_, err := s.Import(strings.NewReader(head + `{"key":"a","kind":"run","samples":[{"node":"n","tookNs":-5}],"colour":"red"}` + "\n\n"))
	require.NoError(t, err)
	require.Zero(t, s.Len())
}

// A command never reaches a file, in no form but its digest and family.
func TestNoCommands(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	s := open(t, path)
	s.Record(run("a", "api/0/1", "curl -u user:canary https://example.com"), took("n1", time.Second, 1))
	require.NoError(t, s.Close())
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, text := range []string{string(data), export(t, s)} {
		require.NotContains(t, text, "canary")
		require.NotContains(t, text, "example.com")
		require.Contains(t, text, "download")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add((&record{slot: "s", kind: Run, samples: []Sample{took("n", time.Second, 1)}}).encode())
	f.Add([]byte{})
	f.Add([]byte{encoding, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decode(b)
		if err != nil {
			return
		}
		again, err := decode(r.encode())
		require.NoError(t, err)
		require.Equal(t, r, again)
	})
}

func FuzzImport(f *testing.F) {
	f.Add(`{"dbakeHistory":1}` + "\n" + `{"key":"a","kind":"run","samples":[{"node":"n","tookNs":5,"when":"2026-01-01T00:00:00Z"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Open(InMemory, Options{})
		require.NoError(t, err)
		if _, err := s.Import(strings.NewReader(text)); err != nil {
			return
		}
		var b bytes.Buffer
		require.NoError(t, s.Export(&b))
		again, err := Open(InMemory, Options{})
		require.NoError(t, err)
		_, err = again.Import(bytes.NewReader(b.Bytes()))
		require.NoError(t, err)
		require.Equal(t, b.String(), export(t, again))
	})
}

func FuzzCommand(f *testing.F) {
	f.Add("sh -c 'sh -c \"apt-get install x\"' && yarn")
	f.Fuzz(func(t *testing.T, line string) {
		g := prior(Step{Kind: Run, Command: line})
		require.Positive(t, g.took)
		require.GreaterOrEqual(t, g.bytes, int64(0))
	})
}

func TestOpenIsUsableWithAnError(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "history.db")
	fillStore(t, path)
	db, err := bolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	s, err := Open(path, Options{Timeout: time.Millisecond})
	require.ErrorIs(t, err, ErrLocked)
	s.Record(run("new", "", "make"), took("n1", 3*time.Second, 1))
	require.NoError(t, s.Close())
	require.NoError(t, db.Close())
	require.Equal(t, 201, open(t, path).Len(), "what was measured meanwhile is not lost")

	text := filepath.Join(dir, "text")
	require.NoError(t, os.WriteFile(text, []byte("no history"), 0o600))
	s, err = Open(text, Options{})
	require.ErrorIs(t, err, ErrForeign)
	s.Record(run("new", "", "make"), took("n1", 3*time.Second, 1))
	require.NoError(t, s.Close())
	require.Equal(t, 3*time.Second, s.Predict(run("new", "", "make")).Duration)
	b, err := os.ReadFile(text)
	require.NoError(t, err)
	require.Equal(t, "no history", string(b))

	s, err = Open(text, Options{Own: true})
	require.NoError(t, err)
	require.Len(t, s.Notes(), 1)
	b, err = os.ReadFile(text + ".damaged")
	require.NoError(t, err)
	require.Equal(t, "no history", string(b))
}

// A history of any length takes bounded memory: the latest steps are kept.
func TestLongHistory(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(`{"dbakeHistory":1}` + "\n")
	const steps = 5 * maxSteps
	for i := range steps {
		fmt.Fprintf(&b, `{"key":"k%d","kind":"run","samples":[{"node":"n","tookNs":1000,"when":"2026-01-01T00:00:00.%09dZ"}]}`+"\n", i, i)
	}
	s, err := Open(filepath.Join(t.TempDir(), "history.db"), Options{})
	require.NoError(t, err)
	n, err := s.Import(&b)
	require.NoError(t, err)
	require.Less(t, n, 4*maxSteps)
	require.Equal(t, 1, s.Predict(Step{Key: digest.Digest(fmt.Sprintf("k%d", steps-1)), Kind: Run}).Samples)
	require.NoError(t, s.Close())
}
