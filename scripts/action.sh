#!/usr/bin/env bash
# The steps of action.yml: install puts a released dbake on the path, start starts nodes in
# containers, build runs dbake with the action's inputs, which are variables here, and stop
# removes the containers. RELEASES is where releases are.
set -euo pipefail

releases=${RELEASES:-https://github.com/dbake/dbake/releases}
history=$RUNNER_TEMP/dbake-history.jsonl
containers=$RUNNER_TEMP/dbake-nodes # their names, one on each line
ready=60                            # seconds that a node may take until it answers
fail() { echo "::error::dbake: $*"; exit 1; }

install() {
  local version=${VERSION:-latest} os arch name dir
  if [[ $version == installed ]]; then
    command -v dbake >/dev/null || fail "version is \"installed\", but no dbake is on the path"
    return
  fi
  case $(uname -s) in Linux) os=linux ;; Darwin) os=darwin ;; *) fail "there is no release for $(uname -s)" ;; esac
  case $(uname -m) in x86_64) arch=amd64 ;; aarch64 | arm64) arch=arm64 ;; *) fail "there is no release for $(uname -m)" ;; esac
  dir=$RUNNER_TEMP/dbake
  mkdir -p "$dir"
  local from=$releases/latest/download
  [[ $version == latest ]] || from=$releases/download/v${version#v}
  fetch "$from/SHA256SUMS" "$dir/SHA256SUMS"
  name=$(awk '{print $2}' "$dir/SHA256SUMS" | grep -E "^dbake_[^/]*_${os}_${arch}\.tar\.gz$") || fail "the release has no archive for $os/$arch"
  fetch "$from/$name" "$dir/$name"
  (cd "$dir" && grep -E "  $name\$" SHA256SUMS | checksum) || fail "$name is not what the release says"
  tar -xzf "$dir/$name" -C "$dir" dbake
  echo "$dir" >> "$GITHUB_PATH"
}

fetch() { curl -fsSL --retry 3 --max-time 300 -o "$2" "$1" || fail "cannot fetch $1"; }

checksum() { if command -v sha256sum >/dev/null; then sha256sum -c --quiet; else shasum -a 256 -c --quiet; fi; }

# lines prints the lines of a value that are not empty, without the white space around.
lines() { sed -e 's/^[[:space:]]*//' -e 's/[[:space:]]*$//' -e '/^$/d' <<< "$1"; }

start() {
  local i name count=${START_NODES:-0}
  [[ $count =~ ^[0-9]{1,2}$ ]] || fail "start-nodes is \"$count\", and not a number up to 99"
  command -v docker >/dev/null || fail "start-nodes needs docker on the runner"
  for ((i = 1; i <= 10#$count; i++)); do
    name=dbake-node$i-$RANDOM$RANDOM
    echo "$name" >> "$containers" # first, so that stop knows it whatever happens
    docker run --detach --privileged --name "$name" "$BUILDKIT_IMAGE" >/dev/null || fail "node $i could not be started from $BUILDKIT_IMAGE"
  done
  while read -r name; do answers "$name"; done < <(names)
}

# answers waits until the BuildKit in a container does.
answers() {
  local end=$((SECONDS + ready))
  until docker exec "$1" buildctl debug workers >/dev/null 2>&1; do
    if ((SECONDS >= end)); then
      docker logs --tail 20 "$1" || true
      fail "$1 did not answer within $ready s"
    fi
    sleep 0.5
  done </dev/null
}

names() { if [[ -f $containers ]]; then cat "$containers"; fi; }

stop() {
  local name
  while read -r name; do
    docker rm --force --volumes "$name" >/dev/null </dev/null || echo "::warning::dbake: the container $name was not removed"
  done < <(names)
  rm -f "$containers"
}

build() {
  local args=() line metadata=$RUNNER_TEMP/dbake-metadata.json status=0
  while read -r line; do args+=(--file "$line"); done < <(lines "${FILES:-}")
  while read -r line; do args+=(--set "$line"); done < <(lines "${SET:-}")
  while read -r line; do args+=(--allow "$line"); done < <(lines "${ALLOW:-}")
  for line in ${NODES:-}; do args+=(--nodes "$line"); done
  while read -r line; do args+=(--nodes "docker-container://$line"); done < <(names)
  [[ -z ${BUILDER:-} ]] || args+=(--builder "$BUILDER")
  [[ -z ${CACHE_REGISTRY:-} ]] || args+=(--cache-registry "$CACHE_REGISTRY")
  [[ ${PUSH:-false} != true ]] || args+=(--push)
  [[ ${LOAD:-false} != true ]] || args+=(--load)
  while read -r line; do args+=("$line"); done < <(lines "${ARGS:-}")
  # What cannot be read of earlier runs is only a worse plan.
  if [[ -s $history ]]; then dbake history import "$history" || echo "::warning::dbake: the measured times of earlier runs were not read"; fi
  # shellcheck disable=SC2086 # targets are words
  dbake build --metadata-file "$metadata" "${args[@]}" -- ${TARGETS:-} || status=$?
  dbake history export -o "$history" || echo "::warning::dbake: measured times were not saved"
  if [[ -s $metadata ]]; then
    local end="dbake-$RANDOM$RANDOM$RANDOM"
    { echo "metadata<<$end"; cat "$metadata"; echo; echo "$end"; } >> "$GITHUB_OUTPUT"
  fi
  return $status
}

case ${1:-} in
  install | start | build | stop) "$1" ;;
  *) echo "usage: action.sh install|start|build|stop" >&2; exit 2 ;;
esac
