"""SQL statements are constants: a caller's values are parameters and never part of a statement."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import azsession.broker.embedded
from azsession import Message, QueueError, QueueSettings, ServiceBusProvider
from azsession.broker.embedded import EmbeddedBroker

FOLDER = Path(azsession.broker.embedded.__file__).parent
#: The functions that run statements: sqlite3's methods, and the names for them in `Store` and `_prepare`.
RUNNING = {"execute", "executemany", "executescript", "_run", "_many", "run"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module:
    """The source of a module, to find the parts of its statements."""

    def __init__(self, source: str) -> None:
        self.tree = ast.parse(source)
        self.functions = [node for node in ast.walk(self.tree) if isinstance(node, Function)]

    def statements(self) -> Iterator[tuple[ast.expr, Function | None]]:
        """Yield the first argument of each call that runs a statement, and the function with the call."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and self._name(node.func) in RUNNING:
                if isinstance(node.func, ast.Attribute) and node.func.attr == "run":
                    continue  # `Turns.run`, which takes a job.
                assert node.args, ast.unparse(node)
                yield node.args[0], self._around(node)

    def _name(self, func: ast.expr) -> str:
        return func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""

    def _around(self, node: ast.AST) -> Function | None:
        around = [function for function in self.functions if any(inner is node for inner in ast.walk(function))]
        return min(around, key=lambda function: len(list(ast.walk(function))), default=None)

    def is_own(self, node: ast.expr, function: Function | None, seen: frozenset[str] = frozenset()) -> bool:
        """Return whether an expression consists of constants of the source only."""

        def own(inner: ast.expr) -> bool:
            return self.is_own(inner, function, seen)

        if isinstance(node, ast.Constant):
            return True
        if isinstance(node, ast.JoinedStr):
            return all(own(part) for part in node.values)
        if isinstance(node, ast.FormattedValue):
            return own(node.value)
        if isinstance(node, ast.BinOp):
            return isinstance(node.op, (ast.Add, ast.Sub, ast.LShift)) and own(node.left) and own(node.right)
        if isinstance(node, (ast.Tuple, ast.List)):
            return all(own(part) for part in node.elts)
        if isinstance(node, ast.IfExp):
            return own(node.body) and own(node.orelse)
        if isinstance(node, ast.Call):
            return self._is_own_call(node, function, seen)
        if not isinstance(node, ast.Name):
            return False
        # A name in its own definition adds nothing.
        place = f"{function and function.lineno} {node.id}"
        return place in seen or self._is_own_name(node.id, function, seen | {place})

    def _is_own_call(self, node: ast.Call, function: Function | None, seen: frozenset[str]) -> bool:
        name = self._name(node.func)
        if name == "int":
            return True
        if name == "range":
            return all(self.is_own(argument, function, seen) for argument in node.args)
        called = [each for each in self.functions if each.name == name]
        returned = [inner.value for each in called for inner in ast.walk(each) if isinstance(inner, ast.Return)]
        return bool(called) and all(
            value is not None and self.is_own(value, each, seen) for each in called for value in returned
        )

    def _is_own_name(self, name: str, function: Function | None, seen: frozenset[str]) -> bool:
        values = list(self._given(name, self.tree if function is None else function))
        if function is not None and name in [argument.arg for argument in function.args.args]:
            place = [argument.arg for argument in function.args.args if argument.arg != "self"].index(name)
            made = [
                node for node in ast.walk(self.tree) if isinstance(node, ast.Call) and self._name(node.func) == function.name
            ]
            return bool(made) and all(
                len(call.args) > place and self.is_own(call.args[place], self._around(call), seen) for call in made
            )
        if not values:
            return self._is_own_import(name) if function is None else self._is_own_name(name, None, seen)
        return bool(values) and all(self.is_own(value, function, seen) for value in values)

    def _is_own_import(self, name: str) -> bool:
        """Return whether a name from a neighbouring module consists of constants."""
        places = [
            FOLDER / f"{node.module}.py"
            for node in self.tree.body
            if isinstance(node, ast.ImportFrom) and node.level == 1 and name in [alias.name for alias in node.names]
        ]
        sources = [place.read_text(encoding="utf-8") for place in places]
        return bool(sources) and all(Module(source)._is_own_name(name, None, frozenset()) for source in sources)

    def _given(self, name: str, where: ast.AST) -> Iterator[ast.expr]:
        """Yield all values that a name gets in a function or at the top of the module."""
        body = where.body if isinstance(where, ast.Module) else list(ast.walk(where))
        for node in body:
            if isinstance(node, (ast.For, ast.comprehension)):
                targets, value = [node.target], node.iter
            elif isinstance(node, ast.Assign):
                targets, value = node.targets, node.value
            elif isinstance(node, (ast.AnnAssign, ast.AugAssign)) and node.value is not None:
                targets, value = [node.target], node.value
            else:
                continue
            for target in targets:
                if isinstance(target, ast.Name) and target.id == name:
                    yield value
                elif isinstance(target, ast.Tuple):
                    names = [part.id if isinstance(part, ast.Name) else "" for part in target.elts]
                    if name in names:
                        yield from self._parts(value, names.index(name))

    def _parts(self, value: ast.expr, at: int) -> Iterator[ast.expr]:
        if isinstance(value, ast.IfExp):
            yield from self._parts(value.body, at)
            yield from self._parts(value.orelse, at)
        else:
            yield value.elts[at] if isinstance(value, ast.Tuple) else value


def foreign(source: str) -> list[str]:
    """Return the statements of a module that do not consist of constants only."""
    module = Module(source)
    return [ast.unparse(node) for node, function in module.statements() if not module.is_own(node, function)]


def test_every_statement_consists_of_constants() -> None:
    found = {path.name: foreign(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.py")}
    assert {name: statements for name, statements in found.items() if statements} == {}
    assert sum(len(list(Module((FOLDER / name).read_text()).statements())) for name in found) > 50


@pytest.mark.parametrize(
    "body",
    [
        "self._run(f\"SELECT 1 FROM messages WHERE name = '{name}'\")",
        'self._run("SELECT 1 FROM messages WHERE name = \'" + name + "\'")',
        "self._run(\"SELECT 1 FROM messages WHERE name = '%s'\" % name)",
        "self._run(\"SELECT 1 FROM messages WHERE name = '{}'\".format(name))",
        'self._many(" ".join(["DELETE FROM", name]), [])',
        'query = f"SELECT {name}"; self._run(query)',
        'for table in (name, "b"): self._run(f"DELETE FROM {table}")',
        "connection.executescript(open(name).read())",
    ],
)
def test_a_statement_with_a_variable_part_is_found(body: str) -> None:
    lines = [
        "class Store:",
        "    def look(self, name):",
        f"        {body}",
        "    def use(self, given):",
        "        self.look(given)",
    ]
    source = "\n".join(lines)
    assert len(foreign(source)) == 1


def test_no_other_module_uses_sqlite() -> None:
    package = Path(azsession.__file__).parent
    uses = re.compile(r"^\s*(import|from) sqlite3\b|\bsqlite3\.", re.MULTILINE)
    speaking = {path for path in package.rglob("*.py") if uses.search(path.read_text(encoding="utf-8"))}
    assert speaking
    assert {path.parent for path in speaking} == {FOLDER}


HOSTILE = [
    "'; DROP TABLE messages; --",
    '" OR 1=1 --',
    "s' UNION SELECT settings FROM queues --",
    "%",
    "_",
    "s*",
    "?",
    ":name",
    "\\",
    "''",
    "x' AND name > '",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_sql_in_the_texts_of_a_message_is_stored_as_text(text: str) -> None:
    with ServiceBusProvider.embedded(queues=["q"]) as provider:
        provider.create_queue("twice", QueueSettings(requires_duplicate_detection=True))
        for queue in ("q", "twice"):
            for number in range(2):
                provider.send_message(
                    queue,
                    Message(text, session_id=text, message_id=f"{text}{number}", subject=text, attributes={text: text}),
                )
            provider.send_message(queue, Message(text, session_id="other", message_id=f"{text}0" if queue == "q" else text))
        with provider.create_session_client("q", text) as session:
            first, second = session.receive_messages(9, timeout=0)
            assert (first.text(), first.subject, first.attributes, first.session_id) == (text, text, {text: text}, text)
            session.set_session_state(text.encode())
            session.dead_letter_message(first, text, text)
            session.complete_message(second)
            assert session.get_session_state() == text.encode()
        (dead,) = provider.dead_letters("q")
        assert (dead.dead_letter_reason, dead.dead_letter_description) == (text, text)
        provider.resubmit("q", dead.sequence_number or 0)
        assert [each.session_id for each in provider.list_sessions("q")] == sorted([text, "other"])
        assert len(provider.peek_messages("q", text)) == len(provider.peek_messages("q", "other")) == 1
        assert len(provider.peek_messages("twice", text)) == 2


@pytest.mark.parametrize("name", HOSTILE)
def test_sql_as_a_queue_name_is_refused(name: str) -> None:
    if name == "_":
        return
    with ServiceBusProvider.embedded(queues=["q"]) as provider:
        for use in (provider.create_queue, provider.get_queue, provider.delete_queue, provider.list_sessions):
            with pytest.raises(QueueError):
                use(name)
        assert [queue.name for queue in provider.list_queues()] == ["q"]


def test_sql_as_a_lock_token_or_request_id_is_stored_as_text() -> None:
    with EmbeddedBroker(queues=["q"]) as broker:
        for text in HOSTILE:
            broker.send("q", [Message("x", session_id="s")], text).result()
            broker.send("q", [Message("x", session_id="s")], text).result()
        assert len(broker.peek("q", "s", 0, 100).result()) == len(HOSTILE)
