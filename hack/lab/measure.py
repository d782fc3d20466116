"""What is counted between the beginning of pulls and their end."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Callable

from machine import Busy
from network import Carried, counters
from processes import Process, Usage
from pulls import Outcome
from registry import Registry
from stalls import PATIENCE, SHARE

_EVERY = 0.1
_POINTS = 100
# A sampler that had no turn for so many seconds tells of a machine that stood still.
_FROZEN = 1.0
# What a link's counter shows at least of a content that has come: it misses hardly a header.
_ALL = 0.98


@dataclass
class Measured:
    """All figures of one batch of pulls."""

    outcomes: list[Outcome]
    seconds: float
    sent: int
    """Bytes of blobs that left the registry."""
    carried: dict[str, Carried]
    cpu: dict[str, float]
    """CPU seconds by kind of process."""
    rss: dict[str, float]
    """Peak memory of the largest process of each kind, MiB."""
    machine: dict[str, float]
    progress: list[tuple[float, float, float]] = field(default_factory=list)
    """Seconds, mean bytes that came to a node, bytes that left the registry, by their links."""
    stalled: float = 0.0
    """Seconds in which hardly anything came to the nodes."""
    arrived: float | None = None
    """When nearly all bytes had come to the nodes, in the mean; what follows is the hosts' own time."""

    def then(self, later: Measured) -> Measured:
        """Both, one after the other."""
        left = self.progress[-1][2] if self.progress else 0.0
        return Measured(
            outcomes=[*self.outcomes, *later.outcomes],
            seconds=self.seconds + later.seconds,
            sent=self.sent + later.sent,
            carried={name: _more(now, self.carried[name]) for name, now in later.carried.items()},
            cpu=_sums(self.cpu, later.cpu),
            rss={kind: max(mib, self.rss.get(kind, 0.0)) for kind, mib in later.rss.items()},
            machine=_both(self.machine, later.machine),
            stalled=self.stalled + later.stalled,
            progress=[*self.progress, *((self.seconds + at, came, left + sent) for at, came, sent in later.progress)],
        )


class Span:
    """Counts from `begin` to `end`, and says so when bytes stop coming.

    `link` is a node's rate in bytes a second, `expected` what is to come to each."""

    def __init__(
        self,
        registry: Registry,
        daemons: list[Process],
        nodes: list[str],
        link: float,
        expected: int,
        on_stall: Callable[[], None],
    ) -> None:
        self._registry, self._daemons, self._nodes = registry, daemons, nodes
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._progress: list[tuple[float, float, float]] = []
        self._link, self._expected, self._on_stall = link, expected, on_stall
        self._stalled, self._frozen = 0.0, 0.0
        self._arrived: float | None = None

    def begin(self) -> None:
        """Takes the first reading."""
        self._sent = self._registry.sent()
        self._usage = self._by_process()
        self._lab = time.process_time()
        self._carried, self._busy = counters(), Busy.now()
        self._begun = time.monotonic()
        self._sampler.start()

    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._begun

    def forget(self, node: str) -> None:
        """Does not count a node any more."""
        self._nodes = [each for each in self._nodes if each != node]

    def came(self) -> float:
        """Bytes that came to a node, in the mean of all."""
        return self._came(counters())

    def left(self, host: str) -> int:
        """Bytes that left a host."""
        return counters()[host].from_host - self._carried[host].from_host

    def _came(self, now: dict[str, Carried]) -> float:
        came = [now[node].to_host - self._carried[node].to_host for node in self._nodes]
        return sum(came) / len(came)

    def _sample(self) -> None:
        registry = self._registry.host.name
        before, came_before, stalled = 0.0, 0.0, 0.0
        while not self._stop.wait(_EVERY):
            now, seconds = counters(), self.seconds()
            came, left = self._came(now), now[registry].from_host - self._carried[registry].from_host
            self._progress.append((round(seconds, 2), came, float(left)))
            step, there = seconds - before, self._expected and came >= _ALL * self._expected
            if there and self._arrived is None:
                self._arrived = seconds
            if step > _FROZEN:
                # Nobody else had a turn either, or hardly.
                self._frozen += step
            elif self._expected and not there and came - came_before < SHARE * self._link * step:
                self._stalled, stalled = self._stalled + step, stalled + step
                if stalled - step < PATIENCE <= stalled:
                    self._on_stall()
            else:
                stalled = 0.0
            before, came_before = self.seconds(), came

    def stop(self) -> None:
        """Ends the sampling; `end` does so by itself."""
        self._stop.set()
        self._sampler.join()

    def _by_process(self) -> dict[int, Usage]:
        every = [*self._daemons, self._registry.process]
        return {process.pid: process.usage() for process in every}

    def end(self, outcomes: list[Outcome]) -> Measured:
        """Takes the last reading. `daemons` may have grown since the beginning."""
        seconds, busy, carried = self.seconds(), Busy.now(), counters()
        usage = self._by_process()
        self.stop()
        cpu = {"clients": sum(outcome.cpu_seconds for outcome in outcomes), "lab": time.process_time() - self._lab}
        rss: dict[str, float] = {}
        for process in [*self._daemons, self._registry.process]:
            now, before = usage[process.pid], self._usage.get(process.pid, Usage())
            cpu[process.kind] = cpu.get(process.kind, 0.0) + now.cpu_seconds - before.cpu_seconds
            rss[process.kind] = max(rss.get(process.kind, 0.0), now.peak_rss_mib)
        step = max(1, len(self._progress) // _POINTS)
        return Measured(
            outcomes=outcomes,
            seconds=seconds,
            # Its log has what it gave to the kernel, of which a killed client never got the end.
            sent=min(self._registry.sent() - self._sent, self.left(self._registry.host.name)),
            carried={name: _less(now, self._carried[name]) for name, now in carried.items() if name in self._carried},
            cpu={kind: round(seconds, 2) for kind, seconds in cpu.items()},
            rss={kind: round(mib, 1) for kind, mib in rss.items()},
            machine={**busy.since(self._busy), "frozen_seconds": round(self._frozen, 2)},
            stalled=round(self._stalled, 2),
            arrived=self._arrived,
            progress=self._progress[::step],
        )


def _less(now: Carried, before: Carried) -> Carried:
    return Carried(now.to_host - before.to_host, now.from_host - before.from_host)


def _more(now: Carried, before: Carried) -> Carried:
    return Carried(now.to_host + before.to_host, now.from_host + before.from_host)


def _sums(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    return {name: round(one.get(name, 0.0) + other.get(name, 0.0), 2) for name in {**one, **other}}


def _both(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """Seconds add up, shares don't."""
    sums = _sums(one, other)
    busy = 1 - sums["idle_seconds"] / sums["total_seconds"] if sums["total_seconds"] else 0.0
    before = max(one.get("busy_share_before", 0.0), other.get("busy_share_before", 0.0))
    return {**sums, "busy_share": round(busy, 3), "busy_share_before": before}
