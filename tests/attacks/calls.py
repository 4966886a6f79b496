"""Every file call and every database call of a flow fails once, in turn, until a run meets no failure.

After each: what was said is true, nothing acknowledged before is lost, no half file bears a final name, nobody
is locked out of the database, the same input is taken when it comes again, and no descriptor is left open.
"""

from __future__ import annotations

import gc
import logging
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import Engine

from tests.attacks.calls_faults import TROUBLES, Faults
from tests.attacks.calls_site import DATABASE, FLOWS, Flow, Site, an_engine, images, is_whole
from tests.attacks.outcome import Outcome
from tests.attacks.sim_world import template
from tests.attacks.simulation import quiet

TRIES = 5
RAM = Path("/dev/shm")
SHOWN = 4


def attack(seed: int, long: bool, folder: Path) -> Iterator[Outcome]:
    """Let every call fail (long), or every seventh; the seed says which comes first."""
    stride = 1 if long else 7
    with quiet(), quiet_pool():
        database = template(folder)
        for flow in FLOWS:
            cases, broken = run(flow, database, stride=stride, first=1 + seed % stride)
            told = "true or refused, nothing lost or half, taken the next time"
            yield Outcome(
                f"{flow.name}: each call fails once",
                cases,
                held=not broken,
                detail="; ".join(broken[:SHOWN]) or told,
            )


@contextmanager
def quiet_pool() -> Iterator[None]:
    """Keep SQLAlchemy from telling of every connection that could not be rolled back."""
    log = logging.getLogger("sqlalchemy.pool")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def run(
    flow: Flow, database: Path, *, stride: int = 1, first: int = 1, enough: int | None = None
) -> tuple[int, list[str]]:
    """Let call after call of a flow fail in each way; answer how many, and what was broken, when that is enough."""
    cases, broken = 0, []
    # Which call fails matters here, and not how long a disk takes to sync.
    with tempfile.TemporaryDirectory(dir=RAM if RAM.is_dir() else None) as name:
        folder = Path(name)
        _prepare(flow, database, folder)
        engine = an_engine(folder / "site")
        for number, trouble in enumerate(TROUBLES):
            at, failed = 1 + (first - 1 + number) % stride, ""
            while failed is not None:
                failed, problems = fail_once(flow, Faults(trouble, at), folder, engine)
                cases += failed is not None
                broken += [f"call {at} ({failed}, {trouble.name}): {one}" for one in problems]
                at += stride
                if enough is not None and len(broken) >= enough:
                    return cases, broken
    return cases, broken


def _prepare(flow: Flow, database: Path, folder: Path) -> None:
    """Make the folder every run of a flow begins with."""
    (folder / "site").mkdir()
    shutil.copyfile(database, folder / "site" / DATABASE)
    with closing(Site(folder / "site", an_engine(folder / "site"))) as site:
        site.files.prepare()
        for step in flow.before:
            assert step(site) is not False
    (folder / "site").rename(folder / "prepared")


def fail_once(flow: Flow, faults: Faults, folder: Path, engine: Engine) -> tuple[str | None, list[str]]:
    """Run a flow with one call failing; answer which call that was, and what was broken."""
    shutil.rmtree(folder / "site", ignore_errors=True)
    shutil.copytree(folder / "prepared", folder / "site")
    before = _descriptors()
    with closing(Site(folder / "site", engine)) as site:
        broken = list(_judge(flow, faults, site))
    if _descriptors() > before:
        gc.collect()  # what only an exception's frames hold is no leak
    if (left := _descriptors() - before) > 0:
        broken.append(f"{left} descriptors left open")
    return faults.failed, broken


def _judge(flow: Flow, faults: Faults, site: Site) -> Iterator[str]:
    try:
        with faults.armed():
            said = flow.do(site)
    except Exception as error:  # every role's outermost loop would log it as a defect
        yield f"{type(error).__name__}: {error}"
        said = False
    if said and not flow.holds(site):
        yield "said yes, and it is not so"
    if not said and faults.failed is None:
        yield "refused without a failure"
    if not flow.keeps(site):
        yield "what was acknowledged before is lost"
    yield from _half_files(site)
    if _is_locked(site):
        yield "the database is left locked"
    if not _is_taken(flow, site):
        yield "not taken when it comes again"
    yield from _half_files(site)
    site.grow_old()
    if not site.reconcile() or not flow.holds(site):
        yield "not so any more when the chores have run"
    if sorted((site.folder / "images").rglob("*.dcm")) != images(site):
        yield "files and rows differ when the chores have run"


def _half_files(site: Site) -> Iterator[str]:
    for path in site.folder.rglob("*.dcm"):
        if not is_whole(path):
            yield f"half a file has its final name: {path.relative_to(site.folder)}"


def _is_locked(site: Site) -> bool:
    with closing(sqlite3.connect(site.folder / DATABASE, timeout=0)) as other:
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
    return False


def _is_taken(flow: Flow, site: Site) -> bool:
    """Give the same again, at once or until leases and waits have run out."""
    if flow.is_final and flow.holds(site):
        return not flow.do(site) and flow.holds(site)
    for _ in range(TRIES if flow.patience_s else 1):
        try:
            if flow.do(site) and flow.holds(site):
                return True
        except Exception:
            return False
        site.clock.advance(flow.patience_s / TRIES)
        site.attend()
    return False


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
