package plan

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/partition"
)

// definition collects ops.
type definition struct{ pb.Definition }

func (d *definition) add(tb testing.TB, op *pb.Op, name string, inputs ...digest.Digest) digest.Digest {
	for _, in := range inputs {
		op.Inputs = append(op.Inputs, &pb.Input{Digest: string(in)})
	}
	dt, err := proto.MarshalOptions{Deterministic: true}.Marshal(op)
	require.NoError(tb, err)
	dgst := digest.FromBytes(dt)
	d.Def = append(d.Def, dt)
	if d.Metadata == nil {
		d.Metadata = map[string]*pb.OpMetadata{}
	}
	d.Metadata[string(dgst)] = &pb.OpMetadata{Description: map[string]string{"llb.customname": name}}
	return dgst
}

// manyJobs is n targets in families of fifty that share a toolchain; all share a
// base image.
func manyJobs(tb testing.TB, n int) (*ir.Project, []*frontend.Unit) {
	p := &ir.Project{Dir: "/"}
	var units []*frontend.Unit
	run := func(command string) *pb.Op {
		return &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{
			Meta:   &pb.Meta{Args: []string{"/bin/sh", "-c", command}, Cwd: "/"},
			Mounts: []*pb.Mount{{Input: 0, Dest: "/", Output: 0}},
		}}}
	}
	for i := range n {
		t := &ir.Target{Name: fmt.Sprintf("t%05d", i), Context: ir.ParseContext(".", nil)}
		d := &definition{}
		at := d.add(tb, &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: "docker-image://docker.io/library/base:1"}}}, "FROM base")
		for k := range 3 {
			command := fmt.Sprintf("apt-get install family-%d-%d", i/50, k)
			at = d.add(tb, run(command), fmt.Sprintf("[tools %d/3] RUN %s", k+1, command), at)
		}
		for k := range 3 {
			command := fmt.Sprintf("make %s-%d", t.Name, k)
			at = d.add(tb, run(command), fmt.Sprintf("[build %d/3] RUN %s", k+1, command), at)
		}
		d.add(tb, &pb.Op{}, "", at)
		p.Targets = append(p.Targets, t)
		units = append(units, &frontend.Unit{ID: ir.UnitID(t.Name), Target: t, Definition: &d.Definition})
	}
	return p, units
}

func manyNodes(n int, b *Build) []Node {
	var nodes []Node
	for i := range n {
		nodes = append(nodes, Node{Name: fmt.Sprintf("n%d", i), Speed: 1, Slots: 2, Holds: warm.NewHoldings(nil)})
	}
	// Every step is held somewhere.
	for i := range b.Names.list {
		nodes[i%n].Holds.Results[b.Names.list[i].result] = true
	}
	return nodes
}

// fixed places jobs by their number: the cost of planning is not that of the
// search for a plan.
type fixed struct{}

func (fixed) Name() string { return "fixed" }

func (fixed) Plan(_ context.Context, p partition.Problem, _ partition.Options) (partition.Plan, error) {
	a := partition.Assignment{Node: make([]partition.NodeID, len(p.Targets))}
	for i := range a.Node {
		a.Node[i] = partition.NodeID(i * len(p.Nodes) / len(p.Targets))
	}
	s, err := partition.Evaluate(p, a)
	return partition.Plan{Strategy: "fixed", Assignment: a, Schedule: s}, err
}

// The benchmarks show what each stage costs per job: it must not grow with the
// number of jobs.
func BenchmarkPlan(bench *testing.B) {
	history, err := cost.Open(cost.InMemory, cost.Options{})
	require.NoError(bench, err)
	for _, n := range []int{100, 1_000, 10_000} {
		project, units := manyJobs(bench, n)
		b, _, err := assemble(context.Background(), project, units, Memory{History: history})
		require.NoError(bench, err)
		nodes := manyNodes(n/10, b)
		perJob := func(bench *testing.B) {
			bench.ReportMetric(float64(bench.Elapsed().Nanoseconds())/float64(bench.N)/float64(n)/1000, "µs/job")
		}
		bench.Run(fmt.Sprintf("assemble/%d", n), func(bench *testing.B) {
			for bench.Loop() {
				_, _, err := assemble(context.Background(), project, units, Memory{History: history})
				require.NoError(bench, err)
			}
			perJob(bench)
		})
		bench.Run(fmt.Sprintf("problem/%d", n), func(bench *testing.B) {
			for bench.Loop() {
				_, err := b.problem(nodes)
				require.NoError(bench, err)
			}
			perJob(bench)
		})
		bench.Run(fmt.Sprintf("partitions/%d", n), func(bench *testing.B) {
			problem, err := b.problem(nodes)
			require.NoError(bench, err)
			made, err := fixed{}.Plan(context.Background(), problem, partition.Options{})
			require.NoError(bench, err)
			for bench.Loop() {
				p := &Plan{Nodes: nodes, Problem: problem, Assignment: made.Assignment, Schedule: made.Schedule}
				p.partitions()
			}
			perJob(bench)
		})
	}
}

// assembleMany assembles n jobs without any history.
func assembleMany(t *testing.T, n int) *Build {
	t.Helper()
	history, err := cost.Open(cost.InMemory, cost.Options{})
	require.NoError(t, err)
	project, units := manyJobs(t, n)
	b, _, err := assemble(t.Context(), project, units, Memory{History: history})
	require.NoError(t, err)
	return b
}

// Every job is placed once, in a partition that is no larger than it must be.
func TestManyJobs(t *testing.T) {
	b := assembleMany(t, 500)
	require.Len(t, b.Graph.Vertices, 1+10*3+500*3)
	p, err := Make(context.Background(), b.WithDuplicates(DuplicatesAny), manyNodes(7, b), fixed{}, partition.Options{})
	require.NoError(t, err)
	alone := p.own()
	placed := map[int]bool{}
	for n, list := range p.Partitions {
		for _, part := range list {
			require.LessOrEqual(t, len(part), partitionMax)
			own := time.Duration(0)
			for i, j := range part {
				require.EqualValues(t, n, p.Assignment.Node[j])
				require.False(t, placed[j])
				require.Less(t, own, quantum, "job %d of the partition", i)
				placed[j] = true
				own += alone[j]
			}
		}
	}
	require.Len(t, placed, 500)
}

// What a rule for duplicates costs is not looked for where the plan by it is as good as any.
func TestNear(t *testing.T) {
	b := assembleMany(t, 100)
	nodes := []Node{{Name: "a", Speed: 1, Slots: 2, Holds: warm.NewHoldings(nil)}, {Name: "b", Speed: 1, Slots: 2, Holds: warm.NewHoldings(nil)}}
	strategy, err := partition.Lookup("affinity")
	require.NoError(t, err)
	b = b.WithDuplicates(DuplicatesAny)
	p, err := Make(t.Context(), b, nodes, strategy, partition.Options{Budget: 10_000})
	require.NoError(t, err)
	near := func(makespan partition.Seconds) bool {
		q := *p
		q.Schedule.Makespan = makespan
		yes, err := b.Near(&q)
		require.NoError(t, err)
		return yes
	}
	least := partition.SecondsOf(p.Bound)
	require.True(t, near(least))
	require.False(t, near(least*1.01))
	b.Jobs[7].Units = append(b.Jobs[7].Units, b.Jobs[7].Units...)
	require.False(t, near(least), "a target may be divided")
}
