#!/usr/bin/env bash
# Installs what local nodes and their base images need, where apt exists, and
# otherwise says what is missing: runc and a statically linked busybox. With --docker
# it also installs a Docker engine and the docker command, which tests run by
# themselves; without these the tests say that they do not run.
set -euo pipefail

# Where runc is, PATH of a plain root shell need not lead.
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

missing=()
command -v runc >/dev/null || missing+=(runc)
busybox=$(command -v busybox || true)
if [[ -z $busybox ]] || ldd "$busybox" 2>/dev/null | grep -q '=>'; then
  missing+=(busybox-static)
fi

# install PACKAGE...: nothing that is there is removed for it.
install() {
  export DEBIAN_FRONTEND=noninteractive
  local get=(apt-get install -qq -y --no-install-recommends --no-remove)
  echo "installing $*"
  { "${get[@]}" "$@" || { apt-get update -qq && "${get[@]}" "$@"; }; } >/dev/null
}

if [[ ${1-} == --docker ]] && ((EUID == 0)) && command -v apt-get >/dev/null; then
  # Debian 12 has the command in the package of the engine, later releases apart.
  for need in dockerd:docker.io docker:docker-cli; do
    command -v "${need%:*}" >/dev/null || install "${need#*:}" ||
      echo "${need#*:} could not be installed: tests that need it do not run" >&2
  done
fi

if ((${#missing[@]} == 0)); then
  exit 0
fi
if ! command -v apt-get >/dev/null; then
  echo "please install: ${missing[*]} (busybox-static: a statically linked executable named busybox, on PATH)" >&2
  exit 1
fi
if ((EUID != 0)); then
  echo "please run as root: apt-get install ${missing[*]}" >&2
  exit 1
fi
install "${missing[@]}"
