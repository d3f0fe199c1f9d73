#!/usr/bin/env bash
# Makes everything that a release consists of, in dist/: archives and packages of
# static binaries, an image, and the checksums of all. The same commit gives the same
# bytes: times are those of the commit, and nothing of this machine goes in.
#
#   PLATFORMS="linux/amd64"   fewer platforms (default: linux and darwin, amd64 and arm64)
#   IMAGE=no                  leave the image out: it is built by dbake, on a local node,
#                             which needs Linux and root
#   DIST=DIR                  another place than dist/
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

platforms=${PLATFORMS:-linux/amd64 linux/arm64 darwin/amd64 darwin/arm64}
dist=${DIST:-$PWD/dist}
fail() { echo "release: $*" >&2; exit 1; }

[[ -z $(git status --porcelain) ]] || fail "there are changes that are not committed, or files that git does not know: commit, stash or remove them, so that the release has a commit"
commit=$(git rev-parse HEAD)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
# A tag vX.Y.Z of this commit, or what precedes the next version.
VERSION=$(git describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null || echo "v0.0.0-dev.$(git log -1 --format=%cd --date=format:%Y%m%d%H%M%S).${commit:0:12}")
export VERSION=${VERSION#v}

work=$(mktemp -d "${TMPDIR:-/tmp}/dbake-release.XXXXXX")
trap 'rm -rf "$work"' EXIT
rm -rf "$dist"
mkdir -p "$dist"

export CGO_ENABLED=0
# The programs of this machine: the one that writes completions and the manual, and the
# one that makes packages.
go build -trimpath -buildvcs=true -o "$work/dbake" ./cmd/dbake
[[ $(go version -m "$work/dbake") == *"vcs.revision=$commit"* ]] ||
  fail "the program does not know its commit: Go finds none in a work tree that 'git worktree' has made, so make the release in a clone"
(cd scripts/release && go build -trimpath -o "$work/nfpm" github.com/goreleaser/nfpm/v2/cmd/nfpm)
"$work/dbake" reference --format man | gzip -n9 > "$work/dbake.1.gz"
for shell in bash zsh fish; do "$work/dbake" completion $shell > "$work/completion.$shell"; done

images=()
for platform in $platforms; do
  os=${platform%/*} ARCH=${platform#*/}
  export ARCH STAGE=$work/$os-$ARCH
  mkdir "$STAGE"
  echo "building $platform"
  GOOS=$os GOARCH=$ARCH go build -trimpath -buildvcs=true -ldflags "-s -w" -o "$STAGE/dbake" ./cmd/dbake
  cp "$work"/completion.* "$work/dbake.1.gz" LICENSE README.md "$STAGE"
  chmod 755 "$STAGE/dbake"
  touch -d "@$SOURCE_DATE_EPOCH" "$STAGE"/*
  (cd "$STAGE" && tar --sort=name --owner=0 --group=0 --numeric-owner --mode=go=rX,u+rw --mtime="@$SOURCE_DATE_EPOCH" -cf - -- *) |
    gzip -n9 > "$dist/dbake_${VERSION}_${os}_$ARCH.tar.gz"
  [[ $os == linux ]] || continue
  images+=("$platform")
  for kind in deb rpm; do
    "$work/nfpm" package --config scripts/release/nfpm.yaml --packager $kind --target "$dist/dbake_${VERSION}_linux_$ARCH.$kind" > "$work/log" || { cat "$work/log" >&2; fail "package $kind"; }
  done
done

if [[ ${IMAGE:-yes} != no && ${#images[@]} -gt 0 ]]; then
  [[ -x bin/buildkitd ]] || fail "bin/buildkitd is missing: run make release"
  cp scripts/release/Dockerfile "$work"
  state=$(mktemp -d "$(if [[ -w /dev/shm ]]; then echo /dev/shm; else echo "$work"; fi)/dbake-release.XXXXXX")
  trap 'rm -rf "$work" "$state"' EXIT
  STAGE=$work DEST=$dist/dbake_${VERSION}_oci.tar REVISION=$commit XDG_CACHE_HOME=$work/cache \
    "$work/dbake" build --progress plain --nodes local:1 --state-dir "$state" --buildkitd "$PWD/bin/buildkitd" --history none \
    -f scripts/release/docker-bake.hcl --allow "fs.read=$work" --allow "fs.write=$dist" \
    --set "*.platform=$(IFS=,; echo "${images[*]}")"
fi

(cd "$dist" && sha256sum -- * > "$work/sums" && mv "$work/sums" SHA256SUMS)
ls -l "$dist"
