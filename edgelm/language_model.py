"""The face of EdgeLM: load a model, generate, stream, chat. Joins text, generation and runtime.

The text side is imported when it is first needed: work on token ids alone pays nothing for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.bundle import Bundle
from edgelm.cached_model import CachedModel
from edgelm.call_settings import CallSettings
from edgelm.config import GenerationConfig, KVCacheType, RuntimeConfig
from edgelm.errors import ConfigError, PromptError, UnsupportedModelError
from edgelm.first_open import try_first
from edgelm.generator import Generator
from edgelm.inspection.explain.model import ExplainedModel
from edgelm.loaded_model import find_bundle
from edgelm.results import GenerationResult
from edgelm.runtime.fitting import nothing_beside
from edgelm.runtime.memory import Budget, budget
from edgelm.runtime.sequences import SequenceDecoder, SequencePool
from edgelm.speculation import DraftModel, check_draft

Prompt = str | Sequence[int] | NDArray[np.int64]
"""A text, or token ids, taken as they are."""

if TYPE_CHECKING:
    from edgelm.generation.observer import Observer
    from edgelm.text.turns import FittedChat
    from edgelm.text_stream import TextStream
    from edgelm.tool_calls.offer import OfferedTools


def load(
    model: str | os.PathLike[str],
    *,
    max_memory: str | int | None = None,
    threads: int | None = None,
    context_length: int | Literal["auto"] | None = None,
    prefill_chunk: int | None = None,
    prepack: bool = True,
    preload_text: bool = True,
    prefix_caches: int | None = None,
    variant: str | None = None,
    draft: str | os.PathLike[str] | LanguageModel | None = None,
    kv_cache: KVCacheType | None = None,
    context_limit: int | None = None,
    memory_check: bool = True,
) -> LanguageModel:
    """Loads an installed model, a bundle's folder, or one that another tool made.

    Args:
        model: a name that ``edgelm list`` shows, or a folder.
        max_memory: limit on the process's resident memory, such as ``"400MB"``, or bytes. To keep it, settings that are
            not given here are changed, as ``fitting`` of the model tells.
        threads: threads of the graph's operators; None: one a core.
        context_length: tokens of prompt and answer together, for which there must be memory; ``"auto"``: as many as
            there is memory for; None: the model's own limit.
        prefill_chunk: prompt tokens computed in one run; None: 128, or fewer where memory is short.
        prepack: keep a copy of the weights in this machine's layout in the cache.
        preload_text: read the tokenizer now; else when it is first needed.
        prefix_caches: KV caches that are kept for prompts with the same beginning as an earlier one; None: 2.
        variant: of a folder of another tool, which form of its graphs, such as ``q4``; None: the best one here.
        draft: a smaller model with the same vocabulary, which guesses what comes in single answers: a name, a folder,
            or one that is loaded already, which then stays open when this one is closed.
        kv_cache: what keys and values are kept as, also a draft's: ``"f32"``, or ``"int8"``, a quarter of its size,
            which rounds; None: ``"f32"``, or ``"int8"`` where memory is short.
        context_limit: tokens that the context window has at most where ``context_length`` is no number.
        memory_check: refuse what the machine has no memory for.

    Raises:
        ModelNotFoundError: it is not installed; says how to get it.
        ModelError: the bundle is refused.
        UnsupportedModelError: ``draft`` has another vocabulary, or a model cannot keep its cache as ``kv_cache``.
        MemoryLimitError: it does not fit into ``max_memory``, or into what the machine has left.
        ConfigError: a setting is out of range.
    """
    runtime = RuntimeConfig.given(
        threads=threads,
        context_length=context_length,
        prefill_chunk=prefill_chunk,
        max_memory=max_memory,
        prepack=prepack,
        preload_text=preload_text,
        prefix_caches=prefix_caches,
        kv_cache=kv_cache,
        context_limit=context_limit,
        memory_check=memory_check,
    )
    bundle = find_bundle(model, variant, runtime)
    if draft is None or isinstance(draft, LanguageModel):
        return LanguageModel(bundle, runtime, draft=draft)
    return _load_with_draft(bundle, runtime, draft)


def _load_with_draft(bundle: Bundle, runtime: RuntimeConfig, draft: str | os.PathLike[str]) -> LanguageModel:
    beside = replace(runtime, context_length=None, preload_text=False)
    opened = LanguageModel(find_bundle(draft, None, beside), beside)
    try:
        return LanguageModel(bundle, runtime, draft=opened, closes_draft=True)
    except BaseException:
        opened.close()
        raise


class LanguageModel(ExplainedModel, CachedModel):
    """A loaded model that generates; a context manager. One instance may be used by many threads.

    A decoder-only model continues a text; an encoder-decoder reads it as the source of its answer, and has
    ``prompt_tokens`` and ``memory_budget`` count what the source and the answer are.

    Args:
        bundle: an open bundle.
        runtime: how to run it.
        draft: see ``load``.
        closes_draft: whether it is closed with this model.

    Attributes:
        generation_config: the model's own defaults, which the settings of a call change.
        context_length: tokens of prompt and answer together.
        Others: see ``LoadedModel``.

    Raises:
        UnsupportedModelError: the bundle has no decoder, or ``draft`` another vocabulary.
        MemoryLimitError: it does not fit into ``runtime.max_memory``, with the draft if there is one.
        ConfigError: ``runtime.context_length`` is above the model's.
    """

    def __init__(
        self,
        bundle: Bundle,
        runtime: RuntimeConfig | None = None,
        *,
        draft: LanguageModel | None = None,
        closes_draft: bool = False,
    ) -> None:
        super().__init__(bundle)
        manifest = bundle.manifest
        if manifest.family not in ("decoder", "encoder-decoder"):
            raise UnsupportedModelError(
                f"{self.name} is an {manifest.family}, which generates no text; it is for {', '.join(self.tasks)}"
            )
        self._draft = None if draft is None else draft._as_draft_of(self)
        self._opened = draft if closes_draft else None
        self._fit_memory(runtime, nothing_beside if self._draft is None else self._draft.bytes_beside)
        defaults = bundle.generation_defaults()
        self.generation_config = defaults.updated(eos_token_id=defaults.eos_token_id or manifest.eos_token_id)
        self._tokenizer_fault = try_first(bundle, self.runtime)
        with self._reading_text():
            self._generator = Generator(bundle, self.runtime, self.context_length, self._memory, self._draft)

    def memory_budget(self, tokens: int, *, sequences: int = 1) -> Budget:
        """Bytes that holding ``tokens`` of prompt and answer takes, in all of several ``sequences``, itemised."""
        own = budget(
            self.bundle.manifest,
            tokens=tokens,
            prefill_chunk=self.runtime.prefill_chunk,
            sequences=sequences,
            kv_cache=self.runtime.kv_cache,
            threads=self.runtime.threads,
        )
        return own if self._draft is None else replace(own, draft=self._draft.bytes_beside(tokens, sequences))

    def generate(
        self, prompt: Prompt, generation_config: GenerationConfig | None = None, **settings: Any
    ) -> GenerationResult:
        """Continues a text, or token ids (an encoder-decoder: answers them), and returns the whole answer.

        Args:
            prompt: text (special tokens written in it stay text) or ids, taken as they are.
            generation_config: settings in the place of the model's own defaults. Tokens that it does not name (those
                that end an answer, begin a decoder's or pad) are the model's.
            settings: fields of ``GenerationConfig``, and of ``Hooks``: ``logits_processor``, functions
                ``(ids, logits) -> logits``, and ``stopping_criteria``, functions ``(ids, logits) -> bool``. One of
                ``json_schema``, ``regex``, ``grammar`` and ``choices`` holds the answer to a form; see ``split_form``.
                All of them stand above ``generation_config``.

        Raises:
            ConfigError: an unknown setting, or a value out of range.
            PromptError: the prompt cannot be encoded; ContextLengthError: it is too long.
            MemoryLimitError: prompt and answer do not fit into ``max_memory``.
            NumericError: the model's logits are not numbers.
            ClosedError: the model is closed.
        """
        return self.stream(prompt, generation_config, **settings).drain()

    def stream(self, prompt: Prompt, generation_config: GenerationConfig | None = None, **settings: Any) -> TextStream:
        """Like ``generate``, but gives the text out piece by piece as it is made."""
        return self._start(self._encode(prompt), {"generation_config": generation_config, **settings})

    def generate_batch(
        self, prompts: Sequence[Prompt], generation_config: GenerationConfig | None = None, **settings: Any
    ) -> list[GenerationResult]:
        """Like ``generate`` for many prompts, several at a time, which is faster on many than one by one.

        Returns:
            The answers in the order of the prompts: ``num_return_sequences`` for each.

        Raises:
            As ``generate``; a prompt that is refused is so before anything runs.
        """
        return self._start_batch(prompts, {"generation_config": generation_config, **settings})

    def encode(self, prompt: Prompt) -> Sequence[int] | NDArray[np.int64]:
        """Token ids of a prompt, as ``generate`` takes it.

        Raises:
            PromptError: it cannot be encoded.
        """
        return self._encode(prompt)

    def resolved(self, generation_config: GenerationConfig | None = None, **settings: Any) -> GenerationConfig:
        """All settings of a call that gives these.

        Raises:
            ConfigError: an unknown setting, or a value out of range.
        """
        return self._settings.resolve({"generation_config": generation_config, **settings}, self.generation_config)[0]

    def close(self) -> None:
        """Gives memory back; generations in progress end with ClosedError. May be called twice."""
        self._generator.close()
        self._memory.leave()
        if self._opened is not None:
            self._opened.close()

    def new_decoder(self) -> SequenceDecoder:
        """A decoder with an empty KV cache of its own, for work below the level of generations: scores, benchmarks.

        Raises:
            UnsupportedModelError: an encoder-decoder has none.
        """
        return self._generator.new_decoder()

    @property
    def _pool(self) -> SequencePool:
        self._generator.check_open()
        return self._generator.pool

    def _ids_of(self, prompt: Prompt | Sequence[Mapping[str, Any]]) -> Sequence[int] | NDArray[np.int64]:
        if isinstance(prompt, Sequence) and len(prompt) and isinstance(prompt[0], Mapping):
            return self.encode_chat(prompt)  # type: ignore[arg-type]
        return self._encode(prompt)  # type: ignore[arg-type]

    def _as_draft_of(self, model: LanguageModel) -> DraftModel:
        check_draft(model, self)
        self._generator.check_open()
        return DraftModel(
            self.bundle,
            self._generator.pool,
            context_length=self.context_length,
            runtime=self.runtime,
            of=model.bundle,
        )

    @cached_property
    def _settings(self) -> CallSettings:
        return CallSettings(self.tokenizer)

    def _encode(self, prompt: Prompt) -> Sequence[int] | NDArray[np.int64]:
        if not isinstance(prompt, str):
            return prompt
        ids = self.tokenizer.encode(prompt)
        if ids:
            return ids
        start = self.bundle.manifest.bos_token_id
        if start is None:
            raise PromptError("the prompt is empty, and this model has no token that starts a text")
        return [start]

    def _start(
        self,
        prompt: Sequence[int] | NDArray[np.int64] | Callable[[GenerationConfig], FittedChat],
        settings: Mapping[str, Any],
        *,
        tools: OfferedTools | None = None,
        observer: Observer | None = None,
    ) -> TextStream:
        self._generator.check_open()
        config, hooks = self._settings.resolve(settings, self.generation_config)
        hooks = replace(hooks, observer=observer)
        dropped = (0, 0)
        if callable(prompt):
            chat = prompt(config)
            prompt, dropped = chat.ids, (chat.dropped_tokens, chat.dropped_turns)
        elif config.overflow == "drop-oldest":
            raise ConfigError("overflow 'drop-oldest' drops turns of a conversation, and a plain prompt has none")
        if config.num_return_sequences > 1:
            raise ConfigError(
                f"one answer is given here, but num_return_sequences is {config.num_return_sequences}; "
                "generate_batch gives several"
            )
        return self._generator.stream(prompt, config, self.tokenizer, hooks, tools, dropped)

    def _start_batch(self, prompts: Sequence[Prompt], settings: Mapping[str, Any]) -> list[GenerationResult]:
        self._generator.check_open()
        config, hooks = self._settings.resolve(settings, self.generation_config)
        if config.overflow == "drop-oldest":
            raise ConfigError("overflow 'drop-oldest' drops turns of a conversation, and a batch's prompts have none")
        if isinstance(prompts, (str, bytes)) or not isinstance(prompts, Iterable):
            raise PromptError(f"prompts must be a list of prompts, not {type(prompts).__name__}")
        return self._generator.batch([self._encode(prompt) for prompt in prompts], config, self.tokenizer, hooks)
