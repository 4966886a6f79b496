"""Every way to run it: each role a process of its own on PostgreSQL and Redis, and everything in one command."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import hl7.client
import psutil
import pytest
from ruamel.yaml import YAML
from sqlalchemy.engine import make_url

from broker.dicom_role import echo
from broker.queue import embedded_socket
from broker.valkey import EmbeddedValkey
from tests.broker_process import BROKER, ROOT, RunningBroker, wait_until
from tests.journeys.hl7_orders import orm
from tests.journeys.images import an_image
from tests.peers import findscu, run
from tests.ports import free_port
from tests.postgres import administer

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(400)]
STOP_S = 30.0
IDLE_MIB = 400
_numbers = count(1)


def site_of(hung_port=9, **listen):
    return {
        "site": {"ae_title": "BROKER"},
        "listen": listen,
        "devices": [{"ae_title": "CT1", "modality": "CT"}],
        "destinations": {
            "copies": {"kind": "folder", "path": "copies"},
            "hung": {"kind": "dicom", "host": "127.0.0.1", "port": hung_port, "called_ae_title": "HUNG"},
        },
        "routes": [
            {"name": "all", "when": {"Modality": "CT"}, "send": ["copies"]},
            {"name": "into-silence", "when": {"Modality": "MR"}, "send": ["hung"], "unit": "instance"},
        ],
    }


def stop(process):
    """SIGTERM; answer the exit code and how long it took."""
    began_s = time.monotonic()
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_S), time.monotonic() - began_s
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


# ---- each role a process of its own --------------------------------------------------------------------


class Topology:
    """The services of docker-compose.yml as plain processes of this machine."""

    def __init__(self, folder, environment, site):
        self.folder = folder
        self.config = folder / "broker.yaml"
        self.config.write_text(json.dumps(site))
        self.env = {
            **os.environ,
            **environment,
            "PATH": f"{BROKER.parent}{os.pathsep}{os.environ['PATH']}",
            "BROKER_CONFIG": str(self.config),
            "BROKER_DATA_DIR": str(folder / "data"),
        }
        compose = YAML(typ="safe").load((ROOT / "docker-compose.yml").read_text())["services"]
        self._commands = {
            name: [*service.get("entrypoint", ["broker"]), *service["command"]]
            for name, service in compose.items()
            if name not in {"postgres", "redis"}
        }
        self.processes = {}

    def command(self, name):
        return self._commands.get(name, ["broker", "run", name])

    def finish(self, *command):
        return subprocess.run(
            command, env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False
        )

    def start(self, name, role):
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                self.command(role), env=self.env, cwd=self.folder, stdout=log, stderr=log
            )

    def logs(self):
        return "\n".join(f"== {p.name}\n{p.read_text()[-2000:]}" for p in sorted(self.folder.glob("*.log")))


@pytest.fixture(scope="module")
def topology(postgres, redis, tmp_path_factory):
    name = f"topology_{os.getpid()}_{next(_numbers)}"
    administer(postgres, f"CREATE DATABASE {name}")
    folder = tmp_path_factory.mktemp("t")
    listen = {
        "hl7": {"port": free_port()},
        "dicom": {"port": free_port(), "processes": 2},
        "storage": {"port": free_port()},
        "web": {"port": free_port()},
    }
    environment = {
        "BROKER_DATABASE_URL": make_url(postgres).set(database=name).render_as_string(hide_password=False),
        "BROKER_REDIS_URL": redis,
    }
    topology = Topology(folder, environment, site_of(**listen))
    topology.ports = {role: settings["port"] for role, settings in listen.items()}
    yield topology
    for process in topology.processes.values():
        if process.poll() is None:
            process.kill()
            process.wait()
    administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.postgres
def test_every_role_runs_in_a_process_of_its_own_and_ends_in_order(topology, tmp_path):
    early = topology.finish("broker", "run", "hl7")
    assert early.returncode == 1
    assert "broker db migrate" in early.stderr
    migrated = topology.finish(*topology.command("migrate"))
    assert migrated.returncode == 0, migrated.stderr
    roles = {"hl7": "hl7", "dicom": "dicom", "dicom2": "dicom", "storage": "storage"}
    for name, role in {**roles, "worker": "worker", "sweep": "sweep", "web": "web"}.items():
        topology.start(name, role)

    def healthy():
        ended = {name: p.poll() for name, p in topology.processes.items() if p.poll() is not None}
        assert not ended, f"{ended}\n{topology.logs()}"
        return answers_well(topology.ports["web"])

    wait_until(healthy, timeout_s=60, what="health")
    wait_until(lambda: topology.finish("broker", "health").returncode == 0, what="health by the command line")
    ports = topology.ports
    wait_until(lambda: connections_to_both(topology), what="both listeners on one port")

    with hl7.client.MLLPClient("127.0.0.1", ports["hl7"]) as client:
        assert b"MSA|AA|" in client.send_message(orm(accession="T1", patient_id="PT1"))
    (entry,) = findscu(ports["dicom"], "0008,0050=T1", "0020,000D", "0010,0020")
    path, ds = an_image(tmp_path, StudyInstanceUID=entry["0020,000d"], AccessionNumber="T1", PatientID="PT1")
    run("storescu", "-aet", "CT1", "-aec", "BROKER", "127.0.0.1", ports["storage"], path)
    copies = topology.folder / "data" / "copies"
    wait_until(lambda: [p for p in copies.rglob("*") if ds.SOPInstanceUID in p.name], what="delivery")

    for name, process in topology.processes.items():
        code, took_s = stop(process)
        assert code == 0, f"{name}: {code}\n{topology.logs()}"
        assert took_s < STOP_S
    unhealthy = topology.finish("broker", "health")
    assert unhealthy.returncode == 1
    assert "hl7: FAILING" in unhealthy.stdout


def answers_well(port):
    """Ask the pages for the health of all."""
    with contextlib.suppress(OSError):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    return False


def connections_to_both(topology):
    """Ask until both processes on the one port have answered: the kernel deals the connections out."""
    wanted = {topology.processes[name].pid for name in ("dicom", "dicom2")}
    listening = {
        connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.laddr.port == topology.ports["dicom"] and connection.status == psutil.CONN_LISTEN
    }
    if listening != wanted:
        return False
    for _ in range(8):
        echo("127.0.0.1", topology.ports["dicom"], "BROKER")
    return True


# ---- everything in one command -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("e")
    with socket.create_server(("127.0.0.1", 0)) as hung:
        running = RunningBroker(folder, site_of(hung.getsockname()[1]))
        yield running.start()
        running.stop()
    shutil.rmtree(folder, ignore_errors=True)


def serve(running, **environment):
    """Run `serve` where it is to refuse; answer how it ended."""
    return subprocess.run(
        [BROKER, "serve", "--config", running.config, "--data-dir", running.data_dir],
        capture_output=True,
        text=True,
        env={**running.env, **environment},
        cwd=ROOT,
        timeout=120,
        check=False,
    )


def test_a_second_serve_on_the_same_data_is_refused_and_commands_work_beside_the_first(embedded):
    ports = {f"BROKER_LISTEN__{name}__PORT": str(free_port()) for name in ("HL7", "DICOM", "WEB")}
    second = serve(embedded, **ports)
    assert second.returncode == 2
    assert str(embedded.data_dir) in second.stderr
    assert "Traceback" not in second.stderr
    assert embedded.json("worklist", "list") == []
    wait_until(embedded.healthy, what="health beside a refused second")
    embedded.cli("health")


@pytest.mark.parametrize("key", ["hl7", "dicom", "storage", "web"])
def test_a_port_in_use_is_refused_by_the_name_of_its_key(tmp_path, key):
    running = RunningBroker(tmp_path, site_of(storage={"port": free_port()}))
    with socket.create_server(("127.0.0.1", running.site["listen"][key]["port"])):
        refused = serve(running)
    assert refused.returncode == 2
    assert f"listen.{key}: cannot listen on 127.0.0.1:" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_whole_idle_broker_fits_in_memory(embedded):
    serve_ = psutil.Process(embedded.process.pid)
    pss_kib = {}
    for process in [serve_, *serve_.children(recursive=True)]:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        pss_kib[process.pid] = int(
            next(line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:"))
        )
    total_mib = sum(pss_kib.values()) / 1024
    print(f"idle: {total_mib:.0f} MiB in {len(pss_kib)} processes: {pss_kib}")
    assert total_mib < IDLE_MIB


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_an_orphaned_valkey_is_replaced(tmp_path_factory, state):
    folder = tmp_path_factory.mktemp("o")
    running = RunningBroker(folder, site_of())
    running.data_dir.mkdir(mode=0o750)
    code = (
        "import sys, pathlib; from broker.valkey import EmbeddedValkey; from broker.queue import embedded_socket;"
        " d = pathlib.Path(sys.argv[1]); EmbeddedValkey(d, embedded_socket(d)).run()"
    )
    orphan = subprocess.Popen([sys.executable, "-c", code, str(running.data_dir)], cwd=ROOT)
    try:
        answering = EmbeddedValkey(running.data_dir, embedded_socket(running.data_dir))
        wait_until(answering.answers, what="the orphan's answer")
        if state == "stopped":
            orphan.send_signal(signal.SIGSTOP)
        running.start()
        assert orphan.wait(60) is not None
        path, ds = an_image(folder)
        run("storescu", "-aet", "CT1", "-aec", "BROKER", "127.0.0.1", running.dicom, path)
        wait_until(
            lambda: [p for p in (running.data_dir / "copies").rglob("*") if ds.SOPInstanceUID in p.name],
            what="delivery",
        )
        assert running.pids("valkey")
    finally:
        orphan.kill()
        orphan.wait()
        assert running.stop() == 0
        shutil.rmtree(folder, ignore_errors=True)


def test_peers_that_hang_on_do_not_hold_up_the_end(embedded, tmp_path):
    """Last in this file: it ends the broker of the module."""
    path, _ = an_image(tmp_path, Modality="MR")
    run("storescu", "-aet", "CT1", "-aec", "BROKER", "127.0.0.1", embedded.dicom, path)
    wait_until(
        lambda: [row for row in embedded.api("deliveries?destination=hung") if row["state"] == "IN_PROGRESS"],
        what="a delivery to a peer that is silent",
    )
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(idle_association(embedded.dicom))
        for port in (embedded.hl7, embedded.dicom, embedded.web):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        half = stack.enter_context(socket.create_connection(("127.0.0.1", embedded.hl7)))
        half.sendall(b"\x0bMSH|^~\\&|")
        family = psutil.Process(embedded.process.pid).children(recursive=True)

        code, took_s = stop(embedded.process)

    assert code == 0, embedded.tail()
    assert took_s < STOP_S
    assert not [process for process in family if process.is_running()], "a role outlived serve"


@contextlib.contextmanager
def idle_association(port):
    from pynetdicom import AE
    from pynetdicom.sop_class import ModalityWorklistInformationFind

    ae = AE("CT1")
    ae.add_requested_context(ModalityWorklistInformationFind)
    association = ae.associate("127.0.0.1", port, ae_title="BROKER")
    assert association.is_established
    yield association
    association.abort()
