"""The clients a node may pull with.

A client turns (node, mirror, image) into one command; what it needs beside it, a containerd
of the node's own, is started in `prepare`. All of a node's files are in its directory, so
that a fresh directory is a fresh node.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from image import Image
from network import Host
from processes import Processes

_HERE = Path(__file__).parent
# Of `chunks`: bytes of one, and how many at the same time.
_CHUNK, _CHUNKS = 8 << 20, 8


@dataclass(frozen=True)
class Mirror:
    """What a client asks: a URL, and the same as containers/image writes it."""

    url: str
    location: str
    registry: str


@dataclass
class Errand:
    """A pull that is ready to begin."""

    host: Host
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


class Client(Protocol):
    """One way to pull."""

    needs: list[str]

    def prepare(self, daemons: Processes, host: Host, directory: Path, mirror: Mirror) -> None:
        """Makes `host` ready; waiting for the daemons is the caller's."""

    def errand(self, host: Host, directory: Path, mirror: Mirror, image: Image) -> Errand:
        """The pull itself."""


class Containerd:
    """Clients that pull into (or with) a containerd through hosts.toml."""

    def __init__(self, command: str) -> None:
        self.command = command
        tools = {"cri": [], "chunks": ["ctr"]}
        self.needs = ["containerd", *tools.get(command, [command])]

    def prepare(self, daemons: Processes, host: Host, directory: Path, mirror: Mirror) -> None:
        hosts = directory / "certs.d/docker.io"
        hosts.mkdir(parents=True)
        (hosts / "hosts.toml").write_text(
            f'server = "{mirror.registry}"\n[host."{mirror.url}"]\ncapabilities = ["pull", "resolve"]\n'
        )
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        lines = [
            "version = 2",
            f'root = "{directory}/root"',
            f'state = "{directory}/state"',
            "" if self.command == "cri" else 'disabled_plugins = ["io.containerd.grpc.v1.cri"]',
            f'[grpc]\naddress = "{directory}/sock"',
            f'[ttrpc]\naddress = "{directory}/ttrpc"',
            f'[plugins."io.containerd.internal.v1.opt"]\npath = "{directory}/opt"',
            # Its socket lies in one place for all containerds of a machine.
            '[plugins."io.containerd.nri.v1.nri"]\ndisable = true',
        ]
        if self.command == "cri":
            lines += [
                f'[{cri}]\nenable_selinux = false\nstream_server_port = "0"\ndisable_tcp_service = true',
                f'[{cri}.containerd]\nsnapshotter = "native"',
                f'[{cri}.registry]\nconfig_path = "{directory}/certs.d"',
            ]
        if self.command == "chunks":
            transfer = 'plugins."io.containerd.transfer.v1.local"'
            lines += [
                f"[{transfer}]\nconcurrent_layer_fetch_buffer = {_CHUNK}\nmax_concurrent_downloads = {_CHUNKS}",
                f'[[{transfer}.unpack_config]]\nplatform = "linux"\nsnapshotter = "native"',
            ]
        (directory / "config.toml").write_text("\n".join(lines) + "\n")
        # A node that is emptied gets another containerd: the number tells their logs apart.
        number = sum(process.kind == "containerd" and process.host == host.name for process in daemons.all)
        name = f"containerd-{host.name}" + (f"-{number}" if number else "")
        command = ["containerd", "--config", str(directory / "config.toml")]
        daemons.start(host, name, "containerd", command, ready="successfully booted")

    def errand(self, host: Host, directory: Path, mirror: Mirror, image: Image) -> Errand:
        socket, hosts = f"{directory}/sock", f"{directory}/certs.d"
        commands = {
            "ctr": ["ctr", "--address", socket, "content", "fetch", "--hosts-dir", hosts, image.name],
            "chunks": ["ctr", "--address", socket, "images", "pull", "--snapshotter", "native", "--hosts-dir", hosts, image.name],
            "nerdctl": ["nerdctl", "--address", socket, "--hosts-dir", hosts, "pull", "--quiet", "--unpack=false", image.name],
            "cri": [sys.executable, str(_HERE / "cri_pull.py"), socket, image.name],
        }
        return Errand(host, commands[self.command])


class Curl:
    """No client at all: manifest by tag, then blobs by curl, each hashed."""

    needs = ["curl", "sha256sum"]

    def prepare(self, daemons: Processes, host: Host, directory: Path, mirror: Mirror) -> None:
        directory.mkdir(parents=True)

    def errand(self, host: Host, directory: Path, mirror: Mirror, image: Image) -> Errand:
        return Errand(host, ["bash", str(_HERE / "pull-curl.sh"), str(directory), mirror.url, image.tag])


class ContainersImage:
    """podman and skopeo, by registries.conf; the registry itself is no fallback."""

    def __init__(self, command: str) -> None:
        self.command, self.needs = command, [command]

    def prepare(self, daemons: Processes, host: Host, directory: Path, mirror: Mirror) -> None:
        directory.mkdir(parents=True)
        (directory / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        (directory / "registries.conf").write_text(
            'short-name-mode = "disabled"\n[[registry]]\nprefix = "docker.io"\nlocation = "127.0.0.1:1"\n'
            f'insecure = true\n[[registry.mirror]]\nlocation = "{mirror.location}"\ninsecure = true\n'
        )

    def errand(self, host: Host, directory: Path, mirror: Mirror, image: Image) -> Errand:
        at, policy = str(directory), f"{directory}/policy.json"
        if self.command == "skopeo":
            copy = ["copy", f"docker://{image.name}", f"dir:{at}/image"]
            command = ["skopeo", "--registries-conf", f"{at}/registries.conf", "--policy", policy, *copy]
        else:
            stores = ["--root", f"{at}/root", "--runroot", f"{at}/run", "--storage-driver", "vfs"]
            quiet = ["--cgroup-manager", "cgroupfs", "--events-backend", "file"]
            command = ["podman", *stores, *quiet, "pull", "--quiet", "--signature-policy", policy, image.name]
        environment = {"XDG_RUNTIME_DIR": at, "HOME": at, "TMPDIR": at}
        environment["CONTAINERS_REGISTRIES_CONF"] = f"{at}/registries.conf"
        return Errand(host, command, environment)


class Command:
    """Any command, by a shell; the variables LAB_... say where it is and what to pull."""

    needs: list[str] = []

    def __init__(self, command: str) -> None:
        self.command = command
        self.needs = shlex.split(command)[:1]

    def prepare(self, daemons: Processes, host: Host, directory: Path, mirror: Mirror) -> None:
        directory.mkdir(parents=True)

    def errand(self, host: Host, directory: Path, mirror: Mirror, image: Image) -> Errand:
        environment = {
            "LAB_HOST": host.name,
            "LAB_ADDRESS": host.address,
            "LAB_DIRECTORY": str(directory),
            "LAB_MIRROR": mirror.url,
            "LAB_REGISTRY": mirror.registry,
            "LAB_IMAGE": image.name,
            "LAB_TAG": image.tag,
        }
        return Errand(host, ["sh", "-c", self.command], environment)


def client(name: str) -> Client:
    """The client called `name`; what is none of them is a command."""
    if name in ("ctr", "chunks", "nerdctl", "cri"):
        return Containerd(name)
    if name in ("podman", "skopeo"):
        return ContainersImage(name)
    return Curl() if name == "curl" else Command(name)
