"""The inputs and outputs that the decoder of an encoder-decoder must have.

Of the source, in either kind: ``encoder_attention_mask int32 (batch, source)`` and for each layer
``cross_key_values.{i}.key`` and ``.value float32 (batch, heads, source, head_size)``, which the encoder gives out.

With a cache (the manifest's ``kv``), the rest is as of a decoder-only model (``decoder_contract``). A recurrent decoder
(its ``state``) takes one token a row instead: ``input_ids int64 (batch, 1)``, ``position_ids int64 (batch, 1)`` where
it looks positions up, and per layer ``state.{i} float32 (batch, size)``; out ``logits float32 (batch, V)`` and
``next_state.{i}``. Its states are zeros before the first token.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgelm.bundle.contract import Dims, check_value
from edgelm.bundle.decoder_contract import check_decoder
from edgelm.bundle.manifest import Manifest, RecurrentState
from edgelm.bundle.onnx_model import ValueInfo
from edgelm.errors import ModelError

_TOKENS = (("input_ids", "int64", ("batch", None)),)
_POSITIONS = ("position_ids", "int64", ("batch", None))


def check_cross_decoder(
    inputs: tuple[ValueInfo, ...], outputs: tuple[ValueInfo, ...], *, graph_file: str, manifest: Manifest
) -> None:
    """Checks the decoder graph of an encoder-decoder against the contract and the manifest.

    Raises:
        ModelError: an input or output is missing, of another type or shape, or an input is not known; names it.
    """
    layers = manifest.kv or manifest.state
    if layers is None:
        raise ModelError(f"{graph_file}: the manifest gives neither kv geometry nor state, which a decoder needs")
    given = {value.name: value for value in inputs}
    source: list[tuple[str, str, Dims]] = [("encoder_attention_mask", "int32", ("batch", "source"))]
    for layer in range(layers.layers):
        for part in ("key", "value"):
            source.append((f"cross_key_values.{layer}.{part}", "float32", ("batch", None, "source", None)))
    for name, dtype, dims in source:
        check_value(given, "input", name, dtype, dims, graph_file=graph_file)
    names = {name for name, _, _ in source}
    rest = tuple(value for value in inputs if value.name not in names)
    if manifest.kv is not None:
        check_decoder(rest, outputs, graph_file=graph_file, manifest=manifest)
    elif manifest.state is not None:
        _check_recurrent(rest, outputs, manifest.state, graph_file=graph_file, vocab_size=manifest.vocab_size)


def _check_recurrent(
    inputs: tuple[ValueInfo, ...],
    outputs: tuple[ValueInfo, ...],
    state: RecurrentState,
    *,
    graph_file: str,
    vocab_size: int,
) -> None:
    given = {value.name: value for value in inputs}
    expected = [*_TOKENS, *_states("state", state), *([_POSITIONS] if "position_ids" in given else [])]
    for name, dtype, dims in expected:
        check_value(given, "input", name, dtype, dims, graph_file=graph_file)
    unknown = sorted(given.keys() - {name for name, _, _ in expected})
    if unknown:
        raise ModelError(f"{graph_file}: input {unknown[0][:80]!a} is not one that EdgeLM can feed to a decoder")
    made = {value.name: value for value in outputs}
    for name, dtype, dims in (("logits", "float32", ("batch", vocab_size)), *_states("next_state", state)):
        check_value(made, "output", name, dtype, dims, graph_file=graph_file)


def _states(prefix: str, state: RecurrentState) -> Iterator[tuple[str, str, Dims]]:
    for layer in range(state.layers):
        yield f"{prefix}.{layer}", "float32", ("batch", state.size)
