"""Approximate attention in PyTorch: sign matching (AxFormer v1, Algorithm 4).

Shapes follow ONNX Attention: queries (batch, heads, query sequence, head size), keys and values likewise. A key mask
is boolean, (batch, key sequence), True = a real token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.plan import Selection

__all__ = ["default_k", "sign_matching_attention", "sign_matching_keys"]


def default_k(sequence: int) -> int:
    """Keys kept for a sequence length in tokens (AxFormer v1, Algorithm 4)."""
    if sequence <= 128:
        return 16
    return 64 if sequence < 1024 else 128


def sign_matching_keys(
    query: Tensor, key: Tensor, key_mask: Tensor | None, k: int, selection: Selection = "majority"
) -> Tensor:
    """Indices of the K keys whose signs match the queries best, best first, (batch, heads, K).

    ``majority`` ranks keys by the Hamming distance of their sign vector to the majority sign of the queries, column by
    column; ``count`` by the total number of sign agreements over all queries. Zero counts as not positive, ties go to
    the lower index, and padded positions come after every unpadded one and do not vote as queries.
    """
    key_length, query_length = key.shape[-2], query.shape[-2]
    query_positive, key_positive = query > 0, key > 0
    votes_for = query_positive
    voters = torch.full((1, 1, 1), query_length, device=query.device)
    if key_mask is not None and query_length == key_length:
        votes_for = query_positive & key_mask[:, None, :, None]
        voters = key_mask.sum(-1)[:, None, None]
    positive = votes_for.sum(-2)  # (batch, heads, head size)
    if selection == "majority":
        majority = 2 * positive >= voters
        distance = (key_positive != majority[:, :, None, :]).sum(-1)
    else:
        # Agreements of a key with all queries, up to a constant: sum_i sign(k_i) * c_i, larger is better.
        c = 2 * positive - voters
        distance = -(torch.where(key_positive, c[:, :, None, :], -c[:, :, None, :])).sum(-1)
    if key_mask is not None:
        distance = distance + (~key_mask)[:, None, :] * (2 * (1 + query.shape[-1]) * (1 + query_length))
    return distance.sort(dim=-1, stable=True).indices[..., :k]


def sign_matching_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_mask: Tensor | None = None,
    *,
    k: int,
    scale: float | None = None,
    selection: Selection = "majority",
    dropout: float = 0.0,
) -> Tensor:
    """Attention over the K keys chosen by `sign_matching_keys`; plain attention when there are at most K keys.

    Selected padded keys get no weight, and a row without any unpadded key gives 0.

    Returns:
        (batch, heads, query sequence, head size), in the type of ``query``.
    """
    if key.shape[-2] > k:
        with torch.no_grad():
            chosen = sign_matching_keys(query, key, key_mask, k, selection)
        key = key.gather(-2, chosen[..., None].expand(*chosen.shape, key.shape[-1]))
        value = value.gather(-2, chosen[..., None].expand(*chosen.shape, value.shape[-1]))
        if key_mask is not None:
            key_mask = key_mask[:, None, :].expand(-1, chosen.shape[1], -1).gather(-1, chosen)[:, :, None, :]
    elif key_mask is not None:
        key_mask = key_mask[:, None, None, :]
    output = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=key_mask, dropout_p=dropout, scale=scale
    )
    if key_mask is not None:
        output = output.masked_fill(~key_mask.any(-1, keepdim=True), 0.0)
    return output
