package engine

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/daemon"
)

// "host-gateway" has a meaning where all nodes give it the same one.
func TestCommonGateway(t *testing.T) {
	node := func(ip string) daemon.NodeInfo { return daemon.NodeInfo{HostGateway: ip} }
	for _, c := range []struct {
		nodes []daemon.NodeInfo
		want  string
	}{
		{nodes: []daemon.NodeInfo{node("")}},
		{nodes: []daemon.NodeInfo{node("172.17.0.1")}, want: "172.17.0.1"},
		{nodes: []daemon.NodeInfo{node("172.17.0.1"), node("172.17.0.1")}, want: "172.17.0.1"},
		{nodes: []daemon.NodeInfo{node("172.17.0.1"), node("172.18.0.1")}},
		{nodes: []daemon.NodeInfo{node("172.17.0.1"), node("")}},
		{nodes: []daemon.NodeInfo{node(""), node("172.17.0.1")}},
	} {
		require.Equal(t, c.want, commonGateway(c.nodes))
	}
}
