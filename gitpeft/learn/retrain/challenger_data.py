"""The data of a challenger: what it learns from, and the newest commits, which neither model has seen.

    all usable commits, oldest first
    |--- trained on by the champion ---|--- newer, or held out from it ---|
    |  replay sample  |  everything it was not trained on  | valid | test |

Commits before the first that the champion knows were left out for want of time, and are left out again.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gitpeft.bundle.bundle import Bundle
from gitpeft.diff.render import TokenBudget
from gitpeft.history.step_share import CountListener
from gitpeft.history.store import CommitRecord
from gitpeft.learn.data import dataset
from gitpeft.learn.data.dataset import Dataset, Example
from gitpeft.learn.retrain.champion_challenger import HELD_OUT_SHARE, MAX_TEST_COMMITS, MIN_TEST_COMMITS
from gitpeft.suggest.retrieval import CommitIndex

MIN_REPLAYED = 256
"""One older example is replayed for each new one, but at least this many."""


@dataclass(frozen=True, slots=True)
class ChallengerSplit:
    """The challenger's examples, how many commits are newer than the champion, and how many are replayed.

    `data` is None where too few commits are left that the champion was neither trained nor validated on.
    """

    data: Dataset | None
    new: int
    replayed: int = 0


@dataclass(frozen=True, slots=True)
class ChallengerExamples:
    """The newest usable commits of a history, oldest first, beside those that the champion knows.

    `since` counts the usable commits from the first that the champion knows on. Of those that it knows, also
    oldest first, it has not learnt from the newest `held`.
    """

    examples: Sequence[Example]
    since: int
    known: Sequence[str]
    held: int

    @classmethod
    def select(
        cls,
        records: Sequence[CommitRecord],
        champion: Bundle,
        most: int | None = None,
        listen: CountListener | None = None,
    ) -> "ChallengerExamples":
        """Those of a history, oldest record first, `most` of them at the most."""
        known = load_known_commits(champion)
        examples, usable, _ = dataset.filter_records(records, most, listen)
        first = next((i for i, example in enumerate(examples) if known and example.sha == known[0]), None)
        since = usable if first is None else len(examples) - first
        held = int(champion.manifest.commits.get("held", len(known) // 10))
        return cls(examples, since, known, held)

    def take_newest(self, count: int) -> "ChallengerExamples":
        """The newest of them alone."""
        return replace(self, examples=self.examples[max(0, len(self.examples) - count) :])

    def count_new(self) -> int:
        """How many of them the champion does not know."""
        known = set(self.known)
        return sum(example.sha not in known for example in self.examples)

    def split(
        self,
        seed: int,
        *,
        is_enough: Callable[[int], bool] | None = None,
        listen: CountListener | None = None,
    ) -> ChallengerSplit:
        """Split them so that the test commits are new to the champion as well as to the challenger.

        Once `is_enough` says so, older ones are left out; the test commits stay the same. See
        `dataset.divide_examples`.
        """
        new, tested = self.count_new(), self._count_tested()
        if not tested:
            return ChallengerSplit(None, new)
        valid = min(MAX_TEST_COMMITS, max(MIN_TEST_COMMITS, (len(self.examples) - tested) // 10))
        data = dataset.divide_examples(
            self.examples,
            TokenBudget().exemplars,
            lambda count: (max(0, count - tested - valid), count - tested),
            is_enough=is_enough,
            listen=listen,
        )
        trained_on = set(self.known[: int(0.8 * len(self.known))])
        chosen, replayed = _sample_replay(data.examples[: data.first_valid], trained_on, seed)
        return ChallengerSplit(replace(data, taught=chosen), new, replayed)

    def _count_tested(self) -> int:
        """How many of the newest are tested on, 0 where there are too few that the champion has not seen."""
        seen = set(self.known[: len(self.known) - self.held])
        unseen = [place for place, example in enumerate(self.examples) if example.sha not in seen]
        count = min(MAX_TEST_COMMITS, max(MIN_TEST_COMMITS, int(HELD_OUT_SHARE * len(unseen))))
        if len(unseen) < count:
            return 0
        last_seen = max((i for i, example in enumerate(self.examples) if example.sha in seen), default=-1)
        # a branch that was merged late has older commits among those that were trained or validated on
        tested = min(len(self.examples) - unseen[-count], len(self.examples) - 1 - last_seen)
        return tested if tested >= MIN_TEST_COMMITS else 0


def split_for_challenger(records: Sequence[CommitRecord], champion: Bundle, seed: int) -> ChallengerSplit:
    """The split of a whole history, oldest record first, whatever its examples take."""
    return ChallengerExamples.select(records, champion).split(seed)


def load_known_commits(champion: Bundle) -> list[str]:
    """The commits of the champion's index, oldest first."""
    index = CommitIndex.load_from_bundle(champion)
    return [index.get_commit(place)[0] for place in range(len(index))]


def _sample_replay(
    examples: Sequence[Example], trained_on: set[str], seed: int
) -> tuple[tuple[Example, ...], int]:
    """What the champion was not trained on and a sample of the rest, in order; the sample's size."""
    fresh = {example.sha for example in examples if example.sha not in trained_on}
    old = [example for example in examples if example.sha in trained_on]
    sample = random.Random(seed).sample(old, min(len(old), max(MIN_REPLAYED, len(fresh))))
    chosen = fresh | {example.sha for example in sample}
    return tuple(example for example in examples if example.sha in chosen), len(sample)
