"""What stands between clients and the registry: Darter, some other mirror, or nothing.

Everything is started on the middle host (scheduler and seed, or a rival's cache) and on the
nodes. `start_middle` comes first; the caller waits for readiness.
"""

from __future__ import annotations

import socket
import string
import time
import urllib.parse
from pathlib import Path
from typing import Protocol

from clients import Mirror
from network import MIDDLE, Host
from processes import NotReady, Process, Processes
from registry import Registry

_MIRROR, _PEER, _SCHEDULER = 4001, 4000, 8002
# Ports of a proxy's operations; of the scheduler's, which shares its host with the seed.
OPERATIONS, SCHEDULER_OPERATIONS = 4002, 4102


class Service(Protocol):
    """What serves a scenario's pulls."""

    def start_middle(self, middle: Host) -> None: ...

    def start_node(self, node: Host) -> None: ...

    def ready(self, nodes: list[Host]) -> None: ...

    def mirror(self, node: Host) -> Mirror: ...


class Plain:
    """Nothing: clients ask the registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def start_middle(self, middle: Host) -> None:
        pass

    def start_node(self, node: Host) -> None:
        pass

    def ready(self, nodes: list[Host]) -> None:
        pass

    def mirror(self, node: Host) -> Mirror:
        return Mirror(self._registry.url, self._registry.address, self._registry.url)


class Darter:
    """Scheduler and seed on the middle host, a proxy on every node."""

    def __init__(self, binary: Path, daemons: Processes, registry: Registry, data: Path) -> None:
        self._binary, self._daemons, self._registry, self._data = str(binary), daemons, registry, data
        self.proxies: dict[str, Process] = {}

    def start_middle(self, middle: Host) -> None:
        self.scheduler = self._daemons.start(
            middle, "scheduler", "scheduler",
            [self._binary, "scheduler", "--insecure", "--listen", f"{MIDDLE}:{_SCHEDULER}",
             "--operations-listen", f"127.0.0.1:{SCHEDULER_OPERATIONS}", "--data", str(self._data / "scheduler")],
            ready="^ready",
        )
        # A proxy that finds no scheduler at first would begin alone.
        self.scheduler.wait_ready()
        self.seed = self._proxy(middle, "seed", "seed", "--seed")

    def start_node(self, node: Host) -> None:
        self.proxies[node.name] = self._proxy(node, f"proxy-{node.name}", "proxies")

    def _proxy(self, host: Host, name: str, kind: str, *more: str) -> Process:
        return self._daemons.start(
            host, name, kind,
            [self._binary, "proxy", *more, "--insecure", "--listen", f"127.0.0.1:{_MIRROR}",
             "--operations-listen", f"127.0.0.1:{OPERATIONS}", "--set", f'proxy.peer="{host.address}:{_PEER}"',
             "--set", f'proxy.name="{host.name}"', "--data", str(self._data / name),
             "--upstream", f"docker.io={self._registry.url}", "--scheduler", f"http://{MIDDLE}:{_SCHEDULER}"],
            ready="^ready",
        )

    def ready(self, nodes: list[Host]) -> None:
        pass  # their logs say so

    def mirror(self, node: Host) -> Mirror:
        address = f"127.0.0.1:{_MIRROR}"
        return Mirror(f"http://{address}", f"{address}/docker.io", self._registry.url)


class Rival:
    """Another mirror at a URL, and the commands that start it."""

    def __init__(
        self, url: str, middle: str | None, node: str | None, daemons: Processes, registry: Registry, data: Path
    ) -> None:
        self._url, self._middle, self._node = url, middle, node
        self._daemons, self._registry, self._data = daemons, registry, data

    def start_middle(self, middle: Host) -> None:
        self._start(middle, self._middle, "seed")

    def start_node(self, node: Host) -> None:
        self._start(node, self._node, "proxies")

    def _start(self, host: Host, command: str | None, kind: str) -> None:
        if command is None:
            return
        data = self._data / host.name
        data.mkdir(parents=True, exist_ok=True)
        environment = {**self._places(host), "LAB_DATA": str(data)}
        self._daemons.start(host, f"rival-{host.name}", kind, ["sh", "-c", command], environment=environment)

    def _places(self, host: Host) -> dict[str, str]:
        return {
            "LAB_HOST": host.name,
            "LAB_ADDRESS": host.address,
            "LAB_MIDDLE": MIDDLE,
            "LAB_REGISTRY": self._registry.url,
        }

    def ready(self, nodes: list[Host]) -> None:
        for node in nodes:
            where = urllib.parse.urlsplit(self.mirror(node).url)
            host, port = where.hostname or "", where.port or 80
            node.call(lambda: _await_port(host, port))

    def mirror(self, node: Host) -> Mirror:
        url = string.Template(self._url).safe_substitute(self._places(node))
        return Mirror(url, url.partition("://")[2], self._registry.url)


def _await_port(host: str, port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except OSError as failure:
            if time.monotonic() > deadline:
                raise NotReady(f"nobody listens on {host}:{port}: {failure}") from failure
            time.sleep(0.1)
