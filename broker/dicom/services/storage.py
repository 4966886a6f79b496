"""Receives images: the Storage service class as SCP (PS3.4 annex B, IHE RAD-8)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

import structlog

from broker.dicom.network.dimse import CommandField
from broker.dicom.network.negotiation import any_storage
from broker.dicom.network.service import Receiver, Request, Response, ServiceError, ServiceOffer
from broker.dicom.objects.header import Header, HeaderScanner, ScanPlan
from broker.dicom.objects.pixel_data_end import PixelDataEnd
from broker.dicom.services.group_commit import GroupCommit
from broker.domain.values import MAX_UID_CHARACTERS
from broker.errors import BrokerError, OutOfResources
from broker.failpoints import failpoint
from broker.workflow.images import Receipt, ReceivedObject, Reception
from broker.workflow.images_port import FileStore, IncomingFile, StoredFile

log = structlog.get_logger(__name__)

STORAGE_IDLE_TIMEOUT_S: Final = 900.0
"""Scanners pause for minutes between two images of one association."""

# PS3.4 table B.2-1, PS3.7 C.5
SUCCESS: Final = 0x0000
INVALID_SOP_INSTANCE: Final = 0x0117
OUT_OF_RESOURCES: Final = 0xA700
DATA_SET_DOES_NOT_MATCH: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000

_UID = re.compile(r"[0-9]+(?:\.[0-9]+)*+\Z")
_SUCCESS = (Response(SUCCESS),)
_REQUIRED = (
    ("SOPClassUID", 0x00080016),
    ("SOPInstanceUID", 0x00080018),
    ("StudyInstanceUID", 0x0020000D),
    ("SeriesInstanceUID", 0x0020000E),
)

ReceiveImages = Callable[[Sequence[ReceivedObject]], Sequence[Receipt]]
"""Makes the rows of some received objects durable (workflow.images.receive_images, bound)."""


class StorageService:
    """Serves C-STORE. 0000 is said only after file and row are durable."""

    def __init__(
        self,
        files: FileStore,
        receive_images: ReceiveImages,
        *,
        plan: Callable[[], ScanPlan] | None = None,
        max_batch: int = 64,
    ) -> None:
        """Take where files go, what makes rows, and what to read of each header (asked anew for each object)."""
        self._files = files
        self._commit: GroupCommit[ReceivedObject, Receipt] = GroupCommit(receive_images, max_batch=max_batch)
        default_plan = ScanPlan.of()
        self._plan = plan or (lambda: default_plan)

    def begin(self, request: Request) -> Receiver:
        """Start receiving one object."""
        command = request.command
        sop_class_uid, sop_instance_uid = command.affected_sop_class_uid, command.affected_sop_instance_uid
        # Such a UID goes into rows, answers and other peers' associations: only a UID may be one.
        if sop_instance_uid is None or not _is_uid(sop_instance_uid):
            raise _refused(INVALID_SOP_INSTANCE, "Affected SOP Instance UID is not a UID")
        if sop_class_uid is None or not _is_uid(sop_class_uid):
            raise _refused(DATA_SET_DOES_NOT_MATCH, "Affected SOP Class UID is not a UID")
        if not command.has_data_set:
            raise _refused(CANNOT_UNDERSTAND, "There is no data set")
        try:
            file = self._files.create(
                sop_class_uid=sop_class_uid,
                sop_instance_uid=sop_instance_uid,
                transfer_syntax_uid=request.context.transfer_syntax,
                calling_ae_title=request.peer.calling_ae_title,
            )
        except OutOfResources as error:
            raise _out_of_resources(request, error) from error
        scanner = HeaderScanner(self._plan(), request.context.transfer_syntax)
        return _ObjectReceiver(self, request, file, scanner)

    def store(self, request: Request, file: IncomingFile, header: Header) -> None:
        """Make an object durable that has come in whole. Raises ServiceError when it is refused."""
        received = _checked(request, header)
        try:
            failpoint("cstore.after_last_bytes")
            kept = file.keep()
            failpoint("cstore.after_file")
            receipt = self._commit.submit(received(kept))
            failpoint("cstore.after_commit")
            if receipt.reception is Reception.REPEATED:
                # Whoever is on call sends again also when a disk has lost something.
                self._files.give_up(kept.path, in_favour_of=receipt.path)
        except OutOfResources as error:
            # The commit may have happened although it did not answer: the file stays, the sweep knows better.
            raise _out_of_resources(request, error) from error


class _ObjectReceiver:
    """Takes one object: every byte goes to the file, the first ones past the scanner too."""

    __slots__ = ("_file", "_pixel_data_end", "_request", "_scanner", "_service")

    def __init__(
        self, service: StorageService, request: Request, file: IncomingFile, scanner: HeaderScanner
    ) -> None:
        self._service = service
        self._request = request
        self._file = file
        self._scanner = scanner
        self._pixel_data_end = PixelDataEnd(request.context.transfer_syntax)

    def write(self, data: memoryview) -> None:
        """Take the next bytes."""
        try:
            self._file.write(data)
            failpoint("cstore.after_first_bytes")
        except OutOfResources as error:
            raise _out_of_resources(self._request, error) from error
        self._pixel_data_end.take(data)
        if not self._scanner.done:
            self._scanner.feed(data)

    def finish(self, cancelled: Callable[[], bool]) -> Iterable[Response]:  # noqa: ARG002 - C-STORE has no cancel
        """Make it durable, then say so."""
        try:
            header = self._scanner.finish()
            if header.problem is None and self._pixel_data_end.is_missing:
                header = replace(header, problem="ends inside (7FE0,0010)")
            self._service.store(self._request, self._file, header)
        except ServiceError as error:
            self._file.discard()
            if error.response.status != OUT_OF_RESOURCES:  # that one is told where it is found
                peer = self._request.peer
                log.warning(
                    "object refused",
                    association=peer.association_id,
                    sop_instance_uid=self._request.command.sop_instance_uid,
                    peer=peer.address,
                    calling_ae_title=peer.calling_ae_title,
                    status=f"{error.response.status:04X}",
                    reason=error.response.error_comment,
                )
            return (error.response,)
        except BrokerError as error:
            self._file.discard()
            log.exception(
                "object not stored",
                association=self._request.peer.association_id,
                sop_instance_uid=self._request.command.sop_instance_uid,
            )
            return (Response(error.dimse_status, error_comment="The object could not be stored"),)
        failpoint("cstore.before_answer")
        return _SUCCESS

    def abandon(self) -> None:
        """Leave nothing behind."""
        self._file.discard()


def storage_offer(service: StorageService, *, idle_timeout_s: float = STORAGE_IDLE_TIMEOUT_S) -> ServiceOffer:
    """Offer storage for one SOP class, in every transfer syntax: objects are kept as they come."""
    return ServiceOffer(
        abstract_syntax="",
        transfer_syntaxes=(),
        service=service,
        operations=frozenset({CommandField.C_STORE_RQ}),
        data_set_limit_bytes=None,
        idle_timeout_s=idle_timeout_s,
    )


def storage_offers(
    service: StorageService,
    *,
    accept_unknown_storage: bool = False,
    idle_timeout_s: float = STORAGE_IDLE_TIMEOUT_S,
) -> Callable[[str], ServiceOffer | None]:
    """Offer storage for every storage SOP class: the `otherwise` of a listener's Offers."""
    return any_storage(
        storage_offer(service, idle_timeout_s=idle_timeout_s), accept_unknown=accept_unknown_storage
    )


def _checked(request: Request, header: Header) -> Callable[[StoredFile], ReceivedObject]:
    """Answer what makes the received object of its file, once its data set is what the command says."""
    if header.problem is not None:
        raise _refused(CANNOT_UNDERSTAND, f"The data set {header.problem}")
    uids: dict[str, str] = {}
    for keyword, tag in _REQUIRED:
        uid = header.first(keyword)
        if uid is None or not _is_uid(uid):
            said = "is missing" if uid is None else "is not a UID"
            raise _refused(DATA_SET_DOES_NOT_MATCH, f"{keyword} {said}", tag)
        uids[keyword] = uid
    command = request.command
    if uids["SOPClassUID"] != command.affected_sop_class_uid:
        raise _refused(DATA_SET_DOES_NOT_MATCH, "SOPClassUID differs from the command's", 0x00080016)
    if uids["SOPInstanceUID"] != command.affected_sop_instance_uid:
        raise _refused(DATA_SET_DOES_NOT_MATCH, "SOPInstanceUID differs from the command's", 0x00080018)

    def received(file: StoredFile) -> ReceivedObject:
        return ReceivedObject(
            file=file,
            sop_class_uid=uids["SOPClassUID"],
            sop_instance_uid=uids["SOPInstanceUID"],
            study_instance_uid=uids["StudyInstanceUID"],
            series_instance_uid=uids["SeriesInstanceUID"],
            transfer_syntax_uid=request.context.transfer_syntax,
            facts=header.values,
            calling_ae_title=request.peer.calling_ae_title,
            called_ae_title=request.peer.called_ae_title,
            peer=request.peer.address,
        )

    return received


def _is_uid(text: str) -> bool:
    """Tell whether a text may stand as a UID.

    Leading zeros in a component are wrong (PS3.5 9.1) and common in the field: images are kept all the same.
    """
    return len(text) <= MAX_UID_CHARACTERS and _UID.match(text) is not None


def _refused(status: int, comment: str, *offending: int) -> ServiceError:
    return ServiceError(Response(status, error_comment=comment[:64], offending_elements=offending))


def _out_of_resources(request: Request, error: OutOfResources) -> ServiceError:
    log.warning(
        "storage refused",
        association=request.peer.association_id,
        sop_instance_uid=request.command.sop_instance_uid,
        reason=type(error).__name__,
    )
    return _refused(OUT_OF_RESOURCES, "No room or no database just now; try again")
