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
# be copied to fuzz/seeds/<target> with the fix; it is 130 when nothing was found before somebody
# stopped it (Ctrl-C). Who is stopped or has no processor for minutes has found nothing: an input
# that took too long is one if it takes 10 s of processor time alone. Sanitizers watch unsafe code, of which there
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
binaries="${CARGO_TARGET_DIR:-fuzz/target}/$(rustc +nightly -vV | sed -n 's/^host: //p')/release"

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

# Stopped: the targets that run are told, and no other begins.
stop() {
  touch "$logs/stopped"
  local pid
  for pid in $(jobs -rp); do pkill -INT -P "$pid" || true; done
}
trap stop INT TERM
# What libFuzzer ends with then.
interrupted=72

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

# Whether a run was ended from outside, and has no input to show.
was_stopped() { # STATUS LOG
  { [ "$1" = "$interrupted" ] || [ -e "$logs/stopped" ]; } && ! grep -q 'Test unit written to' "$2"
}

# One target; its last lines say how it went.
run() {
  local target="$1" log="$logs/$1" began=$SECONDS status=0 starved=0
  # What stops the target leaves it to say how it went.
  trap : INT TERM
  mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
  while [ $((SECONDS - began)) -lt "$seconds" ]; do
    status=0
    nice -n 15 "$binaries/$target" "fuzz/corpus/$target" "fuzz/seeds/$target" \
      -artifact_prefix="fuzz/artifacts/$target/" -max_total_time="$((seconds - SECONDS + began))" \
      -rss_limit_mb=1024 -timeout="$longest" -print_final_stats=1 >>"$log" 2>&1 || status=$?
    ! was_stopped "$status" "$log" || break
    { [ "$status" != 0 ] && was_starved "$target" "$log"; } || break
    status=0 starved=$((starved + 1))
  done
  local executed
  executed=$(awk '/^stat::number_of_executed_units:/{sum += $2} END {print sum + 0}' "$log")
  if [ "$status" = 0 ]; then
    echo "ok      $target: $executed executions in $((SECONDS - began)) s$([ "$starved" = 0 ] || echo ", $starved times without a processor")"
  elif was_stopped "$status" "$log"; then
    touch "$logs/stopped"
    echo "stopped $target: nothing found in $((SECONDS - began)) s"
  else
    echo "FOUND   $target: see fuzz/artifacts/$target"
    grep -E 'panicked at|^assertion|ERROR: libFuzzer|Test unit written' "$log" | sed 's/^/        /' || true
    touch "$logs/found"
  fi
}

for target in "${targets[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n || true; done
  [ ! -e "$logs/stopped" ] || break
  run "$target" &
done
while [ -n "$(jobs -rp)" ]; do wait || true; done
[ ! -e "$logs/found" ] || exit 1
[ ! -e "$logs/stopped" ] || exit 130
