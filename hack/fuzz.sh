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
# be copied to fuzz/seeds/<target> with the fix. Who is stopped or has no processor for minutes
# has found nothing: an input that took too long is one if it takes 10 s of processor time
# alone. Sanitizers watch unsafe code, of which there
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
cargo +nightly fuzz build --sanitizer "$sanitizer" --codegen-units 16
binaries="fuzz/target/$(rustc +nightly -vV | sed -n 's/^host: //p')/release"

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

# libFuzzer's time for an input goes by the clock on the wall.
longest=180

# Whether the last run ended with an input that is fast enough alone; it is removed then.
was_starved() { # TARGET LOG
  local input
  input=$(sed -n 's/.*Test unit written to //p' "$2" | tail -1)
  case "$input" in */timeout-*) ;; *) return 1 ;; esac
  (ulimit -t 10 && "$binaries/$1" -timeout=600 "$input") >"$2.alone" 2>&1 || return 1
  rm "$input"
}

# One target; its last lines say how it went.
run() {
  local target="$1" log="$logs/$1" began=$SECONDS status=0 starved=0
  mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
  while [ $((SECONDS - began)) -lt "$seconds" ]; do
    status=0
    nice -n 15 "$binaries/$target" "fuzz/corpus/$target" "fuzz/seeds/$target" \
      -artifact_prefix="fuzz/artifacts/$target/" -max_total_time="$((seconds - SECONDS + began))" \
      -rss_limit_mb=1024 -timeout="$longest" -print_final_stats=1 >>"$log" 2>&1 || status=$?
    { [ "$status" != 0 ] && was_starved "$target" "$log"; } || break
    status=0 starved=$((starved + 1))
  done
  local executed
  executed=$(awk '/^stat::number_of_executed_units:/{sum += $2} END {print sum + 0}' "$log")
  if [ "$status" = 0 ]; then
    echo "ok      $target: $executed executions in $((SECONDS - began)) s$([ "$starved" = 0 ] || echo ", $starved times without a processor")"
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
