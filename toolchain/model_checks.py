"""What must hold of a checkpoint before axform works with it: its config, its weights and its tokenizer.

transformers takes a checkpoint that does not fit together without an error: missing weights become random, unknown
ones are dropped, lost tokenizer files make every word unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from ..core.families import Family
from ..errors import AxformError

if TYPE_CHECKING:
    from .models import LoadedModel

__all__ = ["check_config", "check_tokenizer", "check_weights"]

_UNSUPPORTED = {
    "auto_map": "which asks for Python code of its own, and axform runs no code from a checkpoint",
    "quantization_config": "but axform takes weights in floating point only",
    "is_decoder": "but axform supports encoders only",
    "add_cross_attention": "but axform supports encoders only",
    "output_attentions": "but attention in the exported graph is one operator that gives no probabilities",
    "pruned_heads": "but transformers no longer prunes while it loads",
}
"""Attributes of a config that must be off, and why."""

_OTHER_HEADS = (
    "cls.",
    "lm_head.",
    "vocab_",
    "generator_",
    "discriminator_predictions.",
    "qa_outputs.",
    "classifier.",
    "sequence_summary.",
    "pooler.",
)
"""Beginnings of weights that are no part of the encoder: the heads of pre-training and of other tasks (BERT's
masked-LM and next-sentence heads, RoBERTa's and DistilBERT's masked-LM head, ELECTRA's generator and discriminator), and
the pooler, which not every task head uses. A checkpoint may bring them, and they are left out."""

_NAMED = 3
"""How many weights an error names."""


def check_config(config: Any, family: Family, source: str) -> None:
    """Check that a config describes an encoder that axform's numbers are right for.

    Raises:
        AxformError: sizes that no model can have, or a variant of the family that is not supported.
    """
    sizes = (family.num_layers, family.num_heads, family.hidden_size, family.intermediate_size)
    for name in (*sizes, "vocab_size", "max_position_embeddings"):
        value = getattr(config, name, None)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise AxformError(f"{source}: config.json: {name} must be a positive whole number, found {value!r}.")
    heads, hidden = getattr(config, family.num_heads), getattr(config, family.hidden_size)
    if hidden % heads:
        raise AxformError(f"{source}: config.json: {family.num_heads} {heads} does not divide {hidden} features.")
    if family.positions_follow_padding and not isinstance(config.pad_token_id, int):
        raise AxformError(f"{source}: config.json: pad_token_id must be set, since positions are counted from it.")
    if not isinstance(config.architectures or [], list):
        raise AxformError(f"{source}: config.json: architectures must be a list, found {config.architectures!r}.")
    for name, reason in _UNSUPPORTED.items():
        if getattr(config, name, None):
            raise AxformError(f"{source}: config.json sets {name}, {reason}; give another model.")
    positions = getattr(config, "position_embedding_type", None)
    if positions not in (None, "absolute"):
        raise AxformError(
            f"{source}: config.json sets position_embedding_type to {positions!r}, but axform supports absolute "
            "position embeddings only; give another model."
        )


def check_weights(
    model: PreTrainedModel, info: Mapping[str, Collection[str]], family: Family, source: str, *, has_head: bool
) -> None:
    """Check that a model was filled from its checkpoint and from nothing else.

    Args:
        info: the loading info of ``from_pretrained``.
        has_head: the checkpoint brings the task head; else the head, the pooler included, may be missing.

    Raises:
        AxformError: weights are missing, unknown, or not finite.
    """
    encoder, pooler = f"{family.base_model}.", f"{family.base_model}.pooler."
    missing = [
        name for name in info["missing_keys"] if has_head or (name.startswith(encoder) and not name.startswith(pooler))
    ]
    unknown = [name for name in info["unexpected_keys"] if not name.removeprefix(encoder).startswith(_OTHER_HEADS)]
    if missing or unknown:
        found = [
            f"{len(names)} weights {what} ({_first(names)})"
            for names, what in ((missing, "are missing"), (unknown, "are none of this model's"))
            if names
        ]
        raise AxformError(
            f"{source}: the weights do not belong to config.json: {' and '.join(found)}; "
            "restore both files as they were saved together."
        )
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise AxformError(f"{source}: weight {name} holds NaN or infinity; give a checkpoint that is not damaged.")


def _first(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:_NAMED]) + (" ..." if len(names) > _NAMED else "")


def check_tokenizer(loaded: LoadedModel, encoded: Mapping[str, list[int]], source: str) -> None:
    """Check that a tokenizer knows words and gives its model what the model can take.

    Args:
        encoded: what the tokenizer makes of one sample of the task, a text or a pair.

    Raises:
        AxformError: no vocabulary, ids beyond the model's embeddings, missing or unknown inputs, or no room for words.
    """
    tokenizer, config = loaded.tokenizer, loaded.model.config
    if "auto_map" in tokenizer.init_kwargs:
        raise AxformError(f"{source}: tokenizer_config.json sets auto_map, {_UNSUPPORTED['auto_map']}.")
    vocabulary = tokenizer.get_vocab()
    if set(vocabulary) <= set(tokenizer.all_special_tokens):
        raise AxformError(
            f"{source}: the tokenizer has no vocabulary; put the model's tokenizer files (tokenizer.json, "
            "tokenizer_config.json) beside config.json."
        )
    word, largest = max(vocabulary.items(), key=lambda item: item[1])
    if largest >= config.vocab_size:
        raise AxformError(
            f"{source}: the tokenizer gives {word!r} the id {largest}, but the model embeds {config.vocab_size} tokens; "
            "give the tokenizer that belongs to the model."
        )
    needed = {"input_ids", loaded.family.attention_mask}
    if not needed <= set(loaded.inputs) <= needed | {"token_type_ids"}:
        raise AxformError(
            f"{source}: the tokenizer gives the model {', '.join(loaded.inputs) or 'nothing'}, but it must give "
            f"{' and '.join(sorted(needed))}, and token_type_ids at most; correct model_input_names in "
            "tokenizer_config.json."
        )
    if "token_type_ids" in loaded.inputs and max(encoded["token_type_ids"]) >= config.type_vocab_size:
        raise AxformError(
            f"{source}: the tokenizer tells the two texts of a pair apart in token_type_ids, but the model has "
            f"type_vocab_size {config.type_vocab_size}; give a model for pairs, or the tokenizer that belongs to it."
        )
    longest = loaded.max_length(None)
    if longest < len(encoded["input_ids"]):
        raise AxformError(
            f"{source}: model_max_length of the tokenizer and max_position_embeddings of the model leave room for "
            f"{longest} tokens, fewer than the shortest sample has ({len(encoded['input_ids'])}); correct them."
        )
