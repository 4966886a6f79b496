"""What every FileStore promises of what it keeps, on a real disk: content, names and digests."""

from __future__ import annotations

import hashlib
import io
import os
from datetime import timedelta
from pathlib import Path

import pydicom
import pytest

from broker.errors import InvalidValue, OutOfResources
from broker.files.shadow_digest import Digester
from tests.contract.sick_disk import NOW, StoppedClock, a_store, begin, files_below, keep


def test_a_kept_file_holds_the_data_set_exactly_as_it_came(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    data = os.urandom(300_001)
    incoming = begin(store)
    for start in range(0, len(data), 65_536):
        incoming.write(memoryview(data)[start : start + 65_536])
    kept = incoming.keep()
    content = store.absolute(kept.path).read_bytes()
    assert content[kept.data_set_offset :] == data
    assert kept.size_bytes == len(content)
    assert kept.sha256 == hashlib.sha256(data).digest()
    with store.open(kept.path) as stream:
        assert stream.read() == content


def test_the_head_is_a_part_10_file_with_a_zeroed_preamble(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    kept = keep(store)
    content = store.absolute(kept.path).read_bytes()
    assert content[:132] == b"\0" * 128 + b"DICM"
    dataset = pydicom.dcmread(io.BytesIO(content))
    assert dataset.Modality == "CT"
    meta = dataset.file_meta
    assert meta.FileMetaInformationVersion == b"\x00\x01"
    assert meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert meta.MediaStorageSOPInstanceUID == "1.2.3.4"
    assert meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert meta.ImplementationClassUID == "2.25.1"
    assert meta.ImplementationVersionName == "TEST"
    assert meta.SourceApplicationEntityTitle == "CT1"
    assert kept.data_set_offset == 144 + meta.FileMetaInformationGroupLength


def test_names_come_from_our_own_ids_and_the_group_alone_may_read(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    kept = begin(store, sop_instance_uid="../../etc/cron.d/x", calling_ae_title="../x")
    path = kept.keep().path
    assert path.startswith("20261121/0907/")
    assert path.endswith(".dcm")
    assert store.absolute(path).stat().st_mode & 0o777 == 0o640
    assert "etc" not in path


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "20261121/0907/x.dcm", "", "incoming/a.part"])
def test_a_path_that_is_not_ours_is_refused(tmp_path: Path, path: str) -> None:
    store = a_store(tmp_path)
    with pytest.raises(InvalidValue):
        store.open(path)
    with pytest.raises(InvalidValue):
        store.remove(path)


def test_the_digest_is_right_whoever_computes_it(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    alone, beside = begin(store), begin(store)
    data = os.urandom(5_000_001)
    for incoming in (alone, beside):
        for start in range(0, len(data), 131_066):
            incoming.write(memoryview(data)[start : start + 131_066])
    digest = hashlib.sha256(data).digest()
    assert [alone.keep().sha256, beside.keep().sha256] == [digest, digest]


def test_a_receiver_digests_itself_what_no_thread_came_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Digester, "take", lambda *_: None)
    store = a_store(tmp_path)
    data = os.urandom(3_000_001)
    incoming = begin(store)
    for start in range(0, len(data), 131_066):
        incoming.write(memoryview(data)[start : start + 131_066])
    assert incoming.keep().sha256 == hashlib.sha256(data).digest()
    given_up = begin(store)
    given_up.write(memoryview(data))
    given_up.discard()


def test_an_object_is_discarded_while_it_is_digested(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    for _ in range(20):
        incoming = begin(store)
        incoming.write(memoryview(bytes(3_000_000)))
        incoming.discard()
    assert files_below(tmp_path) == []
    assert keep(store).sha256


def test_a_discarded_file_leaves_nothing(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    incoming = begin(store)
    incoming.write(memoryview(b"half"))
    incoming.discard()
    incoming.discard()
    assert files_below(tmp_path) == []
    with pytest.raises(OutOfResources):
        incoming.keep()


def test_a_file_given_up_for_another_is_removed_unless_the_other_is_lost(tmp_path: Path) -> None:
    clock = StoppedClock(NOW)
    store = a_store(tmp_path, clock=clock)
    first = keep(store)
    clock.at += timedelta(days=1)
    spare = keep(store)
    store.give_up(spare.path, in_favour_of=first.path)
    store.settle()
    assert files_below(tmp_path) == [store.absolute(first.path)]
    store.remove(first.path)
    store.absolute(first.path).parent.rmdir()
    spare = keep(store)
    store.give_up(spare.path, in_favour_of=first.path)
    store.settle()
    assert files_below(tmp_path) == [store.absolute(first.path)]
