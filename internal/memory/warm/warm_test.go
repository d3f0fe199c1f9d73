package warm

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/gofrs/flock"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

func result(text string) ResultID { return ResultID(digest.FromString(text)) }

func steps(results ...ResultID) []Names {
	var list []Names
	for _, r := range results {
		list = append(list, Names{Result: r})
	}
	return list
}

var t0 = time.Unix(1_700_000_000, 0)

func TestLedgerRemembersByAddressAndID(t *testing.T) {
	l := Ledger{Dir: filepath.Join(t.TempDir(), "warm")}
	a, b := result("a"), result("b")
	require.NoError(t, l.Add("tcp://x:1", "id1", Gain{Steps: steps(a)}, nil, t0))
	require.NoError(t, l.Add("tcp://x:1", "id1", Gain{Steps: steps(b)}, nil, t0))
	require.NoError(t, l.Add("tcp://y:1", "id2", Gain{Steps: steps(b)}, nil, t0))

	held := l.Holds("tcp://x:1", "id1")
	require.Equal(t, map[ResultID]bool{a: true, b: true}, held.Results)

	// A plan that asks no node does not know the id.
	held = l.Holds("tcp://y:1", "")
	require.Equal(t, map[ResultID]bool{b: true}, held.Results)

	// A node with a new root has a new id, and nothing else.
	held = l.Holds("tcp://x:1", "other")
	require.Empty(t, held.Results)
	require.NoError(t, l.Add("tcp://x:1", "other", Gain{Steps: steps(b)}, nil, t0))
	held = l.Holds("tcp://x:1", "other")
	require.Equal(t, map[ResultID]bool{b: true}, held.Results)
}

func TestResultsThatAreGoneAreNotBelieved(t *testing.T) {
	l := Ledger{Dir: t.TempDir()}
	a, b, c := result("a"), result("b"), result("c")
	const addr, id = "tcp://x:1", "id1"
	at := func(seconds int) time.Time { return t0.Add(time.Duration(seconds) * time.Second) }
	traces := map[ResultID]Trace{
		a: NewTrace("RUN make", at(1), at(3)),
		b: NewTrace("RUN make", at(5), at(6)),
		c: NewTrace("RUN other", at(5), at(6)),
	}
	makeA, makeB := Record{"RUN make", at(2), 1}, Record{"RUN make", at(5), 2}
	// Of c the node keeps nothing that looks like it: that can never be asked for.
	require.NoError(t, l.Add(addr, id, Gain{Steps: steps(a, b, c), Traces: traces}, NewRecords([]Record{makeA, makeB}), t0))

	check := func(records ...Record) (held Holdings, lost map[ResultID]bool) {
		held, lost = l.Check(addr, id, NewRecords(records))
		return held, lost
	}
	held, lost := check(makeB, makeA)
	require.Equal(t, map[ResultID]bool{a: true, b: true, c: true}, held.Results)
	require.Equal(t, map[ResultID]bool{a: true, b: true}, held.Proven)
	require.Empty(t, lost)
	held, lost = check(makeB)
	require.Equal(t, map[ResultID]bool{b: true, c: true}, held.Results)
	require.Equal(t, map[ResultID]bool{b: true}, held.Proven)
	require.Equal(t, map[ResultID]bool{a: true}, lost)
	held, lost = check(Record{"RUN make", at(9), 1})
	require.Empty(t, held.Results, "all that can be asked for is gone, so the rest will be, too")
	require.Empty(t, held.Proven)
	require.Equal(t, map[ResultID]bool{a: true, b: true, c: true}, lost)

	// b was answered from a cache, and the node keeps it under another text.
	require.NoError(t, l.Add(addr, id, Gain{Steps: steps(b)}, NewRecords([]Record{makeA}), t0))
	held, lost = check(makeA)
	require.Equal(t, map[ResultID]bool{a: true, b: true, c: true}, held.Results)
	require.Empty(t, lost)

	held, lost = l.Check(addr, "another root", NewRecords([]Record{makeA, makeB}))
	require.Empty(t, held.Results)
	require.Empty(t, lost)
}

func TestWithoutAnAnswerNothingCanBeAskedFor(t *testing.T) {
	l := Ledger{Dir: t.TempDir()}
	a := result("a")
	require.NoError(t, l.Add("x", "id", Gain{Steps: steps(a), Traces: map[ResultID]Trace{a: NewTrace("RUN", t0, t0)}}, nil, t0))
	held, lost := l.Check("x", "id", nil)
	require.Equal(t, map[ResultID]bool{a: true}, held.Results)
	require.Empty(t, lost)
}

func TestZeroLedgerRemembersNothing(t *testing.T) {
	var l Ledger
	require.NoError(t, l.Add("a", "id", Gain{Steps: steps(result("a"))}, nil, t0))
	held := l.Holds("a", "id")
	require.Empty(t, held.Results)
}

func TestDamagedFileIsAsNone(t *testing.T) {
	l := Ledger{Dir: t.TempDir()}
	require.NoError(t, os.WriteFile(l.folder().Path(name("a")), []byte("{"), 0o644))
	held := l.Holds("a", "")
	require.Empty(t, held.Results)
	require.NoError(t, l.Add("a", "id", Gain{Steps: steps(result("a"))}, nil, t0))
	held = l.Holds("a", "id")
	require.Len(t, held.Results, 1)
}

func TestOldestStepsGoFirst(t *testing.T) {
	f := file{Results: map[ResultID]int64{}, Traces: map[ResultID]Trace{}}
	for i := range maxSteps + 10 {
		f.Results[result(fmt.Sprint(i))] = int64(i)
		f.Traces[result(fmt.Sprint(i))] = Trace{}
	}
	f.trim()
	require.Len(t, f.Traces, maxSteps)
	require.Len(t, f.Results, maxSteps)
	require.NotContains(t, f.Results, result("9"))
	require.Contains(t, f.Results, result("10"))
}

func TestWhatIsInTheWayIsAWarning(t *testing.T) {
	dir := t.TempDir()
	var warned []error
	l := Ledger{Dir: dir, Warn: func(err error) { warned = append(warned, err) }}
	require.NoError(t, l.Add("a", "1", Gain{Steps: steps("x")}, nil, time.Unix(1, 0)))
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	require.NoError(t, err)
	require.Len(t, files, 1)

	// A pipe is not waited for, and the next run puts a file there.
	require.NoError(t, os.Remove(files[0]))
	require.NoError(t, syscall.Mkfifo(files[0], 0o600))
	require.Empty(t, l.Holds("a", "").Results)
	require.NoError(t, l.Add("a", "1", Gain{Steps: steps("x")}, nil, time.Unix(1, 0)))
	require.True(t, l.Holds("a", "").Results["x"])
	require.Empty(t, warned)

	// The directory is a file.
	l.Dir = files[0]
	require.Empty(t, l.Holds("a", "").Results)
	held, lost := l.Check("a", "1", nil)
	require.Empty(t, held.Results)
	require.Empty(t, lost)
	require.Len(t, warned, 2)
	require.Error(t, l.Add("a", "1", Gain{Steps: steps("x")}, nil, time.Unix(1, 0)))
}

func TestLockIsNotWaitedForLong(t *testing.T) {
	dir := t.TempDir()
	l := Ledger{Dir: dir, Wait: time.Millisecond}
	require.NoError(t, l.Add("a", "1", Gain{Steps: steps("x")}, nil, time.Unix(1, 0)))
	locks, err := filepath.Glob(filepath.Join(dir, "*.lock"))
	require.NoError(t, err)
	require.Len(t, locks, 1)
	other := flock.New(locks[0])
	require.NoError(t, other.Lock())
	defer func() { require.NoError(t, other.Unlock()) }()
	require.ErrorContains(t, l.Add("a", "1", Gain{Steps: steps("y")}, nil, time.Unix(1, 0)), "another process keeps it locked")
	require.True(t, l.Holds("a", "").Results["x"])
}

// Each identity is found among its own kind only.
func TestKindsOfNamesStayApart(t *testing.T) {
	l := Ledger{Dir: t.TempDir()}
	same := digest.FromString("same")
	require.NoError(t, l.Add("a", "1", Gain{Steps: []Names{{Result: ResultID(same)}, {Result: "r", Op: "o", Place: "p", Form: "f"}}}, nil, t0))
	want := NewHoldings([]Names{{Result: ResultID(same)}, {Result: "r", Op: "o", Place: "p", Form: "f"}})
	require.Equal(t, want, l.Holds("a", "1"))
	require.False(t, l.Holds("a", "1").Ops[OpID(same)])
}

// A cache that another one was joined to holds what it held under its new digest.
func TestSucceed(t *testing.T) {
	l := Ledger{Dir: t.TempDir()}
	require.NoError(t, Ledger{}.Succeed("r/c:1", "old", "new"))
	require.NoError(t, l.Add("r/c:1", "old", Gain{Steps: []Names{{Result: "a"}}}, nil, time.Unix(1, 0)))
	require.NoError(t, l.Succeed("r/c:1", "old", "new"))
	require.NoError(t, l.Add("r/c:1", "new", Gain{Steps: []Names{{Result: "b"}}}, nil, time.Unix(2, 0)))
	require.Equal(t, map[ResultID]bool{"a": true, "b": true}, l.Holds("r/c:1", "new").Results)
	require.Empty(t, l.Holds("r/c:1", "old").Results)

	// Somebody else has written it meanwhile: nothing is known of what it held.
	require.NoError(t, l.Succeed("r/c:1", "other", "newer"))
	require.Empty(t, l.Holds("r/c:1", "newer").Results)
}

// The cache mounts that a node has filled go with its root, with all its results, and with their
// own records.
func TestFilledMounts(t *testing.T) {
	const addr, id = "tcp://x:1", "id1"
	a, b, c := MountID("a"), MountID("b"), MountID("c")
	traced := NewTrace("cached mount /go", t0, t0.Add(time.Second))
	other := NewTrace("cached mount /other", t0, t0.Add(time.Second))
	mount, step := Record{"cached mount /go", t0, 0}, Record{"RUN make", t0, 0}
	fill := func(t *testing.T) Ledger {
		l := Ledger{Dir: t.TempDir()}
		records := NewRecords([]Record{mount, step})
		make := result("make")
		require.NoError(t, l.Add(addr, id, Gain{Steps: steps(make), Traces: map[ResultID]Trace{make: NewTrace("RUN make", t0, t0)}}, records, t0))
		require.NoError(t, l.Add(addr, id, Gain{Mounts: map[MountID][]Trace{a: {other, traced}, b: {other}}}, records, t0))
		require.NoError(t, l.Add(addr, id, Gain{Mounts: map[MountID][]Trace{a: nil, c: nil}}, records, t0))
		return l
	}
	all := map[MountID]bool{a: true, b: true, c: true}
	for name, test := range map[string]struct {
		id      string
		records []Record
		want    map[MountID]bool
	}{
		"all is there":        {id, []Record{mount, step}, all},
		"its record is gone":  {id, []Record{step}, map[MountID]bool{b: true, c: true}},
		"everything was lost": {id, []Record{mount}, nil},
		"another root":        {"id2", []Record{mount, step}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			held, _ := fill(t).Check(addr, test.id, NewRecords(test.records))
			require.Equal(t, test.want, held.Mounts)
		})
	}
	l := fill(t)
	require.Equal(t, all, l.Holds(addr, "").Mounts)
	require.NoError(t, l.Add(addr, "id2", Gain{Mounts: map[MountID][]Trace{c: nil}}, nil, t0))
	require.Equal(t, map[MountID]bool{c: true}, l.Holds(addr, "id2").Mounts)

	many := map[MountID][]Trace{}
	for i := range maxMounts {
		many[MountID(fmt.Sprint(i))] = nil
	}
	require.NoError(t, l.Add(addr, "id2", Gain{Mounts: many}, nil, t0.Add(time.Hour)))
	held := l.Holds(addr, "id2").Mounts
	require.Len(t, held, maxMounts)
	require.False(t, held[c])
}
