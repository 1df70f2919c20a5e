"""Checkpoints that would make a bundle which does not open are refused, and leave nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.checkpoints import safetensors_bytes, write_folder
from support.memory_checkpoint import LLAMA_CONFIG, llama_tensors
from support.tokenizers import byte_level

from edgelm.bundle.bundle import open_bundle
from edgelm.bundle.manifest import Manifest, Source
from edgelm.errors import ConfigError, EdgeLMError, ModelError
from edgelm_tools.export import SCHEMES, export

VOCABULARY = 421


def checkpoint(folder: Path, generation: dict[str, Any] | None = None, **settings: Any) -> Path:
    """A tiny LLaMA in NumPy alone, with a byte-level tokenizer."""
    tensors = llama_tensors()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = np.resize(tensors[name], (VOCABULARY, 24))
    files: dict[str, Any] = {
        "config.json": LLAMA_CONFIG | {"vocab_size": VOCABULARY, **settings},
        "model.safetensors": safetensors_bytes(tensors),
        "tokenizer.json": byte_level().to_str().encode(),
    }
    return write_folder(folder, files if generation is None else files | {"generation_config.json": generation})


def exported(source: Path, target: Path, scheme: str = "fp32", **options: Any) -> Manifest:
    return export(source, target, name="tiny", origin=Source("test:tiny"), scheme=scheme, report=False, **options)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_bundle_opens(scheme: str, tmp_path: Path) -> None:
    made = exported(checkpoint(tmp_path / "checkpoint"), tmp_path / "bundle", scheme)
    assert open_bundle(tmp_path / "bundle").manifest == made
    # Those of transformers' class, as the configuration has none.
    assert (made.bos_token_id, made.eos_token_id) == (1, (2,))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "checkpoint"]


@pytest.mark.parametrize(
    ("generation", "settings"),
    [
        ({"eos_token_id": VOCABULARY}, {}),
        ({"eos_token_id": "2"}, {}),
        ({"bos_token_id": [1]}, {}),
        (None, {"pad_token_id": VOCABULARY}),
    ],
)
def test_tokens_that_the_model_does_not_have_are_refused(
    generation: dict[str, Any] | None, settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="_token_id must be of the model's tokens, from 0 to 420, not"):
        exported(checkpoint(tmp_path / "checkpoint", generation, **settings), tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize(
    "settings", [{"logit_bias": {"x": 1}}, {"num_beams": 0}, {"top_p": "0.9"}, {"stop_strings": 1.5}]
)
def test_settings_that_would_not_be_read_replace_no_good_bundle(settings: dict[str, Any], tmp_path: Path) -> None:
    made = exported(checkpoint(tmp_path / "good"), tmp_path / "bundle")
    with pytest.raises(ModelError, match=rf"^generation_config\.json: {next(iter(settings))} must be"):
        exported(checkpoint(tmp_path / "checkpoint", settings), tmp_path / "bundle", force=True)
    assert open_bundle(tmp_path / "bundle").manifest == made


def test_sampling_that_is_out_of_range_is_left_out_and_told(tmp_path: Path) -> None:
    told: list[str] = []
    source = checkpoint(tmp_path / "checkpoint", {"do_sample": False, "top_p": 0.0})
    exported(source, tmp_path / "bundle", tell=told.append)
    assert open_bundle(tmp_path / "bundle").generation_defaults().top_p == 1
    assert told == ["left out of generation_config.json: top_p must be above 0 and at most 1, not 0.0"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_template_whose_marker_the_model_does_not_know_is_told(scheme: str, tmp_path: Path) -> None:
    """As of a fine-tune that added tokens, but no rows to the embedding."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens([f"<|{number}|>" for number in range(VOCABULARY)])
    source = checkpoint(tmp_path / "checkpoint")
    (source / "tokenizer.json").write_text(tokenizer.to_str())
    (source / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}<|420|>{% endfor %}")
    told: list[str] = []
    exported(source, tmp_path / "bundle", scheme, tell=told.append)
    assert told == [
        "the chat template writes '<|420|>', which the model has no embedding of: it takes no conversations, and is "
        "calibrated without"
    ]
    assert open_bundle(tmp_path / "bundle").has("kv_scales.f32")


def test_what_a_manifest_may_not_say_is_refused(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "checkpoint", {"eos_token_id": list(range(300))})
    with pytest.raises(EdgeLMError, match="eos_token_id must be a list of at most 256"):
        exported(source, tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_scheme_that_is_not_known_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown quantization scheme 'int3'; known are: int8, int8-block"):
        exported(checkpoint(tmp_path / "checkpoint"), tmp_path / "bundle", "int3")


@pytest.mark.parametrize("scheme", ["fp32", "int8"])
def test_a_failure_in_the_middle_leaves_nothing(scheme: str, tmp_path: Path) -> None:
    """The last layer's weights are found to be no numbers when the rest is written already."""
    source = checkpoint(tmp_path / "checkpoint")
    tensors = llama_tensors() | {"model.layers.1.mlp.down_proj.weight": np.full((24, 40), np.nan, np.float32)}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = np.resize(tensors[name], (VOCABULARY, 24))
    (source / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    with pytest.raises(ModelError, match=r"down_proj.weight' has values that are infinite or no numbers"):
        exported(source, tmp_path / "bundle", scheme)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
