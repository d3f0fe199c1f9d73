package engine

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime"
)

// "host-gateway" has a meaning where all nodes give it the same one.
func TestCommonGateway(t *testing.T) {
	node := func(ip string) runtime.NodeInfo { return runtime.NodeInfo{HostGateway: ip} }
	for _, c := range []struct {
		nodes []runtime.NodeInfo
		want  string
	}{
		{nodes: []runtime.NodeInfo{node("")}},
		{nodes: []runtime.NodeInfo{node("172.17.0.1")}, want: "172.17.0.1"},
		{nodes: []runtime.NodeInfo{node("172.17.0.1"), node("172.17.0.1")}, want: "172.17.0.1"},
		{nodes: []runtime.NodeInfo{node("172.17.0.1"), node("172.18.0.1")}},
		{nodes: []runtime.NodeInfo{node("172.17.0.1"), node("")}},
		{nodes: []runtime.NodeInfo{node(""), node("172.17.0.1")}},
	} {
		require.Equal(t, c.want, commonGateway(c.nodes))
	}
}
