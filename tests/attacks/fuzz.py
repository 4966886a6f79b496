"""Generated input to every parser that meets a stranger's bytes.

Each target takes its share of inputs in processes of their own, so that even a crash of the interpreter is a
finding with its input. A finding is written to tests/attacks/findings, where a test plays it again for ever.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import structlog

from tests.attacks import fuzz_data_sets, fuzz_dicom, fuzz_hl7
from tests.attacks.fuzz_engine import Finding, Hunt, Target, hunt, last_inputs, read, watched, written
from tests.attacks.outcome import Outcome

FINDINGS = Path(__file__).parent / "findings"
_PROCESSES = 2


@dataclass(frozen=True, slots=True)
class Share:
    """How much of a run goes to one target."""

    what: str
    """As the report names it."""
    short: int
    long: int
    module: str


SHARES = {
    "framer": Share("MLLP framer, every cut the same", 2_000, 160_000, "hl7"),
    "message": Share("HL7 message: character set, tokenizer, mapping, answer", 1_500, 60_000, "hl7"),
    "order": Share("HL7 message to stored order", 150, 4_000, "hl7"),
    "associate": Share("A-ASSOCIATE parsers, beside pynetdicom", 1_500, 100_000, "dicom"),
    "command": Share("DIMSE command parser and collector", 3_000, 260_000, "dicom"),
    "acceptor": Share("association state machine, acceptor", 1_500, 90_000, "dicom"),
    "requestor": Share("association state machine, requestor", 800, 40_000, "dicom"),
    "served": Share("whole associations served, peers that stop reading among them", 1_500, 90_000, "dicom"),
    "asking": Share("whole associations requested", 1_000, 60_000, "dicom"),
    "header": Share("header scanner", 1_500, 90_000, "data_sets"),
    "pydicom": Share("header scanner beside pydicom on drawn data sets", 150, 4_000, "data_sets"),
    "identifier": Share("C-FIND identifier, query plan, answer", 1_000, 60_000, "data_sets"),
    "rules": Share("routing rules", 500, 20_000, "data_sets"),
}
_MODULES = {"hl7": fuzz_hl7, "dicom": fuzz_dicom, "data_sets": fuzz_data_sets}


def attack(seed: int, long: bool, folder: Path) -> Iterator[Outcome]:
    """Run every target: the long form in two processes and a million inputs, the short one right here."""
    shares = {name: share.long if long else share.short for name, share in SHARES.items()}
    hunts = _in_processes(seed, shares, folder) if long else _here(seed, shares, folder)
    for name, found in hunts:
        yield _outcome(name, found)


def _outcome(name: str, found: Hunt) -> Outcome:
    detail = f"slowest {found.slowest_s * 1000:.0f} ms, memory +{max(found.grown_bytes, 0) / 2**20:.0f} MiB"
    if found.findings:
        for finding in found.findings:
            keep(finding)
        detail = "; ".join(map(str, found.findings))
    return Outcome(SHARES[name].what, found.cases, not found.findings, detail)


def keep(finding: Finding) -> None:
    """Write a finding down for good."""
    digest = hashlib.sha256(finding.data).hexdigest()[:8]
    (FINDINGS / f"{finding.target}-{digest}.hex").write_text(written(finding))


def findings() -> list[Path]:
    """Answer what was ever found."""
    return sorted(FINDINGS.glob("*.hex"))


def replayed(path: Path) -> tuple[str, bytes]:
    """Answer the target and the input of a finding."""
    return path.stem.partition("-")[0], read(path)


def targets_of(names: set[str], folder: Path) -> dict[str, Target]:
    """Build the targets of these names, each with what it needs of disk in the folder."""
    found: dict[str, Target] = {}
    for module in sorted({SHARES[name].module for name in names}):
        own = folder / module
        own.mkdir(parents=True, exist_ok=True)
        found |= _MODULES[module].targets(own)
    return {name: target for name, target in found.items() if name in names}


def _here(seed: int, shares: dict[str, int], folder: Path) -> Iterator[tuple[str, Hunt]]:
    targets = targets_of(set(shares), folder)
    with watched():
        for name, count in shares.items():
            yield name, hunt(targets[name], str(seed), count, folder)


def _in_processes(seed: int, shares: dict[str, int], folder: Path) -> Iterator[tuple[str, Hunt]]:
    """Give each process half of every target's inputs, under a seed of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(_PROCESSES, mp_context=context) as pool:
        parts: dict[str, list[Future[Hunt]]] = {
            name: [
                pool.submit(_part, name, f"{seed}.{part}", count // _PROCESSES, folder)
                for part in range(_PROCESSES)
            ]
            for name, count in shares.items()
        }
        for name, futures in parts.items():
            whole = Hunt()
            for future in futures:
                try:
                    part = future.result()
                except BrokenProcessPool:
                    whole.findings += [
                        Finding(target, str(seed), -1, data, "the process ended")
                        for target, data in last_inputs(folder)
                    ]
                    yield name, whole
                    return
                whole.cases += part.cases
                whole.slowest_s = max(whole.slowest_s, part.slowest_s)
                whole.grown_bytes = max(whole.grown_bytes, part.grown_bytes)
                whole.findings += part.findings
            yield name, whole


def _part(name: str, seed: str, count: int, folder: Path) -> Hunt:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    own = folder / f"{seed}-{name}"  # one process may get both halves
    with watched():
        return hunt(targets_of({name}, own)[name], seed, count, folder)
