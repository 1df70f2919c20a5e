"""Reads a folder that another tool made: which layout it is, which of its graphs to run, and what the model is.

Nothing is written down in such a folder that its files could be held to, so there are no hashes; all else is checked
as in a bundle: names, kinds of files, operators, weights, inputs and outputs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgelm.bundle.fields import Fields
from edgelm.bundle.foreign_contract import CROSS, PAST, check_foreign, check_past_form, usual_names
from edgelm.bundle.graph_check import FOREIGN_RULES, GraphInfo, inspect_graph
from edgelm.bundle.layouts.base import Found, Layout
from edgelm.bundle.layouts.footprint import footprint_of_folder
from edgelm.bundle.layouts.genai import GenaiLayout
from edgelm.bundle.layouts.listing import Listing, list_folder
from edgelm.bundle.layouts.model_config import (
    GENERATION_NAME,
    ModelFacts,
    end_tokens,
    model_facts,
    special_token,
)
from edgelm.bundle.layouts.optimum import OptimumLayout
from edgelm.bundle.layouts.sentence_transformers import SentenceTransformersLayout
from edgelm.bundle.layouts.tasks import encoder_tasks, head_of
from edgelm.bundle.layouts.text_files import TEMPLATE_NAME, longest_text, text_documents
from edgelm.bundle.layouts.transformers_js import TransformersJsLayout
from edgelm.bundle.manifest import MAX_VOCAB, FileEntry, KVGeometry, Manifest, Source
from edgelm.bundle.onnx_model import DATA_TYPES, ValueInfo
from edgelm.bundle.weight_files import check_weight_files
from edgelm.errors import ModelError, UnsupportedModelError

# The first that recognises a folder reads it.
LAYOUTS: tuple[Layout, ...] = (
    GenaiLayout(),
    SentenceTransformersLayout(),
    TransformersJsLayout(),
    OptimumLayout(),
)
_TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", TEMPLATE_NAME, "config.json")


@dataclass(frozen=True, slots=True)
class ForeignFolder:
    """A checked folder of another tool.

    Attributes:
        manifest: what a bundle's manifest would say; graphs of a sub-folder are named with it.
        graphs: role → what is known of its graph.
        documents: files that a bundle has and the folder keeps otherwise, by name.
        variants: all variants that there are; the first would be chosen.
        variant: the one that was.
    """

    manifest: Manifest
    graphs: dict[str, GraphInfo]
    documents: dict[str, bytes]
    variants: tuple[str, ...]
    variant: str


def layout_of(folder: Path) -> str | None:
    """The name of the layout that a folder is of, by its files' names alone; None: of none that EdgeLM reads.

    Raises:
        ModelError: the folder cannot be read.
    """
    listing = list_folder(folder)
    return next((layout.name for layout in LAYOUTS if layout.recognises(listing)), None)


def read_folder(folder: Path, *, variant: str | None = None) -> ForeignFolder:
    """Reads and checks a folder; nothing in it is executed.

    Raises:
        ConfigError: there is no such variant.
        ModelError: the folder is of no known layout, or something in it may not be run; names it.
    """
    listing = list_folder(folder)
    layout = next((layout for layout in LAYOUTS if layout.recognises(listing)), None)
    if layout is None:
        raise ModelError(
            f"{folder} is neither a bundle (edgelm.json) nor a folder of optimum, Transformers.js, "
            "onnxruntime-genai or sentence-transformers with graphs in it"
        )
    found = layout.read(listing, variant)
    files = listing.graphs if found.folder else listing.files
    inspected = {
        name: inspect_graph(folder / found.folder, name, files, FOREIGN_RULES)
        for name in dict.fromkeys(found.graphs.values())
    }
    graphs = {role: inspected[name] for role, name in found.graphs.items()}
    manifest = _manifest(listing, layout.name, found, graphs)
    for name, graph in inspected.items():
        beside = [_place(found.folder, file) for file in graph.external_files]
        check_weight_files(beside, graph_file=name, manifest=manifest)
        roles = [role for role, file in found.graphs.items() if file == name]
        check_foreign(graph.inputs, graph.outputs, graph_file=name, roles=roles, manifest=manifest)
    documents = text_documents(listing)
    documents[GENERATION_NAME] = json.dumps(dict(found.generation)).encode()
    return ForeignFolder(manifest, graphs, documents, found.variants, found.variant)


def _manifest(listing: Listing, layout: str, found: Found, graphs: Mapping[str, GraphInfo]) -> Manifest:
    facts = model_facts(found.config, found.family)
    renamed = found.renamed | _renamed_outputs(found.family, graphs)
    decoder = graphs.get("decoder")
    vocab_size = facts.vocab_size or MAX_VOCAB
    if decoder is not None:
        vocab_size = _logits_width(decoder, renamed) or vocab_size
    tokens = Fields({**found.config, **found.generation}, document="config.json")
    start = special_token(tokens, "decoder_start_token_id", vocab_size)
    if found.family == "encoder-decoder" and start is None:
        start = special_token(tokens, "bos_token_id", vocab_size)
        if start is None:
            raise tokens.fault("decoder_start_token_id", "is missing; an encoder-decoder needs it")
    encoder = graphs["encoder"] if found.family == "encoder" else None
    outputs = {} if encoder is None else usual_names(encoder.outputs, renamed)
    limits = (facts.context_length, found.max_length, longest_text(listing) if encoder is not None else None)
    name = listing.folder.absolute().name or "model"
    return Manifest(
        name=name if name.isprintable() else "model",
        architecture=facts.architecture,
        family=found.family,
        tasks=_tasks(found, outputs, facts, listing),
        graphs={role: _place(found.folder, name) for role, name in found.graphs.items()},
        context_length=min(limit for limit in limits if limit is not None),
        vocab_size=vocab_size,
        kv=None if encoder is not None else _geometry(graphs, renamed, facts),
        bos_token_id=special_token(tokens, "bos_token_id", vocab_size),
        eos_token_id=end_tokens(tokens, vocab_size),
        quantization={"scheme": found.variant},
        files=_files(listing, found, graphs.values()),
        source=Source(f"local:{name}"),
        pad_token_id=special_token(tokens, "pad_token_id", vocab_size),
        decoder_start_token_id=start,
        source_length=_source_length(facts, found),
        head=head_of(outputs, facts),
        pooling=found.pooling,
        layout=layout,
        renamed=renamed,
        footprint=footprint_of_folder(found.config, listing),
    )


def _source_length(facts: ModelFacts, found: Found) -> int | None:
    return facts.context_length if found.family == "encoder-decoder" and facts.has_positions else None


def _tasks(found: Found, outputs: Mapping[str, ValueInfo], facts: ModelFacts, listing: Listing) -> tuple[str, ...]:
    if found.family == "encoder":
        return encoder_tasks(outputs, facts, found.pooling)
    if found.family == "encoder-decoder":
        return ("text2text-generation",)
    chats = TEMPLATE_NAME in listing.files or TEMPLATE_NAME in text_documents(listing)
    return ("text-generation", "chat") if chats else ("text-generation",)


def _renamed_outputs(family: str, graphs: Mapping[str, GraphInfo]) -> dict[str, str]:
    """sentence-transformers calls the hidden states ``token_embeddings``."""
    if family != "encoder":
        return {}
    names = {value.name for value in graphs["encoder"].outputs}
    return {"last_hidden_state": "token_embeddings"} if "token_embeddings" in names - {"last_hidden_state"} else {}


def _files(listing: Listing, found: Found, graphs: Iterable[GraphInfo]) -> dict[str, FileEntry]:
    """The files that are used: graphs, their weights, and those of the text."""
    beside = listing.graphs if found.folder else listing.files
    used = {name for graph in graphs for name in (graph.file_name, *graph.external_files)}
    files = {_place(found.folder, name): beside[name] for name in sorted(used)}
    return files | {name: listing.files[name] for name in _TEXT_FILES if name in listing.files}


def _place(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _logits_width(graph: GraphInfo, renamed: Mapping[str, str]) -> int | None:
    logits = usual_names(graph.outputs, renamed).get("logits")
    width = logits.dims[-1] if logits is not None and logits.dims else None
    return width if isinstance(width, int) and 0 < width <= MAX_VOCAB else None


def _geometry(graphs: Mapping[str, GraphInfo], renamed: Mapping[str, str], facts: ModelFacts) -> KVGeometry:
    """The sizes of the cache as the graph's own inputs have them; what they leave open, the settings tell."""
    inputs = usual_names(graphs.get("decoder_with_past", graphs["decoder"]).inputs, renamed)
    past = {name: value for name, value in inputs.items() if name.startswith(PAST) and CROSS not in name}
    file = graphs["decoder"].file_name
    if not past:
        raise UnsupportedModelError(
            f"{file} was exported without its past, and would compute every token again at "
            "each step: export it with the past (optimum: --task text-generation-with-past)"
        )
    for name, value in past.items():
        check_past_form(name, value, graph_file=file, architecture=facts.architecture)
    first = next(iter(past.values()))
    _, heads, _, size = first.dims or ()
    heads = heads if isinstance(heads, int) else facts.heads
    size = size if isinstance(size, int) else facts.head_size
    if heads is None or size is None or heads < 1 or size < 1:
        raise ModelError(f"{file}: neither {first.name[:80]!a} nor config.json tells the heads of the past")
    return KVGeometry(max(1, len(past) // 2), heads, size, DATA_TYPES.get(first.dtype, ("float32", 0))[0])
