"""What must hold after every step of a simulated broker, and what must have come about when its faults are over."""

from __future__ import annotations

import json
import sqlite3

from tests.attacks.sim_world import CONCURRENCY, LIMITS, WANTED, World

FINAL = {"DELIVERED", "DEAD", "CANCELLED"}
WAITING = {"COLLECTING", "PENDING"}
SETTLES = {
    "delivery delivered": "DELIVERED",
    "delivery progressed": "PENDING",
    "delivery to be retried": "PENDING",
    "delivery died": "DEAD",
}
HEALED_WITHIN_S = 90 * 60
"""The longest retry, then the longest rest of a breaker, then a lease: with the faults over nothing takes longer."""


class Promises:
    """Reads the file with its own connection, and what the peers hold."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.acknowledged: dict[int, tuple[str, str, bytes]] = {}
        """Instance → (SOP Instance UID, modality, SHA-256) of what a modality was told is safe."""
        self.performed: dict[str, str] = {}
        """SOP Instance UID → the last status a modality was told is safe."""
        self._final_performed: dict[str, str] = {}
        self._states: dict[int, tuple[str, int]] = {}
        self._claimed_at_s: dict[tuple[int, int], float] = {}
        self._seen = 0
        self.repeatable: set[int] = set()
        """Deliveries a person said to send again."""
        self._file = None
        self.is_broken = False

    def rows(self, statement: str, *values: object) -> list[tuple]:
        if self._file != self.world.file:
            self._file = self.world.file
            self._connection = sqlite3.connect(self.world.file)
        return self._connection.execute(statement, values).fetchall()

    def check(self) -> None:
        """Assert everything that may never be untrue."""
        self.is_broken = True
        self._nothing_acknowledged_is_lost()
        self._every_move_is_legal()
        self._caps_hold()
        self._delivered_means_received()
        self._performed_steps_go_forward()
        self.is_broken = False

    def _nothing_acknowledged_is_lost(self) -> None:
        here = {
            key: (uid, sha256, state)
            for key, uid, sha256, state in self.rows(
                "SELECT id, sop_instance_uid, sha256, state FROM instance"
            )
        }
        for key, (uid, _, sha256) in self.acknowledged.items():
            assert here[key][:2] == (uid, sha256), f"instance {key} was acknowledged and is gone"
        placed: dict[int, set[str]] = {}
        for key, destination in self.rows(
            "SELECT i.instance, d.destination FROM delivery_item i JOIN delivery d ON d.id = i.delivery"
        ):
            placed.setdefault(key, set()).add(destination)
        for key, (_, modality, _) in self.acknowledged.items():
            state = here[key][2]
            wanted = WANTED[modality] if state != "RECEIVED" else set()
            assert (state == "UNROUTED") == (state != "RECEIVED" and not wanted)
            assert placed.get(key, set()) == wanted, (
                f"instance {key} is {state} and goes to {placed.get(key)}"
            )

    def _every_move_is_legal(self) -> None:
        """Replay the events: one holder at a time, and nobody but the holder says what came of a try."""
        for number, name, delivery, details in self.rows(
            "SELECT id, name, subject_id, details FROM event"
            " WHERE id > ? AND subject = 'delivery' ORDER BY id",
            self._seen,
        ):
            self._seen = number
            self._replay(name, delivery, json.loads(details))
        rows = self.rows("SELECT id, state, attempt, lease_until IS NOT NULL FROM delivery")
        for delivery, state, attempt, is_leased in rows:
            assert self._states[delivery] == (state, attempt), (
                f"delivery {delivery} is {state} in try {attempt}, its events say {self._states[delivery]}"
            )
            assert is_leased == (state == "IN_PROGRESS")

    def _replay(self, name: str, delivery: int, details: dict) -> None:
        state, attempt = self._states.get(delivery, ("", 0))
        self.world.visits[f"move: {name}"] += 1
        said = details.get("attempt")
        problem = f"{name} {details} of delivery {delivery}, which is {state} in try {attempt}"
        if name == "delivery claimed":
            assert (state, said) == ("PENDING", attempt + 1), problem
            state, attempt = "IN_PROGRESS", said
            self._claimed_at_s[delivery, said] = self.world.clock.monotonic()
        elif name in SETTLES and said is not None:
            assert (state, said) == ("IN_PROGRESS", attempt), problem
            state = details["state"]
        elif name == "delivery lease expired":
            assert (state, said) == ("IN_PROGRESS", attempt), problem
            self._lease_was_over(delivery, attempt)
            state = details["state"]
        elif name == "delivery created":
            assert not state, problem
            state = details["state"]
        elif name == "delivery died":
            assert state in ("", "PENDING"), problem
            state = "DEAD"
        elif name in ("delivery collected", "delivery released by a person"):
            assert state == "COLLECTING", problem
            state = "PENDING"
        elif name == "delivery retried by a person":
            assert state in ("DEAD", "PENDING", "CANCELLED"), problem
            if state != "PENDING":
                self.repeatable.add(delivery)
            state = "PENDING"
        elif name == "delivery cancelled by a person":
            assert state in WAITING | {"DEAD"}, problem
            state = "CANCELLED"
        elif name == "delivery priority changed by a person":
            assert state in WAITING | {"IN_PROGRESS"}, problem
        elif name == "delivery reopened":
            assert state in ("", "DEAD", *WAITING, "IN_PROGRESS"), problem
            state = "PENDING" if state in ("", "DEAD") else state
        else:
            raise AssertionError(f"no such move: {problem}")
        self._states[delivery] = state, attempt

    def _lease_was_over(self, delivery: int, attempt: int) -> None:
        if (delivery, attempt) in self.world.given_back:
            return
        now_s = self.world.clock.monotonic()
        lease_s = LIMITS.lease.total_seconds()
        renewed_s = self.world.renewed_s.get((delivery, attempt), self._claimed_at_s[delivery, attempt])
        held_s = now_s - renewed_s
        # Wherever the wall clock was set, and whenever the sweeper began.
        assert held_s >= lease_s, f"lease of delivery {delivery} taken after {held_s} s"

    def _caps_hold(self) -> None:
        for destination, sending in self.rows(
            "SELECT destination, count(*) FROM delivery WHERE state = 'IN_PROGRESS' GROUP BY destination"
        ):
            assert sending <= CONCURRENCY[destination], f"{sending} at once to {destination}"

    def _delivered_means_received(self) -> None:
        stored = self.world.stored
        delivered: dict[tuple[str, int], int] = {}
        for delivery, destination, instance, item, state in self.rows(
            "SELECT d.id, d.destination, i.instance, i.state, d.state"
            " FROM delivery_item i JOIN delivery d ON d.id = i.delivery"
        ):
            key = destination, instance
            assert state != "DELIVERED" or item == "DELIVERED", f"delivery {delivery} is done, an item {item}"
            if item == "DELIVERED":
                delivered[key] = delivered.get(key, 0) + 1
            if destination == "film" and delivery not in self.repeatable:
                assert stored[key] <= 1, f"instance {instance} was printed twice, and nobody said so"
        for key, times in delivered.items():
            assert stored[key] >= times, f"{key} is said to be delivered {times} times"
        extra = sum(stored.values()) - sum(delivered.values())
        # What a living try has handed over and not yet written is no extra send.
        unwritten = sum(actor.is_sending for process in self.world.processes for actor in process.actors)
        allowed = sum(self.world.excuses.values())
        assert extra <= allowed + unwritten, f"{extra} extra sends, {dict(self.world.excuses)} faults"

    def _performed_steps_go_forward(self) -> None:
        now = dict(self.rows("SELECT sop_instance_uid, status FROM performed_procedure_step"))
        for uid, status in self.performed.items():
            assert uid in now, f"performed step {uid} was acknowledged and is gone"
            assert status in ("IN PROGRESS", now[uid]), (
                f"performed step {uid} went from {status} to {now[uid]}"
            )
        for uid, status in self._final_performed.items():
            assert now[uid] == status, f"performed step {uid} moved from {status} to {now[uid]}"
        self._final_performed = {uid: status for uid, status in now.items() if status != "IN PROGRESS"}

    # ---- when the faults are over ----------------------------------------------------------------------

    def unfinished(self) -> list[tuple]:
        """Answer what is neither done nor parked with a reason."""
        images = self.rows("SELECT 'instance', id, state FROM instance WHERE state = 'RECEIVED'")
        return images + self.rows(
            "SELECT 'delivery', id, state, due_at, reason FROM delivery"
            " WHERE state NOT IN ('DELIVERED', 'DEAD', 'CANCELLED')"
            " OR state <> 'DELIVERED' AND reason IS NULL"
        )

    def everything_has_come_about(self) -> None:
        """Assert that whatever was acknowledged is where it should be, or waits for a person with a reason."""
        assert not self.unfinished()
        for instance, (_, modality, _) in self.acknowledged.items():
            for destination in WANTED[modality]:
                fates = self.rows(
                    "SELECT d.state, i.state FROM delivery_item i JOIN delivery d ON d.id = i.delivery"
                    " WHERE i.instance = ? AND d.destination = ?",
                    instance,
                    destination,
                )
                assert fates, f"instance {instance} never got to {destination}"
                for state, item in fates:
                    assert state in FINAL
                    if item == "DELIVERED":
                        assert self.world.stored[destination, instance]
