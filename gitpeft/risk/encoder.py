"""The risk encoder: a tuned encoder as an ONNX graph that scores the text of a change.

`learn.risk.encoder_export` makes the graph: the tuned encoder of a base, the mean of its hidden states, the
metrics, and one weighted sum over all of them. The logit is therefore a sum over tokens, so that each line
has a share in it.
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
from gitpeft.runtime.background import BackgroundTask
from gitpeft.runtime.onnx_model import open_session
from gitpeft.runtime.worker import RequestHandler, Worker

if TYPE_CHECKING:
    from gitpeft.runtime.tokenizer import TokenCodec

ENCODER_MESSAGE_TOKENS = 40


@lazy_dataclass(frozen=True, slots=True)
class EncoderScore:
    """The logit, and the contribution of each line: (path, the line with its sign, share)."""

    logit: float
    lines: tuple[tuple[str, str, float], ...]


def build_encoder_input(
    change: str, message: str, budget: TokenBudget, codec: "TokenCodec"
) -> list[RenderedPiece]:
    """The encoder's input for a compact change, with its message first ("" before there is one)."""
    like = (message,) if message else ()
    found = render_pieces(
        change, like, "", replace_fields(budget, exemplar_tokens=ENCODER_MESSAGE_TOKENS), codec
    )
    return found or [RenderedPiece([codec.end])]


class RiskEncoder(Protocol):
    """Scores changes, in this process or in another."""

    def score_change(self, change: str, metrics: ChangeMetrics) -> EncoderScore:
        """Score a compact change."""
        ...


class OnnxRiskEncoder:
    """A risk encoder in this process. The graph loads in the background; the first score waits for it.

    Scoring raises GitpeftError when the graph cannot be loaded.
    """

    def __init__(
        self, graph: Callable[[], bytes], codec: Callable[[], "TokenCodec"], budget: TokenBudget
    ) -> None:
        self._session = BackgroundTask(lambda: open_session(graph(), 1))
        self._codec = BackgroundTask(codec)
        self._budget = budget

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> "OnnxRiskEncoder | None":
        """The risk encoder of a bundle; None where it has none."""
        if RISK_ENCODER_FILE not in bundle:
            return None

        def load_codec() -> "TokenCodec":
            from gitpeft.runtime.tokenizer import TokenCodec

            return TokenCodec.from_bytes(bundle.read(TOKENIZER_FILE))

        return cls(lambda: bundle.read(RISK_ENCODER_FILE), load_codec, TokenBudget(**bundle.manifest.budget))

    def wait_until_loaded(self) -> None:
        """Wait until graph and tokenizer are loaded."""
        self._session.get_result(), self._codec.get_result()

    def score_change(self, change: str, metrics: ChangeMetrics) -> EncoderScore:
        """Score a compact change."""
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
        except Exception as error:  # onnxruntime's errors have no common base class
            reason = " ".join(str(error).split())[:200]
            raise GitpeftError(f"the risk encoder failed: {reason}", "Run `gitpeft init`.") from None
        return float(logit[0]), [float(x) for x in tokens[0]]


class SandboxedRiskEncoder:
    """The active model's risk encoder in a sandboxed child process, for the hook.

    The child loads while its parent computes metrics. A context manager: the child never outlives the block.
    """

    def __init__(self, state_dir: Path, deadline: float, memory_mb: int) -> None:
        """Start the child; `deadline` is a value of `time.monotonic`."""
        self._worker = Worker(state_dir, load_encoder_handler, deadline, memory_mb, "risk not assessed")

    def __enter__(self) -> "SandboxedRiskEncoder":
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.kill()

    def score_change(self, change: str, metrics: ChangeMetrics) -> EncoderScore:
        """Score a compact change, once. GitpeftError when the child is too slow, dies, or fails."""
        values = {name: getattr(metrics, name) for name in field_names(ChangeMetrics)}
        answer = self._worker.get_answer({"change": change, "metrics": values})
        try:
            logit, rows = answer["logit"], answer["lines"]
            if not (isinstance(logit, int | float) and isinstance(rows, list)):
                raise TypeError("a logit is a number, and lines are a list")
            lines = tuple((str(path), str(line), float(share)) for path, line, share in rows)
            return EncoderScore(float(logit), lines)
        except (KeyError, TypeError, ValueError):
            raise GitpeftError("the risk encoder gave no valid answer") from None


def load_encoder_handler(state_dir: Path) -> RequestHandler:
    """Load the active model's risk encoder in a `Worker`, and return the handler of its requests."""
    bundle = open_active_bundle(state_dir)
    encoder = OnnxRiskEncoder.from_bundle(bundle) if bundle else None
    if encoder is None:
        raise GitpeftError("the risk model's encoder is missing", "Run `gitpeft init` to build it again.")
    encoder.wait_until_loaded()

    def handle_request(request: dict[str, Any]) -> dict[str, Any]:
        found = encoder.score_change(request["change"], ChangeMetrics(**request["metrics"]))
        return {"logit": found.logit, "lines": found.lines}

    return handle_request
