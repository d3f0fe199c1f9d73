package transfer

import (
	"encoding/json"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	now     = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	assumed = Estimate{Bandwidth: 40e6, Latency: time.Second}
)

// line returns n transfers of some bytes over a way of so much, k at once. It carries links of
// these at full bandwidth.
func line(n int, bytes int64, bandwidth, latency float64, k, links int) Past {
	var p Past
	crowd := max(1, float64(k)/float64(max(1, links)))
	if links == 0 {
		crowd = 1
	}
	for i := range n {
		took := latency + float64(bytes)/bandwidth*crowd
		p = append(p, Sample{Bytes: bytes, Took: time.Duration(took * 1e9), Beside: float64(k - 1), When: now.Add(-time.Duration(n-i) * time.Minute)})
	}
	return p
}

func TestPredict(t *testing.T) {
	const large, little = 400e6, 1e6
	for name, c := range map[string]struct {
		past               Past
		bandwidth, latency float64
		links, carried     int
	}{
		"nothing is known":                 {nil, 40e6, 1, 0, 0},
		"one large one says little":        {line(1, large, 160e6, 1, 1, 0), 56e6, 1, 0, 0},
		"many large ones say much":         {line(64, large, 160e6, 1, 1, 0), 140e6, 1, 0, 0},
		"small ones show the latency":      {line(64, little, 40e6, 0.1, 1, 0), 40e6, 0.14, 0, 0},
		"both":                             {append(line(40, large, 80e6, 0.3, 1, 0), line(40, little, 80e6, 0.3, 1, 0)...), 70e6, 0.36, 0, 0},
		"one of many took forever":         {append(line(20, large, 80e6, 1, 1, 0), line(1, large, 1e6, 1, 1, 0)...), 74e6, 1, 0, 0},
		"a slow line is bounded":           {line(64, large, 1e4, 1, 1, 0), 1e6, 1, 0, 0},
		"two at once slow each other":      {append(line(20, large, 80e6, 1, 1, 1), line(20, large, 80e6, 1, 2, 1)...), 76e6, 1, 1, 0},
		"six at once, and two go":          {append(line(20, large, 40e6, 1, 1, 2), line(20, large, 40e6, 1, 6, 2)...), 40e6, 1, 2, 0},
		"six at once do not":               {append(line(20, large, 40e6, 1, 1, 0), line(20, large, 40e6, 1, 6, 0)...), 40e6, 1, 0, 6},
		"three with company are too few":   {append(line(20, large, 40e6, 1, 1, 1), line(3, large, 40e6, 1, 4, 1)...), 40e6, 1, 0, 0},
		"small ones do not share a line":   {append(line(20, little, 40e6, 1, 1, 0), line(20, little, 1e6, 1, 6, 0)...), 40e6, 1.8, 0, 0},
		"what says nothing is passed over": {Past{{Bytes: 0, Took: 1}, {Bytes: 1, Took: -1}, {Bytes: 1 << 60, Took: 1}}, 40e6, 1, 0, 0},
	} {
		got := Past(nil).Add(c.past...).Predict(assumed, now)
		require.InEpsilon(t, c.bandwidth, got.Bandwidth, 0.12, "%s: %+v", name, got)
		require.InDelta(t, c.latency, got.Latency.Seconds(), 0.12*max(c.latency, 1), "%s: %+v", name, got)
		require.Equal(t, c.links, got.Links, "%s: %+v", name, got)
		require.Equal(t, c.carried, got.Carried, "%s: %+v", name, got)
	}
}

// A line that has become faster is believed to be so after some transfers, and what was measured
// long ago is forgotten.
func TestPredictForgets(t *testing.T) {
	old := line(40, 400e6, 10e6, 1, 1, 0)
	for i := range old {
		old[i].When = old[i].When.Add(-2 * time.Hour)
	}
	slow := old.Predict(assumed, now).Bandwidth
	require.Less(t, slow, 15e6)
	require.Greater(t, old.Add(line(24, 400e6, 120e6, 1, 1, 0)...).Predict(assumed, now).Bandwidth, 2*slow)
	require.Greater(t, old.Add(line(40, 400e6, 120e6, 1, 1, 0)...).Predict(assumed, now).Bandwidth, 80e6)
	later := old.Predict(assumed, now.AddDate(1, 0, 0)).Bandwidth
	require.InEpsilon(t, 40e6, later, 0.05)
}

// Whatever was measured, a prediction is within bounds, equal pasts predict the same, and adding
// keeps to the limit.
func TestPredictIsBounded(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var p Past
		for range rng.IntN(100) {
			p = p.Add(Sample{
				Bytes: rng.Int64N(1<<rng.IntN(50)+1) - 1, Took: time.Duration(rng.Int64N(1<<rng.IntN(46)+1) - 1),
				Beside: float64(rng.IntN(9)) / 2, When: now.Add(-time.Duration(rng.Int64N(1 << 55))),
			})
		}
		require.LessOrEqual(t, len(p), mostSamples)
		got := p.Predict(assumed, now)
		require.GreaterOrEqual(t, got.Bandwidth, assumed.Bandwidth/widest*(1-1e-9))
		require.LessOrEqual(t, got.Bandwidth, assumed.Bandwidth*widest*(1+1e-9))
		require.GreaterOrEqual(t, got.Latency, assumed.Latency/widest-time.Microsecond)
		require.LessOrEqual(t, got.Latency, assumed.Latency*widest+time.Microsecond)
		require.True(t, got.Links >= 0 && got.Carried >= 0 && (got.Links == 0 || got.Carried == 0))
		require.Equal(t, got, p.Predict(assumed, now))
	}
}

// A file of anybody's making leads to a prediction within bounds.
func FuzzPast(f *testing.F) {
	for _, seed := range []string{
		`[]`, `[{"bytes":1,"took_ns":1,"when":"2026-11-30T12:00:00Z"}]`,
		`[{"bytes":9223372036854775807,"took_ns":9223372036854775807,"beside":1e308}]`,
		`[{"bytes":400000000,"took_ns":5000000000,"beside":3,"when":"9999-11-30T12:00:00Z"}]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var p Past
		if json.Unmarshal(data, &p) != nil {
			return
		}
		for _, past := range []Past{p, p.Add(), p.Add(p...)} {
			got := past.Predict(assumed, now)
			require.True(t, got.Bandwidth >= assumed.Bandwidth/widest*(1-1e-9) && got.Bandwidth <= assumed.Bandwidth*widest*(1+1e-9), "%+v", got)
			require.True(t, got.Latency > 0 && got.Latency <= assumed.Latency*widest+time.Microsecond, "%+v", got)
		}
	})
}
