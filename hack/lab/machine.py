"""The machine the lab runs on: what it is, and how busy it was."""

from __future__ import annotations

import datetime
import errno
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

from network import offloads

_TICKS = os.sysconf("SC_CLK_TCK")
_STEP = bytes(1 << 20)


@dataclass(frozen=True)
class Busy:
    """Seconds of all cores since the machine started (first line of /proc/stat)."""

    total: float
    idle: float
    softirq: float

    @staticmethod
    def now() -> Busy:
        fields = [int(field) / _TICKS for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        user, nice, system, idle, waiting, irq, softirq, stolen = fields
        return Busy(user + nice + system + idle + waiting + irq + softirq + stolen, idle + waiting, softirq)

    def since(self, earlier: Busy) -> dict[str, float]:
        """What passed since `earlier`."""
        total, idle = self.total - earlier.total, self.idle - earlier.idle
        return {
            "total_seconds": round(total, 2),
            "idle_seconds": round(idle, 2),
            "softirq_seconds": round(self.softirq - earlier.softirq, 2),
            "busy_share": round(1 - idle / total, 3) if total else 0.0,
        }


def touch(directory: Path, size: int) -> None:
    """Has the machine hand out `size` bytes of memory, or as many as files in `directory` may have, and
    takes them back: what a virtual machine has not used lately costs several times as much when it is
    first written to, and a pull is not to pay for that."""
    file = directory / "touched"
    try:
        with file.open("wb", buffering=0) as sink:
            for _ in range(0, size, len(_STEP)):
                sink.write(_STEP)
    except OSError as failure:
        if failure.errno != errno.ENOSPC:
            raise
    finally:
        file.unlink(missing_ok=True)


def described(programs: dict[str, list[str]], port: str) -> dict[str, object]:
    """What a reader of figures has to know; `programs` are commands that tell versions."""
    memory = Path("/proc/meminfo").read_text().split()[1]
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "memory_mib": int(memory) // 1024,
        "load_average": os.getloadavg()[0],
        "offloads": offloads(port),
        "versions": {name: _first_line(command) for name, command in programs.items()},
    }


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as failure:
        return f"unknown ({failure})"
    return (done.stdout.strip() or done.stderr.strip() or "unknown").splitlines()[0]
