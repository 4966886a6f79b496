"""A backup is taken while the broker runs, and brings everything back or says what is wrong."""

import hashlib
import json
from dataclasses import replace

import pytest
from sqlalchemy import select

from broker.db.backup import backup, read_manifest, restore
from broker.db.engine import open_engine, reading
from broker.db.revisions import is_current
from broker.db.schema import METADATA
from broker.db.seal import seal_events, verify_events
from broker.errors import ConfigurationError, Conflict, NotFound
from tests.builders import NOW, a_delivery, a_stored_entry, an_instance
from tests.postgres import administer


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "data" / "images"
    (folder / "20261121").mkdir(parents=True)
    return folder


@pytest.fixture
def empty_url(database_url, tmp_path, request):
    """Address of an empty database of the same kind."""
    if database_url.startswith("sqlite"):
        yield f"sqlite:///{tmp_path / 'elsewhere' / 'broker.sqlite3'}"
        return
    postgres = request.getfixturevalue("postgres")
    name = f"restored_{database_url.rsplit('test_')[-1].split('?')[0]}"
    administer(postgres, f"CREATE DATABASE {name}")
    yield database_url.replace(database_url.split("/")[-1].split("?")[0], name)
    administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def filled(engine, uow_factory, images):
    """A database with an order, images on disk and a delivery of them."""
    with uow_factory() as uow:
        a_stored_entry(uow)
        instances = []
        for number in range(3):
            data_set = bytes([number]) * 5000
            instance = an_instance(number, size_bytes=5350, sha256=hashlib.sha256(data_set).digest())
            (images / instance.path).write_bytes(b"\0" * 350 + data_set)
            instances.append(instance)
        delivery = uow.deliveries.add(a_delivery(), now=NOW)
        uow.deliveries.add_items(delivery, uow.instances.add_many(instances))
        uow.commit()
    return images


def content(url_or_engine):
    """Everything in every table, the events (of the backup itself) apart."""
    engine = open_engine(url_or_engine) if isinstance(url_or_engine, str) else url_or_engine
    with reading(engine) as connection:
        found = {
            table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))]
            for table in METADATA.sorted_tables
            if table.name != "event"
        }
    if isinstance(url_or_engine, str):
        assert is_current(engine)
        assert verify_events(engine).problems == ()
        engine.dispose()
    return found


def test_everything_comes_back(engine, filled, empty_url, tmp_path):
    seal_events(engine)
    before = content(engine)
    manifest = backup(engine, filled, tmp_path / "backup", now=NOW, actor="admin")
    assert (manifest.files, manifest.bytes, manifest.problems) == (3, 3 * 5350, ())
    assert content(engine) == before
    again = tmp_path / "elsewhere" / "images"
    assert restore(empty_url, again, tmp_path / "backup") == manifest == read_manifest(tmp_path / "backup")
    assert content(empty_url) == before
    for path in filled.rglob("*.dcm"):
        assert (again / path.relative_to(filled)).read_bytes() == path.read_bytes()


def test_the_backup_is_itself_an_event(sqlite_engine, sqlite_uow_factory, images, tmp_path):
    backup(sqlite_engine, images, tmp_path / "backup", now=NOW, actor="admin")
    with reading(sqlite_engine) as connection:
        (event,) = connection.execute(select(METADATA.tables["event"])).mappings()
    assert (event["name"], event["actor"], event["details"]["files"]) == ("backup written", "admin", 0)


def test_a_restore_overwrites_nothing(engine, database_url, filled, empty_url, tmp_path):
    backup(engine, filled, tmp_path / "backup", now=NOW)
    before = content(engine)
    with pytest.raises(Conflict):
        restore(database_url, tmp_path / "new", tmp_path / "backup")
    assert content(engine) == before
    assert not (tmp_path / "new").exists()
    with pytest.raises(Conflict):
        restore(empty_url, filled, tmp_path / "backup")
    with pytest.raises(Conflict):
        backup(engine, filled, tmp_path / "backup", now=NOW)


@pytest.fixture
def sqlite_backup(sqlite_engine, sqlite_uow_factory, images, tmp_path):
    with sqlite_uow_factory() as uow:
        uow.instances.add_many(
            [
                replace(
                    an_instance(1, size_bytes=353, sha256=hashlib.sha256(b"abc").digest()),
                    path="20261121/1.dcm",
                )
            ]
        )
        uow.commit()
    (images / "20261121" / "1.dcm").write_bytes(b"\0" * 350 + b"abc")
    backup(sqlite_engine, images, tmp_path / "backup", now=NOW)
    return tmp_path / "backup"


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()  # a link to the original must not damage that too
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["database.sqlite3", "images.jsonl", "images/20261121/1.dcm"])
def test_a_damaged_backup_is_refused_and_nothing_is_written(sqlite_backup, tmp_path, name):
    damage(sqlite_backup / name)
    place = tmp_path / "new"
    with pytest.raises(Conflict):
        restore(f"sqlite:///{place / 'broker.sqlite3'}", place / "images", sqlite_backup)
    assert not place.exists()


def test_a_backup_may_not_write_outside_of_the_folder(sqlite_backup, tmp_path):
    (sqlite_backup / "images.jsonl").write_text(
        json.dumps({"path": "../../evil", "sha256": "", "size_bytes": 1})
    )
    manifest = json.loads((sqlite_backup / "manifest.json").read_text())
    manifest["file_list_sha256"] = hashlib.sha256((sqlite_backup / "images.jsonl").read_bytes()).hexdigest()
    (sqlite_backup / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Conflict, match="outside"):
        restore(f"sqlite:///{tmp_path / 'new' / 'b.sqlite3'}", tmp_path / "new" / "images", sqlite_backup)


def test_what_is_no_backup_is_refused(sqlite_backup, tmp_path):
    url = f"sqlite:///{tmp_path / 'new' / 'b.sqlite3'}"
    with pytest.raises(NotFound):
        restore(url, tmp_path / "new", tmp_path)
    with pytest.raises(ConfigurationError):
        restore("postgresql://x@/y", tmp_path / "new", sqlite_backup)
    (sqlite_backup / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(ConfigurationError):
        restore(url, tmp_path / "new", sqlite_backup)


def test_an_image_that_changed_or_went_is_named_and_the_rest_is_kept(engine, filled, tmp_path):
    (filled / "20261121" / "0.dcm").unlink()
    damage(filled / "20261121" / "1.dcm")
    manifest = backup(engine, filled, tmp_path / "backup", now=NOW)
    assert manifest.files == 1
    assert [problem.split(":")[0] for problem in manifest.problems] == ["20261121/0.dcm", "20261121/1.dcm"]
    assert "not what was received" in manifest.problems[1]


def test_an_interrupted_backup_is_not_taken_for_one(sqlite_engine, images, tmp_path):
    (tmp_path / "backup.part").mkdir()
    (tmp_path / "backup.part" / "rest").write_text("x")
    backup(sqlite_engine, images, tmp_path / "backup", now=NOW)
    assert sorted(path.name for path in (tmp_path / "backup").iterdir()) == [
        "database.sqlite3",
        "images",
        "images.jsonl",
        "manifest.json",
    ]
