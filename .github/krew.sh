#!/usr/bin/env bash
# Prints the krew manifest of the plugin for a release: krew.sh TAG CHECKSUMS
set -euo pipefail
tag=$1 checksums=$2
base=https://github.com/sallyport-dev/sallyport/releases/download/$tag

cat <<EOF
apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: sallyport
spec:
  version: $tag
  homepage: https://github.com/sallyport-dev/sallyport
  shortDescription: Review what AI agents ask for, and read what they did
  description: |
    Lists the grants that wait for a human, approves, denies and revokes them, asks the
    gate what it would decide, and replays and verifies the recordings of sessions.
  platforms:
EOF
while read -r sum file; do
  name=${file%.tar.gz} # kubectl-sallyport_OS_ARCH
  arch=${name##*_}
  os=${name%_*}
  os=${os##*_}
  cat <<EOF
  - selector:
      matchLabels: {os: $os, arch: $arch}
    uri: $base/$file
    sha256: $sum
    bin: kubectl-sallyport
EOF
done < "$checksums"
