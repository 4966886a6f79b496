"""The folder destination on a real file system."""

from __future__ import annotations

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from pydantic import ValidationError

from broker.domain.delivery import Delivered, Misconfigured, Rejected, RetryLater
from broker.errors import LeaseLost
from broker.files import folder as folder_module
from broker.files.folder import FolderDestination, FolderOptions
from tests.parcels import Ledger, a_context, a_parcel, an_image, an_item


@pytest.fixture
def destination(tmp_path):
    return FolderDestination(FolderOptions(path="copies", keep_free_mib=0), a_context(tmp_path))


def files_in(tmp_path):
    return sorted(
        str(path.relative_to(tmp_path / "copies"))
        for path in (tmp_path / "copies").rglob("*")
        if path.is_file()
    )


def test_an_object_is_copied_bit_for_bit_under_its_uids(destination, tmp_path):
    item = an_item(an_image(), tmp_path / "store")
    ledger = Ledger()
    assert isinstance(destination.send(a_parcel([item]), ledger), Delivered)
    copy = (
        tmp_path
        / "copies"
        / item.study_instance_uid
        / item.series_instance_uid
        / f"{item.sop_instance_uid}.dcm"
    )
    assert copy.read_bytes() == item.path.read_bytes()
    assert ledger.delivered == [1]
    assert files_in(tmp_path) == [str(copy.relative_to(tmp_path / "copies"))]


def test_the_same_parcel_again_changes_nothing(destination, tmp_path):
    item = an_item(an_image(), tmp_path / "store")
    destination.send(a_parcel([item]), Ledger())
    copy = next((tmp_path / "copies").rglob("*.dcm"))
    before = copy.stat()
    ledger = Ledger()
    assert isinstance(destination.send(a_parcel([item], attempt=2), ledger), Delivered)
    assert ledger.delivered == [1]
    assert len(files_in(tmp_path)) == 1
    assert (copy.stat().st_ino, copy.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_another_content_under_the_same_uid_is_kept_beside_the_first(destination, tmp_path):
    image = an_image()
    first = an_item(image, tmp_path / "store", 1)
    image.ImageComments = "corrected"
    second = an_item(image, tmp_path / "store", 2)
    ledger = Ledger()
    destination.send(a_parcel([first, second]), ledger)
    stem = f"{first.study_instance_uid}/{first.series_instance_uid}/{first.sop_instance_uid}"
    assert files_in(tmp_path) == [f"{stem}.dcm", f"{stem}_v2.dcm"]
    assert (tmp_path / "copies" / f"{stem}.dcm").read_bytes() == first.path.read_bytes()
    assert (tmp_path / "copies" / f"{stem}_v2.dcm").read_bytes() == second.path.read_bytes()
    assert "version" in ledger.results[1].reason
    destination.send(a_parcel([second, first]), Ledger())
    assert len(files_in(tmp_path)) == 2


@pytest.mark.parametrize(
    "uid",
    [
        "../../etc/passwd",
        "..",
        ".",
        "",
        "1.2/3",
        "1.2\x00",
        "1.2.3\n",
        "/abs",
        "1..2",
        "1." * 40 + "1",
        "١.٢",
    ],
)
def test_a_hostile_uid_never_becomes_a_path(destination, tmp_path, uid):
    good = an_item(an_image(), tmp_path / "store", 1)
    for number, name in enumerate(("sop_instance_uid", "series_instance_uid", "study_instance_uid")):
        ledger = Ledger()
        outcome = destination.send(a_parcel([replace(good, **{name: uid}, id=number)]), ledger)
        assert isinstance(outcome, Rejected)
        assert ledger.rejected == [number]
    assert not (tmp_path / "copies").exists()


def test_a_bad_item_does_not_stop_the_good_ones(destination, tmp_path):
    gone = replace(an_item(an_image(), tmp_path / "store", 1), path=tmp_path / "gone.dcm")
    good = an_item(an_image(), tmp_path / "store", 2)
    ledger = Ledger()
    outcome = destination.send(a_parcel([gone, good]), ledger)
    assert isinstance(outcome, Rejected)
    assert ledger.rejected == [1]
    assert ledger.delivered == [2]
    assert str(tmp_path) not in outcome.reason


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_stored_file_that_cannot_be_opened_just_now_waits(destination, tmp_path, unopenable, number):
    parcel = [an_item(an_image(), tmp_path / "store", number) for number in (1, 2)]
    ledger = Ledger()
    with unopenable(parcel[1].path, number):
        outcome = destination.send(a_parcel(parcel), ledger)
    assert isinstance(outcome, RetryLater)
    assert outcome.ours
    assert (ledger.delivered, ledger.rejected) == ([1], [])
    assert isinstance(destination.send(a_parcel(parcel[1:]), ledger), Delivered)


def test_a_relative_path_that_leaves_the_data_directory_is_misconfigured(tmp_path):
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    destination = FolderDestination(FolderOptions(path="../outside", keep_free_mib=0), a_context(data_dir))
    item = an_item(an_image(), tmp_path / "store")
    ledger = Ledger()
    assert isinstance(destination.send(a_parcel([item]), ledger), Misconfigured)
    assert not destination.check().ok
    assert ledger.results == []
    assert not (tmp_path / "outside").exists()


def test_a_file_where_the_folder_should_be_is_misconfigured(destination, tmp_path):
    (tmp_path / "copies").write_text("in the way")
    ledger = Ledger()
    outcome = destination.send(a_parcel([an_item(an_image(), tmp_path / "store")]), ledger)
    assert isinstance(outcome, Misconfigured)
    assert ledger.results == []
    assert not destination.check().ok


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, RetryLater),
        (errno.EIO, RetryLater),
        (errno.EROFS, Misconfigured),
        (errno.EACCES, Misconfigured),
    ],
)
def test_a_write_that_fails_leaves_nothing_and_says_whether_to_wait(
    destination, tmp_path, monkeypatch, number, expected
):
    def fail(handle):
        raise OSError(number, os.strerror(number))

    item = an_item(an_image(), tmp_path / "store")
    (tmp_path / "copies").mkdir()
    monkeypatch.setattr(folder_module.os, "fsync", fail)
    ledger = Ledger()
    outcome = destination.send(a_parcel([item]), ledger)
    assert isinstance(outcome, expected)
    assert ledger.results == []
    assert files_in(tmp_path) == []


def test_too_little_space_waits_and_says_so(tmp_path):
    destination = FolderDestination(FolderOptions(path="copies", keep_free_mib=1 << 40), a_context(tmp_path))
    ledger = Ledger()
    assert isinstance(
        destination.send(a_parcel([an_item(an_image(), tmp_path / "store")]), ledger), RetryLater
    )
    assert ledger.results == []
    check = destination.check()
    assert not check.ok
    assert "free" in check.detail


def test_check_writes_and_leaves_nothing(destination, tmp_path):
    assert destination.check().ok
    assert files_in(tmp_path) == []


def test_progress_before_trouble_is_settled(destination, tmp_path, monkeypatch):
    items = [an_item(an_image(), tmp_path / "store", number) for number in range(1, 6)]
    copied = []
    real = folder_module._write_part

    def full_after_three(source, target):
        if len(copied) == 3:
            raise OSError(errno.ENOSPC, "full")
        copied.append(target)
        return real(source, target)

    monkeypatch.setattr(folder_module, "_write_part", full_after_three)
    ledger = Ledger()
    assert isinstance(destination.send(a_parcel(items), ledger), RetryLater)
    assert ledger.delivered == [1, 2, 3]


def test_results_are_settled_in_batches(destination, tmp_path):
    items = [an_item(an_image(), tmp_path / "store", number) for number in range(1, 46)]
    ledger = Ledger()
    assert isinstance(destination.send(a_parcel(items), ledger), Delivered)
    assert sorted(ledger.delivered) == list(range(1, 46))
    assert ledger.calls < 10


def test_a_lost_lease_stops_the_copying(destination, tmp_path):
    items = [an_item(an_image(), tmp_path / "store", number) for number in range(1, 46)]
    with pytest.raises(LeaseLost):
        destination.send(a_parcel(items), Ledger(lose_after=0))
    assert len(files_in(tmp_path)) < 45


def test_two_workers_with_different_contents_overwrite_nothing(destination, tmp_path):
    image = an_image()
    items = []
    for number in range(1, 9):
        image.ImageComments = f"content {number}"
        items.append(an_item(image, tmp_path / "store", number))
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda item: destination.send(a_parcel([item]), Ledger()), items))
    assert all(isinstance(outcome, Delivered) for outcome in outcomes)
    contents = {path.read_bytes() for path in (tmp_path / "copies").rglob("*.dcm")}
    assert contents == {item.path.read_bytes() for item in items}


def test_a_share_without_hard_links_overwrites_nothing_either(destination, tmp_path, monkeypatch):
    def no_links(source, target):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(folder_module.os, "link", no_links)
    test_two_workers_with_different_contents_overwrite_nothing(destination, tmp_path)
    assert not list((tmp_path / "copies").rglob("*.part"))


def test_an_absolute_path_may_be_anywhere(tmp_path):
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    destination = FolderDestination(
        FolderOptions(path=tmp_path / "copies", keep_free_mib=0), a_context(data_dir)
    )
    assert isinstance(
        destination.send(a_parcel([an_item(an_image(), tmp_path / "store")]), Ledger()), Delivered
    )
    copy = next((tmp_path / "copies").rglob("*.dcm"))
    assert stat.S_ISREG(copy.stat().st_mode)


def test_unknown_options_are_refused():
    with pytest.raises(ValidationError):
        FolderOptions.model_validate({"path": "copies", "pth": "x"})
