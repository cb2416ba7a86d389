"""In which layer of a base it shows best what readers say of its messages: one table, by cross-validation.

    python -m tests.bench.smol.probe_layers RECIPE --corpus CLONES --work WORK --base models/smol

The candidates are those of `gitpeft base build --finish`, kept in WORK; those with a mark are read again, in
bfloat16, after the prompt that they were written for. A history is judged by rerankers that were fitted
without it.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from gitpeft.lazy import replace_fields
from gitpeft.learn.data.dataset import Example, build_example_index
from gitpeft.learn.evaluation import reranker, trial
from gitpeft.learn.evaluation.ranking_metrics import roc_auc
from gitpeft.learn.evaluation.reranker import Marks
from gitpeft.learn.evaluation.trial import ExampleCandidates
from gitpeft.learn.models import bases
from gitpeft.runtime.tokenizer import render_source, wrap_source
from gitpeft.suggest.generator import MAX_TOKENS
from gitpeft.suggest.suggester import NEIGHBOUR_COUNT
from tests.bench.recipe_answers import add_arguments, open_answers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GROUPS = 10

Key = tuple[str, str]
"""Commit and message."""

States = Mapping[Key, NDArray[np.float32]]
"""Means over the message's tokens, and states of its last token, (2, layers, D)."""

FindState = Callable[[Key], tuple[float, ...]]


def main() -> None:
    """Read the states, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--layers", type=int, nargs="+", default=[10, 15, 20, 25, 30])
    args = parser.parse_args()
    answers = open_answers(args)
    marks, base = answers.recipe.read_marks(), answers.base
    assert marks, "the recipe has no marks"
    asked, states = [], dict[Key, NDArray[np.float32]]()
    model = base.load().to(torch.bfloat16).eval()
    for name in answers.rules.repositories:
        asked.append(answers.ask_once(name))
        examples = answers.mine_examples(name)
        states.update(read_history(base, model, examples, asked[-1], marks, args.layers))
        print(f"{name}: {len(states):,} messages read", flush=True)
    print("\n| | ≥ 2 | 0 |\n|---|---|---|")
    print(format_row("features alone", asked, marks, lambda key: ()))
    for row, layer in enumerate(args.layers):
        for kind, what in enumerate(("mean", "last token")):
            label = f"behind layer {layer}, {what}"
            print(format_row(label, asked, marks, partial(_pick, states, (kind, row))))


def _pick(states: States, place: tuple[int, int], key: Key) -> tuple[float, ...]:
    return tuple(states[key][place].tolist()) if key in states else ()


def read_history(
    base: bases.BaseModel,
    model: "PreTrainedModel",
    examples: Sequence[Example],
    asked: Sequence[ExampleCandidates],
    marks: Marks,
    layers: Sequence[int],
) -> Iterator[tuple[Key, NDArray[np.float32]]]:
    """The states of the marked messages of a history, the last ones behind the model's last norm."""
    newest = examples[len(examples) - len(examples) // 5 :]
    index = build_example_index(examples[: len(examples) - len(newest)])
    known = {one.example.sha: one for one in asked}
    chosen = [one for one in newest if one.sha in known]
    codec, budget, wrapping = base.load_codec(), base.budget, base.find_wrapping_ids()
    start, end = codec.find_message_start(), codec.find_message_end(budget.layout)
    for one, before in zip(chosen, trial.entries_known_before(chosen, newest), strict=True):
        near = index.with_later_commits(before).find_nearest(one.change, NEIGHBOUR_COUNT)
        subjects = [other.subject for other in near[: budget.exemplars]]
        prompt = render_source(one.change, subjects, one.previous, budget, codec)
        ids = wrap_source(prompt or codec.marks["file"], wrapping, budget.total)
        texts = [c.message for c in known[one.sha].found if (one.sha, c.message) in marks]
        with torch.no_grad():
            read = model(input_ids=torch.tensor([ids]), use_cache=True).past_key_values if texts else None
            for text in texts:
                words = codec.encode_message(text, budget.layout)[:MAX_TOKENS]
                found = model(
                    input_ids=torch.tensor([[start, *words, end]]),
                    past_key_values=deepcopy(read),
                    output_hidden_states=True,
                ).hidden_states
                rows = torch.stack([found[layer][0, 1:-1].float() for layer in layers])
                yield (one.sha, text), np.stack([rows.mean(1).numpy(), rows[:, -1].numpy()])


def format_row(
    label: str, asked: Sequence[Sequence[ExampleCandidates]], marks: Marks, find_state: FindState
) -> str:
    """The two AUCs of what rerankers hold marked messages to be worth, with the states of `find_state`."""
    histories = [[_with_states(one, find_state) for one in history] for history in asked]
    truth, scores = [], []
    for group in range(GROUPS):
        rest = [one for i, history in enumerate(histories) if i % GROUPS != group for one in history]
        held = [one for history in histories[group::GROUPS] for one in history]
        if not held:
            continue
        fitted = reranker.fit_reranker(rest, marks=marks)
        for one in held:
            for c in one.found:
                mark = marks.get((one.example.sha, c.message))
                if mark is not None and not c.flaw:
                    truth.append(mark)
                    scores.append(fitted.score_candidate(c))
    given, worth = np.array(truth), np.array(scores)
    good, right = (roc_auc((given >= least).astype(float), worth) for least in (2, 1))
    return f"| {label} | {good:.3f} | {right:.3f} |"


def _with_states(one: ExampleCandidates, find_state: FindState) -> ExampleCandidates:
    found = (replace_fields(c, state=find_state((one.example.sha, c.message))) for c in one.found)
    return replace(one, found=tuple(found))


if __name__ == "__main__":
    main()
