"""Says how one device likes to be spoken to; what it does not say follows the standard."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from broker.domain.matching import DEFAULT_POLICY, MatchingPolicy


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """Describes one calling device to the worklist."""

    ae_title: str = ""
    modalities: tuple[str, ...] = ()
    """What it makes; a started step stays visible to devices of its modality."""
    matching: MatchingPolicy = DEFAULT_POLICY
    # --- what it asks
    is_strict: bool = False
    """Refuse (A900) identifiers that break the standard instead of reading what they mean."""
    character_set: tuple[str, ...] = ()
    """What it is answered in, and what its bytes mean when it does not say; (0008,0005) values."""
    any_modality: frozenset[str] = frozenset({"ALL", "ANY"})
    """Modality keys it sends when it means every modality."""
    any_station: frozenset[str] = frozenset({"ANY"})
    uses_calling_ae_title: bool = False
    """An empty or wrong Scheduled Station AE Title key means the device itself."""
    guards_broad_queries: bool = False
    """A query without any value means today, give or take a day."""
    # --- what it is answered
    adds_step_item: bool = False
    """It asks without Scheduled Procedure Step Sequence but reads one."""
    unicode_allowed: bool | None = None
    """May be answered in ISO_IR 192 when nothing else fits; None: unless it has a character set of its own."""
    umlauts_as_two: bool = True
    always_character_set: bool = True
    omit_empty_sequences: bool = False
    single_code: bool = False
    alphabetic_only: bool = False
    warns_of_unsupported: bool = False
    """Answer FF01 where an optional key is not supported; some devices take it for a failure."""
    max_results: int | None = None
    refuses_over_limit: bool = False
    """Answer A700 instead of the first `max_results`."""
    started_visible_for: timedelta = timedelta(hours=4)


DEFAULT_DEVICE = DeviceProfile()
