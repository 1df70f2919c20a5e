"""Which of a model's files to run: other tools put several quantized forms of one graph side by side.

A file is ``PART[_VARIANT].onnx``. The variant without a name of its own is called ``fp32``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from edgelm.errors import ConfigError, UnsupportedModelError

PLAIN = "fp32"
Graphs = dict[str, str]

_FILE = re.compile(
    r"(decoder_model_merged|decoder_with_past_model|decoder_model|encoder_model|model)(?:_([A-Za-z0-9_]{1,64}))?\.onnx"
)
# Parts that make a model of each family, by role; of those that a folder has, the first is run: a merged decoder holds
# its weights once, a pair twice.
_PAIR = {"decoder": "decoder_model", "decoder_with_past": "decoder_with_past_model"}
_ASSEMBLIES: dict[str, tuple[dict[str, str], ...]] = {
    "encoder": ({"encoder": "model"},),
    "decoder": ({"decoder": "model"}, {"decoder": "decoder_model_merged"}, _PAIR),
    "encoder-decoder": (
        {"encoder": "encoder_model", "decoder": "decoder_model_merged"},
        {"encoder": "encoder_model", **_PAIR},
    ),
}

# Named after the instructions they are made for; best first.
_MADE_FOR = {
    "qint8_avx512_vnni": ("avx512_vnni",),
    "qint8_avx512": ("avx512",),
    "quint8_avx2": ("avx2",),
    "qint8_arm64": ("arm64",),
}
# Without VNNI, products of signed weights saturate on x86: unsigned ones are then the better choice.
_SIGNED_FIRST = ("quantized", "q8", "int8", "uint8")
_UNSIGNED_FIRST = ("uint8", "quantized", "q8", "int8")
_BLOCKWISE = ("q4", "int4")
# Half precision is computed in single precision here, after a conversion: it only takes less of the disk.
_FLOATS = (PLAIN, "O1", "O2", "O3", "fp16", "O4", "q4f16", "bnb4")


@dataclass(frozen=True, slots=True)
class Choice:
    """The files to run by role, the variant they are of, and all variants that there are, best first."""

    graphs: Graphs
    variant: str
    variants: tuple[str, ...]


def is_graph(name: str) -> bool:
    """Whether a file is named like a graph of optimum or Transformers.js."""
    return _FILE.fullmatch(name) is not None


def has_cross_attention(names: Iterable[str]) -> bool:
    """Whether the files are those of an encoder-decoder."""
    return any(match[1] == "encoder_model" for match in map(_FILE.fullmatch, names) if match)


def choose(names: Iterable[str], *, family: str, instructions: Collection[str], variant: str | None = None) -> Choice:
    """Finds the files of a model's graphs: those asked for, or the best for a processor.

    Args:
        names: files of the folder.
        family: as in a manifest.
        instructions: what the processor has, see ``instruction_sets``.
        variant: the one to take.

    Raises:
        ConfigError: there is no such variant; names those there are.
        UnsupportedModelError: the graphs are not complete, or without a KV cache.
    """
    assembled = _assemble(names, family)
    if not assembled:
        raise UnsupportedModelError(_incomplete(family))
    order = _order(family, instructions)
    ranked = sorted(assembled, key=lambda name: (order.index(name) if name in order else len(order), name))
    chosen = ranked[0] if variant is None else variant
    if chosen not in assembled:
        raise ConfigError(f"there is no variant {variant!r:.80}; the folder has {', '.join(ranked)}")
    return Choice(assembled[chosen], chosen, tuple(ranked))


def _assemble(names: Iterable[str], family: str) -> dict[str, Graphs]:
    """Variant → role → file, of those variants that are complete."""
    files: dict[str, dict[str, str]] = {}
    for match in map(_FILE.fullmatch, names):
        if match:
            files.setdefault(match[2] or PLAIN, {})[match[1]] = match[0]
    assembled: dict[str, Graphs] = {}
    for name, parts in files.items():
        for assembly in _ASSEMBLIES[family]:
            if all(part in parts for part in assembly.values()):
                assembled[name] = {role: parts[part] for role, part in assembly.items()}
                break
    return assembled


def _incomplete(family: str) -> str:
    wanted = (" and ".join(f"{part}.onnx" for part in assembly.values()) for assembly in _ASSEMBLIES[family])
    hint = "" if family == "encoder" else "; a decoder must be exported with its past (optimum: --task ...-with-past)"
    return f"the graphs of an {family} model are {' or '.join(wanted)}, and not all are there{hint}"


def _order(family: str, instructions: Collection[str]) -> Sequence[str]:
    """Best first. One scale a tensor suits encoders; it ruins small language models, for which blocks are better."""
    here = [name for name, needed in _MADE_FOR.items() if set(needed) & set(instructions)]
    elsewhere = [name for name in _MADE_FOR if name not in here]
    exact = {"avx512_vnni", "avx_vnni", "arm64"} & set(instructions)
    whole = [*here, *(_SIGNED_FIRST if exact else _UNSIGNED_FIRST)]
    if family == "decoder":
        return [*_BLOCKWISE, *whole, *_FLOATS, *elsewhere]
    return [*whole, *_BLOCKWISE, *_FLOATS, *elsewhere]
