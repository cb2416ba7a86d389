"""The script of docs/methods.md: checkpoints of all methods but full load with plain `peft`."""

import subprocess
import sys
from pathlib import Path

import pytest

from gitpeft.learn.models import bases, methods
from tests.support.tinybase import Built
from tests.support.tuning import disturb

CHECKOUT = Path(__file__).resolve().parents[3]
PAGE = CHECKOUT / "docs" / "methods.md"


def script() -> str:
    text = PAGE.read_text(encoding="utf-8")
    block = text.split("<!-- peft:begin -->")[1].split("<!-- peft:end -->")[0]
    return block.split("```python\n")[1].split("```")[0]


def test_it_is_ten_lines_at_most() -> None:
    assert len([line for line in script().splitlines() if line.strip()]) <= 10


@pytest.mark.parametrize("text", ["lora:rank=4", "adapter:width=8", "hybrid:rank=4,full=encoder.0"])
def test_a_checkpoint_loads_with_plain_peft(text: str, built: Built, tmp_path: Path) -> None:
    """What is said is what the tuned model says here, which is not what the base says."""
    base = bases.find_base(str(built.out))
    model = methods.attach_method(base.load(), methods.make_method(*methods.parse_method(text)))
    disturb(model)
    methods.save_trained_weights(model, tmp_path / "adapter")
    change = "<file>src/parser.py +1 -1<delete>old<add>new"
    done = subprocess.run(
        [sys.executable, "-c", script(), str(built.out), str(tmp_path / "adapter"), change],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == _said(model.half().float(), base, change)


def _said(model: object, base: bases.BaseModel, change: str) -> str:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.folder)
    ids = tokenizer(change, return_tensors="pt").input_ids
    written = model.eval().generate(input_ids=ids, max_new_tokens=20)  # type: ignore[attr-defined]
    return str(tokenizer.decode(written[0], skip_special_tokens=True)).strip()
