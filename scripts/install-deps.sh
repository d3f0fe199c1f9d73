#!/usr/bin/env bash
# Installs what local nodes and their base images need, where apt exists, and
# otherwise says what is missing: runc and a statically linked busybox.
set -euo pipefail

# Where runc is, PATH of a plain root shell need not lead.
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

missing=()
command -v runc >/dev/null || missing+=(runc)
busybox=$(command -v busybox || true)
if [[ -z $busybox ]] || ldd "$busybox" 2>/dev/null | grep -q '=>'; then
  missing+=(busybox-static)
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
echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get install -y --no-install-recommends "${missing[@]}" ||
  { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; }
