#!/usr/bin/env bash
# The network lab: namespaces behind a switch, shaped by tc, real clients and real processes.
#
#   hack/lab.sh                                      ten nodes at once, 100 MB, with Darter and without
#   hack/lab.sh --scenario all                       every scenario
#   hack/lab.sh --scenario rolling,seed-killed --nodes 5 --size 50 --mode darter
#   hack/lab.sh --help                               all options and scenarios
#
# The program is in hack/lab/, Python's standard library alone; hack/lab/README.md says what it
# does. DARTER_BIN is the binary to measure; without it a release build is made.
# Needs root, iproute2, python3, docker-registry, and what the chosen client needs; what hack/tools.sh
# has built (containerd 2.2, nerdctl) goes before what the system has.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export PATH="${CARGO_TARGET_DIR:-$here/../target}/tools/bin:$PATH:/usr/sbin:/sbin"
command -v python3 >/dev/null || { echo "hack/lab.sh: python3 is not installed" >&2; exit 1; }
exec python3 -B "$here/lab" "$@"
