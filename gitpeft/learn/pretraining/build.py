"""A base model from random weights: recipe → tokenizer → rendered corpus → stages of training → a folder.

Every step leaves its result in a work folder and is skipped when it is there, so that a build that was
interrupted continues where it was.
"""

import json
import multiprocessing
import os
import random
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitpeft.diff.render import TokenBudget
from gitpeft.diff.subjects import clean_subject
from gitpeft.errors import GitpeftError
from gitpeft.learn.data.batches import RenderedExamples
from gitpeft.learn.data.dataset import Example, build_example_index, encode_example
from gitpeft.learn.pretraining import auxiliary_losses, corpus
from gitpeft.learn.pretraining.auxiliary_losses import AuxiliaryWeights
from gitpeft.learn.pretraining.dedup import NearDuplicateFilter
from gitpeft.learn.training.finetune import ProgressListener
from gitpeft.learn.training.settings import TrainingCost, TrainingProgress, TrainingSettings
from gitpeft.runtime.tokenizer import SPECIAL_TOKENS, TokenCodec

if TYPE_CHECKING:
    from gitpeft.bundle.bundle import Manifest
    from gitpeft.learn.evaluation.trial import ExampleCandidates
    from gitpeft.learn.models.pointer_t5 import PointerT5ForConditionalGeneration

COMMITS_PER_VALIDATION_REPOSITORY, COMMITS_PER_TRAINING_REPOSITORY = 60, 30
"""How many commits of each validation repository the default reranker is evaluated on, and how many of each
other one it is fitted on."""


@dataclass(frozen=True, slots=True)
class PretrainingRecipe:
    """A `recipe.toml`: data, tokenizer, input budget, model configuration and training stages.

    `beside` holds the weights of the auxiliary tasks of each stage.
    """

    files: tuple[str, ...]
    validation: tuple[str, ...]
    neighbours: int
    seed: int
    vocabulary: int
    diff_share: float
    budget: TokenBudget
    model: dict[str, Any]
    stages: tuple[TrainingSettings, ...]
    beside: tuple[AuxiliaryWeights, ...]

    @classmethod
    def load(cls, path: Path) -> "PretrainingRecipe":
        """Read a recipe; GitpeftError names the file and what is wrong in it."""
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
            data = raw["data"]
            beside = [stage.pop("beside", {}) for stage in raw["stage"]]
            return cls(
                files=tuple(data["files"]),
                validation=tuple(data.get("validation", ())),
                neighbours=int(data.get("neighbours", 3)),
                seed=int(data.get("seed", 0)),
                vocabulary=int(raw["tokenizer"]["size"]),
                diff_share=float(raw["tokenizer"].get("diff_share", 0.2)),
                budget=TokenBudget(**raw["input"]),
                model=dict(raw["model"]),
                stages=tuple(TrainingSettings(**stage) for stage in raw["stage"]),
                beside=tuple(AuxiliaryWeights(**one) for one in beside),
            )
        except (OSError, KeyError, TypeError, ValueError) as error:
            hint = "compare it with models/mini/recipe.toml"
            raise GitpeftError(f"cannot use the recipe {path}: {error}", hint) from error


def pretrain_base(
    recipe: PretrainingRecipe,
    corpus_dir: Path,
    work: Path,
    out: Path,
    listen: ProgressListener,
) -> list[TrainingCost]:
    """Make a base as the recipe says and save it in `out`, its ONNX files too; returns each stage's cost."""
    from gitpeft.learn.training import devices

    missing = [name for name in recipe.files if not (corpus_dir / name).is_file()]
    if missing:
        raise GitpeftError(f"no corpus file {missing[0]} in {corpus_dir}", "name their folder with --corpus")
    work.mkdir(parents=True, exist_ok=True)
    listen("tokenizer", 0.0, "")
    make_tokenizer(recipe, corpus_dir, work)
    listen("tokenizer", 1.0, "")
    listen("examples", 0.0, "")
    train, valid = render_corpus(recipe, corpus_dir, work)
    listen("examples", 1.0, f"{len(train):,} examples, {len(valid):,} for validation")
    with devices.explain_lost_gpu():
        costs = train_stages(recipe, train, valid, work, out, listen)
    export_base(recipe, corpus_dir, out, listen)
    return costs


def make_tokenizer(recipe: PretrainingRecipe, corpus_dir: Path, work: Path) -> Path:
    """Train `work/tokenizer.json` unless it is there."""
    path = work / "tokenizer.json"
    if not path.exists():
        texts = _iterate_tokenizer_texts(recipe, corpus_dir)
        corpus.train_tokenizer(texts, recipe.vocabulary).save(str(path.with_suffix(".new")))
        path.with_suffix(".new").replace(path)
    return path


def _iterate_tokenizer_texts(recipe: PretrainingRecipe, corpus_dir: Path) -> Iterator[str]:
    """Every subject with and without its first word, and the diff lines of a sample of records."""
    dice = random.Random(1)
    for name in recipe.files:
        for _, records in corpus.read_corpus_file(corpus_dir / name, recipe.validation):
            for record in records:
                subject = clean_subject(record["subject"])
                yield subject
                yield subject.split(" ", 1)[-1]
                if dice.random() < recipe.diff_share:
                    yield from (line[1:] for line in corpus.normalise_diff(record["diff"]).split("\n"))


def render_corpus(
    recipe: PretrainingRecipe, corpus_dir: Path, work: Path
) -> tuple[RenderedExamples, RenderedExamples]:
    """Render every corpus file (one process each, at most one per core) unless its arrays are there."""
    jobs = [
        (recipe, corpus_dir / name, work, number)
        for number, name in enumerate(recipe.files, 1)
        if not (work / f"train-{number}.npz").exists()
    ]
    if jobs:
        with multiprocessing.get_context("spawn").Pool(min(len(jobs), os.cpu_count() or 1)) as pool:
            pool.starmap(_render_file, jobs, chunksize=1)
    numbers = range(1, len(recipe.files) + 1)
    train = [RenderedExamples.load(work / f"train-{i}.npz") for i in numbers]
    valid = [RenderedExamples.load(path) for i in numbers if (path := work / f"val-{i}.npz").exists()]
    return RenderedExamples.join_parts(train), RenderedExamples.join_parts(
        valid or [RenderedExamples.from_pairs([])]
    )


def _render_file(recipe: PretrainingRecipe, path: Path, work: Path, number: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    codec = TokenCodec.load(work / "tokenizer.json")
    dice, let_through, new = random.Random(recipe.seed), corpus.RepeatFilter(), NearDuplicateFilter()
    train: list[RenderedExamples] = []
    valid: list[RenderedExamples] = []
    for repo, records in corpus.read_corpus_file(path):
        found = [e for e in corpus.build_examples(records, recipe.neighbours) if let_through(e.message)]
        held_out = repo in recipe.validation
        if not held_out:
            found = [corpus.drop_context(example, dice) for example in found if new(example.change)]
        (valid if held_out else train).append(
            RenderedExamples.from_pairs([encode_example(e, recipe.budget, codec) for e in found])
        )
    if valid:
        RenderedExamples.join_parts(valid).save(work / f"val-{number}.npz")
    RenderedExamples.join_parts(train).save(work / f"new-{number}.npz")
    (work / f"new-{number}.npz").replace(work / f"train-{number}.npz")


def train_stages(
    recipe: PretrainingRecipe,
    train: RenderedExamples,
    valid: RenderedExamples,
    work: Path,
    out: Path,
    listen: ProgressListener,
) -> list[TrainingCost]:
    """Train the stages in order; a finished one left its weights in `work`, an unfinished one resumes."""
    import torch
    from safetensors.torch import load_file, save_file

    from gitpeft.learn.training import devices
    from gitpeft.learn.training.flops import measure_matrix_rate
    from gitpeft.learn.training.loop import train_model

    notes: list[str] = []
    model = devices.move_model(make_random_model(recipe), devices.pick_device(notes=notes), notes)
    if notes:
        listen("train", 0.0, " · ".join(notes))
    reachable = measure_matrix_rate(model.device)
    costs = []
    for number, (settings, weights) in enumerate(zip(recipe.stages, recipe.beside, strict=True), 1):
        done, cost_file = work / f"stage-{number}.safetensors", work / f"stage-{number}.json"
        if done.exists():
            model.load_state_dict(load_file(done), strict=False)
            costs.append(TrainingCost.from_dict(json.loads(cost_file.read_text())))
            continue
        if weights.has_any():
            auxiliary_losses.attach_heads(model)
        show = _make_stage_listener(listen, f"stage {number}", settings.steps, reachable, notes)
        cost = train_model(
            model,
            train,
            settings,
            valid=valid if len(valid) else None,
            evaluate_every=0.1,
            on_step=show,
            checkpoint=work / f"checkpoint-{number}",
            objective=auxiliary_losses.make_joint_objective(weights) if weights.has_any() else None,
        )
        auxiliary_losses.detach_heads(model)
        cost.notes[:0] = notes
        cost_file.write_text(json.dumps(cost.as_dict() | {"matrix_rate": reachable}))
        learnt = {n: p.detach().cpu().contiguous() for n, p in model.named_parameters()}
        save_file(learnt, work / "new.safetensors")
        (work / "new.safetensors").replace(done)
        costs.append(cost)
    save_base(model.to(torch.float32).cpu(), recipe, work, out)
    return costs


def _make_stage_listener(
    listen: ProgressListener, stage: str, steps: int, matrix_rate: float, notes: Sequence[str]
) -> Callable[[TrainingProgress], None]:
    """Tells of each step, with all notes so far: what is told only once is easily overlooked.

    `matrix_rate` 0: unknown.
    """
    told = list(notes)

    def report_progress(progress: TrainingProgress) -> None:
        told.extend([progress.note] if progress.note else [])
        seconds = max(progress.seconds, 1e-9)
        words = [f"{progress.step:,}/{steps:,} steps", f"loss {progress.loss:.3f}"]
        words.append(f"{progress.tokens / seconds:,.0f} tokens/s")
        if matrix_rate:
            words.append(f"{progress.flops / seconds / matrix_rate:.0%} of the device's bf16 matrix rate")
        listen(stage, progress.done, " · ".join([*words, *told]))

    return report_progress


def export_base(recipe: PretrainingRecipe, corpus_dir: Path, out: Path, listen: ProgressListener) -> None:
    """The files that let the base be used untuned and without torch: `out/onnx/`, with a default reranker."""
    from gitpeft.bundle import bundle as bundles
    from gitpeft.learn.evaluation import reranker
    from gitpeft.learn.export.parity import export_model
    from gitpeft.learn.models import bases

    base, folder = bases.find_base(str(out)), out / "onnx"
    folder.mkdir(exist_ok=True)
    held_out = [
        corpus.build_examples(records, recipe.neighbours)
        for name in recipe.files
        for repo, records in corpus.read_corpus_file(corpus_dir / name)
        if repo in recipe.validation
    ]
    if not held_out:
        raise GitpeftError("the recipe names no validation repository that the corpus holds", "add one to it")
    codec = TokenCodec.load(base.tokenizer_path)
    pairs = [encode_example(e, recipe.budget, codec) for every in held_out for e in every[-8:]]
    listen("export", 0.0, "")
    result = export_model(base.load(), base.tokenizer_path, folder, [(s, t[:-1]) for s, t in pairs])
    listen("export", 1.0, result.parity.describe_drop())
    manifest = bundles.Manifest("model", "", budget=asdict(recipe.budget), settings=result.settings)
    prior = reranker.fit_reranker(_ask_training_repositories(recipe, corpus_dir, manifest, folder, listen))
    asked = [
        one
        for every in held_out
        for one in _ask_newest(manifest, folder, every, COMMITS_PER_VALIDATION_REPOSITORY, recipe.seed)
    ]
    choice = reranker.choose_reranker(asked, prior)
    listen("choose", 1.0, f"measured on {choice.n:,} commits")
    (folder / bundles.RERANKER_FILE).write_text(json.dumps(asdict(prior)))
    report = {"parity": asdict(result.parity), "sizes": result.sizes, "valid": choice.scores, "n": choice.n}
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    (folder / "settings.json").write_text(json.dumps(result.settings))


def _ask_training_repositories(
    recipe: PretrainingRecipe, corpus_dir: Path, manifest: "Manifest", folder: Path, listen: ProgressListener
) -> list["ExampleCandidates"]:
    """The candidates of the base in the training repositories, on which the default reranker is fitted.

    The base saw some of these commits, once, so that its messages are a little better there than elsewhere.
    The validation repositories show how the reranker does where the base has seen nothing.
    """
    asked: list[ExampleCandidates] = []
    for number, name in enumerate(recipe.files):
        for repo, records in corpus.read_corpus_file(corpus_dir / name, recipe.validation):
            asked += _ask_newest(
                manifest,
                folder,
                corpus.build_examples(records, 0),
                COMMITS_PER_TRAINING_REPOSITORY,
                recipe.seed,
            )
            listen("choose", number / len(recipe.files), f"{len(asked):,} commits, {repo}")
    return asked


def _ask_newest(
    manifest: "Manifest", folder: Path, examples: Sequence[Example], most: int, seed: int
) -> list["ExampleCandidates"]:
    """Commits of the newest fifth, at most `most`, each asked about with all before it in the index."""
    from gitpeft.learn.evaluation import trial

    cut = len(examples) - len(examples) // 5
    newest = examples[cut:]
    with trial.open_trial_suggester(manifest, folder, build_example_index(examples[:cut]), {}) as suggester:
        return trial.collect_candidates(suggester, trial.sample_examples(newest, most, seed), since=newest)


def make_random_model(recipe: PretrainingRecipe) -> "PointerT5ForConditionalGeneration":
    """A pointer T5 with random weights."""
    import torch

    from gitpeft.learn.models.pointer_t5 import PointerT5Config, PointerT5ForConditionalGeneration
    from gitpeft.learn.training.devices import pick_device

    torch.manual_seed(recipe.seed)
    config = PointerT5Config(
        vocab_size=recipe.vocabulary,
        special_tokens=len(SPECIAL_TOKENS),
        decoder_start_token_id=0,
        **recipe.model,
    )
    model = PointerT5ForConditionalGeneration(config)
    model.set_attn_implementation("sdpa" if pick_device().type == "cuda" else "eager")
    return model


def save_base(
    model: "PointerT5ForConditionalGeneration", recipe: PretrainingRecipe, work: Path, out: Path
) -> None:
    """The transformers files of a base in `out`, weights in half precision, with its input budget."""
    import torch
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    out.mkdir(parents=True, exist_ok=True)
    model.config.gitpeft_budget = asdict(recipe.budget)
    model.to(torch.float16).save_pretrained(out)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(work / "tokenizer.json"),
        pad_token=SPECIAL_TOKENS[0],
        eos_token=SPECIAL_TOKENS[1],
        unk_token=SPECIAL_TOKENS[2],
        additional_special_tokens=list(SPECIAL_TOKENS[3:]),
    )
    tokenizer.save_pretrained(out)
