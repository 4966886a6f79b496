"""Serves the Modality Performed Procedure Step SOP class (RAD-6, RAD-7; PS3.4 F.7)."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import structlog

from broker.dicom.network.dimse import CommandField
from broker.dicom.network.service import (
    BufferedReceiver,
    Receiver,
    Request,
    Response,
    ServiceError,
    ServiceOffer,
)
from broker.dicom.objects.elements import DEFAULT_LIMITS, Limits, MalformedDataSet, Syntax
from broker.dicom.objects.performed_steps import (
    Modification,
    PerformedStepRefused,
    Reading,
    Refusal,
    read_creation,
    select_attributes,
)
from broker.domain.devices import DEFAULT_DEVICE, DeviceProfile
from broker.domain.uids import uid_of
from broker.domain.values import UID
from broker.errors import BrokerError, DuplicateKey, IllegalTransition, NotFound, OutOfResources
from broker.failpoints import failpoint
from broker.workflow.clock import Clock
from broker.workflow.orders_port import StepEncoder
from broker.workflow.performed_port import StatusMessages
from broker.workflow.procedure_steps import (
    PerformedPolicy,
    PerformedWork,
    create_performed_step,
    update_performed_step,
)
from broker.workflow.unit_of_work import UnitOfWork, UnitsOfWork

log = structlog.get_logger(__name__)

PERFORMED_PROCEDURE_STEP = "1.2.840.10008.3.1.2.3.3"
PERFORMED_PROCEDURE_STEP_RETRIEVE = "1.2.840.10008.3.1.2.3.4"

# PS3.7 annex C
_SUCCESS = 0x0000
_ATTRIBUTES_NOT_SUPPORTED = 0x0001  # a warning, PS3.4 table F.8.2-2
_PROCESSING_FAILURE = 0x0110
_DUPLICATE_SOP_INSTANCE = 0x0111
_NO_SUCH_SOP_INSTANCE = 0x0112
_INVALID_SOP_INSTANCE = 0x0117
_RESOURCE_LIMITATION = 0x0213
_MAY_NO_LONGER_BE_UPDATED = 0xA710  # Error ID, PS3.4 table F.7.2-2
_MAX_COMMENT = 64


class PerformedStepService:
    """Answers N-CREATE and N-SET; success is said after the commit."""

    def __init__(
        self,
        units_of_work: UnitsOfWork,
        *,
        clock: Clock,
        encoder: StepEncoder,
        messages: StatusMessages | None = None,
        policy: PerformedPolicy | None = None,
        devices: Callable[[str], DeviceProfile] = lambda _: DEFAULT_DEVICE,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._units_of_work = units_of_work
        self._clock = clock
        self._encoder = encoder
        self._messages = messages
        self._policy = policy or PerformedPolicy()
        self._devices = devices
        self._limits = limits

    def begin(self, request: Request) -> Receiver:
        """Start taking one report. Raises ServiceError for an instance that cannot be one."""
        uid = request.command.sop_instance_uid
        field = request.command.field
        if field is CommandField.N_CREATE_RQ:
            if uid is None:
                uid = uid_of(uuid4())  # PS3.7 10.1.5.1.4: the performer may leave the name to us
            answer = self._create
        else:
            answer = self._get if field is CommandField.N_GET_RQ else self._set
        if uid is None or not UID.is_valid(uid):
            raise ServiceError(Response(_INVALID_SOP_INSTANCE, error_comment="not a SOP instance UID"))
        named = uid
        return BufferedReceiver(lambda data, _: (self._safely(request, named, data, answer),))

    def _create(self, request: Request, uid: str, data: bytes) -> Response:
        state = read_creation(data, Syntax(request.context.transfer_syntax), self._reading(request))
        with self._units_of_work() as uow:
            create_performed_step(self._work(uow), uid, state, calling_ae_title=request.peer.calling_ae_title)
            failpoint("mpps.create_before_commit")
            uow.commit()
        failpoint("mpps.create_after_commit")
        if state.notes:
            log.info(
                "performed step read leniently",
                association=request.peer.association_id,
                sop_instance_uid=uid,
                notes=state.notes,
            )
        return Response(_SUCCESS, affected_sop_instance_uid=uid)

    def _set(self, request: Request, uid: str, data: bytes) -> Response:
        modification = Modification(
            data,
            Syntax(request.context.transfer_syntax),
            self._clock.local_now(),
            self._reading(request),
        )
        with self._units_of_work() as uow:
            update_performed_step(self._work(uow), uid, modification)
            failpoint("mpps.set_before_commit")
            uow.commit()
        failpoint("mpps.set_after_commit")
        return Response(_SUCCESS, affected_sop_instance_uid=uid)

    def _get(self, request: Request, uid: str, data: bytes) -> Response:  # noqa: ARG002 - N-GET sends none
        """Answer what is known of a performed step (PS3.4 F.8)."""
        with self._units_of_work() as uow:
            performed = uow.performed.find(uid)
        if performed is None:
            raise NotFound("There is no such performed procedure step.")
        wanted = request.command.attribute_identifier_list
        data_set, missing = select_attributes(
            performed.data_set, wanted, Syntax(request.context.transfer_syntax)
        )
        return Response(
            _ATTRIBUTES_NOT_SUPPORTED if missing else _SUCCESS,
            data_set=data_set,
            affected_sop_instance_uid=uid,
            attribute_identifier_list=missing,
        )

    def _safely(
        self,
        request: Request,
        uid: str,
        data: bytes,
        answer: Callable[[Request, str, bytes], Response],
    ) -> Response:
        """Answer, and turn what goes wrong into the status that says so (PS3.4 table F.7.2-2)."""
        try:
            return answer(request, uid, data)
        except PerformedStepRefused as error:
            response = _refused(error)
        except MalformedDataSet as error:
            response = Response(_PROCESSING_FAILURE, error_comment=str(error)[:_MAX_COMMENT])
        except DuplicateKey:
            response = Response(_DUPLICATE_SOP_INSTANCE)
        except NotFound:
            response = Response(_NO_SUCH_SOP_INSTANCE)
        except IllegalTransition as error:
            response = Response(
                _PROCESSING_FAILURE,
                error_comment=str(error)[:_MAX_COMMENT],
                error_id=_MAY_NO_LONGER_BE_UPDATED,
            )
        except OutOfResources as error:
            response = Response(_RESOURCE_LIMITATION, error_comment=str(error)[:_MAX_COMMENT])
        except BrokerError as error:
            response = Response(_PROCESSING_FAILURE, error_comment=str(error)[:_MAX_COMMENT])
        except Exception:
            log.exception(
                "performed step failed", association=request.peer.association_id, sop_instance_uid=uid
            )
            response = Response(_PROCESSING_FAILURE, error_comment="internal error")
        log.warning(
            "performed step refused",
            association=request.peer.association_id,
            sop_instance_uid=uid,
            operation=request.command.field.name,
            status=f"{response.status:04X}",
            reason=response.error_comment,
        )
        return response

    def _work(self, uow: UnitOfWork) -> PerformedWork:
        return PerformedWork(uow, self._clock, self._encoder, self._messages, self._policy)

    def _reading(self, request: Request) -> Reading:
        device = self._devices(request.peer.calling_ae_title)
        return Reading(device.is_strict, device.character_set, self._limits)


def _refused(error: PerformedStepRefused) -> Response:
    """Name the attributes at fault, as PS3.7 annex C has it for each status."""
    return Response(
        error.refusal.value,
        error_comment=str(error)[:_MAX_COMMENT],
        offending_elements=error.elements if error.refusal is Refusal.INVALID_VALUE else (),
        attribute_identifier_list=error.elements,
    )


def performed_step_offer(service: PerformedStepService) -> ServiceOffer:
    """Offer the Modality Performed Procedure Step SOP class."""
    return ServiceOffer(
        abstract_syntax=PERFORMED_PROCEDURE_STEP,
        transfer_syntaxes=(
            Syntax.EXPLICIT_LITTLE.value,
            Syntax.IMPLICIT_LITTLE.value,
            Syntax.EXPLICIT_BIG.value,
        ),
        service=service,
        operations=frozenset({CommandField.N_CREATE_RQ, CommandField.N_SET_RQ}),
        data_set_limit_bytes=DEFAULT_LIMITS.data_set_bytes,
    )


def performed_step_retrieve_offer(service: PerformedStepService) -> ServiceOffer:
    """Offer the Modality Performed Procedure Step Retrieve SOP class."""
    return ServiceOffer(
        abstract_syntax=PERFORMED_PROCEDURE_STEP_RETRIEVE,
        transfer_syntaxes=(
            Syntax.EXPLICIT_LITTLE.value,
            Syntax.IMPLICIT_LITTLE.value,
            Syntax.EXPLICIT_BIG.value,
        ),
        service=service,
        operations=frozenset({CommandField.N_GET_RQ}),
        data_set_limit_bytes=0,
    )
