#!/usr/bin/env bash
# What `darter standalone` (mirror, scheduler, manager) takes while nothing goes on.
#
#   hack/idle.sh [--starts 5]
#
# Printed, as one JSON object: milliseconds from the start to its `ready` line, the median and
# the least; processor milliseconds until then, the median; resident MiB ten seconds later
# (`VmRSS`), and what of it is its own (`RssAnon`: the rest is the binary's pages). The first
# start, which makes keys, certificates and the administrator, is counted apart.
#
# Needs jq. `DARTER_BIN` is the binary, else a release build.
set -euo pipefail
cd "$(dirname "$0")/.."

starts=5
while [ $# -gt 0 ]; do
  case "$1" in
    --starts) starts=$2; shift 2 ;;
    *) echo "hack/idle.sh: unknown argument '$1'; see the head of this file" >&2; exit 2 ;;
  esac
done
[ -n "${DARTER_BIN:-}" ] || cargo build --release --quiet -p darter
darter=$(realpath "${DARTER_BIN:-${CARGO_TARGET_DIR:-target}/release/darter}")
idle=$(mktemp -d)
pid=""
trap 'kill -9 $pid 2>/dev/null || true; rm -rf "$idle"' EXIT

one() { # NAME
  : >"$idle/log"
  local began ended ticks
  began=$(date +%s%N)
  "$darter" standalone --listen 127.0.0.1:0 --operations-listen 127.0.0.1:0 --data "$idle/data" \
    --upstream docker.io=http://127.0.0.1:9 --set proxy.peer=127.0.0.1:0 --set scheduler.listen=127.0.0.1:0 \
    --set manager.listen=127.0.0.1:0 --set manager.grpc=127.0.0.1:0 >"$idle/log" 2>/dev/null &
  pid=$!
  until grep -q '^ready' "$idle/log"; do
    kill -0 "$pid" 2>/dev/null || { echo "hack/idle.sh: it does not start" >&2; exit 1; }
    sleep 0.005
  done
  ended=$(date +%s%N)
  ticks=$(awk '{sub(/.*\) /,""); print $12+$13}' "/proc/$pid/stat")
  sleep 10
  awk -v name="$1" -v ready=$(((ended - began) / 1000000)) -v cpu=$((ticks * 1000 / $(getconf CLK_TCK))) \
    '/^VmRSS/{rss=$2/1024} /^RssAnon/{own=$2/1024}
     END{printf "{\"name\":\"%s\",\"ready\":%d,\"cpu\":%d,\"rss\":%.1f,\"own\":%.1f}\n", name, ready, cpu, rss, own}' \
    "/proc/$pid/status" >>"$idle/rows"
  kill "$pid"
  wait "$pid" 2>/dev/null || true
}
one first
for _ in $(seq 1 "$starts"); do one again; done
jq -sc '
  def median: sort | .[(length - 1) / 2 | floor];
  (map(select(.name == "again"))) as $again
  | {starts: ($again | length), ready_ms: ($again | map(.ready) | median), ready_least_ms: ($again | map(.ready) | min),
     ready_cpu_ms: ($again | map(.cpu) | median), rss_mib: ($again | map(.rss) | median), own_mib: ($again | map(.own) | median),
     first_ready_ms: .[0].ready, first_rss_mib: .[0].rss}' "$idle/rows"
