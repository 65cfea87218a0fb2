"""`azsession demo`: as a process, its run in this one, and its verdict on forged histories."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from azsession import Message, PeekedMessage
from azsession.cli.demo.command import _live, _show, demo
from azsession.cli.demo.data import Roles, Sent, by_session, choose_roles, from_messages, make_orders
from azsession.cli.demo.run import REASON, Delivery, Left, Run, Seen, compact, judge

from ...conftest import WEBHOOKS

COMMAND = [sys.executable, "-m", "azsession", "demo"]


def start(*command: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", env=environ)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    return process.returncode, out, err


# As a process


def test_the_demo_ends_in_a_table_and_says_that_all_was_in_order() -> None:
    status, out, err = finish(start(*COMMAND))
    assert (status, err) == (0, ""), out
    lines = out.splitlines()
    assert lines[0] == "azsession demo: 289 messages of 24 sessions, 8 workers, over HTTP"
    assert sum(line.startswith("order-") for line in lines) == 24
    assert lines[-1].startswith(
        "All 24 sessions were in order, nothing was lost or doubled: 288 completed, 1 dead-lettered, in "
    )
    assert "\x1b" not in out
    assert len(lines) < 40


def test_the_webhooks_come_in_the_order_of_their_positions(webhooks: list[dict[str, Any]]) -> None:
    status, out, err = finish(start(*COMMAND, "--file", str(WEBHOOKS), "--workers", "6", "--json"))
    assert (status, err) == (0, ""), out
    result = json.loads(out)
    assert (result["ok"], result["messages"], result["workers"], result["active_left"]) == (True, 329, 6, 0)
    assert result["faults"] == []
    sizes = Counter(webhook["session_id"] for webhook in webhooks)
    assert {session["session_id"]: session["sent"] for session in result["sessions"]} == sizes
    again = [session for session in result["sessions"] if session["abandoned"]]
    assert len(again) == 1
    for session in result["sessions"]:
        assert sorted(set(session["order"])) == list(range(1, session["sent"] + 1))
        assert session["order"] == sorted(session["order"])
        assert session["deliveries"] == session["sent"] + session["abandoned"]
        assert session["completed"] + session["dead_lettered"] == session["sent"]
    assert max(session["renewals"] for session in result["sessions"]) >= 2
    assert [letter["reason"] for letter in result["dead_letters"]] == [REASON]


#: The demo, on a broker that keeps the first message of each request twice.
SABOTAGE = """
import sys
from azsession.broker.embedded import EmbeddedBroker
from azsession.cli.demo import run as demo_run
demo_run.SLOW = 0.1
send = EmbeddedBroker.send
def send_twice(self, entity, messages, request_id=""):
    send(self, entity, [messages[0], *messages], request_id)
EmbeddedBroker.send = send_twice
from azsession.cli import main
sys.argv = ["azsession", "demo", "--file", sys.argv[1]]
main()
"""


def test_a_broker_that_doubles_a_message_makes_it_fail(tmp_path: Path) -> None:
    file = tmp_path / "two.jsonl"
    file.write_text('{"session_id": "a", "n": 1}\n{"session_id": "a", "n": 2}\n')
    status, out, _ = finish(start(sys.executable, "-c", SABOTAGE, str(file)))
    assert status == 1, out
    assert out.splitlines()[-1].startswith("FAILED: messages doubled in 1 session")


def test_an_interrupted_demo_ends_at_once() -> None:
    process = start(*COMMAND)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert (status, err.strip()) == (130, "")


# Its file


BAD_LINES = {
    b"{": "JSON",
    b"[]": "object",
    b'{"a": 1}': "session_id",
    b'{"session_id": 7}': "str",
    b'{"session_id": ""}': "1 to 128",
    b'{"session_id": "\\ud800"}': "surrogates",
    b'{"session_id": "\xff"}': "UTF-8",
    b"[" * 100_000: "JSON",
}


@pytest.mark.parametrize(("line", "reason"), BAD_LINES.items(), ids=range(len(BAD_LINES)))
def test_a_bad_line_is_named_before_anything_starts(tmp_path: Path, line: bytes, reason: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes(b'{"session_id": "a"}\n\n' + line + b"\n")
    ended = CliRunner().invoke(demo, ["--file", str(file)])
    assert ended.exit_code == 2
    assert "bad.jsonl, line 3: " in ended.stderr
    assert reason in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_a_file_without_messages_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "empty.jsonl"
    file.write_bytes(content)
    ended = CliRunner().invoke(demo, ["--file", str(file)])
    assert ended.exit_code == 2
    assert "there is no message in " in ended.stderr


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert CliRunner().invoke(demo, ["--file", str(tmp_path / "none.jsonl")]).exit_code == 2


def message(session_id: str, **fields: Any) -> Message:
    return Message(json.dumps({"session_id": session_id, **fields}), session_id=session_id)


def bodies(sent: Iterable[Sent]) -> list[Any]:
    return [json.loads(each.body) for each in sent]


def test_a_session_with_positions_is_ordered_by_them() -> None:
    sent = from_messages([message("a", position=2), message("b", position=7), message("a", position=1)])
    assert [(each.session_id, each.place) for each in sent] == [("a", 1), ("b", 1), ("a", 2)]
    assert [body["position"] for body in bodies(sent)] == [1, 7, 2]


@pytest.mark.parametrize("first", [None, "9", 9.5, True, {"x": 1}])
def test_a_session_without_whole_positions_stays_as_it_is(first: Any) -> None:
    sent = from_messages([message("a", position=first, n=1), message("a", position=1, n=2)])
    assert [body["n"] for body in bodies(sent)] == [1, 2]


# Its own messages


@given(st.integers())
def test_every_seed_makes_a_few_hundred_events_of_orders(seed: int) -> None:
    sent = make_orders(seed)
    sessions = by_session(sent)
    assert len(sessions) == 24
    assert 190 <= len(sent) <= 440
    assert len({each.message_id for each in sent}) == len(sent)
    for session_id, messages in sessions.items():
        assert [each.place for each in messages] == list(range(1, len(messages) + 1))
        assert [body["position"] for body in bodies(messages)] == list(range(1, len(messages) + 1))
        assert {body["session_id"] for body in bodies(messages)} == {session_id}
        times = [body["at"] for body in bodies(messages)]
        assert times == sorted(times)


def test_a_seed_makes_the_same_messages_again_and_another_one_others() -> None:
    assert make_orders(5) == make_orders(5)
    assert make_orders(5) != make_orders(6)


def test_sessions_are_interleaved() -> None:
    sent = make_orders(1)
    changes = sum(one.session_id != other.session_id for one, other in pairwise(sent))
    assert changes > len(sent) / 2


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=12), st.integers(1, 8), st.integers())
def test_no_message_has_two_roles_and_roles_are_given_as_far_as_messages_go(ids: list[str], workers: int, seed: int) -> None:
    sent = from_messages(message(session_id) for session_id in ids)
    roles = choose_roles(sent, workers, seed)
    given_out = [role for role in attrs.astuple(roles) if role is not None]
    assert len(set(given_out)) == len(given_out) == min(3, len(sent))
    assert {each.message_id for each in sent} >= set(given_out)
    sessions = {each.session_id for each in sent if each.message_id in given_out}
    assert len(sessions) == min(3, len(set(ids)))


# Its run


def small() -> tuple[list[Sent], Roles]:
    sent = from_messages(message(f"s/{number % 5}", n=number) for number in range(20))
    return sent, Roles(None, sent[7].message_id, sent[13].message_id)


def test_a_run_is_seen_as_it_was() -> None:
    sent, roles = small()
    seen = Run(sent, roles, 3).run()
    assert judge(sent, roles, seen) == []
    assert len(seen.deliveries) == 21
    assert Counter(delivery.outcome for delivery in seen.deliveries) == {
        "completed": 19,
        "abandoned": 1,
        "dead-lettered": 1,
    }
    assert seen.left.active == seen.left.listed == 0
    assert [letter.body for letter in seen.left.dead] == [sent[13].body]


def test_one_worker_and_one_message_are_enough() -> None:
    sent = from_messages([message("only")])
    assert judge(sent, Roles(), Run(sent, Roles(), 1).run()) == []


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    sent, roles = small()
    assert judge(sent, roles, Run(sent, roles, 2).run()) == []


def test_a_message_larger_than_the_gateway_takes_otherwise_goes_through() -> None:
    sent = from_messages([message("large", text="x" * 3_000_000)])
    assert judge(sent, Roles(), Run(sent, Roles(), 1).run()) == []


def test_a_terminal_shows_the_workers_meanwhile() -> None:
    sent, roles = small()
    run = Run(sent, roles, 2)
    screen = io.StringIO()
    with _live(run, Console(file=screen, force_terminal=True, width=80)):
        run.run()
    assert "settled" in screen.getvalue()
    assert "worker 2" in screen.getvalue()


# Its table


def shown(sent: list[Sent], roles: Roles, seen: Seen, width: int = 80) -> list[str]:
    page = io.StringIO()
    _show(Console(file=page, width=width, highlight=False), sent, roles, seen, judge(sent, roles, seen))
    return page.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_of_many_sessions_with_long_ids_fits_on_a_screen(width: int) -> None:
    sent = from_messages(message(f"{'organization/' * 8}{number}") for number in range(90))
    roles = Roles(None, sent[40].message_id, sent[50].message_id)
    lines = shown(sent, roles, perfect(sent, roles), width)
    table = lines[: lines.index("", 1)]
    assert max(map(len, table)) <= width
    assert sum("organi" in line for line in table) == 30
    assert table[-1].split() == ["and", "60", "more", "sessions", "each", "1-n", "60"]
    assert "came again" in table[2]
    assert "/40" in table[2]


def test_a_session_id_is_no_markup() -> None:
    sent = from_messages([message("[red]a[/red]")])
    assert "[red]a[/red]" in "".join(shown(sent, Roles(), perfect(sent, Roles())))


def test_what_is_wrong_is_told_with_its_session() -> None:
    sent = from_messages([message("a", n=1), message("b", n=1), message("a", n=2)])
    seen = perfect(sent, Roles())
    lines = shown(sent, Roles(), attrs.evolve(seen, deliveries=[seen.deliveries[0], seen.deliveries[1]]))
    assert "lost: a: 2 did not come as often as it had to" in lines
    assert lines[-1] == "FAILED: messages lost in 1 session."


# Its verdict


def perfect(sent: list[Sent], roles: Roles) -> Seen:
    """Return the history of a run in which all is right."""
    deliveries: list[Delivery] = []
    for each in sent:
        again = each.message_id == roles.failing
        if again:
            deliveries.append(Delivery(each.session_id, each.message_id, each.body, 1, "abandoned"))
        outcome = "dead-lettered" if each.message_id == roles.refused else "completed"
        deliveries.append(Delivery(each.session_id, each.message_id, each.body, 2 if again else 1, outcome))
    dead = [
        PeekedMessage(body=each.body, session_id=each.session_id, message_id=each.message_id, dead_letter_reason=REASON)
        for each in sent
        if each.message_id == roles.refused
    ]
    renewals = {each.session_id: 3 for each in sent if each.message_id == roles.slow}
    return Seen(deliveries, renewals, Left(0, 0, dead))


SENT = from_messages(message(session_id, n=number) for number, session_id in enumerate("abacabacabcc"))
ROLES = Roles(SENT[2].message_id, SENT[4].message_id, SENT[5].message_id)


def test_a_perfect_history_has_no_fault() -> None:
    assert judge(SENT, ROLES, perfect(SENT, ROLES)) == []


def lost(deliveries: list[Delivery]) -> None:
    del deliveries[0]


def lost_at_the_end(deliveries: list[Delivery]) -> None:
    del deliveries[-1]


def lost_second_delivery(deliveries: list[Delivery]) -> None:
    deliveries.remove(next(each for each in deliveries if each.delivery_count == 2))


def doubled(deliveries: list[Delivery]) -> None:
    deliveries.insert(1, deliveries[0])


def doubled_later(deliveries: list[Delivery]) -> None:
    deliveries.append(deliveries[0])


def misordered(deliveries: list[Delivery]) -> None:
    deliveries.append(deliveries.pop(0))


def overtaken(deliveries: list[Delivery]) -> None:
    """A later message comes between the abandoned delivery and the second one."""
    again = next(each for each in deliveries if each.delivery_count == 2)
    deliveries.remove(again)
    deliveries.append(again)


def not_settled(deliveries: list[Delivery]) -> None:
    deliveries[0] = attrs.evolve(deliveries[0], outcome=None)


def settled_otherwise(deliveries: list[Delivery]) -> None:
    deliveries[0] = attrs.evolve(deliveries[0], outcome="dead-lettered")


def wrong_count(deliveries: list[Delivery]) -> None:
    deliveries[0] = attrs.evolve(deliveries[0], delivery_count=2)


def other_body(deliveries: list[Delivery]) -> None:
    deliveries[0] = attrs.evolve(deliveries[0], body=b"{}")


def other_session(deliveries: list[Delivery]) -> None:
    deliveries[0] = attrs.evolve(deliveries[0], session_id="b")


def never_sent(deliveries: list[Delivery]) -> None:
    deliveries.append(Delivery("a", "stranger", b"{}", 1, "completed"))


def nameless(deliveries: list[Delivery]) -> None:
    deliveries.append(Delivery("a", None, b"{}", 1, "completed"))


FORGERIES = {
    lost: {"lost"},
    lost_at_the_end: {"lost"},
    lost_second_delivery: {"lost"},
    doubled: {"doubled"},
    doubled_later: {"doubled", "out of order"},
    misordered: {"out of order"},
    overtaken: {"out of order"},
    not_settled: {"other"},
    settled_otherwise: {"other"},
    wrong_count: {"other"},
    other_body: {"other"},
    other_session: {"other", "lost"},
    never_sent: {"other"},
    nameless: {"other"},
}


@pytest.mark.parametrize(("forge", "kinds"), FORGERIES.items(), ids=[forge.__name__ for forge in FORGERIES])
def test_a_forged_history_is_found_out(forge: Callable[[list[Delivery]], None], kinds: set[str]) -> None:
    seen = perfect(SENT, ROLES)
    deliveries = list(seen.deliveries)
    forge(deliveries)
    assert {fault.kind for fault in judge(SENT, ROLES, attrs.evolve(seen, deliveries=deliveries))} == kinds


@given(st.lists(st.integers(0, 3), max_size=7))
def test_any_history_but_the_right_one_is_a_fault(numbers: list[int]) -> None:
    sent = from_messages(message("a", n=number) for number in range(4))
    deliveries = [Delivery("a", sent[number].message_id, sent[number].body, 1, "completed") for number in numbers]
    faults = judge(sent, Roles(), Seen(deliveries, {}, Left(0, 0)))
    assert (faults == []) == (numbers == [0, 1, 2, 3])


def test_a_slow_session_without_a_renewal_is_a_fault() -> None:
    faults = judge(SENT, ROLES, attrs.evolve(perfect(SENT, ROLES), renewals={}))
    assert [fault.session_id for fault in faults] == [SENT[2].session_id]


def test_what_went_wrong_underway_is_a_fault() -> None:
    faults = judge(SENT, ROLES, attrs.evolve(perfect(SENT, ROLES), errors=["SessionNotFoundError: the lock is lost"]))
    assert [fault.text for fault in faults] == ["SessionNotFoundError: the lock is lost"]


def lefts() -> dict[str, Left]:
    good = perfect(SENT, ROLES).left
    (letter,) = good.dead
    return {
        "active": attrs.evolve(good, active=1),
        "listed": attrs.evolve(good, listed=1),
        "no dead letter": attrs.evolve(good, dead=[]),
        "two dead letters": attrs.evolve(good, dead=[letter, letter]),
        "other reason": attrs.evolve(good, dead=[attrs.evolve(letter, dead_letter_reason="MaxDeliveryCountExceeded")]),
        "other body": attrs.evolve(good, dead=[attrs.evolve(letter, body=b"")]),
        "other message": attrs.evolve(good, dead=[attrs.evolve(letter, message_id=SENT[0].message_id)]),
    }


@pytest.mark.parametrize("what", lefts())
def test_what_the_broker_has_left_is_looked_at(what: str) -> None:
    faults = judge(SENT, ROLES, attrs.evolve(perfect(SENT, ROLES), left=lefts()[what]))
    assert len(faults) == 1


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([], ""),
        ([1], "1"),
        ([1, 2, 3], "1-3"),
        ([1, 2, 2, 3], "1-2, 2-3"),
        ([3, 1, 2], "3, 1-2"),
        (list(range(1, 60, 2)), "1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23 and 18 more runs"),
    ],
)
def test_an_order_is_shown_as_runs(numbers: list[int], text: str) -> None:
    assert compact(numbers) == text
