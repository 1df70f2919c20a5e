"""Folders of other tools: recognised by their files, read into a manifest, and held to the same rules as bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from support.foreign_graphs import BERT, CONFIG, VOCABULARY, decoder, encoder, write_folder

from edgelm.bundle.bundle import is_foreign, open_bundle
from edgelm.bundle.layouts.read import layout_of
from edgelm.bundle.manifest import KVGeometry, Pooling
from edgelm.config import GenerationConfig
from edgelm.errors import ConfigError, EdgeLMError, IntegrityError, ModelError, UnsupportedModelError

GENAI_MODEL: dict[str, Any] = {
    "type": "llama",
    "vocab_size": VOCABULARY,
    "context_length": 40,
    "eos_token_id": [2, 3],
    "decoder": {
        "filename": "g.onnx",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 2,
        "head_size": 3,
        "inputs": {"past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"},
        "outputs": {"present_key_names": "present.%d.key", "present_value_names": "present.%d.value"},
    },
}
MODULES = [
    {"path": "", "type": "sentence_transformers.models.Transformer"},
    {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
SENTENCES: dict[str, Any] = {
    "config.json": BERT,
    "modules.json": MODULES,
    "1_Pooling/config.json": {"word_embedding_dimension": 4, "pooling_mode_cls_token": True},
    "2_Normalize/none": "",
    "sentence_bert_config.json": {"max_seq_length": 20},
    "onnx/model.onnx": encoder(output="token_embeddings"),
}


def refusal(folder: Path, kind: type[EdgeLMError] = ModelError) -> str:
    with pytest.raises(kind) as caught:
        open_bundle(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_decoder_of_optimum(tmp_path: Path) -> None:
    tokenizer_config = {"chat_template": "{{ messages }}", "eos_token": {"content": "</s>"}, "bos_token": "<s>"}
    files = {"config.json": CONFIG, "model.onnx": decoder(), "tokenizer_config.json": tokenizer_config}
    bundle = open_bundle(write_folder(tmp_path / "my model", files))
    manifest = bundle.manifest
    assert (manifest.name, manifest.layout, manifest.family) == ("my model", "optimum", "decoder")
    assert (manifest.context_length, manifest.vocab_size) == (40, VOCABULARY)
    assert manifest.kv == KVGeometry(layers=2, kv_heads=2, head_size=3)
    assert (manifest.bos_token_id, manifest.eos_token_id) == (1, (2,))
    assert manifest.tasks == ("text-generation", "chat")
    assert bundle.read_text("chat_template.jinja", 100) == "{{ messages }}"
    assert bundle.read_json("special_tokens.json") == {"eos_token": "</s>", "bos_token": "<s>"}
    assert list(manifest.files) == ["model.onnx", "tokenizer_config.json", "config.json"]


def test_the_settings_of_a_generation_are_those_of_its_file_or_of_the_old_place(tmp_path: Path) -> None:
    old = CONFIG | {"num_beams": 3, "max_length": 20, "top_k": 50, "bad_words_ids": [[4]]}
    folder = write_folder(tmp_path, {"config.json": old, "model.onnx": decoder()})
    # The values that transformers writes into every configuration say nothing.
    assert open_bundle(folder).generation_defaults() == GenerationConfig(
        num_beams=3, bad_words_ids=((4,),), eos_token_id=(2,)
    )
    write_folder(tmp_path, {"generation_config.json": {"eos_token_id": [2, 5], "temperature": 0.5}})
    assert open_bundle(folder).generation_defaults() == GenerationConfig(eos_token_id=(2, 5), temperature=0.5)
    assert open_bundle(folder).manifest.eos_token_id == (2, 5)


def test_a_folder_of_transformers_js(tmp_path: Path) -> None:
    files = {"config.json": CONFIG, "onnx/model.onnx": decoder(), "onnx/model_q4f16.onnx": decoder(half=True)}
    folder = write_folder(tmp_path, files)
    bundle = open_bundle(folder)
    assert (bundle.manifest.layout, bundle.variant, bundle.variants) == ("transformers.js", "fp32", ("fp32", "q4f16"))
    assert bundle.path(bundle.manifest.graphs["decoder"]) == folder / "onnx" / "model.onnx"
    half = open_bundle(folder, variant="q4f16").manifest
    assert half.kv is not None
    assert (half.graphs, half.kv.dtype) == ({"decoder": "onnx/model_q4f16.onnx"}, "float16")
    with pytest.raises(ConfigError, match="no variant 'q4'; the folder has fp32, q4f16"):
        open_bundle(folder, variant="q4")


def test_a_folder_of_sentence_transformers(tmp_path: Path) -> None:
    bundle = open_bundle(write_folder(tmp_path, SENTENCES))
    manifest = bundle.manifest
    assert manifest.layout == "sentence-transformers"
    assert manifest.pooling == Pooling("cls", normalize=True)
    assert (manifest.context_length, manifest.renamed) == (20, {"last_hidden_state": "token_embeddings"})
    assert manifest.tasks == ("feature-extraction", "sentence-similarity")
    in_root = {name.removeprefix("onnx/"): content for name, content in SENTENCES.items()}
    flat = open_bundle(write_folder(tmp_path / "flat", in_root)).manifest
    assert (flat.layout, flat.graphs) == ("sentence-transformers", {"encoder": "model.onnx"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modules.json": [*MODULES, {"path": "3", "type": "sentence_transformers.models.Dense"}]}, "'Dense'"),
        ({"modules.json": {"a": 1}}, "must be a list of at most 16 objects"),
        ({"modules.json": [{"path": "../x", "type": "x.Pooling"}]}, "path '../x' is no folder of the model"),
        ({"1_Pooling/config.json": {"pooling_mode_weightedmean_tokens": True}}, "pooling_mode_weightedmean_tokens"),
        ({"1_Pooling/config.json": {}}, "pooling of no kind"),
        ({"sentence_bert_config.json": {"max_seq_length": "x"}}, "max_seq_length must be a whole number"),
    ],
)
def test_what_sentence_transformers_has_and_edgelm_not_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    assert message in refusal(write_folder(tmp_path, SENTENCES | changes))


@pytest.mark.parametrize(
    ("config", "graph", "task"),
    [
        ({"id2label": {"0": "no", "1": "yes"}}, encoder(output="logits", shape=("b", 2)), "text-classification"),
        ({"id2label": {"0": "score"}}, encoder(output="logits", shape=("b", 1)), "text-ranking"),
        ({"id2label": {"1": "B", "0": "A"}}, encoder(output="logits", shape=("b", "t", 2)), "token-classification"),
        ({"id2label": {"0": "A", "1": "B"}}, encoder(output="logits", shape=("b", "t", VOCABULARY)), "fill-mask"),
        ({}, encoder(), "feature-extraction"),
    ],
)
def test_an_encoder_is_for_what_its_outputs_are(
    tmp_path: Path, config: dict[str, Any], graph: onnx.ModelProto, task: str
) -> None:
    folder = write_folder(tmp_path, {"config.json": BERT | config, "model.onnx": graph})
    manifest = open_bundle(folder).manifest
    assert manifest.tasks[0] == task
    labels = None if manifest.head is None else manifest.head.labels
    assert labels == {"token-classification": ("A", "B"), "text-ranking": ("score",)}.get(
        task, ("no", "yes") if task == "text-classification" else None
    )


@pytest.mark.parametrize(
    ("name", "shape", "axes"),
    [("last_hidden_state", ("b", 4), 3), ("token_embeddings", ("b", 4), 3), ("start_logits", ("b", "t", 1), 2)],
)
def test_an_encoders_output_without_the_axes_of_its_task_is_refused(
    tmp_path: Path, name: str, shape: tuple[Any, ...], axes: int
) -> None:
    graph = encoder(output=name, shape=shape)
    if name == "start_logits":
        graph.graph.node.append(onnx.helper.make_node("Identity", [name], ["end_logits"]))
        graph.graph.output.append(onnx.helper.make_tensor_value_info("end_logits", onnx.TensorProto.FLOAT, shape))
    usual = "last_hidden_state" if axes == 3 else name
    message = refusal(write_folder(tmp_path, {"config.json": BERT, "model.onnx": graph}))
    assert f"output {usual} must be float32 of {axes} axes" in message


def test_positions_that_padding_takes_are_not_given_to_texts(tmp_path: Path) -> None:
    roberta = BERT | {"model_type": "roberta", "max_position_embeddings": 34, "pad_token_id": 1}
    folder = write_folder(tmp_path, {"config.json": roberta, "model.onnx": encoder()})
    assert open_bundle(folder).manifest.context_length == 32
    write_folder(tmp_path, {"tokenizer_config.json": {"model_max_length": 30}})
    assert open_bundle(folder).manifest.context_length == 30
    write_folder(tmp_path, {"tokenizer_config.json": {"model_max_length": 10**30}})
    assert open_bundle(folder).manifest.context_length == 32


def test_a_folder_of_genai(tmp_path: Path) -> None:
    document = {"model": GENAI_MODEL, "search": {"do_sample": True, "temperature": 0.6, "max_length": 40, "x": 1}}
    bundle = open_bundle(write_folder(tmp_path, {"genai_config.json": document, "g.onnx": decoder()}))
    manifest = bundle.manifest
    assert (manifest.layout, manifest.eos_token_id, manifest.context_length) == ("onnxruntime-genai", (2, 3), 40)
    assert bundle.generation_defaults() == GenerationConfig(do_sample=True, temperature=0.6, eos_token_id=(2, 3))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (GENAI_MODEL | {"vision": {}}, "a part 'vision'"),
        ({key: value for key, value in GENAI_MODEL.items() if key != "decoder"}, "no decoder"),
        (GENAI_MODEL | {"decoder": GENAI_MODEL["decoder"] | {"pipeline": []}}, "in several graphs"),
        (GENAI_MODEL | {"decoder": GENAI_MODEL["decoder"] | {"filename": "../g.onnx"}}, "'../g.onnx' is not in"),
        (GENAI_MODEL | {"context_length": 0}, "model.context_length must be an integer from 1"),
    ],
)
def test_what_a_genai_config_says_is_checked(tmp_path: Path, model: dict[str, Any], message: str) -> None:
    folder = write_folder(tmp_path, {"genai_config.json": {"model": model}, "g.onnx": decoder()})
    assert message in refusal(folder)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (decoder(extra_input="inputs_embeds"), "input 'inputs_embeds' is not one that EdgeLM can feed"),
        (decoder(present_names="other.{layer}.{part}"), "has no output present.0.key of its kind"),
        (decoder(past=False), "was exported without its past"),
        (decoder(past_shape=(1, 2, "past", 3)), "must be of the model's heads and type"),
        (decoder(logits="scores"), "output logits must be floats"),
    ],
)
def test_inputs_and_outputs_that_could_not_be_run_are_refused(
    tmp_path: Path, graph: onnx.ModelProto, message: str
) -> None:
    folder = write_folder(tmp_path, {"config.json": CONFIG, "model.onnx": graph})
    assert message in refusal(folder)


def test_the_odd_past_of_older_bloom_exports_is_refused_by_name(tmp_path: Path) -> None:
    odd = decoder(past_shape=("batch_times_heads", 3, "past"))
    folder = write_folder(tmp_path, {"config.json": CONFIG | {"model_type": "bloom", "n_head": 2}, "model.onnx": odd})
    text = refusal(folder, UnsupportedModelError)
    assert "past_key_values.0.key" in text
    assert "older exports of BLOOM" in text


def _branch(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    made = [helper.make_node("Cast", ["input_ids"], ["kind"], to=TensorProto.FLOAT), *nodes]
    return helper.make_graph(made, "branch", [], [helper.make_tensor_value_info("kind", TensorProto.FLOAT, None)])


def _with_if(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    model = encoder()
    condition = helper.make_node("Constant", [], ["always"], value=helper.make_tensor("", TensorProto.BOOL, (), [True]))
    inner = helper.make_node("If", ["always"], ["inner"], then_branch=_branch(*nodes), else_branch=_branch())
    outer = helper.make_node("If", ["always"], ["chosen"], then_branch=_branch(inner), else_branch=_branch())
    model.graph.node.extend([condition, outer])
    return model


def test_branches_are_allowed_and_looked_into(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"config.json": BERT, "model.onnx": _with_if()})
    assert open_bundle(folder).graphs["encoder"].operators["If"] == 2
    body = helper.make_graph([], "body", [], [])
    for node in (
        helper.make_node("Loop", ["", "always"], ["x"], body=body),
        helper.make_node("Anything", [], ["x"], domain="evil"),
        helper.make_node("Cast", ["input_ids"], ["x"], to=1, body=body),
    ):
        write_folder(folder, {"model.onnx": _with_if(node)})
        assert any(what in refusal(folder) for what in ("is not an operator", "holds a graph of its own"))


def test_weights_inside_branches_lie_in_the_folder(tmp_path: Path) -> None:
    model = _with_if()
    outer = next(a.g for a in model.graph.node[-1].attribute if a.name == "then_branch")
    inner = next(a.g for a in outer.node[-1].attribute if a.name == "then_branch")
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    inner.initializer.append(tensor)
    text = refusal(write_folder(tmp_path, {"config.json": BERT, "model.onnx": model}))
    assert "tensor 'w' lies in '../secret', which is not a safe file name" in text


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = write_folder(tmp_path / "outside", {"model.onnx": encoder()})
    folder = write_folder(tmp_path / "folder", {"config.json": BERT})
    (folder / "model.onnx").symlink_to(outside / "model.onnx")
    assert not is_foreign(folder)
    (folder / "model.onnx").unlink()
    (folder / "onnx").symlink_to(outside)
    assert not is_foreign(folder)
    assert "edgelm.json is missing" in refusal(folder, IntegrityError)


@pytest.mark.parametrize(
    ("files", "layout"),
    [
        ({}, None),
        ({"model.onnx": ""}, None),
        ({"config.json": {}}, None),
        ({"config.json": {}, "decoder.onnx": ""}, None),
        ({"config.json": {}, "model_O2.onnx": ""}, "optimum"),
        ({"config.json": {}, "onnx/decoder_model_merged_quantized.onnx": ""}, "transformers.js"),
        ({"config.json": {}, "modules.json": [], "onnx/model.onnx": ""}, "sentence-transformers"),
        ({"genai_config.json": {}}, "onnxruntime-genai"),
    ],
)
def test_a_layout_is_told_by_names(tmp_path: Path, files: dict[str, Any], layout: str | None) -> None:
    assert layout_of(write_folder(tmp_path, files)) == layout


@pytest.mark.parametrize("content", ["{", '{"a": 1, "a": 2}', "[]", '{"vocab_size": NaN}', '{"vocab_size": -1}'])
def test_a_broken_config_is_named(tmp_path: Path, content: str) -> None:
    folder = write_folder(tmp_path, {"config.json": content, "model.onnx": encoder()})
    assert "config.json" in refusal(folder)


def test_a_bundle_has_no_variants(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"edgelm.json": {}, "config.json": BERT, "model.onnx": encoder()})
    assert not is_foreign(folder)
    with pytest.raises(ConfigError, match="has no variants; 'int8' was asked for"):
        open_bundle(folder, variant="int8")
