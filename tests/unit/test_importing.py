"""What is imported to stay is no business of the garbage collector's."""

import gc

import pytest

from broker.importing import staying


@pytest.fixture(autouse=True)
def _thaw():
    yield
    gc.unfreeze()
    gc.enable()


def test_nothing_is_collected_while_much_is_imported_nor_looked_at_afterwards():
    frozen = gc.get_freeze_count()
    with staying():
        assert not gc.isenabled()
        loaded = [[] for _ in range(100)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= frozen + len(loaded)
    assert not any(one is loaded for one in gc.get_objects())


def test_an_import_that_fails_leaves_the_collector_at_work():
    with pytest.raises(ImportError), staying():
        raise ImportError
    assert gc.isenabled()
