"""The operators that a graph may use. All compute on their inputs alone: none runs a graph, loads code or reads files.

``If``, ``Loop``, ``Scan`` and functions are left out on purpose: without them every node runs once a step.
"""

from __future__ import annotations

_ONNX = """
    Abs Add Cast Clip Concat Constant DequantizeLinear Div DynamicQuantizeLinear Equal Erf Exp Flatten Gather Gelu
    Gemm Greater Identity LayerNormalization Less MatMul MatMulInteger Max Min Mul Neg Pow QuantizeLinear
    RMSNormalization Range ReduceMax ReduceMean Relu Reshape Shape Sigmoid SimplifiedLayerNormalization Slice Softmax
    Split Sqrt Squeeze Sub Tanh Transpose Unsqueeze Where
"""
_MICROSOFT = """
    Attention BiasGelu DynamicQuantizeMatMul EmbedLayerNormalization FastGelu FusedGemm FusedMatMul
    GatherBlockQuantized Gelu GroupQueryAttention MatMulIntegerToFloat MatMulNBits MultiHeadAttention QuickGelu
    RotaryEmbedding SimplifiedLayerNormalization SkipLayerNormalization SkipSimplifiedLayerNormalization
"""

_NAMES = {"": frozenset(_ONNX.split()), "com.microsoft": frozenset(_MICROSOFT.split())}
# The standard domain has two spellings.
ALLOWED_OPERATORS = {**_NAMES, "ai.onnx": _NAMES[""]}


def operator_name(domain: str, op_type: str) -> str:
    """An operator as messages show it: ``Loop``, ``com.microsoft.MatMulNBits``; whatever it is, short and in ASCII."""
    name = f"{domain}.{op_type}" if domain else op_type
    return name if name.isascii() and name.isprintable() and 0 < len(name) <= 80 else f"{name[:80]!a}"
