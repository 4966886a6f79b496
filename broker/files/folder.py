"""Copy objects into a folder: the destination kind `folder`."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import uuid
from pathlib import Path
from typing import BinaryIO, ClassVar

import structlog
from pydantic import BaseModel, ConfigDict, Field

from broker.domain.delivery import Delivered, Misconfigured, Outcome, Rejected, RetryLater
from broker.domain.values import UID
from broker.workflow.destinations_port import CheckResult, DestinationContext, Parcel, ParcelItem, Settled
from broker.workflow.own_disk import is_of_the_machine, wait_for_the_machine, word_of
from broker.workflow.progress import Progress

_log = structlog.get_logger()

COPY_CHUNK_BYTES = 1 << 20
MAX_VERSIONS = 1000

# Somebody has to change something on the disk or in the settings.
_CONFIGURATION_ERRORS = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG}
)
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})


class FolderOptions(BaseModel):
    """Says where the copies go."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path = Field(
        description="Folder for the copies: a relative path is below the data directory and stays there, "
        "an absolute path may be anywhere (a mounted share)."
    )
    keep_free_mib: int = Field(
        default=1024,
        ge=0,
        description="Space in MiB that copies must leave free on that disk; below it, delivery waits.",
    )


class FolderDestination:
    """Copies each object to `<study UID>/<series UID>/<SOP instance UID>.dcm`.

    A copy appears under its name only when it is complete and synced. The same object again is the same
    file; another content under the same SOP Instance UID becomes `<uid>_v2.dcm`, never an overwrite.
    """

    kind: ClassVar[str] = "folder"
    Options: ClassVar[type[FolderOptions]] = FolderOptions
    retry_safe: ClassVar[bool] = True

    def __init__(self, options: FolderOptions, context: DestinationContext) -> None:
        self._keep_free_bytes = options.keep_free_mib << 20
        self._clock = context.clock
        self._log = _log.bind(destination=context.name)
        data_dir = context.data_dir.resolve()
        self._root = (data_dir / options.path).resolve()
        # A relative path that climbs out of the data directory is a typing error, not a wish.
        self._is_astray = not options.path.is_absolute() and not self._root.is_relative_to(data_dir)

    def check(self) -> CheckResult:
        """Write, sync and remove a small file, and look at the free space."""
        began_s = self._clock.monotonic()
        trouble = self._trouble()
        if trouble is None:
            probe = self._root / f".probe-{uuid.uuid4().hex}"
            try:
                self._root.mkdir(parents=True, exist_ok=True)
                with probe.open("xb") as file:
                    file.write(b"probe")
                    os.fsync(file.fileno())
                probe.unlink()
            except OSError as error:
                probe.unlink(missing_ok=True) if probe.parent.is_dir() else None
                trouble = _outcome_of(error)
        duration_s = self._clock.monotonic() - began_s
        if trouble is not None:
            return CheckResult(ok=False, detail=trouble.reason, duration_s=duration_s)
        return CheckResult(ok=True, detail=f"{self._root} is writable", duration_s=duration_s)

    def send(self, parcel: Parcel, settled: Settled) -> Outcome:
        """Copy every item of the parcel."""
        progress = Progress(settled, self._clock)
        trouble: Outcome | None = None
        for item in parcel.items:
            trouble = self._trouble()
            if trouble is None:
                trouble = self._copy(item, progress)
            if trouble is not None:
                break
        progress.flush()
        if trouble is not None:
            self._log.warning("folder copy stopped", delivery=parcel.delivery, reason=trouble.reason)
            return trouble
        if progress.rejected:
            return Rejected(f"{progress.rejected} not copied: {progress.first_refusal}")
        return Delivered(f"{progress.delivered} copied")

    def close(self) -> None:
        """Keep nothing open between parcels."""

    def _trouble(self) -> RetryLater | Misconfigured | None:
        """Answer why nothing can be written at all, if so."""
        if self._is_astray:
            return Misconfigured("the relative path leads out of the data directory")
        existing = next(folder for folder in (self._root, *self._root.parents) if folder.exists())
        try:
            free_bytes = shutil.disk_usage(existing).free
        except OSError as error:
            return _outcome_of(error)
        if free_bytes < self._keep_free_bytes:
            return RetryLater(f"less than {self._keep_free_bytes >> 20} MiB free in the folder")
        return None

    def _copy(self, item: ParcelItem, progress: Progress) -> RetryLater | Misconfigured | None:
        """Copy one item; answer what stops the whole parcel, if anything does."""
        names = (item.study_instance_uid, item.series_instance_uid, item.sop_instance_uid)
        # The UIDs come from a peer and become file names: digits and dots, or nothing (PS3.5 9.1).
        if not all(UID.is_valid(name) for name in names):
            progress.reject(item, "a UID of the object cannot be a file name")
            return None
        try:
            source = item.path.open("rb")
        except OSError as error:
            if is_of_the_machine(error):
                return wait_for_the_machine(error)
            progress.reject(item, f"the stored file cannot be read ({word_of(error)})")
            return None
        with source:
            try:
                folder = self._folder(item.study_instance_uid, item.series_instance_uid)
                name = _place(source, folder, stem=item.sop_instance_uid)
            except OSError as error:
                return _outcome_of(error)
        if name is None:
            progress.reject(item, f"{MAX_VERSIONS} other contents already bear this SOP Instance UID")
            return None
        is_version = name != f"{item.sop_instance_uid}.dcm"
        progress.deliver(item, reason="kept as another version: the content differs" if is_version else None)
        return None

    def _folder(self, study_instance_uid: str, series_instance_uid: str) -> Path:
        """Make the folder of a series, each new level synced into its parent."""
        folder = self._root / study_instance_uid / series_instance_uid
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            _sync_folder(folder.parent)
        return self._root / study_instance_uid / series_instance_uid


def _place(source: BinaryIO, folder: Path, *, stem: str) -> str | None:
    """Copy `source` into `folder` unless it is there already; answer the name it has there."""
    part: Path | None = None
    try:
        for version in range(1, MAX_VERSIONS + 1):
            # `_v2`, not `.2`: the latter would be another UID.
            final = folder / (f"{stem}.dcm" if version == 1 else f"{stem}_v{version}.dcm")
            if final.exists():
                if _is_same(source, final):
                    return final.name
                continue
            if part is None:
                part = _write_part(source, folder)
            if _publish(part, final):
                _sync_folder(folder)
                return final.name
            if _is_same(source, final):
                return final.name
        return None
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def _write_part(source: BinaryIO, folder: Path) -> Path:
    """Copy to a hidden name of our own and sync it."""
    part = folder / f".{uuid.uuid4().hex}.part"
    try:
        with part.open("xb") as target:
            source.seek(0)
            shutil.copyfileobj(source, target, COPY_CHUNK_BYTES)
            target.flush()
            os.fsync(target.fileno())
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return part


def _publish(part: Path, final: Path) -> bool:
    """Give the copy its name without ever replacing a file; False when the name was taken meanwhile."""
    try:
        os.link(part, final)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return _publish_without_links(part, final)
    return True


def _publish_without_links(part: Path, final: Path) -> bool:
    """Rename under a lock on the folder: shares and FAT know no hard links, and a rename would overwrite."""
    handle = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if final.exists():
            return False
        part.replace(final)
    finally:
        os.close(handle)
    return True


def _is_same(source: BinaryIO, other: Path) -> bool:
    """Compare contents in bounded memory."""
    source.seek(0)
    with other.open("rb") as file:
        if os.fstat(source.fileno()).st_size != os.fstat(file.fileno()).st_size:
            return False
        while chunk := source.read(COPY_CHUNK_BYTES):
            if chunk != file.read(COPY_CHUNK_BYTES):
                return False
    return True


def _sync_folder(folder: Path) -> None:
    """Make names in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network shares cannot sync a directory; the file itself is synced.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(handle)


def _outcome_of(error: OSError) -> RetryLater | Misconfigured:
    """Tell trouble that passes from trouble that somebody has to mend."""
    if error.errno in _CONFIGURATION_ERRORS:
        return Misconfigured(f"the folder cannot be written: {word_of(error)}")
    return RetryLater(f"the folder cannot be written just now: {word_of(error)}")
