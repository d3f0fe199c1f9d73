package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCallFlag(t *testing.T) {
	for _, tt := range []struct {
		call  string
		check bool
		want  callFlag
	}{
		{"", false, callFlag{}},
		{"", true, callFlag{method: "lint"}},
		{"build", false, callFlag{}},
		{"check", true, callFlag{method: "lint"}},
		{"lint,format=json", true, callFlag{method: "lint", json: true}},
		{"outline,format=text,ignorestatus=1", false, callFlag{method: "outline", ignoreStatus: true}},
		{"format=json,targets", false, callFlag{method: "targets", json: true}},
	} {
		got, err := (&definitionFlags{Call: tt.call, Check: tt.check}).callFlag()
		require.NoError(t, err, tt.call)
		require.Equal(t, tt.want, got, tt.call)
	}
	for call, want := range map[string]string{
		"a,b":              "invalid print value: a,b",
		"a,ignorestatus=x": "invalid ignorestatus print value",
		"a,b=c":            "invalid print field: b=c",
	} {
		_, err := (&definitionFlags{Call: call}).callFlag()
		require.ErrorContains(t, err, want)
	}
}
