"""Workers, sweepers, crashes, zombies, lost wake-ups, sick peers, a clock that jumps: simulated, on a real SQLite file.

Every run is a random sequence of steps (Hypothesis); no thread and no time of its own, so the same seed is the
same run. What must hold is in `sim_promises`, what there is in `sim_world`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import structlog
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from broker.domain.delivery import Priority
from broker.domain.steps import PerformedStatus
from broker.errors import BrokerError
from broker.workflow import holds, operations
from broker.workflow.holds import Hold
from broker.workflow.images import ReceivedObject, ResendPolicy, receive_images
from broker.workflow.images_port import StoredFile
from broker.workflow.operations import Act, Asked
from broker.workflow.procedure_steps import (
    PerformedPolicy,
    PerformedState,
    PerformedWork,
    create_performed_step,
    update_performed_step,
)
from broker.workflow.wake_ups import Task
from tests.attacks.outcome import Outcome
from tests.attacks.sim_actors import Order
from tests.attacks.sim_promises import HEALED_WITHIN_S, Promises
from tests.attacks.sim_world import KINDS, World, template

STEPS = 60
RUNS = {False: 40, True: 2000}
MODES = ["takes and is silent", "takes", "is away", "refuses", "takes", "is not configured", "meets a defect"]
REDIS = ["drops", "keeps", "doubles", "keeps", "is down"]
OPERATIONS = [operations.retry, operations.cancel, operations.release]
RESEND = ResendPolicy(frozenset({"archive"}))
WHICH = st.integers(0, 7)


class Says:
    """A modification list that says one thing, whatever is stored."""

    def __init__(self, state: PerformedState) -> None:
        self.state = state

    def apply_to(self, data_set: bytes) -> PerformedState:
        return self.state


class Simulation(RuleBasedStateMachine):
    """What may happen."""

    template: Path
    visits: ClassVar[Counter[str]] = Counter()
    runs = 0

    @initialize(modes=st.fixed_dictionaries({name: st.sampled_from(MODES) for name in sorted(KINDS)}))
    def begin(self, modes):
        self.world = World(self.template)
        self.world.modes.update(modes)
        self.promises = Promises(self.world)
        self.objects: list[ReceivedObject] = []
        self.performed = 0

    def teardown(self):
        if not hasattr(self, "world"):
            return
        try:
            if not self.promises.is_broken:
                self.heal()
        finally:
            type(self).runs += 1
            type(self).visits += self.world.visits
            type(self).visits.update({f"fault: {why}": n for why, n in self.world.excuses.items()})
            self.world.close()

    @invariant()
    def promises_hold(self):
        if hasattr(self, "world"):
            self.promises.check()

    def note(self, what: str) -> None:
        self.world.visits[f"rule: {what}"] += 1

    # ---- what modalities do ------------------------------------------------------------------------------

    @rule(
        modality=st.sampled_from(["CT", "CT", "US", "OT"]), series=st.integers(1, 2), images=st.integers(1, 3)
    )
    def images_arrive(self, modality, series, images):
        new = [self.an_object(modality, series) for _ in range(images)]
        self.receive(new)

    @rule(modality=st.sampled_from(["CT", "US"]), series=st.integers(1, 2), is_cut=st.booleans())
    def an_image_arrives(self, modality, series, is_cut):
        """Take one; with the power cut between the commit and the answer it comes again."""
        received = self.an_object(modality, series)
        if is_cut and len(self.objects) % 4 == 0:
            self.note("image arrived, power cut before the answer")
            receive_images([received], self.world.units, self.world.clock, policy=RESEND)
            self.world.power_cut()
        self.receive([received])

    @rule(which=WHICH, other=st.booleans())
    def an_image_comes_again(self, which, other):
        if self.objects:
            before = self.objects[which % len(self.objects)]
            again = [self.an_object(None, None, before)] if other else [before]
            self.note("an image comes again" + (" with other content" if other else ""))
            self.receive(again)

    def receive(self, objects):
        self.note("images arrive")
        receipts = receive_images(objects, self.world.units, self.world.clock, policy=RESEND)
        for received, receipt in zip(objects, receipts, strict=True):
            self.promises.acknowledged[receipt.instance] = (
                received.sop_instance_uid,
                received.facts["Modality"][0],
                received.file.sha256,
            )

    def an_object(self, modality, series, like=None):
        number = len(self.objects) + 1
        modality = like.facts["Modality"][0] if like else modality
        made = ReceivedObject(
            file=StoredFile(f"20261121/0800/{number:032x}.dcm", 1000, 350, number.to_bytes(32, "big")),
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            sop_instance_uid=like.sop_instance_uid if like else f"1.2.826.0.2.{number}",
            study_instance_uid=like.study_instance_uid if like else f"1.2.826.0.1.{modality == 'CT':d}",
            series_instance_uid=like.series_instance_uid
            if like
            else f"1.2.826.0.1.{modality == 'CT':d}.{series}",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            facts={"Modality": (modality,)},
            calling_ae_title="CT1",
            called_ae_title="BROKER",
            peer="127.0.0.1",
        )
        self.objects.append(made)
        return made

    @rule(
        which=st.integers(0, 2),
        status=st.sampled_from(list(PerformedStatus)),
        is_new=st.booleans(),
        is_cut=st.booleans(),
    )
    def a_modality_reports(self, which, status, is_new, is_cut):
        """Create or set, in any order, also twice, also after the end."""
        uid = f"1.2.826.0.3.{which}"
        images = tuple(
            one.sop_instance_uid for one in self.objects if one.series_instance_uid.endswith("1.1")
        )
        state = PerformedState(
            PerformedStatus.IN_PROGRESS if is_new else status,
            status.value.encode(),
            series={"1.2.826.0.1.1.1": images},
        )
        with self.world.units() as uow:
            work = PerformedWork(uow, self.world.clock, None, None, PerformedPolicy())
            try:
                if is_new:
                    create_performed_step(work, uid, state, calling_ae_title="CT1")
                else:
                    update_performed_step(work, uid, Says(state))
            except BrokerError:
                self.note("performed step refused")
                return
            uow.commit()
        self.note(f"performed step {state.status.value}")
        if is_cut and which == 0:
            self.note("performed step written, power cut before the answer")
            self.world.power_cut()
        else:
            self.promises.performed[uid] = state.status.value

    # ---- what workers and sweepers do ----------------------------------------------------------------------

    @precondition(lambda self: self.world.queue.waiting)
    @rule(who=st.integers(0, 1), which=WHICH, steps=st.sampled_from([0, 1, 3, 4, 5, 6, 8, 12, 1000]))
    def a_worker_takes_a_wake_up(self, who, which, steps):
        self.take(self.world.workers[who], which, steps)

    @precondition(lambda self: self.world.queue.waiting)
    @rule(who=st.integers(0, 1))
    def a_worker_takes_all_wake_ups(self, who):
        for _ in range(4):
            if self.world.queue.waiting:
                self.take(self.world.workers[who], 0, 1000)

    def take(self, worker, which, steps):
        if worker.frozen or len(worker.actors) >= 2:
            return
        self.note("a wake-up is taken")
        waiting = self.world.queue.waiting
        wake_up = waiting.pop(which % len(waiting))
        desk = worker.desk
        job = desk.route if wake_up.task is Task.ROUTE else desk.deliver
        worker.begin(lambda: job(wake_up.id))
        worker.run_out(steps)

    @rule(who=st.integers(0, 1), steps=st.sampled_from([0, 3, 10, 1000, 1000, 1000, 1000]))
    def a_sweeper_sweeps(self, who, steps):
        sweeper = self.world.sweepers[who]
        if not sweeper.frozen:
            self.note("sweep")
            if not sweeper.actors:
                sweeper.begin(sweeper.sweeper.turn)
            sweeper.run_out(steps)

    @rule(who=st.integers(0, 3), steps=st.integers(1, 20))
    def a_process_goes_on(self, who, steps):
        process = self.world.processes[who]
        if not process.frozen:
            process.run_out(steps)

    # ---- what goes wrong -----------------------------------------------------------------------------------

    @rule(
        who=st.integers(0, 3),
        what=st.sampled_from(["killed", "killed", "frozen", "no database", "power cut"]),
    )
    def something_breaks(self, who, what):
        """Break one process, if there is one at work: there it hurts."""
        busy = [process for process in self.world.processes if process.actors and not process.frozen]
        process = busy[who % len(busy)] if busy else self.world.processes[who]
        self.note(what)
        if what == "killed":
            process.die()
        elif what == "frozen":
            process.freeze()
        elif what == "power cut":
            self.world.power_cut()
        elif process.actors:
            process.go(process.actors[0], Order.NO_DATABASE)

    @precondition(lambda self: any(process.frozen for process in self.world.processes))
    @rule(steps=st.integers(0, 10))
    def what_was_frozen_goes_on(self, steps):
        for process in self.world.processes:
            if process.frozen:
                self.note("thawed")
                process.thaw()
                process.run_out(steps)

    @rule(name=st.sampled_from(sorted(KINDS)), mode=st.sampled_from(MODES))
    def a_peer_changes(self, name, mode):
        self.world.modes[name] = mode

    @rule(mode=st.sampled_from(REDIS), is_emptied=st.booleans())
    def redis_changes(self, mode, is_emptied):
        self.note(f"redis {mode}" + (", emptied" if is_emptied else ""))
        self.world.queue.mode = mode
        if is_emptied:
            self.world.queue.waiting.clear()

    @rule(seconds=st.sampled_from([1, 5, 31, 31, 95, 95, 400, 1900]))
    def time_passes(self, seconds):
        self.world.pass_time(seconds)

    @rule(minutes=st.sampled_from([-60, -60, -7, 7, 60, 60]))
    def the_wall_clock_is_set(self, minutes):
        self.note(f"clock set {'back' if minutes < 0 else 'forward'}")
        self.world.set_clock(timedelta(minutes=minutes))
        self.world.pass_time(11)

    # ---- what people do ------------------------------------------------------------------------------------

    @rule(which=WHICH, operation=st.sampled_from(OPERATIONS))
    def somebody_acts_on_a_delivery(self, which, operation):
        ids = [row[0] for row in self.promises.rows("SELECT id FROM delivery ORDER BY id DESC LIMIT 8")]
        if ids:
            try:
                operation(ids[which % len(ids)], self.world.units, self.world.clock, actor="anna")
                self.note(f"somebody says {operation.__name__}")
            except BrokerError:
                self.note(f"{operation.__name__} refused")

    @rule(
        name=st.sampled_from(sorted(KINDS)),
        act=st.sampled_from(["pause", "drain", "resume", "resume", "resume", "resume"]),
        minutes=st.sampled_from([None, 5, 5, 60]),
    )
    def somebody_holds_a_destination_or_lets_it_go(self, name, act, minutes):
        world = self.world
        until = None if minutes is None else world.clock.now() + timedelta(minutes=minutes)
        if act == "resume":
            did = holds.resume(name, world.units, world.clock, actor="anna")
        else:
            did = getattr(holds, act)(name, world.units, world.clock, Hold("anna", until=until))
        if did:
            self.note(f"somebody says {act}")

    @rule(which=st.integers(0, 7), priority=st.sampled_from(list(Priority)))
    def somebody_changes_a_priority(self, which, priority):
        ids = [row[0] for row in self.promises.rows("SELECT id FROM delivery ORDER BY id DESC LIMIT 8")]
        if ids:
            asked = Asked(Act.PRIORITY, "anna", priority=priority)
            try:
                operations.act_on(ids[which % len(ids)], asked, self.world.units, self.world.clock)
                self.note("somebody says priority")
            except BrokerError:
                self.note("priority refused")

    # ---- when the faults are over --------------------------------------------------------------------------

    def heal(self):
        """Stop the faults: within bounded time everything is done, or parked with a reason."""
        world = self.world
        world.modes.clear()
        world.queue.mode = "keeps"
        for process in world.processes:
            if process.frozen:
                process.thaw()
            process.run_out()
        for name in KINDS:
            holds.resume(name, world.units, world.clock, actor="anna")
        began_s, pause_s = world.clock.monotonic(), 2.0
        while self.promises.unfinished() and world.clock.monotonic() - began_s < HEALED_WITHIN_S:
            for sweeper in world.sweepers:
                sweeper.begin(sweeper.sweeper.turn)
                sweeper.run_out()
            while world.queue.waiting:
                self.take(world.workers[0], 0, 10_000)
            self.promises.check()
            world.pass_time(pause_s)
            pause_s = min(pause_s * 2, 120)
        world.visits["healing: minutes of simulated time"] += round((world.clock.monotonic() - began_s) / 60)
        self.promises.check()
        assert not self.promises.unfinished(), f"not settled: {self.promises.unfinished()}"
        self.promises.everything_has_come_about()


@contextmanager
def quiet() -> Iterator[None]:
    """Log nothing: a hundred thousand expected troubles are no news."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        yield
    finally:
        structlog.configure(**before)


def simulate(folder: Path, runs: int, number: int | None = None, **more: object) -> Counter[str]:
    """Run some simulations of so many steps; answer what was seen, how often. Raises what did not hold."""
    Simulation.template = template(folder)
    Simulation.visits, Simulation.runs = Counter(), 0
    chosen = {
        "max_examples": runs,
        "stateful_step_count": STEPS,
        "deadline": None,
        "database": None,
        "suppress_health_check": list(HealthCheck),
        "print_blob": False,
        "phases": [
            Phase.generate
        ],  # a failing run of 60 steps is short enough to read; to shorten it takes minutes
        **more,
    }
    machine = seed(number)(Simulation) if number is not None else Simulation
    with quiet():
        run_state_machine_as_test(machine, settings=settings(**chosen))
    return Simulation.visits


def attack(number: int, long: bool, folder: Path) -> Iterator[Outcome]:
    """Simulate, and tell what was visited."""
    began = os.times()
    try:
        visits = simulate(folder, RUNS[long], number, verbosity=Verbosity.quiet)
    except Exception as error:
        visits = Simulation.visits
        yield Outcome(
            "simulated broker", Simulation.runs, held=False, detail=f"{type(error).__name__}: {error}"[:500]
        )
        return
    spent = os.times()
    cpu_s = spent.user + spent.system - began.user - began.system
    yield Outcome(
        "a broker simulated, its promises checked after every step",
        Simulation.runs,
        held=True,
        detail=f"{STEPS} steps each, {cpu_s:.0f} s of CPU; extra sends within crashes + ambiguous answers",
    )
    for kind in ("rule", "fault", "killed", "move", "peer", "wake-up"):
        seen = {what: n for what, n in visits.items() if what.startswith(kind)}
        told = ", ".join(f"{what.removeprefix(kind).strip(': ')} {n:,}" for what, n in sorted(seen.items()))
        yield Outcome(f"seen there: {kind}", sum(seen.values()), held=bool(seen), detail=told)
