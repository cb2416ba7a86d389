"""Causal language models of a few thousand weights through every command: init, suggest, eval, compare."""

import json
from pathlib import Path

import pytest
import torch

from gitpeft.bundle import bundle as bundles
from gitpeft.git.repository import Repository
from gitpeft.learn.training import finetune
from gitpeft.suggest.reranker_features import GENERATED
from gitpeft.suggest.suggester import Suggester
from tests.support import generated, tinymodel
from tests.support.commands import Call
from tests.support.comparisons import hurry
from tests.support.gitrepo import Repo
from tests.support.tinybase import loosen

CHANGE = "M src/a.py\n@@\n-    return 1\n+    return 2"

METHODS = ("lora:rank=4", "adapter:width=8", "full", "hybrid:rank=4,probe=1")


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
