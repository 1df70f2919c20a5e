"""The face of encoders: load one, run encoded texts through it, turn texts into vectors.

What a head's outputs mean is for the tasks to say.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.bundle import Bundle, open_bundle
from edgelm.bundle.encoder_contract import encoder_outputs
from edgelm.bundle.home import stamps_folder
from edgelm.bundle.manifest_parts import POOLING_MODES
from edgelm.bundle.store import Store
from edgelm.config import ENCODER_BATCH_TOKENS, RuntimeConfig, parse_size
from edgelm.errors import (
    ConfigError,
    ContextLengthError,
    EdgeLMError,
    NumericError,
    PromptError,
    UnsupportedModelError,
)
from edgelm.runtime.batches import pack
from edgelm.runtime.encoder import Encoder, Outputs
from edgelm.runtime.memory import Budget, encoder_budget
from edgelm.runtime.pooling import pool, to_unit_length
from edgelm.runtime.prepack import try_prepack
from edgelm.runtime.session import Session, available_cores

if TYPE_CHECKING:
    from edgelm.text.encoding import Encoding, TextEncoder, TextOrPair
    from edgelm.text.tokenizer import Tokenizer

SPECIAL_TOKENS_NAME = "special_tokens.json"
HIDDEN = "last_hidden_state"
# Results that wait for those before them, and texts whose ids are held at a time.
_WAITING_BYTES = 64 << 20
_TEXTS_AT_A_TIME = 4096
_LEAST_TOKENS = 256


def load_encoder(
    model: str | os.PathLike[str],
    *,
    max_memory: str | int | None = None,
    threads: int | None = None,
    context_length: int | None = None,
    prepack: bool = True,
    preload_text: bool = True,
    variant: str | None = None,
) -> EncoderModel:
    """Loads an installed encoder, a bundle's folder, or one that another tool made.

    Args:
        model: a name that ``edgelm list`` shows, or a folder.
        max_memory: limit on the process's resident memory, such as ``"400MB"``, or bytes.
        threads: threads of the graph's operators; None: one a core.
        context_length: tokens that a text may have; None: the model's own limit.
        prepack: keep a copy of the weights in this machine's layout in the cache.
        preload_text: read the tokenizer now; else when it is first needed.
        variant: of a folder of another tool, which form of its graphs, such as ``quantized``; None: the best one here.

    Raises:
        ModelNotFoundError: it is not installed; says how to get it.
        ModelError: the bundle is refused.
        MemoryLimitError: it does not fit into ``max_memory``.
        ConfigError: a setting is out of range.
    """
    runtime = RuntimeConfig(
        threads=threads,
        context_length=context_length,
        max_memory=None if max_memory is None else parse_size(max_memory),
        prepack=prepack,
        preload_text=preload_text,
    )
    folder = Path(model) if isinstance(model, os.PathLike) else Store().resolve(model)
    return EncoderModel(open_bundle(folder, stamps=stamps_folder(), variant=variant), runtime)


class EncoderModel:
    """A loaded encoder; a context manager. One instance may be used by many threads.

    Args:
        bundle: an open bundle.
        runtime: how to run it.

    Attributes:
        bundle: what was loaded.
        name: the model's.
        tasks: what it is for.
        labels: the classes of its head, in the order of the logits; empty where it has no labels.
        context_length: tokens that a text may have.

    Raises:
        UnsupportedModelError: the bundle is no encoder.
        MemoryLimitError: it does not fit into ``runtime.max_memory``.
        ConfigError: ``runtime.context_length`` is above the model's.
    """

    def __init__(self, bundle: Bundle, runtime: RuntimeConfig | None = None) -> None:
        self.bundle = bundle
        self.runtime = runtime or RuntimeConfig()
        manifest = bundle.manifest
        self.name = manifest.name
        self.tasks = manifest.tasks
        if manifest.family != "encoder":
            raise UnsupportedModelError(
                f"{self.name} is of the family {manifest.family!r}, no encoder; it is for {', '.join(self.tasks)}"
            )
        self.labels: tuple[str, ...] = manifest.head.labels if manifest.head is not None else ()
        self.context_length = self.runtime.context_length or manifest.context_length
        if self.context_length > manifest.context_length:
            raise ConfigError(
                f"context_length must be at most {manifest.context_length} for {self.name}, not {self.context_length}"
            )
        least = min(_LEAST_TOKENS, self.context_length)
        encoder_budget(manifest, batch_tokens=least, longest=least).check(self.runtime.max_memory)
        preload = self._preload_text() if self.runtime.preload_text else None
        graph, optimize = self._graph()
        self._session = Session(
            graph,
            threads=self.runtime.threads or available_cores(),
            optimize=optimize,
            renamed=manifest.renamed,
            planning=False,
        )
        self._encoder = Encoder(self._session, encoder_outputs(manifest), pad_token_id=manifest.pad_token_id or 0)
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
            ModelError: it is broken, or has more tokens than the model has embeddings.
        """
        from edgelm.text_side import read_tokenizer

        return read_tokenizer(self.bundle)

    @cached_property
    def text_encoder(self) -> TextEncoder:
        """Texts and pairs to what ``run`` takes."""
        from edgelm.text.encoding import TextEncoder

        return TextEncoder(self.tokenizer)

    def special_token(self, role: str) -> str | None:
        """The text of a special token by transformers' name (``mask_token``); None where the model has none."""
        return self._special_tokens.get(role)

    def special_token_id(self, role: str) -> int | None:
        """Its id."""
        token = self.special_token(role)
        return None if token is None else self.tokenizer.token_to_id(token)

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
        return encoder_budget(self.bundle.manifest, batch_tokens=batch_tokens, longest=longest, waiting=waiting)

    def encode(self, texts: Sequence[TextOrPair], *, truncation: bool = False, offsets: bool = False) -> list[Encoding]:
        """Texts or pairs, ready for ``run``.

        Args:
            texts: strings, or tuples of two.
            truncation: cut what is longer than the model takes; else it is refused.
            offsets: keep where in the text each token came from.

        Raises:
            PromptError: a text cannot be encoded, or gives no token at all; ContextLengthError: it is too long.
        """
        from edgelm.text.encoding import Truncation

        cut = Truncation(self.context_length) if truncation else None
        encodings = self.text_encoder.encode_batch(texts, truncation=cut, offsets=offsets)
        self._check(encodings)
        return encodings

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
        self._session.check_open()
        self._check(encodings)
        waiting = min(_WAITING_BYTES, sum(map(len, encodings)) * self._encoder.output_bytes())
        longest = max(map(len, encodings), default=0)
        if isinstance(batch_tokens, int):  # no more run together than may wait together
            batch_tokens = min(batch_tokens, max(longest, self._most_waiting_tokens()))
        return self._outputs(encodings, self._affordable(batch_tokens, longest, waiting=waiting))

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
            ConfigError: an unknown pooling.
            Others: see ``encode`` and ``run``.
        """
        mode, unit = self._pooling(pooling, normalize)
        self._session.check_open()
        single = isinstance(texts, str)
        given = [texts] if isinstance(texts, str) else texts
        vectors = np.empty((len(given), self._encoder.width(HIDDEN)), np.float32)
        for start in range(0, len(given), _TEXTS_AT_A_TIME):
            some = given[start : start + _TEXTS_AT_A_TIME]
            encodings = self.encode([_prompted(prompt, text) for text in some], truncation=truncation)
            self._embed(encodings, mode, batch_tokens, vectors[start : start + len(some)])
        if unit:
            vectors = to_unit_length(vectors)
        return vectors[0] if single else vectors

    def close(self) -> None:
        """Gives memory back; runs in progress end with ClosedError. May be called twice."""
        self._session.close()
        self._encoder.cancel()

    @cached_property
    def _special_tokens(self) -> dict[str, str]:
        found = self.bundle.read_json(SPECIAL_TOKENS_NAME) if self.bundle.has(SPECIAL_TOKENS_NAME) else {}
        return {role: text for role, text in found.items() if isinstance(text, str)} if isinstance(found, dict) else {}

    def _embed(self, encodings: list[Encoding], mode: str, batch_tokens: int, out: NDArray[np.float32]) -> None:
        lengths = np.array([len(encoding) for encoding in encodings], np.int64)
        batches = pack(lengths.tolist(), self._affordable(batch_tokens, int(lengths.max(initial=0))))
        for number, batch in enumerate(batches, start=1):
            outputs = self._run([encodings[i] for i in batch], last=number == len(batches))
            out[batch] = pool(outputs[HIDDEN], lengths[batch], mode)
        if not np.isfinite(out).all():
            raise NumericError(f"{self.name} gave vectors that are not of finite numbers")

    def _outputs(self, encodings: Sequence[Encoding], batch_tokens: int) -> Iterator[Outputs]:
        for part in self._parts(encodings):
            batches = pack([len(encoding) for encoding in part], batch_tokens)
            done: list[Outputs] = [{} for _ in part]
            for number, batch in enumerate(batches, start=1):
                outputs = self._run([part[i] for i in batch], last=number == len(batches))
                for name, array in outputs.items():
                    per_token = self._encoder.is_per_token(name)
                    for row, index in zip(array, batch, strict=True):
                        done[index][name] = self._finite(row[: len(part[index])] if per_token else row)
            yield from done

    def _parts(self, encodings: Sequence[Encoding]) -> Iterator[Sequence[Encoding]]:
        """Cuts many texts into parts whose outputs may wait in memory until all of a part are there."""
        most = self._most_waiting_tokens()
        start = tokens = 0
        for index, encoding in enumerate(encodings):
            tokens += len(encoding)
            if tokens > most and index > start:
                yield encodings[start:index]
                start, tokens = index, len(encoding)
        if start < len(encodings):
            yield encodings[start:]

    def _most_waiting_tokens(self) -> int:
        return max(1, _WAITING_BYTES // max(1, self._encoder.output_bytes(), _WAITING_BYTES >> 20))

    def _run(self, encodings: Sequence[Encoding], *, last: bool) -> Outputs:
        # What batches of other lengths leave behind is of little use for the next, and would add up.
        shrink = last or self.runtime.max_memory is not None
        types = [encoding.type_ids for encoding in encodings] if self._encoder.takes_types else None
        return self._encoder.run([encoding.ids for encoding in encodings], types, shrink=shrink)

    def _finite(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if not np.isfinite(values).all():
            raise NumericError(f"{self.name} gave values that are not finite numbers")
        return values

    def _check(self, encodings: Sequence[Encoding]) -> None:
        for index, encoding in enumerate(encodings):
            if not len(encoding):
                raise PromptError(f"text {index} is empty, and this model puts no token around a text")
            if len(encoding) > self.context_length:
                raise ContextLengthError(
                    f"text {index} has {len(encoding)} tokens; {self.name} takes {self.context_length}: "
                    "shorten it, or ask for truncation"
                )

    def _affordable(self, batch_tokens: int, longest: int, *, waiting: int = 0) -> int:
        """The largest batch up to ``batch_tokens`` that fits into the memory limit."""
        if isinstance(batch_tokens, bool) or not isinstance(batch_tokens, int) or batch_tokens < 1:
            raise ConfigError(f"batch_tokens must be an integer of at least 1, not {batch_tokens!r:.80}")
        limit = self.runtime.max_memory
        if limit is None:
            return batch_tokens
        while (
            batch_tokens > longest and self.memory_budget(batch_tokens, longest=longest, waiting=waiting).total > limit
        ):
            batch_tokens //= 2
        self.memory_budget(batch_tokens, longest=longest, waiting=waiting).check(limit)
        return batch_tokens

    def _pooling(self, pooling: str | None, normalize: bool | None) -> tuple[str, bool]:
        if HIDDEN not in encoder_outputs(self.bundle.manifest):
            raise UnsupportedModelError(f"{self.name} is for {', '.join(self.tasks)}: it has no hidden states to pool")
        own = self.bundle.manifest.pooling
        usual = own.mode if own is not None else "mean"
        mode = usual if pooling is None else pooling
        if mode not in POOLING_MODES:
            raise ConfigError(f"pooling must be one of {', '.join(POOLING_MODES)}, not {mode!r:.80}")
        return mode, bool(own is not None and own.normalize) if normalize is None else normalize

    def _preload_text(self) -> threading.Thread:
        """Reads the tokenizer while the graph is loaded. What fails there fails again, and is told."""

        def read() -> None:
            with contextlib.suppress(EdgeLMError):
                _ = self.tokenizer

        thread = threading.Thread(target=read, name="edgelm-text", daemon=True)
        thread.start()
        return thread

    def _graph(self) -> tuple[Path, bool]:
        """The graph to load, and whether it is still to be optimized."""
        copy = try_prepack(self.bundle, "encoder") if self.runtime.prepack else None
        return (self.bundle.path(self.bundle.manifest.graphs["encoder"]), True) if copy is None else (copy, False)


def _prompted(prompt: str | None, text: Any) -> Any:
    return prompt + text if prompt and isinstance(text, str) else text
