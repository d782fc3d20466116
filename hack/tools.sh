#!/usr/bin/env bash
# Builds the clients that Debian does not have, or has too old, into target/tools/bin.
#
#   hack/tools.sh                 all of them: containerd and ctr 2.2, nerdctl, oras, crane, stargz
#   hack/tools.sh containerd ctr  only these
#
# Go builds them, from pinned versions; what is there already in its version is left alone.
# What can't be built is said by name and skipped: the status is 3 then.
set -uo pipefail
cd "$(dirname "$0")/.."

packages=(
  containerd=github.com/containerd/containerd/v2/cmd/containerd@v2.2.0
  ctr=github.com/containerd/containerd/v2/cmd/ctr@v2.2.0
  nerdctl=github.com/containerd/nerdctl/v2/cmd/nerdctl@v2.1.2
  oras=oras.land/oras/cmd/oras@v1.2.3
  crane=github.com/google/go-containerregistry/cmd/crane@v0.20.7
  # A library: its program, in a module that Go's proxy does not have, is hack/tools/stargz.go.
  stargz=github.com/containerd/stargz-snapshotter@v0.15.1
)
tools="${CARGO_TARGET_DIR:-$PWD/target}/tools"
mkdir -p "$tools/bin"
export PATH="$PATH:/usr/local/go/bin" GOFLAGS=-mod=mod

# Each in a module of its own: their dependencies do not agree.
build() {
  local name="$1" at="$2" own="$PWD/hack/tools/$1.go" scratch what
  scratch=$(mktemp -d) || return 1
  what="${at%@*}"
  if [ -f "$own" ]; then cp "$own" "$scratch/main.go" && what=.; fi
  (cd "$scratch" && go mod init tools && go get "$at" && { [ "$what" != . ] || go mod tidy; } &&
    go build -trimpath -o "$name" "$what") >"$tools/$name.log" 2>&1 && mv "$scratch/$name" "$tools/bin/$name" && echo "$at" >"$tools/bin/$name.version"
  local status=$?
  rm -rf "$scratch"
  return "$status"
}

status=0
for entry in "${packages[@]}"; do
  name="${entry%%=*}" at="${entry#*=}"
  [ "$#" = 0 ] || [[ " $* " = *" $name "* ]] || continue
  [ "$(cat "$tools/bin/$name.version" 2>/dev/null)" != "$at" ] || continue
  if ! command -v go >/dev/null; then
    echo "SKIPPED: $name can't be built: Go is not installed"; status=3
  elif build "$name" "$at"; then
    echo "built: ${at##*/} ($name)"
  else
    echo "SKIPPED: $name can't be built: see $tools/$name.log"; status=3
  fi
done
exit "$status"
