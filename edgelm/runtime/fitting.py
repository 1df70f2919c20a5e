"""Chooses how a model is run so that it fits into a memory limit: from its manifest alone, before anything is loaded.

Steps to fit, from the one that costs least: shorter chunks of the prompt, an int8 KV cache, and a shorter context
window if the caller left it open. None is taken that is not needed, and none that changes what the caller fixed; what
does not fit then is refused, with what would help.

ONNX Runtime without its arena is no such step. The arena is made to shrink after runs that leave much in it, and
measured peaks are higher without it: 276 MB and not 272 for a batch of 16 answers, 294 and not 223 for 40 texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from edgelm.bundle.manifest import NATIVE_LAYOUT, Manifest
from edgelm.config import RuntimeConfig
from edgelm.errors import ConfigError, MemoryLimitError
from edgelm.runtime.footprint import reading_bytes, takes_whole_prompts
from edgelm.runtime.kv_cache_types import int8_cache_fault
from edgelm.runtime.memory import Budget, budget, encoder_budget, megabytes

# A model must at least be able to hold a short text, or a short prompt and answer.
LEAST_TOKENS = 256
# A usual prompt and answer: room for it is made where a window that nobody asked for does not fit.
USUAL_TOKENS = 1024
# Below, a prompt takes much longer, and hardly less memory.
_LEAST_CHUNK = 32
# A window that is chosen is a multiple of it.
_WINDOW_UNIT = 64

Beside = Callable[[int], int]
"""Bytes of a second model, by the tokens that the first holds."""


def nothing_beside(tokens: int) -> int:
    """Where there is no second model."""
    return 0


class Limit(NamedTuple):
    """The memory that a process may have.

    Attributes:
        nbytes: of resident memory, at most; None: as many as it takes.
        source: what sets it, as the subject of a sentence.
        held: bytes that the process has besides, beyond interpreter and libraries; they count.
    """

    nbytes: int | None = None
    source: str = "the limit"
    held: int = 0

    def check(self, need: Budget) -> None:
        """Refuses a need that is above it.

        Raises:
            MemoryLimitError: it is; the message itemises the need.
        """
        replace(need, other=need.other + self.held).check(self.nbytes, self.source)

    def holds(self, need: Budget) -> bool:
        """Whether the need is within it."""
        return self.nbytes is None or need.total + self.held <= self.nbytes


class Step(NamedTuple):
    """A setting that was changed to fit."""

    setting: str
    usual: int | str
    chosen: int | str

    def __str__(self) -> str:
        """The step in words."""
        match self.setting:
            case "prefill_chunk":
                return f"prompts read {self.chosen} tokens at a time, not {self.usual}"
            case "kv_cache":
                return f"KV cache in {self.chosen}, not {self.usual}"
        return f"context window of {self.chosen} tokens, not {self.usual}"


class Fitting(NamedTuple):
    """How a model is to be run.

    Attributes:
        runtime: the settings.
        context_length: tokens of its window.
        steps: what was changed to fit, in order.
        need: what it then takes to hold as many tokens as it was fitted for.
    """

    runtime: RuntimeConfig
    context_length: int
    steps: tuple[Step, ...]
    need: Budget

    @property
    def changed(self) -> dict[str, int | str]:
        """The settings that were changed, by name."""
        return {step.setting: step.chosen for step in self.steps}


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to ``most`` that fits, where all smaller ones do, too; 0: none does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def need_of(manifest: Manifest, runtime: RuntimeConfig, tokens: int) -> Budget:
    """What it takes to hold ``tokens`` of prompt and answer, or an encoder's text of so many."""
    if manifest.family == "encoder":
        return encoder_budget(manifest, batch_tokens=tokens, longest=tokens, threads=runtime.threads)
    chunk, kv_cache = runtime.prefill_chunk, runtime.kv_cache
    need = budget(manifest, tokens=tokens, prefill_chunk=chunk, kv_cache=kv_cache, threads=runtime.threads)
    if runtime.preload_text:  # it is read before the graph, and takes less then than that
        return need
    return replace(need, loading=max(need.loading, reading_bytes(manifest) - need.kv_cache - need.activations))


def least_need(manifest: Manifest, runtime: RuntimeConfig, tokens: int) -> Budget:
    """What that takes with every step to fit that ``runtime`` leaves open."""
    return need_of(manifest, list(_settings(manifest, runtime))[-1], tokens)


def fit(
    manifest: Manifest, runtime: RuntimeConfig, tokens: int, *, limit: Limit, beside: Beside = nothing_beside
) -> Fitting:
    """The settings nearest to ``runtime`` with which a request of ``tokens`` is within ``limit``.

    Raises:
        MemoryLimitError: there are none; names need, limit and what would help.
    """
    return _Fitter(manifest, runtime, tokens, limit, beside).fit(tokens)


def fit_window(manifest: Manifest, runtime: RuntimeConfig, *, limit: Limit, beside: Beside = nothing_beside) -> Fitting:
    """The settings with which a model is loaded, its context window included.

    A window that ``runtime`` gives as a number is within ``limit`` as a whole. One that is left open ("auto") is as
    long as fits. The model's own, where nothing is said, is kept as it is, and fitted as far as that can be: not all of
    it need be within the limit, but a short prompt and answer.

    Raises:
        ConfigError: ``runtime.context_length`` is above the model's.
        MemoryLimitError: it does not fit; names need, limit and what would help.
    """
    most, given = manifest.context_length, runtime.context_length
    if isinstance(given, int) and given > most:
        raise ConfigError(f"context_length must be at most {most} for {manifest.name}, not {given}")
    window = given if isinstance(given, int) else min(most, runtime.context_limit or most)
    fitter = _Fitter(manifest, runtime, window, limit, beside)
    if given is None:
        return fitter.fit_loosely()
    return fitter.fit_shortened() if given == "auto" else fitter.fit(window)


class _Fitter:
    """Tries settings for a context window, in the order of what they cost."""

    def __init__(self, manifest: Manifest, runtime: RuntimeConfig, window: int, limit: Limit, beside: Beside) -> None:
        self._manifest = manifest
        self._usual = runtime
        self._window = window
        self._limit = limit
        self._beside = beside
        self._settings = list(_settings(manifest, runtime))

    def fit(self, tokens: int) -> Fitting:
        """For a request of ``tokens``, or a refusal."""
        found = self._first(self._settings, tokens)
        if found is None:
            raise self._refusal(tokens)
        return found

    def fit_shortened(self) -> Fitting:
        """With the whole window if that can be; else with one as long as fits."""
        window = self._window
        found = self._first(self._settings, window)
        if found is not None:
            return found
        least = min(LEAST_TOKENS, window)
        chosen = max(least, self._most_tokens(window) // _WINDOW_UNIT * _WINDOW_UNIT)
        fitted = self.fit(chosen)
        step = Step("context_length", window, chosen)
        return fitted._replace(context_length=chosen, steps=(*fitted.steps, step))

    def fit_loosely(self) -> Fitting:
        """For the whole window if that can be; else for a usual request, or a short one."""
        window = self._window
        found = self._first(self._settings, window)
        if found is not None:
            return found
        cache = self._settings[-1].kv_cache  # the type that lets the most of the window be used
        smallest_cache = [settings for settings in self._settings if settings.kv_cache == cache]
        least = min(LEAST_TOKENS, window)
        usual = self._first(smallest_cache, min(USUAL_TOKENS, window))
        return usual or self._first(self._settings[-1:], least) or self.fit(least)

    def _first(self, settings: Sequence[RuntimeConfig], tokens: int) -> Fitting | None:
        for runtime in settings:
            need = self._need(runtime, tokens)
            if self._limit.holds(need):
                return Fitting(runtime, self._window, tuple(_steps(self._usual, runtime)), need)
        return None

    def _need(self, runtime: RuntimeConfig, tokens: int) -> Budget:
        return replace(need_of(self._manifest, runtime, tokens), draft=self._beside(tokens))

    def _most_tokens(self, window: int, kv_cache: str | None = None) -> int:
        """Tokens that fit with every step taken; 0: none."""
        smallest = self._settings[-1]
        if kv_cache == "int8":
            smallest = replace(smallest, kv_cache="int8")
        return largest(lambda tokens: self._limit.holds(self._need(smallest, tokens)), window)

    def _refusal(self, tokens: int) -> MemoryLimitError:
        """Names the need with every step taken, the limit, and what would help."""
        smallest = self._settings[-1]
        need = self._need(smallest, tokens)
        try:
            self._limit.check(need)
        except MemoryLimitError as error:
            told = str(error)
        else:
            raise ValueError(f"{tokens} tokens fit, and passed for too many")
        helps = []
        shorter = self._most_tokens(tokens)
        if shorter >= LEAST_TOKENS:
            helps.append(f"a context window of up to {shorter} tokens (context_length, --ctx-size; auto chooses)")
        helps += self._help_of_cache(tokens)
        enough = megabytes(need.total + self._limit.held, up=True)
        helps.append(f"a limit of {enough}" if self._limit.source == "the limit" else f"{enough} of memory")
        if shorter < LEAST_TOKENS:
            helps.append("a smaller model" + _help_of_scheme(self._manifest))
        taken = [str(step) for step in _steps(self._usual, smallest)]
        with_steps = f" even with {', '.join(taken)}" if taken else ""
        return MemoryLimitError(f"{told}; {tokens} tokens do not fit{with_steps}; what would: {'; or '.join(helps)}")

    def _help_of_cache(self, tokens: int) -> Iterator[str]:
        """An int8 cache, where it would help and was not to be had."""
        manifest = self._manifest
        own_cache = manifest.family == "decoder" and manifest.layout == NATIVE_LAYOUT and manifest.kv is not None
        if not own_cache or self._settings[-1].kv_cache == "int8" or self._most_tokens(tokens, "int8") < tokens:
            return
        fault = int8_cache_fault(manifest)
        yield "an int8 KV cache (kv_cache, --kv-cache)" + (f", but {fault}" if fault else "")


def _settings(manifest: Manifest, runtime: RuntimeConfig) -> Iterator[RuntimeConfig]:
    """All that may be tried, from what is asked for to what needs the least; a later setting weighs more."""

    def free(name: str) -> bool:
        return name not in runtime.fixed

    caches = [runtime.kv_cache]
    if runtime.kv_cache == "f32" and free("kv_cache") and int8_cache_fault(manifest) is None:
        caches.append("int8")
    chunks = [runtime.prefill_chunk]
    in_chunks = manifest.family == "decoder" and not takes_whole_prompts(manifest)
    while in_chunks and free("prefill_chunk") and chunks[-1] // 2 >= _LEAST_CHUNK:
        chunks.append(chunks[-1] // 2)
    for kv_cache in caches:
        for chunk in chunks:
            yield replace(runtime, kv_cache=kv_cache, prefill_chunk=chunk)


def _help_of_scheme(manifest: Manifest) -> str:
    """Another quantization, where it takes less whatever the model; what int4 does to the sum depends on its layers."""
    of_own = manifest.layout == NATIVE_LAYOUT and manifest.quantization["scheme"] == "fp32"
    return ", or int8 weights (--scheme int8)" if of_own else ""


def _steps(usual: RuntimeConfig, chosen: RuntimeConfig) -> Iterator[Step]:
    for name in ("prefill_chunk", "kv_cache"):
        before, after = getattr(usual, name), getattr(chosen, name)
        if before != after:
            yield Step(name, before, after)
