"""A rate limit that is changed while bytes flow: how long until it is followed."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from darter import OPERATIONS
from lab import Lab, Skipped
from measure import Span
from network import Host
from operations import ask, metrics, total
from pulls import Batch
from result import Goals

# Seconds: what is promised; between two readings; that a rate is taken over; under each limit.
WITHIN = 2.0
_EVERY, _WINDOW, _HOLD = 0.1, 0.5, 4.0
_NAME = "darter_proxy_limits_bytes_total"


@dataclass(frozen=True)
class _Sample:
    at: float
    bytes: float


class _Meter(threading.Thread):
    """Reads what passed the download limit, every 100 ms."""

    def __init__(self, host: Host) -> None:
        super().__init__(daemon=True)
        self._host, self._ended = host, threading.Event()
        self.samples: list[_Sample] = []

    def run(self) -> None:
        while not self._ended.wait(_EVERY):
            try:
                text = metrics(self._host, OPERATIONS)
            except OSError:
                continue
            self.samples.append(_Sample(time.monotonic(), total(text, _NAME, direction="Download")))

    def end(self) -> None:
        self._ended.set()
        self.join()


def limit_changed(lab: Lab) -> None:
    """One node's download limit is set, raised and lifted while it pulls."""
    lab.need_darter()
    link = lab.options.node_mbit * 1e6 / 8
    rates = [int(link * 0.3), int(link * 0.6)]
    # What passes before, under both limits, and something to lift the last one for.
    needed = link + sum(rates) * _HOLD + link / 2
    image = lab.default_image()
    if image.bytes < needed:
        raise Skipped(f"it needs --size {needed / 1e6:.0f} or more on such links")
    lab.alone(image)
    node = lab.nodes[0]
    with lab.stand("limit-changed", "darter") as stand:
        stand.start([node])
        changes: list[tuple[float, int]] = []
        meter = _Meter(node)

        def during(batch: Batch, span: Span) -> None:
            meter.start()
            time.sleep(1.0)
            for rate in [*rates, 0]:
                status, said = ask(node, OPERATIONS, "PUT", "/limits", {"download": rate})
                if status != 200:
                    raise RuntimeError(f"PUT /limits: {status} {said}")
                changes.append((time.monotonic(), rate))
                if rate:
                    time.sleep(_HOLD)

        measured = stand.pull([node], image, during)
        meter.end()
        followed = [_followed(meter.samples, at, rate) for at, rate in changes if rate]
        missed = [
            f"{each['rate']} bytes/s followed after {each['followed_seconds']} s"
            for each in followed
            if each["followed_seconds"] is None or each["followed_seconds"] > WITHIN
        ]
        begun = meter.samples[0].at if meter.samples else 0.0
        curve = [[round(at - begun, 2), round(rate)] for at, rate in _rates(meter.samples)]
        stand.report(
            image, measured, Goals(None, None), least=None, limits=followed, rates=curve, missed=missed,
            changes=[[round(at - begun, 2), rate] for at, rate in changes],
        )


def _rates(samples: list[_Sample]) -> list[tuple[float, float]]:
    """Bytes a second in the window before each sample."""
    found, first = [], 0
    for last in range(1, len(samples)):
        while samples[last].at - samples[first + 1].at >= _WINDOW:
            first += 1
        span = samples[last].at - samples[first].at
        if span >= _WINDOW:
            found.append((samples[last].at, (samples[last].bytes - samples[first].bytes) / span))
    return found


def _followed(samples: list[_Sample], at: float, rate: int) -> dict[str, float | int | None]:
    """When the rate came up to the limit, or down to it, and was never again above: to a tenth.

    What falls below later is not the limit's doing, but a process that had no turn."""
    after = [(when - at, seen) for when, seen in _rates(samples) if 0 <= when - at <= _HOLD]
    raised = bool(after) and after[0][1] < rate
    since, reached = None, False
    for seconds, seen in after:
        reached = reached or not raised or seen >= 0.9 * rate
        if seen > 1.1 * rate or not reached:
            since = None
        elif since is None:
            since = round(seconds, 2)
    settled = [seen for seconds, seen in after if since is not None and seconds >= since]
    mean = round(sum(settled) / len(settled)) if settled else None
    return {"rate": rate, "followed_seconds": since, "mean_after": mean, "samples": len(after)}
