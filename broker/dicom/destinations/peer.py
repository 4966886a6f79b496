"""Say how to reach a DICOM peer: the options every DICOM destination shares, and its C-ECHO."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from broker.dicom.network.client import (
    ClientAssociation,
    EventReportHandler,
    Proposal,
    Timeouts,
    open_association,
)
from broker.dicom.network.failures import AssociationError, ConnectFailed, Phase
from broker.dicom.network.status import judge_error
from broker.dicom.network.tls import ClientTls, TlsFiles, TlsProfile
from broker.dicom.network.transfer_syntaxes import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from broker.dicom.network.verification import VERIFICATION_SOP_CLASS_UID
from broker.domain.values import AETitle
from broker.workflow.clock import Clock
from broker.workflow.destinations_port import CheckResult, DestinationContext

UNCOMPRESSED = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)


def _ae_title(value: str) -> str:
    return AETitle(value).value


AETitleText = Annotated[str, AfterValidator(_ae_title)]


class TlsOptions(BaseModel):
    """Secures the connection (PS3.15 annex B); file names are relative to the data directory or absolute."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trusted: Path | None = Field(
        default=None, description="PEM file of the authorities to believe; without it, those of the system."
    )
    certificate: Path | None = Field(
        default=None, description="PEM file of our own certificate, if the peer asks."
    )
    key: Path | None = Field(default=None, description="PEM file of the key to our certificate.")
    check_host_name: bool = Field(
        default=True, description="Whether the peer's certificate must name the host we connect to."
    )
    profile: TlsProfile = Field(default=TlsProfile.BCP_195, description="Secure transport profile.")


class TimeoutOptions(BaseModel):
    """Says how long to wait for the peer, in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    connect_s: float = Field(default=10, gt=0, le=300, description="For the connection, in seconds.")
    association_s: float = Field(
        default=30, gt=0, le=600, description="For the answer to our association request."
    )
    response_s: float = Field(
        default=120, gt=0, le=3600, description="For each answer, in seconds; one more second per MiB sent."
    )
    send_s: float = Field(default=30, gt=0, le=600, description="For a peer that stops reading, in seconds.")
    release_s: float = Field(
        default=10, gt=0, le=300, description="For the answer to our release, in seconds."
    )


class PeerOptions(BaseModel):
    """Names a DICOM peer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(min_length=1, max_length=255, description="Host name or address of the peer.")
    port: int = Field(ge=1, le=65535, description="TCP port of the peer.")
    called_ae_title: AETitleText = Field(description="AE title of the peer.")
    calling_ae_title: AETitleText | None = Field(
        default=None, description="AE title we call ourselves; without it, the site's."
    )
    tls: TlsOptions | None = Field(default=None, description="Secures the connection; absent = plain.")
    timeouts: TimeoutOptions = Field(default=TimeoutOptions(), description="How long to wait for the peer.")


class Peer:
    """Opens associations with one peer."""

    def __init__(self, options: PeerOptions, context: DestinationContext) -> None:
        self._options = options
        self._calling_ae_title = options.calling_ae_title or context.ae_title
        self._data_dir = context.data_dir
        self._timeouts = Timeouts(**options.timeouts.model_dump())
        self._tls: ClientTls | None = None
        self._tls_lock = Lock()

    def open(
        self, contexts: Sequence[Proposal], *, on_event_report: EventReportHandler | None = None
    ) -> ClientAssociation:
        """Open an association; raises an AssociationError that says where it failed."""
        options = self._options
        return open_association(
            options.host,
            options.port,
            calling_ae_title=self._calling_ae_title,
            called_ae_title=options.called_ae_title,
            contexts=contexts,
            timeouts=self._timeouts,
            tls=self._secured(),
            on_event_report=on_event_report,
        )

    def check(self, clock: Clock) -> CheckResult:
        """Ask the peer for a C-ECHO (PS3.4 annex A)."""
        began_s = clock.monotonic()
        try:
            with self.open([Proposal(VERIFICATION_SOP_CLASS_UID, UNCOMPRESSED)]) as association:
                status = association.echo()
        except AssociationError as error:
            detail = f"{judge_error(error).reason}: {error}"
            return CheckResult(ok=False, detail=detail, duration_s=clock.monotonic() - began_s)
        duration_s = clock.monotonic() - began_s
        if status != 0:
            return CheckResult(ok=False, detail=f"C-ECHO answered {status:04X}", duration_s=duration_s)
        return CheckResult(ok=True, detail="C-ECHO answered", duration_s=duration_s)

    def _secured(self) -> ClientTls | None:
        """Answer how connections are secured; the files are read when they are first needed."""
        wanted = self._options.tls
        if wanted is None:
            return None
        with self._tls_lock:
            if self._tls is None:
                files = TlsFiles(
                    certificate=self._absolute(wanted.certificate),
                    key=self._absolute(wanted.key),
                    trusted=self._absolute(wanted.trusted),
                )
                try:
                    self._tls = ClientTls(
                        files, profile=wanted.profile, check_host_name=wanted.check_host_name
                    )
                except (OSError, ssl.SSLError) as error:
                    raise ConnectFailed(
                        Phase.TLS,
                        f"our TLS files cannot be used ({type(error).__name__})",
                        is_configuration=True,
                    ) from error
            return self._tls

    def _absolute(self, path: Path | None) -> Path | None:
        return None if path is None else self._data_dir / path
