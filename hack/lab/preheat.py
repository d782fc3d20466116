"""A preheat beside a foreground pull: what it costs the pull."""

from __future__ import annotations

import time
from statistics import median

from darter import OPERATIONS, SCHEDULER_OPERATIONS
from image import REPOSITORY, Image
from lab import Lab, Skipped, Stand
from measure import Measured
from operations import ask, metrics, total
from result import COPIES, Goals

# One pair of pulls on two cores says little.
_PAIRS = 3
_MOST_PERCENT = 10.0
_STORED = "darter_proxy_store_commits_total"
_PASSED = "darter_proxy_limits_bytes_total"


def preheat_beside(lab: Lab) -> None:
    """All nodes pull while another image of the same size is preheated to them."""
    lab.need_darter()
    image = lab.default_image()
    other = lab.image(image.layers, image.bytes // image.layers, tag="preheated")
    least = lab.bound(image)
    without: list[float | None] = []
    beside: list[tuple[float | None, Measured, float, float]] = []
    for pair in range(_PAIRS):
        with lab.stand("preheat-beside", "darter") as stand:
            stand.start(lab.nodes)
            if pair == 0:
                _check(lab)
            without.append(_last(stand.pull(lab.nodes, image)))
        with lab.stand("preheat-beside", "darter") as stand:
            measured, preheated, copies = _both(lab, stand, image, other)
            beside.append((_last(measured), measured, preheated, copies))
            if pair < _PAIRS - 1:
                continue
            times = [time for time, *_ in beside]
            cost = _percent(without, times)
            missed = [] if cost is not None and cost <= _MOST_PERCENT else [f"the preheat cost {cost} %, not {_MOST_PERCENT:.0f}"]
            if min(share for *_, share, _ in beside) <= 0:
                missed.append("nothing was preheated meanwhile")
            if max(copies for *_, copies in beside) > COPIES:
                missed.append(f"{max(copies for *_, copies in beside)} origin copies of both images, not {COPIES}")
            stand.report(
                image, measured, Goals(None, None), least=least, missed=missed, cost_percent=cost,
                seconds_without=without, seconds_beside=times,
                preheated_meanwhile=[share for *_, share, _ in beside], copies_of_both=[copies for *_, copies in beside],
            )


def _both(lab: Lab, stand: Stand, image: Image, other: Image) -> tuple[Measured, float, float]:
    """The pull beside a preheat; copies of `other` that came meanwhile, origin copies of both."""
    stand.start(lab.nodes)
    stand.empty_clients(lab.nodes)
    sent = lab.registry.sent()
    for digest, size in other.blobs:
        wish = {"upstream": "docker.io", "repository": REPOSITORY, "digest": digest, "size": size}
        status, said = ask(lab.middle, SCHEDULER_OPERATIONS, "POST", "/preheat", wish)
        if status // 100 != 2:
            raise RuntimeError(f"POST /preheat: {status} {said}")
    measured = stand.pull(lab.nodes, image)
    passed = [total(metrics(node, OPERATIONS), _PASSED, direction="Download", **{"class": "Background"}) for node in lab.nodes]
    # The blobs of both, and the manifest that was pulled.
    contents = len(image.blobs) + len(other.blobs) + 1
    deadline = time.monotonic() + lab.patience(other)
    while any(total(metrics(node, OPERATIONS), _STORED) < contents for node in lab.nodes):
        if time.monotonic() > deadline:
            raise RuntimeError(f"the preheat was not done {lab.patience(other):.0f} s after the pull")
        time.sleep(0.2)
    # A response is in the registry's log only once it has ended.
    time.sleep(0.2)
    copies = (lab.registry.sent() - sent) / (image.bytes + other.bytes)
    return measured, round(sum(passed) / len(passed) / other.bytes, 3), round(copies, 3)


def _check(lab: Lab) -> None:
    status, _ = ask(lab.middle, SCHEDULER_OPERATIONS, "POST", "/preheat", {})
    if status in (404, 405):
        raise Skipped("this build of Darter has no POST /preheat")


def _last(measured: Measured) -> float | None:
    times = [outcome.seconds for outcome in measured.outcomes]
    return None if None in times else round(max(time for time in times if time is not None), 3)


def _percent(without: list[float | None], beside: list[float | None]) -> float | None:
    """What it cost, by medians; None if any pull failed."""
    if None in without or None in beside:
        return None
    before = median(time for time in without if time is not None)
    return round((median(time for time in beside if time is not None) / before - 1) * 100, 1)
