"""Tiny, real bundles of encoders: one layer of attention over embeddings, with any of the heads, and random weights.

``write_encoder_bundle(folder, sizes)`` makes a valid bundle; ``sizes.task`` chooses its head.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from support.bundles import move_weights, write_manifest
from support.tokenizers import SENTENCES
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from edgelm.bundle.manifest import Head, Manifest, Pooling, Source

GRAPH_NAME = "encoder.onnx"
WEIGHTS_NAME = "encoder.onnx.data"

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(5)
_LETTERS = tuple("abcdefghijklmnopqrstuvwxyz.,;?")
_WORDS = tuple(sorted({word.strip(".,;").lower() for text in SENTENCES[:4] for word in text.split() if len(word) > 2}))
VOCABULARY = (*SPECIAL_TOKENS, *_LETTERS, *(f"##{letter}" for letter in _LETTERS[:26]), *_WORDS)

LABELS = ("sad", "neutral", "glad")


@dataclass(frozen=True)
class TinyEncoder:
    """Sizes of the model and its task, one of ``encoder_contract.ENCODER_TASKS``."""

    task: str = "feature-extraction"
    hidden: int = 24
    heads: int = 3
    context_length: int = 64
    labels: tuple[str, ...] = LABELS
    problem_type: str = "single_label_classification"
    token_types: bool = True
    pooling: Pooling | None = None
    seed: int = 0


def encoder_tokenizer() -> Tokenizer:
    """WordPiece as in BERT: lower case, unknown words letter by letter."""
    vocabulary = {token: index for index, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    return tokenizer


def write_encoder_bundle(
    folder: Path,
    sizes: TinyEncoder | None = None,
    *,
    edit: Callable[[onnx.ModelProto], None] | None = None,
    files: Mapping[str, bytes] | None = None,
    **changes: Any,
) -> Path:
    """Writes an encoder bundle into ``folder``, made if need be, and returns it.

    ``edit``, ``files`` and ``changes`` as in ``support.bundles.write_decoder_bundle``.
    """
    sizes = sizes or TinyEncoder()
    folder.mkdir(parents=True, exist_ok=True)
    model = _EncoderGraph(sizes).build()
    move_weights(model, folder / WEIGHTS_NAME)
    if edit is not None:
        edit(model)
    (folder / GRAPH_NAME).write_bytes(model.SerializeToString())
    config = {"model_type": "bert", "hidden_size": sizes.hidden, "num_attention_heads": sizes.heads}
    texts = {"tokenizer.json": encoder_tokenizer().to_str().encode(), "config.json": json.dumps(config).encode()}
    for name, data in {**texts, **(files or {})}.items():
        (folder / name).write_bytes(data)
    return write_manifest(folder, encoder_manifest(sizes), **changes)


def encoder_manifest(sizes: TinyEncoder | None = None) -> Manifest:
    """The manifest of ``write_encoder_bundle``, without its files."""
    sizes = sizes or TinyEncoder()
    has_labels = sizes.task in ("text-classification", "text-ranking", "token-classification")
    more = ("sentence-similarity",) if sizes.pooling is not None else ()
    return Manifest(
        name="tiny-encoder",
        architecture="bert",
        family="encoder",
        tasks=(sizes.task, *more),
        graphs={"encoder": GRAPH_NAME},
        context_length=sizes.context_length,
        vocab_size=len(VOCABULARY),
        kv=None,
        bos_token_id=None,
        eos_token_id=(),
        quantization={"scheme": "fp32"},
        files={},
        source=Source("test:tiny-encoder", license="Apache-2.0"),
        pad_token_id=PAD,
        head=Head(sizes.labels, sizes.problem_type) if has_labels else None,
        pooling=sizes.pooling,
        tool_versions={"edgelm": "0"},
    )


class _EncoderGraph:
    def __init__(self, sizes: TinyEncoder) -> None:
        self._sizes = sizes
        self._random = np.random.default_rng(sizes.seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[TensorProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def build(self) -> onnx.ModelProto:
        sizes = self._sizes
        hidden = self._embeddings()
        mask = self._node("Cast", ["attention_mask"], "mask", to=TensorProto.INT32)
        parts = ("query", "key", "value")
        packed = [self._node("MatMul", [hidden, self._matrix(f"w_{part}")], part) for part in parts]
        attended = self._node(
            "MultiHeadAttention",
            [*packed, "", mask],
            "attended",
            domain="com.microsoft",
            num_heads=sizes.heads,
        )
        added = self._node("Add", [hidden, attended], "added")
        norm = [self._weight("norm_scale", np.ones(sizes.hidden)), self._weight("norm_bias", np.zeros(sizes.hidden))]
        bare = sizes.task == "feature-extraction"
        normed = self._node(
            "LayerNormalization", [added, *norm], "last_hidden_state" if bare else "normed", axis=-1, epsilon=1e-6
        )
        self._head(normed)
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if sizes.token_types else [])]
        inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "sequence"]) for n in names]
        graph = helper.make_graph(self._nodes, "encoder", inputs, self._outputs, self._weights)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def _embeddings(self) -> str:
        sizes = self._sizes
        hidden = self._node("Gather", [self._matrix("embeddings", len(VOCABULARY), scale=1.0), "input_ids"], "words")
        if sizes.token_types:
            types = self._node("Gather", [self._matrix("types", 2, scale=1.0), "token_type_ids"], "typed")
            hidden = self._node("Add", [hidden, types], "with_types")
        positions = self._matrix("positions", sizes.context_length)
        zero = self._weight("zero", np.array([0]), np.int64)
        length = self._node("Shape", ["input_ids"], "length", start=1, end=2)
        return self._node("Add", [hidden, self._node("Slice", [positions, zero, length], "placed")], "embedded")

    def _head(self, hidden: str) -> None:
        task, rows = self._sizes.task, ["batch", "sequence"]
        if task == "feature-extraction":
            self._output("last_hidden_state", [*rows, self._sizes.hidden])
        elif task in ("text-classification", "text-ranking"):
            first = self._node("Gather", [hidden, self._weight("first", np.array(0), np.int64)], "first_rows", axis=1)
            self._logits(first, len(self._sizes.labels), ["batch"])
        elif task == "question-answering":
            both = self._node("MatMul", [hidden, self._matrix("head", columns=2)], "spans")
            axis = self._weight("axis", np.array([-1]), np.int64)
            for place, name in enumerate(("start_logits", "end_logits")):
                bounds = [self._weight(f"{name}_{end}", np.array([place + end]), np.int64) for end in (0, 1)]
                cut = self._node("Slice", [both, *bounds, axis], f"{name}_cut")
                self._node("Squeeze", [cut, axis], name)
                self._output(name, rows)
        else:
            width = len(VOCABULARY) if task == "fill-mask" else len(self._sizes.labels)
            self._logits(hidden, width, rows)

    def _logits(self, hidden: str, width: int, rows: list[str]) -> None:
        self._node("MatMul", [hidden, self._matrix("head", columns=width)], "logits")
        self._output("logits", [*rows, width])

    def _output(self, name: str, dims: list[Any]) -> None:
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))

    def _matrix(self, name: str, rows: int | None = None, columns: int | None = None, scale: float = 0.5) -> str:
        shape = (rows or self._sizes.hidden, columns or self._sizes.hidden)
        return self._weight(name, self._random.normal(0.0, scale, shape))

    def _weight(self, name: str, values: NDArray[Any], dtype: Any = np.float32) -> str:
        self._weights.append(numpy_helper.from_array(values.astype(dtype), name))
        return name

    def _node(self, operator: str, inputs: list[str], output: str, *, domain: str = "", **attributes: Any) -> str:
        self._nodes.append(helper.make_node(operator, inputs, [output], f"{output}_node", domain=domain, **attributes))
        return output
