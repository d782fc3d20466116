#!/usr/bin/env bash
# Feeds every parser of outside input, and both pure cores, with what libFuzzer makes up.
#
#   hack/fuzz.sh                     each target for ten minutes, one after the other
#   hack/fuzz.sh --seconds 60        each for a minute
#   hack/fuzz.sh --jobs 2            two targets at a time
#   hack/fuzz.sh route challenge     only these; fuzz/fuzz_targets has all of them
#
# Needs nightly Rust; installs cargo-fuzz if it is missing. New inputs stay in fuzz/corpus,
# which git ignores; those of fuzz/seeds are kept, and run in ordinary tests too. The status
# is 1 when a target has found something: its input is in fuzz/artifacts/<target>, and is to
# be copied to fuzz/seeds/<target> with the fix. Sanitizers watch unsafe code, of which there
# is next to none here: SANITIZER=address has one all the same, at a third of the speed.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=600 jobs=1 targets=()
while [ "$#" -gt 0 ]; do
  case "$1" in
    --seconds) seconds="${2:?--seconds N}"; shift 2 ;;
    --jobs) jobs="${2:?--jobs N}"; shift 2 ;;
    -*) echo "hack/fuzz.sh: unknown argument '$1' (known: --seconds N, --jobs N)" >&2; exit 2 ;;
    *) targets+=("$1"); shift ;;
  esac
done
sanitizer="${SANITIZER:-none}"
export PATH="$PATH:$HOME/.cargo/bin"

if ! rustup toolchain list 2>/dev/null | grep -q '^nightly'; then
  echo "hack/fuzz.sh: nightly Rust is missing: rustup toolchain install nightly --profile minimal" >&2
  exit 3
fi
cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz

mapfile -t known < <(cargo +nightly fuzz list)
[ "${#targets[@]}" -gt 0 ] || targets=("${known[@]}")
for target in "${targets[@]}"; do
  [[ " ${known[*]} " = *" $target "* ]] || { echo "hack/fuzz.sh: no target '$target'" >&2; exit 2; }
done
cargo +nightly fuzz build --sanitizer "$sanitizer"

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

# One target; its last lines say how it went.
run() {
  local target="$1" log="$logs/$1" status=0
  mkdir -p "fuzz/corpus/$target"
  nice -n 15 cargo +nightly fuzz run --sanitizer "$sanitizer" "$target" \
    "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
    -max_total_time="$seconds" -rss_limit_mb=1024 -timeout=10 -print_final_stats=1 \
    >"$log" 2>&1 || status=$?
  local executed
  executed=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -1)
  if [ "$status" = 0 ]; then
    echo "ok      $target: ${executed:-?} executions in $seconds s"
  else
    echo "FOUND   $target: see fuzz/artifacts/$target"
    grep -E 'panicked at|^assertion|ERROR: libFuzzer|Test unit written' "$log" | sed 's/^/        /' || true
    touch "$logs/found"
  fi
}

for target in "${targets[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n || true; done
  run "$target" &
done
wait
[ ! -e "$logs/found" ]
