"""Runs the product as its users do: `broker serve` in a process, with a site file of the test's own."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from tests.ports import free_port

BROKER = Path(sys.executable).with_name("broker")
START_S = 120.0
ROOT = Path(__file__).parents[1]
ADMIN, PASSWORD = "tester", "one lamp, two doors"


def wait_until(condition, *, timeout_s=60.0, what="it"):
    """Return the first true answer of `condition`; fail when none comes in time."""
    deadline = time.monotonic() + timeout_s
    pause = iter((0.01, 0.02, 0.05))
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s} s"
        time.sleep(next(pause, 0.1))


@dataclass
class RunningBroker:
    """A running `broker serve`."""

    folder: Path
    site: dict
    environment: dict = field(default_factory=dict)
    process: subprocess.Popen | None = None
    cookie: str = ""
    """Of the session of an admin, once `sign_in` has made one."""

    def __post_init__(self):
        self.hl7, self.dicom, self.web = free_port(), free_port(), free_port()
        listen = self.site.setdefault("listen", {})
        listen.setdefault("hl7", {})["port"] = self.hl7
        listen.setdefault("dicom", {})["port"] = self.dicom
        listen.setdefault("web", {})["port"] = self.web
        self.config = self.folder / "broker.yaml"
        self.data_dir = self.folder / "data"
        self.config.write_text(json.dumps(self.site))  # JSON is YAML
        self.log = self.folder / "broker.log"

    @property
    def env(self):
        return {**os.environ, **self.environment}

    def launch(self):
        """Start it and wait for nothing."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [BROKER, "serve", "--config", self.config, "--data-dir", self.data_dir],
                stdout=log,
                stderr=log,
                env=self.env,
                cwd=ROOT,
            )

    def start(self):
        self.launch()
        wait_until(self.healthy, timeout_s=START_S, what="healthy start")
        return self

    def healthy(self):
        if self.process and self.process.poll() is not None:
            raise AssertionError(f"serve ended with {self.process.returncode}:\n{self.tail()}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.web, timeout=5)
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                return self.process.wait(35)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        return self.process.returncode if self.process else None

    def kill(self):
        """SIGKILL all processes of `serve` as one: none may see another die first and end in order."""
        import psutil

        serve = psutil.Process(self.process.pid)
        family = [serve, *serve.children(recursive=True)]
        for number, order in ((signal.SIGSTOP, family), (signal.SIGKILL, family[::-1])):
            for process in order:
                with contextlib.suppress(psutil.NoSuchProcess):  # one that was at its own end
                    process.send_signal(number)
        self.process.wait()
        psutil.wait_procs(family, timeout=10)

    @property
    def database_url(self):
        """Address of its database, for tests that look at rows."""
        return self.environment.get("BROKER_DATABASE_URL") or f"sqlite:///{self.data_dir / 'broker.sqlite3'}"

    def tail(self, lines=60):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def cli(self, *args, check=True):
        """Run a command beside `serve` and answer what it printed."""
        done = subprocess.run(
            [BROKER, *map(str, args), "--config", self.config, "--data-dir", self.data_dir],
            capture_output=True,
            text=True,
            check=False,
            env=self.env,
            cwd=ROOT,
            timeout=120,
        )
        if check:
            assert done.returncode == 0, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *args):
        return json.loads(self.cli(*args, "--json"))

    def sign_in(self):
        """Make the first account by the real form, or sign in with it; answer the cookie of the session."""
        if not self.cookie or self._get("/api/destinations")[0] == 401:
            is_first = (self.data_dir / "first-run-token").exists()
            where, fields = "/sign-in", {"name": ADMIN, "password": PASSWORD}
            if is_first:
                token = (self.data_dir / "first-run-token").read_text().strip()
                where, fields = "/first-run", {**fields, "token": token, "again": PASSWORD}
            _, head, page = self._get(where)
            secret = re.search(rb'name="csrf" value="([^"]+)"', page)[1].decode()
            body = urlencode({"csrf": secret, **fields})
            headers = {
                "Content-Type": "application/x-www-form-urlencoded",
                "Cookie": head.get("Set-Cookie", "").partition(";")[0],
            }
            status, head, page = self._ask("POST", where, body, headers)
            assert status == 303, page
            cookies = [value.partition(";")[0] for value in head.get_all("Set-Cookie")]
            self.cookie = next(value for value in cookies if value.startswith("broker_session="))
        return self.cookie

    def browser_cookies(self):
        """Answer the cookies of somebody who has signed in, as Playwright takes them."""
        name, _, value = self.sign_in().partition("=")
        return [{"name": name, "value": value, "domain": "127.0.0.1", "path": "/", "httpOnly": True}]

    def _get(self, path):
        return self._ask("GET", path, None, {"Cookie": self.cookie} if self.cookie else {})

    def _ask(self, method, path, body, headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.web, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def api(self, path):
        """Answer a list of the JSON API: faster than a command."""
        if not self.cookie:
            self.sign_in()
        status, _, body = self._get(f"/api/{path}")
        if status == 401:  # the session has run out
            self.sign_in()
            status, _, body = self._get(f"/api/{path}")
        assert status == 200, body
        return json.loads(body)

    def search(self, noun, text):
        """Answer what a list of the JSON API holds of a patient, accession number or UID: asked in a body, never a URL."""
        self.sign_in()
        page = self._get("/account")[2]
        headers = {
            "Content-Type": "application/json",
            "Cookie": self.cookie,
            "X-CSRF-Token": re.search(rb'name="csrf" value="([^"]+)"', page)[1].decode(),
        }
        status, _, body = self._ask("POST", f"/api/{noun}/search", json.dumps({"q": text}), headers)
        assert status == 200, body
        return json.loads(body)

    def pids(self, role):
        """Answer the processes of a role from the heartbeats."""
        import psutil

        family = psutil.Process(self.process.pid).children(recursive=True)
        found = [
            line for line in self.log.read_text(errors="replace").splitlines() if '"role started"' in line
        ]
        wanted = {json.loads(line)["child"] for line in found if json.loads(line)["started_role"] == role}
        return [child.pid for child in family if child.pid in wanted]
