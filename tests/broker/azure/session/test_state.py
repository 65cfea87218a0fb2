"""The table of a session's states: it is complete, it equals the diagram in its module, and it refuses other events."""

from __future__ import annotations

import re
from itertools import product

import pytest

from azsession.broker.azure.session import state as module
from azsession.broker.azure.session.state import (
    IGNORED,
    TRANSITIONS,
    ForbiddenTransitionError,
    SessionEvent,
    SessionState,
    next_state,
)

S, E = SessionState, SessionEvent

#: Pairs that cannot come, with the reason.
REFUSED = {
    # No attach was sent that Azure could answer, and there is no link that could end.
    **dict.fromkeys(product([S.CLAIMED], [E.GRANT, E.CONTEST, E.PASS_ON, E.VERIFY, E.DETACH]), "nothing was sent"),
    # A new session gets one connection.
    **dict.fromkeys(product([S.OPENING, S.CONTENDING], [E.CONNECT]), "the attach was sent"),
    # A lock that was not granted can be refused, but not lost or checked.
    **dict.fromkeys(product([S.CLAIMED, S.OPENING, S.CONTENDING], [E.LOSE]), "no lock to lose"),
    **dict.fromkeys(product([S.OPENING, S.CONTENDING], [E.VERIFY]), "no lock to check"),
    # A lock that was granted is lost, not refused; and the session is known, so that none is contested or passed on.
    **dict.fromkeys(
        product([S.HELD, S.LINK_LOST, S.RELOCKING, S.VERIFYING], [E.REFUSE, E.CONTEST, E.PASS_ON]), "the lock was granted"
    ),
    **dict.fromkeys(product([S.HELD, S.VERIFYING], [E.GRANT]), "a link is attached once"),
    **dict.fromkeys(product([S.HELD, S.LINK_LOST, S.RELOCKING], [E.VERIFY]), "no check is under way"),
    (S.LINK_LOST, E.DETACH): "there is no link",
    # Events of a link are not passed on when the session is over.
    **dict.fromkeys(
        product(
            [S.RELEASING, S.RELEASED, S.LOST, S.REFUSED, S.INTERRUPTED, S.NOT_GRANTED, S.SUPERSEDED],
            [E.GRANT, E.CONTEST, E.PASS_ON, E.VERIFY],
        ),
        "the session is over",
    ),
    **dict.fromkeys(
        product([S.RELEASED, S.LOST, S.REFUSED, S.INTERRUPTED, S.NOT_GRANTED, S.SUPERSEDED], [E.DETACH]),
        "the session is over",
    ),
}

FINAL = (S.RELEASED, S.LOST, S.REFUSED, S.INTERRUPTED, S.NOT_GRANTED, S.SUPERSEDED)


def edges_of_diagram() -> set[tuple[SessionState, SessionEvent, SessionState]]:
    """Return the arrows that the module's docstring shows."""
    arrows = re.findall(r"^ +([A-Z_]+) +--([a-z_]+)--> +([A-Z_]+)$", module.__doc__ or "", re.MULTILINE)
    return {(S[before], E[event.upper()], S[after]) for before, event, after in arrows}


def test_the_diagram_shows_the_transitions_of_the_table() -> None:
    assert edges_of_diagram() == {(before, event, after) for (before, event), after in TRANSITIONS.items()}


def test_every_arrow_of_the_diagram_is_read() -> None:
    assert (module.__doc__ or "").count("-->") == len(TRANSITIONS)


def test_every_state_and_event_is_a_transition_or_ignored_or_refused_and_only_one_of_them() -> None:
    transitions = set(TRANSITIONS)
    ignored = {(state, event) for state, events in IGNORED.items() for event in events}
    assert transitions | ignored | set(REFUSED) == set(product(SessionState, SessionEvent))
    assert not transitions & ignored
    assert not (transitions | ignored) & set(REFUSED)


@pytest.mark.parametrize(("state", "event"), list(REFUSED), ids=lambda one: one.name)
def test_an_event_that_cannot_come_is_an_error(state: SessionState, event: SessionEvent) -> None:
    with pytest.raises(ForbiddenTransitionError, match=f"{state.name} cannot get the event {event.name}"):
        next_state(state, event)


def test_transitions_lead_to_the_next_state() -> None:
    for (state, event), following in TRANSITIONS.items():
        assert next_state(state, event) is following


def test_ignored_events_change_nothing() -> None:
    for state, events in IGNORED.items():
        for event in events:
            assert next_state(state, event) is None


def test_every_state_can_be_reached_from_the_first() -> None:
    reached, to_visit = set(), [S.CLAIMED]
    while to_visit:
        state = to_visit.pop()
        if state not in reached:
            reached.add(state)
            to_visit += [after for (before, _), after in TRANSITIONS.items() if before is state]
    assert reached == set(SessionState)


def test_a_session_that_is_over_stays_over() -> None:
    for (before, _), after in TRANSITIONS.items():
        if before.is_over:
            assert after.is_over


def test_a_final_state_is_left_only_to_note_a_later_attempt() -> None:
    for (before, event), after in TRANSITIONS.items():
        if before in FINAL:
            assert (event, after) == (E.SUPERSEDE, S.SUPERSEDED)


def test_a_lock_that_was_granted_is_never_opening_again() -> None:
    for (before, _), after in TRANSITIONS.items():
        if before.has_lock:
            assert not after.is_opening


def test_every_state_is_opening_has_the_lock_or_is_over() -> None:
    for state in SessionState:
        assert [state.is_opening, state.has_lock, state.is_over].count(True) == 1
