#!/usr/bin/env bash
# Makes the release twice, here and from a clone in another place, and compares the
# checksums; then installs the Debian package of this machine into an empty root and runs
# what it holds, and looks into the others.
#
#   PLATFORMS="linux/amd64"   fewer platforms, as of release.sh; that of this machine must be among them
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
work=$(mktemp -d "${TMPDIR:-/tmp}/dbake-release-check.XXXXXX")
trap 'rm -rf "$work"' EXIT

DIST=$work/1 scripts/release/release.sh
git clone -q -c advice.detachedHead=false . "$work/clone"
# A directory, which git ignores: a link would be a change, which the programs would report.
mkdir "$work/clone/bin"
ln -s "$PWD/bin/buildkitd" "$work/clone/bin"
(cd "$work/clone" && DIST=$work/2 scripts/release/release.sh)
diff "$work/1/SHA256SUMS" "$work/2/SHA256SUMS"
echo "both times the same"
(cd "$work/1" && sha256sum --quiet -c SHA256SUMS)

command -v dpkg >/dev/null || { echo "dpkg is not on this machine: the packages were not installed" >&2; exit 1; }
root=$work/root
mkdir -p "$root"/var/lib/dpkg/{info,updates}
touch "$root/var/lib/dpkg/status"
dpkg --root="$root" --force-not-root --force-depends --log=/dev/null -i "$work"/1/*_linux_"$(dpkg --print-architecture)".deb
"$root/usr/bin/dbake" version | tee "$work/version"
if grep -q modified "$work/version"; then echo "the program says that it is not of its commit" >&2; exit 1; fi
[[ $(readlink "$root/usr/libexec/docker/cli-plugins/docker-dbake") == /usr/bin/dbake ]]
gzip -t "$root/usr/share/man/man1/dbake.1.gz"
bash -n "$root/usr/share/bash-completion/completions/dbake"
dpkg --root="$root" --force-not-root --log=/dev/null -r dbake
[[ ! -e $root/usr/bin/dbake ]]
echo "the package installs, runs, and is removed"

# RPMs are not installed: that needs a database of their own kind. They must hold the same.
if command -v rpm2cpio >/dev/null && command -v cpio >/dev/null; then
  for rpm in "$work"/1/*.rpm; do
    rpm2cpio "$rpm" | cpio -t --quiet | grep -qx './usr/bin/dbake' || { echo "$rpm holds no /usr/bin/dbake" >&2; exit 1; }
  done
  echo "the RPMs hold the program"
else
  echo "rpm2cpio and cpio are not on this machine: the RPMs were not looked into"
fi

# The image has an entry for each platform, and its program is that of the archive.
oci=$work/oci
mkdir "$oci"
tar -xf "$work"/1/*_oci.tar -C "$oci"
for platform in ${PLATFORMS:-linux/amd64 linux/arm64}; do
  [[ $platform == linux/* ]] || continue
  arch=${platform#*/}
  grep -rq "\"architecture\": *\"$arch\"" "$oci/blobs" || { echo "the image is not there for $arch" >&2; exit 1; }
  want=$(tar -xzOf "$work"/1/*_linux_"$arch".tar.gz dbake | sha256sum)
  found=no
  for blob in "$oci"/blobs/sha256/*; do
    if gzip -t "$blob" 2>/dev/null && [[ $(tar -xzOf "$blob" usr/bin/dbake 2>/dev/null | sha256sum) == "$want" ]]; then found=yes; fi
  done
  [[ $found == yes ]] || { echo "the image for $arch holds another program than the archive" >&2; exit 1; }
done
echo "the image is there for its platforms, with the programs of the archives"
