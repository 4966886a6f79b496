"""From the last byte of an image to the first byte at its destination, with Redis and without."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from broker.dicom.network.client import Proposal, open_association
from broker.domain.uids import uid_of
from tests.performance.measuring import Latency
from tests.performance.parties import AE_TITLE, dcmtk, serving
from tests.ports import free_port
from tests.storage_listener import CT, EXPLICIT, a_data_set

IMAGES, EVERY_S, PATIENCE_S = 200, 0.05, 10.0


class Gate:
    """Stands before a storage SCP and notes when bytes come to it."""

    def __init__(self, behind: int) -> None:
        """Listen; every connection goes on to the port behind."""
        self._behind = behind
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._came = threading.Condition()
        self._at_s: list[float] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def first_after(self, began_s: float) -> float:
        """Answer when the first byte came after a moment; waits for it. Raises TimeoutError."""
        with self._came:
            if not self._came.wait_for(lambda: self._at_s and self._at_s[-1] >= began_s, PATIENCE_S):
                raise TimeoutError("the image did not come")
            return next(at_s for at_s in self._at_s if at_s >= began_s)

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass, args=(connection,), daemon=True).start()

    def _pass(self, front: socket.socket) -> None:
        with front, socket.create_connection(("127.0.0.1", self._behind)) as back:
            for one in (front, back):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ready = selectors.DefaultSelector()
            ready.register(front, selectors.EVENT_READ, back)
            ready.register(back, selectors.EVENT_READ, front)
            while True:
                for key, _ in ready.select():
                    assert isinstance(key.fileobj, socket.socket)
                    data = key.fileobj.recv(1 << 20)
                    if key.fileobj is front:
                        with self._came:
                            self._at_s.append(time.perf_counter())
                            self._came.notify()
                    if not data:
                        return
                    key.data.sendall(data)


def routing_latency(folder: Path) -> Iterator[Latency]:
    """Push single images with pauses; each goes to one destination at once."""
    (folder / "received").mkdir()
    with dcmtk("storescp", "+B", "-od", folder / "received") as port:
        gate = Gate(port)
        nowhere = {"BROKER_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
        for who, environment in (("ours, with Valkey", {}), ("ours, without Redis", nowhere)):
            home = folder / str(len(environment))
            home.mkdir()
            with serving(home, destinations={"archive": gate.port}, environment=environment) as broker:
                yield Latency(
                    "last image in → first byte out, one at a time", who, _push(broker.dicom, gate, IMAGES)
                )
        gate.close()


def _push(port: int, gate: Gate, images: int) -> list[float]:
    taken_s = []
    study = uid_of(uuid4())
    with open_association(
        "127.0.0.1",
        port,
        calling_ae_title="CT01",
        called_ae_title=AE_TITLE,
        contexts=[Proposal(CT, (EXPLICIT,))],
    ) as association:
        for number in range(images):
            uid = f"{study[:58]}.{number}"
            data = a_data_set(uid, study=study, series=f"{study[:58]}.0", pixels=bytes(65_536))
            asked_s = time.perf_counter()
            reply = association.store(sop_class_uid=CT, sop_instance_uid=uid, context=EXPLICIT, payload=data)
            if reply.status:
                raise AssertionError(f"C-STORE was answered {reply.status:04X}")
            answered_s = time.perf_counter()
            # The first byte may have left before our answer was read.
            taken_s.append(max(0.0, gate.first_after(asked_s) - answered_s))
            time.sleep(EVERY_S)
    return taken_s
