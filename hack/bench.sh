#!/usr/bin/env bash
# One host, ratios inside one run: what a proxy adds to a cold download, and how fast it
# is warm.
#
#   hack/bench.sh [--pairs 5] [--size 1024] [--mbit 1000] [--json FILE]
#
# Two namespaces and one link of MBIT between them, shaped by tbf both ways; distribution
# on one side; curl, and curl through a proxy with an empty store, on the other, in
# turn. Then warm: the proxy and the registry, both over loopback. SIZE is in MiB.
# Printed: medians of the pairs, CPU seconds a GB and peak RSS of the proxy; then what
# hack/idle.sh says.
#
# Needs root, iproute2, docker-registry, curl, jq, openssl.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin"

pairs=5 size=1024 mbit=1000 json=""
while [ $# -gt 0 ]; do
  case "$1" in
    --pairs) pairs=$2; shift 2 ;;
    --size) size=$2; shift 2 ;;
    --mbit) mbit=$2; shift 2 ;;
    --json) json=$2; shift 2 ;;
    *) echo "hack/bench.sh: unknown argument '$1'; see the head of this file" >&2; exit 2 ;;
  esac
done
for command in ip tc docker-registry curl jq openssl; do
  command -v "$command" >/dev/null || { echo "hack/bench.sh: $command is not installed" >&2; exit 1; }
done
[ "$(id -u)" = 0 ] || { echo "hack/bench.sh: network namespaces need root" >&2; exit 1; }
[ -n "${DARTER_BIN:-}" ] || cargo build --release --quiet -p darter
darter=$(realpath "${DARTER_BIN:-${CARGO_TARGET_DIR:-target}/release/darter}")

bench=$(mktemp -d)
far="darter-$$-far" near="darter-$$-near"
proxy_pid=""
clean_up() {
  set +e
  for ns in "$far" "$near"; do
    ip netns pids "$ns" 2>/dev/null | xargs -r kill -9 2>/dev/null
    ip netns del "$ns" 2>/dev/null
  done
  rm -rf "$bench"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

ip netns add "$far"
ip netns add "$near"
ip link add eth0 netns "$far" type veth peer name eth0 netns "$near"
for pair in "$far 10.78.0.1" "$near 10.78.0.2"; do
  read -r ns address <<<"$pair"
  ip netns exec "$ns" ip addr add "$address/24" dev eth0
  ip netns exec "$ns" ip link set eth0 up
  ip netns exec "$ns" ip link set lo up
  ip netns exec "$ns" tc qdisc add dev eth0 root tbf rate "${mbit}mbit" burst 1mb latency 50ms
done

await() { # FILE PATTERN
  for _ in $(seq 1 300); do grep -q "$2" "$1" 2>/dev/null && return; sleep 0.1; done
  echo "hack/bench.sh: no '$2' in $1:" >&2; tail -n 20 "$1" >&2; exit 1
}
registry() { # NAMESPACE ADDRESS NAME
  printf 'version: 0.1\nlog: {level: info, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "%s"}\nvalidation: {disabled: true}\n' \
    "$bench/registry" "$2" >"$bench/$3.yml"
  ip netns exec "$1" docker-registry serve "$bench/$3.yml" >"$bench/$3.log" 2>&1 &
  disown
  await "$bench/$3.log" "listening on"
}
registry "$far" 10.78.0.1:5000 registry
registry "$near" 127.0.0.1:5000 registry-near

openssl enc -aes-128-ctr -pass pass:darter -nosalt -pbkdf2 </dev/zero 2>/dev/null | head -c "${size}M" >"$bench/blob" || true
bytes=$(stat -c %s "$bench/blob")
digest="sha256:$(sha256sum "$bench/blob" | cut -d' ' -f1)"
location=$(ip netns exec "$far" curl -sf -X POST -D - -o /dev/null http://10.78.0.1:5000/v2/library/app/blobs/uploads/ |
  tr -d '\r' | awk 'tolower($1)=="location:"{print $2}')
ip netns exec "$far" curl -sf -X PUT -H 'Content-Type: application/octet-stream' -T "$bench/blob" "$location&digest=$digest" >/dev/null
rm "$bench/blob"
path="/v2/library/app/blobs/$digest"

fetch() { # URL: "<first byte> <total> <bytes>"
  ip netns exec "$near" curl -sf -o /dev/null -w '%{time_starttransfer} %{time_total} %{size_download}\n' "$1"
}
start_proxy() {
  rm -rf "$bench/data"
  ip netns exec "$near" "$darter" proxy --listen 127.0.0.1:4001 --operations-listen 127.0.0.1:4002 \
    --set 'proxy.peer="127.0.0.1:4000"' --data "$bench/data" --upstream docker.io=http://10.78.0.1:5000 >"$bench/proxy.log" 2>&1 &
  proxy_pid=$!
  disown
  await "$bench/proxy.log" '^ready'
}
stop_proxy() { kill -9 "$proxy_pid" 2>/dev/null || true; while kill -0 "$proxy_pid" 2>/dev/null; do sleep 0.05; done; }
cpu() { awk '{sub(/.*\) /,""); print ($12+$13)/100}' "/proc/$proxy_pid/stat"; }
rss() { awk '/VmHWM/{print $2/1024}' "/proc/$proxy_pid/status"; }

row() { # KIND FIRST TOTAL BYTES CPU RSS
  [ "$4" = "$bytes" ] || { echo "hack/bench.sh: $1 gave $4 of $bytes bytes" >&2; exit 1; }
  jq -nc --arg kind "$1" --argjson first "$2" --argjson total "$3" --argjson cpu "${5:-0}" --argjson rss "${6:-0}" \
    '{kind:$kind,first:$first,total:$total,cpu:$cpu,rss:$rss}' >>"$bench/rows"
}
for _ in $(seq 1 "$pairs"); do
  read -r first total got < <(fetch "http://10.78.0.1:5000$path")
  row plain "$first" "$total" "$got"
  start_proxy
  read -r first total got < <(fetch "http://127.0.0.1:4001$path?ns=docker.io")
  cold_cpu=$(cpu)
  row cold "$first" "$total" "$got" "$cold_cpu" "$(rss)"
  read -r first total got < <(fetch "http://127.0.0.1:5000$path")
  row registry "$first" "$total" "$got"
  read -r first total got < <(fetch "http://127.0.0.1:4001$path?ns=docker.io")
  row warm "$first" "$total" "$got" "$(awk "BEGIN{print $(cpu)-$cold_cpu}")" "$(rss)"
  stop_proxy
done

jq -s --argjson bytes "$bytes" --argjson mbit "$mbit" '
  def median: sort | .[(length - 1) / 2 | floor];
  def of(kind; field): [.[] | select(.kind == kind) | .[field]];
  . as $rows
  | {bytes: $bytes, mbit: $mbit, pairs: ($rows | of("plain"; "total") | length),
     plain_seconds: (of("plain"; "total") | median), cold_seconds: (of("cold"; "total") | median),
     cold_ratio: ([of("cold"; "total"), of("plain"; "total")] | transpose | map(.[0] / .[1]) | median),
     first_byte_plain_ms: ((of("plain"; "first") | median) * 1000), first_byte_cold_ms: ((of("cold"; "first") | median) * 1000),
     first_byte_added_ms: ([of("cold"; "first"), of("plain"; "first")] | transpose | map((.[0] - .[1]) * 1000) | median),
     cold_cpu_seconds_a_gb: ((of("cold"; "cpu") | median) / ($bytes / 1e9)), cold_peak_rss_mib: (of("cold"; "rss") | median),
     registry_seconds: (of("registry"; "total") | median), warm_seconds: (of("warm"; "total") | median),
     warm_ratio: ([of("warm"; "total"), of("registry"; "total")] | transpose | map(.[0] / .[1]) | median),
     warm_cpu_seconds_a_gb: ((of("warm"; "cpu") | median) / ($bytes / 1e9)), warm_peak_rss_mib: (of("warm"; "rss") | median)}' \
  "$bench/rows" | tee ${json:+"$json"}

# And what all parts take while nothing goes on.
DARTER_BIN="$darter" hack/idle.sh
