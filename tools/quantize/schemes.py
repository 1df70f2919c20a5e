"""The schemes by the names that users write."""

from __future__ import annotations

from typing import TypeGuard

from edgelm.errors import ConfigError
from edgelm_tools.quantize.blocks import Blockwise
from edgelm_tools.quantize.carried import CarriedInt8
from edgelm_tools.quantize.plain import Float32, Recorder
from edgelm_tools.quantize.rows import DynamicInt8, Rowwise
from edgelm_tools.quantize.scheme import Calibration, Rows, Scheme
from edgelm_tools.quantize.tables import EMBEDDING_NAME

__all__ = [
    "EMBEDDING_NAME",
    "INT8_BLOCK",
    "SCHEMES",
    "Blockwise",
    "Calibration",
    "CarriedInt8",
    "DynamicInt8",
    "Float32",
    "Recorder",
    "Rows",
    "Rowwise",
    "Scheme",
    "calibrates",
    "scheme_named",
]

INT8_BLOCK = Blockwise("int8-block", bits=8, block_size=32)
_SCHEMES: dict[str, Scheme] = {
    "int8": Rowwise(),
    "int8-block": INT8_BLOCK,
    "int4": Blockwise("int4", bits=4, block_size=32),
    "dynamic-int8": DynamicInt8(),
    "fp32": Float32(),
}
SCHEMES = tuple(_SCHEMES)


def calibrates(scheme: Scheme) -> TypeGuard[Rowwise | Blockwise]:
    """Whether it wants to know a decoder's inputs."""
    return isinstance(scheme, (Rowwise, Blockwise)) and scheme.wants_rotation


def scheme_named(name: str) -> Scheme:
    """The scheme of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in _SCHEMES:
        raise ConfigError(f"unknown quantization scheme {name!r}; known are: {', '.join(SCHEMES)}")
    return _SCHEMES[name]
