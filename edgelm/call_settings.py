"""The settings of one call: what the caller gives, over the model's own defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgelm.checks import warn_caller
from edgelm.config import GenerationConfig
from edgelm.config_values import as_sequence_bias, check_bias
from edgelm.errors import ConfigError
from edgelm.generation.constraint import ConstraintProcessor
from edgelm.generation.hooks import Hooks
from edgelm.text.answer_form import split_form

if TYPE_CHECKING:
    from edgelm.text.grammar import GrammarReader
    from edgelm.text.tokenizer import Tokenizer

# Settings that only these take; who gives them otherwise is warned.
_SAMPLING = (
    *("temperature", "top_k", "top_p", "min_p", "typical_p"),
    *("epsilon_cutoff", "eta_cutoff", "top_n_sigma"),
)
_GREEDY = ("temperature", 0)  # asks for what is done without sampling
_BEAMS = ("length_penalty", "early_stopping")
# Without these no answer begins or ends; a caller's configuration that has none leaves them to the model.
_MODEL_TOKENS = ("eos_token_id", "pad_token_id", "decoder_start_token_id")


class CallSettings:
    """Makes a configuration and functions of a call's arguments; may be used by many threads.

    Args:
        tokenizer: for tokens that are named by their text, and for the forms of answers.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def resolve(self, given: Mapping[str, Any], defaults: GenerationConfig) -> tuple[GenerationConfig, Hooks]:
        """All settings, and the functions that take part.

        Args:
            given: fields of ``GenerationConfig`` and of ``Hooks``, a form of the answer, a ``negative_prompt`` (text or
                ids), and ``generation_config``, which takes the place of the defaults.
            defaults: the model's own.

        Raises:
            ConfigError: an unknown setting, a value out of range, or a contradiction.
            MissingDependencyError: a form is asked for, and what reads it is not installed.
        """
        form, others = split_form(given)
        hooks, settings = Hooks.split(others)
        if form is not None:
            if settings.get("forced_eos_token_id"):
                raise ConfigError(f"forced_eos_token_id ends answers where {form.kind} may not let them end")
            hooks = hooks.with_processor(ConstraintProcessor(self._grammars.automaton(form)))
        hooks = replace(hooks, negative_prompt=self._ids(settings.pop("negative_prompt", None)))
        base = _base(settings.pop("generation_config", None), defaults)
        if isinstance(settings.get("logit_bias"), Mapping):
            settings |= self._spelled_biases(settings)
        config = base.updated(**settings)
        for names, used, why in (
            (_SAMPLING, config.do_sample, "do_sample is False"),
            (_BEAMS, config.num_beams > 1, "num_beams is 1"),
        ):
            ignored = [name for name in names if name in settings and (name, settings[name]) != _GREEDY]
            if ignored and not used:
                warn_caller(f"{', '.join(ignored)} given, but {why}: ignored")
        return config, hooks

    def _ids(self, prompt: Any) -> Any:
        return self._tokenizer.encode(prompt) if isinstance(prompt, str) else prompt

    def _spelled_biases(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Biases of tokens that are named by their text: of several tokens, the last is biased behind the others."""
        tokens, sequences = {}, dict(as_sequence_bias("sequence_bias", settings.get("sequence_bias", ())))
        for token, bias in settings["logit_bias"].items():
            if not isinstance(token, str) or token.isdecimal():
                tokens[token] = bias
                continue
            ids = tuple(self._tokenizer.encode_continuation(token))
            if not ids:
                raise ConfigError(f"logit_bias: {token!r:.80} has no token")
            check_bias("logit_bias", bias)
            sequences[ids] = bias
        return {"logit_bias": tokens, "sequence_bias": sequences}

    @cached_property
    def _grammars(self) -> GrammarReader:
        from edgelm.text.grammar import GrammarReader

        return GrammarReader(self._tokenizer)


def _base(given: object, own: GenerationConfig) -> GenerationConfig:
    """What the settings of a call change: the model's own defaults, or a caller's with the model's tokens."""
    if given is None:
        return own
    if not isinstance(given, GenerationConfig):
        raise ConfigError(f"generation_config must be a GenerationConfig, not {type(given).__name__}")
    missing = {name: getattr(own, name) for name in _MODEL_TOKENS if getattr(given, name) in (None, ())}
    return given.updated(**missing)
