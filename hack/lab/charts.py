"""Charts as SVG: the last node of each scenario, completion over time, rates under limits."""

from __future__ import annotations

from html import escape

from result import Result

_BLUE, _GREY, _GREEN, _ORANGE = "#1f6feb", "#b8bec6", "#2e7d32", "#d9730d"
_HEAD = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
    'font-family="sans-serif" font-size="12" fill="#333">\n'
    '<rect width="100%" height="100%" fill="white"/>\n'
)


def _text(x: float, y: float, text: str, anchor: str = "start", extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{escape(text)}</text>\n'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dash}/>\n'


def _by_scenario(results: list[Result]) -> dict[str, dict[str, Result]]:
    """What has times, scenario by scenario; of several runs the median one. One node alone is no scenario."""
    runs: dict[str, dict[str, list[Result]]] = {}
    for each in results:
        if each["scenario"] not in ("alone", "limit-changed") and each["times"]:
            runs.setdefault(each["scenario"], {}).setdefault(each["mode"], []).append(each)
    return {
        scenario: {mode: sorted(of, key=lambda each: each["last_seconds"])[(len(of) - 1) // 2] for mode, of in modes.items()}
        for scenario, modes in runs.items()
    }


def _name(mode: str) -> str:
    return {"plain": "plain", "darter": "Darter", "mirror": "mirror"}[mode]


def bars(results: list[Result]) -> str:
    """A bar for each last node; marks for the bound and for one node alone."""
    left, bar, gap, span = 150.0, 16.0, 14.0, 560.0
    scenarios = _by_scenario(results)
    longest = max((each["last_seconds"] for modes in scenarios.values() for each in modes.values()), default=1.0)
    scale = span / longest
    body, y = "", 48.0
    for scenario, modes in scenarios.items():
        top = y
        for mode, each in modes.items():
            width = each["last_seconds"] * scale
            colour = _GREY if mode == "plain" else _BLUE
            body += f'<rect x="{left}" y="{y:.1f}" width="{width:.1f}" height="{bar}" fill="{colour}"/>\n'
            failed = f", {each['failed']} failed" if each["failed"] else ""
            body += _text(left + width + 6, y + 12, f"{each['last_seconds']:.1f} s {_name(mode)}{failed}")
            y += bar + 2
        body += _text(left - 8, (top + y) / 2 + 3, scenario, "end")
        first = next(iter(modes.values()))
        least, alone = first["bound_seconds"], first["alone_seconds"]
        if alone is not None and alone != least:
            body += _line(left + alone * scale, top - 3, left + alone * scale, y + 1, _ORANGE)
        if least is not None:
            body += _line(left + least * scale, top - 3, left + least * scale, y + 1, _GREEN)
        y += gap
    key = _text(left, 22, "Last node, seconds", extra='font-size="15"')
    key += _text(left + 200, 22, "| bound", extra=f'fill="{_GREEN}"')
    key += _text(left + 260, 22, "| one node alone, where that is not the bound", extra=f'fill="{_ORANGE}"')
    return _HEAD.format(width=left + span + 130, height=y + 6) + key + body + "</svg>\n"


def completion(results: list[Result]) -> str:
    """A panel a scenario: nodes that are done, and what has left the registry, over time."""
    width, height, left, top, across = 300.0, 120.0, 50.0, 74.0, 2
    scenarios = _by_scenario(results)
    rows = (len(scenarios) + across - 1) // across
    body = _text(left, 22, "Completion over time", extra='font-size="15"')
    key = "Solid: nodes that are done; thin: what left the registry (100 %: a copy a node). Blue: Darter; grey: plain."
    body += _text(left, 42, key)
    for at, (scenario, modes) in enumerate(scenarios.items()):
        x, y = left + (at % across) * (width + 70), top + (at // across) * (height + 60)
        body += _panel(x, y, width, height, scenario, modes)
    return _HEAD.format(width=left + across * (width + 70), height=top + rows * (height + 60)) + body + "</svg>\n"


def _panel(x: float, y: float, width: float, height: float, scenario: str, modes: dict[str, Result]) -> str:
    waves = any("waves" in each for each in modes.values())
    end = max(_curve(each)[-1][0] for each in modes.values()) * 1.02
    bottom = y + height
    body = _text(x, y - 6, scenario) + _line(x, y, x, bottom, "#888") + _line(x, bottom, x + width, bottom, "#888")
    body += _text(x - 6, y + 5, "100 %", "end") + _text(x - 6, bottom, "0", "end")
    body += _text(x + width, bottom + 16, f"{end:.1f} s", "end")
    bound = next(iter(modes.values()))["bound_seconds"]
    if bound and not waves:
        body += _line(x + bound / end * width, y, x + bound / end * width, bottom, _GREEN, dashed=True)
    for mode, each in modes.items():
        colour = _GREY if mode == "plain" else _BLUE
        points, before = [f"{x:.1f},{bottom:.1f}"], 0.0
        for seconds, share in _curve(each):
            at = x + seconds / end * width
            points += [f"{at:.1f},{bottom - before * height:.1f}", f"{at:.1f},{bottom - share * height:.1f}"]
            before = share
        body += f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="2"/>\n'
        sent = [
            f"{x + seconds / end * width:.1f},{bottom - min(1.0, copies / each['nodes']) * height:.1f}"
            for seconds, _, copies in each["progress"]
            if seconds <= end
        ]
        body += f'<polyline points="{" ".join(sent)}" fill="none" stroke="{colour}" stroke-width="0.8"/>\n'
    return body


def rates(each: Result) -> str:
    """What passed a limit, and the limit, over time."""
    width, height, x, y = 600.0, 160.0, 70.0, 50.0
    bottom = y + height
    end = max(seconds for seconds, _ in each["rates"])
    most = max(rate for _, rate in each["rates"]) or 1
    body = _text(x, 24, "A download limit that is changed while bytes flow", extra='font-size="15"')
    body += _line(x, y, x, bottom, "#888") + _line(x, bottom, x + width, bottom, "#888")
    body += _text(x - 6, y + 5, f"{most / 1e6:.1f} MB/s", "end") + _text(x + width, bottom + 16, f"{end:.1f} s", "end")
    until = [at for at, _ in each["changes"][1:]] + [end]
    for (at, rate), ends in zip(each["changes"], until):
        if rate:
            level = bottom - rate / most * height
            body += _line(x + at / end * width, level, x + ends / end * width, level, _ORANGE, dashed=True)
            body += _text(x + at / end * width + 4, level - 5, f"limit {rate / 1e6:.2f} MB/s", extra=f'fill="{_ORANGE}"')
    points = [f"{x + at / end * width:.1f},{bottom - rate / most * height:.1f}" for at, rate in each["rates"]]
    body += f'<polyline points="{" ".join(points)}" fill="none" stroke="{_BLUE}" stroke-width="2"/>\n'
    return _HEAD.format(width=x + width + 30, height=bottom + 30) + body + "</svg>\n"


def _curve(each: Result) -> list[tuple[float, float]]:
    """When which share of the nodes was done; waves follow each other."""
    if "waves" in each:
        size, begun, done, curve = max(1, round(each["nodes"] / 5)), 0.0, 0, []
        nodes = list(each["by_node"].values())
        for number, wave in enumerate(each["waves"]):
            for seconds in sorted(time for time in nodes[number * size : (number + 1) * size] if time is not None):
                done += 1
                curve.append((begun + seconds, done / len(nodes)))
            begun += wave or 0.0
        return curve
    total = len(each["by_node"])
    return [(seconds, (number + 1) / total) for number, seconds in enumerate(each["times"])]
