"""Causal language models of a few thousand weights through every command: init, suggest, eval, compare."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.manifest import Manifest
from gitpeft.git.repository import Repository
from gitpeft.lazy import replace_fields
from gitpeft.learn import packing, pipeline
from gitpeft.learn.data.dataset import Example, build_example_index
from gitpeft.learn.evaluation import trial
from gitpeft.learn.export import parity
from gitpeft.learn.models import bases
from gitpeft.learn.training import finetune
from gitpeft.suggest.reranker import MAX_WEIGHED, RERANKED, MessageCandidate, Reranker
from gitpeft.suggest.reranker_features import GENERATED
from gitpeft.suggest.suggester import Suggester
from tests.support import generated, tinymodel
from tests.support.commands import Call
from tests.support.comparisons import hurry
from tests.support.gitrepo import Repo
from tests.support.tinybase import loosen

CHANGE = "M src/a.py\n@@\n-    return 1\n+    return 2"

METHODS = ("lora:rank=4", "adapter:width=8", "full", "hybrid:rank=4,probe=1")


@pytest.fixture(autouse=True)
def few_examples_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else this machine does: what is tested here is a training of a few steps."""
    monkeypatch.setattr(pipeline, "LEAST_TRAINED", 1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base by its type; its prompts are short, which the tests' time is."""
    torch.set_num_threads(1)
    top, found = tmp_path_factory.mktemp("causal"), {}
    for kind in ("llama", "qwen2"):
        model = tinymodel.causal(kind)
        model.config.gitpeft_budget = {"layout": "prompt", "total": 160, "facts_tokens": 24}
        model.save_pretrained(top / kind)
        tinymodel.write_tokenizer(top / kind)
        found[kind] = top / kind
    return found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_causal_base_goes_the_whole_way(
    kind: str,
    method: str,
    folders: dict[str, Path],
    repo: Repo,
    gitpeft: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loosen(monkeypatch)
    monkeypatch.setattr(finetune, "PROBE_BATCHES", 1)
    generated.put(repo, generated.team(60))
    here = ("--repo", str(repo.path))
    options = (*here, "--base", str(folders[kind]), "--method", method, "--budget", "0.05")
    made = gitpeft("init", *options, "--json")
    assert made.code == 0, made
    outcome = json.loads(made.out)
    assert outcome["kind"] == "model" and outcome["cost"]["steps"] > 0 and outcome["parity"]["exact"] < 1e-3
    assert outcome["test"]["gitpeft"]["n"] == 6
    bundle = bundles.require_active_bundle(Repository.open(repo.path).state_dir)
    bundles.verify_bundle(bundle)
    assert bundle.manifest.budget["layout"] == "prompt"
    if method.startswith("lora"):
        assert set(outcome["tuning"]) == {"tuned", "tuned half way", "untuned"}
    offered = gitpeft("suggest", "HEAD", *here, "--json")
    assert offered.code == 0, offered
    check_samples(Suggester(bundle))
    measured = json.loads(gitpeft("eval", *here, "--json").out)
    assert measured["test"] == outcome["test"]


def check_samples(suggester: Suggester) -> None:
    """The drafts are samples, the one of the highest consensus first, and the same ones each time."""
    found = suggester.collect_candidates(CHANGE, "")
    drafts = [one for one in found if one.origin == GENERATED]
    assert sum(one.get_feature("sampled") for one in drafts) == pytest.approx(1)
    consensus = [one.get_feature("consensus") for one in drafts]
    assert consensus == sorted(consensus, reverse=True) and consensus[0] > 0
    assert all(one.mean < 0 for one in drafts)
    assert suggester.collect_candidates(CHANGE, "") == found


def test_candidates_are_weighed(folders: dict[str, Path], tmp_path: Path) -> None:
    """By what the change adds to their likelihood: all for a reranker in the making, the first ones for one
    that was fitted on marks, and none for one that knows nothing of it."""
    base = bases.find_base(str(folders["llama"]))
    subjects = ("Return a", "Fix a", "Return src", "Fix return", "Return src a", "Fix src a")
    examples = [Example(CHANGE, one, "", (), f"{i:040}") for i, one in enumerate(subjects)]
    pairs = [finetune.encode_example_for_base(base, one) for one in examples]
    asked, wrapping = [(source, target[:-1]) for source, target in pairs], base.find_wrapping_ids()
    exported = parity.export_model(base.load(), base.tokenizer_path, tmp_path, asked, wrapping=wrapping)
    manifest = Manifest(created="", settings=exported.settings, **packing.describe_base(base))
    index = build_example_index(examples)
    words = Reranker(RERANKED, ("words",), (1.0,), value_weights=(1.0,))

    def ask(chosen: Reranker | None) -> tuple[list[MessageCandidate], Suggester]:
        with trial.open_trial_suggester(manifest, tmp_path, index, {}, chosen) as suggester:
            return suggester.collect_candidates(CHANGE, "Add it"), suggester

    def count(found: Sequence[MessageCandidate]) -> float:
        return sum(one.get_feature("is_weighed") for one in found)

    found, suggester = ask(None)
    fitting = [one for one in found if not one.flaw]
    assert len(fitting) > MAX_WEIGHED and count(found) == count(fitting) == len(fitting)
    assert count(ask(words)[0]) == 0
    marked, _ = ask(replace_fields(words, marked=True))
    assert count(marked) == MAX_WEIGHED
    first = replace_fields(words, marked=True).list_fitting(marked)[:MAX_WEIGHED]
    assert count(first) == MAX_WEIGHED and [one.message for one in marked] == [one.message for one in found]
    check_information(suggester, fitting[-1])

    states = {one.message: one.state for one in fitting}
    assert all(states.values()) and not any(one.state for one in marked)
    probing = replace_fields(
        words,
        features=("words", "probe"),
        weights=(1.0, 0.0),
        value_weights=(0.0, 1.0),
        marked=True,
        probe_weights=tuple(0.01 * i for i in range(len(fitting[0].state))),
    )
    probed, _ = ask(probing)
    for one in probed:
        read = probing.probe.read(states[one.message]) if one in probing.list_fitting(probed)[:4] else 0.0
        assert one.get_feature("probe") == pytest.approx(read, abs=1e-3) and one.state == ()
    assert sum(one.get_feature("probe") != 0 for one in probed) == MAX_WEIGHED


def check_information(suggester: Suggester, one: MessageCandidate) -> None:
    """Its likelihood behind the whole prompt, less that behind a prompt without the change."""
    generator = suggester._generator
    assert generator is not None and one.origin != GENERATED
    exemplars = suggester._find_nearest(CHANGE)[:3]
    [told] = generator.score_texts(generator.encode_source(CHANGE, "Add it", exemplars), [one.message])
    [untold] = generator.score_texts(generator.encode_source("", "Add it", exemplars), [one.message])
    nats = told.total - untold.total
    assert one.get_feature("information") == pytest.approx(
        math.copysign(math.log1p(abs(nats)), nats), abs=0.05
    )
    assert one.get_feature("weighed_likelihood") == pytest.approx(told.mean, abs=0.01)


def test_a_causal_base_is_trained_further(
    folders: dict[str, Path], repo: Repo, gitpeft: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New commits, another training: it starts from the model in use, and is compared with it."""
    loosen(monkeypatch)
    generated.put(repo, generated.team(80))
    options = (
        "--repo",
        str(repo.path),
        "--base",
        str(folders["llama"]),
        "--method",
        "lora:rank=4",
        "--budget",
        "0.05",
    )
    tip = repo.git("rev-parse", "HEAD~20")
    assert gitpeft("init", *options, "--until", tip, "--no-hooks").code == 0
    champion = bundles.require_active_bundle(Repository.open(repo.path).state_dir)
    done = gitpeft("train", *options, "--json")
    assert done.code == 0, done
    told = json.loads(done.out)
    assert told["champion"] == champion.id and told["cost"]["steps"] > 0
    assert told["warm"] or champion.manifest.method["name"] == "none", "nothing was better than no tuning"
    assert told["tasks"]["message"]["duel"]["n"] == told["new"] == 20


def test_methods_are_compared_on_a_causal_base(
    folders: dict[str, Path], repo: Repo, gitpeft: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    loosen(monkeypatch)
    hurry(monkeypatch)
    generated.put(repo, generated.team(60))
    done = gitpeft(
        "compare", "--repo", str(repo.path), "--bases", str(folders["llama"]),
        "--methods", "lora:rank=4", "--methods", "full", "--budget", "1", "--json",
    )  # fmt: skip
    assert done.code == 0, done
    [task] = json.loads(done.out)["tasks"]
    finalists = {one["name"]: one["steps"] for one in task["finalists"]}
    assert finalists and finalists.keys() <= {"lora", "full"} and min(finalists.values()) > 0
    assert task["asked"] == 6 and all(one["scores"]["n"] == 6 for one in task["finalists"])
