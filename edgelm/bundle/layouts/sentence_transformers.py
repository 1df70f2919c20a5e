"""Folders of sentence-transformers: ``modules.json`` says what follows the transformer, graphs lie in ``onnx``."""

from __future__ import annotations

import dataclasses
from typing import Any

from edgelm.bundle.json_files import json_limit, load_json_file
from edgelm.bundle.layouts.base import Found
from edgelm.bundle.layouts.listing import GRAPHS_FOLDER, Listing
from edgelm.bundle.layouts.model_config import CONFIG_NAME
from edgelm.bundle.layouts.optimum import found_in
from edgelm.bundle.layouts.variants import is_graph
from edgelm.bundle.manifest import Pooling
from edgelm.bundle.names import name_fault
from edgelm.bundle.regular_file import read_file
from edgelm.errors import ModelError, UnsupportedModelError

MODULES_NAME = "modules.json"
SETTINGS_NAME = "sentence_bert_config.json"
_MAX_MODULES = 16
PROMPTS_NAME = "config_sentence_transformers.json"
# As newer releases name the modes, and as older ones have a flag for each.
_MODES = {
    "cls": "cls",
    "mean": "mean",
    "max": "max",
    "lasttoken": "last",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}


class SentenceTransformersLayout:
    """``modules.json``, ``1_Pooling/config.json``, and graphs in ``onnx`` or in the folder itself."""

    name = "sentence-transformers"

    def recognises(self, listing: Listing) -> bool:
        """See ``Layout``."""
        graphs = listing.graphs or listing.files
        return {MODULES_NAME, CONFIG_NAME} <= listing.files.keys() and any(map(is_graph, graphs))

    def read(self, listing: Listing, variant: str | None) -> Found:
        """See ``Layout``."""
        inside = any(map(is_graph, listing.graphs))
        found = found_in(listing, variant, folder=GRAPHS_FOLDER if inside else "")
        longest = longest_text(listing.optional_object(SETTINGS_NAME))
        refuse_prompts(listing.optional_object(PROMPTS_NAME))
        return dataclasses.replace(found, pooling=_pooling(listing), max_length=longest)


def _pooling(listing: Listing) -> Pooling | None:
    """What the modules behind the transformer do: pool, and perhaps normalize."""
    kinds = module_paths(read_file(listing.folder, MODULES_NAME, limit=json_limit(MODULES_NAME)))
    if "Pooling" not in kinds:
        return None
    place = kinds["Pooling"]
    if place not in listing.folders:
        raise ModelError(f"{MODULES_NAME}: path {place!r:.80} is no folder of the model")
    return Pooling(pooling_mode(listing.read_object(CONFIG_NAME, folder=place), place), normalize="Normalize" in kinds)


def module_paths(data: bytes) -> dict[str, str]:
    """``modules.json``: the modules' kinds, such as ``Pooling``, and the folders of their settings.

    Raises:
        ModelError: it breaks the format, or a module's folder has no plain name.
        UnsupportedModelError: a module that EdgeLM does not run.
    """
    modules = load_json_file(data, MODULES_NAME)
    sound = isinstance(modules, list) and len(modules) <= _MAX_MODULES and all(isinstance(m, dict) for m in modules)
    if not sound:
        raise ModelError(f"{MODULES_NAME}: must be a list of at most {_MAX_MODULES} objects")
    kinds = {}
    for module in modules:
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise UnsupportedModelError(f"{MODULES_NAME}: a module of the type {kind!r:.80}, which EdgeLM does not run")
        kinds[kind] = str(module.get("path", ""))
    if "Pooling" in kinds and name_fault(kinds["Pooling"]):
        raise ModelError(f"{MODULES_NAME}: path {kinds['Pooling']!r:.80} is no folder of the model")
    return kinds


def longest_text(settings: dict[str, Any]) -> int | None:
    """``sentence_bert_config.json``: the tokens of a text that are read; None: as many as the encoder takes.

    Raises:
        ModelError: it is not such a number.
    """
    longest = settings.get("max_seq_length")
    if longest is not None and (isinstance(longest, bool) or not isinstance(longest, int) or longest < 1):
        raise ModelError(f"{SETTINGS_NAME}: max_seq_length must be a whole number above 0, not {longest!r:.80}")
    return longest


def pooling_mode(settings: dict[str, Any], place: str) -> str:
    """The settings of a ``Pooling`` module, from the folder ``place``: one of ``POOLING_MODES``.

    Raises:
        UnsupportedModelError: another way of pooling, or several at once.
    """
    given = settings.get("pooling_mode")
    flags = [name for name, on in settings.items() if name.startswith("pooling_mode_") and on]
    named = given if isinstance(given, list) else flags if given is None else [given]
    if len(named) == 1 and str(named[0]) in _MODES:
        return _MODES[str(named[0])]
    raise UnsupportedModelError(
        f"{place}/{CONFIG_NAME}: pooling {', '.join(f'{name!s:.40}' for name in named) or 'of no kind'}; "
        f"EdgeLM pools in one way at a time: {', '.join(dict.fromkeys(_MODES.values()))}"
    )


def refuse_prompts(settings: dict[str, Any]) -> None:
    """Whether ``config_sentence_transformers.json`` asks for words before every text.

    Raises:
        UnsupportedModelError: it does.
    """
    name, prompts = settings.get("default_prompt_name"), settings.get("prompts")
    prompt = prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else None
    if prompt:
        raise UnsupportedModelError(
            f"{PROMPTS_NAME}: {prompt!r:.60} would stand before every text; EdgeLM adds no words"
        )
