package daemon

import (
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

// record is what a daemon keeps of a build, cut to what is about usage.
const record = `{
  "buildDefinition": {"internalParameters": {"buildConfig": {
    "llbDefinition": [
      {"id": "step0", "op": {"Op": {"source": {"identifier": "docker-image://x"}}}},
      {"id": "step1", "inputs": ["step0:0"], "op": {"Op": {"exec": {"meta": {"args": ["make"]}}}}, "resourceUsage": {"samples": [
        {"timestamp": "2026-01-01T00:00:00Z", "cpuStat": {"usageNanos": 1000000000}, "memoryStat": {"peak": 500}, "ioStat": {"readBytes": 7, "writeBytes": 1}},
        null,
        {"timestamp": "2026-01-01T00:00:02Z", "cpuStat": {"usageNanos": 3000000000}, "memoryStat": {"peak": 900}, "ioStat": {"readBytes": 7, "writeBytes": 8}}
      ]}},
      {"id": "step2", "resourceUsage": {"samples": [{"timestamp": "2026-01-01T00:00:00Z", "cpuStat": {}}]}},
      {"id": "step3", "resourceUsage": {"samples": [{"timestamp": "2026-01-01T00:00:00Z", "cpuStat": {"usageNanos": 18446744073709551615}}]}}
    ],
    "digestMapping": {"sha256:0000000000000000000000000000000000000000000000000000000000000001": "step1", "sha256:0000000000000000000000000000000000000000000000000000000000000002": "step2", "sha256:0000000000000000000000000000000000000000000000000000000000000003": "step3"}
  }}},
  "runDetails": {"metadata": {"buildkit_metadata": {"sysUsage": [
    {"timestamp": "2026-01-01T00:00:00Z", "cpuStat": {"user": 10, "system": 5, "idle": 80, "iowait": 5}, "memoryStat": {"total": 1024}},
    {"timestamp": "2026-01-01T00:00:02Z"},
    null
  ]}}}
}`

func TestUsageOfARecord(t *testing.T) {
	u := Usage{Steps: map[digest.Digest]StepUsage{}}
	u.add([]byte(record))
	require.Equal(t, map[digest.Digest]StepUsage{
		"sha256:0000000000000000000000000000000000000000000000000000000000000001": {CPU: 3 * time.Second, Memory: 900, Read: 7, Write: 8},
	}, u.Steps)
	require.Equal(t, []MachineSample{{At: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Total: 100 * time.Second, Busy: 15 * time.Second, Memory: 1 << 20}}, u.Samples)

	for _, other := range []string{"", "[]", "null", `{"buildDefinition": 1}`, `{"runDetails": {"metadata": null}}`} {
		u := Usage{Steps: map[digest.Digest]StepUsage{}}
		u.add([]byte(other))
		require.Empty(t, u.Steps, other)
		require.Empty(t, u.Samples, other)
	}
}

func TestSpread(t *testing.T) {
	require.Equal(t, []string{"a", "c", "e"}, spread([]string{"a", "b", "c", "d", "e"}, 3))
	require.Equal(t, []string{"a", "b"}, spread([]string{"a", "b"}, 3))
	require.Empty(t, spread(nil, 3))
}
