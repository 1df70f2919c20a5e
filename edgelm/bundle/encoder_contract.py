"""The inputs and outputs that an encoder's graph must have.

In: ``input_ids int64 (batch, sequence)``, ``attention_mask int64 (batch, sequence)`` (1 = token; rows are padded on the
right), and where the model tells texts of a pair apart ``token_type_ids int64 (batch, sequence)``.
Out, by the manifest's tasks: ``last_hidden_state float32 (batch, sequence, hidden)`` of a bare model, or the head's
``logits``, ``start_logits`` and ``end_logits``. The encoder of an encoder-decoder gives, for each layer of its decoder,
``cross_key_values.{i}.key`` and ``.value float32 (batch, heads, source, head_size)`` instead.
"""

from __future__ import annotations

from collections.abc import Callable

from edgelm.bundle.contract import Dims, check_value
from edgelm.bundle.manifest import Manifest
from edgelm.bundle.onnx_model import ValueInfo
from edgelm.errors import ModelError

_ROWS = ("batch", "sequence")
_OPTIONAL = ("token_type_ids",)


def _labels(manifest: Manifest) -> int:
    if manifest.head is None:
        raise ModelError(f"the manifest gives no head, which the task {encoder_task(manifest)} needs")
    return len(manifest.head.labels)


_OUTPUTS: dict[str, Callable[[Manifest], dict[str, Dims]]] = {
    "feature-extraction": lambda manifest: {"last_hidden_state": (*_ROWS, None)},
    "text-classification": lambda manifest: {"logits": ("batch", _labels(manifest))},
    "text-ranking": lambda manifest: {"logits": ("batch", _labels(manifest))},
    "token-classification": lambda manifest: {"logits": (*_ROWS, _labels(manifest))},
    "fill-mask": lambda manifest: {"logits": (*_ROWS, manifest.vocab_size)},
    "question-answering": lambda manifest: {"start_logits": _ROWS, "end_logits": _ROWS},
}
ENCODER_TASKS = tuple(_OUTPUTS)


def encoder_task(manifest: Manifest) -> str:
    """The task that decides what an encoder's graph gives out: the first of ``ENCODER_TASKS`` in the manifest.

    Raises:
        ModelError: it names none of them.
    """
    for task in manifest.tasks:
        if task in _OUTPUTS:
            return task
    raise ModelError(f"{manifest.name}: an encoder's tasks must have one of {', '.join(ENCODER_TASKS)}")


def encoder_outputs(manifest: Manifest) -> tuple[str, ...]:
    """The names of what an encoder's graph gives out."""
    return tuple(_OUTPUTS[encoder_task(manifest)](manifest))


def check_encoder(
    inputs: tuple[ValueInfo, ...], outputs: tuple[ValueInfo, ...], *, graph_file: str, manifest: Manifest
) -> None:
    """Checks an encoder graph's inputs and outputs against the contract and the manifest.

    A graph may leave the size of its head open, and may have outputs beyond the contract.

    Raises:
        ModelError: one is missing, of another type or shape, or not known; names it.
    """
    _check_inputs(inputs, graph_file)
    made = {value.name: value for value in outputs}
    for name, dims in _OUTPUTS[encoder_task(manifest)](manifest).items():
        check_value(made, "output", name, "float32", _open_where_unsaid(made.get(name), dims), graph_file=graph_file)


def check_cross_encoder(
    inputs: tuple[ValueInfo, ...], outputs: tuple[ValueInfo, ...], *, graph_file: str, manifest: Manifest
) -> None:
    """The same for the encoder of an encoder-decoder.

    Raises:
        ModelError: as ``check_encoder``.
    """
    layers = manifest.kv or manifest.state
    if layers is None:
        raise ModelError(f"{graph_file}: the manifest gives neither kv geometry nor state, which a decoder needs")
    _check_inputs(inputs, graph_file)
    made = {value.name: value for value in outputs}
    for layer in range(layers.layers):
        for part in ("key", "value"):
            name = f"cross_key_values.{layer}.{part}"
            check_value(made, "output", name, "float32", ("batch", None, "source", None), graph_file=graph_file)
            _, heads, _, size = made[name].dims or ()
            if not isinstance(heads, int) or not isinstance(size, int):
                raise ModelError(f"{graph_file}: output {name} must state heads and head size, not {made[name]!s:.200}")


def _check_inputs(inputs: tuple[ValueInfo, ...], graph_file: str) -> None:
    given = {value.name: value for value in inputs}
    names = ("input_ids", "attention_mask", *(name for name in _OPTIONAL if name in given))
    for name in names:
        check_value(given, "input", name, "int64", _ROWS, graph_file=graph_file)
    unknown = sorted(given.keys() - set(names))
    if unknown:
        raise ModelError(f"{graph_file}: input {unknown[0][:80]!a} is not one that EdgeLM can feed to an encoder")


def _open_where_unsaid(value: ValueInfo | None, dims: Dims) -> Dims:
    if value is None or not value.dims or isinstance(value.dims[-1], int) or isinstance(dims[-1], str):
        return dims
    return (*dims[:-1], None)
