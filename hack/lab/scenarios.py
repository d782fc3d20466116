"""The scenarios in which nothing breaks: at once, in waves, again, in many layers.

Each is a function of the lab; what it measures it reports. One node alone is measured first,
while nothing else runs.
"""

from __future__ import annotations

from image import Image
from lab import Lab
from result import RATIO, Goals

SMALL_LAYERS, SMALL_BYTES = 300, 100_000


def at_once(lab: Lab) -> None:
    """All nodes pull the same image at the same moment."""
    _together(lab, "at-once", lab.default_image())


def layers(lab: Lab) -> None:
    """The same in four layers."""
    _together(lab, "layers", lab.image(4, lab.options.image_bytes(4)))


def small_layers(lab: Lab) -> None:
    """The same in 300 layers of 100 KB (fewer if --size is less than 30)."""
    count = min(SMALL_LAYERS, max(1, int(lab.options.size * 1_000_000 / SMALL_BYTES)))
    _together(lab, "small-layers", lab.image(count, SMALL_BYTES))


def _together(lab: Lab, scenario: str, image: Image) -> None:
    least = lab.bound(image)
    for mode in lab.options.modes():
        with lab.stand(scenario, mode) as stand:
            stand.report(image, stand.pull(lab.nodes, image), Goals(), least=least)


def rolling(lab: Lab) -> None:
    """A fifth of the nodes after the other, each wave when the last one is done."""
    image = lab.default_image()
    alone = lab.alone(image)
    size = max(1, round(len(lab.nodes) / 5))
    waves = [lab.nodes[at : at + size] for at in range(0, len(lab.nodes), size)]
    for mode in lab.options.modes():
        with lab.stand("rolling", mode) as stand:
            stand.start(lab.nodes)
            stand.empty_clients(lab.nodes)
            measured = [stand.pull(wave, image) for wave in waves]
            whole = measured[0]
            for later in measured[1:]:
                whole = whole.then(later)
            # One link's time is what a wave can't be faster than; the worst wave is the last node.
            times = [_longest(each.outcomes) for each in measured]
            slow = [f"wave {n} took {t:.1f} s" for n, t in enumerate(times, 1) if t and t > RATIO * alone]
            stand.report(image, whole, Goals(), least=alone, waves=times, missed=[] if mode == "plain" else slow)


def _longest(outcomes: list) -> float | None:
    times = [outcome.seconds for outcome in outcomes if outcome.seconds is not None]
    return round(max(times), 3) if times else None


def warm(lab: Lab) -> None:
    """The nodes pull again, with empty clients: their own mirror has it all."""
    mode = lab.mirrored()
    image = lab.default_image()
    lab.alone(image)
    with lab.stand("warm", mode) as stand:
        first = stand.pull(lab.nodes, image)
        stand.empty_clients(lab.nodes)
        again = stand.pull(lab.nodes, image)
        failed = [f"the first pull failed on {each.node}" for each in first.outcomes if each.seconds is None]
        stand.report(image, again, Goals(copies=0.0), least=None, missed=failed)
