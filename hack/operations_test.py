"""What people run beside Darter: its dashboard and rules name metrics that there are, and its
Compose file, Dockerfile and systemd unit are what their readers and the binary itself take.

    DARTER_BIN=target/debug/darter python3 -B -m unittest operations_test     (in hack)

What needs docker-compose, systemd or PyYAML is skipped without them, and says so.
"""

import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.request
from pathlib import Path

try:
    import yaml
except ImportError:
    yaml = None

HACK = Path(__file__).resolve().parent
DARTER = Path(os.environ.get("DARTER_BIN", HACK / "../target/debug/darter")).resolve()
# Seconds; docker-compose alone takes a dozen of a processor.
LIMIT = 240
BLOB = b"a layer of some bytes" * 1000
DIGEST = "sha256:" + hashlib.sha256(BLOB).hexdigest()


class Registry(http.server.BaseHTTPRequestHandler):
    """Has one blob, in every repository."""

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        has = self.path == "/v2/" or self.path.endswith(DIGEST)
        text = BLOB if self.path.endswith(DIGEST) else b"{}"
        self.send_response(200 if has else 404)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        if body:
            self.wfile.write(text)

    def log_message(self, *_):
        pass


def get(url):
    with urllib.request.urlopen(url, timeout=LIMIT) as reply:
        return reply.read()


def metrics_in(text):
    return set(re.findall(r"\bdarter_[a-z0-9_]+", text))


class Standalone:
    """All parts in one process."""

    def __enter__(self):
        self.data = tempfile.TemporaryDirectory()
        self.registry = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
        threading.Thread(target=self.registry.serve_forever, daemon=True).start()
        upstream = "docker.io=http://127.0.0.1:%d" % self.registry.server_port
        command = [DARTER, "standalone", "--data", self.data.name, "--upstream", upstream]
        command += ["--listen", "127.0.0.1:0", "--operations-listen", "127.0.0.1:0"]
        for key in ["proxy.peer", "scheduler.listen", "manager.listen", "manager.grpc"]:
            command += ["--set", key + "=127.0.0.1:0"]
        self.log = Path(self.data.name) / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + LIMIT
        while not (ready := re.search(r"^ready (.*)$", self.log.read_text(), re.M)):
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.__exit__()
                raise AssertionError("it does not become ready")
            time.sleep(0.05)
        self.addresses = dict(part.split("=") for part in ready[1].split())
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.registry.shutdown()
        self.registry.server_close()
        self.data.cleanup()


class Metrics(unittest.TestCase):
    def test_dashboard_and_rules_name_metrics_that_there_are(self):
        with Standalone() as parts:
            # What happens by labels is not shown before it happens.
            mirror = "http://%s/v2/library/app/blobs/%s?ns=docker.io"
            self.assertEqual(get(mirror % (parts.addresses["mirror"], DIGEST)), BLOB)
            get("http://%s/api/v1/jobs" % parts.addresses["manager"])
            deadline = time.monotonic() + LIMIT
            while True:
                known = metrics_in(get("http://%s/metrics" % parts.addresses["operations"]).decode())
                unknown = {
                    file: sorted(metrics_in((HACK / file).read_text()) - known)
                    for file in ["grafana/dashboard.json", "grafana/rules.yaml"]
                }
                if not any(unknown.values()) or time.monotonic() > deadline:
                    break
                time.sleep(0.2)
        self.assertEqual(unknown, {"grafana/dashboard.json": [], "grafana/rules.yaml": []})

    def test_each_panel_is_its_own(self):
        panels = json.loads((HACK / "grafana/dashboard.json").read_text())["panels"]
        self.assertEqual(len({panel["id"] for panel in panels}), len(panels))
        asked = [target["expr"] for panel in panels for target in panel.get("targets", [])]
        self.assertTrue(all(metrics_in(expression) for expression in asked))

    @unittest.skipUnless(yaml, "PyYAML is not installed")
    def test_each_rule_says_what_is_wrong(self):
        (group,) = yaml.safe_load((HACK / "grafana/rules.yaml").read_text())["groups"]
        for rule in group["rules"]:
            self.assertTrue(metrics_in(rule["expr"]), rule)
            self.assertTrue("record" in rule or rule["annotations"]["summary"], rule)


class Compose(unittest.TestCase):
    FILE = HACK / "compose/compose.yaml"

    @unittest.skipUnless(shutil.which("docker-compose"), "docker-compose is not installed")
    def test_docker_compose_takes_it(self):
        command = ["docker-compose", "--file", self.FILE, "config", "--quiet"]
        checked = subprocess.run(command, capture_output=True, timeout=LIMIT)
        self.assertEqual(checked.returncode, 0, checked.stderr)

    @unittest.skipUnless(yaml, "PyYAML is not installed")
    def test_darter_takes_every_command(self):
        services = yaml.safe_load(self.FILE.read_text())["services"]
        ours = {name: one for name, one in services.items() if "command" in one}
        self.assertEqual(set(ours), {"manager", "scheduler", "seed", "peer1", "peer2"})
        for name, service in ours.items():
            # One mistake is made on purpose, so that nothing starts: it has to be the only one.
            command = [DARTER, *service["command"], "--set", "nonsense.key=1"]
            started = subprocess.run(
                command,
                capture_output=True,
                env={**os.environ, **service["environment"]},
                stdin=subprocess.DEVNULL,
                timeout=LIMIT,
            )
            self.assertEqual(started.returncode, 2, (name, started.stderr))
            self.assertIn(b"has 1 mistake(s)", started.stderr, name)

    def test_the_dockerfile_builds_what_it_copies_and_drops_root(self):
        text = (HACK / "compose/Dockerfile").read_text()
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        known = {"FROM", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "ENTRYPOINT", "&&"}
        self.assertEqual({line.split()[0] for line in lines} - known, set())
        self.assertIn("COPY --from=build /source/target/release/darter", text)
        self.assertRegex(text, r"FROM \S+ AS build\n")
        words = [line.split()[0] for line in lines]
        last = len(words) - 1 - words[::-1].index("RUN")
        self.assertGreater(words.index("USER"), last, "root does no more than install")
        entry = json.loads(lines[words.index("ENTRYPOINT")].split(" ", 1)[1])
        self.assertEqual(entry, ["/usr/local/bin/darter"])



class Systemd(unittest.TestCase):
    FILE = HACK / "systemd/darter.service"

    def command(self):
        (command,) = re.findall(r"^ExecStart=(.*)$", self.FILE.read_text(), re.M)
        binary, *rest = command.split()
        self.assertEqual(binary, "/usr/local/bin/darter")
        return rest

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd is not installed")
    def test_systemd_takes_it(self):
        with tempfile.TemporaryDirectory() as root:
            unit = Path(root) / "darter.service"
            unit.write_text(self.FILE.read_text().replace("/usr/local/bin/darter", str(DARTER)))
            command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit]
            checked = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
        about = [line for line in checked.stderr.splitlines() if "darter.service" in line]
        self.assertEqual((checked.returncode, about), (0, []), checked.stderr)

    def test_darter_takes_its_command(self):
        with tempfile.TemporaryDirectory() as root:
            config = Path(root) / "config.toml"
            config.write_text("[nonsense]\nkey = 1\n")
            command = self.command()
            command = [DARTER] + [str(config) if "/etc/" in part else part for part in command]
            started = subprocess.run(
                command, capture_output=True, stdin=subprocess.DEVNULL, timeout=LIMIT
            )
        # One mistake is made on purpose, so that nothing starts: it has to be the only one.
        self.assertEqual(started.returncode, 2, started.stderr)
        self.assertIn(b"has 1 mistake(s)", started.stderr)


if __name__ == "__main__":
    unittest.main()
