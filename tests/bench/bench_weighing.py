"""What readers' marks, weighing candidates and a probe gain, by cross-validation over histories: one table.

    python -m tests.bench.bench_weighing RECIPE --corpus CLONES --work WORK --base models/smol

The candidates are those of `gitpeft base build --finish`, kept in WORK. A history's offers are those of a
reranker that was fitted without it. Shares are in percent; the last four columns are of the offers with the
best scores.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from unittest import mock

from gitpeft.lazy import replace_fields
from gitpeft.learn.evaluation.reranker import Marks, find_threshold
from gitpeft.learn.evaluation.text_metrics import NEARLY_KEPT_SHARE
from gitpeft.learn.evaluation.trial import ExampleCandidates
from gitpeft.learn.pretraining.base_reranker import (
    FoundOffer,
    fit_on_histories,
    summarise_marks,
)
from gitpeft.suggest import reranker
from gitpeft.suggest.reranker_features import GENERATED, DraftMessage, update_features
from tests.bench.recipe_answers import add_arguments, open_answers

History = Sequence[ExampleCandidates]
_UNKNOWN = DraftMessage("", GENERATED, (), information=0.0)
"""What is known of a message that was not weighed."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    answers = open_answers(parser.parse_args())
    marks = answers.recipe.read_marks()
    assert marks, "the recipe has no marks"
    asked = [answers.ask_once(name) for name in answers.rules.repositories]
    unweighed = [[_forget_weights(one) for one in history] for history in asked]
    unprobed = [[_forget_states(one) for one in history] for history in asked]
    best = [f"best {share} %: {what}" for share in (40, 30) for what in ("≥ 2, 0", "nearly kept")]
    print("| " + " | ".join(["order, score", "keystrokes saved", "≥ 2, 0", *best]) + " |")
    print("|---" * 7 + "|")
    first = reranker.MAX_WEIGHED
    for label, histories, known, count in (
        ("by keystrokes alone", unweighed, None, first),
        ("order by keystrokes, score by marks", unprobed, marks, 1),
        ("both by marks too, nothing is weighed", unweighed, marks, first),
        (f"the first {first} are weighed", unprobed, marks, first),
        (f"the first {first} are weighed and probed", asked, marks, first),
        (f"the first {2 * first} are weighed and probed", asked, marks, 2 * first),
    ):
        with mock.patch.object(reranker, "MAX_WEIGHED", count):
            _, found = fit_on_histories(histories, known)
        print(_format_row(label, found, marks), flush=True)


def _forget_weights(one: ExampleCandidates) -> ExampleCandidates:
    found = (replace_fields(c, features=update_features(c.features, _UNKNOWN), state=()) for c in one.found)
    return replace(one, found=tuple(found))


def _forget_states(one: ExampleCandidates) -> ExampleCandidates:
    return replace(one, found=tuple(replace_fields(c, state=()) for c in one.found))


def _format_row(label: str, found: Sequence[FoundOffer], marks: Marks) -> str:
    outcomes = [one.outcome for one in found]
    saved = 100 * sum(one.saving for one in outcomes) / len(outcomes)
    cells = [f"{saved:.1f}", _format_marks(found, marks, 0.0)]
    for coverage in (0.4, 0.3):
        least = find_threshold(outcomes, coverage)
        offered = [one for one in outcomes if one.score >= least]
        nearly = sum(one.saving >= NEARLY_KEPT_SHARE for one in offered) / len(offered)
        cells += [_format_marks(found, marks, least), f"{100 * nearly:.0f}"]
    return f"| {label} | " + " | ".join(cells) + " |"


def _format_marks(found: Sequence[FoundOffer], marks: Marks, least: float) -> str:
    told = summarise_marks(found, marks, least)["offered"]
    return f"{100 * told['at_least_2']:.0f}, {100 * told['0']:.0f}"


if __name__ == "__main__":
    main()
