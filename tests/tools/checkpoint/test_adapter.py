"""LoRA adapters merged into checkpoints, against PEFT's own merging."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.memory_checkpoint import MemoryCheckpoint

from edgelm.errors import ModelError
from edgelm_tools.checkpoint import open_checkpoint
from edgelm_tools.checkpoint.adapter import AdaptedCheckpoint

LAYER = "model.layers.0.self_attn.q_proj"
PREFIX = f"base_model.model.{LAYER}"


def write_adapter(folder: Path, tensors: dict[str, Any], **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(
        {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()},
        str(folder / "adapter_model.safetensors"),
    )
    return folder


def base() -> MemoryCheckpoint:
    random = np.random.default_rng(0)
    return MemoryCheckpoint(
        {
            f"{LAYER}.weight": random.normal(size=(6, 4)).astype(np.float32),
            "model.norm.weight": np.ones(4, np.float32),
        }
    )


def matrices(rows: int = 6, columns: int = 4, rank: int = 2) -> dict[str, Any]:
    random = np.random.default_rng(1)
    return {
        f"{PREFIX}.lora_A.weight": random.normal(size=(rank, columns)),
        f"{PREFIX}.lora_B.weight": random.normal(size=(rows, rank)),
    }


def test_only_what_the_adapter_names_is_changed(tmp_path: Path) -> None:
    parts = matrices()
    adapted = AdaptedCheckpoint(base(), write_adapter(tmp_path / "a", parts))
    change = parts[f"{PREFIX}.lora_B.weight"] @ parts[f"{PREFIX}.lora_A.weight"]
    assert np.allclose(adapted.tensor(f"{LAYER}.weight"), base().tensor(f"{LAYER}.weight") + 2 * change, atol=1e-6)
    assert np.array_equal(adapted.tensor("model.norm.weight"), np.ones(4))
    assert adapted.shape(f"{LAYER}.weight") == (6, 4)
    assert list(adapted.names()) == list(base().names())


def test_scales_of_single_modules_and_of_rslora(tmp_path: Path) -> None:
    parts = matrices()
    change = parts[f"{PREFIX}.lora_B.weight"] @ parts[f"{PREFIX}.lora_A.weight"]
    settings = {"use_rslora": True, "alpha_pattern": {"self_attn.q_proj": 3, "proj": 100}}
    adapted = AdaptedCheckpoint(base(), write_adapter(tmp_path / "a", parts, **settings))
    expected = base().tensor(f"{LAYER}.weight") + 3 / 2**0.5 * change
    assert np.allclose(adapted.tensor(f"{LAYER}.weight"), expected, atol=1e-5)


def test_a_scale_is_found_by_the_modules_name_in_the_model_that_was_trained(tmp_path: Path) -> None:
    """Which may have had a head around the checkpoint's own."""
    parts = {name.replace(LAYER, f"bert.{LAYER}"): value for name, value in matrices().items()}
    a, b = parts.values()
    change = b @ a
    settings = {"alpha_pattern": {f"bert.{LAYER}": 3}}
    adapted = AdaptedCheckpoint(base(), write_adapter(tmp_path / "a", parts, **settings))
    expected = base().tensor(f"{LAYER}.weight") + 3 / 2 * change
    assert np.allclose(adapted.tensor(f"{LAYER}.weight"), expected, atol=1e-5)


def test_magnitudes_are_as_many_as_outputs(tmp_path: Path) -> None:
    parts = matrices() | {f"{PREFIX}.lora_magnitude_vector": np.ones(5)}
    with pytest.raises(ModelError, match=r"magnitudes of shape \(5,\) cannot change"):
        AdaptedCheckpoint(base(), write_adapter(tmp_path / "a", parts, use_dora=True))


def test_a_module_that_was_trained_whole_replaces_the_checkpoints(tmp_path: Path) -> None:
    saved = {"base_model.model.model.norm.weight": np.full(4, 3.0)}
    adapted = AdaptedCheckpoint(base(), write_adapter(tmp_path / "a", {**matrices(), **saved}))
    assert np.array_equal(adapted.tensor("model.norm.weight"), np.full(4, 3.0))
    assert adapted.quantized("model.norm.weight") is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "IA3"}, "only LORA adapters are merged"),
        ({"lora_bias": True}, "lora_bias is not merged"),
        ({"layer_replication": [[0, 1]]}, "layer_replication is not merged"),
        ({"init_lora_weights": "pissa_niter_4"}, "changed the checkpoint before training"),
        ({"init_lora_weights": "lora_ga"}, "changed the checkpoint before training"),
        ({"lora_alpha": 0}, "lora_alpha must be a number above 0, not 0"),
        ({"lora_alpha": 10**400}, "lora_alpha must be a number above 0, not 1000"),
        ({"lora_alpha": None}, "lora_alpha must be a number above 0"),
        ({"alpha_pattern": {"q_proj": "x"}}, "q_proj must be a number above 0, not 'x'"),
        ({"alpha_pattern": {".*q": 2}}, "is not a module's name"),
        ({"alpha_pattern": [1]}, "alpha_pattern must be a number"),
        ({"use_dora": True}, "magnitudes and use_dora do not agree"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", matrices(), **settings)
    with pytest.raises(ModelError, match=message.replace("(", r"\(")):
        AdaptedCheckpoint(base(), folder)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": np.ones(2)}, "does not begin with base_model.model."),
        ({f"{PREFIX}.lora_A.weight": np.ones((2, 4))}, "has no matrix B"),
        (matrices(columns=5), r"matrices of shapes \(2, 5\) and \(6, 2\) cannot change"),
        (matrices(rank=0), r"matrices of shapes \(0, 4\) and \(6, 0\) cannot change"),
        ({name.replace("q_proj", "r_proj"): value for name, value in matrices().items()}, "there is no such tensor"),
        ({"base_model.model.weight": np.ones(2)}, "it may be any of"),
    ],
)
def test_adapters_of_another_model_are_refused(tensors: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        AdaptedCheckpoint(base(), write_adapter(tmp_path / "a", tensors))


def test_pickled_adapters_are_refused(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", matrices())
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickle"):
        AdaptedCheckpoint(base(), folder)
    with pytest.raises(ModelError, match="no such file"):
        AdaptedCheckpoint(base(), tmp_path)


@pytest.mark.reference
@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("llama", {"target_modules": ["q_proj", "down_proj", "embed_tokens"], "r": 3, "lora_alpha": 5}),
        ("llama", {"target_modules": "all-linear", "use_rslora": True, "rank_pattern": {"v_proj": 5}}),
        ("llama", {"target_modules": ["q_proj", "o_proj"], "use_dora": True, "modules_to_save": ["lm_head"]}),
        ("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "alpha_pattern": {"c_attn": 9}}),
        ("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "use_dora": True}),
    ],
)
def test_merged_weights_are_those_of_peft(model_type: str, settings: dict[str, Any], tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    model = tiny_model(transformers, model_type)
    model.save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "init_lora_weights": False, **settings})
        adapted = peft.get_peft_model(model, config)
        adapted.save_pretrained(tmp_path / "adapter")
        merged = adapted.merge_and_unload().state_dict()
    ours = AdaptedCheckpoint(open_checkpoint(tmp_path / "base"), tmp_path / "adapter")
    changed = 0
    for name in ours.names():
        expected = merged[name].detach().numpy()
        assert np.allclose(ours.tensor(name), expected, rtol=1e-4, atol=1e-5), name
        changed += not np.allclose(expected, open_checkpoint(tmp_path / "base").tensor(name))
    assert changed >= 2
    ours.close()


def tiny_model(transformers: Any, model_type: str) -> Any:
    import torch

    torch.manual_seed(0)
    sizes = {
        "vocab_size": 30,
        "hidden_size": 12,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "tie_word_embeddings": model_type == "gpt2",
    }
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    return transformers.AutoModelForCausalLM.from_config(config).eval()
