"""What the contracts of all graphs share: an input or output by its name, type and shape."""

from __future__ import annotations

from collections.abc import Mapping

from edgelm.bundle.onnx_model import DATA_TYPES, ValueInfo
from edgelm.errors import ModelError

# A name stands for a size that a run decides, None for one that does not matter.
Dims = tuple[int | str | None, ...]


def check_value(
    values: Mapping[str, ValueInfo], kind: str, name: str, dtype: str, dims: Dims, *, graph_file: str
) -> None:
    """Checks that a graph's input or output ``name`` is there, of that type and shape.

    Sizes that a run decides must be left open by the graph.

    Raises:
        ModelError: it is missing, or of another type or shape; ``kind`` ("input", "output") and ``name`` are named.
    """
    value = values.get(name)
    if value is None:
        raise ModelError(f"{graph_file}: {kind} {name} is missing")
    right = DATA_TYPES.get(value.dtype, ("", 0))[0] == dtype and value.dims is not None and _fits(value.dims, dims)
    if not right:
        wanted = f"{dtype} ({', '.join('?' if dim is None else str(dim) for dim in dims)})"
        raise ModelError(f"{graph_file}: {kind} {name} must be {wanted}, not {str(value)[:200]!a}")


def _fits(given: tuple[int | str | None, ...], wanted: Dims) -> bool:
    return len(given) == len(wanted) and all(
        want is None or (size == want if isinstance(want, int) else not isinstance(size, int))
        for size, want in zip(given, wanted, strict=True)
    )
