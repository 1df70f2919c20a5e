"""How translation models are told their languages: prefixes, tokens around the source, the first token of the answer.

Users name languages by their codes (``pt``, ``pt-BR``), in English, or as the model does (``por_Latn``, ``pt_XX``).
Sources: transformers' tokenizers of T5, Marian, mBART, mBART-50, M2M100 and NLLB (4.57).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgelm.bundle.bundle import Bundle
from edgelm.errors import ConfigError
from edgelm.tasks.task_settings import CONFIG_NAME, Suggestion, suggested
from edgelm.text.language_codes import LANGUAGE_NAMES, base_language, codes_of, own_code
from edgelm.text.tokenizer import Tokenizer

_NLLB = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")
_MBART = re.compile(r"[a-z]{2}_[A-Z]{2}")
_M2M = re.compile(r"__[a-z]{2,3}__")
_OPUS_NAME = re.compile(r"opus-mt(?:-tc-[a-z]+)?-([a-z]{2,3})-([a-z]{2,3})\b")
# mBART-50 has this language, mBART-25 has not; they write their languages at different ends of the source.
_ONLY_MBART50 = "pt_XX"
# Where a language is written in several scripts, the first of these that the model has.
_USUAL_SCRIPTS = ("Latn", "Hans", "Cyrl", "Arab")
_T5 = frozenset({"t5", "mt5", "umt5"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguagePlan:
    """How one pair of languages is translated by one model.

    Attributes:
        source: code of the language that sentences are split by; None: not known.
        target: that of the translation; None: not known.
        prompt: text before each source.
        around: tokens before and behind each source; None: those that the tokenizer puts there itself.
        settings: of the generation, which the languages ask for.
        suggestion: the authors' for this pair.
    """

    source: str | None
    target: str | None
    prompt: str = ""
    around: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    suggestion: Suggestion = field(default_factory=lambda: Suggestion("", {}))


def language_plan(bundle: Bundle, tokenizer: Tokenizer, source: str | None, target: str | None) -> LanguagePlan:
    """How a model translates from ``source`` to ``target``; None: what the model is for, if that is one pair.

    Raises:
        ConfigError: the model does not know a language, translates another pair, or must be told and was not.
    """
    architecture = bundle.manifest.architecture
    if architecture in _T5:
        return _with_prompt(bundle, source, target)
    for pattern in (_NLLB, _M2M, _MBART):
        named = [token for token in tokenizer.special_tokens if pattern.fullmatch(token)]
        known = {token: token_id for token in named if (token_id := tokenizer.token_to_id(token)) is not None}
        if len(known) > 1:
            return _with_tokens(bundle, known, source, target)
    return _one_pair(bundle, tokenizer, source, target)


def fixed_pair(bundle: Bundle) -> tuple[str | None, str | None]:
    """The languages of a model that has only two; None where it does not say."""
    config = bundle.read_json(CONFIG_NAME) if bundle.has(CONFIG_NAME) else {}
    found = _OPUS_NAME.search(bundle.manifest.source.uri.lower())
    fields = config if isinstance(config, dict) else {}
    source, target = fields.get("source_language"), fields.get("target_language")
    if isinstance(source, str) and isinstance(target, str):
        return source, target
    return (found[1], found[2]) if found else (None, None)


def _one_pair(bundle: Bundle, tokenizer: Tokenizer, source: str | None, target: str | None) -> LanguagePlan:
    """Marian's: one source language, and one target or several, which a token before the source names."""
    own_source, own_target = fixed_pair(bundle)
    name = bundle.manifest.name
    if own_source and source and base_language(source) != base_language(own_source):
        raise ConfigError(f"{name} translates from {own_source}, not from {source}")
    token = _target_token(tokenizer, target)
    if token is not None:
        return LanguagePlan(source=source or own_source, target=target, prompt=f"{token} ")
    if own_target and target and base_language(target) != base_language(own_target):
        raise ConfigError(f"{name} translates to {own_target}, not to {target}")
    return LanguagePlan(source=source or own_source, target=target or own_target)


def _target_token(tokenizer: Tokenizer, target: str | None) -> str | None:
    if target is None:
        return None
    names = (target, *codes_of(target))
    return next((f">>{name}<<" for name in names if tokenizer.token_to_id(f">>{name}<<") is not None), None)


def _with_prompt(bundle: Bundle, source: str | None, target: str | None) -> LanguagePlan:
    """T5's: an order in English, from the model's configuration if it has it, else of the same form."""
    source, target = base_language(source) or "en", base_language(target)
    if target is None:
        raise ConfigError(f"{bundle.manifest.name} must be told the language to translate to (target)")
    for code in (source, target):
        if code not in LANGUAGE_NAMES:
            raise _unknown(code, LANGUAGE_NAMES)
    own = suggested(bundle, f"translation_{source}_to_{target}")
    prompt = f"translate {LANGUAGE_NAMES[source]} to {LANGUAGE_NAMES[target]}: "
    return LanguagePlan(source=source, target=target, prompt=own.prefix or prompt, suggestion=own)


def _with_tokens(bundle: Bundle, tokens: Mapping[str, int], source: str | None, target: str | None) -> LanguagePlan:
    """A token for each language: the source's stands around the source, the target's begins the answer."""
    if source is None or target is None:
        missing = "from (source)" if source is None else "to (target)"
        raise ConfigError(f"{bundle.manifest.name} knows {len(tokens)} languages: say which to translate {missing}")
    from_id, to_id = (tokens[language_token(code, tokens)] for code in (source, target))
    end = bundle.manifest.eos_token_id[:1]
    if bundle.manifest.architecture == "mbart" and _ONLY_MBART50 not in tokens:
        around: tuple[tuple[int, ...], tuple[int, ...]] = ((), (*end, from_id))
        settings = {"decoder_start_token_id": to_id}
    else:
        around, settings = ((from_id,), end), {"forced_bos_token_id": to_id}
    return LanguagePlan(source=source, target=target, around=around, settings=settings)


def language_token(code: str, tokens: Iterable[str]) -> str:
    """The token of a language among those of a model.

    Raises:
        ConfigError: it has none; names near ones.
    """
    known = list(tokens)
    if code in known:
        return code
    found = [token for name in codes_of(code) for token in known if own_code(token) == name]
    if not found:
        raise _unknown(code, known)
    usual = [token for script in _USUAL_SCRIPTS for token in found if token.endswith(f"_{script}")]
    return (usual or found)[0]


def _unknown(code: str, known: Iterable[str]) -> ConfigError:
    names = sorted(known)
    near = difflib.get_close_matches(code, names, n=4, cutoff=0.5)
    shown = f"near are: {', '.join(near)}" if near else f"known are: {', '.join(names[:12])}{', …' * (len(names) > 12)}"
    return ConfigError(f"the model does not know the language {code!r:.40}; {shown}")
