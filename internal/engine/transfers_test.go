package engine

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/memory/transfer"
	"github.com/dbake/dbake/runtime"
)

// Transfers that overlap are beside each other as long as they do, on each way by itself. Those of
// unknown size teach nothing, and are in the way all the same.
func TestTransferSamples(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(registry string, step, begin, took int) runtime.Transfer {
		return runtime.Transfer{Steps: []int{step}, Registry: registry, Start: start.Add(time.Duration(begin) * time.Second), Took: time.Duration(took) * time.Second}
	}
	list := []runtime.Transfer{at("", 1, 0, 10), at("", 2, 5, 10), at("", 0, 12, 6), at("r", 3, 0, 20)}
	got := transferSamples(list, func(steps []int) int64 { return int64(100 * steps[0]) })
	for way, samples := range map[string][]transfer.Sample{
		"": {
			{Bytes: 100, Took: 10 * time.Second, Beside: 0.5, When: start.Add(10 * time.Second)},
			{Bytes: 200, Took: 10 * time.Second, Beside: 0.8, When: start.Add(15 * time.Second)},
		},
		"r": {{Bytes: 300, Took: 20 * time.Second, When: start.Add(20 * time.Second)}},
	} {
		require.Len(t, got[way], len(samples))
		for i, want := range samples {
			require.InDelta(t, want.Beside, got[way][i].Beside, 1e-9)
			want.Beside = got[way][i].Beside
			require.Equal(t, want, got[way][i])
		}
	}
	require.Len(t, got, 2)
}

// Damage and other nodes say nothing, and the ways used longest ago are forgotten.
func TestPastTransfers(t *testing.T) {
	addrs := []string{"tcp://a", "tcp://b"}
	for _, data := range []string{"", "{", `{"addrs":["tcp://a"],"ways":{"":[{"bytes":1}]}}`, `{"addrs":["tcp://a","tcp://b"]}`} {
		require.Equal(t, pastTransfers{Addrs: addrs, Ways: map[string]transfer.Past{}}, decodeTransfers([]byte(data), addrs), data)
	}
	past := decodeTransfers(nil, addrs)
	for i := range 2 * mostWays {
		past.add(map[string][]transfer.Sample{fmt.Sprint("r", i): {{Bytes: 1, Took: 1, When: time.Unix(int64(1000+i), 0)}}})
	}
	require.Len(t, past.Ways, mostWays)
	require.Contains(t, past.Ways, fmt.Sprint("r", 2*mostWays-1))
	require.NotContains(t, past.Ways, "r0")
}
