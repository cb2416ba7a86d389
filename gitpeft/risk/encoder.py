"""What an encoder reads in a change: hides its graph, its input, and what each line adds to the verdict.

The graph is made by `learn.judge_export`: the tuned encoder of a base, the mean of its states, the metrics,
and one weighted sum over all of them. So the verdict is a sum over the tokens, and each line has its share.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gitpeft.bundle.bundle import JUDGE, TOKENIZER, Bundle, active
from gitpeft.diff.patch import Budget, Piece, pieces
from gitpeft.errors import GitpeftError
from gitpeft.lazy import changed, names, record
from gitpeft.risk.change_metrics import Metrics
from gitpeft.risk.model import FEATURES, scaled
from gitpeft.runtime.beam_search import Later, session
from gitpeft.runtime.worker import Answer, Worker

if TYPE_CHECKING:
    from gitpeft.runtime.tokenizer import TokenCodec

MESSAGE_TOKENS = 40


@record(frozen=True, slots=True)
class Reading:
    """The logit, and what each line that was read (path, the line with its sign) adds to it."""

    logit: float
    lines: tuple[tuple[str, str, float], ...]


def source(change: str, message: str, budget: Budget, codec: "TokenCodec") -> list[Piece]:
    """What an encoder is given of a compact change; its message comes first, "" where there is none yet."""
    like = (message,) if message else ()
    found = pieces(change, like, "", changed(budget, exemplar_tokens=MESSAGE_TOKENS), codec)
    return found or [Piece([codec.end])]


class Reads(Protocol):
    """What reads changes, here or in a process of its own."""

    def read(self, change: str, metrics: Metrics) -> Reading:
        """The verdict about a compact change."""
        ...


class Reader:
    """An exported judge. The graph is loaded in the background, and waited for when first asked.

    GitpeftError, on asking, where it is none.
    """

    def __init__(self, graph: Callable[[], bytes], codec: Callable[[], "TokenCodec"], budget: Budget) -> None:
        self._session = Later(lambda: session(graph(), 1))
        self._codec = Later(codec)
        self._budget = budget

    @classmethod
    def of(cls, bundle: Bundle) -> "Reader | None":
        """That of a bundle; None where it has none."""
        if JUDGE not in bundle:
            return None

        def codec() -> "TokenCodec":
            from gitpeft.runtime.tokenizer import TokenCodec

            return TokenCodec.parse(bundle.read(TOKENIZER))

        return cls(lambda: bundle.read(JUDGE), codec, Budget(**bundle.manifest.budget))

    def prepare(self) -> None:
        """Wait until all is loaded."""
        self._session.get(), self._codec.get()

    def read(self, change: str, metrics: Metrics) -> Reading:
        """The verdict about a compact change."""
        found = source(change, "", self._budget, self._codec.get())
        logit, tokens = self._run([i for piece in found for i in piece.ids], scaled(metrics, FEATURES))
        lines, at = [], 0
        for piece in found:
            end = at + len(piece.ids)
            if piece.line:
                lines.append((piece.path, piece.line, sum(tokens[at:end])))
            at = end
        return Reading(logit, tuple(lines))

    def _run(self, ids: Sequence[int], features: Sequence[float]) -> tuple[float, list[float]]:
        import numpy as np

        feeds = {"source": np.array([ids], np.int64), "features": np.array([features], np.float32)}
        try:
            logit, tokens = self._session.get().run(["logit", "tokens"], feeds)
        except GitpeftError:
            raise
        except Exception as error:  # the library has no common base of its errors
            reason = " ".join(str(error).split())[:200]
            raise GitpeftError(f"the risk model cannot read: {reason}", "run `gitpeft init`") from None
        return float(logit[0]), [float(x) for x in tokens[0]]


class ConfinedReader:
    """The reader of the active model in a confined child, as the hook runs everything that is heavy.

    The child loads while its parent still measures. A context manager: the child never outlives the block.
    """

    def __init__(self, state_dir: Path, deadline: float, memory_mb: int) -> None:
        """Start the child; `deadline` is a moment of `time.monotonic`."""
        self._worker = Worker(state_dir, judgements, deadline, memory_mb, "no risk looked at")

    def __enter__(self) -> "ConfinedReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.kill()

    def read(self, change: str, metrics: Metrics) -> Reading:
        """As `Reader.read`, once; GitpeftError when the child is late, dies, or fails."""
        asked = {name: getattr(metrics, name) for name in names(Metrics)}
        said = self._worker.ask({"change": change, "metrics": asked})
        try:
            lines = tuple((str(path), str(line), float(share)) for path, line, share in said["lines"])
            return Reading(float(said["logit"]), lines)
        except (KeyError, TypeError, ValueError):
            raise GitpeftError("the risk model gave no answer") from None


def judgements(state_dir: Path) -> Answer:
    """What reads changes with the active model, in a `Worker`."""
    bundle = active(state_dir)
    reader = Reader.of(bundle) if bundle else None
    if reader is None:
        raise GitpeftError("the risk model's encoder is missing", "run `gitpeft init` to build it again")
    reader.prepare()

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        found = reader.read(request["change"], Metrics(**request["metrics"]))
        return {"logit": found.logit, "lines": found.lines}

    return answer
