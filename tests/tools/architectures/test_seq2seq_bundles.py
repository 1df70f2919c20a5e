"""Encoder-decoders in every scheme, as whole bundles, and checkpoints that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.memory_checkpoint import MemoryCheckpoint
from support.seq2seq_graphs import write_seq2seq
from support.tiny_checkpoints import VOCABULARY, write_checkpoint
from support.tiny_seq2seq import CONTEXT, EOS, PAD, START, seq2seq_model, seq2seq_variant

from edgelm.bundle.bundle import open_bundle
from edgelm.bundle.manifest import Source
from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.architectures.registry import understand
from edgelm_tools.checkpoint import Checkpoint, open_checkpoint
from edgelm_tools.evaluate_seq2seq import Seq2SeqPair, compare_seq2seq
from edgelm_tools.export import SCHEMES, export
from edgelm_tools.quantize.schemes import Float32, scheme_named

pytestmark = pytest.mark.reference

# Of each kind, the most that a scheme may cost models whose weights are noise, in nats of KL divergence.
NAMES = ("t5.gated_untied", "umt5", "bart.padded_heads", "marian.odd", "m2m_100")
BOUNDS = {"int8-block": 0.03, "int4": 1.0, "dynamic-int8": 0.12}
TASKS = {"marian": "translation", "m2m_100": "translation", "pegasus": "summarization", "mbart": "translation"}


@dataclass(frozen=True)
class Case:
    folder: Path
    model_type: str

    def checkpoint(self) -> Checkpoint:
        return open_checkpoint(self.folder / "checkpoint")


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("seq2seq")
    variant = seq2seq_variant(request.param)
    write_checkpoint(folder / "checkpoint", seq2seq_model(variant))
    case = Case(folder, variant.model_type)
    (folder / "fp32").mkdir()
    write_seq2seq(folder / "fp32", case.checkpoint(), Float32())
    return case


@pytest.mark.parametrize("name", sorted(set(SCHEMES) - {"fp32"}))
def test_quantized_graphs_stay_near_fp32(case: Case, name: str, tmp_path: Path) -> None:
    used = write_seq2seq(tmp_path, case.checkpoint(), scheme_named(name))
    assert used.name == ("int8-block" if name == "int8" else name)
    texts = [np.random.default_rng(seed).integers(5, VOCABULARY, CONTEXT).tolist() for seed in range(2)]
    quality = compare_seq2seq(Seq2SeqPair(tmp_path), Seq2SeqPair(case.folder / "fp32"), texts, START)
    assert quality.tokens == 2 * CONTEXT
    assert 0 < quality.kl < BOUNDS[used.name]


@pytest.mark.parametrize("scheme", ["fp32", "int8", "int4"])
def test_bundles_open(case: Case, scheme: str, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    origin = Source("test:tiny", license="none")
    made = export(case.folder / "checkpoint", target, name="tiny", origin=origin, scheme=scheme, report=False)
    assert open_bundle(target).manifest == made
    assert (made.architecture, made.family) == (case.model_type, "encoder-decoder")
    assert (made.decoder_start_token_id, made.pad_token_id, made.eos_token_id) == (START, PAD, (EOS,))
    assert made.source_length == (None if "t5" in case.model_type else CONTEXT)
    assert made.kv is not None
    assert made.kv.head_size % 8 == 0
    assert made.tasks == tuple(filter(None, ("text2text-generation", TASKS.get(case.model_type))))


def test_one_table_of_tokens_is_stored(case: Case) -> None:
    tensors = {
        role: {
            t.name: t
            for t in onnx.load(case.folder / "fp32" / f"{role}.onnx", load_external_data=False).graph.initializer
        }
        for role in ("encoder", "decoder")
    }
    places = [{e.key: e.value for e in tensors[role]["shared.embed.weight"].external_data} for role in tensors]
    assert places[0] == places[1]
    assert places[0]["location"] == "encoder.onnx.data"


def test_the_report_is_measured_and_settings_are_derived(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", seq2seq_model(seq2seq_variant("marian")))
    (tmp_path / "checkpoint" / "generation_config.json").unlink()
    config = tmp_path / "checkpoint" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_beams": 6, "bad_words_ids": [[PAD]]}))
    origin = Source("test:tiny", license="none")
    manifest = export(tmp_path / "checkpoint", tmp_path / "bundle", name="tiny", origin=origin)
    assert 0 < manifest.quality["kl"] < BOUNDS["int8-block"]
    settings = json.loads(open_bundle(tmp_path / "bundle").read_text("generation_config.json", 1 << 20))
    wanted = {"num_beams": 6, "bad_words_ids": [[PAD]], "pad_token_id": PAD, "decoder_start_token_id": START}
    assert settings.items() >= wanted.items()


def test_the_start_token_of_the_generation_config_holds(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", seq2seq_model(seq2seq_variant("mbart")))
    (tmp_path / "checkpoint" / "generation_config.json").write_text('{"decoder_start_token_id": 9}')
    origin = Source("test:tiny", license="none")
    made = export(tmp_path / "checkpoint", tmp_path / "b", name="tiny", origin=origin, scheme="fp32", report=False)
    assert made.decoder_start_token_id == 9


Change = Callable[[dict[str, Any], dict[str, Any]], object]


@pytest.mark.parametrize(
    ("name", "change", "kind", "message"),
    [
        ("t5", lambda c, t: t.pop("shared.weight"), ModelError, "no tensor 'shared.weight'"),
        ("t5", lambda c, t: t.pop("decoder.final_layer_norm.weight"), ModelError, "no tensor 'decoder.final_layer"),
        ("t5", lambda c, t: c.update(d_kv=13), ModelError, "SelfAttention.q.weight' has shape"),
        ("t5", lambda c, t: c.update(tie_word_embeddings=False), ModelError, "no tensor 'lm_head.weight'"),
        ("t5", lambda c, t: c.update(feed_forward_proj="gated-swiglu"), UnsupportedModelError, "'gated-swiglu' is not"),
        ("t5", lambda c, t: c.update(relative_attention_max_distance=6), ModelError, "max_distance must be a whole"),
        ("t5", lambda c, t: c.update(relative_attention_max_distance=1 << 20), ModelError, "from 7 to 16384"),
        ("t5", lambda c, t: c.update(dense_act_fn="swiglu"), UnsupportedModelError, "dense_act_fn 'swiglu' is not"),
        ("t5", lambda c, t: c.update(decoder_start_token_id=VOCABULARY), ModelError, "from 0 to 420"),
        ("t5", lambda c, t: t.update(extra=np.zeros(3)), UnsupportedModelError, "tensor 'extra' is not one"),
        ("umt5", lambda c, t: c.update(model_type="t5"), UnsupportedModelError, "relative_attention_bias"),
        ("bart", lambda c, t: c.update(max_position_embeddings=7), ModelError, "embed_positions.weight' has shape"),
        ("bart", lambda c, t: c.update(decoder_attention_heads=7), ModelError, "makes no 7 heads"),
        ("bart", lambda c, t: c.update(activation_function="sigmoid"), UnsupportedModelError, "'sigmoid' is not known"),
        ("marian", lambda c, t: c.update(share_encoder_decoder_embeddings=False), UnsupportedModelError, "two vocab"),
        ("m2m_100", lambda c, t: c.update(max_position_embeddings=1 << 20), ModelError, "from 1 to 16384"),
        ("t5", lambda c, t: c.update(architectures=["T5EncoderModel"]), UnsupportedModelError, "'T5EncoderModel'"),
        ("bart", lambda c, t: c.update(architectures=["BartForCausalLM"]), UnsupportedModelError, "BartForCausalLM"),
        ("mbart", lambda c, t: c.update(model_type="bart"), UnsupportedModelError, "layer_norm.bias"),
    ],
)
def test_unsound_checkpoints_are_refused(
    name: str, change: Change, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    stored = open_checkpoint(write_checkpoint(tmp_path / "checkpoint", seq2seq_model(seq2seq_variant(name))))
    config, tensors = dict(stored.config), {tensor: stored.tensor(tensor) for tensor in stored.names()}
    change(config, tensors)
    with pytest.raises(kind, match=message):
        understand(MemoryCheckpoint(tensors, config))


@pytest.mark.parametrize(
    ("params", "tasks"),
    [
        (None, ()),
        ({"summarization": {}, "translation_en_to_de": {}}, ("summarization", "translation")),
        ({"summarization_cnn": {}}, ("summarization",)),
        ({"question-answering": {}}, ()),
    ],
)
def test_tasks_are_those_that_the_configuration_has_settings_for(
    params: dict[str, Any] | None, tasks: tuple[str, ...], tmp_path: Path
) -> None:
    stored = open_checkpoint(write_checkpoint(tmp_path / "checkpoint", seq2seq_model(seq2seq_variant("t5"))))
    stored.config["task_specific_params"] = params
    assert understand(stored).facts.tasks == ("text2text-generation", *tasks)
