"""The inputs and outputs that graphs made by other tools may have, under the names that ``renamed`` maps to theirs.

Encoder: ``input_ids``, ``attention_mask``, ``token_type_ids``, all int64 (B, S), or some of them; out what its tasks
need. Decoder: what ``optimum``, Transformers.js and onnxruntime-genai give it, the past of layer i as
``past_key_values.{i}.key`` and ``.value`` (B, heads, T, head size) (in an encoder-decoder ``.decoder.key`` and
``.encoder.key``), each with a ``present`` to it, and ``logits (B, S, V)``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from edgelm.bundle.encoder_contract import encoder_outputs, encoder_task
from edgelm.bundle.manifest import Manifest
from edgelm.bundle.onnx_model import DATA_TYPES, ValueInfo
from edgelm.errors import ModelError, UnsupportedModelError

PAST, PRESENT = "past_key_values.", "present."
# In the name of the keys and values that cross-attention takes from the source: they do not grow.
CROSS = ".encoder."
HIDDEN = "last_hidden_state"

_INTEGERS = ("int64", "int32")
_FLOATS = ("float32", "float16")
# Name → element types and rank. ``use_cache_branch`` is one flag, ``cache_position`` a row of places in the cache,
# ``num_logits_to_keep`` a number: 0 for the logits of all tokens.
_ENCODER_INPUTS = {
    "input_ids": (("int64",), (2,)),
    "attention_mask": (("int64",), (2,)),
    "token_type_ids": (("int64",), (2,)),
}
_DECODER_INPUTS = {
    "input_ids": (_INTEGERS, (2,)),
    "attention_mask": (_INTEGERS, (2,)),
    "position_ids": (_INTEGERS, (2,)),
    "use_cache_branch": (("bool",), (1,)),
    "cache_position": (_INTEGERS, (1,)),
    "num_logits_to_keep": (("int64",), (0, 1)),
    "encoder_hidden_states": (_FLOATS, (3,)),
    "encoder_attention_mask": (_INTEGERS, (2,)),
}
_OUTPUT_TYPES = (*_FLOATS, *_INTEGERS, "int8", "uint8", "bool")
_PAST_NAME = re.compile(r"past_key_values\.\d+\.(?:decoder\.|encoder\.)?(?:key|value)")


def check_foreign(
    inputs: Sequence[ValueInfo],
    outputs: Sequence[ValueInfo],
    *,
    graph_file: str,
    roles: Iterable[str],
    manifest: Manifest,
) -> None:
    """Checks a foreign graph's inputs and outputs: each input is one that a run is given, in the type it has.

    Raises:
        UnsupportedModelError: a past of a layout of its own, as older exports of some models have it.
        ModelError: an input or output is missing, of another type or shape, or not known; names it.
    """
    given, made = usual_names(inputs, manifest.renamed), usual_names(outputs, manifest.renamed)
    for value in made.values():
        if DATA_TYPES.get(value.dtype, ("", 0))[0] not in _OUTPUT_TYPES:
            raise ModelError(f"{graph_file}: output {value.name[:80]!a} is {str(value)[:200]!a}, which cannot be read")
    if all(role.startswith("decoder") for role in roles):
        _check_decoder(given, made, graph_file=graph_file, manifest=manifest)
    else:
        _check_inputs(given, _ENCODER_INPUTS, graph_file)
        for name in encoder_outputs(manifest) if manifest.family == "encoder" else (HIDDEN,):
            types = ("float32",) if manifest.family == "encoder" else _FLOATS
            rank = _rank(name, manifest)
            if name not in made or not _is(made[name], types, (rank,)):
                found = "missing" if name not in made else f"{str(made[name])[:200]!a}"
                raise ModelError(
                    f"{graph_file}: output {name} must be {' or '.join(types)} of {rank} axes, not {found}"
                )


def _rank(name: str, manifest: Manifest) -> int:
    """Axes that an encoder's output must have: three where it says something wide of each token."""
    if name == "logits":
        return 3 if encoder_task(manifest) in ("token-classification", "fill-mask") else 2
    return 3 if name == HIDDEN else 2


def usual_names(values: Iterable[ValueInfo], renamed: Mapping[str, str]) -> dict[str, ValueInfo]:
    """The values by the names that EdgeLM gives them."""
    usual = {theirs: ours for ours, theirs in renamed.items()}
    return {usual.get(value.name, value.name): value for value in values}


def _check_decoder(
    given: dict[str, ValueInfo], made: dict[str, ValueInfo], *, graph_file: str, manifest: Manifest
) -> None:
    past = {name: value for name, value in given.items() if name.startswith(PAST)}
    _check_inputs({name: value for name, value in given.items() if name not in past}, _DECODER_INPUTS, graph_file)
    for name, value in past.items():
        _check_past(name, value, graph_file, manifest)
        present = PRESENT + name.removeprefix(PAST)
        if CROSS not in name and (present not in made or not _is(made[present], _FLOATS, (4,))):
            raise ModelError(
                f"{graph_file}: {name} has no output {present} of its kind, so no run could follow another"
            )
    logits = made.get("logits")
    if logits is None or not _is(logits, _FLOATS, (3,)) or not _may_be(logits, -1, manifest.vocab_size):
        shown = "missing" if logits is None else f"{str(logits)[:200]!a}"
        raise ModelError(f"{graph_file}: output logits must be floats (B, S, {manifest.vocab_size}), not {shown}")


def _check_inputs(
    given: dict[str, ValueInfo], known: Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]], graph_file: str
) -> None:
    for name, value in given.items():
        if name not in known:
            raise ModelError(f"{graph_file}: input {name[:80]!a} is not one that EdgeLM can feed")
        types, ranks = known[name]
        if not _is(value, types, ranks):
            raise ModelError(
                f"{graph_file}: input {name} must be {' or '.join(types)} of {ranks[0]} dimensions, not {value!s:.200}"
            )
    if "input_ids" not in given:
        raise ModelError(f"{graph_file}: input input_ids is missing")


def _check_past(name: str, value: ValueInfo, graph_file: str, manifest: Manifest) -> None:
    check_past_form(name, value, graph_file=graph_file, architecture=manifest.architecture)
    kv = manifest.kv
    fits = kv is not None and _may_be(value, 1, kv.kv_heads) and _may_be(value, 3, kv.head_size)
    dims = value.dims or ()
    open_sizes = not isinstance(dims[0], int) and not isinstance(dims[2], int)
    if kv is None or not _is(value, (kv.dtype,), (4,)) or not open_sizes or not (fits or CROSS in name):
        raise ModelError(f"{graph_file}: input {name} must be of the model's heads and type, not {str(value)[:120]!a}")


def check_past_form(name: str, value: ValueInfo, *, graph_file: str, architecture: str) -> None:
    """Refuses a past that is not of keys and values (batch, heads, tokens, head size).

    Raises:
        UnsupportedModelError: it is not; names it.
    """
    if not _PAST_NAME.fullmatch(name) or value.dims is None or len(value.dims) != 4:
        raise UnsupportedModelError(
            f"{graph_file}: {name[:80]} is {str(value)[:120]}, not a past of (batch, heads, tokens, head size); "
            f"older exports of BLOOM and a few others have such ones: export {architecture} again"
        )


def _is(value: ValueInfo, types: tuple[str, ...], ranks: tuple[int, ...]) -> bool:
    known = DATA_TYPES.get(value.dtype, ("", 0))[0] in types
    return known and value.dims is not None and len(value.dims) in ranks


def _may_be(value: ValueInfo, axis: int, size: int) -> bool:
    """Whether an axis has that size, or leaves it open."""
    return value.dims is not None and (not isinstance(value.dims[axis], int) or value.dims[axis] == size)
