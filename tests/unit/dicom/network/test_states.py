"""The association state table is PS3.8 table 9-10, cell by cell."""

import pytest
from pynetdicom.fsm import TRANSITION_TABLE

from broker.dicom.network import states
from broker.dicom.network.states import (
    COLLISION,
    PDU_STIMULI,
    TRANSITIONS,
    Action,
    LocalMistake,
    Role,
    State,
    Stimulus,
    move,
)

EVERY_CELL = [(state, stimulus) for state in State for stimulus in Stimulus]
WITHOUT_TRANSPORT = (State.IDLE, State.AWAITING_TRANSPORT)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(("state", "stimulus"), EVERY_CELL)
def test_every_cell_has_the_action_of_the_reference_implementation(state, stimulus, role):
    reference = TRANSITION_TABLE.get((stimulus.value, state.value))
    if reference is None:
        with pytest.raises(LocalMistake):
            move(state, stimulus, role)
    else:
        action, _following = move(state, stimulus, role)
        assert action.name.replace("_", "-") == reference


@pytest.mark.parametrize(
    ("state", "stimulus"),
    [
        (s, e)
        for s, e in EVERY_CELL
        if (s, e) not in TRANSITIONS
        and (s, e) != (State.AWAITING_RELEASE_REPLY, Stimulus.RELEASE_RQ_PDU)  # a collision is legal
        and e in PDU_STIMULI
        and s not in WITHOUT_TRANSPORT
    ],
)
def test_a_pdu_that_is_not_in_the_table_ends_the_association(state, stimulus):
    action, following = move(state, stimulus, Role.ACCEPTOR)
    assert following is State.AWAITING_CLOSE
    assert action in (Action.AA_1, Action.AA_6, Action.AA_7, Action.AA_8)


@pytest.mark.parametrize(
    ("state", "stimulus"),
    [
        (s, e)
        for s, e in EVERY_CELL
        if (s, e) not in TRANSITIONS and (e not in PDU_STIMULI or s in WITHOUT_TRANSPORT)
    ],
)
def test_a_request_of_ours_that_is_not_in_the_table_names_the_state_and_the_request(state, stimulus):
    with pytest.raises(LocalMistake) as mistake:
        move(state, stimulus, Role.REQUESTOR)
    assert (mistake.value.state, mistake.value.stimulus) == (state, stimulus)


def test_colliding_releases_take_the_way_of_their_role():
    cell = (State.AWAITING_RELEASE_REPLY, Stimulus.RELEASE_RQ_PDU)
    assert move(*cell, Role.REQUESTOR) == (Action.AR_8, State.COLLISION_REQUESTOR_LOCAL)
    assert move(*cell, Role.ACCEPTOR) == (Action.AR_8, State.COLLISION_ACCEPTOR_REPLY)
    assert set(COLLISION) == set(Role)


def test_actions_have_different_meanings():
    # Two enum members with one value would silently be one member.
    assert len(Action.__members__) == len(list(Action)) == 28


def test_every_state_can_be_left_and_reached():
    reached = {following for _action, following in TRANSITIONS.values()} | {m[1] for m in COLLISION.values()}
    assert reached == set(State)
    assert {state for state, _ in TRANSITIONS} == set(State)
    assert states.TRANSITIONS is TRANSITIONS
