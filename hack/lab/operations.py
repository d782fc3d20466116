"""The operations ports of Darter's parts, asked from the host they are on."""

from __future__ import annotations

import http.client
import json
import re

from network import Host


def ask(host: Host, port: int, method: str, path: str, body: object = None) -> tuple[int, str]:
    """One request; status and text. Raises OSError when nobody answers."""

    def inside() -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            sent = None if body is None else json.dumps(body).encode()
            connection.request(method, path, body=sent, headers={"Content-Type": "application/json"} if sent else {})
            reply = connection.getresponse()
            return reply.status, reply.read().decode(errors="replace")
        finally:
            connection.close()

    return host.call(inside)


def metrics(host: Host, port: int) -> str:
    """`/metrics`, as text."""
    return ask(host, port, "GET", "/metrics")[1]


def total(text: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    found = 0.0
    for match in re.finditer(rf"^{re.escape(name)}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE):
        if all(f'{key}="{value}"' in (match.group(1) or "") for key, value in labels.items()):
            found += float(match.group(2))
    return found
