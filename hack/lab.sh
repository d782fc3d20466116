#!/usr/bin/env bash
# The network lab: namespaces behind a bridge, shaped by tc tbf on both ends of each veth.
#
#   hack/lab.sh [--nodes 10] [--size 100] [--layers 1] [--mode darter|plain|both]
#               [--node-mbit 100] [--middle-mbit 100] [--registry-mbit 200]
#               [--client ctr|curl] [--keep] [--json FILE]
#
# One registry (distribution), one middle host (scheduler and seed), N nodes. All nodes
# pull the same image of SIZE MB (1 MB = 1,000,000 bytes) at the same moment, each with a
# containerd of its own through hosts.toml (or with curl). Printed: last node, median,
# the bound, origin copies, CPU seconds and peak RSS of each kind of process.
#
# Needs root, iproute2, docker-registry, curl, jq; containerd for --client ctr.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin"

nodes=10 size=100 layers=1 mode=both node_mbit=100 middle_mbit=100 registry_mbit=200
client=ctr keep="" json=""
while [ $# -gt 0 ]; do
  case "$1" in
    --nodes) nodes=$2; shift 2 ;;
    --size) size=$2; shift 2 ;;
    --layers) layers=$2; shift 2 ;;
    --mode) mode=$2; shift 2 ;;
    --node-mbit) node_mbit=$2; shift 2 ;;
    --middle-mbit) middle_mbit=$2; shift 2 ;;
    --registry-mbit) registry_mbit=$2; shift 2 ;;
    --client) client=$2; shift 2 ;;
    --json) json=$2; shift 2 ;;
    --keep) keep=1; shift ;;
    *) echo "hack/lab.sh: unknown argument '$1'; see the head of this file" >&2; exit 2 ;;
  esac
done

for command in ip tc docker-registry curl jq sha256sum $([ "$client" = ctr ] && echo containerd ctr); do
  command -v "$command" >/dev/null || { echo "hack/lab.sh: $command is not installed" >&2; exit 1; }
done
[ "$(id -u)" = 0 ] || { echo "hack/lab.sh: network namespaces need root" >&2; exit 1; }

darter=${DARTER_BIN:-target/release/darter}
[ -n "${DARTER_BIN:-}" ] || [ "$mode" = plain ] || cargo build --release --quiet -p darter
darter=$(realpath -m "$darter")

# All hosts share this machine's disk, which real ones don't: they write to memory, if it
# holds three copies of the image a node.
room=$(df --output=avail -B 1000000 /dev/shm 2>/dev/null | tail -n 1 || echo 0)
where=${LAB_DIR:-/tmp}
[ -n "${LAB_DIR:-}" ] || [ "$room" -lt $((size * (nodes * 3 + 4))) ] || where=/dev/shm
lab=$(mktemp -d -p "$where")
id=$$
bridge="dl$id"
net=10.77.0
pids=()

ns() { echo "darter-$id-$1"; }
inside() { local name=$1; shift; ip netns exec "$(ns "$name")" "$@"; }

clean_up() {
  set +e
  [ "${#pids[@]}" -eq 0 ] || kill -9 "${pids[@]}" 2>/dev/null
  for name in registry middle $(seq -f 'node%g' 1 "$nodes"); do
    ip netns pids "$(ns "$name")" 2>/dev/null | xargs -r kill -9 2>/dev/null
    ip netns del "$(ns "$name")" 2>/dev/null
  done
  ip link del "$bridge" 2>/dev/null
  [ -n "$keep" ] && echo "kept: $lab" || rm -rf "$lab"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# host NAME ADDRESS MBIT: a namespace on the bridge, shaped both ways.
host() {
  local name=$1 address=$2 mbit=$3 outer
  outer="dl${id}v${address##*.}"
  ip netns add "$(ns "$name")"
  ip link add "$outer" type veth peer name eth0 netns "$(ns "$name")"
  ip link set "$outer" master "$bridge" up
  inside "$name" ip addr add "$address/24" dev eth0
  inside "$name" ip link set eth0 up
  inside "$name" ip link set lo up
  tc qdisc add dev "$outer" root tbf rate "${mbit}mbit" burst 128kb latency 50ms
  inside "$name" tc qdisc add dev eth0 root tbf rate "${mbit}mbit" burst 128kb latency 50ms
}

ip link add "$bridge" type bridge
ip link set "$bridge" up
host registry "$net.2" "$registry_mbit"
host middle "$net.3" "$middle_mbit"
for n in $(seq 1 "$nodes"); do host "node$n" "$net.$((10 + n))" "$node_mbit"; done

# start NAME HOST COMMAND...: a daemon with a log; its pid in $lab/NAME.pid.
start() {
  local name=$1 where=$2; shift 2
  # Not by `inside`: the pid has to be the daemon's, not a subshell's.
  ip netns exec "$(ns "$where")" "$@" >"$lab/$name.log" 2>&1 &
  pids+=($!)
  echo $! >"$lab/$name.pid"
  disown
}
await() { # FILE PATTERN
  for _ in $(seq 1 300); do grep -q "$2" "$1" 2>/dev/null && return; sleep 0.1; done
  echo "hack/lab.sh: no '$2' in $1:" >&2; tail -n 20 "$1" >&2; exit 1
}

# --- the registry and its image
cat >"$lab/registry.yml" <<Y
version: 0.1
log: {level: info, formatter: json, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $lab/registry}}
http: {addr: '$net.2:5000'}
validation: {disabled: true}
Y
start registry registry docker-registry serve "$lab/registry.yml"
await "$lab/registry.log" "listening on"

push() { # FILE
  local digest location
  digest="sha256:$(sha256sum "$1" | cut -d' ' -f1)"
  location=$(inside registry curl -sf -X POST -D - -o /dev/null "http://$net.2:5000/v2/library/app/blobs/uploads/" |
    tr -d '\r' | awk 'tolower($1)=="location:"{print $2}')
  inside registry curl -sf -X PUT -H 'Content-Type: application/octet-stream' --data-binary "@$1" \
    "$location&digest=$digest" >/dev/null
  echo "$digest"
}
bytes=$((size * 1000000 / layers))
descriptors="" diff_ids="" total=0
for layer in $(seq 1 "$layers"); do
  mkdir -p "$lab/image"
  head -c $((bytes - 2048)) /dev/urandom >"$lab/image/data-$layer"
  tar -C "$lab/image" -b 1 -cf "$lab/layer.tar" "data-$layer"
  digest=$(push "$lab/layer.tar")
  length=$(stat -c %s "$lab/layer.tar")
  total=$((total + length))
  descriptors+="${descriptors:+,}{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"$digest\",\"size\":$length}"
  diff_ids+="${diff_ids:+,}\"$digest\""
  rm "$lab/image/data-$layer"
done
printf '{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[%s]}}' "$diff_ids" >"$lab/config.json"
config=$(push "$lab/config.json")
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":%s},"layers":[%s]}' \
  "$config" "$(stat -c %s "$lab/config.json")" "$descriptors" >"$lab/manifest.json"
inside registry curl -sf -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' \
  --data-binary "@$lab/manifest.json" "http://$net.2:5000/v2/library/app/manifests/1" >/dev/null

sent() { jq -Rs '[split("\n")[] | fromjson? | select(.["http.request.method"]=="GET" and (.["http.request.uri"] // "" | contains("/blobs/")))
  | .["http.response.written"] // 0] | add // 0' "$lab/registry.log"; }

# --- one node's pull: MIRROR is what its client asks
cat >"$lab/pull-curl" <<'P'
#!/usr/bin/env bash
# pull-curl DIR MIRROR: manifest by tag, then all blobs at once, each checked.
set -euo pipefail
url="$2/v2/library/app"
curl -sf -H 'Accept: application/vnd.oci.image.manifest.v1+json' "$url/manifests/1?ns=docker.io" -o "$1/manifest"
for digest in $(jq -r '.config.digest, .layers[].digest' "$1/manifest"); do
  ( [ "sha256:$(curl -sf "$url/blobs/$digest?ns=docker.io" | sha256sum | cut -d' ' -f1)" = "$digest" ] ) &
  jobs+=($!)
done
for job in "${jobs[@]}"; do wait "$job"; done
P
chmod +x "$lab/pull-curl"

prepare_node() { # N DIR MIRROR
  mkdir -p "$2/certs.d/docker.io"
  [ "$client" = ctr ] || return 0
  printf 'server = "http://%s.2:5000"\n[host."%s"]\ncapabilities = ["pull","resolve"]\n' "$net" "$3" >"$2/certs.d/docker.io/hosts.toml"
  cat >"$2/config.toml" <<C
version = 2
root = "$2/root"
state = "$2/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$2/sock"
[ttrpc]
address = "$2/ttrpc"
[plugins."io.containerd.internal.v1.opt"]
path = "$2/opt"
C
  start "containerd$1" "node$1" containerd --config "$2/config.toml"
}

pull_node() { # N DIR MIRROR START
  local now
  now=$(date +%s.%N)
  sleep "$(awk "BEGIN{d=$4-$now; print (d>0?d:0)}")"
  if [ "$client" = ctr ]; then
    inside "node$1" ctr --address "$2/sock" content fetch --hosts-dir "$2/certs.d" docker.io/library/app:1 >"$2/pull.log" 2>&1
  else
    inside "node$1" "$lab/pull-curl" "$2" "$3" >"$2/pull.log" 2>&1
  fi || { echo "node $1 failed:" >&2; tail -n 5 "$2/pull.log" >&2; echo failed >"$2/seconds"; return; }
  awk "BEGIN{print $(date +%s.%N)-$4}" >"$2/seconds"
}

cpu_of() { awk '{sub(/.*\) /,""); print ($12+$13)/100}' "/proc/$1/stat" 2>/dev/null || echo 0; }
rss_of() { awk '/VmHWM/{print $2/1024}' "/proc/$1/status" 2>/dev/null || echo 0; }

scenario() { # NAME
  local name=$1 mirror before after begin dir times
  before=$(sent)
  mirror="http://$net.2:5000"
  if [ "$name" = darter ]; then
    mirror="http://127.0.0.1:4001"
    start scheduler middle "$darter" scheduler --insecure --listen "$net.3:8002" --operations-listen 127.0.0.1:4102 --data "$lab/d/scheduler"
    await "$lab/scheduler.log" '^ready'
    start seed middle "$darter" proxy --seed --insecure --listen 127.0.0.1:4001 --operations-listen 127.0.0.1:4002 \
      --set "proxy.peer=\"$net.3:4000\"" --data "$lab/d/seed" --upstream "docker.io=http://$net.2:5000" --scheduler "http://$net.3:8002"
    for n in $(seq 1 "$nodes"); do
      start "proxy$n" "node$n" "$darter" proxy --insecure --listen 127.0.0.1:4001 --operations-listen 127.0.0.1:4002 \
        --set "proxy.peer=\"$net.$((10 + n)):4000\"" --data "$lab/d/node$n" --upstream "docker.io=http://$net.2:5000" --scheduler "http://$net.3:8002"
    done
    await "$lab/seed.log" '^ready'
    for n in $(seq 1 "$nodes"); do await "$lab/proxy$n.log" '^ready'; done
  fi
  for n in $(seq 1 "$nodes"); do prepare_node "$n" "$lab/$name/node$n" "$mirror"; done
  [ "$client" != ctr ] || for n in $(seq 1 "$nodes"); do await "$lab/containerd$n.log" "successfully booted"; done

  begin=$(awk "BEGIN{printf \"%.3f\", $(date +%s.%N)+1.5}")
  local waits=()
  for n in $(seq 1 "$nodes"); do pull_node "$n" "$lab/$name/node$n" "$mirror" "$begin" & waits+=($!); done
  wait "${waits[@]}"
  after=$(sent)
  times=$(for n in $(seq 1 "$nodes"); do cat "$lab/$name/node$n/seconds"; done | sort -n)

  local failed last median copies
  failed=$(grep -c failed <<<"$times" || true)
  last=$(grep -v failed <<<"$times" | tail -n 1)
  median=$(grep -v failed <<<"$times" | awk '{v[NR]=$1} END{print v[int((NR+1)/2)]}')
  copies=$(awk "BEGIN{printf \"%.3f\", ($after-$before)/$total}")
  local cpu="{}"
  if [ "$name" = darter ] && [ -n "$keep" ]; then
    inside middle curl -s http://127.0.0.1:4102/metrics >"$lab/scheduler.prom"
    inside middle curl -s http://127.0.0.1:4002/metrics >"$lab/seed.prom"
    for n in $(seq 1 "$nodes"); do
      inside "node$n" curl -s http://127.0.0.1:4002/metrics >"$lab/proxy$n.prom"
      inside "node$n" cat /proc/net/snmp /proc/net/netstat >"$lab/proxy$n.net"
    done
    inside middle cat /proc/net/snmp /proc/net/netstat >"$lab/seed.net"
    tc -s qdisc show >"$lab/qdisc"
  fi
  for part in scheduler seed $(seq -f 'proxy%g' 1 "$nodes"); do
    [ "$name" = darter ] || break
    local pid; pid=$(cat "$lab/$part.pid")
    cpu=$(jq -c --arg part "$part" --argjson cpu "$(cpu_of "$pid")" --argjson rss "$(rss_of "$pid")" \
      '. + {($part): {cpu_seconds: $cpu, peak_rss_mib: $rss}}' <<<"$cpu")
  done
  jq -nc --arg name "$name" --argjson nodes "$nodes" --argjson layers "$layers" --argjson bytes "$total" \
    --argjson bound "$bound" --argjson last "${last:-null}" --argjson median "${median:-null}" --argjson copies "$copies" \
    --argjson failed "$failed" --argjson processes "$cpu" --argjson times "[$(grep -v failed <<<"$times" | paste -sd,)]" \
    '{name:$name,nodes:$nodes,layers:$layers,bytes:$bytes,bound_seconds:$bound,last_seconds:$last,median_seconds:$median,
      ratio_to_bound:(if $last then ($last/$bound*1000|round/1000) else null end),origin_copies:$copies,failed:$failed,times:$times,
      cpu_seconds:([$processes[].cpu_seconds]|add // 0),largest_rss_mib:([$processes[].peak_rss_mib]|max // 0),processes:$processes}' |
    tee -a "$lab/results.json" |
    jq -r '"\(.name): \(.nodes) nodes, \(.layers) layer(s), \(.bytes) bytes: last node \(.last_seconds) s, median \(.median_seconds) s, bound \(.bound_seconds) s (x\(.ratio_to_bound)), origin copies \(.origin_copies), failed \(.failed), CPU \(.cpu_seconds) s, largest RSS \(.largest_rss_mib|floor) MiB"'
  for pid in "$lab"/*.pid; do
    [ "$pid" = "$lab/registry.pid" ] || { kill -9 "$(cat "$pid")" 2>/dev/null || true; rm "$pid"; }
  done
}

# max(S/source, S/down, N*S/(source + all uplinks)); see docs/swarm.md.
bound=$(awk "BEGIN{s=$total*8/1e6; u=($registry_mbit<$middle_mbit?$registry_mbit:$middle_mbit); a=s/u; b=s/$node_mbit;
  c=$nodes*s/($middle_mbit+$nodes*$node_mbit); m=(a>b?a:b); m=(m>c?m:c); printf \"%.2f\", m}")
case "$mode" in
  both) scenario plain; scenario darter ;;
  plain | darter) scenario "$mode" ;;
  *) echo "hack/lab.sh: --mode is darter, plain or both" >&2; exit 2 ;;
esac
[ -z "$json" ] || jq -s . "$lab/results.json" >"$json"
