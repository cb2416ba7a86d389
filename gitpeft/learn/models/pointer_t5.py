"""The architecture of the embedded base: T5 with a pointer head, registered with the Auto classes.

A message repeats identifiers, paths and phrases of its input. The head lets the decoder copy an input token
instead of generating one: it attends over the encoder's states, and what it attends to is mixed with the
vocabulary distribution by a learnt gate (See et al. 2017, arXiv 1704.04368). Query and key also see the
*preceding* token on either side through one shared projection, so that a copied run continues by itself.
"""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

_CACHE_FIELD = "cache" if "cache" in {one.name for one in fields(Seq2SeqLMOutput)} else "past_key_values"
"""The library's name of the decoder's cache, which newer releases changed."""


class PointerT5Config(T5Config):  # type: ignore[misc]
    """T5's configuration and `special_tokens`: ids below it (padding, marks) are never copied."""

    model_type = "pointer-t5"
    special_tokens: int = 3


class PointerLinear(nn.Linear):
    """A linear layer that knows the scale of its random weights."""

    def __init__(self, inputs: int, outputs: int, std: float, bias: bool = False) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.std = std


class PointerHead(nn.Module):
    """Scores of copying each input position, and the gate between copying and generating.

    Shapes: `states` (batch, source, d), `source_ids` (batch, source), `outputs`
    (batch, target, d), `previous` (batch, target, d): embeddings of the decoder's input tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        std = 0.5 * width**-0.5
        self.query = PointerLinear(width, width, std)
        self.key = PointerLinear(width, width, std)
        self.token = PointerLinear(width, width, std)
        self.gate = PointerLinear(width, 1, 0.0, bias=True)
        self.scale = width**-0.5

    def compute_keys(self, states: Tensor, embedded: Tensor) -> Tensor:
        """Keys of the source positions: their state and the token before them. (batch, source, d)"""
        before = nn.functional.pad(embedded[:, :-1], (0, 0, 1, 0))
        return self.key(states) + self.token(_normalise_rms(before))  # type: ignore[no-any-return]

    def score_copies(self, keys: Tensor, outputs: Tensor, previous: Tensor) -> Tensor:
        """Unmasked copy scores, (batch, target, source)."""
        query = self.query(outputs) + self.token(_normalise_rms(previous))
        return (query @ keys.transpose(1, 2)) * self.scale  # type: ignore[no-any-return]


def _normalise_rms(embedded: Tensor) -> Tensor:
    return embedded * torch.rsqrt(embedded.float().pow(2).mean(-1, keepdim=True) + 1e-6).to(embedded.dtype)


class PointerT5ForConditionalGeneration(T5ForConditionalGeneration):  # type: ignore[misc]
    """T5 whose output is the mixture of its vocabulary and of copies from its input.

    `logits` are log-probabilities of that mixture, (batch, target, vocabulary). With `labels` in
    training mode only the loss is computed, which needs no distribution over the vocabulary.
    """

    config_class = PointerT5Config

    def __init__(self, config: PointerT5Config) -> None:
        super().__init__(config)
        self.pointer = PointerHead(config.d_model)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Leaf by leaf: the library passes over others where a class is not its own."""
        if module is self.get_input_embeddings():
            init.normal_(module.weight, std=0.2)  # T5's 1.0 makes a tied output repeat its input
        elif isinstance(module, PointerLinear):
            init.normal_(module.weight, std=module.std)
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        source_ids: Tensor | None = None,
        label_places: Tensor | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """As T5's; `source_ids` repeats `input_ids` where only `encoder_outputs` are given (generation).

        `label_places` are the indices of the real labels in the flat `labels`, where they are known.
        """
        attention_mask = self._widen_mask(attention_mask)
        source_ids = input_ids if source_ids is None else source_ids
        past = kwargs.get(_CACHE_FIELD, past_key_values)
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        elif not isinstance(encoder_outputs, BaseModelOutput):
            encoder_outputs = BaseModelOutput(last_hidden_state=encoder_outputs[0])
        states = encoder_outputs[0]
        if labels is not None and decoder_input_ids is None:
            decoder_input_ids = self._shift_right(labels)
        decoded = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=states,
            encoder_attention_mask=attention_mask,
            use_cache=use_cache if labels is None else False,  # nothing is generated
            **{_CACHE_FIELD: past},
        )
        outputs = decoded[0]
        if source_ids is None or decoder_input_ids is None:
            raise ValueError("the pointer head needs source_ids (or input_ids) and decoder_input_ids")
        copy = self._copy_log_probs(source_ids, states, outputs, decoder_input_ids)
        loss = None if labels is None else self._mixture_loss(outputs, copy, source_ids, labels, label_places)
        skip = self.training and labels is not None
        return Seq2SeqLMOutput(
            loss=loss,
            logits=None if skip else self._mixture_log_probs(outputs, copy, source_ids),
            encoder_last_hidden_state=states,
            **{_CACHE_FIELD: decoded.get(_CACHE_FIELD)},
        )

    def _widen_mask(self, mask: Tensor | None) -> Tensor | None:
        """What is added to the scores of attention, (batch, 1, 1, source), where torch computes attention.

        The library would look whether a mask has any zero, for which the host waits for a GPU.
        """
        if mask is None or mask.ndim != 2 or self.config._attn_implementation != "sdpa":
            return mask
        return (mask == 0)[:, None, None, :] * torch.finfo(torch.float32).min

    def _copy_log_probs(self, source: Tensor, states: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        keys = self.pointer.compute_keys(states, self.shared(source))
        scores = self.pointer.score_copies(keys, outputs, self.shared(targets)).float()
        blocked = (source < self.config.special_tokens)[:, None, :]
        return torch.log_softmax(scores.masked_fill(blocked, -1e4), dim=-1)

    def vocabulary_log_probs(self, outputs: Tensor) -> Tensor:
        """Log-probabilities of generating each token, copies aside: (..., d) to (..., vocabulary)."""
        if self.config.scale_decoder_outputs:
            outputs = outputs * (self.model_dim**-0.5)
        return torch.log_softmax(self.lm_head(outputs).float(), dim=-1)

    def _mixture_loss(
        self, outputs: Tensor, copy: Tensor, source: Tensor, labels: Tensor, at: Tensor | None
    ) -> Tensor:
        """Mean negative log-likelihood of the labels; the vocabulary is computed at real labels only."""
        at = (labels != -100).flatten().nonzero().squeeze(1) if at is None else at
        gold, chosen = labels.flatten()[at], outputs.flatten(0, 1)[at]
        gate = self.pointer.gate(chosen).float().squeeze(-1)
        generated = self.vocabulary_log_probs(chosen).gather(1, gold[:, None]).squeeze(1)
        same = source[:, None, :] == labels[:, :, None]
        copied = copy.masked_fill(~same, -1e4).logsumexp(-1).flatten()[at]
        logsigmoid = nn.functional.logsigmoid
        return -torch.logaddexp(logsigmoid(-gate) + generated, logsigmoid(gate) + copied).mean()

    def _mixture_log_probs(self, outputs: Tensor, copy: Tensor, source: Tensor) -> Tensor:
        gate = self.pointer.gate(outputs).float()
        generated = self.vocabulary_log_probs(outputs).exp() * torch.sigmoid(-gate)
        index = source[:, None, :].expand(copy.shape)
        copied = torch.zeros_like(generated).scatter_add(2, index, copy.exp() * torch.sigmoid(gate))
        return (generated + copied + 1e-12).log()

    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """As the library's; the input ids travel along as `source_ids`: every step may copy from them."""
        source = kwargs.get("input_ids") if inputs is None else inputs
        return super().generate(inputs, **{"source_ids": source, **kwargs})


AutoConfig.register(PointerT5Config.model_type, PointerT5Config)
AutoModelForSeq2SeqLM.register(PointerT5Config, PointerT5ForConditionalGeneration)
