"""The wires: one bridge, and for each host a namespace, a veth pair and a shaper on both ends.

Owns all links. Links have the kernel's default offloads: a frame on a wire here may be a
64 KiB segment, and tbf counts it with the headers its parts would have. The bridge stands in
the lab's own network namespace, where frames pass no netfilter, whatever the machine's
`bridge-nf-call-iptables` says (the setting of a bridge can only add to it, not take away).
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, TypeVar

from sandbox import enter_network

PREFIX = "10.77.0"
REGISTRY, MIDDLE = f"{PREFIX}.2", f"{PREFIX}.3"
MOST_NODES = 200
# A queue holds 50 ms of bytes; a burst is two segments of 64 KiB, 0.13 % of 100 MB.
_SHAPER = ["burst", "128kb", "latency", "50ms"]
_ANSWER = TypeVar("_ANSWER")


def node_address(number: int) -> str:
    """The address of node `number`, from 1."""
    return f"{PREFIX}.{10 + number}"


@dataclass(frozen=True)
class Host:
    """A namespace on the bridge; its name is also its port's."""

    name: str
    address: str
    mbit: float

    def command(self, *command: str) -> list[str]:
        """`command`, run on this host. The process is the command's own, by exec."""
        return ["ip", "netns", "exec", self.name, *command]

    def call(self, work: Callable[[], _ANSWER]) -> _ANSWER:
        """Runs `work` in a thread whose sockets are this host's."""
        answers: list[_ANSWER] = []
        failures: list[BaseException] = []

        def inside() -> None:
            try:
                enter_network(f"/run/netns/{self.name}")
                answers.append(work())
            except BaseException as failure:
                failures.append(failure)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]
        return answers[0]


class Network:
    """The bridge and its hosts."""

    def __init__(self, congestion: str) -> None:
        self.congestion = congestion
        for setting in Path("/proc/sys/net/bridge").glob("bridge-nf-call-*"):
            setting.write_text("0")
        _run("ip", "link", "add", "switch", "type", "bridge")
        _run("ip", "link", "set", "switch", "up")

    def add(self, name: str, address: str, mbit: float) -> Host:
        """A host whose link carries `mbit` Mbit/s each way."""
        host = Host(name, address, mbit)
        shaper = ["root", "tbf", "rate", f"{int(mbit * 1e6)}bit", *_SHAPER]
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", name, "master", "switch", "up")
        for link in ("lo", "eth0"):
            _run("ip", "-n", name, "link", "set", link, "up")
        _run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        _run("tc", "qdisc", "add", "dev", name, *shaper)
        _run("tc", "-n", name, "qdisc", "add", "dev", "eth0", *shaper)
        self._set_congestion(name, address)
        return host

    def _set_congestion(self, name: str, address: str) -> None:
        """By route, loopback's too: a namespace's own default may only be one that the whole machine allows."""
        local = ["table", "local", "proto", "kernel", "scope", "host", "src"]
        for route in (
            [f"{PREFIX}.0/24", "dev", "eth0", "proto", "kernel", "scope", "link", "src", address],
            ["local", address, "dev", "eth0", *local, address],
            ["local", "127.0.0.0/8", "dev", "lo", *local, "127.0.0.1"],
            ["local", "127.0.0.1", "dev", "lo", *local, "127.0.0.1"],
        ):
            _run("ip", "-n", name, "route", "replace", *route, "congctl", self.congestion)


@dataclass(frozen=True)
class Carried:
    """Bytes on a host's wire since it was made; of a segment's headers only the first are counted."""

    to_host: int
    from_host: int


def counters() -> dict[str, Carried]:
    """What each host's wire has carried, read at the switch."""
    carried = {}
    for line in Path("/proc/net/dev").read_text().splitlines()[2:]:
        name, _, numbers = line.partition(":")
        fields = numbers.split()
        carried[name.strip()] = Carried(to_host=int(fields[8]), from_host=int(fields[0]))
    return carried


def offloads(port: str) -> dict[str, bool]:
    """Which offloads a port has (linux/ethtool.h: ETHTOOL_GTSO, GGSO, GGRO)."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for name, what in (("tso", 0x1E), ("gso", 0x23), ("gro", 0x2B)):
            value = bytearray(struct.pack("II", what, 0))
            buffer = (ctypes.c_char * len(value)).from_buffer(value)
            request = struct.pack("16sP", port.encode(), ctypes.addressof(buffer))
            fcntl.ioctl(control, 0x8946, request)
            found[name] = struct.unpack("II", bytes(buffer))[1] != 0
    return found


def _run(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
