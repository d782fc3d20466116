"""The command line."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from network import MOST_NODES

MODES = ("plain", "darter", "both")


@dataclass
class Options:
    """What the lab was asked for; rates in Mbit/s, `size` in MB of 1,000,000 bytes."""

    scenarios: list[str]
    mode: str
    nodes: int
    size: float
    layers: int
    node_mbit: float
    middle_mbit: float
    registry_mbit: float
    client: str
    mirror_url: str | None
    on_middle: str | None
    on_node: str | None
    congestion: str
    repeat: int
    keep: bool
    json: Path | None
    results: Path | None

    def modes(self) -> list[str]:
        """What pulls go through, in the order they are measured."""
        other = "mirror" if self.mirror_url else "darter"
        return {"plain": ["plain"], "darter": [other], "both": ["plain", other]}[self.mode]

    def image_bytes(self, layers: int) -> int:
        """Bytes of one layer of the image of `size`, cut into `layers`."""
        return int(self.size * 1_000_000 / layers)


def parse(arguments: list[str], scenarios: dict[str, str]) -> Options:
    """Reads the command line; ends the program with what is wrong about it."""
    width = max(map(len, scenarios))
    known = "\n".join(f"  {name:<{width}}  {what}" for name, what in scenarios.items())
    parser = argparse.ArgumentParser(
        prog="hack/lab.sh",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measures pulls in network namespaces with shaped links.",
        epilog=f"scenarios:\n{known}\n\nhack/lab/README.md says how it works and how to measure another mirror.",
    )
    add = parser.add_argument
    add("--scenario", action="append", help="names, with commas between, or 'all' (at-once)")
    add("--mode", choices=MODES, default="both", help="pulls from the registry, through Darter, or both in turn (both)")
    add("--nodes", type=int, default=10, help="nodes that pull (10)")
    add("--size", type=float, default=100, help="MB of an image, 1 MB = 1,000,000 bytes (100)")
    add("--layers", type=int, default=1, help="layers of the image, where the scenario does not say (1)")
    add("--node-mbit", type=float, default=100, help="a node's link, each way (100)")
    add("--middle-mbit", type=float, default=100, help="the link of scheduler and seed (100)")
    add("--registry-mbit", type=float, default=200, help="the registry's link (200)")
    add("--client", default="ctr", help="ctr, chunks (containerd 2.2 in parallel chunks), cri (as crictl and kubelets pull), nerdctl, podman, skopeo, curl, or a command (ctr)")
    add("--mirror-url", metavar="URL", help="pull through this mirror instead of Darter")
    add("--on-middle", metavar="CMD", help="with --mirror-url: a daemon for the middle host")
    add("--on-node", metavar="CMD", help="with --mirror-url: a daemon for every node")
    add("--congestion", metavar="NAME", default="cubic", help="TCP's congestion control on all hosts (cubic, Linux's own)")
    add("--repeat", type=int, default=1, help="play everything so often; charts show the median run (1)")
    add("--keep", action="store_true", help="keep logs and metrics of every scenario, not only of failed ones")
    add("--json", type=Path, metavar="FILE", help="write the results' objects there as well")
    add("--results", type=Path, metavar="DIR", help="results.json, results.md and charts (target/lab/<time>)")
    given = parser.parse_args(arguments)

    names: list[str] = []
    for name in ",".join(given.scenario or ["at-once"]).split(","):
        names += list(scenarios) if name == "all" else [name]
    unknown = [name for name in names if name not in scenarios]
    if unknown:
        parser.error(f"no scenario is called {', '.join(unknown)}; there are {', '.join(scenarios)}")
    if not 1 <= given.nodes <= MOST_NODES:
        parser.error(f"--nodes is 1 to {MOST_NODES}")
    if given.layers < 1 or given.size <= 0 or given.repeat < 1:
        parser.error("--layers, --size and --repeat are more than 0")
    if (given.on_middle or given.on_node) and not given.mirror_url:
        parser.error("--on-middle and --on-node go with --mirror-url")
    rest = {key: value for key, value in vars(given).items() if key != "scenario"}
    return Options(scenarios=list(dict.fromkeys(names)), **rest)
