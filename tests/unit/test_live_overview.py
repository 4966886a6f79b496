"""One stream for all who look: made once, each told only what is new to them."""

import asyncio
from contextlib import aclosing

import pytest

from broker.errors import DatabaseUnavailable
from broker.web.live import LiveOverview, TooManyViewers, event

SECTIONS = {"flow": "<b>1</b>", "clock": "08:00"}


class Source:
    """Sections that a test changes; counts how often they were made."""

    def __init__(self):
        self.sections = dict(SECTIONS)
        self.fails = False

    def __call__(self):
        if self.fails:
            raise DatabaseUnavailable
        return dict(self.sections)


@pytest.fixture
def source():
    return Source()


def live(source, **options):
    return LiveOverview(source, **({"every_s": 0.005} | options))


def run(conversation):
    asyncio.run(asyncio.wait_for(conversation, 30))


def test_a_viewer_is_told_everything_first_and_then_what_has_changed(source):
    async def look():
        async with aclosing(live(source).watch()) as told:
            assert await anext(told) == b"retry: 2000\n\n"
            first = await anext(told)
            assert first == b"event: flow\ndata: <b>1</b>\n\nevent: clock\ndata: 08:00\n\n"
            source.sections["clock"] = "08:01"
            assert await anext(told) == b"event: clock\ndata: 08:01\n\n"

    run(look())


def test_fifty_viewers_cost_as_much_as_one(source):
    async def look():
        shared = live(source)

        async def one():
            async with aclosing(shared.watch()) as told:
                await anext(told)
                for number in range(3):
                    await anext(told)
                    source.sections["clock"] = f"{number} {shared.rendered}"

        await asyncio.gather(*(one() for _ in range(50)))
        assert shared.viewers == 0
        assert shared.rendered < 50, "three turns for all, not a hundred and fifty"

    run(look())


def test_nothing_is_made_when_nobody_looks_and_again_for_the_next_who_does(source):
    async def look():
        shared = live(source)
        for _ in range(2):
            async with aclosing(shared.watch()) as told:
                await anext(told)
                assert b"flow" in await anext(told)
            await shared._task
        made = shared.rendered
        for _ in range(20):
            await asyncio.sleep(0.002)
        assert shared.rendered == made

    run(look())


def test_a_database_that_is_away_tells_nobody_a_time_and_the_stream_goes_on(source):
    async def look():
        shared = live(source)
        async with aclosing(shared.watch()) as told:
            await anext(told)
            await anext(told)
            source.fails = True
            source.sections["clock"] = "08:05"
            made = shared.rendered
            waits = asyncio.ensure_future(anext(told))
            turns = [asyncio.create_task(shared._turning().wait()) for _ in range(3)]
            await asyncio.gather(*turns)
            assert not waits.done()
            assert shared.rendered <= made + 1
            source.fails = False
            assert b"08:05" in await waits

    run(look())


def test_a_stream_ends_when_it_is_closed_or_old_and_there_are_only_so_many(source):
    async def look():
        shared = live(source, most_viewers=1, most_turns=3)
        source_of_change = iter(range(1000))
        async with aclosing(shared.watch()) as told:
            await anext(told)
            with pytest.raises(TooManyViewers):
                shared.check_room()
            async for _ in told:
                source.sections["clock"] = str(next(source_of_change))
        shared.check_room()
        shared.close()
        assert [part async for part in shared.watch()] == [b"retry: 2000\n\n"]
        with pytest.raises(TooManyViewers):
            shared.check_room()

    run(look())


def test_who_may_look_no_longer_is_turned_out_and_the_others_see_on(source):
    asked, gone = [], set()

    def turned_out(everybody):
        asked.append(set(everybody))
        return gone & set(everybody)

    async def look():
        shared = live(source, turned_out=turned_out, ask_every=2)
        async with aclosing(shared.watch("ada")) as ada, aclosing(shared.watch("bob")) as bob:
            waits = [asyncio.ensure_future(anext(told)) for told in (ada, bob)]
            await asyncio.gather(*waits)
            waits = [asyncio.ensure_future(anext(told)) for told in (ada, bob)]
            await asyncio.gather(*waits)
            gone.add("ada")
            with pytest.raises(StopAsyncIteration):
                await anext(ada)
            source.sections["clock"] = "08:09"
            assert b"08:09" in await anext(bob)
        assert {"ada", "bob"} in asked, "one question for all who look"

    run(look())


def test_a_question_that_cannot_be_answered_turns_nobody_out_and_is_asked_again(source):
    answers = [DatabaseUnavailable(), DatabaseUnavailable()]

    def turned_out(everybody):
        if answers:
            raise answers.pop()
        return everybody

    async def look():
        shared = live(source, turned_out=turned_out, ask_every=1)
        assert [part async for part in shared.watch("ada")] == [b"retry: 2000\n\n"]
        assert not answers

    run(look())


def test_what_is_sent_has_no_line_that_could_end_it():
    text = "<p>a\n\n\r\nevent: trap\rdata: b</p>\u2028c"
    lines = event("flow", text).decode().removesuffix("\n\n").split("\n")
    assert lines[0] == "event: flow"
    assert all(line.startswith("data: ") for line in lines[1:])
