#!/usr/bin/env bash
# Finds or builds the programs of the local control plane; prints `name=path` lines on stdout, progress on stderr.
#
#   build.sh [NAME...]      default: etcd kube-apiserver kube-controller-manager kubectl kubectl-old, the control plane and its clients
#
#   control plane   etcd kube-apiserver kube-controller-manager
#   node            kube-scheduler kubelet kube-proxy, and agnhost for the containers of tests
#   clients         kubectl, kubectl-old (1.31), kubectl-1.29, kubectl-1.33, helm
#   S3              versitygw
#   AWS             moto (STS and EKS), aws (the stock command); Python packages in one environment
#   oracle          api-reader: what the API server itself makes of a request line or a body (parsing/oracle)
#   OIDC, SAML      keycloak (needs Maven and a JDK)
#   linters         cargo-deny, actionlint
#
# Order: KUBEBUILDER_ASSETS, if set and it holds the program (it never holds kubectl-old); the cache; else built once into the cache
# from the pinned modules beside this file, whose go.sum (Python: requirements.txt) pins every byte. Concurrent callers wait for one another.
# Cache: SALLYPORT_CACHE, else XDG_CACHE_HOME/sallyport, else ~/.cache/sallyport.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${SALLYPORT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sallyport}
bin=$cache/bin
go_wanted=go1.26.8 # Kubernetes 1.36 built with Go 1.27 serves a broken OpenAPI document, and `kubectl apply` fails
deny_version=0.20.2
moto_sum=$(sha256sum "$here/moto/requirements.txt" | cut -c1-12)
keycloak_version=26.4.0
keycloak_sha256=1b6a11a2726ac8a8dc9c91d5fafe989a75ce4f1622d7f7b45c21d5bc16629c0a

say() { printf '%s\n' "$*" >&2; }
die() { say "e2e/tools/build.sh: $*"; exit 1; }

# pinned DIR MODULE: the version that DIR's go.mod requires
pinned() { sed -n "s#^require $2 \(v[0-9.]*\)\$#\1#p" "$here/$1/go.mod"; }

# plan NAME: sets dir, package, version, seconds, megabytes
plan() {
  case $1 in
    etcd) dir=etcd module=go.etcd.io/etcd/server/v3 package=$module seconds=60 megabytes=37 ;;
    kube-apiserver) dir=kubernetes module=k8s.io/kubernetes package=$module/cmd/$1 seconds=240 megabytes=101 ;;
    kube-controller-manager) dir=kubernetes module=k8s.io/kubernetes package=$module/cmd/$1 seconds=80 megabytes=92 ;;
    kubectl | kube-scheduler | kube-proxy) dir=kubernetes module=k8s.io/kubernetes package=$module/cmd/$1 seconds=60 megabytes=57 ;;
    kubelet) dir=kubernetes module=k8s.io/kubernetes package=$module/cmd/$1 seconds=60 megabytes=80 ;;
    agnhost) dir=kubernetes module=k8s.io/kubernetes package=$module/test/images/$1 seconds=60 megabytes=60 ;;
    kubectl-old) dir=kubectl-1.31 module=k8s.io/kubernetes package=$module/cmd/kubectl seconds=90 megabytes=54 ;;
    kubectl-1.29 | kubectl-1.33) dir=$1 module=k8s.io/kubernetes package=$module/cmd/kubectl seconds=90 megabytes=54 ;;
    helm) dir=$1 module=helm.sh/helm/v3 package=$module/cmd/helm seconds=60 megabytes=60 ;;
    versitygw) dir=$1 module=github.com/versity/versitygw package=$module/cmd/versitygw seconds=60 megabytes=45 ;;
    api-reader) dir=../../parsing/oracle module=k8s.io/apiserver package=. seconds=40 megabytes=20 ;;
    actionlint) dir=$1 module=github.com/rhysd/actionlint package=$module/cmd/actionlint seconds=20 megabytes=6 ;;
    *) die "unknown program \`$1\`" ;;
  esac
  version=$(pinned "$dir" "$module")
  [ -n "$version" ] || die "no version of $module in $dir/go.mod"
}

# path NAME: where the program is or will be
path() {
  local name=$1
  case $name in
    keycloak) echo "$cache/keycloak-$keycloak_version/bin/kc.sh"; return ;;
    cargo-deny) echo "$bin/cargo-deny-$deny_version"; return ;;
    moto | aws) echo "$bin/$name-$moto_sum"; return ;;
  esac
  if [ -n "${KUBEBUILDER_ASSETS:-}" ] && [ -x "$KUBEBUILDER_ASSETS/$name" ]; then echo "$KUBEBUILDER_ASSETS/$name"; return; fi
  plan "$name"
  case $name in
    kubectl-*) name=kubectl ;;
    api-reader) version+=-$(cat "$here/$dir"/{main.go,go.mod,go.sum} | sha256sum | cut -c1-10) ;; # a program of ours: of its own text, too
  esac
  echo "$bin/$name-$version"
}

build_go() {
  local name=$1 out=$2 started=$SECONDS ldflags="-s -w" p
  command -v go >/dev/null || die "Go is needed to build $name (or set KUBEBUILDER_ASSETS)"
  plan "$name"
  case $(cd / && go env GOVERSION) in go1.26*) export GOTOOLCHAIN=local ;; *) export GOTOOLCHAIN=$go_wanted ;; esac
  if [ "$module" = helm.sh/helm/v3 ]; then ldflags+=" -X $module/internal/version.version=$version"; fi
  if [ "$module" = k8s.io/kubernetes ]; then
    for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
      ldflags+=" -X $p.gitVersion=$version -X $p.gitMajor=1 -X $p.gitMinor=$(echo "$version" | cut -d. -f2) -X $p.gitTreeState=clean"
    done
  fi
  say "  building $name $version (about $megabytes MB, up to $seconds s on two cores)"
  (cd "$here/$dir" && CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off \
    go build -trimpath -buildvcs=false -p "${GO_BUILD_JOBS:-2}" -ldflags "$ldflags" -o "$out.part" "$package") >&2
  mv "$out.part" "$out"
  say "  built    $name $version in $((SECONDS - started)) s"
}

build_deny() {
  local out=$1 root=$cache/cargo-deny-$deny_version started=$SECONDS
  say "  building cargo-deny $deny_version (about 30 MB, up to 300 s on two cores)"
  CARGO_TARGET_DIR=$root/target CARGO_PROFILE_DEV_DEBUG=0 \
    cargo install --quiet --locked --debug --root "$root" --no-track cargo-deny --version "$deny_version" >&2
  mv "$root/bin/cargo-deny" "$out"
  rm -rf "$root"
  say "  built    cargo-deny $deny_version in $((SECONDS - started)) s"
}

# build_moto: both programs of the environment; each is a script of one line, written when everything is installed
build_moto() {
  local venv=$bin/moto-$moto_sum.venv started=$SECONDS
  command -v python3 >/dev/null || die "Python 3.10 or newer with venv and pip is needed for moto and aws"
  say "  installing moto and aws (about 300 MB, up to 120 s on two cores)"
  rm -rf "$venv"
  python3 -m venv "$venv" >&2 || die "python3 has no venv: install it (e.g. the package python3-venv of Debian)"
  "$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --only-binary=:all: --no-deps --require-hashes \
    -r "$here/moto/requirements.txt" >&2
  script "$bin/moto-$moto_sum" "$venv/bin/moto_server"
  script "$bin/aws-$moto_sum" "$venv/bin/aws"
  say "  installed moto and aws in $((SECONDS - started)) s"
}

# script FILE PROGRAM: a script that is the program
script() {
  printf '#!/bin/sh\nexec "%s" "$@"\n' "$2" >"$1.part"
  chmod +x "$1.part"
  mv "$1.part" "$1"
}

# From Maven's default repository; what a start needs to know beforehand is compiled in once (60 s).
build_keycloak() {
  local root=$cache/keycloak-$keycloak_version part=$cache/keycloak.part started=$SECONDS zip tool
  for tool in mvn java unzip; do command -v "$tool" >/dev/null || die "$tool is needed for keycloak"; done
  say "  fetching keycloak $keycloak_version (160 MB, up to 120 s on two cores)"
  rm -rf "$part"
  mkdir -p "$part"
  mvn --batch-mode --quiet org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy "-Dmaven.repo.local=$part/m2" \
    "-Dartifact=org.keycloak:keycloak-quarkus-dist:$keycloak_version:zip" "-DoutputDirectory=$part" >&2
  zip=$part/keycloak-quarkus-dist-$keycloak_version.zip
  echo "$keycloak_sha256  $zip" | sha256sum --check --quiet >&2 || die "keycloak is not what was pinned"
  unzip -q "$zip" -d "$part"
  "$part/keycloak-$keycloak_version/bin/kc.sh" build --db=dev-mem --health-enabled=false --metrics-enabled=false >&2
  rm -rf "$root"
  mv "$part/keycloak-$keycloak_version" "$root"
  rm -rf "$part"
  say "  built    keycloak $keycloak_version in $((SECONDS - started)) s"
}

[ $# -gt 0 ] || set -- etcd kube-apiserver kube-controller-manager kubectl kubectl-old
mkdir -p "$bin"
missing=()
for name; do p=$(path "$name"); [ -x "$p" ] || missing+=("$name"); done
if [ ${#missing[@]} -gt 0 ]; then
  exec 9>"$bin/.lock"
  flock 9
  say "programs to build once into $bin: ${missing[*]}"
  say "  the control plane takes about 8 minutes on two cores and about 2 GB of sources and build cache, the first time; the rest a minute each"
  for name in "${missing[@]}"; do
    p=$(path "$name")
    [ -x "$p" ] && continue # another caller built it while we waited
    case $name in
      cargo-deny) build_deny "$p" ;;
      moto | aws) build_moto ;;
      keycloak) build_keycloak ;;
      *) build_go "$name" "$p" ;;
    esac 9>&-
  done
  flock -u 9
fi
for name; do echo "$name=$(path "$name")"; done
