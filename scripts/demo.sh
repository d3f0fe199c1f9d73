#!/usr/bin/env bash
# Shows dbake on this machine: three local nodes and a registry, base images made
# from what the machine has, and the storefront monorepo planned and built over the
# nodes, cold, again, and after an edit. `make demo` runs it. Whatever happens, nothing
# is left running and no file is left behind outside bin/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD

nodes=${NODES:-3}

bold='' plain=''
if [[ -t 1 ]]; then bold=$'\033[1m' plain=$'\033[0m'; fi
say() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
fail() { echo "demo: $*" >&2; exit 1; }

[[ $(uname -s) == Linux ]] || fail "local nodes need Linux"
((EUID == 0)) || fail "local nodes need root: their steps run in containers"
for tool in bin/dbake bin/buildkitd; do
  [[ -x $tool ]] || fail "$tool is missing: run make demo"
done

# In memory if possible: daemons wait for their databases to reach the disk.
parent=${TMPDIR:-/tmp}
if [[ -d /dev/shm && -w /dev/shm ]]; then parent=/dev/shm; fi
state=$(mktemp -d "$parent/dbake-demo.XXXXXX")

# The demo keeps what dbake learns (measured costs, metadata of base images) and the logs
# of targets with the cluster's state, and not in directories of the user.
mkdir "$state/tmp"
export XDG_CACHE_HOME=$state/cache TMPDIR=$state/tmp
dbake() {
  "$root/bin/dbake" "$@"
}

finish() {
  local status=$?
  trap '' INT TERM # not in the middle of cleaning up
  trap - EXIT
  say "Stopping the nodes"
  dbake cluster down --state-dir "$state" || status=1
  rm -rf "$state"
  if ((status == 0)); then echo "done"; else echo "demo: ended with status $status" >&2; fi
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

on_cluster=(--nodes "local:$nodes" --state-dir "$state")
# What is only to be done is shown where it can be shown live.
aside=()
[[ -t 2 ]] || aside=(--progress quiet)

say "Starting $nodes nodes and a registry"
dbake cluster up --nodes "$nodes" --state-dir "$state"

say "Making base images of busybox and the Go toolchain of this machine"
DBAKE=$root/bin/dbake testdata/bases/build.sh "${on_cluster[@]}" "${aside[@]}"

# A copy, as one of its files is edited below.
cp -r testdata/bakefiles/storefront "$state/storefront"
cd "$state/storefront"

say "The plan for storefront: nothing has been measured, so costs are guesses"
dbake plan "${on_cluster[@]}"

say "Building storefront on $nodes nodes of this machine"
dbake build "${on_cluster[@]}" --metadata-file "$state/metadata.json"

say "Building it again: nothing has changed, so no node has anything to do"
counts() { sed -n 's/^  "\(built\|unchanged\|seconds\)": \([0-9.]*\),\{0,1\}$/\1: \2/p' "$1"; }
dbake build "${on_cluster[@]}" --progress quiet --summary-json "$state/again.json"
counts "$state/again.json"

say "One service is edited: what it touches is built, and no more"
sed -i 's/package main/package main \/\/ edited by the demo/' services/pricing/main.go
dbake build "${on_cluster[@]}" --progress quiet --summary-json "$state/edited.json"
counts "$state/edited.json"
dbake log what-ran
dbake explain pricing

say "What one node would have taken for the cold build, by what was measured"
echo "These nodes share the processors of one machine, and know it: one alone takes about as long."
dbake plan "${on_cluster[@]}" --no-cache --reuse never --compare single,affinity

say "Running a program out of one of the images"
# The image is built already, so only its files are sent.
mkdir "$state/catalog"
dbake build "${on_cluster[@]}" --progress quiet --allow "fs.write=$state/catalog" \
  --set "catalog.output=type=local,dest=$state/catalog" catalog
"$state/catalog/bin/catalog" -version

mkdir -p "$root/bin"
dbake plan "${on_cluster[@]}" --no-cache --reuse never --format html -o "$root/bin/demo-plan.html"
say "What next"
cat <<END
The plan of a cold build:        $root/bin/demo-plan.html
A project of your own:           cd PROJECT && $root/bin/dbake plan
From nothing to three nodes:     docs/tutorial.md
Beside docker buildx bake:       make bench-quick BUILDX=/path/to/docker-buildx
END
