"""Builds the adapter of a pretrained base: recipe → pairs of public histories → a run → `adapter/`.

Every step leaves its result in a work folder and is skipped where that is there. A run that stopped (killed,
out of minutes, on another machine) goes on when the same command is given again.
"""

import csv
import json
import random
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from gitpeft.bundle.embedded import BASE_ADAPTER_FOLDER
from gitpeft.diff.model_input import PROMPT_LAYOUT
from gitpeft.errors import GitpeftError
from gitpeft.files import write_json
from gitpeft.history.pool import map_over_cores
from gitpeft.learn.data.batches import PromptedExamples, RenderedExamples
from gitpeft.learn.data.dataset import MAX_MESSAGE_TOKENS
from gitpeft.learn.evaluation.reranker import Marks
from gitpeft.learn.models import bases, methods
from gitpeft.learn.pretraining import adapter_gpu, adapter_run, commit_pairs
from gitpeft.learn.pretraining.adapter_checkpoint import LOG_FILE
from gitpeft.learn.pretraining.adapter_run import AdapterRun, AdapterSettings, ValidationPart
from gitpeft.learn.pretraining.base_reranker import (
    HistoryAsker,
    RerankerRules,
    fit_base_reranker,
    read_marks,
)
from gitpeft.learn.pretraining.commit_pairs import PairRecord, PairRules
from gitpeft.learn.pretraining.line_file import LineFile
from gitpeft.learn.training import devices, distributed
from gitpeft.learn.training.finetune import ProgressListener, speed_up_where_possible
from gitpeft.learn.training.resident import ResidentExamples, ResidentSelection, make_resident
from gitpeft.runtime.tokenizer import TokenCodec

if TYPE_CHECKING:
    import torch

EXAMPLES_FOLDER, _ENCODED_AT_ONCE = "examples", 512

GROUNDED_CHANCE = 0.6
"""Validation pairs whose probability to be kept is at least this are measured apart from the others."""


@dataclass(frozen=True, slots=True)
class AdapterRecipe:
    """A `recipe.toml` with a table `[adapter]`: data, the adapter's shape, and how it is trained.

    `repositories` is the file (name, commit, …; tab-separated) beside the recipe, `start` an earlier
    checkpoint to begin with where the run has none, "" for none; `reranker` says where the default reranker
    is fitted, None if nowhere.
    """

    folder: Path
    repositories: str
    rules: PairRules
    tokens: int
    method: Mapping[str, Any]
    start: str
    settings: AdapterSettings
    reranker: RerankerRules | None

    @classmethod
    def load(cls, path: Path, profile: str = "") -> "AdapterRecipe":
        """Read a recipe, with the settings of `[profile.NAME]` over those of `[train]`.

        GitpeftError names the file and what is wrong in it.
        """
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
            data, adapter = raw["data"], raw["adapter"]
            other = raw.get("profile", {})[profile] if profile else {}
            rules = PairRules(int(data["newest"]), tuple(data["validation"]), seed=int(data.get("seed", 1)))
            train = raw["train"] | other
            start = str(train.pop("start", ""))
            settings = AdapterSettings(**train)
            tokens = int(raw["input"]["total"])
            asked = raw.get("reranker")
            reranker = (
                RerankerRules(**asked | {"repositories": tuple(asked["repositories"])}) if asked else None
            )
            return cls(
                path.parent, str(data["repositories"]), rules, tokens, adapter, start, settings, reranker
            )
        except (OSError, KeyError, TypeError, ValueError) as error:
            hint = "compare it with models/smol/recipe.toml"
            reason = error.strerror if isinstance(error, OSError) else repr(error)
            raise GitpeftError(f"cannot use the recipe {path}: {reason}", hint) from error

    def read_repositories(self) -> dict[str, str]:
        """The commit to start mining from, by OWNER/NAME."""
        with (self.folder / self.repositories).open(encoding="utf-8", newline="") as rows:
            return {row["repo"]: row["commit"] for row in csv.DictReader(rows, delimiter="\t")}

    def read_marks(self) -> Marks | None:
        """Readers' marks, with which the reranker is fitted; None where the recipe names none."""
        named = self.reranker.marks if self.reranker else ""
        return read_marks(self.folder / named) if named else None

    def list_marked(self) -> frozenset[str]:
        """The commits (12 digits) that readers have seen: they are not learnt from, but asked about."""
        return frozenset(commit for commit, _ in self.read_marks() or {})


def is_adapter_recipe(path: Path) -> bool:
    """Whether a recipe is one for an adapter; False where it cannot be read."""
    try:
        return "adapter" in tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


@devices.explain_lost_gpu()
def build_adapter(
    recipe: AdapterRecipe,
    corpus: Path,
    work: Path,
    out: Path,
    listen: ProgressListener,
    finish: bool = False,
) -> bool:
    """Train the adapter of the base in `out`; leaves it there once all pairs were seen, and says whether.

    Several processes train it together where torch's launcher started them. With `finish` the last checkpoint
    is taken as it is. With the adapter comes its reranker.
    """
    with distributed.join_world() as world:
        return _train_together(recipe, corpus, work, out, listen if world.writes else _hear_nothing, finish)


def _hear_nothing(_step: str, _done: float, _detail: str) -> None:
    """What all processes but the first report."""


def _train_together(
    recipe: AdapterRecipe, corpus: Path, work: Path, out: Path, listen: ProgressListener, finish: bool
) -> bool:
    base, notes = bases.find_base(str(out)), list[str]()
    device = devices.pick_device(notes=notes)
    with distributed.let_writer_go_first():
        if device.type == "cuda" and not finish:  # which would wait while pairs are encoded
            encode_corpus(recipe, corpus, work, out, listen)
        reader, held = _read_pairs(base, recipe, corpus, work, listen)
    settings = recipe.settings.count_pairs(len(reader))
    run = _open_run(base, recipe, settings, work / "run", device, notes)
    run.notes[:0] = notes
    reporter = _RunReporter(run, listen)
    reporter.report_place()  # says where it goes on from
    finished = finish or _train(run, recipe, reader, held, reporter)
    if finished and distributed.find_world().writes:
        adapter_run.write_adapter(run, out / BASE_ADAPTER_FOLDER)
        # where a run has token ids only, the histories are elsewhere
        if recipe.reranker and (pairs := work / commit_pairs.TRAIN_FILE).exists():
            lines = pairs.read_text(encoding="utf-8").splitlines()
            learnt = frozenset(str(json.loads(line)["sha"]) for line in lines[: run.at.place])
            fresh = bases.find_base(str(out))  # with the adapter
            asker = HistoryAsker(fresh, recipe.reranker, corpus, learnt, work, recipe.read_marks())
            fit_base_reranker(asker, recipe.read_repositories(), listen)
    return finished


class _RunReporter:
    """Writes the log of a run, and tells after every step how far it is."""

    def __init__(self, run: AdapterRun, listen: ProgressListener) -> None:
        self.run, self.listen = run, listen
        self.words: list[str] = []

    def add_row(self, row: Mapping[str, float]) -> None:
        """Log a row; what it measured is told from now on."""
        with (self.run.folder / LOG_FILE).open("a", encoding="utf-8") as log:
            log.write(json.dumps({name: round(value, 4) for name, value in row.items()}) + "\n")
        self.words = [f"{k} {v:.4g}" for k, v in row.items() if k not in ("place", "seconds")]
        self.report_place()

    def report_place(self) -> None:
        """Tell the place, with all notes: told once, they are overlooked."""
        place = self.run.at.place
        pairs = max(place, self.run.settings.pairs)  # a run of another profile may be further
        told = [f"{place:,}/{pairs:,} pairs", *self.words, *self.run.notes]
        self.listen("train", place / pairs, " · ".join(told))


def _train(
    run: AdapterRun,
    recipe: AdapterRecipe,
    reader: "PairReader | EncodedPairs",
    held: Mapping[str, ValidationPart],
    reporter: "_RunReporter",
) -> bool:
    """Train with what the device has to make it fast; whether all pairs were seen."""
    if run.device.type == "cuda":
        return _train_on_gpu(run, recipe, reader, held, reporter)
    with speed_up_where_possible(run.model, run.settings.threads, compiled=run.settings.compile):
        return adapter_run.train_adapter(run, reader, held, reporter.add_row, on_step=reporter.report_place)


def _train_on_gpu(
    run: AdapterRun,
    recipe: AdapterRecipe,
    reader: "PairReader | EncodedPairs",
    held: Mapping[str, ValidationPart],
    reporter: "_RunReporter",
) -> bool:
    import torch

    from gitpeft.learn.training.flops import measure_matrix_rate

    if isinstance(reader, EncodedPairs):
        reader.keep_on(run.device)
    rate, free = measure_matrix_rate(run.device), torch.cuda.mem_get_info()[0]
    pairs = -(-run.settings.batch // distributed.find_world().size)
    tokens = pairs * (recipe.tokens + MAX_MESSAGE_TOKENS)
    with adapter_gpu.fit_to_gpu(run, tokens, free, "inductor" if run.settings.compile else ""):
        return adapter_run.train_adapter(run, reader, held, reporter.add_row, rate, reporter.report_place)


def _read_pairs(
    base: bases.BaseModel, recipe: AdapterRecipe, corpus: Path, work: Path, listen: ProgressListener
) -> tuple["PairReader | EncodedPairs", dict[str, ValidationPart]]:
    """The pairs as `encode_corpus` left them, else from the histories."""
    if (work / EXAMPLES_FOLDER / "train.npz").exists():
        return read_encoded_pairs(work / EXAMPLES_FOLDER)
    return _read_histories(base, recipe, corpus, work, listen)


def _read_histories(
    base: bases.BaseModel, recipe: AdapterRecipe, corpus: Path, work: Path, listen: ProgressListener
) -> tuple["PairReader", dict[str, ValidationPart]]:
    codec = base.load_codec()
    rules = replace(recipe.rules, reserved=recipe.list_marked())
    train, valid = commit_pairs.make_pairs(recipe.read_repositories(), corpus, work, codec, rules, listen)
    reader = PairReader(train, codec, recipe.tokens, recipe.settings.seed)
    return reader, read_validation(valid, codec, recipe.tokens, recipe.settings.checked)


def encode_corpus(
    recipe: AdapterRecipe, corpus: Path, work: Path, out: Path, listen: ProgressListener
) -> Path:
    """The pairs as token ids (16 bits) in a folder of `work`, with which a run needs no clones; the folder.

    A run with them is the run without them. `out` is the folder of the base.
    """
    folder, spare = work / EXAMPLES_FOLDER, work / f"{EXAMPLES_FOLDER}.new"
    if folder.exists():
        return folder
    reader, held = _read_histories(bases.find_base(str(out)), recipe, corpus, work, listen)
    spare.mkdir(exist_ok=True)
    parts, done = [], 0
    for some in reader.encode_all():
        parts.append(some)
        done += len(some)
        listen("examples", done / len(reader), f"{done:,}/{len(reader):,} pairs")
    PromptedExamples.join_parts(parts).save(spare / "train.npz")
    sizes = {}
    for name, part in held.items():
        part.examples.save(spare / f"valid-{name}.npz")
        sizes[name] = part.size
    start_id = parts[0].start
    write_json(spare / "about.json", {"start": start_id, "sizes": sizes})
    spare.rename(folder)
    listen("examples", 1.0, f"{len(reader):,} pairs")
    return folder


def read_encoded_pairs(folder: Path) -> tuple["EncodedPairs", dict[str, ValidationPart]]:
    """What `encode_corpus` wrote; GitpeftError where it is damaged."""
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        found = {
            name: ValidationPart(_read_prompted(folder / f"valid-{name}.npz", about["start"]), int(size))
            for name, size in about["sizes"].items()
        }
        return EncodedPairs(_read_prompted(folder / "train.npz", about["start"])), found
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise GitpeftError(
            f"the examples in {folder} cannot be read: {error}", "remove the folder, and make them again"
        ) from None


def _read_prompted(path: Path, start: int) -> PromptedExamples:
    flat = RenderedExamples.load(path)
    return PromptedExamples(flat.source, flat.source_at, flat.target, flat.target_at, start)


def _open_run(
    base: bases.BaseModel,
    recipe: AdapterRecipe,
    settings: AdapterSettings,
    folder: Path,
    device: "torch.device",
    notes: list[str],
) -> AdapterRun:
    """The run at its last checkpoint, else at the recipe's start."""
    import torch

    torch.manual_seed(settings.seed)
    method = methods.make_method("lora", dict(recipe.method), causal=True)
    attached: Any = methods.attach_method(base.load(adapted=False), method)
    model = devices.move_model(attached, device, notes)
    folder.mkdir(parents=True, exist_ok=True)
    run = AdapterRun(model, folder, settings)
    run.resume(recipe.folder / recipe.start if recipe.start else None)
    return run


class EncodedPairs:
    """Pairs as token ids, over and over; see `PairReader`."""

    def __init__(self, examples: PromptedExamples) -> None:
        self.examples = examples
        self.resident: ResidentExamples | None = None

    def __len__(self) -> int:
        return len(self.examples)

    def keep_on(self, device: "torch.device") -> None:
        """Have the pairs on the device from now on, where they fit."""
        self.resident = make_resident(self.examples, device)

    def make_examples(self, places: Sequence[int]) -> adapter_run.Pairs:
        """The pairs at these places."""
        chosen = [place % len(self) for place in places]
        if self.resident is not None:
            return ResidentSelection(self.resident, chosen)
        return self.examples.select_examples(chosen)


class PairReader:
    """Pairs in the order of their file, over and over, as examples of a causal model."""

    def __init__(self, path: Path, codec: TokenCodec, tokens: int, seed: int) -> None:
        self.lines = LineFile(path)
        self.codec, self.tokens, self.seed = codec, tokens, seed

    def __len__(self) -> int:
        return len(self.lines)

    def make_examples(self, places: Sequence[int]) -> PromptedExamples:
        """The pairs at these places, their surroundings thinned out at random, but the same every time."""
        return encode_pairs([self._read_pair(place) for place in places], self.codec, self.tokens)

    def encode_all(self) -> Iterator[PromptedExamples]:
        """All pairs once, some at a time."""

        def encode(starts: Sequence[int]) -> Iterator[list[tuple[list[int], list[int]]]]:
            for start in starts:
                places = range(start, min(start + _ENCODED_AT_ONCE, len(self)))
                yield encode_rows([self._read_pair(place) for place in places], self.codec, self.tokens)

        message_start = self.codec.find_message_start()
        for rows in map_over_cores(range(0, len(self), _ENCODED_AT_ONCE), encode):
            yield PromptedExamples.from_pairs([(source, target) for source, target in rows], message_start)

    def _read_pair(self, place: int) -> PairRecord:
        pair = dict(json.loads(self.lines[place % len(self.lines)]))
        like, previous = drop_context(pair["like"], pair["previous"], random.Random(f"{self.seed} {place}"))
        return pair | {"like": like, "previous": previous}


def drop_context(like: list[str], previous: str, dice: random.Random) -> tuple[list[str], str]:
    """Sometimes fewer earlier subjects or none, as in a young repository."""
    roll = dice.random()
    if roll < 0.12:
        like = []
    elif roll < 0.3:
        like = like[: dice.randint(1, 2)]
    return like, "" if dice.random() < 0.2 else previous


def encode_pairs(pairs: Sequence[PairRecord], codec: TokenCodec, tokens: int) -> PromptedExamples:
    """Pairs as examples; see `encode_rows`."""
    return PromptedExamples.from_pairs(encode_rows(pairs, codec, tokens), codec.find_message_start())


def encode_rows(
    pairs: Sequence[PairRecord], codec: TokenCodec, tokens: int
) -> list[tuple[list[int], list[int]]]:
    """Prompts (at most `tokens`) and messages as token ids; each message is ended by a new line."""
    found, end = [], codec.find_message_end(PROMPT_LAYOUT)
    for pair in pairs:
        files = commit_pairs.restore_files(pair["files"])
        prompt = commit_pairs.render_pair(files, pair["like"], pair["previous"], codec, tokens)
        written = codec.encode_message(pair["message"], PROMPT_LAYOUT)[:MAX_MESSAGE_TOKENS]
        found.append((prompt[:-1], [*written, end]))
    return found


def read_validation(path: Path, codec: TokenCodec, tokens: int, most: int) -> dict[str, ValidationPart]:
    """Validation pairs, two grounded ones for each of the others."""
    pairs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    good = [pair for pair in pairs if pair["chance"] >= GROUNDED_CHANCE]
    rest = [pair for pair in pairs if pair["chance"] < GROUNDED_CHANCE]
    dice = random.Random(0)
    found = {}
    for name, part, size in (("grounded", good, most * 2 // 3), ("others", rest, most // 3)):
        if chosen := dice.sample(part, min(size, len(part))):
            total = sum(len(pair["message"].encode()) for pair in chosen)
            found[name] = ValidationPart(encode_pairs(chosen, codec, tokens), total)
    return found
