"""The part of SARIF 2.1.0 that a log of ours uses, written from the standard (OASIS, errata 01).

Every object is checked for the properties that the standard gives it, those it requires, and their types.
"""

import re
from collections.abc import Callable
from typing import Any

Check = Callable[[Any], None]

_REFERENCE = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=@/:-]|%[0-9A-F]{2})*")  # RFC 3986


def check_sarif(log: Any) -> None:
    """AssertionError where a log departs from the standard."""
    _log(log)


def _text(value: Any) -> None:
    assert isinstance(value, str)


def _whole(value: Any) -> None:
    assert isinstance(value, int)
    assert not isinstance(value, bool)
    assert value >= -1


def _yes_or_no(value: Any) -> None:
    assert isinstance(value, bool)


def _rank(value: Any) -> None:
    assert isinstance(value, int | float)
    assert -1 <= value <= 100


def _uri(value: Any) -> None:
    assert isinstance(value, str), value
    assert _REFERENCE.fullmatch(value), value
    assert ":" not in value.split("/")[0] or re.match(r"https?://", value), value


def _level(value: Any) -> None:
    assert value in ("none", "note", "warning", "error")


def _one_of(*words: str) -> Check:
    def check(value: Any) -> None:
        assert value in words

    return check


def _list(item: Check) -> Check:
    def check(value: Any) -> None:
        assert isinstance(value, list)
        for one in value:
            item(one)

    return check


def _texts(value: Any) -> None:
    assert isinstance(value, dict)
    assert all(isinstance(one, str) for one in value.values())


def _bag(value: Any) -> None:
    assert isinstance(value, dict)


def _object(required: str, **properties: Check) -> Check:
    def check(value: Any) -> None:
        assert isinstance(value, dict), value
        assert not set(required.split()) - value.keys(), value
        assert value.keys() <= properties.keys() | {"properties"}, value.keys() - properties.keys()
        for name, one in value.items():
            properties.get(name, _bag)(one)

    return check


_message = _object("text", text=_text)
_rule = _object(
    "id", id=_text, name=_text, shortDescription=_message, defaultConfiguration=_object("", level=_level)
)
_place = _object("", physicalLocation=_object("artifactLocation", artifactLocation=_object("uri", uri=_uri)))
_suppression = _object(
    "kind", kind=_one_of("inSource", "external"), status=_one_of("accepted", "underReview", "rejected"),
    justification=_text,
)  # fmt: skip
_result = _object(
    "message", ruleId=_text, ruleIndex=_whole, level=_level, message=_message, locations=_list(_place),
    partialFingerprints=_texts, rank=_rank, suppressions=_list(_suppression),
    kind=_one_of("pass", "fail", "review", "open", "informational"),
)  # fmt: skip
_notice = _object("message", level=_level, message=_message)
_run = _object(
    "tool",
    tool=_object("driver", driver=_object("name", name=_text, version=_text, rules=_list(_rule))),
    results=_list(_result),
    invocations=_list(
        _object(
            "executionSuccessful", executionSuccessful=_yes_or_no, toolExecutionNotifications=_list(_notice)
        )
    ),
    columnKind=_one_of("utf16CodeUnits", "unicodeCodePoints"),
)
_log = _object("version runs", **{"$schema": _uri}, version=_one_of("2.1.0"), runs=_list(_run))
