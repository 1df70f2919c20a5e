"""What the parts of a model take in memory, estimated from its manifest and the number of threads; ``memory.py`` adds
them up.

The constants were measured with Python 3.11, ONNX Runtime 1.32 and tokenizers 0.23 on Linux x86-64, on models of random
weights of every family, int8, int4 and fp32, with prepacked weights and without: each is such that the sum is not below
the peak.
"""

from __future__ import annotations

from edgelm.bundle.manifest import NATIVE_LAYOUT, Footprint, Manifest
from edgelm.bundle.weight_files import weight_files
from edgelm.config import KVCacheType
from edgelm.runtime.cores import available_cores

MB = 1_000_000
FLOAT_BYTES = 4
# Of a tokenizer, for each of its tokens: once it is read, and what is there besides while it is.
_TOKENIZER_BYTES = {"BPE": 350, "Unigram": 1400, "WordPiece": 400, "WordLevel": 400}
_TOKENIZER_READING_BYTES = {"BPE": 480}
# A loaded graph's nodes and names, for each byte of its file; what is beyond a megabyte is not nodes but weights.
_GRAPH_BYTES_PER_BYTE = 50
# Threads and buffers of each graph after the first.
_FURTHER_GRAPH = 3 * MB
# Of each thread of a graph beyond so many, which the libraries' share covers: its stack, and what it allocates from.
_THREAD_BYTES = 64_000
_USUAL_THREADS = 16
# The nodes of a graph that has its weights inside.
_NODES_AMONG_WEIGHTS = 160_000
# A graph of both branches, with and without a past, may lay out its weights for each.
_MERGED_SHARE = 1.2
# Of the file of another tool's graph, what is in memory a second time while it is loaded.
_FOREIGN_LOADING_SHARE = 0.8
# While weights are laid out anew or read from a prepacked copy, how often the largest is there besides.
_LOADING_COPIES = {"fp32": 1.7}
_USUAL_LOADING_COPIES = 2.7
# Bytes of a weight in the layers and in the table of embeddings, scales included.
_LAYER_BYTES = {"int4": 0.625, "fp32": 4.0}
_TABLE_BYTES = {"fp32": 4.0}
_USUAL_WEIGHT_BYTES = 1.125
# An output head beside a table in a file of its own is stored in pieces: of rows with a scale each, and of blocks.
_HEAD_PIECES = 4
_BLOCK_HEAD_PIECES = 16
# Bytes of a weight in blocks of 32 that are there besides: their scales in this processor's layout, and times the zero
# point.
_BLOCK_COPIES = 0.25
# A run's values that live at one time, for each of its tokens, in multiples of the width of the stream, of attention
# and of the feed-forward layers (there of two projections, if it has a gate).
_LIVE_WIDTHS = {"encoder": (4.0, 4.0, 2.0), "decoder": (4.0, 10.0, 4.5), "encoder-decoder": (4.0, 11.0, 4.5)}
_GATED_WIDTH = 1.6
# Matrices of scores, for each pair of tokens and head.
_SCORE_MATRICES = {"blocks": 0, "scores": 1, "biased scores": 2, "disentangled scores": 2}
# An encoder's, which at times does not fit into the gap that the layer before has left.
_ENCODER_SCORE_MATRICES = 1.7
# The same with disentangled attention: the scores, products with twice as many distances, and their copies.
_DISENTANGLED_SCORE_MATRICES = 7
_FOREIGN_SCORE_MATRICES = 3
# A growing cache's past and its present, and what is left between them.
_FOREIGN_CACHE_COPIES = 5.5
# Where the manifest does not tell: sizes of most models.
_USUAL_HEADS_PER_KV_HEAD = 4
_USUAL_HEAD_SIZE = 32
_USUAL_FEED_FORWARD = 4


def footprint_of(manifest: Manifest) -> Footprint:
    """The manifest's own; for an older one, that of a model of the family with the same cache and weights."""
    if manifest.footprint is not None:
        return manifest.footprint
    hidden, heads, head_size = _usual_sizes(manifest)
    return Footprint(
        hidden_size=hidden,
        intermediate_size=_USUAL_FEED_FORWARD * hidden,
        heads=heads,
        head_size=head_size,
        attention="biased scores" if manifest.family == "encoder-decoder" else "scores",
        tied=manifest.family != "encoder",
    )


def tokenizer_bytes(manifest: Manifest, sizes: Footprint) -> int:
    """Of the tokenizer once it is read."""
    return _TOKENIZER_BYTES[_tokenizer_kind(manifest, sizes)] * manifest.vocab_size


def reading_bytes(manifest: Manifest) -> int:
    """What is there for a moment besides, while the tokenizer is read."""
    return _TOKENIZER_READING_BYTES.get(_tokenizer_kind(manifest, footprint_of(manifest)), 0) * manifest.vocab_size


def graph_bytes(manifest: Manifest, threads: int | None = None) -> int:
    """Of all loaded graphs and their ``threads``, without what is known to be weights; None: as many as pay here."""
    sizes = [manifest.files[name].size for name in set(manifest.graphs.values())]
    nodes = sum(_GRAPH_BYTES_PER_BYTE * (size if size < MB else _NODES_AMONG_WEIGHTS) for size in sizes)
    many = max(0, (threads or available_cores()) - _USUAL_THREADS)
    return nodes + _FURTHER_GRAPH * (len(sizes) - 1) + _THREAD_BYTES * many * len(sizes)


def weight_bytes(manifest: Manifest, sizes: Footprint) -> int:
    """Of all weights; what a file of embeddings holds is read row by row and takes none."""
    beside = _beside_bytes(manifest)
    inside = {name: manifest.files[name].size for name in set(manifest.graphs.values())}
    held = sum(size for size in inside.values() if size >= MB)
    twice = sum(_MERGED_SHARE * size for name, size in inside.items() if "merged" in name and size >= MB)
    shares_table = sizes.tied and manifest.embedding is None and _gives_logits(manifest)
    again = _table_bytes(manifest, sizes) if shares_table else 0
    return int(beside + held + max(twice, min(again, beside + held))) + _block_copies(manifest, sizes, beside)


def loading_bytes(manifest: Manifest, sizes: Footprint) -> int:
    """What is there for a moment while the weights are loaded."""
    if manifest.layout != NATIVE_LAYOUT:
        largest = max(entry.size for name, entry in manifest.files.items() if name in manifest.graphs.values())
        return int(_FOREIGN_LOADING_SHARE * max(largest, _beside_bytes(manifest)))
    scheme = manifest.quantization.get("scheme")
    layer = sizes.hidden_size * sizes.intermediate_size * (2 if sizes.gated else 1)
    largest = int(_LAYER_BYTES.get(str(scheme), _USUAL_WEIGHT_BYTES) * layer)
    if manifest.embedding is not None:
        pieces = _HEAD_PIECES if manifest.embedding.block_size is None else _BLOCK_HEAD_PIECES
        largest = max(largest, _table_bytes(manifest, sizes) // pieces)
    elif _gives_logits(manifest):
        largest = max(largest, _table_bytes(manifest, sizes))
    largest = min(largest, weight_bytes(manifest, sizes))  # sizes that are guessed may say more than there is
    return int(_LOADING_COPIES.get(str(scheme), _USUAL_LOADING_COPIES) * largest)


def cache_bytes(manifest: Manifest, kv_cache: KVCacheType = "f32") -> int:
    """Of a token in a cache of that type, or of a row's whole state."""
    if manifest.state is not None:
        return FLOAT_BYTES * manifest.state.layers * manifest.state.size
    if manifest.kv is None:
        return 0
    copies = 1 if manifest.layout == NATIVE_LAYOUT else _FOREIGN_CACHE_COPIES
    quantized = kv_cache == "int8" and manifest.layout == NATIVE_LAYOUT
    return int(copies * manifest.kv.bytes_per_token("int8" if quantized else None))


def cross_bytes(manifest: Manifest) -> int:
    """Of a source's token in cross-attention: keys and values as wide as the decoder's own, or somewhat less."""
    if manifest.state is not None:
        return 2 * FLOAT_BYTES * manifest.state.layers * manifest.state.size
    kv = manifest.kv
    return 0 if kv is None else 2 * FLOAT_BYTES * kv.layers * kv.kv_heads * kv.head_size


def run_values(manifest: Manifest, sizes: Footprint, *, tokens: int, scores: int) -> int:
    """Values that a run of ``tokens`` holds at one time, its attention ``scores``; without its outputs."""
    stream, attention, feed_forward = _LIVE_WIDTHS[manifest.family]
    inner = sizes.intermediate_size * (_GATED_WIDTH if sizes.gated else 1)
    outside = stream * sizes.hidden_size + attention * sizes.heads * sizes.head_size
    if manifest.family == "decoder" and sizes.attention == "biased scores":
        return int(tokens * outside + max(tokens * feed_forward * inner, scores))
    return int(tokens * (outside + feed_forward * inner) + scores)


def decoder_scores(manifest: Manifest, sizes: Footprint, *, tokens: int, longest: int) -> int:
    """Values that a decoder's attention holds for new tokens in rows that come to have ``longest``."""
    matrices = _SCORE_MATRICES[sizes.attention] if manifest.layout == NATIVE_LAYOUT else _FOREIGN_SCORE_MATRICES
    return matrices * sizes.heads * tokens * longest


def source_scores(manifest: Manifest, sizes: Footprint, *, tokens: int, longest: int) -> int:
    """Values that an encoder's attention holds for ``tokens`` in rows of ``longest``: scores, and one bias for all."""
    matrices: float = 1 if manifest.layout == NATIVE_LAYOUT else _FOREIGN_SCORE_MATRICES - 1
    if manifest.family == "encoder":
        matrices = max(matrices, _ENCODER_SCORE_MATRICES)
    if sizes.attention == "disentangled scores":
        matrices = max(matrices, _DISENTANGLED_SCORE_MATRICES)
    # The distances of which the bias is made take as much as four heads.
    bias = (sizes.heads + 4) * longest**2 if sizes.attention == "biased scores" else 0
    return int(matrices * sizes.heads * tokens * longest) + bias


def output_bytes(manifest: Manifest, sizes: Footprint) -> int:
    """Of an encoder's outputs for each token."""
    if "fill-mask" in manifest.tasks:
        return FLOAT_BYTES * manifest.vocab_size
    if "feature-extraction" in manifest.tasks:
        return FLOAT_BYTES * sizes.hidden_size
    return FLOAT_BYTES * max(2, len(manifest.head.labels) if manifest.head is not None else 0)


def takes_whole_prompts(manifest: Manifest) -> bool:
    """Whether a first run takes a prompt in one piece, and those behind it a token: graphs of others in two parts."""
    if manifest.layout == NATIVE_LAYOUT or manifest.family != "decoder":
        return False
    return "decoder_with_past" in manifest.graphs or "merged" in manifest.graphs["decoder"]


def _beside_bytes(manifest: Manifest) -> int:
    """Of the files that hold weights beside the graphs."""
    return sum(entry.size for entry in weight_files(manifest).values())


def _tokenizer_kind(manifest: Manifest, sizes: Footprint) -> str:
    return sizes.tokenizer or ("BPE" if manifest.family == "decoder" else "Unigram")


def _gives_logits(manifest: Manifest) -> bool:
    """Whether there is an output head as large as the table of embeddings."""
    return manifest.family != "encoder" or "fill-mask" in manifest.tasks


def _table_bytes(manifest: Manifest, sizes: Footprint) -> int:
    each = _TABLE_BYTES.get(str(manifest.quantization.get("scheme")), _USUAL_WEIGHT_BYTES)
    if manifest.layout != NATIVE_LAYOUT:
        each = FLOAT_BYTES
    return int(each * manifest.vocab_size * sizes.hidden_size)


def _block_copies(manifest: Manifest, sizes: Footprint, beside: int) -> int:
    """Of a decoder's block-wise weights; with a table in the graph, what that is counted again covers them."""
    if manifest.embedding is None or manifest.embedding.block_size is None:
        return 0
    head = min(_table_bytes(manifest, sizes), beside)
    layer_bytes = _LAYER_BYTES.get(str(manifest.quantization.get("scheme")), _USUAL_WEIGHT_BYTES)
    return int(_BLOCK_COPIES * ((beside - head) / layer_bytes + head / _USUAL_WEIGHT_BYTES))


def _usual_sizes(manifest: Manifest) -> tuple[int, int, int]:
    """(Hidden size, heads, head size)."""
    kv = manifest.kv
    if manifest.state is not None:
        return manifest.state.size, max(1, manifest.state.size // _USUAL_HEAD_SIZE), _USUAL_HEAD_SIZE
    if kv is None:  # no embedding is wider than all weights together make it, of one byte each
        held = _beside_bytes(manifest) + sum(manifest.files[name].size for name in set(manifest.graphs.values()))
        hidden = max(1, held // manifest.vocab_size)
        return hidden, max(1, hidden // _USUAL_HEAD_SIZE), min(hidden, _USUAL_HEAD_SIZE)
    if manifest.family == "encoder-decoder":
        return kv.kv_heads * kv.head_size, kv.kv_heads, kv.head_size
    if manifest.embedding is not None:
        columns = manifest.embedding.columns
        return columns, max(kv.kv_heads, columns // kv.head_size), kv.head_size
    heads = _USUAL_HEADS_PER_KV_HEAD * kv.kv_heads
    return heads * kv.head_size, heads, kv.head_size
