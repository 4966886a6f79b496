"""Every kind of acknowledgement leaves after the last sync; and the proof fails where a sync is missing."""

import pytest

from tests.attacks.ledger import Bench
from tests.attacks.power_cut import TracedDisk
from tests.attacks.syncs import KINDS, Flows, deliveries, judge, on_postgresql, on_sqlite
from tests.attacks.system_calls import read_calls

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(400)]


def test_what_every_kind_of_acknowledgement_speaks_of_is_synced_before_it_leaves(tmp_path):
    flows, wrong = on_sqlite(tmp_path / "b", 1)
    assert wrong == []
    assert {flow.kind for flow in flows} == set(KINDS)


@pytest.mark.postgres
@pytest.mark.parametrize(
    "settings",
    [(), ("synchronous_commit=off", "wal_writer_delay=10s", "wal_writer_flush_after=100MB")],
    ids=["durable", "not durable"],
)
def test_the_server_has_synced_its_log_before_an_answer_leaves(settings, tmp_path):
    flows, wrong = on_postgresql(tmp_path / "b", 1, *settings)
    assert {flow.kind for flow in flows} == set(KINDS)
    assert bool(wrong) == bool(settings), wrong


def test_a_delivery_is_noted_after_its_peer_has_answered(tmp_path):
    assert deliveries(tmp_path / "b", 1) == (1, [])


@pytest.mark.parametrize(
    ("bug", "kind"),
    [("ack_before_commit", "C-STORE:"), ("sqlite_normal", "AA:"), ("forgotten_folder_sync", "C-STORE:")],
)
def test_an_answer_without_its_sync_is_seen(bug, kind, tmp_path):
    bench, trace = Bench(tmp_path / "b"), tmp_path / "trace"
    disk, flows = TracedDisk(bench.data_dir, bench.data_dir), Flows(bench)
    with bench.process("web", bug, trace=trace):
        flows.run(4)  # on a busy machine what is "a little later" comes in time now and then
    assert any(one.startswith(kind) for one in judge(flows.done, read_calls(trace), disk))
