package compiler_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler"
)

func strictWarnings(t *testing.T, o compiler.Options) []string {
	t.Helper()
	o.Strict = true
	p, err := compiler.Compile(context.Background(), o)
	require.NoError(t, err)
	var list []string
	for _, w := range p.Warnings {
		list = append(list, w.Error())
	}
	return list
}

// TestStrictCompose: what docker compose refuses or obeys, and bake passes over.
func TestStrictCompose(t *testing.T) {
	t.Parallel()
	o := project(t, "compose.yaml", `x-anything: &more
  labels: {a: 1.50}
x-bake: {}
services:
  app:
    platform: linux/arm64
    additional_contexts: {a: b}
    imagee: x
    x-bake: {tags: [a]}
    x-mine: 1
    build:
      <<: *more
      context: .
      no_cache_filter: [base]
      privileged: true
      args:
        PY: 3.10
        OK: "3.10"
        ALSO: ${UNUSED:-1}
      x-bake:
        push: true
        platform: linux/arm64
        output: type=docker
  both:
    platform: linux/arm64
    build:
      context: .
      x-bake: {platforms: [linux/arm64]}
  image:
    image: x
    platform: linux/arm64
`)
	o.Vars = []string{"UNUSED=2", "NOBODY=1"}
	require.Equal(t, []string{
		`--var NOBODY: Unknown variable; No file declares a variable "NOBODY".`,
		`compose.yaml:3,1-7: Misplaced x-bake; x-bake belongs under the build section of a service.`,
		`compose.yaml:6,5-13: Ignored key; bake does not read "platform" of a service, which docker compose builds service "app" for: write platforms under build.`,
		`compose.yaml:7,5-24: Misplaced key; "additional_contexts" of service "app" belongs under build.`,
		`compose.yaml:8,5-11: Unknown key; A service has no key "imagee". Did you mean "image"?`,
		`compose.yaml:9,5-11: Misplaced x-bake; x-bake of service "app" belongs under build.`,
		`compose.yaml:14,7-22: Ignored key; bake does not read "no_cache_filter": write no-cache-filter under x-bake.`,
		`compose.yaml:15,7-17: Ignored key; bake does not read "privileged": write the entitlement security.insecure in a bake file.`,
		`compose.yaml:17,13-17: Number loses a zero; The number 3.10 becomes "3.1" as text: write "3.10" in quotes if it is a version.`,
		`compose.yaml:21,9-13: Unknown key; x-bake of service "app" has no key "push": write output = type=registry, or pass --push.`,
		`compose.yaml:22,9-17: Unknown key; x-bake of service "app" has no key "platform". Did you mean "platforms"?`,
	}, strictWarnings(t, o))
}

// TestStrictVariables: values that nobody asked for, and versions that are numbers.
func TestStrictVariables(t *testing.T) {
	t.Parallel()
	o := project(t, "docker-bake.hcl", `variable "VERSION" { default = 3.10 }
variable "NAMES" { type = list(string) }
variable "FINE" { default = 0.5 }
target "default" {
  args = { A = VERSION, B = 1.0, C = 10, D = [FINE][0], E = length(NAMES) }
}
`)
	o.Vars = []string{"VERSOIN=2", "NAMES_JSON=[]", "VERSION=3.20"}
	require.Equal(t, []string{
		`--var VERSOIN: Unknown variable; No file declares a variable "VERSOIN". Did you mean "VERSION"?`,
		`docker-bake.hcl:1,10-19: Number loses a zero; VERSION is a number: the value 3.20 that it was given becomes "3.2" as text. Declare it with type = string, or with a default in quotes.`,
		`docker-bake.hcl:1,32-36: Number loses a zero; The number 3.10 becomes "3.1" as text: write "3.10" in quotes if it is a version.`,
		`docker-bake.hcl:5,29-32: Number loses a zero; The number 1.0 becomes "1" as text: write "1.0" in quotes if it is a version.`,
	}, strictWarnings(t, o))

	o = project(t, "docker-bake.json", `{"target": {"default": {"args": {"A": 3.10, "B": "3.10", "C": 3}}}}`)
	require.Equal(t, []string{
		`docker-bake.json:1,39-43: Number loses a zero; The number 3.10 becomes "3.1" as text: write "3.10" in quotes if it is a version.`,
	}, strictWarnings(t, o))
}
