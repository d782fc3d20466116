"""The daemons of a scenario: started with a log, watched until ready, counted, killed.

`Processes` owns every daemon it started and kills them at its end. What a process used is
read from /proc while it lives and remembered when it is killed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Iterable, Mapping

from network import Host

_READY_WITHIN = 30.0
_TICKS = os.sysconf("SC_CLK_TCK")


class NotReady(Exception):
    """A daemon ended, or was not ready in time."""


@dataclass
class Usage:
    """CPU seconds since a process began, and the most memory it had, in MiB."""

    cpu_seconds: float = 0.0
    peak_rss_mib: float = 0.0


class Process:
    """One daemon."""

    def __init__(
        self, host: Host, name: str, kind: str, popen: subprocess.Popen[bytes], log: Path, ready: str | None
    ) -> None:
        self.host, self.name, self.kind, self.log = host.name, name, kind, log
        self._popen, self._ready, self._last = popen, ready, Usage()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def usage(self) -> Usage:
        """What it has used, its ended children included; the last known when it is gone."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return self._last
        peak = re.search(r"VmHWM:\s+(\d+)", status)
        if peak:  # else it has ended and was not waited for
            cpu = sum(int(field) for field in fields[11:15]) / _TICKS
            self._last = Usage(cpu, int(peak.group(1)) / 1024)
        return self._last

    def signal(self, number: int) -> None:
        """Sends a signal; to nobody if it has ended."""
        self._popen.send_signal(number)

    def kill(self) -> None:
        """Kills it (-9) and waits for its end."""
        self.usage()
        self._popen.kill()
        self._popen.wait()

    def wait_ready(self) -> None:
        """Waits for the words in its log that say it is ready.

        Raises NotReady with the end of its log."""
        if self._ready is None:
            return
        deadline = time.monotonic() + _READY_WITHIN
        while not re.search(self._ready, self.text(), re.MULTILINE):
            ended = self._popen.poll()
            if ended is not None or time.monotonic() > deadline:
                why = "took too long" if ended is None else f"ended with {ended}"
                tail = "\n".join(self.text().splitlines()[-20:])
                raise NotReady(f"{self.name} {why} before it said '{self._ready}':\n{tail}")
            time.sleep(0.02)
        self._ready = None

    def text(self) -> str:
        """Its log so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Processes:
    """All daemons of one scenario; to be used in a `with`."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.all: list[Process] = []
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type | None, failure: BaseException | None, trace: TracebackType | None) -> None:
        for process in self.all:
            process.signal(signal.SIGCONT)
            process.kill()

    def start(
        self,
        host: Host,
        name: str,
        kind: str,
        command: Iterable[str],
        ready: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """Starts a daemon on `host`; `ready` is what its log says once it is."""
        log = self.logs / f"{name}.log"
        with log.open("ab") as output:
            popen = subprocess.Popen(
                host.command(*command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        process = Process(host, name, kind, popen, log, ready)
        self.all.append(process)
        return process

    def wait_ready(self) -> None:
        """Waits until all are ready. Raises NotReady."""
        for process in self.all:
            process.wait_ready()

    def usage(self) -> dict[str, Usage]:
        """What each has used, by name."""
        return {process.name: process.usage() for process in self.all}
