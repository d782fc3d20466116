#!/usr/bin/env bash
# Installs what the tests need and runs every test.
#
#   hack/test.sh           all tests; repetitions cut short
#   hack/test.sh --long    the full repetitions (20 kills of everything)
#
# The real clients come from Debian's packages, the newest ones from hack/tools.sh. What can't be installed is skipped by
# name; the list at the end says which clients the tests really used.
set -euo pipefail
cd "$(dirname "$0")/.."

long=""
for argument in "$@"; do
  case "$argument" in
    --long) long=1 ;;
    *) echo "hack/test.sh: unknown argument '$argument' (known: --long)" >&2; exit 2 ;;
  esac
done

# command=package, as Debian names them.
wanted=(
  docker-registry=docker-registry containerd=containerd ctr=containerd runc=runc
  dockerd=docker.io skopeo=skopeo podman=podman buildah=buildah iptables=iptables
  ip=iproute2 tc=iproute2 curl=curl openssl=openssl python3=python3
  unshare=util-linux update-ca-certificates=ca-certificates pg_lsclusters=postgresql
  docker-compose=docker-compose ctr-remote=stargz-snapshotter busybox=busybox-static
)
# dockerd and friends live in sbin, which is not on everybody's PATH.
export PATH="$PATH:/usr/sbin:/sbin"

missing=()
for entry in "${wanted[@]}"; do
  command -v "${entry%%=*}" >/dev/null || missing+=("${entry#*=}")
done
if [ "${#missing[@]}" -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing: ${missing[*]}"
    apt-get update -qq || echo "apt-get update failed; trying with the lists there are"
    for package in $(printf '%s\n' "${missing[@]}" | sort -u); do
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null ||
        echo "SKIPPED: $package can't be installed"
    done
  else
    echo "not root, or no apt: missing ${missing[*]}; their tests will be skipped"
  fi
fi

# What Debian does not have is built by Go; what can't be is skipped by name below.
hack/tools.sh || true
tools="${CARGO_TARGET_DIR:-$PWD/target}/tools"
export DARTER_TEST_TOOLS="$tools/bin"

# The fuzzer of the manager's REST, of PyPI.
schemathesis=4.32.5
if [ "$(cat "$tools/bin/schemathesis.version" 2>/dev/null)" != "$schemathesis" ]; then
  if python3 -m venv "$tools/venv" && "$tools/venv/bin/pip" install --quiet "schemathesis==$schemathesis"; then
    ln -sf ../venv/bin/schemathesis "$tools/bin/schemathesis"
    echo "$schemathesis" >"$tools/bin/schemathesis.version"
  else
    echo "SKIPPED: schemathesis can't be installed"
  fi
fi

report=$(mktemp)
lab=$(mktemp -d)
trap 'rm -rf "$report" "$lab"' EXIT
export DARTER_TEST_REPORT="$report"
[ -z "$long" ] || export DARTER_TEST_LONG=1

status=0
cargo test --workspace --locked --no-fail-fast || status=$?

# The lab, small: two nodes pull through real namespaces and shaped links.
echo
code=0
(cd hack/lab && python3 -B -m unittest --quiet lab_test) || status=$?
cargo build --quiet --locked -p darter &&
  DARTER_BIN="${CARGO_TARGET_DIR:-target}/debug/darter" \
    timeout 120 hack/lab.sh --mode darter --nodes 2 --size 5 --results "$lab" || code=$?
case "$code" in
  0) echo "used the lab" >>"$report" ;;
  3) echo "skipped the lab: not possible here" >>"$report" ;;
  *) echo "hack/test.sh: the lab FAILED"; status=1 ;;
esac

# Dashboard, rules, Compose file and Dockerfile, held against the binary.
echo
(cd hack && DARTER_BIN="$(realpath "${CARGO_TARGET_DIR:-../target}/debug/darter")" \
  python3 -B -m unittest operations_test) || status=$?

echo
echo "Clients the tests really used:"
grep '^used ' "$report" | sort -u | sed 's/^used /  /' || echo "  none"
awk '/^searched /{logs++; bytes += $2} END {printf "Logs of Darter searched for secrets, none found: %d, %d kB\n", logs, bytes / 1000}' "$report"
skipped=$(grep -c '^skipped ' "$report" || true)
echo "Skipped tests: $skipped"
grep '^skipped ' "$report" | sort -u | sed 's/^skipped /  /' || true
if [ "$status" = 0 ]; then echo "hack/test.sh: all tests passed"; else echo "hack/test.sh: FAILED"; fi
exit "$status"
