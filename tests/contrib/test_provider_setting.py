"""`provider_setting`: how all integrations read their settings."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from azsession import ConfigurationError, ServiceBusConfig
from azsession.contrib.provider_setting import FIELDS, NAMES, ProblemCode, ProviderSetting, Style, read

from .places import AZURE, CREDENTIAL, GATEWAY, SECRET

STYLE = Style("conf")
PREFIXED = Style("app.config", prefix="AZSESSION_", upper=True, is_embedded_alone=False, imports_credential=False)


def codes(setting: ProviderSetting) -> list[ProblemCode]:
    return [problem.code for problem in setting.all_problems()]


def test_every_field_of_the_configuration_is_a_setting() -> None:
    assert set(FIELDS) == {name for name in inspect.get_annotations(ServiceBusConfig) if not name.startswith("_")}
    assert set(NAMES) == {*FIELDS, "credential", "embedded"}


def test_error_messages_name_a_setting_like_its_framework() -> None:
    assert STYLE.item("retry_attempts") == "conf['retry_attempts']"
    assert PREFIXED.item("retry_attempts") == "app.config['AZSESSION_RETRY_ATTEMPTS']"


def test_a_connection_string_is_a_complete_setting() -> None:
    setting = read(GATEWAY, STYLE)
    assert setting.all_problems() == ()
    with setting.make_provider() as provider:
        assert provider.config.namespace_url == "http://127.0.0.1:1"


def test_a_value_of_none_counts_as_left_out() -> None:
    assert dict(read({"connection_string": GATEWAY, "namespace": None}, STYLE).fields) == {"connection_string": GATEWAY}


def test_all_problems_are_reported_together() -> None:
    setting = read({"connection_string": 5, "retry_attempts": "4", "retries": 1, "credential": 7}, STYLE)
    assert [problem.code.value for problem in setting.problems] == ["E002", "E003", "E003", "E004"]
    with pytest.raises(ConfigurationError) as caught:
        setting.make_provider()
    for key in ("connection_string", "retry_attempts", "retries", "credential"):
        assert f"conf['{key}']" in str(caught.value)


def test_a_misspelled_key_suggests_the_right_one_without_regard_to_the_prefix() -> None:
    [problem] = read({"AZSESSION_embeded": "memory"}, PREFIXED).problems
    assert problem.hint == "Did you mean 'AZSESSION_EMBEDDED'?"
    [problem] = read({"AZSESSION_X": 1}, PREFIXED).problems
    assert problem.hint is not None
    assert problem.hint.startswith("The keys are AZSESSION_CONNECTION_STRING, ")


def test_no_problem_shows_a_secret() -> None:
    for value in ({"connection_string": GATEWAY, "namespace": "x"}, {"credential": SECRET.encode()}, {"namespace": SECRET}):
        problems = read(value, STYLE).all_problems()
        assert problems
        assert SECRET not in " ".join(map(str, problems))


def test_reading_does_not_look_at_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = read({"retry_attempts": 1}, STYLE)
    setting.check()
    assert codes(setting) == [ProblemCode.NO_PLACE]
    monkeypatch.setenv("SERVICEBUS_CONNECTION_STRING", GATEWAY)
    assert codes(setting) == []
    monkeypatch.setenv("SERVICEBUS_CONNECTION_STRING", "Endpoint")
    assert codes(setting) == [ProblemCode.WRONG_VALUE]


def test_embedded_stands_alone_or_wins() -> None:
    for name, value in (("connection_string", GATEWAY), ("credential", CREDENTIAL), ("retry_attempts", 1)):
        [problem] = read({"embedded": "memory", name: value}, STYLE).problems
        assert problem.code is ProblemCode.EMBEDDED_NOT_ALONE
        assert name in problem.text
    both = read({"AZSESSION_EMBEDDED": "memory", "AZSESSION_CONNECTION_STRING": AZURE}, PREFIXED)
    with both.make_provider() as provider:
        assert "embedded in memory" in repr(provider)


def test_a_path_named_memory_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with read({"embedded": Path("memory")}, STYLE).make_provider() as provider:
        assert "embedded on memory" in repr(provider)
    assert (tmp_path / "memory").exists()


def test_a_credential_can_be_named_with_a_dot_or_a_colon() -> None:
    module = f"{__package__}.places"
    for path in (f"{module}.CREDENTIAL", f"{module}:CREDENTIAL"):
        assert read({"namespace": "x", "credential": path}, STYLE).credential is CREDENTIAL


def test_a_connection_string_without_a_key_needs_a_credential() -> None:
    keyless = "Endpoint=sb://gateway.example/"
    assert codes(read(keyless, STYLE)) == [ProblemCode.WRONG_VALUE]
    assert codes(read({"connection_string": keyless, "credential": CREDENTIAL}, STYLE)) == []
