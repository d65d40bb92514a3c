"""Where each model family keeps its layers, attention, linears and norms.

A family is data: supporting another BERT-like family means adding one `Family` to `FAMILIES`. All paths are relative
to one layer, except ``layers``, which is relative to the base model (the module named by ``base_model_prefix``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import AxformError

__all__ = ["FAMILIES", "Family", "ModelShape", "family_of", "shape_of"]


@dataclass(frozen=True)
class Family:
    """Module paths of one post-LayerNorm encoder family."""

    model_type: str
    """``config.model_type`` of the family."""
    base_model: str
    """Attribute of the task model that holds the encoder (``base_model_prefix``)."""
    layers: str
    """The list of layers, relative to the base model."""
    attention_core: str
    """The module that computes queries, keys, values and the attention itself."""
    query: str
    key: str
    value: str
    attention_output: str
    """The output projection W_O of the ATTN block."""
    feed_forward_entry: str
    """The first module of the FFN block that receives the hidden state."""
    up: str
    """The projection hidden size -> intermediate size."""
    down: str
    """The projection intermediate size -> hidden size."""
    attention_norm: str
    """The LayerNorm after the ATTN block."""
    feed_forward_norm: str
    """The LayerNorm after the FFN block."""
    num_layers: str = "num_hidden_layers"
    num_heads: str = "num_attention_heads"
    hidden_size: str = "hidden_size"
    intermediate_size: str = "intermediate_size"
    word_embeddings: str = "embeddings.word_embeddings"
    """Relative to the base model, like ``layers``."""
    attention_mask: str = "attention_mask"
    """Name of the key padding mask among the inputs of the model's forward, (batch, sequence), 1 = a real token."""
    positions_follow_padding: bool = False
    """Positions count from ``pad_token_id + 1`` on, so that many position embeddings stand for no token."""

    def layer_scope(self, layer: int) -> str:
        """Dotted path of a layer from the task model, e.g. ``bert.encoder.layer.3``."""
        return f"{self.base_model}.{self.layers}.{layer}"

    @property
    def word_embeddings_scope(self) -> str:
        """Dotted path of the table of the tokens from the task model."""
        return f"{self.base_model}.{self.word_embeddings}"

    def scope(self, layer: int, module: str) -> str:
        """Dotted path, from the task model, of a module given by its path inside the layer."""
        return f"{self.layer_scope(layer)}.{module}"


def _bert_like(name: str, positions_follow_padding: bool = False) -> Family:
    return Family(
        model_type=name,
        base_model=name,
        layers="encoder.layer",
        attention_core="attention.self",
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
        attention_output="attention.output.dense",
        feed_forward_entry="intermediate",
        up="intermediate.dense",
        down="output.dense",
        attention_norm="attention.output.LayerNorm",
        feed_forward_norm="output.LayerNorm",
        positions_follow_padding=positions_follow_padding,
    )


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        _bert_like("bert"),
        _bert_like("roberta", positions_follow_padding=True),
        _bert_like("electra"),
        Family(
            model_type="distilbert",
            base_model="distilbert",
            layers="transformer.layer",
            attention_core="attention",
            query="attention.q_lin",
            key="attention.k_lin",
            value="attention.v_lin",
            attention_output="attention.out_lin",
            feed_forward_entry="ffn",
            up="ffn.lin1",
            down="ffn.lin2",
            attention_norm="sa_layer_norm",
            feed_forward_norm="output_layer_norm",
            num_layers="n_layers",
            num_heads="n_heads",
            hidden_size="dim",
            intermediate_size="hidden_dim",
        ),
    )
}


@dataclass(frozen=True)
class ModelShape:
    """The dimensions that a plan refers to."""

    num_layers: int
    num_heads: int
    hidden_size: int
    intermediate_size: int

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads


def family_of(config: Any, source: str = "the model") -> Family:
    """The family of a transformers config.

    Raises:
        AxformError: the family is not in the table.
    """
    model_type = getattr(config, "model_type", None)
    if model_type not in FAMILIES:
        raise AxformError(
            f"{source}: model family {model_type!r} is not supported; supported families: {', '.join(sorted(FAMILIES))}."
        )
    return FAMILIES[model_type]


def shape_of(config: Any, family: Family) -> ModelShape:
    """Read the dimensions from a transformers config under the family's own attribute names."""
    return ModelShape(
        num_layers=getattr(config, family.num_layers),
        num_heads=getattr(config, family.num_heads),
        hidden_size=getattr(config, family.hidden_size),
        intermediate_size=getattr(config, family.intermediate_size),
    )
