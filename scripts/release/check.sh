#!/usr/bin/env bash
# Makes the release twice and compares the checksums; then installs the Debian package
# of this machine into an empty root and runs what it holds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
work=$(mktemp -d "${TMPDIR:-/tmp}/dbake-release-check.XXXXXX")
trap 'rm -rf "$work"' EXIT

for n in 1 2; do DIST=$work/$n scripts/release/release.sh; done
diff "$work/1/SHA256SUMS" "$work/2/SHA256SUMS"
echo "both times the same"

command -v dpkg >/dev/null || { echo "dpkg is not on this machine: the packages were not installed" >&2; exit 1; }
root=$work/root
mkdir -p "$root"/var/lib/dpkg/{info,updates}
touch "$root/var/lib/dpkg/status"
dpkg --root="$root" --force-not-root --force-depends --log=/dev/null -i "$work"/1/*_linux_"$(dpkg --print-architecture)".deb
"$root/usr/bin/dbake" version
[[ $(readlink "$root/usr/libexec/docker/cli-plugins/docker-dbake") == /usr/bin/dbake ]]
gzip -t "$root/usr/share/man/man1/dbake.1.gz"
bash -n "$root/usr/share/bash-completion/completions/dbake"
dpkg --root="$root" --force-not-root --log=/dev/null -r dbake
[[ ! -e $root/usr/bin/dbake ]]
echo "the package installs, runs, and is removed"
