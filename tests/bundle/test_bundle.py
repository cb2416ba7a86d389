"""Bundles on disk: complete or absent, never changed, replaced by one rename."""

import dataclasses
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.bundle import Manifest
from gitpeft.diff.compact import RENDERER_VERSION
from gitpeft.errors import GitpeftError
from tests.support.killing import killed_at

FILES = {
    "encoder.onnx": b"\x08\x09" + b"e" * 5000,
    "decoder.onnx": b"\x08\x09" + b"d" * 3000,
    "tokenizer.json": b"{}",
    "style.json": b'{"subject_length": 72}',
    "index/rows.npy": b"r" * 100,
}


def manifest(**changes: object) -> Manifest:
    """A manifest of a model that sets most fields; `changes` replaces some."""
    given = {
        "kind": "model", "created": "2024-05-01T10:00:00Z", "base": "mini", "base_digest": "ab" * 32,
        "method": {"name": "lora", "rank": 8}, "commits": {"from": "a" * 40, "to": "b" * 40, "count": 500},
        "budget": {"total": 176}, "seeds": {"train": 1}, "versions": {"torch": "2.13"},
        "metrics": {"b_norm": 12.5},
    }  # fmt: skip
    return Manifest(**{**given, **changes})  # type: ignore[arg-type]


def write(state_dir: Path, files: dict[str, bytes] = FILES, **changes: object) -> str:
    """Write a bundle of these files; returns its id."""
    with bundles.staging_folder(state_dir) as folder:
        for name, raw in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(raw)
        return bundles.write_bundle(folder, manifest(**changes))


def bundle_path(state_dir: Path, id_: str) -> Path:
    return state_dir / "models" / id_


def test_what_is_written_is_read(tmp_path: Path) -> None:
    id_ = write(tmp_path)
    bundles.activate_bundle(tmp_path, id_)
    bundle = bundles.open_active_bundle(tmp_path)
    assert bundle is not None
    assert (
        bundle.id
        == id_
        == hashlib.sha256((bundle_path(tmp_path, id_) / "manifest.json").read_bytes()).hexdigest()
    )
    assert {name: bundle.read(name) for name in bundle.manifest.files} == FILES
    assert dataclasses.replace(bundle.manifest, files={}) == manifest()
    assert bundle.read_json("style.json") == {"subject_length": 72}
    assert bundle.read_json("chooser.json") == {}
    assert "chooser.json" not in bundle
    assert sorted(p.name for p in (tmp_path / "models").iterdir() if p.is_dir()) == [id_]


def test_the_same_bundle_twice_is_one(tmp_path: Path) -> None:
    assert write(tmp_path) == write(tmp_path)


def test_nothing_is_active_before_an_activation(tmp_path: Path) -> None:
    assert bundles.open_active_bundle(tmp_path) is None
    write(tmp_path)
    assert bundles.open_active_bundle(tmp_path) is None
    assert bundles.list_bundles(tmp_path / "elsewhere") == []


def test_retrieval_needs_no_model(tmp_path: Path) -> None:
    id_ = write(tmp_path, {"index/rows.npy": b"r"}, kind="retrieval")
    assert bundles.activate_bundle(tmp_path, id_).manifest.kind == "retrieval"
    with pytest.raises(
        GitpeftError, match=r"a model bundle needs decoder.onnx, encoder.onnx, tokenizer.json"
    ):
        write(tmp_path, {"index/rows.npy": b"r"})


# --- damage -------------------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def link(path: Path) -> None:
    target = path.with_name("target")
    path.rename(target)
    path.symlink_to(target)


def bloat(path: Path) -> None:
    path.write_bytes(b"x" * (2 << 20))


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: list[tuple[str, Callable[[Path], None], str]] = [
    ("encoder.onnx", truncate, "encoder.onnx of the model is damaged: it has 5001 bytes instead of 5002"),
    ("decoder.onnx", Path.unlink, "decoder.onnx of the model is missing"),
    ("tokenizer.json", link, "tokenizer.json of the model is not a regular file"),
    ("index/rows.npy", to_folder, "rows.npy of the model is not a regular file"),
    ("manifest.json", truncate, "the model's manifest is damaged"),
    ("manifest.json", flip, "the model's manifest is damaged"),
    ("manifest.json", Path.unlink, "manifest.json of the model is missing"),
    ("manifest.json", bloat, "manifest.json of the model is too large"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGE)
def test_opening_finds_damage(
    tmp_path: Path, name: str, damage: Callable[[Path], None], message: str
) -> None:
    id_ = write(tmp_path)
    bundles.activate_bundle(tmp_path, id_)
    damage(bundle_path(tmp_path, id_) / name)
    with pytest.raises(GitpeftError) as raised:
        bundles.open_active_bundle(tmp_path)
    assert str(raised.value) == message
    assert raised.value.hint
    with pytest.raises(GitpeftError):
        bundles.activate_bundle(tmp_path, id_)
    assert bundles.list_bundles(tmp_path) == []


@pytest.mark.parametrize("name", sorted(FILES))
def test_reading_a_file_finds_a_flipped_bit(tmp_path: Path, name: str) -> None:
    id_ = write(tmp_path)
    bundle = bundles.activate_bundle(tmp_path, id_)
    flip(bundle_path(tmp_path, id_) / name)
    for check in (lambda: bundle.read(name), lambda: bundles.verify_bundle(bundle)):
        with pytest.raises(GitpeftError, match=f"{name} of the model is damaged"):
            check()
    with pytest.raises(GitpeftError, match="damaged"):
        bundles.activate_bundle(tmp_path, id_)


def test_a_file_that_is_not_listed_is_found(tmp_path: Path) -> None:
    id_ = write(tmp_path)
    bundle = bundles.open_bundle(bundle_path(tmp_path, id_))
    (bundle.path / "index" / ".DS_Store").write_bytes(b"")
    with pytest.raises(GitpeftError, match=r"folder holds index/.DS_Store, which its manifest does not list"):
        bundles.verify_bundle(bundle)


@pytest.mark.parametrize("text", ["", "x", "../../etc\n", "a" * 64 + "\n../..\n", "\x00" * 64 + "\n"])
def test_a_damaged_file_that_names_the_active_model(tmp_path: Path, text: str) -> None:
    id_ = write(tmp_path)
    bundles.activate_bundle(tmp_path, id_)
    (tmp_path / "current").write_text(text)
    with pytest.raises(GitpeftError, match=r"the file that names the active model \(current\) is damaged"):
        bundles.open_active_bundle(tmp_path)
    bundles.activate_bundle(tmp_path, id_)
    assert bundles.read_active_ids(tmp_path) == (id_, "")


def test_an_active_model_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "current").write_text("a" * 64 + "\n\n")
    with pytest.raises(GitpeftError, match=r"manifest.json of the model is missing"):
        bundles.open_active_bundle(tmp_path)


# --- what a manifest may hold -------------------------------------------------------------------------------


def rewritten(state_dir: Path, change: Callable[[dict[str, object]], object]) -> Path:
    """A bundle whose manifest was changed, under the id that its new manifest has."""
    path = bundle_path(state_dir, write(state_dir))
    data = json.loads((path / "manifest.json").read_bytes())
    change(data)
    raw = json.dumps(data).encode()
    (path / "manifest.json").write_bytes(raw)
    return path.rename(path.with_name(hashlib.sha256(raw).hexdigest()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"renderer": RENDERER_VERSION + 1}, f"was trained on version {RENDERER_VERSION + 1} of the diff"),
        ({"format": 99}, "has bundle format 99, this gitpeft reads 1"),
        ({"format": "1"}, "has bundle format '1', this"),
        ({"format": "\x1b[2J"}, "has bundle format '\\x1b[2J', this"),
        ({"kind": "other"}, "manifest cannot be read"),
        ({"budget": 3}, "manifest cannot be read: budget is not a dict"),
        ({"files": []}, "manifest cannot be read"),
        ({"files": {}}, "a model bundle needs"),
        ({"files": {"style.json": {"size": "1", "sha256": ""}}}, "manifest cannot be read"),
        ({"files": {"style.json": 1}}, "manifest cannot be read"),
    ],
)
def test_a_manifest_that_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = rewritten(tmp_path, lambda data: data.update(change))
    with pytest.raises(GitpeftError) as raised:
        bundles.open_bundle(path)
    assert message in str(raised.value)
    assert raised.value.hint


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"format": 1}'])
def test_a_file_that_is_not_a_manifest(raw: bytes) -> None:
    with pytest.raises(GitpeftError):
        Manifest.from_json(raw)


BAD_NAMES = [
    "../x",
    "/etc/passwd",
    ".hidden",
    "a/../b",
    "a//b",
    "a/",
    "a\\b",
    "a b",
    "",
    "é",
    "a\n",
    "a/b/c/d/e",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_file_name_that_leads_out_of_the_bundle(tmp_path: Path, name: str) -> None:
    def add(data: dict[str, object]) -> None:
        files = data["files"]
        assert isinstance(files, dict)
        files[name] = {"size": 1, "sha256": "0" * 64}

    with pytest.raises(GitpeftError, match=r"the file name .* is not allowed"):
        bundles.open_bundle(rewritten(tmp_path, add))


def test_unknown_entries_of_a_manifest_are_ignored(tmp_path: Path) -> None:
    path = rewritten(tmp_path, lambda data: data.update(new="entry"))
    assert bundles.open_bundle(path).manifest.base == "mini"


def test_weights_outside_the_file_are_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    graph = onnx.GraphProto(name="g", initializer=[tensor])
    model = onnx.ModelProto(ir_version=9, graph=graph)
    with pytest.raises(GitpeftError, match=r"encoder.onnx keeps data outside its own file"):
        write(tmp_path, {**FILES, "encoder.onnx": model.SerializeToString()})
    assert not any((tmp_path / "models").iterdir())


# --- versions -----------------------------------------------------------------------------------------------


def write_and_activate(state_dir: Path, count: int) -> list[str]:
    """Ids of bundles, oldest first; each was activated once."""
    ids = [write(state_dir, created=f"2024-05-{day:02}T00:00:00Z") for day in range(1, count + 1)]
    for id_ in ids:
        bundles.activate_bundle(state_dir, id_)
    return ids


def test_versions_are_listed_newest_first(tmp_path: Path) -> None:
    ids = write_and_activate(tmp_path, 3)
    assert [bundle.id for bundle in bundles.list_bundles(tmp_path)] == ids[::-1]
    assert bundles.read_active_ids(tmp_path) == (ids[2], ids[1])


def test_activating_the_active_one_keeps_its_predecessor(tmp_path: Path) -> None:
    ids = write_and_activate(tmp_path, 2)
    bundles.activate_bundle(tmp_path, ids[1])
    assert bundles.read_active_ids(tmp_path) == (ids[1], ids[0])


def test_pruning_keeps_the_newest_the_active_and_the_one_before_it(tmp_path: Path) -> None:
    ids = write_and_activate(tmp_path, 5)
    bundles.activate_bundle(tmp_path, ids[1])
    bundles.activate_bundle(tmp_path, ids[0])
    assert sorted(bundles.prune_bundles(tmp_path, keep=1)) == sorted([ids[2], ids[3]])
    assert {bundle.id for bundle in bundles.list_bundles(tmp_path)} == {ids[0], ids[1], ids[4]}
    assert bundles.prune_bundles(tmp_path, keep=0) == [ids[4]]
    active = bundles.open_active_bundle(tmp_path)
    assert active is not None
    bundles.verify_bundle(active)


def test_pruning_removes_damaged_bundles_and_old_leftovers(tmp_path: Path) -> None:
    ids = write_and_activate(tmp_path, 3)
    truncate(bundle_path(tmp_path, ids[0]) / "encoder.onnx")
    models = tmp_path / "models"
    for name, age in ((".new-old", 2 * 86400), (".new-young", 60), (".old-old", 2 * 86400)):
        (models / name).mkdir()
        (models / name / "part").write_bytes(b"x")
        os.utime(models / name, (time.time() - age,) * 2)
    assert bundles.prune_bundles(tmp_path, keep=9) == [ids[0]]
    assert sorted(p.name for p in models.iterdir()) == sorted([".lock", ".new-young", ids[1], ids[2]])


def test_an_unknown_id_cannot_be_activated(tmp_path: Path) -> None:
    ids = write_and_activate(tmp_path, 1)
    for id_ in ("f" * 64, "../models/" + ids[0], ids[0][:12], ""):
        with pytest.raises(GitpeftError):
            bundles.activate_bundle(tmp_path, id_)
    assert bundles.read_active_ids(tmp_path) == (ids[0], "")


def test_concurrent_activations_always_leave_a_valid_active_model(tmp_path: Path) -> None:
    ids = write_and_activate(tmp_path, 3)
    stop = threading.Event()
    seen: set[str] = set()
    problems: list[BaseException] = []

    def read() -> None:
        while not stop.is_set():
            try:
                bundle = bundles.open_active_bundle(tmp_path)
                assert bundle is not None
                seen.add(bundle.id)
            except BaseException as error:
                problems.append(error)

    def write(id_: str) -> None:
        for _ in range(15):
            bundles.activate_bundle(tmp_path, id_)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(id_,)) for id_ in ids]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    assert not problems
    assert seen <= set(ids)
    now, before = bundles.read_active_ids(tmp_path)
    assert now in ids and before in ids and now != before


# --- killed -------------------------------------------------------------------------------------------------


def test_replacing_a_model_killed_at_any_step_leaves_a_valid_one(tmp_path: Path) -> None:
    old = write_and_activate(tmp_path, 1)[0]

    def renew() -> None:
        id_ = write(tmp_path, created="2024-06-01T00:00:00Z")
        bundles.activate_bundle(tmp_path, id_)
        bundles.prune_bundles(tmp_path, keep=1)

    step = 1
    while killed_at(step, renew):
        active = bundles.open_active_bundle(tmp_path)
        assert active is not None
        bundles.verify_bundle(active)
        for path in (tmp_path / "models").iterdir():
            if not path.name.startswith("."):
                bundles.verify_bundle(bundles.open_bundle(path))
        assert bundles.read_active_ids(tmp_path)[0] == old or bundles.read_active_ids(tmp_path)[1] == old
        step += 1
    assert step > 20
    assert bundles.read_active_ids(tmp_path)[1] == old


def test_an_error_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path)
    assert not list((tmp_path / "models").iterdir())


# --- weights that are mapped --------------------------------------------------------------------------------


def let_settle(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an hour go by since the file was touched."""
    touched = path.stat().st_ctime
    monkeypatch.setattr(time, "time", lambda: touched + 3600)


def open_with_weights(state: Path) -> bundles.Bundle:
    id_ = write(state, {**FILES, "decoder.safetensors": b"w" * 9000})
    return bundles.activate_bundle(state, id_)


def count_hashes(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    hashed: list[object] = []
    plain = bundles._hash_mapped

    def compute_hash(file: Any) -> str:
        hashed.append(file)
        return plain(file)

    monkeypatch.setattr(bundles, "_hash_mapped", compute_hash)
    return hashed


def test_mapped_weights_are_hashed_once_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, hashed = open_with_weights(tmp_path), count_hashes(monkeypatch)
    let_settle(bundle.path / "decoder.safetensors", monkeypatch)
    mark = bundle.path.with_name(f".checked-{bundle.id}")
    for _ in range(3):
        bundle.check_mapped_file("decoder.safetensors")
        os.utime(mark, (time.time(), time.time()))
    assert len(hashed) == 1
    os.utime(mark, (time.time() - 25 * 3600,) * 2)
    bundle.check_mapped_file("decoder.safetensors")
    assert len(hashed) == 2


def test_mapped_weights_are_hashed_again_when_they_were_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where whoever touched them sets the time of the last change back."""
    bundle = open_with_weights(tmp_path)
    weights = bundle.path / "decoder.safetensors"
    let_settle(weights, monkeypatch)
    bundle.check_mapped_file(weights.name)
    mark = bundle.path.with_name(f".checked-{bundle.id}")
    os.utime(mark, (time.time(), time.time()))
    before = weights.stat()
    flip(weights)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(GitpeftError, match=r"decoder\.safetensors of the model is damaged"):
        bundle.check_mapped_file(weights.name)


def test_weights_that_change_while_they_are_hashed_are_not_taken_for_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_with_weights(tmp_path)
    weights = bundle.path / "decoder.safetensors"
    let_settle(weights, monkeypatch)
    plain = bundles._hash_mapped

    def change_behind(file: Any) -> str:
        digest = plain(file)
        flip(weights)
        return digest

    monkeypatch.setattr(bundles, "_hash_mapped", change_behind)
    bundle.check_mapped_file(weights.name)
    assert not bundle.path.with_name(f".checked-{bundle.id}").exists()


def test_weights_that_were_just_written_are_not_taken_for_intact(tmp_path: Path) -> None:
    """The clock of a file system may not tell two changes within a moment apart."""
    bundle = open_with_weights(tmp_path)
    bundle.check_mapped_file("decoder.safetensors")
    assert not bundle.path.with_name(f".checked-{bundle.id}").exists()


@pytest.mark.parametrize("content", [b"", b"\xff", b"x" * 100])
def test_a_damaged_mark_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    bundle, hashed = open_with_weights(tmp_path), count_hashes(monkeypatch)
    mark = bundle.path.with_name(f".checked-{bundle.id}")
    mark.write_bytes(content)
    let_settle(bundle.path / "decoder.safetensors", monkeypatch)
    bundle.check_mapped_file("decoder.safetensors")
    assert len(hashed) == 1
    bundles.delete_bundle(bundle.path)
    assert not mark.exists()
