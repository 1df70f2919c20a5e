"""The face of encoders: load one, run encoded texts through it, turn texts into vectors.

What a head's outputs mean is for the tasks to say.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from edgelm.batched_encoder import HIDDEN as HIDDEN  # others look for it here
from edgelm.batched_encoder import BatchedEncoder
from edgelm.bundle.bundle import Bundle
from edgelm.bundle.encoder_contract import encoder_outputs
from edgelm.bundle.manifest_parts import POOLING_MODES
from edgelm.config import ENCODER_BATCH_TOKENS, RuntimeConfig
from edgelm.errors import ConfigError, ContextLengthError, PromptError, UnsupportedModelError
from edgelm.first_open import try_first
from edgelm.loaded_model import LoadedModel, find_bundle
from edgelm.runtime.encoder import Outputs
from edgelm.runtime.memory import Budget, encoder_budget

if TYPE_CHECKING:
    from edgelm.text.encoding import Encoding, TextEncoder, TextOrPair

# Texts whose ids are held at a time.
_TEXTS_AT_A_TIME = 4096


def load_encoder(
    model: str | os.PathLike[str],
    *,
    max_memory: str | int | None = None,
    threads: int | None = None,
    context_length: int | Literal["auto"] | None = None,
    prepack: bool = True,
    preload_text: bool = True,
    variant: str | None = None,
    context_limit: int | None = None,
    memory_check: bool = True,
) -> EncoderModel:
    """Loads an installed encoder, a bundle's folder, or one that another tool made.

    Args:
        model: a name that ``edgelm list`` shows, or a folder.
        max_memory: limit on the process's resident memory, such as ``"400MB"``, or bytes.
        threads: threads of the graph's operators; None: one a core.
        context_length: tokens that a text may have, for which there must be memory; ``"auto"``: as many as there is
            memory for; None: the model's own limit, though memory may be short for long texts.
        prepack: keep a copy of the weights in this machine's layout in the cache.
        preload_text: read the tokenizer now; else when it is first needed.
        variant: of a folder of another tool, which form of its graphs, such as ``quantized``; None: the best one here.
        context_limit: tokens that a text has at most where ``context_length`` is no number.
        memory_check: refuse what the machine has no memory for.

    Raises:
        ModelNotFoundError: it is not installed; says how to get it.
        ModelError: the bundle is refused.
        MemoryLimitError: it does not fit into ``max_memory``, or into what the machine has left.
        ConfigError: a setting is out of range.
    """
    runtime = RuntimeConfig.given(
        threads=threads,
        context_length=context_length,
        max_memory=max_memory,
        prepack=prepack,
        preload_text=preload_text,
        context_limit=context_limit,
        memory_check=memory_check,
    )
    return EncoderModel(find_bundle(model, variant, runtime), runtime)


class EncoderModel(LoadedModel):
    """A loaded encoder; a context manager. One instance may be used by many threads.

    Args:
        bundle: an open bundle.
        runtime: how to run it.

    Attributes:
        labels: the classes of its head, in the order of the logits; empty where it has no labels.
        context_length: tokens that a text may have.
        Others: see ``LoadedModel``.

    Raises:
        UnsupportedModelError: the bundle is no encoder.
        MemoryLimitError: it does not fit into ``runtime.max_memory``.
        ConfigError: ``runtime.context_length`` is above the model's.
    """

    def __init__(self, bundle: Bundle, runtime: RuntimeConfig | None = None) -> None:
        super().__init__(bundle)
        manifest = bundle.manifest
        if manifest.family != "encoder":
            raise UnsupportedModelError(
                f"{self.name} is of the family {manifest.family!r}, no encoder; it is for {', '.join(self.tasks)}"
            )
        self.labels: tuple[str, ...] = manifest.head.labels if manifest.head is not None else ()
        self._fit_memory(runtime)
        self._tokenizer_fault = try_first(bundle, self.runtime)
        with self._reading_text():
            self._encoder = BatchedEncoder(bundle, self.runtime, self._memory)

    @cached_property
    def text_encoder(self) -> TextEncoder:
        """Texts and pairs to what ``run`` takes."""
        from edgelm.text.encoding import TextEncoder

        return TextEncoder(self.tokenizer)

    def require_task(self, task: str) -> None:
        """Refuses a model that was made for something else.

        Raises:
            UnsupportedModelError: ``task`` is not among ``tasks``.
        """
        if task not in self.tasks:
            raise UnsupportedModelError(f"{self.name} is for {', '.join(self.tasks)}, not for {task}")

    def memory_budget(self, batch_tokens: int, *, longest: int, waiting: int = 0) -> Budget:
        """Bytes that batches of ``batch_tokens`` with texts of up to ``longest`` tokens take, itemised.

        ``waiting``: bytes of outputs that wait for those of the last batch.
        """
        return encoder_budget(
            self.bundle.manifest,
            batch_tokens=batch_tokens,
            longest=longest,
            waiting=waiting,
            threads=self.runtime.threads,
        )

    def encode(self, texts: Sequence[TextOrPair], *, truncation: bool = False, offsets: bool = False) -> list[Encoding]:
        """Texts or pairs, ready for ``run``.

        Args:
            texts: strings, or tuples of two.
            truncation: cut what is longer than the model takes; else it is refused.
            offsets: keep where in the text each token came from.

        Raises:
            PromptError: this is no list of texts, or one cannot be encoded, or gives no token at all;
                ContextLengthError: it is too long.
        """
        return self._encode(texts, truncation=truncation, offsets=offsets)

    def run(self, encodings: Sequence[Encoding], *, batch_tokens: int = ENCODER_BATCH_TOKENS) -> Iterator[Outputs]:
        """Runs encoded texts, in batches of texts of like lengths, and yields their outputs in the order given.

        Args:
            encodings: what ``encode`` or ``text_encoder`` made.
            batch_tokens: most tokens of a batch, padding included; fewer where ``max_memory`` asks for it.

        Returns:
            For each text output name → its own array, without padding: (labels,) or (tokens, …) float32.

        Raises:
            PromptError: an encoding has no token; ContextLengthError: more than the model takes.
            MemoryLimitError: the longest text does not fit into ``max_memory``.
            NumericError: the model gave NaN or infinity.
            ClosedError: the model is closed, also while the outputs are read.
        """
        self._encoder.check_open()
        self._check(encodings)
        return self._encoder.outputs(encodings, batch_tokens)

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        normalize: bool | None = None,
        pooling: str | None = None,
        prompt: str | None = None,
        truncation: bool = False,
        batch_tokens: int = ENCODER_BATCH_TOKENS,
    ) -> NDArray[np.float32]:
        """One vector for each text.

        Args:
            texts: one, or several.
            normalize: to unit length; None: as the model says, else not.
            pooling: ``mean``, ``cls``, ``last`` or ``max``; None: as the model says, else ``mean``.
            prompt: put before each text, such as ``"query: "`` for models that were trained so.
            truncation: cut texts that are longer than the model takes; else they are refused.
            batch_tokens: as in ``run``.

        Returns:
            (N, H) float32; (H,) for a single string.

        Raises:
            UnsupportedModelError: the model has a head, and no hidden states to pool.
            ConfigError: an unknown pooling, or a ``prompt`` that is no text.
            Others: see ``encode`` and ``run``.
        """
        mode, unit = self._pooling(pooling, normalize)
        self._encoder.check_open()
        if not isinstance(texts, (str, Sequence, np.ndarray)):
            raise PromptError(f"texts must be a text or a list of texts, not {type(texts).__name__}")
        given = [texts] if isinstance(texts, str) else texts
        vectors = np.empty((len(given), self._encoder.hidden_size), np.float32)
        for start in range(0, len(given), _TEXTS_AT_A_TIME):
            some = given[start : start + _TEXTS_AT_A_TIME]
            encodings = self._encode(_prompted(prompt, some, start), truncation=truncation, start=start)
            self._encoder.embed(
                encodings,
                vectors[start : start + len(some)],
                mode=mode,
                unit=unit,
                batch_tokens=batch_tokens,
                held=vectors[1:].nbytes,  # one is in any estimate: a text of the whole window fits as it did
            )
        return vectors[0] if isinstance(texts, str) else vectors

    def close(self) -> None:
        """Gives memory back; runs in progress end with ClosedError. May be called twice."""
        self._encoder.close()
        self._memory.leave()

    def _encode(
        self, texts: Sequence[TextOrPair], *, truncation: bool, offsets: bool = False, start: int = 0
    ) -> list[Encoding]:
        """``start``: the number of the first text, for messages."""
        from edgelm.text.encoding import Truncation

        cut = Truncation(self.context_length) if truncation else None
        encodings = self.text_encoder.encode_batch(texts, truncation=cut, offsets=offsets, start=start)
        self._check(encodings, start)
        return encodings

    def _check(self, encodings: Sequence[Encoding], start: int = 0) -> None:
        for index, encoding in enumerate(encodings, start):
            if not len(encoding):
                raise PromptError(f"text {index} is empty, and this model puts no token around a text", place=index)
            if len(encoding) > self.context_length:
                raise ContextLengthError(
                    f"text {index} has {len(encoding)} tokens; {self.name} takes {self.context_length}: "
                    "shorten it, or have it cut with truncation=True (--truncate)",
                    place=index,
                )

    def _pooling(self, pooling: str | None, normalize: bool | None) -> tuple[str, bool]:
        if HIDDEN not in encoder_outputs(self.bundle.manifest):
            raise UnsupportedModelError(f"{self.name} is for {', '.join(self.tasks)}: it has no hidden states to pool")
        own = self.bundle.manifest.pooling
        usual = own.mode if own is not None else "mean"
        mode = usual if pooling is None else pooling
        if mode not in POOLING_MODES:
            raise ConfigError(f"pooling must be one of {', '.join(POOLING_MODES)}, not {mode!r:.80}")
        return mode, bool(own is not None and own.normalize) if normalize is None else normalize


def _prompted(prompt: str | None, texts: Sequence[str], start: int) -> Sequence[str]:
    if not prompt:
        return texts
    if not isinstance(prompt, str):
        raise ConfigError(f"prompt must be a text, not {type(prompt).__name__}")
    for index, text in enumerate(texts, start):
        if not isinstance(text, str):
            raise PromptError(f"text {index}: a prompt stands before a text, not before a {type(text).__name__}")
    return [prompt + text for text in texts]
