"""Images to pull: random layers, pushed into the lab's registry."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import tarfile
from dataclasses import dataclass

REPOSITORY = "library/app"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
# A tar's header and its two empty blocks.
_AROUND = 512 + 1024


@dataclass(frozen=True)
class Image:
    """What was pushed; `bytes` are those of its layers, `blobs` digests and sizes of all."""

    tag: str
    layers: int
    bytes: int
    blobs: tuple[tuple[str, int], ...] = ()

    @property
    def name(self) -> str:
        return f"docker.io/{REPOSITORY}:{self.tag}"


def push(registry: str, tag: str, layers: int, layer_bytes: int) -> Image:
    """Makes an image of `layers` layers and pushes it to `registry` (host:port).

    To be called on a host that reaches the registry. Raises RuntimeError if it refuses."""
    connection = http.client.HTTPConnection(registry, timeout=60)
    try:
        described, total = [], 0
        for number in range(layers):
            content = _layer(f"data-{number}", layer_bytes)
            described.append({"mediaType": _LAYER, "digest": _blob(connection, content), "size": len(content)})
            total += len(content)
        digests = [layer["digest"] for layer in described]
        rootfs = {"type": "layers", "diff_ids": digests}
        config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode()
        described_config = {"mediaType": _CONFIG, "digest": _blob(connection, config), "size": len(config)}
        manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": described_config, "layers": described}
        path = f"/v2/{REPOSITORY}/manifests/{tag}"
        _ask(connection, "PUT", path, json.dumps(manifest).encode(), _MANIFEST)
        blobs = tuple((blob["digest"], blob["size"]) for blob in [described_config, *described])
        return Image(tag, layers, total, blobs)
    finally:
        connection.close()


def _layer(name: str, length: int) -> bytes:
    """A tar of one random file, of `length` bytes in whole blocks."""
    content = max(512, (length - _AROUND) // 512 * 512)
    entry = tarfile.TarInfo(name)
    entry.size = content
    return entry.tobuf(tarfile.USTAR_FORMAT) + os.urandom(content) + bytes(1024)


def _blob(connection: http.client.HTTPConnection, content: bytes) -> str:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    location = _ask(connection, "POST", f"/v2/{REPOSITORY}/blobs/uploads/", b"", None)
    path = location[location.index("/v2/") :]
    _ask(connection, "PUT", f"{path}&digest={digest}", content, "application/octet-stream")
    return digest


def _ask(connection: http.client.HTTPConnection, method: str, path: str, body: bytes, kind: str | None) -> str:
    connection.request(method, path, body=body, headers={"Content-Type": kind} if kind else {})
    reply = connection.getresponse()
    said = reply.read()
    if reply.status not in (201, 202):
        raise RuntimeError(f"{method} {path}: {reply.status} {said[:200]!r}")
    return reply.getheader("Location", "")
