"""The operators that a graph made by another tool may use: many more than our own graphs need, and still a closed list.

All compute on their inputs alone, once a run. ``If`` is the one that holds graphs, because the merged decoders of
optimum are made of it; the same list holds inside them. ``Loop``, ``Scan``, searches, sequences, strings, random
numbers and the domains of others are left out.
"""

from __future__ import annotations

from edgelm.bundle.operators import ALLOWED_OPERATORS

_ONNX = """
    Abs Add And ArgMax ArgMin Attention BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Clip
    Compress Concat Constant ConstantOfShape Conv ConvInteger Cos CumSum DequantizeLinear Div DynamicQuantizeLinear
    Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool
    Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log
    LogSoftmax MatMul MatMulInteger Max Mean Min Mish Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow QLinearConv
    QLinearMatMul QuantizeLinear RMSNormalization Range Reciprocal ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape RotaryEmbedding Round ScatterElements
    ScatterND Selu Shape Sigmoid Sign SimplifiedLayerNormalization Sin Size Slice Softmax Softplus Split Sqrt Squeeze
    Sub Sum Swish Tan Tanh TensorScatter Tile TopK Transpose Trilu Unsqueeze Where Xor
"""
_MICROSOFT = """
    Attention BiasAdd BiasGelu BiasSoftmax DecoderMaskedMultiHeadAttention DequantizeLinear DynamicQuantizeMatMul
    EmbedLayerNormalization FastGelu FusedGemm FusedMatMul GatedRelativePositionBias GatherBlockQuantized Gelu
    GroupQueryAttention MatMulBnb4 MatMulFpQ4 MatMulInteger16 MatMulIntegerToFloat MatMulNBits MoE MulInteger
    MultiHeadAttention QAttention QEmbedLayerNormalization QGemm QLinearAdd QLinearConcat QLinearLeakyRelu QLinearMul
    QLinearReduceMean QLinearSigmoid QLinearSoftmax QLinearWhere QMoE QuantizeLinear QuickGelu ReduceSumInteger
    RelativePositionBias RotaryEmbedding SimplifiedLayerNormalization SkipLayerNormalization
    SkipSimplifiedLayerNormalization SparseAttention Trilu
"""

_NAMES = {"": frozenset(_ONNX.split()), "com.microsoft": frozenset(_MICROSOFT.split())}
FOREIGN_OPERATORS = {
    domain: _NAMES["com.microsoft" if domain == "com.microsoft" else ""] | known
    for domain, known in ALLOWED_OPERATORS.items()
}
# Operators that hold graphs of their own, by domain.
BRANCHES = {"": frozenset({"If"}), "ai.onnx": frozenset({"If"})}
