"""The pre-tokenizers that GGUF names in ``tokenizer.ggml.pre``, as the models' own ``tokenizer.json`` specify them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class PreTokenization:
    """What goes before byte-level BPE, as JSON of the ``tokenizers`` library.

    ``ignore_merges``: a word that is a token is taken whole; ``add_bos``: what holds if the file does not say.
    """

    steps: tuple[dict[str, Any], ...]
    normalizer: dict[str, Any] | None = None
    ignore_merges: bool = False
    add_bos: bool = False

    def pre_tokenizer(self) -> dict[str, Any]:
        """The steps as one pre-tokenizer."""
        if len(self.steps) == 1:
            return self.steps[0]
        return {"type": "Sequence", "pretokenizers": list(self.steps)}


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_DIGITS = {"type": "Digits", "individual_digits": True}
_NFC = {"type": "NFC"}

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
# The split of cl100k, which Llama 3 kept, and Qwen's, which takes digits one by one.
_CL100K = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_MARKS}|{_SPACES}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_MARKS}|{_SPACES}"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)

_GPT2_STYLE = PreTokenization((_byte_level(use_regex=True),))
_STARCODER_STYLE = PreTokenization((_DIGITS, _byte_level(use_regex=True)))
_LLAMA3_STYLE = PreTokenization((_split(_CL100K), _byte_level(use_regex=False)), ignore_merges=True, add_bos=True)

PRE_TOKENIZATIONS: dict[str, PreTokenization] = {
    "default": _GPT2_STYLE,
    "gpt-2": _GPT2_STYLE,
    "phi-2": _GPT2_STYLE,
    "smollm": _STARCODER_STYLE,
    "starcoder": _STARCODER_STYLE,
    "refact": _STARCODER_STYLE,
    "llama-bpe": _LLAMA3_STYLE,
    "llama3": _LLAMA3_STYLE,
    "llama-v3": _LLAMA3_STYLE,
    # Llama 3's tokenizer without BOS: Smaug and SmolLM3.
    "smaug-bpe": PreTokenization((_split(_CL100K), _byte_level(use_regex=False)), ignore_merges=True),
    # cl100k: OLMo 2, Phi-4, DBRX.
    "dbrx": PreTokenization((_split(_CL100K), _byte_level(use_regex=False))),
    "qwen2": PreTokenization((_split(_QWEN2), _byte_level(use_regex=False)), normalizer=_NFC),
    "tekken": PreTokenization((_split(_TEKKEN), _byte_level(use_regex=False)), ignore_merges=True, add_bos=True),
}
