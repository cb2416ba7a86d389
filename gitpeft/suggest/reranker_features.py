"""What speaks for a message and against it: hides the features by which a chooser weighs candidates.

None of them asks the model how likely it finds a message: how a candidate sits among the others, the team's
newest subjects and the words of the change told more on histories that nothing was fitted on.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property

from gitpeft.diff.compact import split_compact
from gitpeft.lazy import lazy_dataclass, lazy_pattern

GENERATED, RETRIEVED = "generated", "retrieved"

RERANKER_FEATURES = (
    "words",
    "off_length",
    "is_retrieved",
    "is_exemplar",
    "similarity",
    "age",
    "agreement",
    "echo",
    "in_change",
    "in_paths",
    "novel",
    "opening",
    "previous",
    "invents_number",
)
"""What a chooser may weigh, in the order of `weigh`. One that comes to mean something else needs another
name: the weights of older choosers belong to the older meaning."""

_NUMBER_PATTERN = lazy_pattern(r"\d+")
_WORD_PATTERN = lazy_pattern(r"\w+")
_NAME_PART_PATTERN = lazy_pattern(r"\d+|[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+")
"""Words, and the parts of names: `dropHTTPCache_2` has four."""

_SUFFIXES = ("ing", "ed", "es", "s", "e")
_LENGTH_WINDOW = 50
_DEFAULT_LENGTH = 6.0
_ECHO_FLOOR = 0.05


@lazy_dataclass(frozen=True, slots=True)
class DraftMessage:
    """A message as it came: from the model or from an earlier commit.

    `mean` is its log-probability per token (0 where the model was not asked), `similarity` that of the commit
    whose message it is (0 for a new one), `age` how many commits ago that was, `like` the commits behind it.
    """

    message: str
    origin: str
    like: tuple[str, ...]
    mean: float = 0.0
    similarity: float = 0.0
    age: int = 0
    finished: bool = True


class RerankingContext:
    """What messages are held against.

    `change` is the compact change, `previous` the author's previous subject, `recent` the newest subjects of
    the repository, oldest first.
    """

    def __init__(self, change: str, previous: str = "", recent: Sequence[str] = ()) -> None:
        self.change = change
        self.previous = previous
        self.recent = recent

    @cached_property
    def seen_text(self) -> str:
        """All that a message may take numbers and names from."""
        return f"{self.change}\n{self.previous}"

    @cached_property
    def seen_numbers(self) -> set[str]:
        """Every number that was seen."""
        return set(_NUMBER_PATTERN.findall(self.seen_text))

    @cached_property
    def path_words(self) -> set[str]:
        """The words in the paths of the change."""
        return {part for _, path in self._parsed_change[0] for part in _split_name_parts(path)}

    @cached_property
    def change_stems(self) -> set[str]:
        """The words of paths and lines and the parts of their names, without endings."""
        lines = (line for block in self._parsed_change[1].values() for line in block)
        return set(map(_stem_word, self.path_words.union(_split_name_parts("\n".join(lines)))))

    @cached_property
    def _parsed_change(self) -> tuple[list[tuple[str, str]], dict[str, list[str]]]:
        return split_compact(self.change)

    @cached_property
    def opening_words(self) -> Counter[str]:
        """The first words of the newest subjects."""
        return Counter(_get_first_word(_split_words(subject)) for subject in self.recent)

    @cached_property
    def usual_length(self) -> float:
        """The median length of the newest subjects, in words."""
        lengths = sorted(len(subject.split()) for subject in self.recent[-_LENGTH_WINDOW:])
        middle = len(lengths) // 2
        return (lengths[middle] + lengths[~middle]) / 2 if lengths else _DEFAULT_LENGTH

    @cached_property
    def previous_words(self) -> Counter[str]:
        """The words of the author's previous subject."""
        return Counter(_split_words(self.previous))


def compute_features(
    drafts: Sequence[DraftMessage], earlier: Mapping[str, DraftMessage], context: RerankingContext
) -> list[tuple[float, ...]]:
    """The features (see `FEATURES`) of messages that all differ; `earlier` are the retrieved ones by message.

    `agreement` is the mean unigram F1 with all others, `echo` that with the earlier ones among them, each
    counting as much as its change is similar. `in_change`, `in_paths` and `novel` are shares of a message's
    words: in the change, in its paths, and neither in the change nor in an earlier message. `opening` is the
    logarithm of how often a recent subject began so, `previous` the F1 with the author's previous subject.
    """
    bags = [Counter(_split_words(draft.message)) for draft in drafts]
    alike = _compute_pairwise_f1(bags)
    similar = [
        earlier[one.message].similarity + _ECHO_FLOOR if one.message in earlier else 0.0 for one in drafts
    ]
    learnt = {_stem_word(part) for message in earlier for part in _split_name_parts(message)}
    found: list[tuple[float, ...]] = []
    for place, draft in enumerate(drafts):
        same = earlier.get(draft.message)
        parts = _split_name_parts(draft.message)
        content = [_stem_word(part) for part in parts if len(part) > 2]
        new = [part for part in content if part not in context.change_stems]
        others = [i for i in range(len(drafts)) if i != place]
        length = len(draft.message.split())
        found.append(
            (
                float(length),
                abs(length - context.usual_length),
                float(draft.origin == RETRIEVED),
                float(same is not None),
                same.similarity if same else 0.0,
                math.log1p(same.age) if same else 0.0,
                _compute_weighted_mean([(1.0, alike[place][i]) for i in others]),
                _compute_weighted_mean([(similar[i], alike[place][i]) for i in others]),
                _compute_share(len(content) - len(new), content),
                _compute_share(sum(part in context.path_words for part in parts), parts),
                _compute_share(sum(part not in learnt for part in new), content),
                math.log1p(context.opening_words[_get_first_word(_split_words(draft.message))]),
                _compute_f1(bags[place], context.previous_words),
                float(not context.seen_numbers.issuperset(_NUMBER_PATTERN.findall(draft.message))),
            )
        )
    return found


def _compute_pairwise_f1(bags: Sequence[Counter[str]]) -> list[list[float]]:
    """The F1 of each pair; 0 on the diagonal."""
    found = [[0.0] * len(bags) for _ in bags]
    for i, bag in enumerate(bags):
        for j in range(i):
            found[i][j] = found[j][i] = _compute_f1(bag, bags[j])
    return found


def _split_name_parts(text: str) -> list[str]:
    return [part.lower() for part in _NAME_PART_PATTERN.findall(text)]


def _split_words(text: str) -> list[str]:
    return [word.lower() for word in _WORD_PATTERN.findall(text)]


def _get_first_word(words: Sequence[str]) -> str:
    return words[0] if words else ""


def _stem_word(word: str) -> str:
    """A word without its English ending, as far as letters alone tell."""
    for ending in _SUFFIXES:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def _compute_f1(a: Counter[str], b: Counter[str]) -> float:
    total = a.total() + b.total()
    return 2 * (a & b).total() / total if total else 0.0


def _compute_weighted_mean(weighted: Sequence[tuple[float, float]]) -> float:
    return sum(w * x for w, x in weighted) / max(1e-9, sum(w for w, _ in weighted))


def _compute_share(part: int, whole: Sequence[str]) -> float:
    return part / max(1, len(whole))
