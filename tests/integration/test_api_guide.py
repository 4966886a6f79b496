"""The examples of docs/api.md are run as they stand, against a real server."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from broker.web_server import WebServer
from tests.api_site import api_site
from tests.peers import program

pytestmark = [pytest.mark.peer, pytest.mark.timeout(180)]
GUIDE = (Path(__file__).parents[2] / "docs/api.md").read_text()


@pytest.fixture
def served(tmp_path, sqlite_template):
    with api_site(tmp_path, sqlite_template) as broker:
        server = WebServer(broker)
        server.start()
        yield broker
        server.stop(10)


def examples():
    """Answer the commands of the guide, each with what it prints."""
    for block in re.findall(r"```console\n(.*?)```", GUIDE, re.DOTALL):
        for example in block.removeprefix("$ ").split("\n$ "):
            command, _, printed = example.partition("\n")
            yield command, printed.strip()


def test_every_example_of_the_guide_prints_what_stands_there(served, tmp_path):
    for name in ("curl", "jq"):
        program(name)
    (preparation,) = re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)
    port = served.loaded.site.listen.web.port
    script = [preparation.replace("127.0.0.1:8080", f"127.0.0.1:{port}")]
    told = list(examples())
    for command, _ in told:
        script.append(f"{command}\nprintf '\\n--8<--\\n'")
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "BROKER_CONFIG": str(served.loaded.path),
        "BROKER_DATA_DIR": str(served.data_dir),
    }
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    printed = [part.replace("\r", "").strip() for part in done.stdout.split("--8<--")[:-1]]
    assert len(printed) == len(told), done.stdout + done.stderr
    for (command, expected), found in zip(told, printed, strict=True):
        pattern = re.escape(expected).replace("…", ".+")
        assert re.fullmatch(pattern, found), f"$ {command}\n{found}\n{done.stderr}"
