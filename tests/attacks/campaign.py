"""The campaign: everything a broker is made of and leans on is broken under load, and the books must balance.

Two brokers are besieged, one on SQLite and the bundled Valkey, one on PostgreSQL and Redis. Each keeps running
through many faults; after some of them the load ends, what is open is done, and the ledger is compared with rows
and files. The short form breaks everything once, the long form more than 500 times.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from broker.failpoints import FAILPOINTS
from tests.attacks import campaign_faults as faults
from tests.attacks.campaign_failpoints import NAMES, STARTS, decks, kill_at_start, play_round
from tests.attacks.campaign_faults import Fault
from tests.attacks.campaign_services import Postgres, Redis, small_disk
from tests.attacks.campaign_site import Seen, Siege
from tests.attacks.outcome import Outcome
from tests.postgres import postgres_server

KILLED_S, DATABASE_S, DISK_S = 3.0, 5.0, 10.0
"""How soon it is to serve again: what it is measured against, not what makes it fail."""
ROUNDS = max(len(names) for names in NAMES.values()) // 2 + 1
"""Of two brokers; then every failpoint was dealt."""


def attack(seed: int, long: bool, folder: Path) -> Iterator[Outcome]:
    """Break everything; yields an outcome for each kind of thing."""
    chance = random.Random(seed)
    with ExitStack() as stack:
        address = stack.enter_context(postgres_server())
        redis = Redis(folder / "redis")
        redis.start()
        stack.callback(redis.kill)
        postgres = Postgres(address)
        environment = {"BROKER_DATABASE_URL": postgres.url, "BROKER_REDIS_URL": redis.url}
        stack.enter_context(small_disk(folder / "a" / "data", megabytes=2000 if long else 600))
        embedded = stack.enter_context(contextlib.closing(Siege(folder / "a", seed * 1000)))
        apart = stack.enter_context(
            contextlib.closing(Siege(folder / "b", seed * 1000 + 500, environment=environment))
        )
        for siege in (embedded, apart):
            siege.start()
        yield from _failpoints([embedded, apart], chance, chapters=5 if long else 1)
        yield from _embedded(embedded, chance, long=long)
        yield from _apart(apart, chance, redis, postgres, long=long)
        if long:
            yield from _replicas(folder / "c", seed * 1000 + 900, chance, address, redis)


def _failpoints(sieges: Sequence[Siege], chance: random.Random, *, chapters: int) -> Iterator[Outcome]:
    hands, reached = decks(chance), set[str]()
    for siege in sieges:
        siege.seen = Seen()
    for chapter in range(chapters):
        for _ in range(ROUNDS):
            reached |= play_round(sieges, hands)
        for siege in sieges:
            siege.balance(goes_on=chapter + 1 < chapters)
    left = set(FAILPOINTS) - set(STARTS) - reached
    for siege, where in zip(sieges, ("SQLite and Valkey", "PostgreSQL and Redis"), strict=True):
        siege.seen.findings += [f"{name} was never reached" for name in sorted(left)]
        yield _outcome(f"kill -9 at failpoints, four roles in turn, {where}", siege, KILLED_S)


def _embedded(siege: Siege, chance: random.Random, *, long: bool) -> Iterator[Outcome]:
    def at_starts(siege: Siege, chance: random.Random) -> None:
        kill_at_start(siege, chance.choice(STARTS))

    groups: list[tuple[str, float, dict[Fault, int]]] = [
        (
            "kill -9 at random: a process, a whole broker, a start",
            KILLED_S,
            {faults.kill_one: 40 if long else 3, faults.kill_all: 6 if long else 1},
        ),
        (
            "the bundled Valkey killed, emptied, frozen",
            KILLED_S,
            {
                faults.valkey_killed: 6 if long else 1,
                faults.valkey_emptied: 10 if long else 1,
                faults.valkey_frozen: 5 if long else 1,
            },
        ),
        ("SQLite locked from outside", DATABASE_S, {faults.sqlite_held: 6 if long else 1}),
        ("disk full, then freed", DISK_S, {faults.disk_full: 8 if long else 1}),
        (
            "SIGTERM under load; a role frozen, a worker past its lease",
            KILLED_S,
            {
                faults.end_in_order: 4 if long else 1,
                faults.freeze_one: 10 if long else 1,
                faults.freeze_past_the_lease: 3 if long else 1,
            },
        ),
    ]
    if long:
        groups[0][2][at_starts] = 4
    yield from _groups(siege, chance, groups)


def _apart(
    siege: Siege, chance: random.Random, redis: Redis, postgres: Postgres, *, long: bool
) -> Iterator[Outcome]:
    of_redis, of_postgres = faults.redis_faults(redis), faults.postgres_faults(postgres)
    groups: list[tuple[str, float, dict[Fault, int]]] = [
        (
            "Redis absent, emptied, frozen",
            KILLED_S,
            {
                of_redis["absent"]: 4 if long else 1,
                of_redis["emptied"]: 8 if long else 1,
                of_redis["frozen"]: 4 if long else 1,
            },
        ),
        (
            "PostgreSQL restarted as after a crash, frozen, connections dropped",
            DATABASE_S,
            {
                of_postgres["restarted"]: 6 if long else 1,
                of_postgres["frozen"]: 5 if long else 1,
                of_postgres["dropped"]: 12 if long else 2,
            },
        ),
    ]
    yield from _groups(siege, chance, groups)


def _replicas(
    folder: Path, seed: int, chance: random.Random, address: str, redis: Redis
) -> Iterator[Outcome]:
    postgres = Postgres(address, database="replicas")
    environment = {"BROKER_DATABASE_URL": postgres.url, "BROKER_REDIS_URL": redis.url}
    with contextlib.closing(Siege(folder, seed, environment=environment, brokers=2)) as siege:
        siege.start()
        yield from _groups(
            siege,
            chance,
            [
                (
                    "two brokers on one PostgreSQL: kill -9 of a process, of one of them",
                    KILLED_S,
                    {faults.kill_one: 20, faults.kill_all: 4},
                )
            ],
        )


def _groups(
    siege: Siege, chance: random.Random, groups: Sequence[tuple[str, float, Mapping[Fault, int]]]
) -> Iterator[Outcome]:
    """Break one group of things after the other, each in an order of chance; balance after each group."""
    for number, (what, goal_s, counts) in enumerate(groups):
        siege.seen = Seen()
        siege.load()
        order = list(Counter(dict(counts)).elements())
        chance.shuffle(order)
        for fault in order:
            fault(siege, chance)
            siege.seen.faults += 1
        if number + 1 < len(groups):
            siege.balance()
        else:
            siege.end()
        yield _outcome(what, siege, goal_s)


def _outcome(what: str, siege: Siege, goal_s: float) -> Outcome:
    seen = siege.seen
    if seen.findings:
        more = f" and {len(seen.findings) - 5} more" if len(seen.findings) > 5 else ""
        return Outcome(what, seen.faults, held=False, detail="; ".join(seen.findings[:5]) + more)
    offered, again, allowed = siege.acknowledged(), siege.sent_again(), siege.may_be_sent_again()
    books = f"0 of {offered:,} acknowledged lost, {again} sent again ({allowed} allowed) since its start"
    return Outcome(what, seen.faults, held=True, detail=f"{books}; {seen.figures(goal_s)}")
