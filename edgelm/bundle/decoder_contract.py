"""The inputs and outputs that a decoder's step graph must have, so that the generation loop can drive it.

In: ``input_ids int64 (B, S)`` (or ``inputs_embeds float32 (B, S, H)`` where the manifest has an embedding table of
width H), ``seqlens_k int32 (B)``, ``total_sequence_length int32 ()``, ``logit_index int64 (R)`` and per layer
``past_key_values.{i}.key`` and ``.value (B, Hkv, T, D)``; a graph that looks positions up may also take
``position_ids int64 (B, S)``: for each new token, how many tokens stand before it in its row (for padding, any of the
context's positions). Out: ``logits float32 (R, V)`` and per layer ``present.{i}.key`` and ``.value``, of the same type
and shape as the past.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgelm.bundle.contract import Dims, check_value
from edgelm.bundle.manifest import KVGeometry, Manifest
from edgelm.bundle.onnx_model import ValueInfo
from edgelm.errors import ModelError

_FIXED_INPUTS = (
    ("seqlens_k", "int32", ("B",)),
    ("total_sequence_length", "int32", ()),
    ("logit_index", "int64", ("R",)),
)
_POSITIONS = ("position_ids", "int64", ("B", "S"))


def check_decoder(
    inputs: tuple[ValueInfo, ...],
    outputs: tuple[ValueInfo, ...],
    *,
    graph_file: str,
    manifest: Manifest,
) -> None:
    """Checks a decoder graph's inputs and outputs against the contract and the manifest.

    Outputs beyond the contract are allowed (attention weights of an inspection graph); inputs are not, because
    nothing would feed them.

    Raises:
        ModelError: one is missing, of another type or shape, or not known; names it.
    """
    if manifest.kv is None:
        raise ModelError(f"{graph_file}: the manifest gives no kv geometry, which a decoder needs")
    given = {value.name: value for value in inputs}
    expected = [_token_input(manifest), *_FIXED_INPUTS, *_cache_values("past_key_values", manifest.kv)]
    if "position_ids" in given:
        expected.append(_POSITIONS)
    for name, dtype, dims in expected:
        check_value(given, "input", name, dtype, dims, graph_file=graph_file)
    unknown = sorted(given.keys() - {name for name, _, _ in expected})
    if unknown:
        raise ModelError(f"{graph_file}: input {unknown[0][:80]!a} is not one that EdgeLM can feed to a decoder")
    made = {value.name: value for value in outputs}
    for name, dtype, dims in [
        ("logits", "float32", ("R", manifest.vocab_size)),
        *_cache_values("present", manifest.kv),
    ]:
        check_value(made, "output", name, dtype, dims, graph_file=graph_file)


def _token_input(manifest: Manifest) -> tuple[str, str, Dims]:
    if manifest.embedding is None:
        return "input_ids", "int64", ("B", "S")
    return "inputs_embeds", "float32", ("B", "S", manifest.embedding.columns)


def _cache_values(prefix: str, kv: KVGeometry) -> Iterator[tuple[str, str, Dims]]:
    for layer in range(kv.layers):
        for part in ("key", "value"):
            yield f"{prefix}.{layer}.{part}", kv.dtype, ("B", kv.kv_heads, "T", kv.head_size)
