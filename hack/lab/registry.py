"""The registry: distribution on a host of its own, and what it has sent."""

from __future__ import annotations

import json
from pathlib import Path

from image import Image, push
from network import Host
from processes import Processes

PORT = 5000


class Registry:
    """Owns the process; its content outlives a stop."""

    def __init__(self, host: Host, directory: Path) -> None:
        self.host, self._directory = host, directory
        self.address = f"{host.address}:{PORT}"
        self.url = f"http://{self.address}"
        self._processes = Processes(directory / "logs")
        self._read, self._sent = 0, 0
        self.start()

    def start(self) -> None:
        """Starts it, again after a stop."""
        settings = self._directory / "registry.yml"
        settings.write_text(
            "version: 0.1\n"
            "log: {level: info, formatter: json, accesslog: {disabled: true}}\n"
            f"storage: {{filesystem: {{rootdirectory: {self._directory}/content}}}}\n"
            f"http: {{addr: '{self.address}'}}\n"
            "validation: {disabled: true}\n"
        )
        self.process = self._processes.start(
            self.host, f"registry-{len(self._processes.all)}", "registry",
            ["docker-registry", "serve", str(settings)], ready="listening on",
        )
        self._read = 0
        self.process.wait_ready()

    def stop(self) -> None:
        """Kills it; what it sent before still counts."""
        self.sent()
        self.process.kill()

    def push(self, tag: str, layers: int, layer_bytes: int) -> Image:
        """Puts a new image into it, from its own host."""
        return self.host.call(lambda: push(self.address, tag, layers, layer_bytes))

    def sent(self) -> int:
        """Bytes of blobs it has sent since it first started, by its own log."""
        with self.process.log.open("rb") as log:
            log.seek(self._read)
            new = log.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            if b'"GET"' in line and b"/blobs/" in line:
                self._sent += _written(line)
        return self._sent


def _written(line: bytes) -> int:
    try:
        entry = json.loads(line)
    except ValueError:
        return 0
    asked = entry.get("http.request.method") == "GET" and "/blobs/" in entry.get("http.request.uri", "")
    return int(entry.get("http.response.written", 0)) if asked else 0
