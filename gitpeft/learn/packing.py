"""Puts a candidate into a bundle: the manifest's statements about history and base, and the files."""

import json
import shutil
import sys
import time
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.bundle import Bundle, Manifest
from gitpeft.diff.render import TokenBudget
from gitpeft.files import write_json
from gitpeft.git.repository import Repository
from gitpeft.learn.data.dataset import Dataset
from gitpeft.learn.evaluation import trial
from gitpeft.learn.results import CandidateModel, FittedRisk, MinedHistory

if TYPE_CHECKING:
    from gitpeft.learn.models.bases import BaseModel

_REPORTED_PACKAGES = ("gitpeft", "torch", "transformers", "peft", "onnxruntime", "tokenizers", "numpy")


def draft_manifest(data: Dataset, mined: MinedHistory) -> Manifest:
    """A manifest with what it says about the history; still without a model."""
    first = data.examples[0].sha if data.examples else ""
    held = len(data.test)
    return Manifest(
        kind="retrieval",
        created=format_current_time(),
        commits={"from": first, "to": mined.tip, "count": len(data.examples), "held": held},
        budget=asdict(TokenBudget()),
        versions=_list_package_versions(),
    )


def describe_base(base: "BaseModel") -> dict[str, Any]:
    """The fields of a manifest that are about the base."""
    return {
        "kind": "model",
        "base": Path(base.name).name,  # of a folder only the name: its path concerns this machine
        "base_digest": base.digest,
        "tokenizer_digest": base.tokenizer_digest,
        "budget": asdict(base.budget),
    }


def format_current_time() -> str:
    """The time in UTC, in the form of manifests."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _list_package_versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in _REPORTED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def is_risk_file(name: str) -> bool:
    """Whether a file of a bundle belongs to its risk model; all others belong to messages."""
    return name.startswith(Path(bundles.RISK_MODEL_FILE).stem)


def install_candidate(
    repo: Repository, one: CandidateModel, data: Dataset, *, active: bool = True, risk: Bundle | None = None
) -> str:
    """Write a candidate's bundle with an index of the whole history; returns its id.

    It becomes the active model with `active`, else it is only stored. With `risk` it gets that bundle's risk
    model instead of the candidate's own.
    """
    with bundles.staging_folder(repo.state_dir) as folder:
        _write_model_files(one, folder)
        (folder / bundles.INDEX_FOLDER).mkdir()
        data.index.save(folder / bundles.INDEX_FOLDER)
        write_json(folder / bundles.STYLE_FILE, one.style)
        _copy_risk_files(risk or one.risk, folder)
        id_ = bundles.write_bundle(folder, _complete_manifest(one))
    if active:
        bundles.activate_bundle(repo.state_dir, id_)
    bundles.prune_bundles(repo.state_dir)
    return id_


def _complete_manifest(one: CandidateModel) -> Manifest:
    """The manifest with the scores on validation and test commits."""
    manifest, choice = one.selected.draft.manifest, one.selected.choice
    metrics = manifest.metrics | {
        "valid": choice.as_dict() if choice else {},
        "test": one.measured.as_dict(),
    }
    metrics |= {"tuning": dict(one.selected.scores)} if one.selected.scores else {}
    return replace(manifest, metrics=metrics)


def _write_model_files(one: CandidateModel, folder: Path) -> None:
    draft = one.selected.draft
    if draft.files is not None:
        trial.copy_model_files(draft.files, folder)
        text = json.dumps(asdict(one.selected.reranker))
        (folder / bundles.RERANKER_FILE).write_text(text, encoding="utf-8")
    if draft.adapter is not None:
        adapter = folder / bundles.ADAPTER_FOLDER
        shutil.copytree(draft.adapter, adapter, ignore=shutil.ignore_patterns("*.md"))
        _clear_base_path(adapter / "adapter_config.json")


def _clear_base_path(config: Path) -> None:
    """PEFT notes the path of the base; a bundle may be published, and the base's digest is what counts."""
    if config.is_file():
        known = json.loads(config.read_text(encoding="utf-8"))
        write_json(config, known | {"base_model_name_or_path": None})


def _copy_risk_files(source: FittedRisk | Bundle, folder: Path) -> None:
    if isinstance(source, FittedRisk):
        shutil.copyfile(source.file, folder / bundles.RISK_MODEL_FILE)
        if source.encoder:
            shutil.copyfile(source.encoder, folder / bundles.RISK_ENCODER_FILE)
        return
    for name in filter(is_risk_file, source.manifest.files):
        (folder / name).write_bytes(source.read(name))
