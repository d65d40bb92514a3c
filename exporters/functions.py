"""ONNX function bodies of the ai.axform operators: what an ONNX Runtime without the op library runs.

The bodies are standard ONNX operators of opset 18 or later and are carried by each exported file that uses the operator.
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper, parser

from ..core.opset import DOMAIN, OPSET
from ..core.plan import Selection

__all__ = ["hard_attention_function", "sign_matching_function", "unpack_bits_function"]

_SIGN_VECTOR: dict[Selection, str] = {
    "majority": """
        twice_positive = Add (positive, positive)
        agrees = GreaterOrEqual (twice_positive, voters)
        wanted = Where (agrees, one, minus_one)
    """,
    "count": """
        twice_positive = Add (positive, positive)
        wanted = Sub (twice_positive, voters)
    """,
}
"""What each key's sign vector is compared with, (batch, heads, 1, head size): the queries' majority sign (AxFormer v1,
Algorithm 4), or the sum of their signs, whose product with a key counts the agreements over all queries."""

_SCALE = """
    scale_given = Constant <value_float: float = @scale> ()
    head_size = Shape <start = 3, end = 4> (K)
    head_size_float = Cast <to = 1> (head_size)
    head_size_root = Sqrt (head_size_float)
    scale_default = Reciprocal (head_size_root)
    scale_is_absent = Equal (scale_given, zero)
    scale_chosen = Where (scale_is_absent, scale_default, scale_given)
    scale_like = CastLike (scale_chosen, Q)
"""
"""The attribute ``scale``, or without it 1 / sqrt(head size)."""

_WEIGHTS = """
    minus_infinity = Constant <value_float: float = -inf> ()
    excluded = CastLike (minus_infinity, Q)
    scores_masked = Where (mask_row, scores, excluded)
    weights = Softmax <axis = -1> (scores_masked)
    weights_masked = Where (mask_row, weights, zero_like)
"""
"""The softmax of the scores over the keys that ``mask_row`` shows."""

_SIGN_MATCHING = """
<opset_import: ["" : {opset}], domain: "{domain}">
SignMatchingAttention <k> (Q, K, V, key_mask) => (Y) {{
    zero = Constant <value_float: float = 0.0> ()
    one = Constant <value_float: float = 1.0> ()
    minus_one = Constant <value_float: float = -1.0> ()
    axis_heads = Constant <value_ints: ints = [1]> ()
    axis_sequence = Constant <value_ints: ints = [2]> ()
    axis_features = Constant <value_ints: ints = [3]> ()

    mask_heads = Unsqueeze (key_mask, axis_heads)
    mask_column = Unsqueeze (mask_heads, axis_features)
    zero_like = CastLike (zero, Q)
    query_positive = Greater (Q, zero_like)
    votes = And (query_positive, mask_column)
    votes_float = Cast <to = 1> (votes)
    positive = ReduceSum <keepdims = 1> (votes_float, axis_sequence)
    mask_float = Cast <to = 1> (mask_column)
    voters = ReduceSum <keepdims = 1> (mask_float, axis_sequence)
    {sign_vector}
    key_positive = Greater (K, zero_like)
    key_signs = Where (key_positive, one, minus_one)
    wanted_column = Transpose <perm = [0, 1, 3, 2]> (wanted)
    agreement_column = MatMul (key_signs, wanted_column)
    agreement = Squeeze (agreement_column, axis_features)

    agreement_int = Cast <to = 7> (agreement)
    zero_int = Constant <value_int: int = 0> ()
    one_int = Constant <value_int: int = 1> ()
    key_length = Shape <start = 2, end = 3> (K)
    key_head_size = Shape <start = 3, end = 4> (K)
    most = Mul (key_length, key_head_size)
    twice_most = Add (most, most)
    beyond = Add (twice_most, one_int)
    far_away = Neg (beyond)
    penalty = Where (mask_heads, zero_int, far_away)
    rank = Add (agreement_int, penalty)
    key_count = Squeeze (key_length)
    positions = Range (zero_int, key_count, one_int)
    rank_scaled = Mul (rank, key_length)
    rank_unique = Sub (rank_scaled, positions)
    k_scalar = Constant <value_int: int = @k> ()
    kept = Min (k_scalar, key_length)
    ranked, chosen = TopK <axis = -1, largest = 1, sorted = 1> (rank_unique, kept)

    value_head_size = Shape <start = 3, end = 4> (V)
    chosen_shape = Shape (chosen)
    chosen_column = Unsqueeze (chosen, axis_features)
    key_index_shape = Concat <axis = 0> (chosen_shape, key_head_size)
    key_index = Expand (chosen_column, key_index_shape)
    value_index_shape = Concat <axis = 0> (chosen_shape, value_head_size)
    value_index = Expand (chosen_column, value_index_shape)
    keys = GatherElements <axis = 2> (K, key_index)
    values = GatherElements <axis = 2> (V, value_index)
    rank_shape = Shape (rank)
    mask_all_heads = Expand (mask_heads, rank_shape)
    mask_chosen = GatherElements <axis = 2> (mask_all_heads, chosen)
    mask_row = Unsqueeze (mask_chosen, axis_sequence)
    mask_values = Unsqueeze (mask_chosen, axis_features)
    values_masked = Where (mask_values, values, zero_like)

    {scale}
    keys_transposed = Transpose <perm = [0, 1, 3, 2]> (keys)
    query_scaled = Mul (Q, scale_like)
    scores = MatMul (query_scaled, keys_transposed)
    {weights}
    Y = MatMul (weights_masked, values_masked)
}}
"""
"""Keys are ranked by whole numbers that stay small, so that a runtime which keeps 32 bits of 64, as OpenVINO 2026.4 does,
ranks them alike."""

_HARD_ATTENTION = """
<opset_import: ["" : {opset}], domain: "{domain}">
HardAttention <k> (Q, K, V, key_mask) => (Y) {{
    zero = Constant <value_float: float = 0.0> ()
    mask_axes = Constant <value_ints: ints = [1, 2]> ()
    value_axes = Constant <value_ints: ints = [1, 3]> ()
    zero_like = CastLike (zero, Q)

    {scale}

    mask_row = Unsqueeze (key_mask, mask_axes)
    keys_transposed = Transpose <perm = [0, 1, 3, 2]> (K)
    products = MatMul (Q, keys_transposed)
    scores = Mul (products, scale_like)
    {weights}

    key_length = Shape <start = 2, end = 3> (K)
    k_scalar = Constant <value_int: int = @k> ()
    kept = Min (k_scalar, key_length)
    largest, chosen = TopK <axis = -1, largest = 1, sorted = 1> (weights_masked, kept)
    nothing = Sub (weights_masked, weights_masked)
    weights_kept = ScatterElements <axis = -1> (nothing, chosen, largest)
    mask_values = Unsqueeze (key_mask, value_axes)
    values_masked = Where (mask_values, V, zero_like)
    Y = MatMul (weights_kept, values_masked)
}}
"""
"""The scale comes after the product, so that equal products stay equal and the lower position wins."""

_UNPACK_BITS = """
<opset_import: ["" : {opset}], domain: "{domain}">
UnpackBits <bits, shape> (packed) => (codes) {{
    bits_int = Constant <value_int: int = @bits> ()
    shape_ints = Constant <value_ints: ints = @shape> ()
    zero = Constant <value_int: int = 0> ()
    one = Constant <value_int: int = 1> ()
    eight = Constant <value_int: int = 8> ()
    start = Constant <value_ints: ints = [0]> ()
    any_size = Constant <value_ints: ints = [-1]> ()
    zero_byte = Constant <value: tensor = uint8[1] {{0}}> ()
    a_byte = Constant <value: tensor = int32 {{256}}> ()
    powers = Constant <value: tensor = int32[9] {{1, 2, 4, 8, 16, 32, 64, 128, 256}}> ()

    given = Size (packed)
    beyond_group = Mod (given, bits_int)
    to_next_group = Sub (bits_int, beyond_group)
    missing = Mod (to_next_group, bits_int)
    missing_shape = Unsqueeze (missing, start)
    padding = Expand (zero_byte, missing_shape)
    padded = Concat <axis = 0> (packed, padding)
    bits_shape = Unsqueeze (bits_int, start)
    group_shape = Concat <axis = 0> (any_size, bits_shape)
    groups = Reshape (padded, group_shape)

    places = Range (zero, eight, one)
    first_bits = Mul (places, bits_int)
    first_bytes = Div (first_bits, eight)
    next_bytes = Add (first_bytes, one)
    last_byte = Sub (bits_int, one)
    second_bytes = Min (next_bytes, last_byte)
    offsets = Mod (first_bits, eight)
    low_byte = Gather <axis = 1> (groups, first_bytes)
    high_byte = Gather <axis = 1> (groups, second_bytes)
    low = Cast <to = 6> (low_byte)
    high = Cast <to = 6> (high_byte)
    high_part = Mul (high, a_byte)
    window = Add (low, high_part)

    below = Gather <axis = 0> (powers, offsets)
    size = Gather <axis = 0> (powers, bits_int)
    half = Gather <axis = 0> (powers, last_byte)
    shifted = Div (window, below)
    flipped = Add (shifted, half)
    wrapped = Mod (flipped, size)
    signed_codes = Sub (wrapped, half)
    stream = Reshape (signed_codes, any_size)
    count = ReduceProd <keepdims = 1> (shape_ints)
    wanted = Slice (stream, start, count)
    small = Cast <to = 3> (wanted)
    codes = Reshape <allowzero = 1> (small, shape_ints)
}}
"""
"""Eight codes take as many bytes as a code has bits, so that the stream is a matrix of such groups: code i of a group
lies in one byte of it or in two neighbours. In numbers, since OpenVINO 2026.4 shifts bits of uint8 to something else."""


def sign_matching_function(selection: Selection, opset: int = OPSET) -> onnx.FunctionProto:
    """The body of ``ai.axform::SignMatchingAttention`` for self-attention with a key mask.

    Q, K and V are (batch, heads, sequence, head size), key_mask is boolean (batch, sequence). A float operator
    attribute cannot switch a graph, so ``selection`` is settled when the function is made; a file has one.
    """
    function = _parse(_SIGN_MATCHING, opset, scale=_SCALE, weights=_WEIGHTS, sign_vector=_SIGN_VECTOR[selection])
    _add_defaults(function, scale=0.0, selection=selection, is_causal=0, prefix=0.25, num_heads=0)
    return function


def hard_attention_function(opset: int = OPSET) -> onnx.FunctionProto:
    """The body of ``ai.axform::HardAttention`` for attention with a key mask (AxFormer v2, arXiv 2010.03688v2).

    Shapes as in `sign_matching_function`. Of each query's probabilities the k largest stay as they are, without
    renormalising; of equal ones those of the lower positions.
    """
    function = _parse(_HARD_ATTENTION, opset, scale=_SCALE, weights=_WEIGHTS)
    _add_defaults(function, scale=0.0, is_causal=0, num_heads=0)
    return function


def unpack_bits_function(opset: int = OPSET) -> onnx.FunctionProto:
    """The body of ``ai.axform::UnpackBits``: (bytes,) uint8 to int8 codes of the attribute ``shape``.

    A code is a two's complement number of ``bits`` (2 to 8) bits; the lowest bit of a byte comes first. ONNX Runtime
    inlines the body and folds it to plain weights when it creates a session, with the op library or without it.
    """
    return _parse(_UNPACK_BITS, opset)


def _parse(body: str, opset: int, **parts: str) -> onnx.FunctionProto:
    return parser.parse_function(body.format(opset=opset, domain=DOMAIN, **parts))


def _add_defaults(function: onnx.FunctionProto, **defaults: Any) -> None:
    for name, default in defaults.items():
        function.attribute_proto.append(helper.make_attribute(name, default))
