package real

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTable(t *testing.T) {
	var builds []Build
	for i, measured := range [][2]time.Duration{{10, 20}, {20, 30}, {16, 48}} {
		for k, strategy := range []string{"affinity", "queue"} {
			builds = append(builds, Build{Strategy: strategy, Round: i + 1, Predicted: 12 * time.Second, Measured: measured[k] * time.Second, Steals: k})
		}
	}
	var out strings.Builder
	require.NoError(t, writeTable(&out, builds, []string{"affinity", "queue"}))
	require.Equal(t, `  strategy  predicted  measured    from      to  deviation  ratio  steals
  affinity     12.00s    16.00s  10.00s  20.00s      25.0%  1.000       0
     queue     12.00s    30.00s  20.00s  48.00s      60.0%  2.000       3
medians of 3 rounds; deviation is |predicted-measured|/measured, ratio is measured against affinity in the same round
`, out.String())
}
