"""The face of EdgeLM: load a model, generate, stream, chat. Joins text, generation and runtime.

The text side is imported when it is first needed: work on token ids alone pays nothing for it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from edgelm.bundle.bundle import Bundle, open_bundle
from edgelm.bundle.home import stamps_folder
from edgelm.bundle.store import Store
from edgelm.config import GenerationConfig, RuntimeConfig, parse_size
from edgelm.errors import (
    ConfigError,
    EdgeLMError,
    PromptError,
    TemplateError,
    UnsupportedModelError,
)
from edgelm.generator import Generator
from edgelm.results import GenerationResult
from edgelm.runtime.memory import Budget, budget
from edgelm.runtime.sequences import SequenceDecoder
from edgelm.runtime.session import available_cores as available_cores  # others look for it here

TEMPLATE_NAME = "chat_template.jinja"
SPECIAL_TOKENS_NAME = "special_tokens.json"
MAX_TEMPLATE_BYTES = 64 << 10
# A model must at least be able to hold a short prompt and answer.
_LEAST_TOKENS = 256
_SAMPLING = ("temperature", "top_k", "top_p", "min_p")
_BEAMS = ("length_penalty", "early_stopping")

Message = Mapping[str, Any]

if TYPE_CHECKING:
    from edgelm.text.chat_template import ChatTemplate
    from edgelm.text.tokenizer import Tokenizer
    from edgelm.text_stream import TextStream


def load(
    model: str | os.PathLike[str],
    *,
    max_memory: str | int | None = None,
    threads: int | None = None,
    context_length: int | None = None,
    prefill_chunk: int | None = None,
    prepack: bool = True,
    preload_text: bool = True,
    variant: str | None = None,
) -> LanguageModel:
    """Loads an installed model, a bundle's folder, or one that another tool made.

    Args:
        model: a name that ``edgelm list`` shows, or a folder.
        max_memory: limit on the process's resident memory, such as ``"400MB"``, or bytes.
        threads: threads of the graph's operators; None: one a core.
        context_length: tokens of prompt and answer together; None: the model's own limit.
        prefill_chunk: prompt tokens computed in one run.
        prepack: keep a copy of the weights in this machine's layout in the cache.
        preload_text: read the tokenizer now; else when it is first needed.
        variant: of a folder of another tool, which form of its graphs, such as ``q4``; None: the best one here.

    Raises:
        ModelNotFoundError: it is not installed; says how to get it.
        ModelError: the bundle is refused.
        MemoryLimitError: it does not fit into ``max_memory``.
        ConfigError: a setting is out of range.
    """
    settings: dict[str, Any] = {
        "threads": threads,
        "context_length": context_length,
        "prepack": prepack,
        "preload_text": preload_text,
    }
    if prefill_chunk is not None:
        settings["prefill_chunk"] = prefill_chunk
    if max_memory is not None:
        settings["max_memory"] = parse_size(max_memory)
    runtime = RuntimeConfig(**settings)
    folder = Path(model) if isinstance(model, os.PathLike) else Store().resolve(model)
    return LanguageModel(open_bundle(folder, stamps=stamps_folder(), variant=variant), runtime)


class LanguageModel:
    """A loaded model that generates; a context manager. One instance may be used by many threads.

    A decoder-only model continues a text; an encoder-decoder reads it as the source of its answer, and has
    ``prompt_tokens`` and ``memory_budget`` count what the source and the answer are.

    Args:
        bundle: an open bundle.
        runtime: how to run it.

    Attributes:
        bundle: what was loaded.
        generation_config: the model's own defaults, which the settings of a call change.

    Raises:
        UnsupportedModelError: the bundle has no decoder.
        MemoryLimitError: it does not fit into ``runtime.max_memory``.
        ConfigError: ``runtime.context_length`` is above the model's.
    """

    def __init__(self, bundle: Bundle, runtime: RuntimeConfig | None = None) -> None:
        self.bundle = bundle
        self.runtime = runtime or RuntimeConfig()
        manifest = bundle.manifest
        if manifest.family not in ("decoder", "encoder-decoder"):
            tasks = ", ".join(manifest.tasks)
            raise UnsupportedModelError(
                f"{manifest.name} is an {manifest.family}, which generates no text; it is for {tasks}"
            )
        self.context_length = self.runtime.context_length or manifest.context_length
        if self.context_length > manifest.context_length:
            raise ConfigError(
                f"context_length must be at most {manifest.context_length} for {manifest.name}, "
                f"not {self.context_length}"
            )
        self.memory_budget(min(_LEAST_TOKENS, self.context_length)).check(self.runtime.max_memory)
        defaults = bundle.generation_defaults()
        self.generation_config = defaults.updated(eos_token_id=defaults.eos_token_id or manifest.eos_token_id)
        preload = self._preload_text() if self.runtime.preload_text else None
        self._generator = Generator(bundle, self.runtime, self.context_length)
        self._pool = self._generator.pool
        if preload is not None:
            preload.join()
            _ = self.tokenizer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back; read when first needed.

        Raises:
            ModelError: it is broken, or has more tokens than the logits are wide.
        """
        from edgelm.text_side import read_tokenizer

        return read_tokenizer(self.bundle)

    @property
    def has_chat_template(self) -> bool:
        """Whether the model was trained for conversations."""
        return self.bundle.has(TEMPLATE_NAME)

    def memory_budget(self, tokens: int, *, sequences: int = 1) -> Budget:
        """Bytes that holding ``tokens`` of prompt and answer takes, in all of several ``sequences``, itemised."""
        chunk = self.runtime.prefill_chunk
        return budget(self.bundle.manifest, tokens=tokens, prefill_chunk=chunk, sequences=sequences)

    def generate(self, prompt: str | Sequence[int], **settings: Any) -> GenerationResult:
        """Continues a text, or token ids (an encoder-decoder: answers them), and returns the whole answer.

        Args:
            prompt: text (special tokens written in it stay text) or ids, taken as they are.
            settings: fields of ``GenerationConfig``.

        Raises:
            ConfigError: an unknown setting, or a value out of range.
            PromptError: the prompt cannot be encoded; ContextLengthError: it is too long.
            MemoryLimitError: prompt and answer do not fit into ``max_memory``.
            NumericError: the model's logits are not numbers.
            ClosedError: the model is closed.
        """
        return self._start(self._encode(prompt), settings).drain()

    def stream(self, prompt: str | Sequence[int], **settings: Any) -> TextStream:
        """Like ``generate``, but gives the text out piece by piece as it is made."""
        return self._start(self._encode(prompt), settings)

    def generate_batch(self, prompts: Sequence[str | Sequence[int]], **settings: Any) -> list[GenerationResult]:
        """Like ``generate`` for many prompts, several at a time, which is faster on many than one by one.

        Returns:
            The answers in the order of the prompts: ``num_return_sequences`` for each.

        Raises:
            As ``generate``; a prompt that is refused is so before anything runs.
        """
        return self._start_batch(prompts, settings)

    def chat(self, messages: Sequence[Message], **settings: Any) -> GenerationResult:
        """Answers a conversation: dicts with ``role`` and ``content``, rendered by the model's chat template.

        Raises:
            TemplateError: the model has no chat template, or it fails on these messages.
            Others: see ``generate``.
        """
        return self._start(self.encode_chat(messages), settings).drain()

    def stream_chat(self, messages: Sequence[Message], **settings: Any) -> TextStream:
        """Like ``chat``, but gives the text out piece by piece as it is made."""
        return self._start(self.encode_chat(messages), settings)

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation, ready for the model's answer.

        Raises:
            TemplateError: the model has no chat template, or it fails on these messages.
            PromptError: the messages are not of the form that templates take.
        """
        from edgelm.text.prompt import encode_chat

        return encode_chat(self.tokenizer, self._template, messages)

    def close(self) -> None:
        """Gives memory back; generations in progress end with ClosedError. May be called twice."""
        self._generator.close()

    def new_decoder(self) -> SequenceDecoder:
        """A decoder with an empty KV cache of its own, for work below the level of generations: scores, benchmarks.

        Raises:
            UnsupportedModelError: an encoder-decoder has none.
        """
        return self._generator.new_decoder()

    def _preload_text(self) -> threading.Thread:
        """Reads tokenizer and template while the graph is loaded, which keeps the other core busy and needs no Python.

        What fails there fails again, and is told.
        """

        def read() -> None:
            with contextlib.suppress(EdgeLMError):
                _ = self.tokenizer
                _ = self._template if self.has_chat_template else None

        thread = threading.Thread(target=read, name="edgelm-text", daemon=True)
        thread.start()
        return thread

    def _encode(self, prompt: str | Sequence[int]) -> Sequence[int]:
        if not isinstance(prompt, str):
            return prompt
        ids = self.tokenizer.encode(prompt)
        if ids:
            return ids
        start = self.bundle.manifest.bos_token_id
        if start is None:
            raise PromptError("the prompt is empty, and this model has no token that starts a text")
        return [start]

    @cached_property
    def _template(self) -> ChatTemplate:
        from edgelm.text.chat_template import ChatTemplate

        if not self.has_chat_template:
            raise TemplateError(f"{self.bundle.manifest.name} has no chat template; use generate, or --raw")
        source = self.bundle.read_text(TEMPLATE_NAME, MAX_TEMPLATE_BYTES)
        tokens = self.bundle.read_json(SPECIAL_TOKENS_NAME) if self.bundle.has(SPECIAL_TOKENS_NAME) else {}
        return ChatTemplate(source, special_tokens=tokens)

    def _start(self, prompt: Sequence[int], settings: Mapping[str, Any]) -> TextStream:
        self._generator.check_open()
        config = self._config(settings)
        if config.num_return_sequences > 1:
            raise ConfigError(
                f"one answer is given here, but num_return_sequences is {config.num_return_sequences}; "
                "generate_batch gives several"
            )
        return self._generator.stream(prompt, config, self.tokenizer)

    def _start_batch(
        self, prompts: Sequence[str | Sequence[int]], settings: Mapping[str, Any]
    ) -> list[GenerationResult]:
        self._generator.check_open()
        config = self._config(settings)
        return self._generator.batch([self._encode(prompt) for prompt in prompts], config, self.tokenizer)

    def _config(self, settings: Mapping[str, Any]) -> GenerationConfig:
        config = self.generation_config.updated(**settings)
        for names, used, why in (
            (_SAMPLING, config.do_sample, "do_sample is False"),
            (_BEAMS, config.num_beams > 1, "num_beams is 1"),
        ):
            ignored = [name for name in names if name in settings]
            if ignored and not used:
                warnings.warn(f"{', '.join(ignored)} given, but {why}: ignored", UserWarning, stacklevel=4)
        return config
