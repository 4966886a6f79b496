"""A routing task drains what nobody has decided about, and leaves no image to the next sweep."""

from contextlib import contextmanager, nullcontext

from workers.desk import Desk


class _Broker:
    """Images that wait to be routed; `meanwhile` is called once, while the first batch is being decided."""

    def __init__(self, waiting):
        self.waiting = list(waiting)
        self.routed = []
        self.meanwhile = lambda: None
        self.instances = self

    @contextmanager
    def units_of_work(self):
        yield self

    def undecided(self, limit, **_):
        return self.waiting[:limit]

    def route(self, ids):
        self.routed += ids
        self.waiting = [key for key in self.waiting if key not in ids]
        happened, self.meanwhile = self.meanwhile, lambda: None
        happened()


def test_a_task_routes_every_image_that_waits_not_only_the_one_it_names():
    broker = _Broker(range(1, 501))
    Desk(lambda: nullcontext(broker)).route(500)
    assert broker.routed == list(range(1, 501))


def test_an_image_whose_wake_up_comes_while_another_thread_routes_is_routed_by_that_thread():
    broker = _Broker([1])
    desk = Desk(lambda: nullcontext(broker))
    looked = []

    def arrive():
        # After the look that found 1, before the look that would find nothing: the wake-up returns at once.
        real = broker.undecided

        def late(limit, **_):
            looked.append(limit)
            broker.undecided = real
            return []

        broker.undecided = late
        broker.waiting.append(2)
        desk.route(2)
        assert broker.routed == [1]

    broker.meanwhile = arrive
    desk.route(1)
    assert looked, "the first thread had looked before the image could be seen"
    assert broker.routed == [1, 2]


def test_a_desk_that_stops_begins_nothing_new():
    broker = _Broker([1])
    desk = Desk(lambda: nullcontext(broker))
    desk.stop()
    desk.route(1)
    assert broker.routed == []
