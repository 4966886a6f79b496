"""What the supervisor of `broker serve` does between the death of a role and its next life."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing

from broker.db.engine import open_engine
from broker.db.migrate import migrate
from broker.embedded import _forget


def test_a_locked_database_does_not_keep_the_supervisor_from_its_children(tmp_path):
    address = f"sqlite:///{tmp_path / 'broker.sqlite3'}"
    engine = open_engine(address)
    migrate(engine)
    engine.dispose()
    with closing(sqlite3.connect(tmp_path / "broker.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        forgetting = threading.Thread(target=_forget, args=(address, "worker", os.getpid()), daemon=True)
        forgetting.start()
        forgetting.join(20)  # others wait 30 s for the lock
        assert not forgetting.is_alive()
        other.execute("ROLLBACK")
