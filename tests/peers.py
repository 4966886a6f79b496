"""Other people's programs, started for a test: DCMTK, Orthanc, node. Missing means skip, and fail in CI."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

from pydicom import dcmread

from tests.postgres import missing

NODE_MODULES = "BROKER_TEST_NODE_MODULES"


def program(name):
    """Answer the path of a program; skip, or in CI fail, without it."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        missing(name)
    return found


def run(name, *args, timeout_s=240, check=True):
    """Run a peer to its end; answer the finished process with text output."""
    done = subprocess.run(
        [program(name), *map(str, args)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )
    if check:
        assert done.returncode == 0, f"{name} {args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def answers(port, timeout_s=60):
    """Wait until somebody listens."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            assert time.monotonic() < deadline, f"nobody listens on {port}"
            time.sleep(0.02)


@contextlib.contextmanager
def running(name, *args, port, cwd=None):
    """Run a peer that listens on a port while the block lasts."""
    process = subprocess.Popen(
        [program(name), *map(str, args)],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        answers(port)
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def storescp(folder, port, *args, ae_title="ARCHIVE"):
    """DCMTK's storage SCP, keeping what it gets in a folder."""
    folder.mkdir(exist_ok=True)
    with running("storescp", "-aet", ae_title, "-od", folder, "+B", "+xa", *args, port, port=port):
        yield


def findscu(port, *keys, calling="CT1", called="BROKER"):
    """Query a worklist; answer the identifiers as {keyword-like tag: value} dictionaries, in order."""
    arguments = [part for key in keys for part in ("-k", key)]
    done = run("findscu", "-v", "-W", "-aet", calling, "-aec", called, "127.0.0.1", port, *arguments)
    found = []
    for line in (done.stdout + done.stderr).splitlines():
        if "Find Response:" in line and "Pending" in line:
            found.append({})
        match = re.search(r"\((\w{4}),(\w{4})\) \w\w (?:\[(.*?)\s*\]|=(\w+))?", line)
        if match and found:
            found[-1].setdefault(f"{match[1]},{match[2]}".lower(), (match[3] or match[4] or "").rstrip("\0 "))
    return found


def node(script, *args, timeout_s=120):
    """Run a node program that uses the npm peers; answer the JSON it prints."""
    modules = os.environ.get(NODE_MODULES)
    if not modules or not all((Path(modules) / name).is_dir() for name in ("dcmjs-dimse", "node-hl7-client")):
        missing(f"dcmjs-dimse and node-hl7-client ({NODE_MODULES})")
    done = subprocess.run(
        [program("node"), str(script), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, "NODE_PATH": modules},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def data_set_bytes(path):
    """Answer the bytes of a Part 10 file behind its meta information, and its transfer syntax."""
    content = Path(path).read_bytes()
    length = int.from_bytes(content[140:144], "little")
    meta = dcmread(path, specific_tags=[], stop_before_pixels=True).file_meta
    return content[144 + length :], meta.TransferSyntaxUID


class MllpSink:
    """A RIS that takes status messages: keeps each and answers AA, or what it is told."""

    def __init__(self, port=0, code="AA", text=""):
        self.code = code
        self.text = f"|{text}" if text else ""
        self.messages = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        pending = b""
        with connection, contextlib.suppress(ConnectionError):  # a broker that is killed says no goodbye
            while data := connection.recv(65536):
                pending += data
                while b"\x1c\r" in pending:
                    frame, _, pending = pending.partition(b"\x1c\r")
                    message = frame.lstrip(b"\x0b").decode("latin-1")
                    self.messages.append(message)
                    header = message.split("\r")[0].split("|")
                    answer = f"MSH|^~\\&|{header[4]}|{header[5]}|{header[2]}|{header[3]}|20261121||ACK|A{len(self.messages)}|P|2.5.1\rMSA|{self.code}|{header[9]}{self.text}\r"
                    connection.sendall(b"\x0b" + answer.encode() + b"\x1c\r")

    def close(self):
        self._listener.close()
