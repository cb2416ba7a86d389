"""Examples that stay on a device give the batches that the host would make."""

import random
from typing import Any

import numpy as np
import pytest
import torch

from gitpeft.learn.data.batches import EncodedCommits, PromptedExamples, RenderedExamples
from gitpeft.learn.training import devices, loop, resident
from gitpeft.learn.training.resident import ResidentExamples, ResidentSelection
from gitpeft.learn.training.settings import TrainingSettings
from tests.support import tinymodel

CPU = torch.device("cpu")


def write_pairs(count: int, largest: int, seed: int = 0) -> list[tuple[list[int], list[int]]]:
    dice = random.Random(seed)
    return [
        ([dice.randrange(largest) for _ in range(dice.randint(1, 70))],
         [dice.randrange(largest) for _ in range(dice.randint(1, 20))])
        for _ in range(count)
    ]  # fmt: skip


def make_data(kind: str, largest: int) -> Any:
    pairs = write_pairs(40, largest)
    if kind == "prompts":
        return PromptedExamples.from_pairs(pairs, 7)
    if kind == "messages":
        return RenderedExamples.from_pairs(pairs)
    features = [[n / 7, -n] for n in range(len(pairs))]
    return EncodedCommits.from_sources(
        [source for source, _ in pairs], features, [n % 2 for n in range(len(pairs))]
    )


@pytest.mark.parametrize("largest", [400, 65_536, 150_000])
@pytest.mark.parametrize("kind", ["prompts", "messages", "changes"])
@pytest.mark.parametrize("limit", [30, 1 << 30])
def test_batches_are_those_that_the_host_makes(kind: str, limit: int, largest: int) -> None:
    """Ids of 16 and of 32 bits, in any order, one example or many; a source is cut like the host cuts it."""
    data = make_data(kind, largest)
    stays = ResidentExamples(data, CPU)
    assert stays.source.dtype == (torch.int32 if largest > 65_536 else torch.int16)
    dice = random.Random(1)
    for size in (1, 2, 7, 40):
        chosen = dice.sample(range(len(data)), size)
        wanted = devices.load_arrays(data.collate_batch(chosen, limit, 16, 3), CPU)
        found = stays.load_batch(chosen, limit, 16, 3)
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
        if kind == "messages":
            places = np.flatnonzero(wanted["labels"].numpy() != -100)
            assert stays.find_label_places(chosen).tolist() == places.tolist()


def test_a_selection_counts_its_own_rows() -> None:
    data = make_data("prompts", 400)
    part = ResidentSelection(ResidentExamples(data, CPU), [5, 9, 2])
    assert len(part) == 3 and part.count_tokens([2, 0], 99) == data.count_tokens([2, 5], 99)
    found, wanted = part.load_batch([1], 99, 16, 0), data.collate_batch([9], 99, 16, 0)
    assert found["input_ids"].tolist() == wanted["input_ids"].tolist()


@pytest.mark.parametrize("make", [tinymodel.pointer_t5, tinymodel.causal])
def test_a_training_on_resident_examples_is_the_same(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights to the last bit; the host collates nothing."""
    pairs = [(source, [*message, 1]) for source, message in tinymodel.pairs(24)]
    causal = make is tinymodel.causal
    data: Any = PromptedExamples.from_pairs(pairs, 3) if causal else RenderedExamples.from_pairs(pairs)
    collated: list[int] = []
    whole = type(data).collate_batch

    def counted(self: Any, *given: Any) -> Any:
        collated.append(1)
        return whole(self, *given)

    monkeypatch.setattr(type(data), "collate_batch", counted)
    found = []
    for stays in (False, True):
        collated.clear()
        monkeypatch.setattr(resident, "is_worthwhile", lambda data, device, stays=stays: stays)
        torch.manual_seed(0)
        model = make()
        loop.train_model(model, data, TrainingSettings(steps=6, batch_tokens=400, lr=1e-3))
        found.append({name: p.detach() for name, p in model.named_parameters()})
        assert bool(collated) != stays
    for name, one in found[0].items():
        assert torch.equal(found[1][name], one), name


def test_what_takes_too_much_of_a_gpu_is_not_put_there(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data("messages", 400)
    tokens = len(data.source) + len(data.target)
    assert not resident.is_worthwhile(data, CPU) and resident.make_resident(data, CPU) is None
    for free, wanted in ((40 * tokens, True), (40 * tokens - 10, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        assert resident.is_worthwhile(data, torch.device("cuda")) == wanted
