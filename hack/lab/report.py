"""Writes results: JSON for programs, Markdown and charts for people."""

from __future__ import annotations

import json
from typing import Any

from charts import bars, completion, rates
from lab import Lab
from options import Options
from result import Result
from stalls import PATIENCE

_COLUMNS = (
    ("scenario", lambda each: _title(each)),
    ("through", lambda each: {"plain": "the registry", "darter": "Darter", "mirror": "the mirror"}[each["mode"]]),
    ("last node, s", lambda each: _number(each["last_seconds"])),
    ("median, s", lambda each: _number(each["median_seconds"])),
    ("bytes there, s", lambda each: _number(each["arrived_seconds"])),
    ("one node alone, s", lambda each: _number(each["alone_seconds"])),
    ("bound, s", lambda each: _number(each["bound_seconds"])),
    ("times the bound", lambda each: _number(each["ratio_to_bound"])),
    ("origin copies", lambda each: f"{each['origin_copies']:.3f}"),
    ("failed", lambda each: str(each["failed"])),
    ("CPU s: proxies, seed, scheduler", lambda each: _cpu(each, "proxies", "seed", "scheduler")),
    ("clients, registry", lambda each: _number(_clients(each)) + ", " + _cpu(each, "registry")),
    ("machine busy (softirq)", lambda each: _busy(each["machine"])),
    ("largest RSS, MiB", lambda each: f"{each['largest_rss_mib']:.0f}"),
)

# A share of all cores that idle daemons don't reach.
_DISTURBED = 0.2


def write(lab: Lab, machine: dict[str, Any], skipped: dict[str, str]) -> None:
    """Writes all files of a run into the results' directory."""
    options, results, directory = lab.options, lab.results, lab.results_dir
    settings = {name: str(value) if hasattr(value, "parts") else value for name, value in vars(options).items()}
    whole = {"machine": machine, "options": settings, "results": results, "skipped": skipped}
    (directory / "results.json").write_text(_lines(whole))
    charts = {}
    if any(each["scenario"] not in ("alone", "limit-changed") and each["times"] for each in results):
        charts |= {"last-node": bars(results), "completion": completion(results)}
    charts |= {"limits": rates(each) for each in results if each.get("rates")}
    for name, chart in charts.items():
        (directory / f"{name}.svg").write_text(chart)
    (directory / "results.md").write_text(markdown(options, machine, results, skipped, list(charts)))
    if options.json:
        options.json.write_text(_list(results) + "\n")
    print(f"results: {directory}")


def _lines(whole: dict[str, Any]) -> str:
    """JSON with a line a result: their curves are long."""
    parts = [f"{json.dumps(key)}: {_list(value) if key == 'results' else json.dumps(value)}" for key, value in whole.items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _list(results: list[Result]) -> str:
    return "[\n" + ",\n".join(json.dumps(each) for each in results) + "\n]"


def markdown(
    options: Options, machine: dict[str, Any], results: list[Result], skipped: dict[str, str], charts: list[str]
) -> str:
    """What was measured, as a table with what it was measured on."""
    lines = [
        "# What the lab measured",
        "",
        f"{options.nodes} nodes at {options.node_mbit:g} Mbit/s, scheduler and seed at {options.middle_mbit:g}, registry at "
        f"{options.registry_mbit:g}; an image of {options.size:g} MB; client: {options.client}. The bound is physics' for "
        "rates that one node alone got from the registry; the seed counts as one more node. A wave's bound is one node "
        "alone; rolling's last node is the slowest wave. Bytes are there when 98 % of them have come over the nodes' links; what "
        "a last node needs beyond it is its own and its client's time.",
        "",
        "| " + " | ".join(name for name, _ in _COLUMNS) + " |",
        "|" + "---|" * len(_COLUMNS),
    ]
    lines += ["| " + " | ".join(value(each) for _, value in _COLUMNS) + " |" for each in results]
    notes = [line for each in results for line in _notes(each)]
    notes += [f"{name}: {why}" for name, why in skipped.items()]
    notes += _disturbed(results)
    if notes:
        lines += ["", *(f"- {note}" for note in notes)]
    offloads = ", ".join(name for name, on in machine["offloads"].items() if on) or "none"
    versions = "; ".join(machine["versions"].values())
    lines += [
        "",
        *(line for chart in charts for line in (f"![{chart}]({chart}.svg)", "")),
        f"{machine['date']}: {machine['cores']} cores, {machine['memory_mib']} MiB, Linux {machine['kernel']}, "
        f"{options.congestion}, offloads of the links: {offloads}; load when it began {machine['load_average']:.2f}. "
        f"{versions}.",
    ]
    return "\n".join(lines) + "\n"


def _notes(each: Result) -> list[str]:
    name = f"{_title(each)} {each['mode']}"
    notes = [f"{name}: **missed**: {what}" for what in each["missed"]]
    notes += [f"{name}: {failure['node']}: {failure['what']}" for failure in each["failures"]]
    if "waves" in each:
        notes.append(f"{name}: waves {', '.join(_number(wave) for wave in each['waves'])} s")
    if "fault_seconds" in each:
        notes.append(
            f"{name}: at {each['fault_seconds']:.1f} s, when {each['fault_origin_copies']:.2f} copies had left the registry "
            f"and {each['fault_seed_copies']:.2f} the seed"
        )
    for limit in each.get("limits", []):
        notes.append(
            f"{name}: {limit['rate'] / 1e6:.2f} MB/s followed after {_number(limit['followed_seconds'])} s, "
            f"then {(limit['mean_after'] or 0) / 1e6:.2f} MB/s"
        )
    if each["stalled_seconds"] > PATIENCE:
        notes.append(f"{name}: for {each['stalled_seconds']:.1f} s hardly anything came to the nodes")
    if each.get("cost_percent") is not None:
        pairs = zip(each["seconds_without"], each["seconds_beside"])
        shown = ", ".join(f"{_number(without)} and {_number(beside)}" for without, beside in pairs)
        notes.append(f"{name}: without and beside the preheat {shown} s: it cost {each['cost_percent']:.1f} %")
    return notes


def _disturbed(results: list[Result]) -> list[str]:
    """Figures of a busy machine are none."""
    notes = []
    busy = [(each, each["machine"].get("busy_share_before", 0.0)) for each in results]
    names = [f"{_title(each)} {each['mode']} ({share:.0%})" for each, share in busy if share > _DISTURBED]
    if names:
        notes.append(f"**The machine was busy with other things** before {', '.join(names)}")
    frozen = [(each, each["machine"].get("frozen_seconds", 0.0)) for each in results]
    names = [f"{_title(each)} {each['mode']} ({seconds:.1f} s)" for each, seconds in frozen if seconds]
    if names:
        notes.append(f"**The machine stood still**, so that not even the lab had a turn, during {', '.join(names)}")
    return notes


def _title(each: Result) -> str:
    return each["scenario"] if each["run"] == 1 else f"{each['scenario']}, run {each['run']}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _cpu(each: Result, *kinds: str) -> str:
    return ", ".join(f"{each['cpu'].get(kind, 0.0):.1f}" for kind in kinds)


def _clients(each: Result) -> float:
    return each["cpu"].get("containerd", 0.0) + each["cpu"].get("clients", 0.0)


def _busy(machine: dict[str, float]) -> str:
    share = machine["softirq_seconds"] / machine["total_seconds"] if machine["total_seconds"] else 0.0
    return f"{machine['busy_share']:.0%} ({share:.0%})"
