"""Systems and modalities that send to the broker as theirs do: one thing after the other, again until acknowledged.

They run in threads of whoever breaks the broker, never in its processes. What was acknowledged is written into the
ledger; what was not is sent again, for as long as the load is on. The same seed sends the same things.
"""

from __future__ import annotations

import queue
import random
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from tests.journeys.hl7_orders import orm
from tests.ledger.ledger import ENDED, IMAGE, MESSAGE, STARTED, Ledger
from tests.ledger.lines import AssociationLine, MessageLine
from tests.ledger.modality import MPPS, SOP_CLASSES, a_creation, an_end, an_image

ROOT_UID = "1.2.826.0.1.3680043.10.1561"
DUPLICATE, NO_LONGER = 0x0111, 0x0110
"""What a modality is told of a performed step that was kept although the answer was lost."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """An order that has been acknowledged."""

    accession: str
    study: str
    patient_id: str


class Load:
    """Information systems, performed-step reporters and scanners, each a thread, against one broker."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        hl7: int | None,
        dicom: int | None,
        seed: int,
        systems: int = 1,
        reporters: int = 1,
        scanners: int = 2,
        images: int = 5,
        pause_s: float = 0.02,
        patience_s: float = 20.0,
    ) -> None:
        """Take the ports of the broker (None: nobody there is talked to), and how many of each there are.

        `images` are in a series, `pause_s` lies between two things one sender sends, and after `patience_s`
        without an answer it sends again.
        """
        self.ledger, self.seed, self.images, self.pause_s, self.patience_s = (
            ledger,
            seed,
            images,
            pause_s,
            patience_s,
        )
        self.hl7, self.dicom = hl7, dicom
        self._stop = threading.Event()
        self._to_perform: queue.SimpleQueue[Ordered] = queue.SimpleQueue()
        self._to_scan: queue.SimpleQueue[Ordered] = queue.SimpleQueue()
        self.errors: list[BaseException] = []
        """Defects of the load itself; a broker that does not answer is none."""
        jobs = [(self._place_orders, number) for number in range(systems if hl7 else 0)]
        jobs += [(self._report_steps, number) for number in range(reporters if dicom else 0)]
        jobs += [(self._scan, number) for number in range(scanners if dicom else 0)]
        self._threads = [
            threading.Thread(target=self._run, args=job, name=f"load-{job[0].__name__}-{job[1]}", daemon=True)
            for job in jobs
        ]

    def start(self) -> Self:
        """Begin to send."""
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """End, each sender with what it has in hand: acknowledged, or given up after one more try."""
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * self.patience_s + 10)
            assert not thread.is_alive(), f"{thread.name} does not end"
        if self.errors:
            raise AssertionError(f"the load itself failed: {self.errors}") from self.errors[0]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, job: Any, number: int) -> None:
        try:
            job(number, random.Random(f"{self.seed}/{job.__name__}/{number}"))
        except BaseException as error:
            self.errors.append(error)

    def _pause(self, factor: float = 1.0) -> bool:
        return self._stop.wait(self.pause_s * factor)

    # ---- HL7 -------------------------------------------------------------------------------------------

    def _place_orders(self, number: int, chance: random.Random) -> None:
        """Place orders, change some of them."""
        line = MessageLine(self.hl7, self.patience_s)
        for turn in range(1_000_000):
            accession = f"L{self.seed % 1000}S{number}N{turn}"
            ordered = Ordered(accession, f"{ROOT_UID}.{self.seed}.1.{number}.{turn}", f"P{accession}")
            start = f"2026112108{chance.randrange(60):02}00"
            if not self._message(line, ordered, "NW", start):
                break
            if chance.random() < 0.4:
                start = f"2026112109{chance.randrange(60):02}00"
                if not self._message(line, ordered, "XO", start):
                    break
            self._to_perform.put(ordered)
            self._to_scan.put(ordered)
            if self._pause():
                break
        line.close()

    def _message(self, line: MessageLine, ordered: Ordered, control: str, start: str) -> bool:
        """Send one message until it is acknowledged; False when the load is over before that."""
        key = f"{ordered.accession}{control}"
        message = orm(
            control=control,
            accession=ordered.accession,
            patient_id=ordered.patient_id,
            study_uid=ordered.study,
            start=start,
            message_id=key,
        ).encode()
        facts = {"accession": ordered.accession, "control": control, "start": start}
        while True:
            last = self._stop.is_set()
            self.ledger.offered(MESSAGE, key, message, **facts)
            code = line.send(message)
            if code == "AA":
                self.ledger.acked(MESSAGE, key, message, **facts)
                return True
            if code is not None:
                self.ledger.refused(MESSAGE, key, message, answer=code, **facts)
            if last:
                return False
            self._pause(5)

    # ---- performed procedure steps ---------------------------------------------------------------------

    def _report_steps(self, number: int, chance: random.Random) -> None:
        """Begin and end what was ordered."""
        line = AssociationLine(self.dicom, f"CT{1 + number % 4}", [MPPS], self.patience_s)
        turn = 0
        while not self._stop.is_set():
            ordered = _next(self._to_perform)
            if ordered is None:
                self._pause(1)
                continue
            turn += 1
            uid = f"{ROOT_UID}.{self.seed}.2.{number}.{turn}"
            creation = a_creation(
                accession=ordered.accession,
                study=ordered.study,
                station=f"CT{1 + number % 4}",
                patient_id=ordered.patient_id,
            )
            if not self._report(line, STARTED, uid, creation, ordered, "IN PROGRESS"):
                break
            self._pause()
            status = "COMPLETED" if chance.random() < 0.8 else "DISCONTINUED"
            end = an_end(status, series=f"{uid}.1", images=(f"{uid}.1.1",))
            if not self._report(line, ENDED, uid, end, ordered, status):
                break
            self._pause()
        line.close()

    def _report(
        self, line: AssociationLine, kind: str, uid: str, data: bytes, ordered: Ordered, status: str
    ) -> bool:
        facts = {"accession": ordered.accession, "status": status}
        unanswered = 0
        while True:
            last = self._stop.is_set()
            self.ledger.offered(kind, uid, data, **facts)
            answer = line.report(uid, data, create=kind is STARTED)
            if answer == 0:
                self.ledger.acked(kind, uid, data, **facts)
                return True
            if answer == (DUPLICATE if kind is STARTED else NO_LONGER) and unanswered:
                return True  # kept by an earlier try whose answer was lost: not acknowledged, but known to be there
            if answer is None:
                unanswered += 1
            else:
                self.ledger.refused(kind, uid, data, answer=f"{answer:04X}", **facts)
            if last:
                return False
            self._pause(5)

    # ---- images ----------------------------------------------------------------------------------------

    def _scan(self, number: int, chance: random.Random) -> None:
        """Push series, of orders where there are any; now and then one image again."""
        for turn in range(1_000_000):
            modality = chance.choice(("CT", "CT", "MR", "US"))
            ordered = _next(self._to_scan) if modality == "CT" else None
            study = ordered.study if ordered else f"{ROOT_UID}.{self.seed}.3.{number}.{turn}"
            series = f"{ROOT_UID}.{self.seed}.4.{number}.{turn}"
            line = AssociationLine(
                self.dicom, f"{modality}{1 + number % 4}", [SOP_CLASSES[modality]], self.patience_s
            )
            for image in range(self.images):
                uid = f"{series}.{image}"
                data = an_image(
                    uid,
                    study=study,
                    series=series,
                    modality=modality,
                    accession=ordered.accession if ordered else "",
                    patient_id=ordered.patient_id if ordered else f"PX{number}N{turn}",
                    chance=chance,
                )
                again = chance.random() < 0.05
                facts = {"modality": modality, "ordered": ordered is not None, "study": study}
                if not self._push(line, uid, data, SOP_CLASSES[modality], facts):
                    line.close()
                    return
                if again:
                    self._push(line, uid, data, SOP_CLASSES[modality], facts)
            line.close()
            if self._pause():
                return

    def _push(
        self, line: AssociationLine, uid: str, data: bytes, sop_class: str, facts: dict[str, Any]
    ) -> bool:
        while True:
            last = self._stop.is_set()
            self.ledger.offered(IMAGE, uid, data, **facts)
            status = line.store(uid, data, sop_class)
            if status == 0:
                self.ledger.acked(IMAGE, uid, data, **facts)
                return True
            if status is not None:
                self.ledger.refused(IMAGE, uid, data, answer=f"{status:04X}", **facts)
            if last:
                return False
            self._pause(5)


def _next(waiting: queue.SimpleQueue[Ordered]) -> Ordered | None:
    with suppress(queue.Empty):
        return waiting.get_nowait()
    return None
