package daemon

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	controlapi "github.com/moby/buildkit/api/services/control"
	resources "github.com/moby/buildkit/executor/resources/types"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// usageTimeout bounds how long nodes may take to report what builds used: nobody
	// waits for it but the next plan.
	usageTimeout = 3 * time.Second
	// maxUsage is the largest record that is read, in bytes, mostUsage how many are read of one
	// node.
	maxUsage  = 8 << 20
	mostUsage = 8
)

// Usage is a node's machine and the resources of its steps, from its build history.
type Usage struct {
	// Samples are those of the whole machine, by time.
	Samples []MachineSample
	Steps   map[digest.Digest]StepUsage
}

// MachineSample is the state of a machine at one time. Total is the time since its start,
// summed over its processors; Busy is how much of it they worked.
type MachineSample struct {
	At          time.Time
	Total, Busy time.Duration
	Memory      int64 // bytes that it has
}

// StepUsage are the resources that an execution of a step used: processor time, the most
// memory that it held, and the bytes that it read and wrote.
type StepUsage struct {
	CPU         time.Duration
	Memory      int64
	Read, Write int64
}

// Usage asks the nodes what builds used, each answer in the place of its node. records
// names the builds in the history of each node, as [RecordOf] does. What does not come in
// time, or is not kept, is left out.
func (p *Pool) Usage(ctx context.Context, records map[string][]string) []Usage {
	ctx, cancel := context.WithTimeout(ctx, usageTimeout)
	defer cancel()
	return answers(p, func(l *link) Usage {
		return l.usage(ctx, spread(records[l.spec.Name], mostUsage))
	})
}

// spread returns at most n of list, the first and the last among them.
func spread(list []string, n int) []string {
	if len(list) <= n {
		return list
	}
	var out []string
	for i := range n {
		out = append(out, list[i*(len(list)-1)/(n-1)])
	}
	return out
}

// usage reads the records of some builds.
func (l *link) usage(ctx context.Context, refs []string) Usage {
	u := Usage{Steps: map[digest.Digest]StepUsage{}}
	store := proxy.NewContentStore(l.client.ContentClient())
	for _, ref := range refs {
		blobs, err := l.readRecord(ctx, ref)
		if err != nil {
			break // unknown is no failure
		}
		for _, blob := range blobs {
			if blob.Size > maxUsage {
				continue
			}
			dt, err := content.ReadBlob(ctx, store, ocispecs.Descriptor{Digest: digest.Digest(blob.Digest), Size: blob.Size, MediaType: blob.MediaType})
			if err == nil {
				u.add(dt)
			}
		}
	}
	slices.SortFunc(u.Samples, func(a, b MachineSample) int { return a.At.Compare(b.At) })
	return u
}

// readRecord returns the provenance in the record of a build, by metadata key.
func (l *link) readRecord(ctx context.Context, ref string) (map[string]*controlapi.Descriptor, error) {
	blobs := map[string]*controlapi.Descriptor{}
	err := l.history(ctx, &controlapi.BuildHistoryRequest{Ref: ref}, func(event *controlapi.BuildHistoryEvent) {
		maps.Copy(blobs, provenanceBlobs(event.GetRecord()))
	})
	if err != nil {
		return nil, err
	}
	return blobs, nil
}

// predicate is the part of a record's provenance that is about usage.
type predicate struct {
	BuildDefinition struct {
		InternalParameters struct {
			BuildConfig struct {
				Definition []struct {
					ID            string             `json:"id"`
					ResourceUsage *resources.Samples `json:"resourceUsage"`
				} `json:"llbDefinition"`
				DigestMapping map[digest.Digest]string `json:"digestMapping"`
			} `json:"buildConfig"`
		} `json:"internalParameters"`
	} `json:"buildDefinition"`
	RunDetails struct {
		Metadata struct {
			BuildKit struct {
				SysUsage []*resources.SysSample `json:"sysUsage"`
			} `json:"buildkit_metadata"`
		} `json:"metadata"`
	} `json:"runDetails"`
}

// add takes in the provenance of a record. It ignores what has no known form.
func (u *Usage) add(dt []byte) {
	var p predicate
	if json.Unmarshal(dt, &p) != nil {
		return
	}
	config := p.BuildDefinition.InternalParameters.BuildConfig
	vertices := map[string]digest.Digest{} // by id
	for d, id := range config.DigestMapping {
		vertices[id] = d
	}
	for _, step := range config.Definition {
		if d := vertices[step.ID]; d != "" && step.ResourceUsage != nil {
			if used, ok := stepUsage(step.ResourceUsage.Samples); ok {
				u.Steps[d] = used
			}
		}
	}
	for _, s := range p.RunDetails.Metadata.BuildKit.SysUsage {
		if s == nil || s.CPUStat == nil {
			continue
		}
		c := s.CPUStat
		busy := c.User + c.Nice + c.System + c.IRQ + c.SoftIRQ + c.Steal
		m := MachineSample{At: s.Timestamp_, Total: inSeconds(busy + c.Idle + c.Iowait), Busy: inSeconds(busy)}
		if s.MemoryStat != nil && s.MemoryStat.Total != nil && *s.MemoryStat.Total < 1<<50 {
			m.Memory = int64(*s.MemoryStat.Total) << 10 // which is in KiB
		}
		u.Samples = append(u.Samples, m)
	}
}

func inSeconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// stepUsage sums the samples of a step up: processor time and transfers only grow, and
// memory is what it was at its highest.
func stepUsage(samples []*resources.Sample) (used StepUsage, ok bool) {
	for _, s := range samples {
		if s == nil {
			continue
		}
		if c := s.CPUStat; c != nil && c.UsageNanos != nil && *c.UsageNanos < 1<<62 {
			used.CPU, ok = max(used.CPU, time.Duration(*c.UsageNanos)), true
		}
		if m := s.MemoryStat; m != nil && m.Peak != nil && *m.Peak < 1<<62 {
			used.Memory, ok = max(used.Memory, int64(*m.Peak)), true
		}
		if io := s.IOStat; io != nil {
			if io.ReadBytes != nil && *io.ReadBytes < 1<<62 {
				used.Read = max(used.Read, int64(*io.ReadBytes))
			}
			if io.WriteBytes != nil && *io.WriteBytes < 1<<62 {
				used.Write = max(used.Write, int64(*io.WriteBytes))
			}
		}
	}
	return used, ok
}
