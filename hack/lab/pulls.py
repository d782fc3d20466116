"""Pulls that begin at the same moment, and when each of them ended.

Every pull's process is there before the moment, waiting for one line on its standard input,
so that starting it costs nothing that is measured.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from clients import Errand

_GATE = 'read -r go && exec "$@" </dev/null'


@dataclass
class Outcome:
    """How one node's pull ended; `seconds` is None for one that failed."""

    node: str
    seconds: float | None
    cpu_seconds: float
    trouble: str = ""


class _Pull:
    def __init__(self, errand: Errand, log: Path) -> None:
        self.node, self._log = errand.host.name, log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                errand.host.command("sh", "-c", _GATE, "sh", *errand.command),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **errand.environment},
            )
        self.outcome: Outcome | None = None
        self._killed = ""
        self._waiter = threading.Thread(target=self._wait, daemon=True)

    def begin(self) -> None:
        self._begun = time.monotonic()
        assert self._popen.stdin is not None
        self._popen.stdin.write(b"\n")
        self._popen.stdin.close()
        self._waiter.start()

    def _wait(self) -> None:
        _, status, used = os.wait4(self._popen.pid, 0)
        seconds = time.monotonic() - self._begun
        code = os.waitstatus_to_exitcode(status)
        self._popen.returncode = code
        trouble = ""
        if code != 0:
            said = self._log.read_text(errors="replace").strip().splitlines()[-5:]
            trouble = self._killed or f"ended with {code}: {' | '.join(said)}"
        cpu = used.ru_utime + used.ru_stime
        self.outcome = Outcome(self.node, seconds if code == 0 else None, cpu, trouble)

    def kill(self, why: str) -> None:
        self._killed = why
        if self.outcome is None:
            os.killpg(self._popen.pid, signal.SIGKILL)

    def join(self, timeout: float) -> bool:
        self._waiter.join(timeout)
        return not self._waiter.is_alive()


class Batch:
    """Pulls of several nodes."""

    def __init__(self, errands: list[Errand], logs: Path) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self._pulls = [_Pull(errand, logs / f"pull-{errand.host.name}.log") for errand in errands]
        self.nodes = [pull.node for pull in self._pulls]
        # Shells that have not come to their `read` would start late.
        time.sleep(0.3)

    def begin(self) -> None:
        """The moment."""
        for pull in self._pulls:
            pull.begin()

    def running(self) -> bool:
        """Whether any pull has not ended."""
        return any(pull.outcome is None for pull in self._pulls)

    def abandon(self, node: str) -> None:
        """Ends one node's pull; it is not counted."""
        for pull in self._pulls:
            if pull.node == node:
                pull.kill("abandoned")
                pull.join(10)
        self._pulls = [pull for pull in self._pulls if pull.node != node]

    def end(self, patience: float) -> list[Outcome]:
        """Waits for all, for `patience` seconds at most; then they are killed and have failed."""
        deadline = time.monotonic() + patience
        for pull in self._pulls:
            if not pull.join(max(0.0, deadline - time.monotonic())):
                pull.kill(f"was not done after {patience:.0f} s")
                pull.join(10)
        lost = Outcome("", None, 0.0, "could not be killed")
        return [pull.outcome or lost for pull in self._pulls]
