"""What a checkpoint's authors suggest for a task: ``task_specific_params`` and ``prefix`` of its ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgelm.bundle.bundle import Bundle
from edgelm.config import GenerationConfig
from edgelm.errors import ConfigError

CONFIG_NAME = "config.json"
MOST_TOKENS = frozenset({"max_new_tokens", "max_length"})
_FEWEST_TOKENS = frozenset({"min_new_tokens", "min_length"})
_OF_BEAMS = frozenset({"num_beams", "num_beam_groups", "diversity_penalty", "early_stopping", "length_penalty"})


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Text to put before each input, and settings of ``GenerationConfig``."""

    prefix: str
    settings: Mapping[str, Any]

    def under(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings with the caller's on top, and without those that only made sense with what these replace.

        A ``generation_config`` of the caller's replaces all of them.
        """
        if given.get("generation_config") is not None:
            return dict(given)
        replaced: set[str] = set()
        if MOST_TOKENS & given.keys():
            replaced |= MOST_TOKENS | _FEWEST_TOKENS
        if given.get("num_beams") == 1:
            replaced |= _OF_BEAMS
        return {**{name: value for name, value in self.settings.items() if name not in replaced}, **given}


def suggested(bundle: Bundle, task: str) -> Suggestion:
    """The suggestions for a task, under transformers' names; empty where there are none."""
    config = bundle.read_json(CONFIG_NAME) if bundle.has(CONFIG_NAME) else {}
    fields = config if isinstance(config, dict) else {}
    of_all = fields.get("task_specific_params")
    of_task = of_all.get(task) if isinstance(of_all, dict) else None
    own = of_task if isinstance(of_task, dict) else {}
    prefix = own.get("prefix", fields.get("prefix"))
    known = GenerationConfig.field_names()
    settings = {name: value for name, value in own.items() if name in known and value is not None}
    return Suggestion(prefix if isinstance(prefix, str) else "", settings)


def refuse_several(settings: Mapping[str, Any], what: str) -> None:
    """Refuses settings that ask for several answers where ``what`` is made of one.

    Raises:
        ConfigError: they do.
    """
    own = getattr(settings.get("generation_config"), "num_return_sequences", 1)
    count = settings.get("num_return_sequences", own)
    if count != 1:
        raise ConfigError(f"num_return_sequences must be 1 for {what}, not {count!r:.80}")


def base_config(settings: Mapping[str, Any], own: GenerationConfig) -> GenerationConfig:
    """What a call's settings change: their ``generation_config``, or the model's ``own``."""
    given = settings.get("generation_config")
    return given if isinstance(given, GenerationConfig) else own


def own_limit(tokens: int, settings: Mapping[str, Any], own: GenerationConfig) -> int:
    """A task's own limit of new tokens, where the caller gave none: at least the fewest that an answer shall have.

    Args:
        tokens: the limit.
        settings: of the call.
        own: the model's own.

    Raises:
        ConfigError: the fewest are no number.
    """
    fewest = {name: value for name, value in settings.items() if name in _FEWEST_TOKENS}
    config = base_config(settings, own).updated(max_new_tokens=None, max_length=None, **fewest)
    # A whole sequence has at least one token before the answer.
    return max(tokens, config.min_new_tokens or config.min_length - 1)


def has_own_length(settings: Mapping[str, Any]) -> bool:
    """Whether a caller's settings, or their ``generation_config``, limit the answer."""
    config = settings.get("generation_config")
    return bool(MOST_TOKENS & settings.keys()) or (isinstance(config, GenerationConfig) and has_limit(config))


def has_limit(config: GenerationConfig) -> bool:
    """Whether it limits the answer, beyond the default that holds anyway."""
    return config.max_new_tokens is not None or config.max_length is not None
