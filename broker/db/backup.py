"""Copies database and images while the broker runs, and puts the copy into an empty place.

The images are those the copied database refers to, each compared with the hash taken when it arrived. Received
files are never written again, so on the same filesystem a link is a copy.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, Engine, func, select, text

from broker import __version__
from broker.db.dump import assert_empty, dumped, is_dump_for, load
from broker.db.repositories.events import SqlEvents
from broker.db.schema import INSTANCE
from broker.db.transaction import Transaction
from broker.domain.events import Event, EventName, Subject
from broker.errors import ConfigurationError, Conflict, NotFound

FORMAT = 1
MANIFEST, FILES, FILE_LIST = "manifest.json", "images", "images.jsonl"
_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds."""

    format: int
    version: str
    created_at: str
    schema: str
    database: str
    """Name of the dump."""
    database_sha256: str
    file_list_sha256: str
    files: int
    bytes: int
    problems: tuple[str, ...] = ()
    """Images that were missing or had changed when the backup was made; everything else is in it."""


Told = Callable[[int, int], None]
"""Hears how many images are done, and of how many."""


def _nobody(done: int, of: int) -> None:
    """Hear nothing."""


def backup(
    engine: Engine,
    images: Path,
    target: Path,
    *,
    now: datetime,
    actor: str = "broker",
    told: Told = _nobody,
) -> Manifest:
    """Write a backup into `target`, a directory to be made. It is there whole, or not at all."""
    if target.exists():
        raise Conflict(f"{target} exists already")
    part = target.with_name(f"{target.name}.part")
    if part.exists():
        shutil.rmtree(part)  # of a backup that was interrupted
    (part / FILES).mkdir(mode=0o700, parents=True)
    part.chmod(0o700)
    problems: list[str] = []
    count = size_bytes = 0
    with dumped(engine, part) as (dump, connection):
        schema = str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())
        most = int(connection.execute(select(func.count()).select_from(INSTANCE)).scalar_one())
        with (part / FILE_LIST).open("x", encoding="utf-8") as lines:
            for number, instance in enumerate(_instances(connection)):
                told(number, most)
                try:
                    digest = _copy_checked(images / instance.path, part / FILES / instance.path, instance)
                except (OSError, Conflict) as error:
                    problems.append(f"{instance.path}: {_plain(error)}")
                    continue
                line = {"path": instance.path, "size_bytes": instance.size_bytes, "sha256": digest}
                lines.write(json.dumps(line) + "\n")
                count += 1
                size_bytes += instance.size_bytes
    manifest = Manifest(
        format=FORMAT,
        version=__version__,
        created_at=now.isoformat(),
        schema=schema,
        database=dump.name,
        database_sha256=_sha256(dump),
        file_list_sha256=_sha256(part / FILE_LIST),
        files=count,
        bytes=size_bytes,
        problems=tuple(problems),
    )
    (part / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")
    _sync_tree(part)
    part.replace(target)
    _sync(target.parent)
    details = {"files": count, "bytes": size_bytes, "problems": len(problems)}
    _record(engine, now, Event(EventName.BACKUP_WRITTEN, Subject.SYSTEM, actor=actor, details=details))
    return manifest


def restore(url: str, images: Path, source: Path, *, told: Told = _nobody) -> Manifest:
    """Put a backup into an empty database and an empty folder of images. Raises Conflict when they are not.

    Everything is checked against the manifest before anything is written; the database comes last, so that a
    restore that was interrupted is not taken for a whole one.
    """
    manifest = read_manifest(source)
    dump = source / manifest.database
    if not is_dump_for(url, dump):
        raise ConfigurationError("the backup was made of another kind of database")
    for name, expected in (
        (manifest.database, manifest.database_sha256),
        (FILE_LIST, manifest.file_list_sha256),
    ):
        if _sha256(source / name) != expected:
            raise Conflict(f"{name} is not what was backed up")
    assert_empty(url)
    if images.exists() and any(images.iterdir()):
        raise Conflict(f"{images} is not empty: a backup is only put into an empty place")
    for line in _file_list(source):
        if _sha256(source / FILES / line["path"]) != line["sha256"]:
            raise Conflict(f"{line['path']} is not what was backed up")
    images.mkdir(mode=0o750, parents=True, exist_ok=True)
    for number, line in enumerate(_file_list(source)):
        told(number, manifest.files)
        place = images / line["path"]
        place.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        shutil.copyfile(source / FILES / line["path"], place)
    _sync_tree(images)
    load(url, dump)
    return manifest


def read_manifest(source: Path) -> Manifest:
    """Read what a backup says of itself. Raises NotFound or ConfigurationError."""
    try:
        found = json.loads((source / MANIFEST).read_text(encoding="utf-8"))
    except OSError:
        raise NotFound(f"{source} is not a backup: it has no {MANIFEST}") from None
    except ValueError:
        raise ConfigurationError(f"{source / MANIFEST} cannot be read") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ConfigurationError(f"{source} has a format this version does not know")
    found["problems"] = tuple(found.get("problems", ()))
    manifest = Manifest(**found)
    if Path(manifest.database).name != manifest.database:
        raise ConfigurationError(f"{source / MANIFEST} names a file outside of the backup")
    return manifest


@dataclass(frozen=True, slots=True)
class _Image:
    path: str
    size_bytes: int
    data_set_offset: int
    sha256: bytes | None


def _instances(connection: Connection, page: int = 1000) -> Iterator[_Image]:
    columns = select(
        INSTANCE.c.id, INSTANCE.c.path, INSTANCE.c.size_bytes, INSTANCE.c.data_set_offset, INSTANCE.c.sha256
    )
    last = 0
    while True:
        rows = connection.execute(
            columns.where(INSTANCE.c.id > last).order_by(INSTANCE.c.id).limit(page)
        ).all()
        if not rows:
            return
        for row in rows:
            digest = None if row.sha256 is None else bytes(row.sha256)
            yield _Image(row.path, row.size_bytes, row.data_set_offset, digest)
        last = rows[-1].id


def _copy_checked(source: Path, place: Path, image: _Image) -> str:
    """Link or copy an image, answer the hash of the whole file. Raises Conflict when it is not what arrived."""
    whole, data_set = hashlib.sha256(), hashlib.sha256()
    with source.open("rb") as file:
        whole.update(file.read(image.data_set_offset))
        while chunk := file.read(_CHUNK_BYTES):
            whole.update(chunk)
            data_set.update(chunk)
        size_bytes = file.tell()
    if size_bytes != image.size_bytes:
        raise Conflict(f"has {size_bytes} bytes, received were {image.size_bytes}")
    if image.sha256 is not None and data_set.digest() != image.sha256:
        raise Conflict("is not what was received")
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.link(source, place)
    except OSError:  # another filesystem
        shutil.copyfile(source, place)
        if _sha256(place) != whole.hexdigest():
            raise Conflict("was not copied faithfully") from None
    return whole.hexdigest()


def _file_list(source: Path) -> Iterator[dict[str, str]]:
    with (source / FILE_LIST).open(encoding="utf-8") as lines:
        for text_line in lines:
            line: dict[str, str] = json.loads(text_line)
            path = Path(line["path"])
            if path.is_absolute() or ".." in path.parts:
                raise Conflict(f"{FILE_LIST} names a file outside of the backup")
            yield line


def _plain(error: OSError | Conflict) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_tree(folder: Path) -> None:
    for directory, _, names in os.walk(folder):
        for name in names:
            _sync(Path(directory) / name)
        _sync(Path(directory))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _record(engine: Engine, now: datetime, event: Event) -> None:
    transaction = Transaction(engine)
    try:
        SqlEvents(transaction).add_many([(now, event)])
        transaction.commit()
    finally:
        transaction.close()
