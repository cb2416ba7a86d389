"""What an encoder reads in a change: hides its graph, its input, and what each line adds to the verdict.

The graph is made by `learn.judge_export`: the tuned encoder of a base, the mean of its states, the metrics,
and one weighted sum over all of them. So the verdict is a sum over the tokens, and each line has its share.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gitpeft.bundle.bundle import RISK_ENCODER_FILE, TOKENIZER_FILE, Bundle, open_active_bundle
from gitpeft.diff.render import RenderedPiece, TokenBudget, render_pieces
from gitpeft.errors import GitpeftError
from gitpeft.lazy import field_names, lazy_dataclass, replace_fields
from gitpeft.risk.change_metrics import ChangeMetrics
from gitpeft.risk.model import RISK_FEATURES, scale_features
from gitpeft.runtime.beam_search import BackgroundTask, open_session
from gitpeft.runtime.worker import RequestHandler, Worker

if TYPE_CHECKING:
    from gitpeft.runtime.tokenizer import TokenCodec

ENCODER_MESSAGE_TOKENS = 40


@lazy_dataclass(frozen=True, slots=True)
class EncoderScore:
    """The logit, and what each line that was read (path, the line with its sign) adds to it."""

    logit: float
    lines: tuple[tuple[str, str, float], ...]


def build_encoder_input(
    change: str, message: str, budget: TokenBudget, codec: "TokenCodec"
) -> list[RenderedPiece]:
    """What an encoder is given of a compact change; its message comes first, "" where there is none yet."""
    like = (message,) if message else ()
    found = render_pieces(
        change, like, "", replace_fields(budget, exemplar_tokens=ENCODER_MESSAGE_TOKENS), codec
    )
    return found or [RenderedPiece([codec.end])]


class RiskEncoder(Protocol):
    """What reads changes, here or in a process of its own."""

    def score_change(self, change: str, metrics: ChangeMetrics) -> EncoderScore:
        """The verdict about a compact change."""
        ...


class OnnxRiskEncoder:
    """An exported judge. The graph is loaded in the background, and waited for when first asked.

    GitpeftError, on asking, where it is none.
    """

    def __init__(
        self, graph: Callable[[], bytes], codec: Callable[[], "TokenCodec"], budget: TokenBudget
    ) -> None:
        self._session = BackgroundTask(lambda: open_session(graph(), 1))
        self._codec = BackgroundTask(codec)
        self._budget = budget

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> "OnnxRiskEncoder | None":
        """That of a bundle; None where it has none."""
        if RISK_ENCODER_FILE not in bundle:
            return None

        def load_codec() -> "TokenCodec":
            from gitpeft.runtime.tokenizer import TokenCodec

            return TokenCodec.from_bytes(bundle.read(TOKENIZER_FILE))

        return cls(lambda: bundle.read(RISK_ENCODER_FILE), load_codec, TokenBudget(**bundle.manifest.budget))

    def wait_until_loaded(self) -> None:
        """Wait until all is loaded."""
        self._session.get_result(), self._codec.get_result()

    def score_change(self, change: str, metrics: ChangeMetrics) -> EncoderScore:
        """The verdict about a compact change."""
        found = build_encoder_input(change, "", self._budget, self._codec.get_result())
        logit, tokens = self._run_graph(
            [i for piece in found for i in piece.ids], scale_features(metrics, RISK_FEATURES)
        )
        lines, at = [], 0
        for piece in found:
            end = at + len(piece.ids)
            if piece.line:
                lines.append((piece.path, piece.line, sum(tokens[at:end])))
            at = end
        return EncoderScore(logit, tuple(lines))

    def _run_graph(self, ids: Sequence[int], features: Sequence[float]) -> tuple[float, list[float]]:
        import numpy as np

        feeds = {"source": np.array([ids], np.int64), "features": np.array([features], np.float32)}
        try:
            logit, tokens = self._session.get_result().run(["logit", "tokens"], feeds)
        except GitpeftError:
            raise
        except Exception as error:  # the library has no common base of its errors
            reason = " ".join(str(error).split())[:200]
            raise GitpeftError(f"the risk model cannot read: {reason}", "run `gitpeft init`") from None
        return float(logit[0]), [float(x) for x in tokens[0]]


class SandboxedRiskEncoder:
    """The reader of the active model in a confined child, as the hook runs everything that is heavy.

    The child loads while its parent still measures. A context manager: the child never outlives the block.
    """

    def __init__(self, state_dir: Path, deadline: float, memory_mb: int) -> None:
        """Start the child; `deadline` is a moment of `time.monotonic`."""
        self._worker = Worker(state_dir, load_encoder_handler, deadline, memory_mb, "no risk looked at")

    def __enter__(self) -> "SandboxedRiskEncoder":
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.kill()

    def score_change(self, change: str, metrics: ChangeMetrics) -> EncoderScore:
        """As `Reader.read`, once; GitpeftError when the child is late, dies, or fails."""
        asked = {name: getattr(metrics, name) for name in field_names(ChangeMetrics)}
        said = self._worker.get_answer({"change": change, "metrics": asked})
        try:
            lines = tuple((str(path), str(line), float(share)) for path, line, share in said["lines"])
            return EncoderScore(float(said["logit"]), lines)
        except (KeyError, TypeError, ValueError):
            raise GitpeftError("the risk model gave no answer") from None


def load_encoder_handler(state_dir: Path) -> RequestHandler:
    """What reads changes with the active model, in a `Worker`."""
    bundle = open_active_bundle(state_dir)
    reader = OnnxRiskEncoder.from_bundle(bundle) if bundle else None
    if reader is None:
        raise GitpeftError("the risk model's encoder is missing", "run `gitpeft init` to build it again")
    reader.wait_until_loaded()

    def handle_request(request: dict[str, Any]) -> dict[str, Any]:
        found = reader.score_change(request["change"], ChangeMetrics(**request["metrics"]))
        return {"logit": found.logit, "lines": found.lines}

    return handle_request
