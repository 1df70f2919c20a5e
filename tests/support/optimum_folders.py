"""Folders that optimum makes of tiny checkpoints, and others made of those: as Transformers.js and genai have them."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from support.gpt_checkpoints import gpt_variant
from support.tiny_checkpoints import reference_model, variant, write_checkpoint
from support.tiny_seq2seq import seq2seq_model, seq2seq_variant

DECODERS = ("gpt2", "bloom.five_heads", "llama", "opt")
SEQ2SEQ = ("t5", "bart", "marian")


def checkpoint(name: str) -> Any:
    """transformers' model of that name, with random weights."""
    if name in SEQ2SEQ:
        found = seq2seq_variant(name)
        if name != "t5":  # optimum's exporter makes the decoder's inputs of the encoder's number of heads
            found = replace(found, settings=found.settings | {"decoder_attention_heads": 4})
        return seq2seq_model(found)
    is_gpt = name.partition(".")[0] in ("gpt2", "bloom", "opt")
    return reference_model(gpt_variant(name) if is_gpt else variant(name))


def export(folder: Path, model: Any, task: str) -> Path:
    """What ``optimum-cli export onnx`` writes."""
    source = write_checkpoint(folder.with_name(f"{folder.name}.checkpoint"), model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from optimum.exporters.onnx import main_export

        main_export(str(source), str(folder), task=task, library_name="transformers", do_validation=False)
    shutil.copy(source / "tokenizer.json", folder)
    return folder


def as_transformers_js(folder: Path, target: Path) -> Path:
    """The folder as Transformers.js has it: graphs in ``onnx``, each also quantized."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnxruntime.quantization import QuantType, quantize_dynamic

        shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.onnx"))
        (target / "onnx").mkdir()
        for graph in folder.glob("*.onnx"):
            shutil.copy(graph, target / "onnx")
            quantize_dynamic(graph, target / "onnx" / f"{graph.stem}_quantized.onnx", weight_type=QuantType.QUInt8)
    return target


def as_genai(graph: Path, target: Path, *, config: dict[str, Any], kv_heads: int, head_size: int) -> Path:
    """A graph of ours as onnxruntime-genai's builder makes it of the same operators.

    Lengths come from the attention mask, logits of all tokens are given, and inputs have names of their own.
    """
    model = onnx.load(graph)
    body = model.graph
    for value in list(body.input):
        if value.name in ("seqlens_k", "total_sequence_length", "logit_index"):
            body.input.remove(value)
    body.input.append(helper.make_tensor_value_info("mask", TensorProto.INT64, ("batch", "total")))
    constants = {"g.one": np.array([1]), "g.1": np.array(1), "g.0": np.array(0), "g.flat": np.array([-1])}
    body.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    front = [
        helper.make_node("ReduceSum", ["mask", "g.one"], ["g.sums"], keepdims=0),
        helper.make_node("Sub", ["g.sums", "g.1"], ["g.last"]),
        helper.make_node("Cast", ["g.last"], ["seqlens_k"], to=TensorProto.INT32),
        helper.make_node("Shape", ["mask"], ["g.shape"]),
        helper.make_node("Gather", ["g.shape", "g.1"], ["g.total"]),
        helper.make_node("Cast", ["g.total"], ["total_sequence_length"], to=TensorProto.INT32),
        helper.make_node("Size", ["input_ids"], ["g.size"]),
        helper.make_node("Range", ["g.0", "g.size", "g.1"], ["logit_index"]),
        helper.make_node("Shape", ["input_ids"], ["g.ids"]),
        helper.make_node("Concat", ["g.ids", "g.flat"], ["g.wanted"], axis=0),
    ]
    nodes = [*front, *body.node, helper.make_node("Reshape", ["logits", "g.wanted"], ["scores"])]
    del body.node[:]
    body.node.extend(nodes)
    logits = next(value for value in body.output if value.name == "logits")
    width = logits.type.tensor_type.shape.dim[1].dim_value
    body.output.remove(logits)
    body.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ("batch", "tokens", width)))
    for value in body.input:  # the builder leaves the size of the heads open
        if value.name.startswith("past_key_values."):
            value.type.tensor_type.shape.dim[3].dim_param = "kv_cache_dim"
    target.mkdir()
    for file in graph.parent.iterdir():
        if file.name.endswith(".data"):
            shutil.copy(file, target)
    (target / "model.onnx").write_bytes(model.SerializeToString())
    _write_genai_config(target, config, kv_heads=kv_heads, head_size=head_size)
    return target


def _write_genai_config(target: Path, config: dict[str, Any], *, kv_heads: int, head_size: int) -> None:
    import json

    decoder = {
        "filename": "model.onnx",
        "head_size": head_size,
        "num_attention_heads": config["num_attention_heads"],
        "num_key_value_heads": kv_heads,
        "num_hidden_layers": config["num_hidden_layers"],
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "scores",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    model = {
        "type": "llama",
        "vocab_size": config["vocab_size"],
        "context_length": config["max_position_embeddings"],
        "eos_token_id": [2],
        "bos_token_id": 1,
        "decoder": decoder,
    }
    search = {"do_sample": False, "top_k": 50, "max_length": 96}
    (target / "genai_config.json").write_text(json.dumps({"model": model, "search": search}))
