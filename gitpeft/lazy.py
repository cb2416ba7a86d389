"""Dataclasses and regular expressions that cost nothing until they are used, for the modules of the hook.

`dataclasses` imports `inspect` and compiles six functions for every class: 30 ms in each commit, most of it
for classes of which that commit never makes an instance. `lazy_dataclass` does the same for the arguments
that it knows (a test compares the two). Type checkers see the original. The functions `replace`, `asdict` and
`fields` of `dataclasses` work on its classes, but import `dataclasses`: where that matters, use
`replace_fields` and `field_names`.

Likewise, compiling every expression that a commit might need takes longer than most commits need them:
`lazy_pattern` compiles on first use.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

__all__ = ["field", "field_names", "lazy_dataclass", "lazy_pattern", "replace_fields"]

PLAIN_INSTANCES = 20
"""The instances of a class that are made without compiling a function for it, which takes as long as these:
a commit makes one or two of most classes."""

_Record = TypeVar("_Record")
_MISSING: Any = object()

if TYPE_CHECKING:
    from dataclasses import dataclass as lazy_dataclass
    from dataclasses import field as field
    from re import compile as lazy_pattern
else:

    def lazy_dataclass(*, frozen: bool = False, slots: bool = False):
        """A class decorator, used as `@dataclass(frozen=…, slots=…)` is."""
        return lambda cls: _build_class(cls, frozen, slots)

    def field(*, default=_MISSING, default_factory=_MISSING, repr=True, compare=True):
        """As `dataclasses.field`."""
        return _Field(default, default_factory, repr, compare)

    class lazy_pattern:
        """What `re.compile` returns, with the same methods; a bad expression is reported on first use."""

        def __init__(self, text: str | bytes, flags: int = 0) -> None:
            self.__given = text, flags

        def __getattr__(self, name: str) -> Any:
            value = getattr(re.compile(*self.__given), name)
            setattr(self, name, value)  # from now on as fast as the original
            return value


def field_names(cls: type) -> tuple[str, ...]:
    """The names of the fields of a lazy dataclass, in order."""
    return tuple(_get_fields(cls))


def replace_fields(instance: _Record, **values: Any) -> _Record:
    """A copy with other values for some fields, as by `dataclasses.replace`."""
    kind = type(instance)
    return kind(**{name: getattr(instance, name) for name in _get_fields(kind)} | values)


class _Field:
    """The definition of one field."""

    def __init__(self, default: Any, factory: Any, repr: bool, compare: bool) -> None:
        self.default, self.factory, self.repr, self.compare = default, factory, repr, compare

    def to_dataclass_field(self) -> Any:
        """The same field for `dataclasses`."""
        import dataclasses

        given = {"default": self.default, "default_factory": self.factory}
        given = {name: value for name, value in given.items() if value is not _MISSING}
        return dataclasses.field(**given, repr=self.repr, compare=self.compare)


class _LazyDataclassFields:
    """The fields as `dataclasses` stores them, made when it reads them."""

    def __get__(self, _: object, owner: type) -> Any:
        import dataclasses

        given = {name: one.to_dataclass_field() for name, one in _get_fields(owner).items()}
        twin = type(owner.__name__, (), {"__annotations__": owner.__annotations__, **given})
        return vars(dataclasses.dataclass(twin))["__dataclass_fields__"]


def _get_fields(cls: type) -> dict[str, _Field]:
    found: dict[str, _Field] = vars(cls)["__record__"]
    return found


def _build_class(cls: type, frozen: bool, slots: bool) -> type:
    """Build the class again, with the methods of a dataclass that it does not define itself."""
    body = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    given = {name: _as_field(body.pop(name, _MISSING)) for name in cls.__annotations__}
    compared = tuple(name for name, one in given.items() if one.compare)
    shown = tuple(name for name, one in given.items() if one.repr)
    own = {
        "__record__": given,
        "__dataclass_fields__": _LazyDataclassFields(),
        "__match_args__": tuple(given),
    }
    own |= {
        "__repr__": _make_repr(shown),
        "__eq__": _make_eq(compared),
        "__hash__": _make_hash(compared) if frozen else None,
    }
    if frozen:
        own |= {"__setattr__": _raise_frozen, "__delattr__": _raise_frozen, "__reduce__": _reduce_instance}
    if slots:
        own["__slots__"] = tuple(given)
    made = type(cls)(cls.__name__, cls.__bases__, own | body)
    made.__qualname__ = cls.__qualname__
    if "__init__" not in body:
        _set_init(made, frozen)
    return made


def _as_field(value: object) -> _Field:
    return value if isinstance(value, _Field) else _Field(value, _MISSING, repr=True, compare=True)


def _set_init(cls: Any, frozen: bool) -> None:
    """Set an `__init__` that assigns field by field, and later replaces itself by a compiled one.

    It does so after `PLAIN_INSTANCES`, or where the arguments are not right, which the other one reports.
    """
    fields = _get_fields(cls)
    made = 0

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal made
        made += 1
        values = _bind_arguments(fields, args, kwargs) if made <= PLAIN_INSTANCES else None
        if values is None:
            cls.__init__ = _compile_init(cls, frozen)
            cls.__init__(self, *args, **kwargs)
            return
        for name, value in values.items():
            object.__setattr__(self, name, value)

    cls.__init__ = __init__


def _bind_arguments(
    fields: dict[str, _Field], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any] | None:
    """The value of each field; None where the arguments are not those of a call that succeeds."""
    given = dict(zip(fields, args, strict=False)) | kwargs
    if len(given) < len(args) + len(kwargs) or not given.keys() <= fields.keys():
        return None
    for name in fields.keys() - given.keys():
        one = fields[name]
        if one.factory is not _MISSING:
            given[name] = one.factory()
        elif one.default is not _MISSING:
            given[name] = one.default
        else:
            return None
    return given


def _compile_init(cls: type, frozen: bool) -> Callable[..., None]:
    """Compile an `__init__` as fast as one by hand: a history has many thousand records."""
    scope: dict[str, Any] = {"nothing": _MISSING, "put": object.__setattr__}
    taken, lines = ["self"], ["pass"]
    for name, one in _get_fields(cls).items():
        value = name
        if one.factory is not _MISSING:
            scope[f"make_{name}"] = one.factory
            value = f"make_{name}() if {name} is nothing else {name}"
        scope[f"default_{name}"] = one.default
        optional = one.default is not _MISSING or one.factory is not _MISSING
        taken.append(f"{name}=default_{name}" if optional else name)
        lines.append(f"put(self, {name!r}, {value})" if frozen else f"self.{name} = {value}")
    text = f"def __init__({', '.join(taken)}):\n " + "\n ".join(lines)
    exec(text, scope)  # noqa: S102 - the names are those of a class in this package, as in `dataclasses` itself
    made: Callable[..., None] = scope["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    return made


def _make_repr(shown: tuple[str, ...]) -> Callable[[object], str]:
    def __repr__(self: object) -> str:
        values = (f"{name}={getattr(self, name)!r}" for name in shown)
        return f"{type(self).__qualname__}({', '.join(values)})"

    return __repr__


def _make_eq(compared: tuple[str, ...]) -> Callable[[object, object], bool]:
    def __eq__(self: object, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return [getattr(self, name) for name in compared] == [getattr(other, name) for name in compared]

    return __eq__


def _make_hash(compared: tuple[str, ...]) -> Callable[[object], int]:
    return lambda self: hash(tuple(getattr(self, name) for name in compared))


def _raise_frozen(_: object, name: str, *value: object) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot {'assign to' if value else 'delete'} field {name!r}")


def _reduce_instance(self: object) -> tuple[object, ...]:
    return type(self), tuple(getattr(self, name) for name in _get_fields(type(self)))
