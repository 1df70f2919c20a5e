"""Bundles through optimum: what is handed to it, and that what it makes is held to the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelm.bundle.bundle import open_bundle
from edgelm.bundle.manifest import Source
from edgelm.config import RuntimeConfig
from edgelm.errors import BundleExistsError, ConfigError, MissingDependencyError, ModelError, UnsupportedModelError
from edgelm.runtime.foreign.engine import ForeignEngine
from edgelm_tools import optimum_bundle, optimum_export
from edgelm_tools.optimum_bundle import export_with_optimum
from edgelm_tools.optimum_export import plain_settings, task_of

ORIGIN = Source("local:test")
VOCABULARY = 421


def write_checkpoint(folder: Path, kind: str, **settings: Any) -> tuple[Path, Any]:
    import torch
    import transformers
    from support.tiny_checkpoints import write_checkpoint as write

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, vocab_size=VOCABULARY, **settings)
    auto = transformers.AutoModelForCausalLM if kind == "gpt_neo" else transformers.AutoModelForSequenceClassification
    model = auto.from_config(config).eval()
    return write(folder, model), model


@pytest.fixture(scope="module")
def neo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Local and global attention by turns: an architecture that is not built natively."""
    layers = {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 5}
    sizes = {"hidden_size": 24, "num_heads": 2, "max_position_embeddings": 40, "initializer_range": 0.3}
    tokens = {"bos_token_id": 1, "eos_token_id": 2}
    return write_checkpoint(tmp_path_factory.mktemp("neo") / "neo", "gpt_neo", **layers, **sizes, **tokens)


@pytest.mark.reference
def test_an_architecture_of_optimums_becomes_a_bundle_with_the_tokens_of_transformers(
    tmp_path: Path, neo: tuple[Path, Any]
) -> None:
    import torch

    source, model = neo
    manifest = export_with_optimum(source, tmp_path / "bundle", name="neo", origin=ORIGIN)
    assert (manifest.layout, manifest.architecture, manifest.family) == ("optimum", "gpt_neo", "decoder")
    assert manifest.quantization == {"scheme": "fp32"}
    assert manifest.quality["max_output_error"] < 1e-4
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.manifest == manifest
    assert {"model.onnx", "tokenizer.json", "generation_config.json", "config.json"} <= manifest.files.keys()
    decoder = ForeignEngine(bundle, RuntimeConfig(threads=1), 40).new_decoder()
    ids = list(np.random.default_rng(0).integers(3, VOCABULARY, 9))
    with torch.no_grad():
        expected = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False, eos_token_id=None)[0, 9:]
    got = [int(decoder.prefill(ids).argmax())]
    while len(got) < 12:
        got.append(int(decoder.step(got[-1]).argmax()))
    assert got == expected.tolist()
    with pytest.raises(BundleExistsError):
        export_with_optimum(source, tmp_path / "bundle", name="neo", origin=ORIGIN)


@pytest.mark.reference
def test_an_encoder_becomes_a_bundle(tmp_path: Path) -> None:
    source, _ = write_checkpoint(
        tmp_path / "squeeze", "squeezebert", hidden_size=24, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, q_groups=2, k_groups=2, v_groups=2, intermediate_groups=2, output_groups=2,
        post_attention_groups=1, embedding_size=24, num_labels=3,
    )  # fmt: skip
    manifest = export_with_optimum(source, tmp_path / "bundle", name="squeeze", origin=ORIGIN)
    assert manifest.tasks == ("text-classification",)
    assert manifest.head is not None
    assert len(manifest.head.labels) == 3
    assert open_bundle(tmp_path / "bundle").manifest == manifest


@pytest.mark.reference
def test_graphs_that_differ_from_the_checkpoint_are_refused(
    tmp_path: Path, neo: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = optimum_bundle._outputs
    monkeypatch.setattr(
        optimum_bundle, "_outputs", lambda *given: {name: 1.01 * array for name, array in outputs(*given).items()}
    )
    with pytest.raises(ModelError, match=r"the exported graphs are wrong: they differ by 0\.01"):
        export_with_optimum(neo[0], tmp_path / "bundle", name="neo", origin=ORIGIN)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.reference
def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, neo: tuple[Path, Any]) -> None:
    for path in neo[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model": {}}')
    with pytest.raises(ModelError, match=r"tokenizer.json: not a usable tokenizer"):
        export_with_optimum(tmp_path, tmp_path / "bundle", name="x", origin=ORIGIN)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.reference
def test_what_transformers_does_not_know_is_refused(tmp_path: Path, neo: tuple[Path, Any]) -> None:
    for path in neo[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "nobody_knows"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="transformers does not know the model type 'nobody_knows'"):
        export_with_optimum(tmp_path, tmp_path / "bundle", name="x", origin=ORIGIN)


@pytest.mark.reference
def test_only_arguments_of_the_models_own_configuration_are_handed_over(tmp_path: Path) -> None:
    config = {
        "model_type": "gpt_neo",
        "hidden_size": 24,
        "attn_implementation": "some/kernel",
        "quantization_config": {"quant_method": "x"},
        "unheard_of": 1,
        "bos_token_id": 1,
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert optimum_export._keep_known_settings(path) == "gpt_neo"
    assert json.loads(path.read_text()) == {"model_type": "gpt_neo", "hidden_size": 24, "bos_token_id": 1}


@pytest.mark.reference
@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "deberta-v2", "position_buckets": 8, "conv_kernel_size": 3, "share_att_key": True},
        {"model_type": "longt5", "feed_forward_proj": "relu", "dense_act_fn": "silu", "is_gated_act": True},
    ],
)
def test_settings_that_a_model_reads_undeclared_are_handed_over(tmp_path: Path, config: dict[str, Any]) -> None:
    """Without them transformers would make another model, and take from the checkpoint what fits into it."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config | {"quantization_config": {"quant_method": "x"}}))
    assert optimum_export._keep_known_settings(path) == config["model_type"]
    assert json.loads(path.read_text()) == config


def test_a_configuration_that_names_code_is_refused() -> None:
    for config in ({"auto_map": {}}, {"text_config": {"auto_map": {}}}, {"a": [{"custom_pipelines": 1}]}):
        with pytest.raises(UnsupportedModelError, match=r"config\.json names code"):
            plain_settings(config)
    config = {"a": 1, "_attn_implementation": "x/y", "rope": {"_x": 1, "type": "linear"}, "b": [{"_c": 1}, 2]}
    assert plain_settings(config) == {"a": 1, "rope": {"type": "linear"}, "b": [{}, 2]}


@pytest.mark.parametrize(
    ("names", "task"),
    [
        (["GPTNeoForCausalLM"], "text-generation-with-past"),
        (["GPT2LMHeadModel"], "text-generation-with-past"),
        (["MarianMTModel"], "text2text-generation-with-past"),
        (["XForQuestionAnswering"], "question-answering"),
        (["BertModel"], "feature-extraction"),
        ([None], "feature-extraction"),
        (None, "feature-extraction"),
    ],
)
def test_the_task_follows_from_the_models_class(names: Any, task: str) -> None:
    assert task_of({"architectures": names}) == task


def test_a_missing_extra_is_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(optimum_export._PACKAGES, "no_such_package.here", "no-such-package")
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgelm\[optimum\]'"):
        export_with_optimum(tmp_path, tmp_path / "bundle", name="x", origin=ORIGIN)


def test_schemes_are_for_native_graphs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kept in fp32; --scheme int8"):
        export_with_optimum(tmp_path, tmp_path / "bundle", name="x", origin=ORIGIN, scheme="int8")
