"""The lab itself: network, registry, images, and a stand for each scenario.

`Lab` owns the hosts and the registry for the whole run, and the images that were pushed. A
`Stand` owns what one scenario starts: a fresh mirror on every host and fresh clients.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Callable

from clients import client
from darter import OPERATIONS, SCHEDULER_OPERATIONS, Darter, Plain, Rival, Service
from image import Image
from machine import Busy, touch
from measure import Measured, Span
from network import MIDDLE, REGISTRY, Host, Network, node_address
from operations import metrics
from options import Options
from processes import Processes
from pulls import Batch
from registry import Registry
from result import Goals, Result, bound, result
from sandbox import MEMORY
from stalls import evidence

# Connections between the parts, sessions and first inventories settle before the moment.
_SETTLE = 1.0
# What a pull writes, times the image: its mirror keeps it, and so does its client; sockets hold some.
_WRITTEN = 2.5


class Skipped(Exception):
    """A scenario that can't be played here, and why."""


class Lab:
    """Hosts, registry, images, results."""

    def __init__(self, options: Options, binary: Path | None, directory: Path, results: Path) -> None:
        self.options, self.directory, self.results_dir = options, directory, results
        self._binary = binary
        network = Network(options.congestion)
        self.registry_host = network.add("registry", REGISTRY, options.registry_mbit)
        self.middle = network.add("middle", MIDDLE, options.middle_mbit)
        numbers = range(1, options.nodes + 1)
        self.nodes = [network.add(f"node{n}", node_address(n), options.node_mbit) for n in numbers]
        self.client = client(options.client)
        self.registry = Registry(self.registry_host, directory / "registry")
        self.results: list[Result] = []
        self.run = 0
        self._images: dict[str, Image] = {}
        self._alone: dict[str, float] = {}
        self._stands = 0

    def image(self, layers: int, layer_bytes: int, tag: str | None = None) -> Image:
        """An image of that shape, pushed when it is first asked for."""
        tag = tag or f"{layers}x{layer_bytes}"
        if tag not in self._images:
            self._images[tag] = self.registry.push(tag, layers, layer_bytes)
        return self._images[tag]

    def default_image(self) -> Image:
        """The image of `--size` and `--layers`."""
        return self.image(self.options.layers, self.options.image_bytes(self.options.layers))

    def next_run(self) -> None:
        """Everything is measured again, one node alone as well."""
        self.run += 1
        self._alone.clear()

    def need_darter(self) -> None:
        """Raises Skipped where Darter's own processes don't run."""
        if "darter" not in self.options.modes():
            raise Skipped("it acts on Darter's own processes")

    def mirrored(self) -> str:
        """The mode in which a mirror stands before the registry. Raises Skipped without one."""
        mode = self.options.modes()[-1]
        if mode == "plain":
            raise Skipped("it needs a mirror")
        return mode

    def stand(self, scenario: str, mode: str) -> Stand:
        """A fresh one; to be used in a `with`."""
        self._stands += 1
        return Stand(self, scenario, mode, self.directory / f"stand-{self._stands}")

    def service(self, mode: str, daemons: Processes, data: Path) -> Service:
        """What serves pulls in this mode."""
        options = self.options
        if mode == "plain":
            return Plain(self.registry)
        if mode == "mirror":
            assert options.mirror_url is not None
            return Rival(options.mirror_url, options.on_middle, options.on_node, daemons, self.registry, data)
        assert self._binary is not None
        return Darter(self._binary, daemons, self.registry, data)

    def alone(self, image: Image) -> float:
        """Seconds that one node alone takes from the registry; measured once an image.

        Raises RuntimeError when even that fails."""
        if image.tag not in self._alone:
            with self.stand("alone", "plain") as stand:
                measured = stand.pull(self.nodes[:1], image)
                seconds = measured.outcomes[0].seconds
                figures = stand.report(image, measured, Goals(None, None), least=seconds, alone=seconds)
            if seconds is None:
                raise RuntimeError(f"one node alone failed: {figures['failures']}")
            self._alone[image.tag] = seconds
        return self._alone[image.tag]

    def known_alone(self, image: Image) -> float | None:
        """The same, if it was measured: nothing is measured while a stand is up."""
        return self._alone.get(image.tag)

    def bound(self, image: Image) -> float:
        """Seconds that physics asks for when all nodes pull at once."""
        return bound(self.options, image, self.alone(image))

    def patience(self, image: Image) -> float:
        """Seconds after which a pull counts as failed: twice as long as plain pulls take."""
        link = image.bytes * 8 / (self.options.node_mbit * 1e6)
        source = image.bytes * 8 * self.options.nodes / (self.options.registry_mbit * 1e6)
        return 60 + 2 * max(link, source) + image.layers * 0.2


class Stand:
    """One scenario's processes and files."""

    def __init__(self, lab: Lab, scenario: str, mode: str, directory: Path) -> None:
        self.lab, self.scenario, self.mode = lab, scenario, mode
        self._directory, self._prepared = directory, 0
        self.logs = directory / "logs"
        self.daemons = Processes(self.logs)
        self.service = lab.service(mode, self.daemons, directory / "data")
        self._kept = False
        self._pulled: set[str] = set()
        self._clients: dict[str, Path] = {}

    def __enter__(self) -> Stand:
        return self

    def __exit__(self, kind: type | None, failure: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(failure, Exception) and not isinstance(failure, Skipped):
            self.keep()
        self.daemons.__exit__(kind, failure, trace)
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def darter(self) -> Darter:
        """Darter's processes, in the mode that has them."""
        assert isinstance(self.service, Darter)
        return self.service

    def start(self, nodes: list[Host]) -> None:
        """Starts the mirror on the middle host (the first time) and on `nodes`."""
        if not self.daemons.all:
            self.service.start_middle(self.lab.middle)
        for node in nodes:
            self.service.start_node(node)
        self.daemons.wait_ready()
        self.service.ready(nodes)

    def empty_clients(self, nodes: list[Host]) -> None:
        """Gives nodes clients with nothing in them."""
        for node in nodes:
            if node.name in self._clients:
                for daemon in self.daemons.all:
                    if daemon.kind == "containerd" and daemon.host == node.name:
                        daemon.kill()
                shutil.rmtree(self._clients[node.name], ignore_errors=True)
            self._prepared += 1
            self._clients[node.name] = self._directory / f"client-{self._prepared}"
            self.lab.client.prepare(self.daemons, node, self._clients[node.name], self.service.mirror(node))
        self.daemons.wait_ready()

    def pull(self, nodes: list[Host], image: Image, during: Callable[[Batch, Span], None] | None = None) -> Measured:
        """All of `nodes` pull at the same moment; `during` may watch and interfere."""
        if not self.daemons.all and self.mode != "plain":
            self.start(nodes)
        self.empty_clients([node for node in nodes if node.name not in self._clients])
        batch = self.batch(nodes, image)
        if MEMORY in self.lab.directory.parents:
            touch(self.lab.directory, int(image.bytes * (len(nodes) + 1) * _WRITTEN))
        quiet = Busy.now()
        time.sleep(_SETTLE)
        idle = Busy.now().since(quiet)
        # Over the links, that is: a second pull of the same nodes has it from their own mirrors.
        names = {node.name for node in nodes}
        expected = 0 if self.mode != "plain" and names <= self._pulled else image.bytes
        self._pulled |= names
        link = self.lab.options.node_mbit * 1e6 / 8
        span = Span(self.lab.registry, self.daemons.all, [node.name for node in nodes], link, expected, self._stalled)
        span.begin()
        batch.begin()
        try:
            if during:
                during(batch, span)
            outcomes = batch.end(self.lab.patience(image))
        except Exception:
            batch.end(0.0)
            span.stop()
            raise
        measured = span.end(outcomes)
        measured.machine["busy_share_before"] = idle["busy_share"]
        return measured

    def batch(self, nodes: list[Host], image: Image) -> Batch:
        """Pulls of prepared nodes that are ready to begin."""
        client, mirror = self.lab.client, self.service.mirror
        errands = [client.errand(node, self._clients[node.name], mirror(node), image) for node in nodes]
        return Batch(errands, self.logs)

    def report(
        self,
        image: Image,
        measured: Measured,
        goals: Goals,
        *,
        least: float | None,
        alone: float | None = None,
        **more: Any,
    ) -> Result:
        """Makes the result's object, keeps and prints it."""
        alone = alone if alone is not None else self.lab.known_alone(image)
        figures = result(
            self.scenario, self.mode, self.lab.options, image, measured, alone=alone, least=least, goals=goals, **more
        )
        figures["run"] = self.lab.run
        self.lab.results.append(figures)
        print(said(figures), flush=True)
        if figures["failed"] or self.lab.options.keep or (self.logs / "stall").exists():
            self.keep()
        return figures

    def keep(self) -> None:
        """Copies logs and metrics to the results' directory."""
        if self._kept:
            return
        self._kept = True
        name = f"{self.scenario}-{self.mode}" + (f"-{self.lab.run}" if self.lab.options.repeat > 1 else "")
        to = self.lab.results_dir / "logs" / name
        shutil.copytree(self.logs, to, dirs_exist_ok=True)
        shutil.copytree(self.lab.directory / "registry/logs", to, dirs_exist_ok=True)
        qdiscs = subprocess.run(["tc", "-s", "qdisc", "show"], capture_output=True, text=True).stdout
        (to / "qdisc.txt").write_text(qdiscs)
        self._save_metrics(to)
        print(f"  logs and metrics: {to}", file=sys.stderr)

    def _stalled(self) -> None:
        hosts = [self.lab.registry_host, self.lab.middle, *self.lab.nodes]
        evidence(hosts, self.logs / "stall", self._save_metrics)

    def _save_metrics(self, to: Path) -> None:
        if not isinstance(self.service, Darter):
            return
        parts = [("scheduler", self.lab.middle, SCHEDULER_OPERATIONS), ("seed", self.lab.middle, OPERATIONS)]
        parts += [(f"proxy-{node.name}", node, OPERATIONS) for node in self.lab.nodes]
        for name, host, port in parts:
            _save(to, name, host, port)


def _save(to: Path, name: str, host: Host, port: int) -> None:
    try:
        (to / f"{name}.prom").write_text(metrics(host, port))
    except OSError as failure:
        (to / f"{name}.prom").write_text(f"# no answer: {failure}\n")
    counts = subprocess.run(
        host.command("cat", "/proc/net/snmp", "/proc/net/netstat"), capture_output=True, text=True
    )
    (to / f"{name}.net").write_text(counts.stdout)


def said(figures: Result) -> str:
    """A result in one line."""
    parts = [
        f"last node {figures['last_seconds']} s",
        f"median {figures['median_seconds']} s",
        f"one node alone {figures['alone_seconds']} s",
    ]
    if figures["bound_seconds"] is not None:
        parts.append(f"bound {figures['bound_seconds']} s (x{figures['ratio_to_bound']})")
    if "waves" in figures:
        parts.append(f"waves {figures['waves']}")
    parts += [f"origin copies {figures['origin_copies']}", f"failed {figures['failed']}"]
    if figures["mode"] != "plain":
        parts += [f"CPU {figures['cpu_seconds']} s", f"largest RSS {figures['largest_rss_mib']:.0f} MiB"]
    missed = f"; MISSED: {'; '.join(figures['missed'])}" if figures["missed"] else ""
    shape = f"{figures['nodes']} nodes, {figures['layers']} layer(s), {figures['bytes']} bytes"
    return f"{figures['scenario']} {figures['mode']}: {shape}: {', '.join(parts)}{missed}"
