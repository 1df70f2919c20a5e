"""What the stages of a choice are called, and why one ruled a token out, in the numbers that decided it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edgelm.generation.constraint import ConstraintProcessor
from edgelm.generation.cutoffs import EpsilonCutoff, EtaCutoff, TopNSigma, TypicalP
from edgelm.generation.guidance import Guidance
from edgelm.generation.logits_processors import (
    Ids,
    LogitsProcessor,
    MinNewTokens,
    MinP,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
)
from edgelm.generation.ngram_processors import NoRepeatNGram, NoRepeatSourceNGram
from edgelm.generation.penalties import CountPenalty, ExponentialDecay, SequenceBias, SourcePenalty
from edgelm.generation.token_processors import (
    ForceTokens,
    MinLength,
    NoBadWords,
    SuppressTokens,
    SuppressTokensAtBegin,
)
from edgelm.inspection.explain.distribution import Distribution

# What an answer is held to has several names: a schema, an expression, a grammar, choices.
_FORM = "form"
# Of each stage, the setting that asks for it and the field that has the setting's value.
_SETTINGS: dict[type, tuple[str, str | None]] = {
    Guidance: ("guidance_scale", None),
    ConstraintProcessor: (_FORM, None),
    SourcePenalty: ("encoder_repetition_penalty", "penalty"),
    RepetitionPenalty: ("repetition_penalty", "penalty"),
    NoRepeatNGram: ("no_repeat_ngram_size", "size"),
    NoRepeatSourceNGram: ("encoder_no_repeat_ngram_size", "size"),
    NoBadWords: ("bad_words_ids", None),
    MinNewTokens: ("min_new_tokens", "min_new_tokens"),
    MinLength: ("min_length", "min_length"),
    ExponentialDecay: ("exponential_decay_length_penalty", "factor"),
    SuppressTokens: ("suppress_tokens", None),
    SuppressTokensAtBegin: ("begin_suppress_tokens", None),
    Temperature: ("temperature", "temperature"),
    TopNSigma: ("top_n_sigma", "n"),
    TopK: ("top_k", "top_k"),
    TopP: ("top_p", "top_p"),
    MinP: ("min_p", "min_p"),
    TypicalP: ("typical_p", "typical_p"),
    EpsilonCutoff: ("epsilon_cutoff", "epsilon"),
    EtaCutoff: ("eta_cutoff", "epsilon"),
}


def stage_name(rule: LogitsProcessor) -> tuple[str, str]:
    """The setting that a stage comes from, alone and with its value; of a caller's function, its name."""
    match rule:
        case SequenceBias(biases):
            name = "logit_bias" if all(len(sequence) == 1 for sequence, _ in biases) else "sequence_bias"
            return name, name
        case CountPenalty(_, presence, frequency):
            given = {"presence_penalty": presence, "frequency_penalty": frequency}
            labels = [f"{name}={value:g}" for name, value in given.items() if value]
            return labels[0].partition("=")[0], ", ".join(labels)
        case ForceTokens(_, length):
            name = "forced_bos_token_id" if length == 1 else "forced_eos_token_id"
            return name, name
    if type(rule) in _SETTINGS:
        name, field = _SETTINGS[type(rule)]
        return name, name if field is None else f"{name}={getattr(rule, field):g}"
    name = str(getattr(rule, "__name__", type(rule).__name__))
    return name, name


def why_removed(rule: LogitsProcessor, before: Distribution, token: int, ids: Ids) -> str:
    """Why a stage ruled a token out.

    Args:
        rule: the stage.
        before: the distribution before it, in which the token is.
        token: the token.
        ids: all tokens so far, (T,).
    """
    of_distribution = _OF_DISTRIBUTION.get(type(rule))
    if of_distribution is not None:
        place = before.place(token)
        return of_distribution(rule, before, 0 if place is None else place)
    match rule:
        case NoRepeatNGram(size):
            return "has come before" if size == 1 else f"would repeat {size} tokens in a row"
        case NoRepeatSourceNGram(size):
            return "is in the source" if size == 1 else f"would repeat {size} tokens of the source"
        case NoBadWords():
            return "would complete one of the bad words"
        case MinNewTokens(prompt_length, least):
            return f"the answer has {len(ids) - prompt_length} of at least {least} tokens"
        case MinLength(least):
            return f"the sequence has {len(ids)} of at least {least} tokens"
        case ForceTokens():
            return "another token is forced here"
        case SuppressTokens() | SuppressTokensAtBegin():
            return "is suppressed"
        case SequenceBias():
            return "its bias is -inf"
        case ConstraintProcessor():
            return "has no place in the form of the answer"
    return f"ruled out by {stage_name(rule)[0]}"


def percent(probability: float) -> str:
    """``91.2 %``, ``0.42 %``; what is smaller with two digits."""
    value = 100 * probability
    if value >= 99.95:
        return "100 %"
    return f"{value:.1f} %" if value >= 10 else f"{value:.2f} %" if value >= 0.1 else f"{value:.2g} %"


def _top_k(rule: TopK, before: Distribution, place: int) -> str:
    rank = 1 + np.count_nonzero(before.logits > before.logits[place])
    return f"rank {rank} > top_k={rule.top_k}"


def _top_p(rule: TopP, before: Distribution, place: int) -> str:
    logit = before.logits[place]
    ahead = before.logits > logit
    ahead[:place] |= before.logits[:place] == logit  # of equals, the lower ids come first
    return f"likelier tokens have {before.probabilities[ahead].sum():.3f} ≥ top_p={rule.top_p:g}"


def _min_p(rule: MinP, before: Distribution, place: int) -> str:
    own, best = before.probabilities[place], before.probabilities.max()
    return _below(own, "min_p·best", rule.min_p * best)


def _typical(rule: TypicalP, before: Distribution, place: int) -> str:
    shift = np.abs(-before.log_probabilities - before.entropy)
    nearer = before.probabilities[shift < shift[place]].sum()
    return f"{shift[place]:.2f} nats from the entropy, nearer ones have {nearer:.3f} ≥ typical_p={rule.typical_p:g}"


def _epsilon(rule: EpsilonCutoff, before: Distribution, place: int) -> str:
    return _below(before.probabilities[place], "epsilon_cutoff", rule.epsilon)


def _eta(rule: EtaCutoff, before: Distribution, place: int) -> str:
    eta = min(rule.epsilon, math.sqrt(rule.epsilon) * math.exp(-before.entropy))
    return _below(before.probabilities[place], "min(ε, √ε·e^-entropy)", eta)


def _below(probability: float, what: str, limit: float) -> str:
    """``0.4 % < what = 1.1 %``, with as many digits as tell the two apart."""
    own, least = percent(probability), percent(limit)
    if own == least:
        own, least = f"{100 * probability:.5g} %", f"{100 * limit:.5g} %"
    return f"{own} < {what} = {least}"


def _sigma(rule: TopNSigma, before: Distribution, place: int) -> str:
    logits = before.logits.astype(np.float64)
    floor = logits.max() - rule.n * logits.std()
    return f"logit {logits[place]:.2f} < largest - {rule.n:g}σ = {floor:.2f}"


_OF_DISTRIBUTION: dict[type, Callable[..., str]] = {
    TopK: _top_k,
    TopP: _top_p,
    MinP: _min_p,
    TypicalP: _typical,
    EpsilonCutoff: _epsilon,
    EtaCutoff: _eta,
    TopNSigma: _sigma,
}
