"""Listeners of a broker in one process, for those who break it: `python -m tests.attacks.one_process`.

Takes the site file, the data directory, further roles (sweep, web) and the names of planted bugs; says its process and READY when it listens.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path

import structlog

from broker import dicom_role
from broker.bootstrap import open_broker
from broker.dicom.device_log import DeviceLog
from broker.dicom_role import dicom_server
from broker.hl7_role import hl7_listener
from broker.web_server import WebServer
from tests.attacks.planted_bugs import plant
from workers.sweeper import Sweeper, SweeperLimits

ROLES = ("sweep", "web")


def main(config: str, data_dir: str, *bugs: str) -> None:
    """Serve until SIGTERM."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    for bug in bugs:
        if bug not in ROLES:
            plant(bug)
    with open_broker(Path(config), Path(data_dir), role="dicom") as broker:
        _ = broker.files
        # What devices do is written at the end: a commit beside the traced ones would be taken for theirs.
        dicom_role.DeviceLog = partial(DeviceLog, interval_s=3600)
        server, close = dicom_server(broker, storage=True, others=True)
        server.start()
        listener = hl7_listener(broker)
        listener.start()
        sweeper = Sweeper(broker, limits=SweeperLimits(interval_s=0.2)) if "sweep" in bugs else None
        if sweeper is not None:
            sweeper.start()
        web = WebServer(broker) if "web" in bugs else None
        if web is not None:
            web.start()
        sys.stdout.write(f"{os.getpid()} READY\n")
        sys.stdout.flush()
        signal.sigwait({signal.SIGTERM})
        if sweeper is not None:
            sweeper.stop(10)
        if web is not None:
            web.stop(5)
        server.stop()
        close()
        listener.stop(5)


if __name__ == "__main__":
    main(*sys.argv[1:])
