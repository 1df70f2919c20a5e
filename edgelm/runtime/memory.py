"""The memory budget: one formula, itemised, from the manifest and a few settings; and what the process really uses."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from edgelm.bundle.manifest import NATIVE_LAYOUT, Manifest
from edgelm.config import KVCacheType
from edgelm.errors import MemoryLimitError
from edgelm.runtime.footprint import (
    FLOAT_BYTES,
    MB,
    cache_bytes,
    cross_bytes,
    decoder_scores,
    footprint_of,
    graph_bytes,
    loading_bytes,
    output_bytes,
    run_values,
    source_scores,
    takes_whole_prompts,
    tokenizer_bytes,
    weight_bytes,
)

# Measured with Python 3.11, ONNX Runtime 1.32 and tokenizers 0.23 on Linux x86-64.
INTERPRETER_AND_LIBRARIES = 64 * MB
# Of a row's logits: as they are computed, processed and sorted.
_LOGIT_COPIES = 4
# Of guesses' logits: as they are computed, and as they are read.
_VERIFIED_LOGIT_COPIES = 2
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes of resident memory that running a model takes, by part.

    Attributes:
        interpreter: Python and all libraries.
        text: the tokenizer, once it is read.
        graph: the loaded graph and its threads, without weights.
        weights: all of them; what a file of embeddings holds is read row by row and takes none.
        kv_cache: keys and values of all tokens.
        activations: what a run needs for a moment.
        cross: what the decoder of an encoder-decoder knows of its sources.
        loading: what loading takes for a moment, as far as it is more than runs take later.
        draft: a second model, which guesses.
        other: what else the process holds, beyond interpreter and libraries.
    """

    interpreter: int
    text: int
    graph: int
    weights: int
    kv_cache: int
    activations: int
    cross: int = 0
    loading: int = 0
    draft: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        """Bytes in all."""
        once = self.interpreter + self.text + self.graph + self.weights
        return once + self.kv_cache + self.cross + self.activations + self.loading + self.draft + self.other

    def check(self, limit: int | None, source: str = "the limit") -> None:
        """Refuses a limit that the budget exceeds; ``source``: what sets it.

        Raises:
            MemoryLimitError: it does; the message itemises the need.
        """
        if limit is not None and self.total > limit:
            raise MemoryLimitError(
                f"needs {megabytes(self.total, up=True)}, {source} is {megabytes(limit)}: "
                f"weights {megabytes(self.weights)}, "
                + (f"KV cache {megabytes(self.kv_cache)}, " if self.kv_cache else "")
                + (f"sources {megabytes(self.cross)}, " if self.cross else "")
                + f"activations {megabytes(self.activations)}, graph {megabytes(self.graph)}, "
                f"tokenizer {megabytes(self.text)}, Python and libraries {megabytes(self.interpreter)}"
                + (f", loading {megabytes(self.loading)}" if self.loading else "")
                + (f", draft model {megabytes(self.draft)}" if self.draft else "")
                + (f", what else the process holds {megabytes(self.other)}" if self.other else "")
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What generations that run at a time hold; added up, those of several.

    Attributes:
        tokens: for which there is room in all their caches.
        sequences: generations: each may be prefilling.
        rows: sequences that are decoded: those of batches and beams one by one.
        longest: tokens of the longest row.
        cross_tokens: tokens of the sources, once for every row that reads them.
        source_tokens: of these, those that an encoder reads in one run, padding included.
        longest_source: tokens of the longest source.
        verified: tokens whose logits are computed at a time, to check guesses.
    """

    tokens: int
    sequences: int = 0
    rows: int = 0
    longest: int = 0
    cross_tokens: int = 0
    source_tokens: int = 0
    longest_source: int = 0
    verified: int = 0

    def __add__(self, other: Needs) -> Needs:
        return Needs(
            tokens=self.tokens + other.tokens,
            sequences=self.sequences + other.sequences,
            rows=self.rows + other.rows,
            longest=self.longest + other.longest,
            cross_tokens=self.cross_tokens + other.cross_tokens,
            source_tokens=self.source_tokens + other.source_tokens,
            longest_source=self.longest_source + other.longest_source,
            verified=self.verified + other.verified,
        )


def budget(
    manifest: Manifest,
    *,
    tokens: int,
    prefill_chunk: int,
    sequences: int = 1,
    kv_cache: KVCacheType = "f32",
    threads: int | None = None,
) -> Budget:
    """What it takes to generate with ``tokens`` in all, prefilled in chunks of ``prefill_chunk``.

    A decoder's tokens are those of prompt and answer; an encoder-decoder is taken to read a source of as many as it
    writes. ``sequences``: how many run at a time; ``tokens`` is then the sum of theirs. ``kv_cache``, ``threads``:
    as in ``RuntimeConfig``.
    """
    needs = Needs(tokens=tokens, sequences=sequences, rows=sequences, longest=tokens)
    if manifest.family == "encoder-decoder":
        source = min(tokens, sequences * (manifest.source_length or tokens))
        needs = replace(needs, cross_tokens=source, source_tokens=source, longest_source=source)
    return budget_of(manifest, needs, prefill_chunk=prefill_chunk, kv_cache=kv_cache, threads=threads)


def budget_of(
    manifest: Manifest,
    needs: Needs,
    *,
    prefill_chunk: int,
    kv_cache: KVCacheType = "f32",
    threads: int | None = None,
) -> Budget:
    """The same, of any generations."""
    per_token = cache_bytes(manifest, kv_cache)
    return _budget(
        manifest,
        threads,
        kv_cache=needs.tokens * per_token if manifest.state is None else 2 * needs.rows * per_token,
        activations=FLOAT_BYTES * _values(manifest, needs, prefill_chunk),
        cross=needs.cross_tokens * cross_bytes(manifest),
    )


def encoder_budget(
    manifest: Manifest, *, batch_tokens: int, longest: int, waiting: int = 0, threads: int | None = None
) -> Budget:
    """What an encoder needs for batches of ``batch_tokens`` in rows of up to ``longest``, padding included.

    ``waiting``: bytes of earlier batches' outputs that wait for those of the last. ``threads``: as in
    ``RuntimeConfig``.
    """
    sizes = footprint_of(manifest)
    tokens = max(batch_tokens, longest)
    scores = source_scores(manifest, sizes, tokens=tokens, longest=longest)
    values = run_values(manifest, sizes, tokens=tokens, scores=scores)
    outputs = tokens * output_bytes(manifest, sizes)
    return _budget(manifest, threads, activations=FLOAT_BYTES * values + outputs + waiting)


def _budget(
    manifest: Manifest, threads: int | None, *, kv_cache: int = 0, activations: int = 0, cross: int = 0
) -> Budget:
    """Adds what does not depend on the runs. Loading is over before they begin."""
    sizes = footprint_of(manifest)
    return Budget(
        interpreter=INTERPRETER_AND_LIBRARIES,
        text=tokenizer_bytes(manifest, sizes),
        graph=graph_bytes(manifest, threads),
        weights=weight_bytes(manifest, sizes),
        kv_cache=kv_cache,
        activations=activations,
        cross=cross,
        loading=max(0, loading_bytes(manifest, sizes) - kv_cache - activations - cross),
    )


def _values(manifest: Manifest, needs: Needs, prefill_chunk: int) -> int:
    """The largest runs of all generations at a time."""
    sizes = footprint_of(manifest)
    reads_sources = manifest.family == "encoder-decoder"
    # An answer to a source begins with a single token; the rows of a batch share the chunk, and take a token each in a
    # step. ``longest`` is already the sum of all sequences'.
    chunk = needs.tokens if takes_whole_prompts(manifest) else min(prefill_chunk, needs.tokens)
    chunk = needs.rows if reads_sources else max(chunk, needs.rows)
    tokens = chunk if reads_sources else needs.sequences * chunk
    scores = decoder_scores(manifest, sizes, tokens=chunk, longest=needs.longest)
    values = run_values(manifest, sizes, tokens=tokens, scores=scores)
    if needs.source_tokens:
        scores = source_scores(manifest, sizes, tokens=needs.source_tokens, longest=needs.longest_source)
        values += run_values(manifest, sizes, tokens=needs.source_tokens, scores=scores)
    values += (_LOGIT_COPIES * needs.rows + _VERIFIED_LOGIT_COPIES * needs.verified) * manifest.vocab_size
    if manifest.layout != NATIVE_LAYOUT:  # graphs of others give the logits of all tokens
        values += 2 * tokens * manifest.vocab_size
    return values


def peak_memory() -> int:
    """Bytes of resident memory this process has had at most; 0 where the platform does not tell."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
    except OSError:
        return _peak_from_resource()
    return int(found[1]) * 1024 if found else _peak_from_resource()


def _peak_from_resource() -> int:
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def megabytes(count: int, *, up: bool = False) -> str:
    """``count`` bytes for people: ``143 MB``; ``up``: not less than they are."""
    if count < MB:
        return f"{count / MB:.1f} MB"
    return f"{-(-count // MB) if up else round(count / MB)} MB"
