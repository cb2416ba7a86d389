"""What the scripts about readers' marks are given: a recipe, a base, and what the base answers."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from gitpeft.learn.data.dataset import Example
from gitpeft.learn.evaluation.trial import ExampleCandidates
from gitpeft.learn.models import bases
from gitpeft.learn.pretraining import commit_pairs
from gitpeft.learn.pretraining.adapter_build import AdapterRecipe
from gitpeft.learn.pretraining.base_reranker import HistoryAsker, RerankerRules


@dataclass(frozen=True)
class RecipeAnswers:
    """A base's answers about the histories of a recipe, kept in the work folder of `gitpeft base build`."""

    recipe: AdapterRecipe
    rules: RerankerRules
    base: bases.BaseModel
    asker: HistoryAsker
    tips: dict[str, str]

    def ask_once(self, name: str) -> list[ExampleCandidates]:
        """The candidates for the commits of OWNER/NAME."""
        return self.asker.ask_once(name, self.tips[name])

    def mine_examples(self, name: str) -> list[Example]:
        """The commits of OWNER/NAME, oldest first, among them those that were asked about."""
        clone = commit_pairs.open_clone(self.asker.corpus, name)
        return commit_pairs.mine_examples(clone, self.tips[name], self.rules.newest)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that `open_answers` reads."""
    parser.add_argument("recipe", type=Path)
    for name in ("--corpus", "--work", "--base"):
        parser.add_argument(name, type=Path, required=True)


def open_answers(args: argparse.Namespace) -> RecipeAnswers:
    """The answers for parsed arguments."""
    recipe = AdapterRecipe.load(args.recipe)
    assert recipe.reranker is not None, "the recipe has no [reranker]"
    base = bases.find_base(str(args.base))
    asker = HistoryAsker(base, recipe.reranker, args.corpus, frozenset(), args.work, recipe.read_marks())
    return RecipeAnswers(recipe, recipe.reranker, base, asker, recipe.read_repositories())
