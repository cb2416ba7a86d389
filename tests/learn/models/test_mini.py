"""The embedded base: what lies in models/mini can be loaded by its users' means and is what the card says."""

import json
from pathlib import Path

import pytest

from gitpeft.learn.models import bases
from gitpeft.learn.pretraining.build import PretrainingRecipe

MINI = Path(__file__).resolve().parents[3] / "models" / "mini"


def test_the_auto_classes_load_it_and_it_copies_from_an_exemplar() -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(MINI), AutoTokenizer.from_pretrained(MINI)
    change = (
        "<like>docs(readme): fix typo in install notes<like>docs(readme): fix wording"
        "<previous>docs(readme): mention cats<file>README.md +1 -1"
        "<hunk>## Install<delete>install teh package<add>install the package"
    )
    written = model.generate(tokenizer(change, return_tensors="pt")["input_ids"], max_new_tokens=20)
    assert tokenizer.decode(written[0], skip_special_tokens=True).startswith("docs(readme): fix typo")


def test_its_files_are_safe_formats_within_64_megabytes() -> None:
    files = [path for path in MINI.rglob("*") if path.is_file()]
    known = {".safetensors", ".onnx", ".json", ".toml", ".md", ".png"}
    assert {path.suffix for path in files} <= known
    assert sum(path.stat().st_size for path in files) < 64e6


def test_it_serves_without_tuning_and_its_budget_is_the_recipes() -> None:
    base = bases.find_base("mini")
    ready = base.find_onnx_folder()
    assert ready is not None
    report = json.loads((ready / "report.json").read_text())
    assert report["parity"]["agreement"] >= report["parity"]["bounds"]["agreement"]
    assert base.budget == PretrainingRecipe.load(MINI / "recipe.toml").budget


@pytest.mark.parametrize("name", ["pallets/flask", "gin-gonic/gin", "axios/axios", "redis/redis-py"])
def test_no_repository_of_the_evaluation_is_named_in_its_recipe(name: str) -> None:
    assert name not in (MINI / "recipe.toml").read_text()
