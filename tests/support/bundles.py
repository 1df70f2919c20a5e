"""Tiny, real bundles for tests: a LLaMA-like decoder that ONNX Runtime runs, with random weights and a tokenizer.

``write_decoder_bundle(folder)`` makes a valid bundle; ``seal(folder)`` makes it valid again after a test changed files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgelm.bundle.home import stamps_folder
from edgelm.bundle.manifest import MANIFEST_NAME, FileEntry, KVGeometry, Manifest, Source, parse_manifest
from edgelm.bundle.opened import remember

GRAPH_NAME = "decoder.onnx"
WEIGHTS_NAME = "decoder.onnx.data"

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
UNK, BOS, EOS = range(3)
# Byte-level: "Ġ" is the space. Text of lower-case letters, spaces, "." and "?" survives encode and decode.
VOCABULARY = (*SPECIAL_TOKENS, "Ġ", *"abcdefghijklmnopqrstuvwxyz", ".", "?")

CHAT_TEMPLATE = "{% for message in messages %}{{ message.content }}.{% endfor %}"


@dataclass(frozen=True)
class TinyDecoder:
    """Sizes of the model. ``head_size`` must be a multiple of 16: the attention operator applies RoPE itself.

    ``learned_positions``: adds vectors that it looks up by ``position_ids``.
    """

    layers: int = 1
    vocab_size: int = len(VOCABULARY)
    hidden: int = 16
    heads: int = 2
    kv_heads: int = 1
    head_size: int = 16
    ffn: int = 32
    context_length: int = 64
    seed: int = 0
    learned_positions: bool = False


def decoder_model(sizes: TinyDecoder | None = None) -> onnx.ModelProto:
    """The step graph of the native contract, its weights inside."""
    return _DecoderGraph(sizes or TinyDecoder()).build()


def write_decoder_bundle(
    folder: Path,
    sizes: TinyDecoder | None = None,
    *,
    edit: Callable[[onnx.ModelProto], None] | None = None,
    files: Mapping[str, bytes] | None = None,
    **changes: Any,
) -> Path:
    """Writes a decoder bundle into ``folder`` (made if need be) and returns it.

    ``edit`` changes the model before it is written (its weights lie in ``decoder.onnx.data`` by then), ``files`` adds
    or replaces files, ``changes`` are fields of the manifest.
    """
    sizes = sizes or TinyDecoder()
    folder.mkdir(parents=True, exist_ok=True)
    model = decoder_model(sizes)
    move_weights(model, folder / WEIGHTS_NAME)
    if edit is not None:
        edit(model)
    (folder / GRAPH_NAME).write_bytes(model.SerializeToString())
    texts = {
        "tokenizer.json": tokenizer_json(),
        "generation_config.json": json.dumps({"eos_token_id": EOS, "max_new_tokens": 32}).encode(),
        "chat_template.jinja": CHAT_TEMPLATE.encode(),
        "config.json": json.dumps({"model_type": "llama", "vocab_size": sizes.vocab_size}).encode(),
    }
    for name, data in {**texts, **(files or {})}.items():
        (folder / name).write_bytes(data)
    return write_manifest(folder, decoder_manifest(sizes), **changes)


def decoder_manifest(sizes: TinyDecoder | None = None) -> Manifest:
    """The manifest of ``write_decoder_bundle``, without its files."""
    sizes = sizes or TinyDecoder()
    return Manifest(
        name="tiny",
        architecture="llama",
        family="decoder",
        tasks=("text-generation", "chat"),
        graphs={"decoder": GRAPH_NAME},
        context_length=sizes.context_length,
        vocab_size=sizes.vocab_size,
        kv=KVGeometry(sizes.layers, sizes.kv_heads, sizes.head_size),
        bos_token_id=BOS,
        eos_token_id=(EOS,),
        quantization={"scheme": "fp32"},
        files={},
        source=Source("test:tiny", license="Apache-2.0"),
        tool_versions={"edgelm": "0"},
    )


def seal(folder: Path, **changes: Any) -> Path:
    """Writes the manifest anew with the files as they are now: what a test changed is then what was meant."""
    return write_manifest(folder, parse_manifest((folder / MANIFEST_NAME).read_bytes()), **changes)


def write_manifest(folder: Path, manifest: Manifest, **changes: Any) -> Path:
    """Writes ``edgelm.json`` with sizes and hashes of all files in ``folder``; returns ``folder``."""
    entries = {path.name: file_entry(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST_NAME}
    manifest = replace(manifest, **{"files": entries, **changes})
    (folder / MANIFEST_NAME).write_bytes(manifest.to_json())
    remember(folder, manifest, stamps=None)  # made here: to open it is no first time
    return folder


def made_here(folder: Path) -> Path:
    """Has ``EDGELM_HOME`` say that the bundle was converted there, as ``edgelm export`` does; returns ``folder``."""
    remember(folder, parse_manifest((folder / MANIFEST_NAME).read_bytes()), stamps=stamps_folder())
    return folder


def file_entry(path: Path) -> FileEntry:
    """Size and hash of a file as it is."""
    data = path.read_bytes()
    return FileEntry(size=len(data), sha256=hashlib.sha256(data).hexdigest())


def move_weights(model: onnx.ModelProto, path: Path) -> None:
    """Moves the float initializers into one file, each at a multiple of 64 bytes; shapes must stay in the graph."""
    with path.open("wb") as file:
        for tensor in model.graph.initializer:
            if tensor.data_type != TensorProto.FLOAT:
                continue
            file.write(b"\0" * (-file.tell() % 64))
            place = {"location": path.name, "offset": file.tell(), "length": len(tensor.raw_data)}
            file.write(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for name, value in place.items():
                tensor.external_data.add(key=name, value=str(value))


def tokenizer_json() -> bytes:
    """A byte-level BPE tokenizer of one token a letter; puts nothing around the text."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    special = [
        {"id": index, "content": token, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False, "special": True}
        for index, token in enumerate(SPECIAL_TOKENS)
    ]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<unk>",
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {token: index for index, token in enumerate(VOCABULARY)},
        "merges": [],
    }
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": model,
    }
    return json.dumps(document, ensure_ascii=False).encode()


class _DecoderGraph:
    """Builds the graph layer by layer; weight names follow the layer they belong to."""

    def __init__(self, sizes: TinyDecoder) -> None:
        self._sizes = sizes
        self._random = np.random.default_rng(sizes.seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[TensorProto] = []

    def build(self) -> onnx.ModelProto:
        sizes = self._sizes
        self._add_rope_tables()
        embeddings = self._matrix("embeddings", sizes.vocab_size, sizes.hidden, scale=1.0)
        hidden = self._node("Gather", [embeddings, "input_ids"], "embedded")
        if sizes.learned_positions:
            table = self._matrix("positions", sizes.context_length, sizes.hidden, scale=1.0)
            places = self._node("Gather", [table, "position_ids"], "places")
            hidden = self._node("Add", [hidden, places], "placed")
        for layer in range(sizes.layers):
            hidden = self._layer(layer, hidden)
        rows = self._node("Reshape", [hidden, self._weight("row_shape", np.array([-1, sizes.hidden]))], "rows")
        chosen = self._node("Gather", [rows, "logit_index"], "chosen_rows")
        normed = self._norm("final_norm", chosen)
        self._node("MatMul", [normed, self._matrix("head", sizes.hidden, sizes.vocab_size)], "logits")
        inputs, outputs = self._values()
        graph = helper.make_graph(self._nodes, "decoder", inputs, outputs, self._weights)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def _layer(self, layer: int, hidden: str) -> str:
        sizes, name = self._sizes, f"layer{layer}"
        query_width = sizes.heads * sizes.head_size
        packed_width = query_width + 2 * sizes.kv_heads * sizes.head_size
        normed = self._norm(f"{name}_attention_norm", hidden)
        packed = self._node(
            "MatMul", [normed, self._matrix(f"{name}_qkv", sizes.hidden, packed_width)], f"{name}_packed"
        )
        past = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
        attended = self._node(
            "GroupQueryAttention",
            [packed, "", "", *past, "seqlens_k", "total_sequence_length", "rope_cos", "rope_sin"],
            f"{name}_attended",
            *(f"present.{layer}.{part}" for part in ("key", "value")),
            domain="com.microsoft",
            num_heads=sizes.heads,
            kv_num_heads=sizes.kv_heads,
            do_rotary=1,
        )
        out = self._node("MatMul", [attended, self._matrix(f"{name}_o", query_width, sizes.hidden)], f"{name}_out")
        hidden = self._node("Add", [hidden, out], f"{name}_residual")
        normed = self._norm(f"{name}_ffn_norm", hidden)
        up = self._node("MatMul", [normed, self._matrix(f"{name}_up", sizes.hidden, sizes.ffn)], f"{name}_up_out")
        active = self._node("QuickGelu", [up], f"{name}_silu", domain="com.microsoft", alpha=1.0)
        down = self._node("MatMul", [active, self._matrix(f"{name}_down", sizes.ffn, sizes.hidden)], f"{name}_down_out")
        return self._node("Add", [hidden, down], f"{name}_hidden")

    def _values(self) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
        sizes = self._sizes
        inputs = [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["B", "S"]),
            helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, ["B"]),
            helper.make_tensor_value_info("total_sequence_length", TensorProto.INT32, []),
            helper.make_tensor_value_info("logit_index", TensorProto.INT64, ["R"]),
        ]
        if sizes.learned_positions:
            inputs.append(helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["B", "S"]))
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["R", sizes.vocab_size])]
        shape = ["B", sizes.kv_heads, "T", sizes.head_size]
        for layer in range(sizes.layers):
            for part in ("key", "value"):
                past, present = f"past_key_values.{layer}.{part}", f"present.{layer}.{part}"
                inputs.append(helper.make_tensor_value_info(past, TensorProto.FLOAT, shape))
                outputs.append(helper.make_tensor_value_info(present, TensorProto.FLOAT, shape))
        return inputs, outputs

    def _add_rope_tables(self) -> None:
        half = self._sizes.head_size // 2
        frequencies = 10_000.0 ** (-np.arange(half) / half)
        angles = np.outer(np.arange(self._sizes.context_length), frequencies)
        self._weight("rope_cos", np.cos(angles).astype(np.float32))
        self._weight("rope_sin", np.sin(angles).astype(np.float32))

    def _norm(self, name: str, hidden: str) -> str:
        scale = self._weight(f"{name}_scale", np.ones(self._sizes.hidden, np.float32))
        return self._node("SimplifiedLayerNormalization", [hidden, scale], f"{name}_out", epsilon=1e-5, axis=-1)

    def _matrix(self, name: str, rows: int, columns: int, scale: float = 0.5) -> str:
        return self._weight(name, self._random.normal(0.0, scale, (rows, columns)).astype(np.float32))

    def _weight(self, name: str, values: NDArray[Any]) -> str:
        self._weights.append(numpy_helper.from_array(values, name))
        return name

    def _node(self, operator: str, inputs: list[str], *outputs: str, domain: str = "", **attributes: Any) -> str:
        name = f"{outputs[0]}_{operator}"
        self._nodes.append(helper.make_node(operator, inputs, list(outputs), name, domain=domain, **attributes))
        return outputs[0]
