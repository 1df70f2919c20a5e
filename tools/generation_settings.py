"""What ``generation_config.json`` of a bundle says: what the checkpoint's own file does.

Where it has none, transformers takes the settings from ``config.json`` (and, what that leaves out, from the defaults of
the model type's class), as all checkpoints had them before the file existed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgelm.bundle.layouts.model_config import GENERATION_FIELDS
from edgelm.config import GenerationConfig
from edgelm.errors import ConfigError, ModelError


def generation_settings(
    given: Mapping[str, Any], config: Mapping[str, Any], class_defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of a checkpoint, by transformers' names.

    Args:
        given: its ``generation_config.json``; empty where it has none.
        config: its ``config.json``.
        class_defaults: of transformers' configuration class, for fields that ``config`` leaves out.
    """
    if given:
        return {name: value for name, value in given.items() if not _is_no_token(name, value)}
    values = {**class_defaults, **config}
    wanted = {name: values[name] for name in GENERATION_FIELDS if values.get(name) is not None}
    return {name: value for name, value in wanted.items() if not _is_no_token(name, value)}


def usable_settings(settings: Mapping[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
    """The settings without numbers of sampling that are out of range, which files for transformers may have.

    It looks at them only when it samples. A ``top_p`` of 0 lets it draw nothing but the likeliest token: ``do_sample``
    is left out with it.

    Args:
        settings: by transformers' names.
        tell: told of each that is left out, in words.
    """
    kept = dict(settings)
    for name in _SAMPLING:
        value = settings.get(name)
        if isinstance(value, bool) or not isinstance(value, int if name == "top_k" else (int, float)):
            continue
        try:
            GenerationConfig.from_file_values({name: value})
        except ConfigError as error:
            del kept[name]
            greedy = name == "top_p" and value == 0 and kept.get("do_sample") is True
            if greedy:
                del kept["do_sample"]
            beside = " (and do_sample with it)" if greedy else ""
            tell(f"left out of generation_config.json{beside}: {str(error)[:300]}")
    return kept


def check_tokens(settings: Mapping[str, Any], vocab_size: int) -> None:
    """Checks the settings that name tokens.

    Raises:
        ModelError: one is no id of the model's ``vocab_size`` tokens; names it.
    """
    for name, value in settings.items():
        if not name.endswith("_token_id") or value is None:
            continue
        ids = value if isinstance(value, list) and name in _MAY_BE_LISTS else [value]
        if not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < vocab_size for i in ids):
            raise ModelError(f"{name} must be of the model's tokens, from 0 to {vocab_size - 1}, not {value!r:.80}")


_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
_MAY_BE_LISTS = ("eos_token_id", "forced_eos_token_id")


def _is_no_token(name: str, value: Any) -> bool:
    """Old files have −1 where there is no such token."""
    return name.endswith("_token_id") and isinstance(value, int) and value < 0
