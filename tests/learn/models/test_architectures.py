"""Every architecture, tiny and random, learns messages with every method: train, keep, load, export."""

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from gitpeft.bundle.bundle import Manifest
from gitpeft.errors import GitpeftError
from gitpeft.learn.data import dataset
from gitpeft.learn.data.dataset import Dataset, Example
from gitpeft.learn.evaluation import trial
from gitpeft.learn.models import bases, hub, methods
from gitpeft.learn.training import finetune
from gitpeft.learn.training.finetune import TrainingJob
from gitpeft.runtime import onnx_model
from gitpeft.suggest.reranker import MessageCandidate
from tests.support import tinymodel
from tests.support.tuning import ARCHITECTURES, METHODS, batch, on_side


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A base's folder by the name of its architecture."""
    top = tmp_path_factory.mktemp("bases")

    def folder(name: str) -> Path:
        if not (top / name).exists():
            torch.manual_seed(0)
            ARCHITECTURES[name]().save_pretrained(top / name)
            tinymodel.write_tokenizer(top / name)
        return top / name

    return folder


def data() -> Dataset:
    """Two dozen examples."""
    examples = tuple(
        Example(tinymodel.CHANGES[i % 4], f"{tinymodel.SUBJECTS[i % 4]} {i}", "", (), f"{i:040x}")
        for i in range(30)
    )
    return Dataset(examples, dataset.build_example_index(examples), 20, 25, {})


def nobody(_step: str, _done: float, _detail: str) -> None:
    """Hears nothing."""


@torch.no_grad()
def said(model: Any, base: bases.BaseModel) -> torch.Tensor:
    source, target = finetune.encode_example_for_base(base, data().test[0])
    if base.architecture.causal:
        ids = [*source, base.load_codec().find_message_start(), *target[:-1]]
        return model.eval()(input_ids=torch.tensor([ids])).logits[:, len(source) :]  # type: ignore[no-any-return]
    found: torch.Tensor = model.eval()(
        input_ids=torch.tensor([source]),
        attention_mask=torch.ones((1, len(source)), dtype=torch.long),
        decoder_input_ids=torch.tensor([[0, *target[:-1]]]),
    ).logits
    return found


@pytest.mark.parametrize("text", METHODS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_learns_is_kept_and_loaded(
    name: str, text: str, folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = bases.find_base(str(folders(name)))
    trained: list[Any] = []
    whole = methods.save_trained_weights

    def save(model: Any, folder: Path) -> None:
        trained.append(model)
        whole(model, folder)

    monkeypatch.setattr(methods, "save_trained_weights", save)
    text = on_side(text, base.architecture.reading_side)
    job = TrainingJob(base, methods.make_method(*methods.parse_method(text)), steps=3, checks=1)
    method, cost = finetune.tune_base(job, data(), tmp_path / "run", nobody)
    assert cost.training.steps == 3 and 0 < cost.training.share <= 1 and cost.adapter_bytes > 1000
    assert (cost.training.share == 1) is (text == "full")
    assert method.name != "hybrid" or method.full
    folder = tmp_path / "run" / "adapter"
    again = methods.load_merged_model(base.load(), method, folder)
    torch.testing.assert_close(said(again, base), said(trained[0], base), atol=1e-4, rtol=1e-4)
    assert float((said(base.load(), base) - said(again, base)).abs().max()) > 1e-6
    from tests.support.tinybase import loosen

    loosen(monkeypatch)
    found = finetune.export_run(base, method, data(), tmp_path / "run")
    assert found.parity.exact < 1e-4 and (tmp_path / "run" / "decoder.onnx").exists()
    candidates, read = suggested(base, found.settings, tmp_path / "run", monkeypatch)
    first, *others = read
    assert first == finetune.encode_example_for_base(base, data().test[0])[0], (
        "the hook reads what was learnt on"
    )
    assert len(others) <= base.architecture.causal, "what a message is like without a change"
    assert candidates and all(math.isfinite(one.mean) for one in candidates)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_training_keeps_no_keys_and_values(name: str, folders: Callable[[str], Path]) -> None:
    """They are for generating; in a step they would take memory in every layer."""
    base = bases.find_base(str(folders(name)))
    model = methods.attach_method(base.load(), methods.make_method("lora", {"rank": 4})).train()
    inputs = batch()
    if base.architecture.causal:
        inputs["labels"] = inputs["input_ids"]
    kept = {"cache", "past_key_values"}
    assert kept & model(**inputs, use_cache=True).keys() or name == "plbart", "it could; BART never does"
    assert not kept & model(**inputs).keys()


def suggested(
    base: bases.BaseModel, settings: dict[str, Any], files: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[MessageCandidate], list[list[int]]]:
    """What the hook would consider for a change, and the ids that its encoder was given."""
    read: list[list[int]] = []
    kind: Any = onnx_model.CausalDecoder if base.architecture.causal else onnx_model.EncoderDecoder
    encode = kind.encode

    def heard(network: Any, source: Any) -> onnx_model.EncodedSource:
        read.append(list(source))
        found: onnx_model.EncodedSource = encode(network, source)
        return found

    monkeypatch.setattr(kind, "encode", heard)
    manifest = Manifest("model", "2024-01-01T00:00:00Z", settings=settings, budget=asdict(base.budget))
    with trial.open_trial_suggester(manifest, files, dataset.build_example_index([]), {}) as suggester:
        return suggester.collect_candidates(data().test[0].change, ""), read


def test_a_finished_run_is_not_made_again(folders: Callable[[str], Path], tmp_path: Path) -> None:
    base = bases.find_base(str(folders("codet5")))
    job = TrainingJob(base, methods.make_method("hybrid", {"rank": 4}), steps=2, checks=1)
    first = finetune.tune_base(job, data(), tmp_path, nobody)
    heard: list[str] = []
    again = finetune.tune_base(job, data(), tmp_path, lambda _step, _done, detail: heard.append(detail))
    assert again == first and heard == ["already trained"] and len(first[0].full) == 1


# --- an encoder that writes ---------------------------------------------------------------------------------


def test_an_encoder_gets_a_decoder_which_every_method_trains(folders: Callable[[str], Path]) -> None:
    base = bases.find_base(str(folders("unixcoder")))
    model = base.load()
    assert type(model).__name__ == "EncoderDecoderModel" and len(model.decoder.roberta.encoder.layer) == 2
    embeddings = model.decoder.roberta.embeddings.word_embeddings.weight
    assert torch.equal(embeddings, model.encoder.embeddings.word_embeddings.weight)
    again = base.load()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    tuned = methods.attach_method(model, methods.make_method("lora", {"rank": 4}))
    names = [name for name, p in tuned.named_parameters() if p.requires_grad]
    lora = [name for name in names if "lora_" in name]
    assert lora and all(".encoder.encoder.layer." in name for name in lora)
    fresh = [name for name in names if "lora_" not in name]
    assert any("crossattention" in name for name in fresh) and any("lm_head.dense" in name for name in fresh)
    assert all("modules_to_save" in name and ".decoder." in name for name in fresh)


def test_only_what_an_encoder_learnt_is_ranked(folders: Callable[[str], Path]) -> None:
    base = bases.find_base(str(folders("unixcoder")))
    source, target = finetune.encode_example_for_base(base, data().train[0])
    given = {"input_ids": torch.tensor([source]), "labels": torch.tensor([target])}
    ranked = methods.rank_layers(base.load(), [lambda model: model(**given).loss])
    assert {layer for layer, _ in ranked} == {"encoder.0", "encoder.1"}


def test_what_an_architecture_expects_around_a_source(folders: Callable[[str], Path], tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    plain = bases.find_base(str(folders("codet5")))
    assert plain.find_wrapping_ids() == ([], [])
    base = bases.find_base(str(folders("unixcoder")))
    assert base.find_wrapping_ids() == ([], [1]), "the tiny tokenizer knows no <s>"
    tokenizer = Tokenizer.from_file(str(base.tokenizer_path))
    tokenizer.add_special_tokens(["<s>", "<encoder-decoder>"])
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((base.folder / name).read_bytes())
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ids = [tokenizer.token_to_id(token) for token in ("<s>", "<encoder-decoder>", "</s>")]
    assert bases.find_base(str(tmp_path)).find_wrapping_ids() == (ids, [1])
    source, _ = finetune.encode_example_for_base(bases.find_base(str(tmp_path)), data().train[0])
    assert source[:3] == ids and source[-1] == 1 and len(source) <= base.budget.total


# --- names of the hub ---------------------------------------------------------------------------------------

COMMIT = "0123456789" * 4


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """What the hub is asked for; it has nothing but a T5 at `COMMIT`."""
    import huggingface_hub

    asked: list[dict[str, Any]] = []
    place = tmp_path / COMMIT
    tinymodel.plain_t5().save_pretrained(place)
    tinymodel.write_tokenizer(place)

    def snapshot(repo: str, **settings: Any) -> str:
        asked.append({"repo": repo, **settings})
        if repo != "Salesforce/codet5-base":
            raise FileNotFoundError(repo)
        return str(place)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return asked


@pytest.mark.parametrize(
    "name", ["codet5-base", "Salesforce/codet5-base", f"Salesforce/codet5-base@{COMMIT}"]
)
def test_a_base_of_the_hub_is_named_with_its_commit(name: str, downloads: list[dict[str, Any]]) -> None:
    base = bases.find_base(name)
    assert base.name == f"Salesforce/codet5-base@{COMMIT}" and base.kind == "t5"
    [asked] = downloads
    assert asked["local_files_only"] is True
    assert set(asked["allow_patterns"]) == {"config.json", "tokenizer.json", "model.safetensors"}


def test_what_of_the_hub_is_refused(downloads: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GitpeftError, match="is not on this machine") as error:
        bases.find_base("codebert-base")
    assert "HF_HUB_OFFLINE=0" in error.value.hint
    with pytest.raises(GitpeftError, match="main is no commit"):
        bases.find_base("Salesforce/codet5-base@main")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(GitpeftError, match="not pinned to a commit"):
        bases.find_base("codet5-base")
    assert bases.find_base(f"Salesforce/codet5-base@{COMMIT}").name.endswith(COMMIT)
    assert downloads[-1]["local_files_only"] is False


def test_every_preset_is_an_id() -> None:
    assert all(hub.is_hub_id(name) for name in hub.BASE_PRESETS.values())
    assert not any(hub.is_hub_id(name) for name in ("mini", "./x", "a/b/c", "a/b@", "/a/b"))
