"""What the layers of a model attend to: the weights that the deployed graph computes, for one text.

Of a language model the text is the prompt or source; the tokens of an answer can be looked at together with it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.manifest import NATIVE_LAYOUT
from edgelm.checks import check_int
from edgelm.encoder_model import EncoderModel
from edgelm.errors import ConfigError, ContextLengthError, MemoryLimitError, NumericError, UnsupportedModelError
from edgelm.generation.history import check_prompt
from edgelm.inspection.maps import Attention, AttentionMap, MapKind, check_numbers
from edgelm.inspection.passes import InspectedGraph, Weights, decode, encode
from edgelm.inspection.twin import AttentionKind
from edgelm.language_model import LanguageModel
from edgelm.runtime.cores import available_cores
from edgelm.runtime.memory import Budget, budget, megabytes
from edgelm.text.token_text import token_label

if TYPE_CHECKING:
    from edgelm.text.encoding import TextOrPair

Ids = NDArray[np.int64]
# What maps may take where the model was given no memory limit.
MOST_BYTES = 1 << 30
_FLOAT_BYTES = 4


def attention_maps(
    model: LanguageModel | EncoderModel,
    text: TextOrPair | Sequence[int],
    *,
    max_new_tokens: int = 0,
    layers: Collection[int] | None = None,
    heads: Collection[int] | None = None,
    **settings: Any,
) -> Attention:
    """What the layers of a model attend to.

    Prompt and answer go through the graph in one pass. With fp32 weights the rows are what the steps computed; int8
    weights round one row a little otherwise than several.

    Args:
        model: a loaded one, of EdgeLM's own graphs.
        text: of a language model, its prompt or source, as text or ids; of an encoder, a text or a pair.
        max_new_tokens: tokens to generate, and to look at together with the text.
        layers: the layers wanted; None: all.
        heads: the heads wanted; None: all.
        settings: of the generation: further fields of ``GenerationConfig``.

    Raises:
        UnsupportedModelError: the graphs are of another tool.
        ConfigError: there is no such layer or head, or a setting is out of range.
        PromptError: the text cannot be encoded or is empty; ContextLengthError: it is too long.
        MemoryLimitError: the maps do not fit into the model's limit, or into 1 GiB; itemises the need.
        NumericError: the weights are not finite numbers.
    """
    manifest = model.bundle.manifest
    if manifest.layout != NATIVE_LAYOUT:
        raise UnsupportedModelError(
            f"{manifest.name} has graphs of {manifest.layout}, which give no attention weights; "
            "a bundle that edgelm export builds from the checkpoint does"
        )
    check_int("max_new_tokens", max_new_tokens, least=0)
    if isinstance(model, EncoderModel):
        if max_new_tokens or settings:
            raise ConfigError(f"{manifest.name} is an encoder, which generates nothing")
        found = _of_encoder(model, text, layers)
    elif manifest.family == "decoder":
        found = _of_decoder(model, _prompt(model, text), max_new_tokens, layers, settings)
    else:
        found = _of_encoder_decoder(model, _prompt(model, text), max_new_tokens, layers, settings)
    if heads is None:
        return found
    return replace(found, maps=tuple(one.chosen(heads) for one in found.maps))


def _of_encoder(model: EncoderModel, text: Any, layers: Collection[int] | None) -> Attention:
    (encoding,) = model.encode([text])
    ids, types = np.array([encoding.ids]), np.array([encoding.type_ids])
    length = ids.shape[1]
    with _opened(model, "encoder", layers) as graph:
        _check_layers(layers, [graph])
        view = _View("encoder", graph, "self")
        _check_memory(model, model.memory_budget(length, longest=length), [(view, length, length)])
        weights, _ = encode(graph, ids, np.ones_like(ids), types)
    labels = _labels(model, ids[0])
    return Attention(model.name, length, "", _maps(model, [(view, weights, labels, labels)]))


def _of_decoder(
    model: LanguageModel, prompt: Ids, new: int, layers: Collection[int] | None, settings: Mapping[str, Any]
) -> Attention:
    with _opened(model, "decoder", layers) as graph:
        _check_layers(layers, [graph])
        view = _View("decoder", graph, "self")
        most = min(len(prompt) + new, model.context_length)
        _check_memory(model, _budget(model, most), [(view, most, most)])
        answer, text = _answer(model, prompt, new, settings)
        ids = np.concatenate((prompt, answer))
        weights = decode(graph, ids)["self"]
    labels = _labels(model, ids)
    name = model.bundle.manifest.name
    return Attention(name, len(prompt), text, _maps(model, [(view, weights, labels, labels)]))


def _of_encoder_decoder(
    model: LanguageModel, source: Ids, new: int, layers: Collection[int] | None, settings: Mapping[str, Any]
) -> Attention:
    with _opened(model, "encoder", layers) as encoder, _opened(model, "decoder", layers) as decoder:
        _check_layers(layers, [encoder, decoder])
        length, most = len(source), min(1 + new, model.context_length) if new else 0
        views = _View("encoder", encoder, "self"), _View("decoder", decoder, "self"), _View("cross", decoder, "cross")
        sizes = (length, length), (most, most), (most, length)
        needs = [(view, *size) for view, size in zip(views, sizes, strict=True)]
        _check_memory(model, _budget(model, max(length, most)), needs)
        answer, text = _answer(model, source, new, settings)
        weights, handed = encode(encoder, source[None], np.ones((1, length), np.int64))
        labels = _labels(model, source)
        found = [(views[0], weights, labels, labels)]
        if new:
            ids = np.concatenate((_start(model, settings), answer))[: model.context_length]
            targets = _labels(model, ids)
            by_kind = decode(decoder, ids, handed)
            for view, keys in ((views[1], targets), (views[2], labels)):
                if view.attention in by_kind:
                    found.append((view, by_kind[view.attention], targets, keys))
    return Attention(model.bundle.manifest.name, length, text, _maps(model, found))


class _View(NamedTuple):
    """A map to be, and where its weights come from."""

    kind: MapKind
    graph: InspectedGraph
    attention: AttentionKind

    @property
    def layers(self) -> tuple[int, ...]:
        """Those wanted, as far as there are any."""
        return self.graph.wanted(self.attention)

    @property
    def heads(self) -> int:
        """Of a layer."""
        return self.graph.heads(self.attention)


def _opened(model: LanguageModel | EncoderModel, role: str, layers: Collection[int] | None) -> InspectedGraph:
    runtime = model.runtime
    threads = runtime.threads or available_cores()
    return InspectedGraph(
        model.bundle, role, threads=threads, prepack=runtime.prepack, layers=layers, kv_cache=runtime.kv_cache
    )


def _prompt(model: LanguageModel, text: Any) -> Ids:
    ids = model.tokenizer.encode(text) if isinstance(text, str) else text
    prompt = check_prompt(ids, model.bundle.manifest.vocab_size)
    manifest = model.bundle.manifest
    most = model.context_length if manifest.family == "decoder" else manifest.source_length
    if most is not None and len(prompt) > most:
        raise ContextLengthError(f"the text has {len(prompt)} tokens, but {manifest.name} takes {most}")
    return prompt


def _answer(model: LanguageModel, prompt: Ids, new: int, settings: Mapping[str, Any]) -> tuple[Ids, str]:
    """Tokens and text."""
    if not new:
        return np.zeros(0, np.int64), ""
    result = model.generate(prompt.tolist(), max_new_tokens=new, **settings)
    return np.array(result.token_ids, np.int64), result.text


def _start(model: LanguageModel, settings: Mapping[str, Any]) -> list[int]:
    """The decoder's first token, as ``generate`` chooses it."""
    chosen = model.generation_config.updated(**settings).decoder_start_token_id
    start = model.bundle.manifest.decoder_start_token_id if chosen is None else chosen
    return [] if start is None else [start]


def _labels(model: LanguageModel | EncoderModel, ids: Ids) -> tuple[str, ...]:
    return tuple(token_label(model.tokenizer, token) for token in ids.tolist())


def _maps(
    model: LanguageModel | EncoderModel,
    found: Sequence[tuple[_View, Weights, tuple[str, ...], tuple[str, ...]]],
) -> tuple[AttentionMap, ...]:
    maps = []
    for view, weights, queries, keys in found:
        if not view.layers:
            continue
        if not all(np.isfinite(layer).all() for layer in weights):
            raise NumericError(f"{model.bundle.manifest.name} gave attention weights that are not finite numbers")
        heads = tuple(range(view.heads))
        maps.append(AttentionMap(view.kind, view.layers, heads, queries, keys, weights[:, 0]))
    return tuple(maps)


def _check_layers(layers: Collection[int] | None, graphs: Sequence[InspectedGraph]) -> None:
    there = sorted({layer for graph in graphs for numbers in graph.layers.values() for layer in numbers})
    if not there:
        raise UnsupportedModelError("the model's graph has no attention that can be looked at")
    if layers is not None:
        check_numbers("layer", layers, there)


def _budget(model: LanguageModel, tokens: int) -> Budget:
    """What a run of all tokens at once takes."""
    runtime = model.runtime
    return budget(
        model.bundle.manifest, tokens=tokens, prefill_chunk=tokens, kv_cache=runtime.kv_cache, threads=runtime.threads
    )


def _check_memory(model: LanguageModel | EncoderModel, usual: Budget, sizes: Sequence[tuple[_View, int, int]]) -> None:
    """Refuses what would not fit beside the model: the maps, the graphs that are loaded once more, and their run."""
    items, maps, layer = [], 0, 0
    for view, queries, keys in sizes:
        layers, heads = len(view.layers), view.heads
        if layers and queries:
            layer = max(layer, _FLOAT_BYTES * heads * queries * keys)
            maps += layers * _FLOAT_BYTES * heads * queries * keys
            items.append(f"{view.kind} {layers} layers x {heads} heads x {queries} x {keys} tokens x 4 bytes")
    limit = model.runtime.max_memory
    # Scores are there twice while a layer's weights are made of them.
    rest = 0 if limit is None else usual.total + usual.weights + usual.graph + 2 * layer
    most = MOST_BYTES if limit is None else limit
    if maps + rest > most:
        others = f", the model and its inspected graphs {megabytes(rest)}" if rest else ""
        raise MemoryLimitError(
            f"needs {megabytes(maps + rest)}, the limit is {megabytes(most)}: attention maps {megabytes(maps)} "
            f"({', '.join(items)}){others}; choose fewer layers or a shorter text"
        )
