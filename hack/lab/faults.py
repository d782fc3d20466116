"""The scenarios in which something breaks when the nodes have half of their bytes."""

from __future__ import annotations

import signal
import time
from typing import Callable

from lab import Lab, Skipped, Stand
from measure import Span
from pulls import Batch
from result import Goals

_HALF = 0.5


def seed_killed(lab: Lab) -> None:
    """The seed is killed (-9) at half."""
    _broken(lab, "seed-killed", lambda stand, *_: stand.darter.seed.kill())


def scheduler_killed(lab: Lab) -> None:
    """The scheduler is killed (-9) at half."""
    _broken(lab, "scheduler-killed", lambda stand, *_: stand.darter.scheduler.kill())


def parent_stalled(lab: Lab) -> None:
    """One node's proxy is stopped (SIGSTOP) at half; its own pull is not counted."""
    if len(lab.nodes) < 2:
        raise Skipped("it needs two nodes")
    victim = lab.nodes[0].name

    def stall(stand: Stand, batch: Batch, span: Span) -> None:
        stand.darter.proxies[victim].signal(signal.SIGSTOP)
        batch.abandon(victim)
        span.forget(victim)

    _broken(lab, "parent-stalled", stall, stalled=victim)


def _broken(lab: Lab, scenario: str, fault: Callable[[Stand, Batch, Span], None], **more: object) -> None:
    lab.need_darter()
    image = lab.default_image()
    least = lab.bound(image)
    with lab.stand(scenario, "darter") as stand:
        happened: dict[str, float] = {}

        def during(batch: Batch, span: Span) -> None:
            while span.came() < _HALF * image.bytes and batch.running():
                time.sleep(0.02)
            happened["fault_seconds"] = round(span.seconds(), 3)
            for place, host in (("origin", "registry"), ("seed", "middle")):
                happened[f"fault_{place}_copies"] = round(span.left(host) / image.bytes, 3)
            fault(stand, batch, span)

        measured = stand.pull(lab.nodes, image, during)
        missed = [] if happened["fault_seconds"] < measured.seconds else ["nothing was left to break"]
        stand.report(image, measured, Goals(), least=least, missed=missed, **happened, **more)


def upstream_down(lab: Lab) -> None:
    """The registry is gone; a fresh node pulls by tag what the others have."""
    if len(lab.nodes) < 2:
        raise Skipped("it needs two nodes")
    mode = lab.mirrored()
    image = lab.default_image()
    alone = lab.alone(image)
    *others, fresh = lab.nodes
    with lab.stand("upstream-down", mode) as stand:
        stand.start(others)
        first = stand.pull(others, image)
        lab.registry.stop()
        try:
            stand.start([fresh])
            measured = stand.pull([fresh], image)
        finally:
            lab.registry.start()
        failed = [f"the first pull failed on {each.node}" for each in first.outcomes if each.seconds is None]
        stand.report(image, measured, Goals(copies=0.0), least=alone, missed=failed)
