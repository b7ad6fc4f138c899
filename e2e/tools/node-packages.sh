#!/usr/bin/env bash
# Finds the system's programs that a node needs; installs the packages of those that are missing (Debian, Ubuntu; root).
#
#   node-packages.sh          installs what is missing
#   node-packages.sh --check  only says what is missing; exit code 1 then
set -euo pipefail
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() { printf '%s\n' "$*" >&2; }
die() { say "e2e/tools/node-packages.sh: $*"; exit 1; }

# program or file -> Debian package
needed=(
  containerd=containerd ctr=containerd runc=runc /usr/lib/cni/bridge=containernetworking-plugins
  nft=nftables conntrack=conntrack ip=iproute2 mount=mount unshare=util-linux nsenter=util-linux
  dnsmasq=dnsmasq-base busybox=busybox cc=gcc /usr/include/signal.h=libc6-dev
)
missing=() packages=()
for pair in "${needed[@]}"; do
  program=${pair%%=*} package=${pair#*=}
  case $program in /*) [ -e "$program" ] && continue ;; *) command -v "$program" >/dev/null && continue ;; esac
  missing+=("$program")
  case " ${packages[*]:-} " in *" $package "*) ;; *) packages+=("$package") ;; esac
done
[ ${#missing[@]} -gt 0 ] || exit 0
[ "${1:-}" != --check ] || die "missing: ${missing[*]}"

command -v apt-get >/dev/null || die "missing: ${missing[*]}; there is no apt-get here, so install them yourself (Debian names: ${packages[*]})"
[ "$(id -u)" = 0 ] || die "missing: ${missing[*]}; run as root: apt-get install --no-install-recommends ${packages[*]}"
export DEBIAN_FRONTEND=noninteractive
say "packages to install for the node: ${packages[*]}"
started=$SECONDS
apt-get update -qq >&2 || say "  the package lists could not be renewed; going on with those that are here"
apt-get install --no-install-recommends -y "${packages[@]}" 2>&1 | grep -E '^(Need to get|After this|Unpacking|Setting up|E:)' | sed 's/^/  /' >&2 ||
  die "apt-get failed; run it yourself: apt-get install --no-install-recommends ${packages[*]}"
say "  installed in $((SECONDS - started)) s"
