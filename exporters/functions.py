"""ONNX function bodies of the ai.axform operators: what an ONNX Runtime without the op library runs.

The bodies are standard ONNX operators (opset 23) and are carried by each exported file that uses the operator.
"""

from __future__ import annotations

import onnx
from onnx import helper, parser

from ..toolchain.plan import Selection
from .baseline import OPSET

__all__ = ["DOMAIN", "sign_matching_function"]

DOMAIN = "ai.axform"

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

_BODY = """
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
    far_away = Constant <value_int: int = -1099511627776> ()
    zero_int = Constant <value_int: int = 0> ()
    one_int = Constant <value_int: int = 1> ()
    penalty = Where (mask_heads, zero_int, far_away)
    rank = Add (agreement_int, penalty)
    key_length = Shape <start = 2, end = 3> (K)
    key_count = Squeeze (key_length)
    positions = Range (zero_int, key_count, one_int)
    rank_scaled = Mul (rank, key_length)
    rank_unique = Sub (rank_scaled, positions)
    k_scalar = Constant <value_int: int = @k> ()
    kept = Min (k_scalar, key_length)
    ranked, chosen = TopK <axis = -1, largest = 1, sorted = 1> (rank_unique, kept)

    key_head_size = Shape <start = 3, end = 4> (K)
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

    scale_given = Constant <value_float: float = @scale> ()
    head_size_float = Cast <to = 1> (key_head_size)
    head_size_root = Sqrt (head_size_float)
    scale_default = Reciprocal (head_size_root)
    scale_is_absent = Equal (scale_given, zero)
    scale_chosen = Where (scale_is_absent, scale_default, scale_given)
    scale_like = CastLike (scale_chosen, Q)
    minus_infinity = Constant <value_float: float = -inf> ()
    excluded = CastLike (minus_infinity, Q)
    keys_transposed = Transpose <perm = [0, 1, 3, 2]> (keys)
    query_scaled = Mul (Q, scale_like)
    scores = MatMul (query_scaled, keys_transposed)
    scores_masked = Where (mask_row, scores, excluded)
    weights = Softmax <axis = -1> (scores_masked)
    weights_masked = Where (mask_row, weights, zero_like)
    Y = MatMul (weights_masked, values_masked)
}}
"""


def sign_matching_function(selection: Selection) -> onnx.FunctionProto:
    """The body of ``ai.axform::SignMatchingAttention`` for self-attention with a key mask.

    Q, K and V are (batch, heads, sequence, head size), key_mask is boolean (batch, sequence). A float operator
    attribute cannot switch a graph, so ``selection`` is settled when the function is made; a file has one.
    """
    text = _BODY.format(opset=OPSET, domain=DOMAIN, sign_vector=_SIGN_VECTOR[selection])
    function = parser.parse_function(text)
    for name, default in (
        ("scale", 0.0),
        ("selection", selection),
        ("is_causal", 0),
        ("prefix", 0.25),
        ("num_heads", 0),
    ):
        function.attribute_proto.append(helper.make_attribute(name, default))
    return function
