"""The settings of a generation and of a runtime: frozen, validated, and the only home of defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from edgelm.checks import check_bool, check_float, check_int
from edgelm.config_values import (
    as_decay,
    as_logit_bias,
    as_sequence_bias,
    as_tuple,
    as_words,
    check_stops,
    check_token,
    near_or_all,
)
from edgelm.errors import ConfigError
from edgelm.sizes import parse_memory_limit

DEFAULT_NEW_TOKENS = 512
# Answers of a model that has tools called, the last one included.
DEFAULT_TOOL_ROUNDS = 8
# Guesses at a time, of a prompt lookup or a draft model; more hardly pay, even if most are right.
MOST_GUESSES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """How the next tokens are chosen and when to stop; field names are transformers'.

    A ``temperature`` of 0 is greedy decoding, whatever ``do_sample`` says, as it is to other programs.

    Disabled values: 1 for ``temperature``, ``top_p``, ``typical_p``, the penalties of repetition and counts of beams; 0
    for other sizes, lengths, cutoffs and penalties; lists empty; single tokens None. With ``eos_token_id`` empty no
    token ends an answer; a model's file that names none leaves it to the model's own. ``seed=None`` draws a fresh seed.

    Lengths: ``max_new_tokens`` and ``min_new_tokens`` count the answer, ``max_length`` and ``min_length`` the whole
    sequence: prompt and answer of a decoder, all of the decoder's tokens (its start token too) of an encoder-decoder.
    Where both of a pair are given, the count of new tokens holds. With neither maximum an answer has up to 512 tokens.

    ``pad_token_id`` is taken because models' files have it: answers are not padded.

    ``presence_penalty`` and ``frequency_penalty`` are OpenAI's: the answer's tokens lose so many logits, once or each
    time. ``sequence_bias`` (token ids → bias) and ``logit_bias`` (token id → bias) may be given as mappings; -inf
    rules out; a loaded model also takes texts for tokens. ``exponential_decay_length_penalty``: (tokens after which
    ending becomes likelier, factor).

    ``max_time``: seconds after which an answer ends. ``logprobs``: keep each token's log probability, before penalties
    and cuts; ``top_logprobs``: also those of so many likeliest ones.

    ``guidance_scale`` weighs the prompt against a ``negative_prompt``, which calls take beside these settings, or
    against its own last token.

    ``prompt_lookup_num_tokens``: up to so many tokens at a time are guessed from what the prompt and the answer say
    already, and checked in one run (0 or None: off), and fewer, or none, where guesses prove wrong. Batches do without.

    With ``num_beams`` and ``do_sample`` beams are continued by draws. In each of ``num_beam_groups`` a token loses
    ``diversity_penalty`` for each beam of the groups before that takes it in the same step. ``early_stopping``: a
    search ends as soon as it has ``num_beams`` answers (True), when no better one is likely (False), or when none is
    possible ("never"). A ``length_penalty`` above 0 favours long answers.

    ``overflow``: what becomes of what does not fit into the context window. ``refuse`` it; ``drop-oldest`` turns of a
    conversation, which are not shown to the model; or keep the first tokens as a ``sink`` and let the window slide over
    the others, also while the answer is made (StreamingLLM).

    Raises:
        ConfigError: a value is out of range or contradicts another; the message names the field, the value and the
            range.
    """

    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    max_length: int | None = None
    min_length: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    top_n_sigma: float = 0.0
    num_beams: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_return_sequences: int = 1
    prompt_lookup_num_tokens: int | None = None
    overflow: Literal["refuse", "drop-oldest", "sink"] = "refuse"
    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    exponential_decay_length_penalty: tuple[int, float] | None = None
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: tuple[int, ...] = ()
    eos_token_id: tuple[int, ...] = ()
    pad_token_id: int | None = None
    decoder_start_token_id: int | None = None
    guidance_scale: float = 1.0
    stop_strings: tuple[str, ...] = ()
    max_time: float | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.temperature == 0 and not isinstance(self.temperature, bool):
            object.__setattr__(self, "temperature", 1.0)
            object.__setattr__(self, "do_sample", False)
        # One value may stand for a tuple of one.
        for name in (*_TOKEN_LISTS, "stop_strings"):
            object.__setattr__(self, name, as_tuple(name, getattr(self, name)))
        object.__setattr__(self, "bad_words_ids", as_words("bad_words_ids", self.bad_words_ids))
        object.__setattr__(self, "sequence_bias", as_sequence_bias("sequence_bias", self.sequence_bias))
        object.__setattr__(self, "logit_bias", as_logit_bias("logit_bias", self.logit_bias))
        if self.exponential_decay_length_penalty is not None:
            decay = as_decay("exponential_decay_length_penalty", self.exponential_decay_length_penalty)
            object.__setattr__(self, "exponential_decay_length_penalty", decay)
        self._check_ranges()
        if self.top_logprobs:
            object.__setattr__(self, "logprobs", True)
        check_stops(self.stop_strings)
        self._check_contradictions()

    def _check_ranges(self) -> None:
        check_bool("do_sample", self.do_sample)
        check_bool("logprobs", self.logprobs)
        check_int("top_logprobs", self.top_logprobs, 0, MAX_TOP_LOGPROBS)
        if self.max_time is not None:
            check_float("max_time", self.max_time, above=0.0)
        for name, least in _INTEGERS.items():
            check_int(name, getattr(self, name), least)
        for name, least in _OPTIONAL_INTEGERS.items():
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), least)
        for name in _TOKEN_LISTS:
            for token in getattr(self, name):
                check_token(name, token)
        for name in _TOKENS:
            if getattr(self, name) is not None:
                check_token(name, getattr(self, name))
        for name, bounds in _FLOATS.items():
            check_float(name, getattr(self, name), **bounds)
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise ConfigError(f"early_stopping must be true, false or 'never', not {self.early_stopping!r:.80}")
        if self.overflow not in OVERFLOW_POLICIES:
            raise ConfigError(f"overflow must be one of {', '.join(OVERFLOW_POLICIES)}, not {self.overflow!r:.80}")

    def _check_contradictions(self) -> None:
        for least, most in (("min_new_tokens", "max_new_tokens"), ("min_length", "max_length")):
            if getattr(self, most) is not None and getattr(self, least) > getattr(self, most):
                raise ConfigError(f"{least} ({getattr(self, least)}) is above {most} ({getattr(self, most)})")
        for name in ("max_time", "logprobs", "prompt_lookup_num_tokens"):
            if getattr(self, name) and self.num_beams > 1:
                raise ConfigError(f"{name} is for answers made token by token, not for {self.num_beams} beams")
        if self.num_return_sequences > self.num_beams and (self.num_beams > 1 or not self.do_sample):
            raise ConfigError(
                f"num_return_sequences ({self.num_return_sequences}) is above num_beams ({self.num_beams}); "
                "only do_sample without beams gives more answers than beams"
            )
        for name, off in (("num_beams", 1), ("num_return_sequences", 1), ("prompt_lookup_num_tokens", 0)):
            if self.single_only is not None and (getattr(self, name) or off) != off:
                raise ConfigError(f"{self.single_only} is for one answer made token by token, without {name}")
        if self.overflow == "sink" and self.guidance_scale != 1:
            raise ConfigError("overflow 'sink' forgets what guidance_scale weighs: ask for one of them")
        self._check_groups()

    def _check_groups(self) -> None:
        groups, penalty = self.num_beam_groups, self.diversity_penalty
        if self.num_beams % groups:
            raise ConfigError(f"num_beam_groups ({groups}) must divide num_beams ({self.num_beams}) into equal groups")
        if groups == 1 and penalty:
            raise ConfigError(f"diversity_penalty ({penalty}) is between groups of beams, but num_beam_groups is 1")
        if groups > 1 and not penalty:
            raise ConfigError(
                f"num_beam_groups ({groups}) needs a diversity_penalty above 0: without one, all groups find the same"
            )
        if groups > 1 and self.do_sample:
            raise ConfigError(f"num_beam_groups ({groups}) takes the likeliest tokens: it goes without do_sample")

    @property
    def single_only(self) -> str | None:
        """Which setting asks for one answer at a time; None: none does."""
        if self.overflow == "sink":
            return "overflow 'sink'"
        return "guidance_scale" if self.guidance_scale != 1.0 else None

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """The names of all settings, in order of declaration."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @classmethod
    def from_file_values(cls, values: Mapping[str, Any]) -> Self:
        """Takes what it knows from a model's ``generation_config.json`` and leaves the rest.

        Such files carry many fields of other libraries; ``null`` stands for "the default", as a negative
        ``pad_token_id`` does. A ``max_new_tokens`` there is a suggestion of the model's authors and taken like the
        others. Of groups and their penalty, one without the other is left out, as it would do nothing.
        """
        known = {k: v for k, v in values.items() if k in cls.field_names() and v is not None}
        if known.get("num_beams", 1) == 1 or known.get("num_beam_groups", 1) == 1:
            known = {name: value for name, value in known.items() if name not in _OF_GROUPS}
        if isinstance(known.get("pad_token_id"), int) and known["pad_token_id"] < 0:
            del known["pad_token_id"]
        return cls(**known)

    def updated(self, **changes: Any) -> Self:
        """A copy with some settings changed.

        A new maximum or minimum of one kind takes the place of the other's, and one beam, or one group of them, ends
        what was said of groups. Sampling and beams that were there hold on.

        Raises:
            ConfigError: a name is not a setting, or a value is out of range.
        """
        unknown = sorted(set(changes) - set(self.field_names()))
        if unknown:
            hint = near_or_all(unknown[0], self.field_names())
            raise ConfigError(f"unknown generation setting {unknown[0]!r:.80}; {hint}")
        replaced: dict[str, Any] = {}
        for name, other, off in _RIVALS:
            if name in changes and other not in changes:
                replaced[other] = off
        if 1 in (changes.get("num_beams"), changes.get("num_beam_groups")):
            replaced |= _OF_GROUPS
        return dataclasses.replace(self, **{**replaced, **changes})

    def new_tokens(self, prompt_length: int) -> int:
        """The most tokens that the answer to a prompt of that many tokens may have.

        Raises:
            ConfigError: ``max_length`` leaves no room for one.
        """
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        if self.max_length is None:
            return DEFAULT_NEW_TOKENS
        if self.max_length <= prompt_length:
            raise ConfigError(
                f"max_length ({self.max_length}) leaves no room for an answer: the prompt has {prompt_length} tokens"
            )
        return self.max_length - prompt_length


MAX_TOP_LOGPROBS = 20  # as in OpenAI's API
OVERFLOW_POLICIES = ("refuse", "drop-oldest", "sink")

# Setting → its least value.
_INTEGERS = {
    "min_new_tokens": 0,
    "min_length": 0,
    "top_k": 0,
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
}
_OPTIONAL_INTEGERS = {
    "max_new_tokens": 1,
    "max_length": 1,
    "prompt_lookup_num_tokens": 0,
    "seed": 0,
}
# What float32 logits are divided by, or have added times a count, and still stay numbers.
_MOST = 1e30
# Setting → its range.
_FLOATS: dict[str, dict[str, float]] = {
    "temperature": {"least": 0.0, "most": _MOST},  # 0 has become greedy by then
    "top_p": {"above": 0.0, "most": 1.0},
    "min_p": {"least": 0.0, "most": 1.0},
    "typical_p": {"above": 0.0, "most": 1.0},
    "epsilon_cutoff": {"least": 0.0, "below": 1.0},
    "eta_cutoff": {"least": 0.0, "below": 1.0},
    "top_n_sigma": {"least": 0.0, "most": _MOST},
    "repetition_penalty": {"above": 0.0, "most": _MOST},
    "encoder_repetition_penalty": {"above": 0.0, "most": _MOST},
    "presence_penalty": {"least": -_MOST, "most": _MOST},
    "frequency_penalty": {"least": -_MOST, "most": _MOST},
    "diversity_penalty": {"least": 0.0, "most": _MOST},
    "length_penalty": {"least": -_MOST, "most": _MOST},
    "guidance_scale": {"least": 0.0, "most": _MOST},
}
# What only groups of beams take, and its value when there are none.
_OF_GROUPS = {"num_beam_groups": 1, "diversity_penalty": 0.0}
_TOKENS = ("forced_bos_token_id", "pad_token_id", "decoder_start_token_id")
_TOKEN_LISTS = ("suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id", "eos_token_id")
# A setting, the other way to say the same, and that one's value when it is off.
_RIVALS = (
    ("max_new_tokens", "max_length", None),
    ("max_length", "max_new_tokens", None),
    ("min_new_tokens", "min_length", 0),
    ("min_length", "min_new_tokens", 0),
)


# Tokens of an encoder's batch, padding included. Measured with all-MiniLM-L6-v2 in int8: below, runs are too short for
# two threads; above, they leave the caches.
ENCODER_BATCH_TOKENS = 1024

KVCacheType = Literal["f32", "int8"]
KV_CACHE_TYPES: tuple[KVCacheType, ...] = get_args(KVCacheType)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    """How a model is run on this machine.

    Attributes:
        threads: threads of the graph's operators; None: one for each core this process may use.
        context_length: tokens of prompt and answer together (as ``Manifest.context_length``), which memory must hold;
            None: the model's limit, as far as memory holds it; "auto": as many as it holds.
        context_limit: what bounds a window that is not given as a number.
        prefill_chunk: prompt tokens computed in one run; bounds the memory of activations.
        max_memory: bytes of resident memory that the process may reach; None: no limit. To keep it, settings that are
            not ``fixed`` are changed; see ``runtime.fitting``.
        memory_check: refuse what the machine has no memory for, by what is free and by limits of the system.
        preload_text: read the tokenizer while the graph is loaded; else when it is first needed.
        prefix_caches: KV caches of finished answers that are kept for prompts with the same beginning, as far as
            memory allows.
        prepack: keep a copy of the weights in this CPU's layout in the cache (starts faster, uses less memory).
        kv_cache: what keys and values are kept as: ``f32``, or ``int8``, a quarter of its size, which rounds.
        fixed: names of settings that hold as they are, also where memory is short.
    """

    threads: int | None = None
    context_length: int | Literal["auto"] | None = None
    context_limit: int | None = None
    prefill_chunk: int = 128
    max_memory: int | None = None
    memory_check: bool = True
    prepack: bool = True
    preload_text: bool = True
    prefix_caches: int = 2
    kv_cache: KVCacheType = "f32"
    fixed: frozenset[str] = field(default=frozenset(), compare=False)

    @classmethod
    def given(cls, *, max_memory: str | int | None = None, **settings: Any) -> Self:
        """What callers give: None stands for the default, and ``max_memory`` may be a size such as ``"400MB"``.

        Raises:
            ConfigError: a value is out of range.
        """
        known = {name: value for name, value in settings.items() if value is not None}
        limit = None if max_memory is None else parse_memory_limit(max_memory)
        return cls(max_memory=limit, fixed=frozenset(known), **known)

    def __post_init__(self) -> None:
        if self.threads is not None:
            check_int("threads", self.threads, 1, 1024)
        if isinstance(self.context_length, str):
            if self.context_length != "auto":
                raise ConfigError(f"context_length must be a number or 'auto', not {self.context_length!r:.80}")
        elif self.context_length is not None:
            check_int("context_length", self.context_length, 1)
        if self.context_limit is not None:
            check_int("context_limit", self.context_limit, 1)
        check_int("prefill_chunk", self.prefill_chunk, 1)
        if self.max_memory is not None:
            check_int("max_memory", self.max_memory, 1)
        check_int("prefix_caches", self.prefix_caches, 0)
        check_bool("prepack", self.prepack)
        check_bool("preload_text", self.preload_text)
        check_bool("memory_check", self.memory_check)
        if self.kv_cache not in KV_CACHE_TYPES:
            raise ConfigError(f"kv_cache must be one of {', '.join(KV_CACHE_TYPES)}, not {self.kv_cache!r:.80}")
