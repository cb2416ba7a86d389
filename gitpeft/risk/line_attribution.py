"""Which lines of a change weigh most: hides how what is read in it becomes a share for each line.

The score of the words and the logit of an encoder are sums over a change. A line's share is what its own
words, and its own tokens, add; no model is asked again, and the same change always has the same shares.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gitpeft.diff.patch import FileChange, compact, split
from gitpeft.errors import GitpeftError
from gitpeft.lazy import field, record
from gitpeft.redaction import mask
from gitpeft.risk import bag_of_words
from gitpeft.risk.change_metrics import Metrics
from gitpeft.risk.model import READING, WORDS, Model

if TYPE_CHECKING:
    from gitpeft.risk.encoder import Reads

Line = tuple[str, str]
"""A path, and a line of its hunks as the compact text has it, with its sign."""


@record(frozen=True, slots=True)
class Read:
    """What a model reads in a change: features that are no metrics, and lines with their shares of the score.

    Lines are those that were added, the heaviest first.
    """

    beside: dict[str, float] = field(default_factory=dict)
    lines: tuple[tuple[Line, float], ...] = ()


def read(model: Model, files: Sequence[FileChange], metrics: Metrics, reader: "Reads | None") -> Read:
    """Read a change, if the model reads at all; GitpeftError where it needs a reader and there is none."""
    if not {WORDS, READING}.intersection(model.features):
        return Read()
    return read_text(model, mask(compact(files)), metrics, reader)


def read_text(model: Model, change: str, metrics: Metrics, reader: "Reads | None") -> Read:
    """The same for a compact text."""
    beside: dict[str, float] = {}
    weights = dict(zip(model.features, model.weights, strict=True))
    shares: dict[Line, float] = defaultdict(float)
    if WORDS in weights:
        beside[WORDS] = bag_of_words.score(change, model.words)
        for line, share in of_words(change, model.words).items():
            shares[line] += weights[WORDS] * share
    if READING in weights:
        if reader is None:
            raise GitpeftError("the risk model's encoder is missing", "run `gitpeft init` to build it again")
        found = reader.read(change, metrics)
        beside[READING] = found.logit
        for path, text, share in found.lines:
            shares[path, text] += weights[READING] * share
    added = [one for one in shares.items() if one[0][1].startswith("+")]
    return Read(beside, tuple(sorted(added, key=lambda one: (-one[1], one[0]))))


def of_words(change: str, weights: Sequence[float]) -> Mapping[Line, float]:
    """What the words of each line of the hunks add, were they the only ones of their kind in the change."""
    size = max(1, len(bag_of_words.buckets(change))) ** 0.5
    blocks = split(change)[1].items()
    return {
        (path, line): sum(weights[i] for i in bag_of_words.buckets(line)) / size
        for path, block in blocks
        for line in block
        if line[:1] in ("+", "-")
    }
