"""Says of ``--logit-bias`` where a text with a space before it is another token, which stands within sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgelm.cli import console

if TYPE_CHECKING:
    from edgelm.language_model import LanguageModel


def tell_spaced_tokens(lm: LanguageModel, generation: Mapping[str, Any]) -> None:
    """One line for each text that was given without its space alone; what is biased stays as it was given."""
    given = generation.get("logit_bias")
    if not isinstance(given, Mapping):
        return
    for text in given:
        spaced = f" {text}"
        if not text[:1].isalpha() or spaced in given:
            continue
        ids = lm.tokenizer.encode_continuation(spaced)
        if len(ids) == 1 and ids != lm.tokenizer.encode_continuation(text):
            console.say(f"--logit-bias: {spaced!r}, as it stands behind a space, is another token, without this bias")
