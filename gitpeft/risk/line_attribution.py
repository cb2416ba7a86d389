"""Text features of a change (words and encoder), and how much each of its lines contributes to the score.

Both are sums over a change, so a line's share is what its own words and tokens add: no model runs again, and
the same change always has the same shares.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gitpeft.diff.compact import compact_change, split_compact
from gitpeft.diff.patch import FileChange
from gitpeft.errors import GitpeftError
from gitpeft.lazy import field, lazy_dataclass
from gitpeft.redaction import mask_secrets
from gitpeft.risk import bag_of_words
from gitpeft.risk.change_metrics import ChangeMetrics, is_code_file
from gitpeft.risk.model import ENCODER_FEATURE, WORDS_FEATURE, RiskModel
from gitpeft.risk.real_lines import is_real_line

if TYPE_CHECKING:
    from gitpeft.risk.encoder import RiskEncoder

ChangedLine = tuple[str, str]
"""A path, and a line of its hunks as the compact text has it, with its sign."""


@lazy_dataclass(frozen=True, slots=True)
class TextFeatures:
    """The features of a change that are not metrics, and what its lines add to the score.

    `change` is the compact text, `words` the weights of words and `weight` that of their feature, `read` what
    each line adds by the encoder.
    """

    beside: dict[str, float] = field(default_factory=dict)
    change: str = ""
    words: tuple[float, ...] = ()
    weight: float = 0.0
    read: tuple[tuple[ChangedLine, float], ...] = ()

    @property
    def lines(self) -> tuple[tuple[ChangedLine, float], ...]:
        """The added lines with their shares of the score; computed when it is asked for.

        Code comes first, then lines of tests and texts, then comments; of each the largest share first.
        """
        shares: dict[ChangedLine, float] = defaultdict(float)
        if self.words:
            for line, share in attribute_words_to_lines(self.change, self.words).items():
                shares[line] += self.weight * share
        for line, share in self.read:
            shares[line] += share
        added = [one for one in shares.items() if one[0][1].startswith("+")]
        return tuple(sorted(added, key=_rank_line))


def _rank_line(one: tuple[ChangedLine, float]) -> tuple[int, float, ChangedLine]:
    (path, line), share = one
    kind = 2 if not is_real_line(line[1:]) else 0 if is_code_file(path) else 1
    return kind, -share, (path, line)


def extract_text_features(
    model: RiskModel, files: Sequence[FileChange], metrics: ChangeMetrics, encoder: "RiskEncoder | None"
) -> TextFeatures:
    """Extract the text features that a model needs. GitpeftError where its encoder is missing."""
    if not {WORDS_FEATURE, ENCODER_FEATURE}.intersection(model.features):
        return TextFeatures()
    return extract_features_from_text(model, mask_secrets(compact_change(files)), metrics, encoder)


def extract_features_from_text(
    model: RiskModel, change: str, metrics: ChangeMetrics, encoder: "RiskEncoder | None"
) -> TextFeatures:
    """The same for the compact text of a change."""
    beside: dict[str, float] = {}
    weights = dict(zip(model.features, model.weights, strict=True))
    read: tuple[tuple[ChangedLine, float], ...] = ()
    words = model.words if WORDS_FEATURE in weights else ()
    if words:
        beside[WORDS_FEATURE] = bag_of_words.score_words(change, words)
    if ENCODER_FEATURE in weights:
        if encoder is None:
            raise GitpeftError("the risk model's encoder is missing", "Run `gitpeft init` to build it again.")
        found = encoder.score_change(change, metrics)
        beside[ENCODER_FEATURE] = found.logit
        read = tuple(((path, text), weights[ENCODER_FEATURE] * share) for path, text, share in found.lines)
    return TextFeatures(beside, change, words, weights.get(WORDS_FEATURE, 0.0), read)


def attribute_words_to_lines(change: str, weights: Sequence[float]) -> Mapping[ChangedLine, float]:
    """What the words of each changed line add to `score_words`, counting each line as if it stood alone."""
    size = max(1, len(bag_of_words.hash_words(change))) ** 0.5
    blocks = split_compact(change)[1].items()
    return {
        (path, line): sum(weights[i] for i in bag_of_words.hash_words(line)) / size
        for path, block in blocks
        for line in block
        if line[:1] in ("+", "-")
    }
