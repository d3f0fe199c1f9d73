// Package transfer predicts how long results take from node to node, from how long they took
// before.
//
// A transfer takes a latency, and then a time for each byte. Results go through the client or
// through a registry, and each of these ways has a [Past] of its own. Both numbers are medians of
// what earlier transfers say, those of small results of the latency and those of large ones of the
// bandwidth, so that one transfer over a busy line moves little. New samples weigh more than old
// ones, and a few weigh little against what is assumed.
//
// Transfers at the same time show whether a way is shared: where those that had company were slower
// than those that had none, [Estimate.Links] says how many it carries.
package transfer

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Sample is one transfer, in one direction.
type Sample struct {
	Bytes int64         `json:"bytes"` // > 0
	Took  time.Duration `json:"took_ns"`
	// Beside is how many other transfers went the same way meanwhile, on average.
	Beside float64   `json:"beside,omitempty"`
	When   time.Time `json:"when"`
}

// valid reports whether s says anything.
func (s Sample) valid() bool {
	return s.Bytes > 0 && s.Bytes < 1<<50 && s.Took > 0 && s.Took < 24*time.Hour &&
		s.Beside >= 0 && s.Beside < 1<<16 && s.When.Year() >= 1970 && s.When.Year() < 2200
}

// Past are the transfers of one way, the last ones last.
type Past []Sample

const (
	// mostSamples is kept of a way, the latest.
	mostSamples = 64
	// halfLife and halfCount are after which time, and after how many later samples, a sample
	// weighs half: networks change, and those of yesterday say more than those of last year.
	halfLife  = 30 * 24 * time.Hour
	halfCount = 16.
	// belief is how many new samples the assumption weighs.
	belief = 3.
	// small is the part of the assumed latency up to which the time of the bytes may come, for the
	// sample to show the latency.
	small = 0.25
	// widest bounds how far a prediction may be from what is assumed.
	widest = 40.
)

// Add returns the past with more transfers. Those that say nothing are left out.
func (p Past) Add(more ...Sample) Past {
	out := slices.Clone(p)
	for _, s := range more {
		s.When = s.When.UTC().Round(0)
		if s.valid() {
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(a, b Sample) int { return a.When.Compare(b.When) })
	return out[max(0, len(out)-mostSamples):]
}

// Estimate is what a transfer takes in one direction.
type Estimate struct {
	Bandwidth float64       // bytes per second; > 0
	Latency   time.Duration // > 0
	// Links is how many transfers are carried at full bandwidth at once, as far as those that
	// slowed each other have shown; 0 = that was not seen.
	Links int
	// Carried is how many were carried at once and did not slow each other; 0 = that was not seen.
	Carried int
	// Samples is the number of transfers that it rests on; with 0 it is assumed.
	Samples int
}

// Predict returns what is expected of a transfer now, where so much is assumed: of assumed,
// Bandwidth and Latency are read, which must be positive.
func (p Past) Predict(assumed Estimate, now time.Time) Estimate {
	out := Estimate{Bandwidth: assumed.Bandwidth, Latency: assumed.Latency}
	e := evidence{latency: assumed.Latency.Seconds(), perByte: 1 / assumed.Bandwidth}
	for _, s := range p {
		if s.valid() {
			e.list = append(e.list, s)
		}
	}
	if out.Samples = len(e.list); out.Samples == 0 {
		return out
	}
	out.Links, out.Carried = e.share()
	e.links = out.Links
	e.weigh(now)
	latency, perByte := e.latency, e.perByte
	for range 2 { // each rests on the other
		perByte = e.medianPerByte(latency)
		latency = e.medianLatency(perByte)
	}
	out.Bandwidth, out.Latency = 1/perByte, time.Duration(latency*float64(time.Second))
	return out
}

// evidence is a past beside what is assumed, in seconds.
type evidence struct {
	list             []Sample
	weights          []float64
	latency, perByte float64
	links            int // as in Estimate
}

// weigh gives each sample its weight, by its age and by how many came later.
func (e *evidence) weigh(now time.Time) {
	for i, s := range e.list {
		age := max(0, now.Sub(s.When))
		later := float64(len(e.list) - 1 - i)
		e.weights = append(e.weights, math.Exp2(-age.Hours()/halfLife.Hours()-later/halfCount))
	}
}

// short reports whether a sample rather shows the latency than the bandwidth.
func (e *evidence) short(s Sample) bool { return float64(s.Bytes)*e.perByte <= small*e.latency }

// crowd is how many times longer the bytes of a sample took because others went the same way.
func (e *evidence) crowd(s Sample) float64 {
	if e.links == 0 {
		return 1
	}
	return max(1, (1+s.Beside)/float64(e.links))
}

// secondsPerByte is the time of each byte of a sample beyond a latency: a tenth of its time at least,
// since what took no longer than the latency was not without bytes.
func secondsPerByte(s Sample, latency float64) float64 {
	return max(s.Took.Seconds()-latency, s.Took.Seconds()/10) / float64(s.Bytes)
}

func (e *evidence) medianPerByte(latency float64) float64 {
	var list []weighed
	for i, s := range e.list {
		if !e.short(s) {
			list = append(list, weighed{secondsPerByte(s, latency) / e.crowd(s), e.weights[i]})
		}
	}
	return against(list, e.perByte)
}

func (e *evidence) medianLatency(perByte float64) float64 {
	var list []weighed
	for i, s := range e.list {
		if e.short(s) {
			took := max(s.Took.Seconds()-float64(s.Bytes)*perByte*e.crowd(s), s.Took.Seconds()/10)
			list = append(list, weighed{took, e.weights[i]})
		}
	}
	return against(list, e.latency)
}

// weighed is a value with its weight.
type weighed struct{ value, weight float64 }

// against returns the median of positive values, drawn towards what is assumed by as much weight
// as belief has: on a logarithmic scale, on which twice as fast is as far as twice as slow.
func against(list []weighed, assumed float64) float64 {
	med, weight := median(list)
	if weight == 0 {
		return assumed
	}
	x := math.Exp((weight*math.Log(med) + belief*math.Log(assumed)) / (weight + belief))
	return max(assumed/widest, min(x, assumed*widest))
}

// median returns the weighted median, and the weight of all.
func median(list []weighed) (med, weight float64) {
	slices.SortFunc(list, func(a, b weighed) int { return cmp.Compare(a.value, b.value) })
	for _, x := range list {
		weight += x.weight
	}
	passed := 0.0
	for _, x := range list {
		if passed += x.weight; passed >= weight/2 {
			return x.value, weight
		}
	}
	return 0, 0
}

const (
	// alone and together are up to, and from, how many others beside it a transfer counts as one
	// without company, and as one with some.
	alone, together = 0.25, 0.75
	// told is how many of each have to be known.
	told = 4
	// slower is how many times longer those with company take, at least, for that to be no noise.
	slower = 1.3
	// mostLinks bounds what is concluded from that.
	mostLinks = 64
)

// share compares large transfers that had the way to themselves with those that had not. When k at
// once take s times as long, the way carries k/s.
func (e *evidence) share() (links, carried int) {
	var free, shared, beside []weighed
	for _, s := range e.list {
		if e.short(s) {
			continue
		}
		x := weighed{secondsPerByte(s, e.latency), 1}
		switch {
		case s.Beside <= alone:
			free = append(free, x)
		case s.Beside >= together:
			shared, beside = append(shared, x), append(beside, weighed{1 + s.Beside, 1})
		}
	}
	if len(free) < told || len(shared) < told {
		return 0, 0
	}
	one, _ := median(free)
	several, _ := median(shared)
	k, _ := median(beside)
	if several < slower*one {
		return 0, int(math.Round(k))
	}
	return max(1, min(int(math.Round(k*one/several)), mostLinks)), 0
}
