"""Sends the order of a synthetic exam, as a RIS would (OMI^O23 over MLLP, IHE RAD-4)."""

from __future__ import annotations

import socket

from broker.dicom.network.tls import ClientTls
from broker.hl7.mllp import frame
from broker.probe_messages import MODALITY, NAME, Exam
from broker.workflow.probe_port import PROBE

_TIMEOUT_S = 20.0
_MAX_BYTES = 64 * 1024
_END = b"\x1c\r"


def send_order(host: str, port: int, exam: Exam, *, tls: ClientTls | None) -> tuple[str, str]:
    """Send it and wait for the answer; answer MSA-1 and the text of the first problem. Raises OSError."""
    with socket.create_connection((host, port), timeout=_TIMEOUT_S) as plain:
        connection = plain if tls is None else tls.context().wrap_socket(plain, server_hostname=None)
        connection.sendall(frame(order_message(exam)))
        answer = b""
        while _END not in answer and len(answer) < _MAX_BYTES:
            more = connection.recv(4096)
            if not more:
                break
            answer += more
    return _read(answer)


def order_message(exam: Exam) -> bytes:
    """Write the order."""
    now = f"{exam.date}{exam.time}"
    number, code = exam.accession, "PROBE^Synthetic exam^99PROBE"
    imaging = [""] * 10
    imaging[1:7] = [number, number, exam.study_instance_uid, number, MODALITY, code]
    imaging[9] = PROBE
    request = [""] * 25
    request[1], request[2], request[4] = "1", f"{number}^{PROBE}", code
    request[18:21] = [number, number, number]
    request[24] = MODALITY
    segments = [
        f"MSH|^~\\&|{PROBE}|{PROBE}|BROKER|BROKER|{now}||OMI^O23^OMI_O23|{exam.patient_id}|P|2.5.1",
        f"PID|1||{exam.patient_id}^^^{PROBE}^MR||{NAME}^^^^^L||19000101|O",
        "PV1|1|O",
        f"ORC|NW|{number}^{PROBE}|||SC||||{now}",
        f"TQ1|1||||||{now}||R^Routine",
        "OBR|" + "|".join(request[1:]),
        "IPC|" + "|".join(imaging[1:]),
    ]
    return ("\r".join(segments) + "\r").encode("ascii")


def _read(answer: bytes) -> tuple[str, str]:
    code, problem = "", ""
    for line in answer.strip(b"\x0b\x1c\r").decode("utf-8", "replace").split("\r"):
        fields = line.split("|")
        if fields[0] == "MSA" and len(fields) > 1:
            code = fields[1]
        if fields[0] == "ERR" and not problem:
            problem = next((field for field in reversed(fields) if field), "")
    return code, problem
