"""Evidence of a stall, taken while it lasts: sockets of all hosts, metrics of all parts."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Callable

from network import Host

# Slower than a twentieth of a link for two seconds is a stall.
SHARE, PATIENCE = 0.05, 2.0


def evidence(hosts: list[Host], to: Path, save_metrics: Callable[[Path], None]) -> None:
    """Writes what can be seen from outside into `to`."""
    to.mkdir(parents=True, exist_ok=True)
    for host in hosts:
        sockets = subprocess.run(host.command("ss", "-tinmp"), capture_output=True, text=True)
        (to / f"{host.name}.sockets").write_text(sockets.stdout + sockets.stderr)
    save_metrics(to)
