"""Order messages as a RIS writes them; synthetic people only."""

import itertools
import secrets

_numbers = itertools.count(1)
_run = secrets.token_hex(3)


def control_id():
    return f"{_run}{next(_numbers)}"


def orm(
    *,
    control="NW",
    accession,
    patient_id="P1",
    name="HAYDN^JOSEPH",
    modality="CT",
    station="",
    start="20261121083000",
    code="CTCHEST^CT chest^L",
    birth="17320331",
    sex="M",
    study_uid="",
    charset="",
    priority="R",
    message_id="",
):
    """Answer an ORM^O01 of HL7 2.3.1 with ORC, OBR and, when a UID is given, ZDS."""
    segments = [
        f"MSH|^~\\&|RIS|HOSP|BROKER|HOSP|20261121080000||ORM^O01|{message_id or control_id()}|P|2.3.1|||||{'|' if charset else ''}{charset}".rstrip(
            "|"
        ),
        f"PID|1||{patient_id}^^^HOSP||{name}||{birth}|{sex}",
        "PV1|1|O",
        f"ORC|{control}|PL{accession}^RIS|FI{accession}^RIS||{'CA' if control == 'CA' else ''}||^^^{start}^^{priority}||20261121080000",
        f"OBR|1|PL{accession}^RIS|FI{accession}^RIS|{code}||||||||||||WHO^DOCTOR||{accession}|RP{accession}|SPS{accession}||||{modality}|||^^^{start}^^{priority}",
    ]
    if study_uid:
        segments.append(f"ZDS|{study_uid}^100^Application^DICOM")
    return "\r".join(segments) + "\r"
