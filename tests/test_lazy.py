"""`lazy_dataclass` against `dataclasses`, and `lazy_pattern` against `re`."""

import copy
import dataclasses
import inspect
import re
import subprocess
import sys
from typing import Any

import pytest

from gitpeft import lazy
from gitpeft.config import Config
from gitpeft.diff.patch import FileChange, Hunk
from gitpeft.git.log import Commit, SkippedCommit
from gitpeft.history.context import TouchedFile
from gitpeft.lazy import lazy_pattern
from gitpeft.risk.change_metrics import ChangeMetrics

SAMPLES: list[tuple[type, dict[str, Any]]] = [
    (SkippedCommit, {"sha": "a", "reason": "b"}),
    (Hunk, {"heading": "f()", "lines": ["+x"]}),
    (FileChange, {"path": "a", "status": "M", "blobs": ("1", "2")}),
    (
        Commit,
        {name: name for name in ("sha", "subject", "body", "author")}
        | {"parents": (), "time": 1, "commit_time": 2, "files": []},
    ),
    (TouchedFile, {"path": "a", "status": "M", "kind": "text", "added": 1, "removed": 2, "lines": 3}),
    (ChangeMetrics, {}),
    (Config, {"exclude": ("x",), "problems": ("p",)}),
]


def twin(cls: type) -> Any:
    """The same class as a dataclass."""
    fields = [(f.name, f.type, _field(f)) for f in dataclasses.fields(cls)]
    frozen = "__setattr__" in vars(cls)
    return dataclasses.make_dataclass(cls.__name__, fields, frozen=frozen, slots=True)


def _field(one: dataclasses.Field[Any]) -> Any:
    given = {name: getattr(one, name) for name in ("default", "default_factory", "repr", "compare")}
    return dataclasses.field(
        **{name: value for name, value in given.items() if value is not dataclasses.MISSING}
    )


@pytest.fixture(params=["the first instances", "later ones"])
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the constructors are compiled."""
    later = bool(request.param == "later ones")
    for cls, _ in SAMPLES:
        frozen = "__setattr__" in vars(cls)
        monkeypatch.setattr(cls, "__init__", vars(cls)["__init__"])  # put back afterwards
        lazy._set_init(cls, frozen)
        if later:
            cls.__init__ = lazy._compile_init(cls, frozen)  # type: ignore[misc]
    return later


@pytest.mark.parametrize(("cls", "given"), SAMPLES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_record_is_what_a_dataclass_is(cls: Any, given: dict[str, Any], compiled: bool) -> None:
    other = twin(cls)
    mine, theirs = cls(**given), other(**given)
    assert repr(mine) == repr(theirs) and dataclasses.asdict(mine) == dataclasses.asdict(theirs)
    names = [[*inspect.signature(one.__init__).parameters] for one in (cls, other)]
    assert names[0] == (names[1] if compiled else ["self", "args", "kwargs"])
    assert mine == cls(**given) and mine != theirs and cls.__match_args__ == other.__match_args__
    assert (cls.__hash__ is None) == (other.__hash__ is None)
    for one in dataclasses.fields(cls):
        changed, expected = (
            dataclasses.replace(mine, **{one.name: 9}),
            dataclasses.replace(theirs, **{one.name: 9}),
        )
        assert (changed == mine) == (expected == theirs)
        assert lazy.replace_fields(mine, **{one.name: 9}) == changed and getattr(changed, one.name) == 9
    assert copy.deepcopy(mine) == copy.copy(mine) == mine
    assert cls.__slots__ == lazy.field_names(cls) == tuple(f.name for f in dataclasses.fields(other))
    with pytest.raises(TypeError, match="unexpected keyword"):
        cls(**given, nothing=1)


@pytest.mark.parametrize("values", [(), ("a",), ("a", "b", "c")])
def test_arguments_are_counted_and_named(values: tuple[str, ...], compiled: bool) -> None:
    with pytest.raises(TypeError, match=r"SkippedCommit.__init__\(\)"):
        SkippedCommit(*values)
    with pytest.raises(TypeError, match="multiple values"):
        SkippedCommit("a", "b", sha="c")  # type: ignore[misc]


def test_where_many_records_are_made_the_constructor_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SkippedCommit, "__init__", SkippedCommit.__init__)
    lazy._set_init(SkippedCommit, frozen=True)
    made = [SkippedCommit("a", reason="b") for _ in range(lazy.PLAIN_INSTANCES + 1)]
    assert len(set(made)) == 1
    assert [*inspect.signature(SkippedCommit.__init__).parameters] == ["self", "sha", "reason"]


def test_a_frozen_record_stays_as_it_is_and_can_be_a_key() -> None:
    one = SkippedCommit("a", "b")
    with pytest.raises(dataclasses.FrozenInstanceError, match="assign to field 'sha'"):
        one.sha = "c"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError, match="delete field 'sha'"):
        del one.sha
    assert {one: 1}[SkippedCommit("a", "b")] == 1


def test_each_instance_has_a_default_of_its_own() -> None:
    one, other = FileChange("a", "M"), FileChange("a", "M")
    one.hunks.append(Hunk("", []))
    assert other.hunks == [] and one != other


def test_neither_definition_nor_use_imports_what_it_saves() -> None:
    program = "import sys; from gitpeft import config; config.Config(quiet=True); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert not {"dataclasses", "inspect", "ast"} & set(done.stdout.split())


def test_a_pattern_is_what_re_compiles() -> None:
    waiting, ready = lazy_pattern(r"(?P<a>x)(y)?", re.IGNORECASE), re.compile(r"(?P<a>x)(y)?", re.IGNORECASE)
    for text in ("", "xy", "aXY", "yx xy"):
        for method in ("search", "match", "fullmatch", "findall", "split"):
            one, other = getattr(waiting, method)(text), getattr(ready, method)(text)
            assert getattr(one, "regs", one) == getattr(other, "regs", other)
        assert waiting.sub("<\\1>", text) == ready.sub("<\\1>", text)
    assert waiting.groups == 2 and waiting.flags == ready.flags and waiting.groupindex == {"a": 1}


def test_a_bad_one_shows_when_it_is_used() -> None:
    with pytest.raises(re.error):
        lazy_pattern("(").search("")


def test_none_is_compiled_by_an_import() -> None:
    program = (
        "from gitpeft import redaction; from gitpeft.history import filters;"
        "print([*vars(redaction._QUOTED_ASSIGNMENT), *vars(filters._BOT_NAME)])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert "_given" in done.stdout and "search" not in done.stdout
