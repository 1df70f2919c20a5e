"""The text side of a Hugging Face folder: tokenizer, chat template, generation settings, special tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgelm.bundle.layouts.text_files import model_max_length
from edgelm.bundle.vocabulary.special_roles import named_special_tokens
from edgelm.errors import ModelError
from edgelm_tools.checkpoint.base import TextAssets
from edgelm_tools.checkpoint.sentence_settings import read_sentence_settings
from edgelm_tools.checkpoint.strict_json import read_json_object, read_small_file
from edgelm_tools.checkpoint.vocabulary_files import Vocabulary, read_vocabulary

MAX_TOKENIZER_BYTES = 256 * 2**20
MAX_TEMPLATE_BYTES = 2**20


def read_text_assets(folder: Path) -> TextAssets:
    """Reads ``tokenizer.json``, or the older files of a vocabulary, and their companions.

    Raises:
        UnsupportedModelError: there is no tokenizer, or none that can be read; or sentence-transformers would do more
            with the model's outputs than pool and normalize them.
        ModelError: a file is too large, malformed, or has a value of the wrong kind.
    """
    settings = _optional_json(folder / "tokenizer_config.json")
    vocabulary = _vocabulary(folder, settings, _special_tokens(folder, settings))
    pooling, max_length = read_sentence_settings(folder)
    if pooling and max_length is None:  # newer releases of sentence-transformers leave it to the tokenizer
        max_length = model_max_length(settings)
    return TextAssets(
        tokenizer=vocabulary.tokenizer,
        chat_template=_chat_template(folder, settings),
        generation_config=_optional_json(folder / "generation_config.json"),
        special_tokens=vocabulary.special_tokens,
        cleans_up_spaces=settings.get("clean_up_tokenization_spaces") is True,
        pooling=pooling,
        max_length=max_length,
    )


def _vocabulary(folder: Path, settings: dict[str, Any], special: dict[str, str]) -> Vocabulary:
    path = folder / "tokenizer.json"
    if path.is_file():
        return Vocabulary(read_small_file(path, MAX_TOKENIZER_BYTES), special)
    return read_vocabulary(folder, _optional_json(folder / "config.json"), settings, special)


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.is_file() else {}


def _chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    """The file of its own comes first, as in transformers; of several named templates, the one named default."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return read_small_file(path, MAX_TEMPLATE_BYTES).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ModelError(f"{path}: not UTF-8 at byte {error.start}") from None
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = [item for item in template if isinstance(item, dict) and item.get("name") == "default"]
        template = named[0].get("template") if named else None
    if template is not None and not isinstance(template, str):
        raise ModelError(f"{folder / 'tokenizer_config.json'}: chat_template must be a string or a list of named ones")
    return template


def _special_tokens(folder: Path, settings: dict[str, Any]) -> dict[str, str]:
    return named_special_tokens(settings, _optional_json(folder / "special_tokens_map.json"), what=str(folder))
