"""Base models on this machine: finds them by name, checks and loads them, their tokenizer and reranker."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitpeft.bundle.bundle import RERANKER_FILE
from gitpeft.bundle.embedded import (
    BASE_ADAPTER_FOLDER,
    BASE_CONFIG_FILE,
    BASE_TOKENIZER_FILE,
    BASE_WEIGHTS_FILE,
    EMBEDDED_BASE,
    EMBEDDED_BASES,
    LARGE_BASE,
    ONNX_FOLDER,
    compute_base_digest,
    find_embedded_base,
)
from gitpeft.config import DEVICE_VARIABLE
from gitpeft.diff.prompt import PROMPT_BUDGET
from gitpeft.diff.render import TokenBudget
from gitpeft.errors import GitpeftError
from gitpeft.learn.models import architectures, hub
from gitpeft.runtime.tokenizer import TokenCodec
from gitpeft.share import packed_merge
from gitpeft.share.packed import PackedWeights, is_packed_base
from gitpeft.suggest import reranker
from gitpeft.suggest.reranker import Reranker

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import EncoderDecoderModel, PreTrainedModel

    from gitpeft.learn.models.methods import TuningMethod

__all__ = ["EMBEDDED_BASE", "BaseModel", "compute_base_digest", "find_base", "find_embedded_base"]

SETTINGS_FILE = "settings.json"
"""Among a base's ONNX files: the ids that control generation."""

DECODER_LAYERS = 6
_UNIXCODER_MARK = "<encoder-decoder>"


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model on this machine: its name, folder, and digest (see `compute_base_digest`).

    `kind` is the architecture, as `model_type` of its configuration has it; `states` the layers of its
    encoder, or of all of it where it has none, times their width.
    """

    name: str
    folder: Path
    digest: str
    budget: TokenBudget
    kind: str = "pointer-t5"
    states: int = 6 * 256

    @property
    def tokenizer_path(self) -> Path:
        """The `tokenizers` file."""
        return self.folder / BASE_TOKENIZER_FILE

    @property
    def tokenizer_digest(self) -> str:
        """sha256 of the tokenizer file."""
        return hashlib.sha256(self.tokenizer_path.read_bytes()).hexdigest()

    def find_onnx_folder(self) -> Path | None:
        """The folder of the base's own ONNX files, for use without tuning; None where it has none."""
        folder = self.folder / ONNX_FOLDER
        return folder if (folder / SETTINGS_FILE).is_file() and not is_packed_base(self.folder) else None

    def prepare_onnx_folder(self, scratch: Path) -> Path | None:
        """As `find_onnx_folder`; the files of a packed base are made, without torch, in `scratch`.

        GitpeftError when the base is damaged.
        """
        if not (is_packed_base(self.folder) and packed_merge.has_graph(self.folder)):
            return self.find_onnx_folder()
        if not (scratch / SETTINGS_FILE).is_file():
            packed_merge.write_untuned_model(self.folder, scratch)
            shutil.copyfile(self.folder / ONNX_FOLDER / SETTINGS_FILE, scratch / SETTINGS_FILE)
        return scratch

    def load_reranker(self) -> Reranker:
        """Its default reranker; the embedded base's where it has none, since all use the same features.

        GitpeftError when its file is damaged.
        """
        path = self.folder / ONNX_FOLDER / RERANKER_FILE
        if not path.is_file():
            return reranker.load_embedded_reranker()
        try:
            return Reranker.from_data(json.loads(path.read_bytes()), "model")
        except (OSError, ValueError, RecursionError, GitpeftError):
            raise GitpeftError(f"{path} is damaged", "make the base again, or remove that file") from None

    @property
    def architecture(self) -> architectures.Architecture:
        """The names of its modules."""
        return architectures.find_architecture(self.kind)

    def load_codec(self) -> TokenCodec:
        """Text to this base's token ids and back."""
        return _load_codec(self.tokenizer_path)

    def find_wrapping_ids(self) -> tuple[list[int], list[int]]:
        """Ids that the architecture expects before and after a source; none where it is read as it is."""
        tokenizer = _load_tokenizer(self.tokenizer_path)
        before, after = self.architecture.wrapped
        if before and tokenizer.token_to_id(_UNIXCODER_MARK) is not None:
            before = (*before, _UNIXCODER_MARK, "</s>")  # UniXcoder's prefix for its encoder-decoder mode
        found = [[tokenizer.token_to_id(token) for token in tokens] for tokens in (before, after)]
        return [i for i in found[0] if i is not None], [i for i in found[1] if i is not None]

    def find_adapter(self) -> Path | None:
        """The folder of the base's own adapter, a LoRA in PEFT's form; None where it has none.

        Such a base is its weights with this adapter. A LoRA of the same shape starts from it.
        """
        folder = self.folder / BASE_ADAPTER_FOLDER
        return folder if (folder / "adapter_model.safetensors").is_file() else None

    def find_start(self, method: "TuningMethod") -> Path | None:
        """The adapter that this method starts from, since it goes on with the same matrices; else None."""
        from gitpeft.learn.models import methods

        folder = self.find_adapter()
        return folder if folder is not None and methods.continues_adapter(method, folder) else None

    def load_for(self, method: "TuningMethod") -> "PreTrainedModel":
        """The model that this method is attached to: without the base's adapter where it starts from it."""
        return self.load(adapted=self.find_start(method) is None)

    def load(self, *, adapted: bool = True) -> "PreTrainedModel":
        """The model in float32, with the base's own adapter merged unless `adapted` is False.

        Safetensors only; no code of the base is ever run. An encoder alone gets a decoder with random layers
        (see `_add_decoder`).
        """
        model, adapter = self._load_weights(), self.find_adapter()
        _keep_no_cache(model)
        if not adapted or adapter is None:
            return model
        from peft import PeftModel

        whole: PreTrainedModel = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        return whole

    def _load_weights(self) -> "PreTrainedModel":
        import torch
        from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM
        from transformers.utils import logging

        import gitpeft.learn.models.pointer_t5  # noqa: F401 - registers the embedded base's class

        logging.disable_progress_bar()
        safely = {
            "use_safetensors": True,
            "trust_remote_code": False,
            "local_files_only": True,
            "dtype": torch.float32,
        }
        on_gpu = torch.cuda.is_available() and os.environ.get(DEVICE_VARIABLE) != "cpu"
        attention = "sdpa" if on_gpu else "eager"
        if self.architecture.makes_decoder:
            encoder = AutoModel.from_pretrained(self.folder, add_pooling_layer=False, **safely)
            return _add_decoder(encoder, attention)
        if self.architecture.causal:
            packed = is_packed_base(self.folder)
            model = (
                _unpack_model(self.folder)
                if packed
                else AutoModelForCausalLM.from_pretrained(self.folder, **safely)
            )
            model.set_attn_implementation("sdpa")  # what it saves in memory counts with 500 tokens
            return model
        model = AutoModelForSeq2SeqLM.from_pretrained(self.folder, **safely)
        model.set_attn_implementation(attention)
        return model


def _keep_no_cache(model: "PreTrainedModel") -> None:
    """Keys and values are kept for generating, which no model does that is loaded here; in a training they
    would only take memory. Each stack reads its own copy of the configuration."""
    for part in model.modules():
        if hasattr(part, "config"):
            part.config.use_cache = False


def _unpack_model(folder: Path) -> "PreTrainedModel":
    """A causal language model in float32 from packed weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):  # random weights for all of it would take longer than reading the real ones
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    weights = PackedWeights(folder)
    state = {name: torch.from_numpy(weights.read(name)) for name in weights}
    missing, unknown = model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    if unknown or set(missing) - {"lm_head.weight"} or (missing and not config.tie_word_embeddings):
        raise GitpeftError(
            f"the weights in {folder} do not fit its configuration",
            "install gitpeft again, or name another base",
        )
    return model.eval()


def _add_decoder(encoder: "PreTrainedModel", attention: str) -> "EncoderDecoderModel":
    """An encoder-decoder: six layers with random weights over the encoder's own embeddings.

    As in the study of Liu et al. (arXiv 2402.06247), so that an encoder can write messages. The new modules
    are named in `gitpeft_fresh`: every method trains them in full; the embeddings, which are the output's
    weights as well, stay as the encoder has them.
    """
    import torch
    from transformers import AutoConfig, EncoderDecoderModel, RobertaForCausalLM

    settings = encoder.config.to_dict() | {
        "is_decoder": True,
        "add_cross_attention": True,
        "num_hidden_layers": min(DECODER_LAYERS, encoder.config.num_hidden_layers),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = RobertaForCausalLM(AutoConfig.for_model(**settings))
    decoder.roberta.embeddings.load_state_dict(encoder.embeddings.state_dict())
    for one in (encoder, decoder):
        one.set_attn_implementation(attention)
    model = EncoderDecoderModel(encoder=encoder, decoder=decoder)
    config = encoder.config
    model.config.decoder_start_token_id = config.bos_token_id
    model.config.pad_token_id, model.config.eos_token_id = config.pad_token_id, config.eos_token_id
    model.config.vocab_size = config.vocab_size
    model.gitpeft_fresh = ("decoder.roberta.encoder", "decoder.lm_head.dense", "decoder.lm_head.layer_norm")
    return model.eval()


@cache
def _load_tokenizer(path: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))


@cache
def _load_codec(path: Path) -> TokenCodec:
    return TokenCodec.load(path)


def find_base(name: str) -> BaseModel:
    """The base with this name: one of `EMBEDDED_BASES`, a folder, a preset, or `owner/name@commit`.

    A folder holds files of `transformers`, its weights packed or not. A preset or a hub id is looked for
    among what was downloaded; see `hub.resolve_hub_base`. GitpeftError when there is none, when it holds no
    safetensors or no `tokenizer.json`, or when its configuration is damaged or that of a model that cannot be
    tuned here.
    """
    folder = find_embedded_base(name) if name in EMBEDDED_BASES else Path(name).expanduser()
    if not folder.exists() and (name in hub.BASE_PRESETS or hub.is_hub_id(name)):
        folder, name = hub.resolve_hub_base(name)
    missing = [
        part
        for part in (BASE_CONFIG_FILE, BASE_WEIGHTS_FILE, BASE_TOKENIZER_FILE)
        if not (folder / part).is_file()
    ]
    if missing:
        raise GitpeftError(
            f"the base {name} has no {missing[0]} ({folder})",
            "name a folder with config.json, model.safetensors and tokenizer.json, or leave --base out",
        )
    try:
        config = json.loads((folder / BASE_CONFIG_FILE).read_text(encoding="utf-8"))
        kind = config.get("model_type")
        budget = PROMPT_BUDGET if architectures.is_causal(kind) else TokenBudget()
        if "gitpeft_budget" in config:
            budget = TokenBudget(**config["gitpeft_budget"])
        states = _count_states(config)
    except (ValueError, TypeError, AttributeError) as error:
        hint = "get the base again, or leave --base out"
        raise GitpeftError(
            f"the {BASE_CONFIG_FILE} of the base {name} cannot be used: {error}", hint
        ) from None
    if kind not in architectures.ARCHITECTURES:
        raise GitpeftError(
            f"the base {name} is a {kind}", f"known are {', '.join(sorted(architectures.ARCHITECTURES))}"
        )
    return BaseModel(name, folder.resolve(), compute_base_digest(folder), budget, kind, states)


_CONTROL_GROUP = Path("/sys/fs/cgroup")

LARGE_BASE_BYTES = 4 << 30
"""The memory that must be free for the large embedded base: its training alone takes 2.2 GB."""


def choose_base() -> tuple[str, str]:
    """The embedded base for this machine, and why it is not the large one ("" where it is).

    With too little free memory it is `mini`; on systems that do not say how much is free, the large one.
    """
    if not (find_embedded_base(LARGE_BASE) / BASE_WEIGHTS_FILE).is_file():
        return EMBEDDED_BASE, f"{LARGE_BASE} is not part of this installation"
    free = _read_free_memory()
    if free is not None and free < LARGE_BASE_BYTES:
        return EMBEDDED_BASE, (
            f"{free / (1 << 30):.1f} GB of memory are free, training {LARGE_BASE} needs "
            f"{LARGE_BASE_BYTES >> 30}"
        )
    return LARGE_BASE, ""


def _read_free_memory() -> int | None:
    """Free memory in bytes, of the machine and of the control group; None where that is not known."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        limit = (_CONTROL_GROUP / "memory.max").read_text(encoding="ascii").strip()
        usage = dict(
            map(str.split, (_CONTROL_GROUP / "memory.stat").read_text(encoding="ascii").splitlines())
        )
        found += [int(limit) - int(usage["anon"])] if limit != "max" else []
    except (OSError, ValueError, LookupError):
        pass
    return min(found, default=None)


def _count_states(config: Mapping[str, Any]) -> int:
    layers = [config[key] for key in ("num_layers", "num_hidden_layers", "encoder_layers") if key in config]
    width = config.get("d_model") or config.get("hidden_size") or 0
    return int(max(layers, default=1) * width) or 1
