"""hack/lab.sh: plays scenarios on a network of namespaces and writes down what came of them."""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Callable

import faults
import limits
import preheat
import report
import sandbox
import scenarios
from clients import client
from lab import Lab, Skipped
from machine import described
from options import Options, parse
from processes import NotReady

_ROOT = Path(__file__).resolve().parent.parent.parent
# More than Darter leaves free on a disk (`proxy.store.min_free`, 1 GiB), which it else takes for full.
_SPARE = 3 << 30
SCENARIOS: dict[str, Callable[[Lab], None]] = {
    "at-once": scenarios.at_once,
    "rolling": scenarios.rolling,
    "warm": scenarios.warm,
    "layers": scenarios.layers,
    "small-layers": scenarios.small_layers,
    "seed-killed": faults.seed_killed,
    "parent-stalled": faults.parent_stalled,
    "scheduler-killed": faults.scheduler_killed,
    "upstream-down": faults.upstream_down,
    "limit-changed": limits.limit_changed,
    "preheat-beside": preheat.preheat_beside,
}


def main() -> int:
    """Everything in order: what is asked, what is there, the sandbox, the scenarios."""
    options = parse(sys.argv[1:], {name: (play.__doc__ or "").split("\n")[0] for name, play in SCENARIOS.items()})
    lacking = [name for name in ["ip", "tc", "docker-registry", *client(options.client).needs] if not shutil.which(name)]
    if lacking:
        return _refuse(f"not installed: {', '.join(lacking)}")
    if os.geteuid() != 0:
        return _refuse("network namespaces need root")
    binary = _binary() if "darter" in options.modes() else None
    results = (options.results or _ROOT / "target/lab" / f"{datetime.datetime.now():%Y%m%d-%H%M%S}").resolve()
    results.mkdir(parents=True, exist_ok=True)
    needed = _needed(options)
    directory = _disk(needed)
    try:
        return sandbox.run(lambda: _play(options, binary, directory or sandbox.MEMORY, results), needed + _SPARE)
    except OSError as failure:
        return _refuse(f"no namespaces here: {failure}")
    finally:
        if directory:
            shutil.rmtree(directory, ignore_errors=True)


def _play(options: Options, binary: Path | None, directory: Path, results: Path) -> int:
    lab = Lab(options, binary, directory, results)
    programs = {name: [name, "--version"] for name in client(options.client).needs}
    programs["docker-registry"] = ["docker-registry", "--version"]
    programs |= {"darter": [str(binary), "--version"]} if binary else {}
    machine = described(programs, "node1")
    skipped: dict[str, str] = {}
    try:
        for _ in range(options.repeat):
            lab.next_run()
            for name in options.scenarios:
                why = _scenario(lab, name)
                if why:
                    skipped[name] = why
                    print(f"{name}: {why}", file=sys.stderr, flush=True)
    finally:
        report.write(lab, machine, skipped)
    failed = any(each["failed"] for each in lab.results) or any(why.startswith("FAILED") for why in skipped.values())
    return 1 if failed else 0


def _scenario(lab: Lab, name: str) -> str | None:
    """Plays one; why it was not, if it was not."""
    try:
        SCENARIOS[name](lab)
    except Skipped as why:
        return f"SKIPPED: {why}"
    except (NotReady, RuntimeError, OSError) as failure:
        return f"FAILED: {failure}"
    return None


def _binary() -> Path:
    given = os.environ.get("DARTER_BIN")
    if not given:
        subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "darter"], cwd=_ROOT, check=True)
    built = _ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release/darter"
    binary = Path(given or built).resolve()
    if not os.access(binary, os.X_OK):
        sys.exit(f"hack/lab.sh: {binary} is no program")
    return binary


def _needed(options: Options) -> int:
    """Bytes of files: three copies of an image a node (its mirror's, its client's, what the
    client makes of it), and all images at the registry and on the middle host."""
    image = max(options.size, 30.0) * 1_000_000
    return int(image * (options.nodes * 3 + 2 * len(options.scenarios) + 4))


def _disk(needed: int) -> Path | None:
    """A directory on disk where it is asked for or memory is too small: hosts then share a disk."""
    given = os.environ.get("LAB_DIR")
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    if given is None and needed < free:
        return None
    if given is None:
        print("hack/lab.sh: not enough memory for the hosts' files; they share a disk", file=sys.stderr)
    return Path(tempfile.mkdtemp(prefix="darter-lab-", dir=given))


def _refuse(why: str) -> int:
    print(f"hack/lab.sh: {why}", file=sys.stderr)
    return sandbox.IMPOSSIBLE


if __name__ == "__main__":
    sys.exit(main())
