"""One scenario's result as an object: times, bound, copies, what it cost, what it missed."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from image import Image
from measure import Measured
from options import Options

# What issue and documentation promise; `ratio` is to the bound.
RATIO, COPIES = 1.15, 1.02
Result = dict[str, Any]


def bound(options: Options, image: Image, alone: float) -> float:
    """Seconds that physics asks for: the source's link, a node's link, all uplinks together.

    Rates are what one node alone got, scaled by the links' rates; the seed is one more node."""
    node = image.bytes / alone
    source, middle = node * options.registry_mbit / options.node_mbit, node * options.middle_mbit / options.node_mbit
    demand = (options.nodes + 1) * image.bytes
    return max(image.bytes / source, image.bytes / node, demand / (source + middle + options.nodes * node))


@dataclass(frozen=True)
class Goals:
    """What a scenario should reach; None is no goal."""

    ratio: float | None = RATIO
    copies: float | None = COPIES


def result(
    scenario: str,
    mode: str,
    options: Options,
    image: Image,
    measured: Measured,
    *,
    alone: float | None,
    least: float | None,
    goals: Goals,
    copies_of: int | None = None,
    **more: Any,
) -> Result:
    """The object. `least` is the bound in seconds; `copies_of` the bytes of one origin copy."""
    times = sorted(outcome.seconds for outcome in measured.outcomes if outcome.seconds is not None)
    failures = [{"node": each.node, "what": each.trouble} for each in measured.outcomes if each.seconds is None]
    last = times[-1] if times else None
    one = copies_of or image.bytes
    node_names = [outcome.node for outcome in measured.outcomes]
    came = sum(measured.carried[name].to_host for name in node_names if name in measured.carried)
    figures: Result = {
        "scenario": scenario,
        "mode": mode,
        "client": options.client,
        "nodes": options.nodes,
        "layers": image.layers,
        "bytes": image.bytes,
        "alone_seconds": _rounded(alone),
        "bound_seconds": _rounded(least),
        "last_seconds": _rounded(last),
        "median_seconds": _rounded(median(times) if times else None),
        "ratio_to_bound": _rounded(last / least if last and least else None),
        "origin_copies": round(measured.sent / one, 3),
        "seed_copies": round(measured.carried["middle"].from_host / image.bytes, 3),
        "node_copies": round(came / max(1, len(node_names)) / image.bytes, 3),
        "stalled_seconds": _rounded(measured.stalled),
        "arrived_seconds": _rounded(measured.arrived),
        "failed": len(failures),
        "failures": failures,
        "times": [_rounded(seconds) for seconds in times],
        "by_node": {each.node: _rounded(each.seconds) for each in measured.outcomes},
        # Of Darter's own (or a rival's) processes together, as `cpu` has them one by one.
        "cpu_seconds": round(sum(measured.cpu.get(kind, 0.0) for kind in ("proxies", "seed", "scheduler")), 2),
        "cpu": measured.cpu,
        "machine": measured.machine,
        "largest_rss_mib": max((measured.rss.get(kind, 0.0) for kind in ("proxies", "seed", "scheduler")), default=0.0),
        "rss_mib": measured.rss,
        "progress": [
            [seconds, round(came / image.bytes, 4), round(left / one, 4)]
            for seconds, came, left in measured.progress
        ],
        **more,
    }
    figures["missed"] = figures.get("missed", []) + _missed(figures, goals)
    return figures


def _missed(figures: Result, goals: Goals) -> list[str]:
    missed = [f"{figures['failed']} pull(s) failed"] if figures["failed"] else []
    if figures["mode"] == "plain":
        return missed
    ratio, copies = figures["ratio_to_bound"], figures["origin_copies"]
    if goals.ratio is not None and ratio is not None and ratio > goals.ratio:
        missed.append(f"{ratio} times the bound, not {goals.ratio}")
    if goals.copies is not None and copies > goals.copies:
        missed.append(f"{copies} origin copies, not {goals.copies}")
    return missed


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
