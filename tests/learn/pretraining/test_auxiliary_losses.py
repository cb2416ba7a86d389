"""What is learnt beside messages: damage where it is meant, answers that can be learnt, no trace left."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gitpeft.learn.data.batches import RenderedExamples
from gitpeft.learn.pretraining import auxiliary_losses
from gitpeft.learn.pretraining.auxiliary_losses import AuxiliaryWeights, SourceParts, corrupt_sources
from gitpeft.learn.training.loop import measure_loss, train_model
from gitpeft.learn.training.settings import TrainingSettings
from gitpeft.runtime.tokenizer import SPECIAL_TOKENS
from tests.support import tinymodel

LIKE, FILE, ADD, DELETE, KEEP = (
    SPECIAL_TOKENS.index(f"<{mark}>") for mark in ("like", "file", "add", "delete", "keep")
)
MASK = SPECIAL_TOKENS.index("<unk>")
ALL = AuxiliaryWeights(line_type=1.0, matching=1.0, denoise=1.0)
HOW = TrainingSettings(steps=60, batch_tokens=600, lr=1e-2)


def source(line: int, added: bool, like: int) -> list[int]:
    return [LIKE, like, like + 1, FILE, 50, 51, ADD if added else DELETE, line, line + 1, line + 2, KEEP, 60]


def changes(count: int = 60, seed: int = 0) -> RenderedExamples:
    """Low lines were removed, high ones added; a low exemplar is the message, a high one is not."""
    dice = torch.Generator().manual_seed(seed)
    pairs = []
    for i in range(count):
        low, like = (int(torch.randint(n, (), generator=dice)) for n in (40, 30))
        fits, added = like < 15, i % 3 > 0
        message = [300 + like, 301 + like, 1] if fits else [200, 201, 1]
        pairs.append((source(100 + low + 150 * added, added, 300 + like), message))
    return RenderedExamples.from_pairs(pairs)


def ids(count: int = 400) -> torch.Tensor:
    return torch.tensor([source(100 + i % 40, i % 2 > 0, 300) for i in range(count)])


def test_nothing_is_damaged_that_no_task_asks_about() -> None:
    torch.manual_seed(0)
    given = ids()
    assert torch.equal(corrupt_sources(given, AuxiliaryWeights()), given)
    assert torch.equal(corrupt_sources(given, AuxiliaryWeights(matching=1.0)), given)
    signs = corrupt_sources(given, AuxiliaryWeights(line_type=1.0))
    assert set((signs != given).nonzero()[:, 1].tolist()) == {6}
    assert set(signs[signs != given].tolist()) == {KEEP}
    spans = corrupt_sources(given, AuxiliaryWeights(denoise=1.0))
    assert set((spans != given).nonzero()[:, 1].tolist()) == {4, 5, 7, 8, 9, 11}
    assert set(spans[spans != given].tolist()) == {MASK}


def test_most_examples_are_read_as_they_are() -> None:
    torch.manual_seed(0)
    given = ids(2000)
    whole = (corrupt_sources(given, ALL) == given).all(1).float().mean()
    assert 1 - auxiliary_losses.CORRUPTED_SHARE - 0.03 < float(whole) < 0.87


def test_a_part_is_the_text_between_two_marks() -> None:
    given = torch.tensor([[LIKE, 20, 21, FILE, 30, ADD, 0, 0], [40, LIKE, 22, 0, 0, 0, 0, 0]])
    parts = SourceParts.from_ids(given)
    assert given.flatten()[parts.begins].tolist() == [LIKE, FILE, ADD, 40, LIKE]
    assert parts.tokens.tolist() == [2, 1, 0, 1, 1]
    means = parts.average_text(given[..., None].float(), given)
    assert means.squeeze(1).tolist() == [20.5, 30, 0, 40, 22]


def heads_loss(model: Any, weights: AuxiliaryWeights) -> float:
    """What the tasks cost together beside messages, on changes that were not learnt from."""
    data = changes(seed=9)
    with torch.no_grad():
        total = [
            total - shown
            for seed in range(8)
            for total, shown in [_asked(model, data, weights, seed)]
        ]  # fmt: skip
    return float(torch.stack(total).mean())


def _asked(
    model: Any, data: RenderedExamples, weights: AuxiliaryWeights, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    rows = [data.get_pair(i, 64) for i in range(len(data))]
    given = torch.tensor([source.tolist() for source, _ in rows])
    labels = torch.tensor([target.tolist() for _, target in rows])
    inputs = {"input_ids": given, "attention_mask": torch.ones_like(given), "labels": labels}
    return auxiliary_losses.make_joint_objective(weights)(model, inputs)


@pytest.mark.parametrize("task", ["line_type", "matching", "denoise"])
def test_each_task_is_learnt_and_so_are_messages(task: str) -> None:
    weights = AuxiliaryWeights(**{task: 1.0})
    model = tinymodel.pointer_t5(dropout_rate=0.0)
    auxiliary_losses.attach_heads(model)
    data = changes()
    before, messages = heads_loss(model, weights), measure_loss(model, data, HOW)
    train_model(model, data, HOW, objective=auxiliary_losses.make_joint_objective(weights))
    assert heads_loss(model, weights) < 0.8 * before
    assert measure_loss(model, data, HOW) < 0.7 * messages


def test_a_batch_without_questions_costs_nothing_beside_messages() -> None:
    model = tinymodel.pointer_t5(dropout_rate=0.0)
    auxiliary_losses.attach_heads(model)
    given = torch.tensor([[FILE, 50, 51, KEEP, 60]])
    inputs = {"input_ids": given, "attention_mask": torch.ones_like(given), "labels": torch.tensor([[70, 1]])}
    total, shown = auxiliary_losses.make_joint_objective(replace(ALL, denoise=0.0))(model, inputs)
    assert float(total.detach()) == float(shown.detach())
    total.backward()  # type: ignore[no-untyped-call]


def test_a_model_is_saved_without_heads(tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM

    model = tinymodel.pointer_t5()
    names = set(model.state_dict())
    auxiliary_losses.attach_heads(model)
    head = model.heads
    auxiliary_losses.attach_heads(model)
    assert model.heads is head and set(model.state_dict()) > names
    auxiliary_losses.detach_heads(model)
    auxiliary_losses.detach_heads(model)
    assert set(model.state_dict()) == names
    model.save_pretrained(tmp_path)
    AutoModelForSeq2SeqLM.from_pretrained(tmp_path)


def test_a_killed_training_has_its_heads_again(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(progress: Any) -> None:
        if progress.valid is not None and progress.step >= 10:
            raise Killed

    data, joint, how = changes(), auxiliary_losses.make_joint_objective(ALL), replace(HOW, steps=20)
    first, second = tinymodel.pointer_t5(), tinymodel.pointer_t5(seed=3)
    for model in (first, second):
        auxiliary_losses.attach_heads(model)
    with pytest.raises(Killed):
        train_model(first, data, how, valid=data, checkpoint=tmp_path / "c", objective=joint, on_step=kill)
    moved = first.heads.line_type.weight.detach().clone()
    seen: list[int] = []
    train_model(second, data, replace(how, lr=0.0), valid=data, checkpoint=tmp_path / "c", objective=joint,
        on_step=lambda progress: seen.append(progress.step))  # fmt: skip
    assert seen[0] > 10 and float(moved.abs().max()) > 0
    torch.testing.assert_close(second.heads.line_type.weight.detach(), moved, atol=0.3, rtol=0)
