"""The files of a bundle's model: read and checked beside other work, in this process or in a helper.

A helper (`runtime.helper`) also holds the tokenizer. Python stands still while a tokenizer is parsed, as it
does while libraries are imported and a graph is loaded: where there are two cores, one of them does this and
the helper that.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, cast

from gitpeft.bundle.bundle import (
    CAUSAL_GRAPHS,
    ENCODER_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    Bundle,
    open_bundle,
    require_active_bundle,
)
from gitpeft.runtime.background import BackgroundTask
from gitpeft.runtime.helper import Helper, HelperHandler
from gitpeft.runtime.tokenizer import TokenCodec
from gitpeft.suggest.read_errors import explain_read_errors


class MessageCodec(Protocol):
    """What suggestions need of a tokenizer: `TokenCodec`, or one in a helper."""

    marks: dict[str, list[int]]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""

    def encode_message(self, message: str, layout: str) -> list[int]:
        """The ids of a message, without an end."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these ids."""


class ModelFiles:
    """The files of a bundle's model; their reading and checking begins at once, in the background."""

    def __init__(self, bundle: Bundle, helper: Helper | None = None) -> None:
        names = (ENCODER_FILE, *CAUSAL_GRAPHS, *([] if helper else [TOKENIZER_FILE]))
        present = [name for name in names if name in bundle]
        self._bundle, self._helper = bundle, helper
        self._contents = BackgroundTask(lambda: {name: bundle.read(name) for name in present})
        self._weights = None if helper else BackgroundTask(partial(_check_weights, bundle))

    def find_reader(self, name: str) -> Callable[[], bytes]:
        """A function that waits for the content of a file; it raises GitpeftError for a damaged one."""
        return lambda: self._contents.get_result()[name]

    def check_weights(self) -> None:
        """Wait until the mapped weights are checked; GitpeftError when they are damaged."""
        if self._weights is not None:
            self._weights.get_result()
        elif self._helper is not None:
            self._helper.ask({"bundle": str(self._bundle.path), "ask": "check"})

    def load_codec(self) -> MessageCodec:
        """The tokenizer, once it is loaded; GitpeftError for a damaged one."""
        if self._helper is not None:
            return _HelperCodec(self._helper, self._bundle)
        return _parse_tokenizer(self.find_reader(TOKENIZER_FILE)())


def _check_weights(bundle: Bundle) -> None:
    if WEIGHTS_FILE in bundle:
        bundle.check_mapped_file(WEIGHTS_FILE)


def _parse_tokenizer(raw: bytes) -> TokenCodec:
    with explain_read_errors(TOKENIZER_FILE):
        return TokenCodec.from_bytes(raw)


# --- with a helper ------------------------------------------------------------------------------------------


class _HelperCodec:
    """A tokenizer in a helper, as `MessageCodec`."""

    def __init__(self, helper: Helper, bundle: Bundle) -> None:
        self._helper, self._bundle = helper, str(bundle.path)
        self.marks = cast("dict[str, list[int]]", self._ask("marks"))

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        return cast("list[list[int]]", self._ask("encode_many", list(texts)))

    def encode_message(self, message: str, layout: str) -> list[int]:
        return cast("list[int]", self._ask("encode_message", message, layout))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._ask("decode", list(ids)))

    def _ask(self, what: str, *given: object) -> object:
        return self._helper.ask({"bundle": self._bundle, "ask": what, "given": given})


def load_helper(state_dir: Path) -> HelperHandler:
    """Load the tokenizer of the active model, in a helper, and check its weights while requests are answered.

    Returns the function that answers. A request names its bundle: another model may have become the active
    one meanwhile.
    """
    loaded = _HelperModel(require_active_bundle(state_dir))

    def answer(request: dict[str, object]) -> object:
        nonlocal loaded
        if request["bundle"] != str(loaded.bundle.path):
            loaded = _HelperModel(open_bundle(Path(str(request["bundle"]))))
        return loaded.answer(str(request["ask"]), cast("list[object]", request.get("given", [])))

    return answer


class _HelperModel:
    """What a helper holds of a model."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._codec = _parse_tokenizer(bundle.read(TOKENIZER_FILE))
        self._weights = BackgroundTask(partial(_check_weights, bundle))

    def answer(self, what: str, given: Sequence[object]) -> object:
        if what == "check":
            return self._weights.get_result()
        if what == "marks":
            return self._codec.marks
        functions: dict[str, Callable[..., object]] = {
            "encode_many": self._codec.encode_many,
            "encode_message": self._codec.encode_message,
            "decode": self._codec.decode,
        }
        return functions[what](*given)
