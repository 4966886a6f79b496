"""What pages and command line ask beyond rows: would a scanner see this, and what does this image look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from broker.bootstrap import Broker
from broker.db.worklist_query import SqlWorklistReader
from broker.dicom.objects.preview import Preview, Previews
from broker.dicom_role import device_profiles
from broker.errors import NotFound
from broker.hl7.anatomy import dissect, read_again
from broker.hl7.charsets import LATIN_1, Charset, charset_named
from broker.hl7.mapping import MappingSet
from broker.hl7_role import mapping_directory
from broker.workflow.entries import Asked, Sight, query_of, sights
from broker.workflow.message_reports import ReadAgain, SegmentPart
from broker.workflow.worklist import Worklist


class BrokerInsight:
    """Implements the Insight port for a wired broker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._previews = Previews()

    def devices(self) -> Sequence[str]:
        """Answer the AE titles of the configured devices."""
        return [device.ae_title for device in self._broker.loaded.site.devices]

    def sights(self, order_id: int, ae_title: str, asked: Asked) -> Sequence[Sight]:
        """Say whether a device would be shown the steps of an order, asking like this now. Raises NotFound."""
        if ae_title not in self.devices():
            raise NotFound(f"There is no device {ae_title} in the site file.")
        entries = self._broker.reports.order_entries(order_id)
        device = device_profiles(self._broker)(ae_title)
        worklist = Worklist(SqlWorklistReader(self._broker.engine), self._broker.clock)
        query = query_of(asked, device, now=self._broker.clock.local_now())
        return sights(entries, query, device, worklist)

    def dissect(self, raw: bytes, problems: Sequence[Mapping[str, str]] = ()) -> Sequence[SegmentPart]:
        """Take an HL7 message apart, with its problems at their places; empty when it is none."""
        return dissect(raw, problems, default=self._charset)

    def read_again(self, raw: bytes) -> ReadAgain:
        """Say what an HL7 message asks for with the mapping in force; nothing is changed."""
        return read_again(raw, self._mappings, default=self._charset)

    @cached_property
    def _mappings(self) -> MappingSet:
        return MappingSet.load(mapping_directory(self._broker), site_zone=self._broker.zone)

    @property
    def _charset(self) -> Charset:
        return charset_named(self._broker.loaded.site.listen.hl7.default_character_set) or LATIN_1

    def preview(self, instance_id: int) -> Preview:
        """Answer a small picture of an instance. Raises NotFound, OutOfResources."""
        line = self._broker.reports.instance(instance_id)
        return self._previews.of(
            self._broker.files.absolute(line.path),
            sop_class_uid=line.sop_class_uid,
            transfer_syntax_uid=line.transfer_syntax_uid,
        )
