"""What a sentence-transformers folder says of an encoder: how its outputs are pooled, and how long a text may be."""

from __future__ import annotations

from pathlib import Path

from edgelm.bundle.layouts.sentence_transformers import (
    MODULES_NAME,
    PROMPTS_NAME,
    SETTINGS_NAME,
    longest_text,
    module_paths,
    pooling_mode,
    refuse_prompts,
)
from edgelm.bundle.manifest import Pooling
from edgelm_tools.checkpoint.strict_json import MAX_JSON_BYTES, read_json_object, read_small_file


def read_sentence_settings(folder: Path) -> tuple[Pooling | None, int | None]:
    """(pooling, tokens of the longest text), each None where the folder says nothing of it.

    Raises:
        UnsupportedModelError: modules behind the encoder that EdgeLM does not run, or words before every text.
        ModelError: a file is missing or malformed.
    """
    settings = folder / SETTINGS_NAME
    longest = longest_text(read_json_object(settings)) if settings.is_file() else None
    if not (folder / MODULES_NAME).is_file():
        return None, longest
    if (folder / PROMPTS_NAME).is_file():
        refuse_prompts(read_json_object(folder / PROMPTS_NAME))
    paths = module_paths(read_small_file(folder / MODULES_NAME, MAX_JSON_BYTES))
    if "Pooling" not in paths:
        return None, longest
    mode = pooling_mode(read_json_object(folder / paths["Pooling"] / "config.json"), paths["Pooling"])
    return Pooling(mode, normalize="Normalize" in paths), longest
