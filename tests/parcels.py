"""Builders for what a destination is given: stored objects, parcels, and a ledger of what was settled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from broker.domain.delivery import ItemState
from broker.errors import LeaseLost
from broker.workflow.clock import SystemClock
from broker.workflow.destinations_port import DestinationContext, ItemResult, Parcel, ParcelItem


@dataclass
class Ledger:
    """Records what was settled; loses its lease after `lose_after` calls."""

    results: list[ItemResult] = field(default_factory=list)
    calls: int = 0
    lose_after: int | None = None

    def __call__(self, results: Sequence[ItemResult]) -> None:
        self.calls += 1
        if self.lose_after is not None and self.calls > self.lose_after:
            raise LeaseLost
        self.results.extend(results)

    def items(self, state: ItemState) -> list[int]:
        return [result.item for result in self.results if result.state is state]

    @property
    def delivered(self) -> list[int]:
        return self.items(ItemState.DELIVERED)

    @property
    def rejected(self) -> list[int]:
        return self.items(ItemState.REJECTED)


def a_context(data_dir: Path, name: str = "somewhere") -> DestinationContext:
    return DestinationContext(
        name=name, ae_title="BROKER", data_dir=data_dir, clock=SystemClock(), site_name="General Hospital"
    )


def an_image(*, rows: int = 16, columns: int = 16, bits: int = 12, pixels=None, **attributes) -> Dataset:
    """Make a synthetic CT image that can be saved."""
    if pixels is None:
        pixels = np.arange(rows * columns, dtype=np.uint16).reshape(rows, columns) % (1 << bits)
    ds = Dataset()
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID = "1.2.826.0.1.3680043.10.1"
    ds.SeriesInstanceUID = "1.2.826.0.1.3680043.10.1.1"
    ds.PatientName = "ZZTEST^ANNA"
    ds.PatientID = "ZZ-1"
    ds.PatientBirthDate = "19700101"
    ds.PatientSex = "F"
    ds.StudyDate = "20260102"
    ds.StudyTime = "101500"
    ds.AccessionNumber = "ACC1"
    ds.StudyID = "S1"
    ds.SeriesNumber = 1
    ds.InstanceNumber = 1
    ds.Modality = "CT"
    ds.Laterality = ""
    ds.Rows, ds.Columns = (
        pixels.shape[-2:] if pixels.ndim < 3 or pixels.shape[-1] != 3 else pixels.shape[-3:-1]
    )
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated = pixels.dtype.itemsize * 8
    ds.BitsStored = min(bits, ds.BitsAllocated)
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = 1 if pixels.dtype.kind == "i" else 0
    ds.PixelData = pixels.tobytes()
    for keyword, value in attributes.items():
        if value is None:
            if keyword in ds:
                delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def save(ds: Dataset, path: Path, *, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> Path:
    """Save as a Part 10 file."""
    if not hasattr(ds, "file_meta"):
        ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ds.file_meta.get("TransferSyntaxUID") or transfer_syntax_uid
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def data_set_offset(path: Path) -> int:
    """Find where the data set begins, from the group length (PS3.10 7.1)."""
    head = path.read_bytes()[:144]
    return 144 + int.from_bytes(head[140:144], "little")


def an_item(ds: Dataset, folder: Path, number: int = 1, **overrides) -> ParcelItem:
    """Save an image and describe it as a delivery item."""
    path = save(ds, folder / f"{number}.dcm")
    values = {
        "id": number,
        "instance": number,
        "sop_class_uid": str(ds.SOPClassUID),
        "sop_instance_uid": str(ds.SOPInstanceUID),
        "transfer_syntax_uid": str(ds.file_meta.TransferSyntaxUID),
        "study_instance_uid": str(ds.StudyInstanceUID),
        "series_instance_uid": str(ds.SeriesInstanceUID),
        "path": path,
        "data_set_offset": data_set_offset(path),
        "size_bytes": path.stat().st_size,
        "calling_ae_title": "CT1",
    }
    return ParcelItem(**{**values, **overrides})


def a_parcel(items: Iterable[ParcelItem], *, delivery: int = 7, attempt: int = 1) -> Parcel:
    kept = list(items)
    return Parcel(
        delivery=delivery,
        attempt=attempt,
        items=iter(kept),
        contexts=tuple(dict.fromkeys((item.sop_class_uid, item.transfer_syntax_uid) for item in kept)),
        unit="series",
    )
