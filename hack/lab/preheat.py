"""A preheat beside a foreground pull: what it costs the pull."""

from __future__ import annotations

from lab import Lab, Skipped


def preheat_beside(lab: Lab) -> None:
    """All nodes pull while another image is preheated to them."""
    raise Skipped("this build of Darter has no POST /preheat")
