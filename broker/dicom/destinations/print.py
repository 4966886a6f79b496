"""Print pictures on film: the destination kind `print`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import structlog

from broker.dicom.destinations.film import Grid, Printable, Sheet, films
from broker.dicom.destinations.peer import Peer
from broker.dicom.destinations.print_options import PrintOptions
from broker.dicom.destinations.print_session import (
    CROPPED,
    EMPTY_PAGE,
    PROPOSALS,
    TOO_LARGE,
    FilmBox,
    PrintFailed,
    PrintSession,
)
from broker.dicom.network.failures import AssociationError
from broker.dicom.network.status import judge_error, outcome_of
from broker.dicom.objects.annotation import Lettering, Unannotatable, caption_of, with_caption
from broker.dicom.objects.codestreams import Unrenderable
from broker.dicom.objects.pixels import PixelLimits, StoredImage, typed_errors
from broker.dicom.objects.rendering import fitted, luminance, picture_of, quantised
from broker.domain.delivery import Delivered, Misconfigured, MoreToSend, Outcome, Rejected, Unknown
from broker.workflow.destinations_port import CheckResult, DestinationContext, Parcel, ParcelItem, Settled
from broker.workflow.own_disk import wait_for_the_machine
from broker.workflow.progress import Progress

_log = structlog.get_logger()

SLICE_S = 45.0
"""After so long the rest is left to the next slice, at the end of a film."""


class PrintDestination:
    """Prints each picture with its patient's name on it, several to a film, never two patients on one.

    A film whose printing was asked for and not answered may hang in the processor: it is never asked for twice.
    """

    kind: ClassVar[str] = "print"
    Options: ClassVar[type[PrintOptions]] = PrintOptions
    retry_safe: ClassVar[bool] = False

    def __init__(self, options: PrintOptions, context: DestinationContext) -> None:
        self._options = options
        self._clock = context.clock
        self._name = context.name
        self._peer = Peer(options, context)
        self._font = None if options.font is None else context.data_dir / options.font
        self._sheet = Sheet(options.film_size, options.orientation, options.dots_per_inch)
        self._most = Grid(options.layout.columns, options.layout.rows)
        self._limits = PixelLimits()

    def check(self) -> CheckResult:
        """Ask the printer for its status."""
        began_s = self._clock.monotonic()
        try:
            Lettering(self._font)
            with self._peer.open(PROPOSALS) as association:
                detail, ok = PrintSession(association, self._name).check_printer(), True
        except AssociationError as error:
            detail, ok = f"{judge_error(error).reason}: {error}", False
        except (PrintFailed, Unannotatable, OSError) as error:
            detail, ok = str(error), False
        return CheckResult(ok=ok, detail=detail, duration_s=self._clock.monotonic() - began_s)

    def send(self, parcel: Parcel, settled: Settled) -> Outcome:
        """Print the items, film by film; each film is settled when the printer has taken it."""
        progress = Progress(settled, self._clock)
        most = self._options.max_films * self._most.boxes
        items = list(islice(parcel.items, most + 1))
        if len(items) > most:
            return Rejected(f"it would take more than {self._options.max_films} films (option max_films)")
        try:
            lettering = Lettering(self._font)
            printables = self._printables(items, lettering, progress)
        except Unannotatable as error:
            return Misconfigured(str(error))
        except OSError as error:
            return wait_for_the_machine(error)
        outcome = self._print(printables, lettering, progress)
        progress.flush()
        if outcome is None and progress.rejected:
            outcome = Rejected(f"{progress.rejected} not printed: {progress.first_refusal}")
        if outcome is not None:
            _log.warning(
                "printing stopped",
                destination=self._name,
                delivery=parcel.delivery,
                outcome=type(outcome).__name__,
                reason=outcome.reason,
                confirmed=progress.delivered,
            )
        return outcome or Delivered(f"{progress.delivered} printed")

    def close(self) -> None:
        """Keep nothing open between parcels: printers have few associations to give."""

    # ── films ───────────────────────────────────────────────────────────────────────────────────────────

    def _printables(
        self, items: Iterable[ParcelItem], lettering: Lettering, progress: Progress
    ) -> list[Printable]:
        """Look at every picture before the first film: what cannot be printed or named is refused now."""
        printables = []
        for item in items:
            try:
                with StoredImage(item.path, self._limits) as image, typed_errors("the header cannot be read"):
                    image.frame_bytes()
                    caption_of(image.header, lettering, frame=0, frames=image.frames)
                    printables.append(Printable.of(item, image.header))
            except Unrenderable as error:
                progress.reject(item, str(error))
        return printables

    def _print(self, printables: list[Printable], lettering: Lettering, progress: Progress) -> Outcome | None:
        """Print all films; answer what stopped it."""
        if not printables:
            return None
        ends_at_s = self._clock.monotonic() + SLICE_S
        try:
            association = self._peer.open(PROPOSALS)
        except AssociationError as error:
            return outcome_of(judge_error(error), str(error))
        session = PrintSession(association, self._name)
        patient: tuple[str, ...] | None = None
        try:
            session.check_printer()
            for grid, pictures in films(printables, self._sheet, self._most):
                if progress.delivered and self._clock.monotonic() > ends_at_s:
                    session.end()
                    association.release()
                    return MoreToSend("the rest follows")
                if pictures[0].patient != patient:
                    session.end()
                    session.begin(self._session_attributes())
                    patient = pictures[0].patient
                self._print_film(session, grid, pictures, lettering=lettering, progress=progress)
            session.end()
            association.release()
        except PrintFailed as failure:
            self._clean_up(session)
            return failure.outcome
        except OSError as error:
            # The network's trouble arrives as AssociationError: our own disk, while a film was being filled.
            self._clean_up(session)
            return wait_for_the_machine(error)
        except AssociationError:
            # Only the release can end here: everything before it is answered.
            return None
        finally:
            association.abort()
        return None

    def _print_film(
        self,
        session: PrintSession,
        grid: Grid,
        pictures: list[Printable],
        *,
        lettering: Lettering,
        progress: Progress,
    ) -> None:
        """Fill one film, print it, settle it. Raises PrintFailed."""
        progress.renew()
        film = session.new_film(grid, self._film_attributes())
        width, height = self._sheet.box(grid)
        shown: list[Printable] = []
        for printable in pictures:
            try:
                self._fill(
                    session, film, len(shown) + 1, printable, lettering=lettering, size=(width, height)
                )
            except Unrenderable as error:
                progress.reject(printable.item, str(error))
            else:
                shown.append(printable)
                progress.renew()
        if not shown:
            session.end_film(film)
            return
        # The last look at the lease is just before what cannot be taken back.
        progress.renew()
        status = session.print_film(film)
        if status in EMPTY_PAGE:
            raise PrintFailed(Unknown(f"the printer says the film is empty ({status:04X})"))
        for printable in shown:
            progress.deliver(printable.item, wire_status=f"{status:04X}")
        progress.flush()
        session.end_film(film)

    def _fill(
        self,
        session: PrintSession,
        film: FilmBox,
        position: int,
        printable: Printable,
        *,
        lettering: Lettering,
        size: tuple[int, int],
    ) -> None:
        """Give one box its picture, a smaller one when the printer finds it too large."""
        width, height = size
        pixels, modality = self._box(printable.item, lettering, width=width, height=height, scale=1.0)
        try:
            status = session.set_image(film, position, pixels)
        except PrintFailed as failure:
            if failure.status not in TOO_LARGE:
                raise
            pixels, _ = self._box(printable.item, lettering, width=width // 2, height=height // 2, scale=0.5)
            status = session.set_image(film, position, pixels)
        if status in CROPPED and modality == "MG":
            raise PrintFailed(Rejected(f"the printer would cut or coarsen a mammogram ({status:04X})"))

    def _box(
        self, item: ParcelItem, lettering: Lettering, *, width: int, height: int, scale: float
    ) -> tuple[npt.NDArray[np.uint8] | npt.NDArray[np.uint16], str]:
        """Render one picture with its caption to the dots of its box."""
        with StoredImage(item.path, self._limits) as image:
            index = self._options.frame.of(image.frames)
            picture = picture_of(image, frame=index)
            with typed_errors("the picture cannot be set on film"):
                caption = caption_of(image.header, lettering, frame=index, frames=image.frames)
                composed = with_caption(
                    lambda w, h: luminance(fitted(picture, width=w, height=h)),
                    caption,
                    lettering,
                    width=width,
                    height=height,
                    dots_per_mm=self._sheet.dots_per_mm * scale,
                )
                return quantised(composed, self._options.bits), str(image.header.get("Modality") or "")

    def _clean_up(self, session: PrintSession) -> None:
        """Take back what was prepared, as far as the printer still listens."""
        if session.association.is_open:
            session.end()
        with contextlib.suppress(AssociationError):
            session.association.release()

    def _session_attributes(self) -> dict[str, Any]:
        options = self._options
        return _present(
            NumberOfCopies=options.copies,
            PrintPriority=options.print_priority,
            MediumType=options.medium,
            FilmDestination=options.film_destination,
            FilmSessionLabel=options.label,
        )

    def _film_attributes(self) -> dict[str, Any]:
        options = self._options
        return _present(
            FilmOrientation=options.orientation.value,
            FilmSizeID=options.film_size.value,
            MagnificationType=options.magnification,
            BorderDensity=options.border,
            EmptyImageDensity=options.empty,
        )


def _present(**attributes: Any) -> dict[str, Any]:
    return {keyword: value for keyword, value in attributes.items() if value is not None}
