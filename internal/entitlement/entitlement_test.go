package entitlement

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
)

func TestNeeded(t *testing.T) {
	declares := &ir.Target{Name: "a", Entitlements: []string{"network.host", "security.insecure", "device=x", "device=y"}}
	got, err := Needs([]*frontend.Unit{
		{Target: declares, Entitlements: []string{"device", "network.host"}},
		{Target: declares, Entitlements: []string{"device"}},
		{Target: &ir.Target{Name: "b"}},
	})
	require.NoError(t, err)
	require.Equal(t, []string{"device=x", "device=y", "network.host"}, got, "what is declared and needed by no step is left out")

	plain := &ir.Target{Name: "b", Entitlements: []string{"network.host"}}
	_, err = Needs([]*frontend.Unit{
		{ID: "b@1", Target: plain, Entitlements: []string{"device", "network.host", "security.insecure"}},
		{ID: "b@2", Target: plain, Entitlements: []string{"device", "network.host", "security.insecure"}},
	})
	require.EqualError(t, err, `target b has steps that need device and security.insecure, which it does not declare; add entitlements = ["device", "security.insecure"] to it and pass --allow device --allow security.insecure`)

	// The node gets the devices of both.
	zero := &ir.Target{Name: "a", Entitlements: []string{"device=example.com/gpu=0"}}
	one := &ir.Target{Name: "b", Entitlements: []string{"device=example.com/gpu=1"}}
	_, err = Needs([]*frontend.Unit{
		{Target: zero, Entitlements: []string{"device"}, Devices: []string{"example.com/gpu=0"}},
		{Target: one, Entitlements: []string{"device"}, Devices: []string{"example.com/gpu=0"}},
	})
	require.EqualError(t, err, `target b has steps that need device=example.com/gpu=0, which it does not declare; add entitlements = ["device=example.com/gpu=0"] to it and pass --allow device=example.com/gpu=0`)
	for _, tc := range []struct {
		entitlement, device string
		want                bool
	}{
		{"device", "example.com/gpu=0", true},
		{"network.host", "example.com/gpu=0", false},
		{"device=example.com/gpu=1", "example.com/gpu=0", false},
		{"device=example.com/gpu=1", "example.com/gpu", true},
		{"device=example.com/gpu=1", "gpu", true},
		{"device=gpu", "example.com/gpu=0", true},
		{"device=example.com/gpu", "example.com/gpu=0", true},
		{"device=example.com/gpu=*", "example.com/gpu=0", true},
		{"device=example.com/tpu", "example.com/gpu=0", false},
		{"device=example.com/tpu=0,alias=gpu", "example.com/gpu=0", true},
	} {
		require.Equal(t, tc.want, mayMean(tc.entitlement, tc.device), tc)
	}
}
