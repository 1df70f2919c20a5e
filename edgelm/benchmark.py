"""Measures how fast a model is and what memory it takes, the way a user meets it: load, prefill, decode.

Works on token ids, and never touches the tokenizer: that is read when first needed, and costs memory.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgelm.checks import check_int
from edgelm.config import KVCacheType
from edgelm.errors import ConfigError, NumericError, PromptError
from edgelm.generation.history import check_prompt
from edgelm.language_model import LanguageModel, load
from edgelm.runtime.cores import available_cores
from edgelm.runtime.footprint import MB
from edgelm.runtime.memory import peak_memory
from edgelm.runtime.sequences import SequenceDecoder

_WARM_UP_TOKENS = 4
# Steps through the vocabulary so that neighbouring tokens differ; any prime does that is larger than most batches.
_STRIDE = 7919


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """What one run measured. Speeds in tokens a second, times in seconds, memory in MB (10^6 bytes).

    Attributes:
        prefill_tps: the prompt's tokens by the time until the first token of the answer is chosen.
        decode_tps: the answer's tokens after the first by their time; None where there is only one.
        load_s: from the call of ``load`` until the model is ready.
        ttft_s: time to first token: prefill, and choosing the token.
        peak_rss_mb: the most resident memory that the process has had.
        prompt_tokens, new_tokens: how many.
        tokens: the answer.
        threads: of the graph's operators.
        kv_cache: the type of the KV cache.
        model, scheme: what was measured.
    """

    model: str
    scheme: str
    threads: int
    kv_cache: str
    prompt_tokens: int
    new_tokens: int
    prefill_tps: float
    decode_tps: float | None
    ttft_s: float
    load_s: float
    peak_rss_mb: float
    tokens: tuple[int, ...]


def benchmark(
    model: str | os.PathLike[str],
    *,
    prompt: int | Sequence[int] = 255,
    new_tokens: int = 128,
    threads: int | None = None,
    context_length: int | Literal["auto"] | None = None,
    context_limit: int | None = None,
    max_memory: int | None = None,
    memory_check: bool = True,
    prepack: bool = True,
    variant: str | None = None,
    kv_cache: KVCacheType | None = None,
) -> Benchmark:
    """Loads a model anew and measures one greedy answer, which no end-of-sequence token ends early.

    Args:
        model: see ``load``.
        prompt: (T,) token ids, or how many to make up.
        new_tokens: length of the answer.
        threads: see ``load``, as the following.
        context_length: tokens of prompt and answer together.
        context_limit: most of them where that is no number.
        max_memory: bytes.
        memory_check: refuse what the machine has no memory for.
        prepack: keep a copy of the weights in this machine's layout.
        variant: of a folder of another tool.
        kv_cache: ``f32`` or ``int8``.

    Raises:
        ConfigError: ``new_tokens`` is below one, or prompt and answer do not fit into the context window.
        MemoryLimitError: they do not fit into ``max_memory``.
        NumericError: the model's logits are not numbers.
        PromptError: the prompt is empty, or an id is out of range.
        Others: see ``load``.
    """
    check_int("new_tokens", new_tokens, 1)
    started = time.perf_counter()
    lm = load(
        model,
        threads=threads,
        context_length=context_length,
        context_limit=context_limit,
        max_memory=max_memory,
        memory_check=memory_check,
        prepack=prepack,
        variant=variant,
        kv_cache=kv_cache,
        preload_text=False,
    )
    load_s = time.perf_counter() - started
    with lm:
        return _measured(lm, prompt, new_tokens, load_s)


def _measured(lm: LanguageModel, prompt: int | Sequence[int], new_tokens: int, load_s: float) -> Benchmark:
    manifest = lm.bundle.manifest
    ids = _prompt(prompt, manifest.vocab_size)
    _check_fit(lm, len(ids) + new_tokens)
    tokens, ttft_s, decode_s = _timed_answer(lm.new_decoder(), ids, new_tokens)
    return Benchmark(
        model=manifest.name,
        scheme=str(manifest.quantization["scheme"]),
        threads=lm.runtime.threads or available_cores(),
        kv_cache=lm.runtime.kv_cache,
        prompt_tokens=len(ids),
        new_tokens=new_tokens,
        prefill_tps=round(len(ids) / ttft_s, 2),
        decode_tps=round((new_tokens - 1) / decode_s, 2) if new_tokens > 1 else None,
        ttft_s=round(ttft_s, 5),
        load_s=round(load_s, 4),
        peak_rss_mb=round(peak_memory() / MB, 1),
        tokens=tuple(tokens),
    )


def _prompt(prompt: int | Sequence[int], vocab_size: int) -> Sequence[int]:
    if not isinstance(prompt, int):
        return [int(token) for token in check_prompt(prompt, vocab_size)]
    if prompt < 1:
        raise PromptError(f"the prompt must have at least one token, not {prompt}")
    return [index * _STRIDE % vocab_size for index in range(1, prompt + 1)]


def _check_fit(lm: LanguageModel, tokens: int) -> None:
    if tokens > lm.context_length:
        raise ConfigError(f"prompt and answer have {tokens} tokens, the context window {lm.context_length}")
    lm.check_memory(lm.memory_budget(tokens))


def _timed_answer(decoder: SequenceDecoder, ids: Sequence[int], new_tokens: int) -> tuple[list[int], float, float]:
    """The answer, seconds until its first token, seconds for the others."""
    decoder.reserve(len(ids) + new_tokens)
    _warm_up(decoder, ids)
    started = time.perf_counter()
    logits = decoder.prefill(ids)
    tokens = [int(logits.argmax())]
    prefilled = time.perf_counter()
    while len(tokens) < new_tokens:
        logits = decoder.step(tokens[-1])
        tokens.append(int(logits.argmax()))
    ended = time.perf_counter()
    if not np.isfinite(logits).all():
        raise NumericError("the model's logits are not finite numbers")
    return tokens, prefilled - started, ended - prefilled


def _warm_up(decoder: SequenceDecoder, ids: Sequence[int]) -> None:
    """A first run of each kind: it loads code and memory that no later one pays for."""
    decoder.prefill(ids[:_WARM_UP_TOKENS])
    if decoder.length < decoder.context_length:
        decoder.step(ids[0])
    decoder.rewind(0)
