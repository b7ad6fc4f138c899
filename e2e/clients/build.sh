#!/usr/bin/env bash
# Builds the programs that use the clients of other languages; prints `name=command` lines on stdout, progress on stderr.
#
#   build.sh [go|python|java]...      default: all three
#
# Each is built once per content of its folder, outside the clone, from versions that are pinned beside this file: go.sum and
# requirements.txt pin every byte, pom.xml every direct version. A second build asks no network. Concurrent callers wait for one another.
# Cache: SALLYPORT_CACHE, else XDG_CACHE_HOME/sallyport, else ~/.cache/sallyport; in its folder `clients`.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${SALLYPORT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sallyport}/clients
go_wanted=go1.26.8

say() { printf '%s\n' "$*" >&2; }
die() { say "e2e/clients/build.sh: $*"; exit 1; }
need() { command -v "$1" >/dev/null || die "$2 is needed for the $3 client: install it (e.g. the package $4 of Debian)"; }

# sum NAME: short hash of what the program is made of
sum() { (cd "$here/$1" && find . -type f -not -path '*/__pycache__/*' -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16); }

build_go() { # OUT
  need go "Go 1.26" Go golang
  case $(cd / && go env GOVERSION) in go1.26*) export GOTOOLCHAIN=local ;; *) export GOTOOLCHAIN=$go_wanted ;; esac
  (cd "$here/go" && CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off \
    go build -trimpath -buildvcs=false -p "${GO_BUILD_JOBS:-2}" -ldflags "-s -w" -o "$1/client" .) >&2
}

build_python() { # OUT
  need python3 "Python 3.10 or newer with venv and pip" Python python3-venv
  python3 -m venv "$1/venv" >&2 || die "python3 has no venv: install it (e.g. the package python3-venv of Debian)"
  "$1/venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --only-binary=:all: --require-hashes \
    -r "$here/python/requirements.txt" >&2
  cp "$here/python/client.py" "$1/"
}

build_java() { # OUT
  need java "Java 17 or newer" Java openjdk-17-jdk-headless
  need javac "a Java compiler" Java openjdk-17-jdk-headless
  need mvn Maven Java maven
  local offline=()
  if [ -e "$cache/m2/.complete-$(sha256sum "$here/java/pom.xml" | cut -c1-16)" ]; then offline=(--offline); fi
  mvn --batch-mode --quiet "${offline[@]}" -f "$here/java/pom.xml" "-Dmaven.repo.local=$cache/m2" "-Dout=$1" \
    compile dependency:copy-dependencies >&2
  touch "$cache/m2/.complete-$(sha256sum "$here/java/pom.xml" | cut -c1-16)"
}

# command NAME FOLDER: how the program is run
command_of() {
  case $1 in
    go) echo "$2/client" ;;
    python) echo "$2/venv/bin/python $2/client.py" ;;
    # Started often and for seconds: no second compiler, no parallel collector.
    java) echo "java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp $2/classes:$2/lib/* Client" ;;
    *) die "unknown client \`$1\`" ;;
  esac
}

[ $# -gt 0 ] || set -- go python java
mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
for name; do
  command_of "$name" "" >/dev/null
  folder=$cache/$name-$(sum "$name")
  if [ ! -e "$folder/.complete" ]; then
    started=$SECONDS
    say "  building the $name client into $folder (up to 90 s on two cores the first time)"
    rm -rf "$folder"
    mkdir -p "$folder"
    "build_$name" "$folder" 9>&-
    touch "$folder/.complete"
    say "  built    the $name client in $((SECONDS - started)) s"
  fi
  echo "$name=$(command_of "$name" "$folder")"
done
