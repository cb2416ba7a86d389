"""A repository's history as examples: which commits are left out and why, and the split by time.

The protocol: merges, bots, reverts, commits written by an assistant, repeated messages and commits that touch
only lock or generated files are out, and counted. The oldest 80 % are for training, the next 10 %
for validation, the newest 10 % for testing; an example's exemplars are always earlier than itself.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from gitpeft.diff.render import TokenBudget
from gitpeft.diff.subjects import clean_subject
from gitpeft.history.filters import find_exclusion_reason
from gitpeft.history.step_share import CountListener, ShareListener, follow_commits, make_part_listener
from gitpeft.history.store import CommitRecord
from gitpeft.history.stored_records import StoredChange, StoredRecords
from gitpeft.learn.data.example_index import ExampleIndexer
from gitpeft.runtime.tokenizer import TokenCodec, render_source
from gitpeft.suggest.retrieval import CommitIndex

PREVIOUS_WINDOW = 200
"""How many commits back the author's previous subject is looked for, as the hook does."""

MAX_MESSAGE_TOKENS = 40
"""A message is learnt up to this many tokens."""

OLDER_COMMITS = "older than the budget allows for"
"""Why commits are left out where the time is too short for all."""

MIN_TRAINING_EXAMPLES = 50
"""Nothing is trained on fewer usable examples."""

_FILTERED_SHARE = 0.1
"""How much of preparing examples is done when it is known which commits are usable."""


@dataclass(frozen=True, slots=True)
class Example:
    """One commit as a model sees it: the change and its surroundings, and the message to write.

    `like` are the subjects of the nearest earlier commits, nearest first; a `Dataset` searches for them when
    they are read, as it reads the change. `group` names the repository where examples of several come
    together.
    """

    content: str | StoredChange
    message: str
    previous: str
    like: Sequence[str]
    sha: str
    group: str = ""

    @property
    def change(self) -> str:
        """The stored change."""
        return self.content if isinstance(self.content, str) else self.content.read()


@dataclass(frozen=True, slots=True)
class Dataset:
    """Usable examples of one history, oldest first, cut into three by time.

    `train`, `valid`, `test` are consecutive; `first_valid` and `first_test` are places in `examples` (and in
    `index`, which holds the same commits in the same order). `left_out` counts commits by reason. With
    `taught`, only these of the oldest are trained on (see `learn.retrain`). `indexer` has the terms of all
    examples where they are counted already.
    """

    examples: tuple[Example, ...]
    index: CommitIndex
    first_valid: int
    first_test: int
    left_out: dict[str, int]
    taught: tuple[Example, ...] = ()
    indexer: ExampleIndexer | None = None

    @property
    def train(self) -> tuple[Example, ...]:
        """The training part: the oldest commits, or what was chosen of them."""
        return self.taught or self.examples[: self.first_valid]

    @property
    def valid(self) -> tuple[Example, ...]:
        """The validation part."""
        return self.examples[self.first_valid : self.first_test]

    @property
    def test(self) -> tuple[Example, ...]:
        """The test part: the newest commits."""
        return self.examples[self.first_test :]

    def index_before(self, place: int) -> CommitIndex:
        """An index of the first `place` examples only, built from nothing later."""
        return self.indexer.build(place) if self.indexer else build_example_index(self.examples[:place])


def build_example_index(examples: Sequence[Example]) -> CommitIndex:
    """A retrieval index over examples, oldest first."""
    return make_indexer(examples).build(len(examples))


def make_indexer(
    examples: Sequence[Example],
    listen: CountListener | None = None,
    is_enough: Callable[[int], bool] | None = None,
) -> ExampleIndexer:
    """What all indexes over these examples are built from; `listen` gets how many are counted of how many.

    Only of the newest where `is_enough`, which is asked with their number, says so.
    """
    return ExampleIndexer.count(examples, listen, is_enough)


def encode_example(example: Example, budget: TokenBudget, codec: TokenCodec) -> tuple[list[int], list[int]]:
    """Source and target ids of an example: the input, and the message with what ends it."""
    source = render_source(example.change, example.like, example.previous, budget, codec)
    written = codec.encode_message(example.message, budget.layout)[:MAX_MESSAGE_TOKENS]
    return source, [*written, codec.find_message_end(budget.layout)]


def build_dataset(
    records: Sequence[CommitRecord],
    neighbours: int,
    valid: float = 0.1,
    test: float = 0.1,
    *,
    limit: Callable[[int], int] | None = None,
    is_enough: Callable[[int], bool] | None = None,
    listen: ShareListener | None = None,
    most: int | None = None,
) -> Dataset:
    """The examples of a history, oldest record first.

    `limit` says of how many usable commits how many of the newest are taken, never more than `most`, and
    `is_enough` whether those that are prepared, the newest first, will do; the others count as left out.

    Exemplars of the training part are found in an index of that part only; those of the later parts in
    everything before the part, as if the model had been made on that day.
    """
    filtering, counting = make_example_listeners(listen) if listen else (None, None)
    bare, usable, left_out = filter_records(records, most, filtering)
    taken = min(len(bare), limit(usable) if limit else usable)
    if taken < usable:
        left_out |= {OLDER_COMMITS: usable - taken}
        bare = bare[len(bare) - taken :]
    data = divide_examples(
        bare,
        neighbours,
        lambda count: (int(count * (1 - valid - test)), int(count * (1 - test))),
        is_enough=is_enough,
        listen=counting,
    )
    if unprepared := len(bare) - len(data.examples):
        left_out[OLDER_COMMITS] = left_out.get(OLDER_COMMITS, 0) + unprepared
    return replace(data, left_out=left_out)


def make_example_listeners(listen: ShareListener) -> tuple[CountListener, CountListener]:
    """Listeners for the two parts of preparing examples: filtering commits, and counting their terms."""
    filtering = make_part_listener(listen, 0.0, _FILTERED_SHARE, "filtering")
    return filtering, make_part_listener(listen, _FILTERED_SHARE, 1.0)


def divide_examples(
    bare: Sequence[Example],
    neighbours: int,
    divide: Callable[[int], tuple[int, int]],
    *,
    is_enough: Callable[[int], bool] | None = None,
    listen: CountListener | None = None,
) -> Dataset:
    """A dataset of usable examples, oldest first, with the exemplars that `build_dataset` finds for them.

    Of so many examples, `divide` says which is the first for validation and which the first for testing.
    `is_enough` is that of `build_dataset`, `listen` that of `make_indexer`.
    """
    indexer = make_indexer(bare, listen, is_enough)
    bare = bare[len(bare) - len(indexer) :]
    first_valid, first_test = divide(len(bare))
    examples: list[Example] = []
    for start, end in ((0, first_valid), (first_valid, first_test), (first_test, len(bare))):
        examples += (
            replace(bare[i], like=indexer.promise_exemplars(i, start or end, start or i, neighbours))
            for i in range(start, end)
        )
    index = indexer.build(len(bare))
    return Dataset(tuple(examples), index, first_valid, first_test, {}, indexer=indexer)


def share_for_count(count: int, total: int) -> float:
    """The share that `build_dataset` rounds to `count` of `total`."""
    return (count - 0.25) / total


def build_dataset_from_parts(train: Sequence[Example], valid: Sequence[Example], neighbours: int) -> Dataset:
    """Examples chosen of a history: the exemplars of both parts come from `train` alone.

    There is no test part.
    """
    bare, first = [*train, *valid], len(train)
    indexer = make_indexer(bare)
    examples = tuple(
        replace(one, like=indexer.promise_exemplars(i, first, min(i, first), neighbours))
        for i, one in enumerate(bare)
    )
    return Dataset(examples, indexer.build(len(bare)), first, len(bare), {}, indexer=indexer)


def select_usable_examples(records: Sequence[CommitRecord]) -> list[Example]:
    """The examples of a history without exemplars, oldest first."""
    return filter_records(records)[0]


def filter_records(
    records: Sequence[CommitRecord], most: int | None = None, listen: CountListener | None = None
) -> tuple[list[Example], int, dict[str, int]]:
    """Usable examples without exemplars, the newest `most` of them, the number of all, and how many records
    were left out for which reason."""
    seen: set[str] = set()
    left_out: Counter[str] = Counter()
    kept: deque[Example] = deque(maxlen=most)
    usable = 0
    for record, previous in iterate_with_previous(follow_commits(records, listen) if listen else records):
        subject = clean_subject(record.subject)
        reason = find_record_exclusion(record, subject) or (
            "repeated message" if subject.lower() in seen else ""
        )
        if reason:
            left_out[reason] += 1
            continue
        seen.add(subject.lower())
        usable += 1
        content = records.promise_change(record) if isinstance(records, StoredRecords) else record.change
        kept.append(Example(content, subject, clean_subject(previous), (), record.sha))
    return list(kept), usable, dict(left_out)


def find_record_exclusion(record: CommitRecord, subject: str) -> str:
    """Why a commit is no example, "" when it is one."""
    if record.is_merge:
        return "merge"
    if record.bot:
        return "bot"
    return find_exclusion_reason(subject, record.body, record.change)


def iterate_with_previous(records: Iterable[CommitRecord]) -> Iterator[tuple[CommitRecord, str]]:
    """Each record with its author's subject before it, merges aside, within the last `PREVIOUS_WINDOW`."""
    last: dict[str, tuple[int, str]] = {}
    place = 0
    for record in records:
        at, subject = last.get(record.author, (-PREVIOUS_WINDOW, ""))
        yield record, subject if place - at <= PREVIOUS_WINDOW else ""
        if not record.is_merge:
            last[record.author] = (place, record.subject)
            place += 1
