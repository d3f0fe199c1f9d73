#!/usr/bin/env bash
# Builds the base images with dbake and pushes them to the local registry. The
# arguments are flags for `dbake build`, such as --nodes local:1. $DBAKE is the
# executable.
set -euo pipefail

dbake=$(command -v "${DBAKE:-dbake}")
dbake=$(realpath "$dbake")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Asked where dbake's own go.mod chooses the toolchain.
cd "$here/../.."
GOROOT=$(go env GOROOT)
GO_VERSION=$(go env GOVERSION)
GO_VERSION=${GO_VERSION#go}
GO_VERSION=${GO_VERSION%% *}

busybox=$(command -v busybox) || { echo "busybox was not found: run scripts/install-deps.sh" >&2; exit 1; }
BUSYBOX_DIR=$(dirname "$busybox")
BUSYBOX_VERSION=$("$busybox" 2>&1 | sed -n '1s/^BusyBox v\([0-9][0-9.]*\).*/\1/p')
export GOROOT GO_VERSION BUSYBOX_DIR BUSYBOX_VERSION=${BUSYBOX_VERSION:-1}

cd "$here"
exec "$dbake" build --allow "fs.read=$GOROOT" --allow "fs.read=$BUSYBOX_DIR" "$@"
