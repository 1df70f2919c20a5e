"""What is easily got wrong in encoder-decoders: distances, positions, biases, the first token, names of tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.memory_checkpoint import MemoryCheckpoint
from support.seq2seq_graphs import Ids, Seq2SeqGraphs, write_seq2seq
from support.tiny_checkpoints import VOCABULARY, Variant, write_checkpoint
from support.tiny_seq2seq import SEQ2SEQ_VARIANTS, START, seq2seq_logits, seq2seq_model, seq2seq_variant

from edgelm.bundle.layouts.model_config import GENERATION_FIELDS
from edgelm_tools.architectures.bart_model import MEMBERS, bart_spec
from edgelm_tools.architectures.positions import buckets_back, buckets_both_ways
from edgelm_tools.architectures.registry import understand
from edgelm_tools.architectures.seq2seq_weights import Seq2SeqWeights
from edgelm_tools.architectures.t5_model import DEFAULTS
from edgelm_tools.checkpoint import Checkpoint, open_checkpoint
from edgelm_tools.generation_settings import generation_settings
from edgelm_tools.quantize.schemes import Float32

pytestmark = pytest.mark.reference

TOLERANCE = 1e-4


def tokens(seed: int, count: int) -> Ids:
    return np.random.default_rng(seed).integers(5, VOCABULARY, count)


def checkpoint_of(model: Any, folder: Path) -> Checkpoint:
    return open_checkpoint(write_checkpoint(folder / "checkpoint", model))


def renamed(checkpoint: Checkpoint, new: Callable[[str], str]) -> Checkpoint:
    """A checkpoint whose tensors have other names; those whose new name is empty are left out."""
    tensors = {new(name): checkpoint.tensor(name) for name in checkpoint.names() if new(name)}
    return MemoryCheckpoint(tensors, checkpoint.config)


def graphs_of(model: Any, folder: Path, length: int) -> Seq2SeqGraphs:
    checkpoint = checkpoint_of(model, folder)
    write_seq2seq(folder, checkpoint, Float32())
    checkpoint.close()
    return Seq2SeqGraphs(folder, capacity=length)


def error(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    return float(np.abs(ours - theirs).max() / theirs.std())


@pytest.mark.parametrize(
    ("buckets", "distance"), [(32, 128), (32, 129), (12, 20), (7, 20), (4, 3), (64, 512), (40, 1000)]
)
def test_buckets_are_those_of_t5(buckets: int, distance: int) -> None:
    import torch
    from transformers.models.t5.modeling_t5 import T5Attention

    bucket = T5Attention._relative_position_bucket
    far = torch.arange(-3 * distance, 3 * distance + 1)
    near = far.clamp(-distance, distance).numpy()
    both = bucket(far, bidirectional=True, num_buckets=buckets, max_distance=distance)
    back = bucket(far, bidirectional=False, num_buckets=buckets, max_distance=distance)
    np.testing.assert_array_equal(buckets_both_ways(buckets, distance)[near + distance], both)
    np.testing.assert_array_equal(buckets_back(buckets, distance)[np.maximum(-near, 0)], back)


@pytest.mark.parametrize("name", ["t5.standard_buckets", "umt5"])
def test_distances_past_the_last_bucket(name: str, tmp_path: Path) -> None:
    """Longer than the distance of 128 up to which buckets differ, and than a growth of the cache."""
    model = seq2seq_model(seq2seq_variant(name))
    graphs, source, target = graphs_of(model, tmp_path, 330), tokens(1, 310), tokens(2, 330)
    expected = seq2seq_logits(model, source, target)
    assert error(graphs.all_logits(source, target), expected) < TOLERANCE
    graphs.encode([source])
    graphs.decode([target[:320]])
    steps = np.concatenate([graphs.decode([target[place : place + 1]]) for place in range(320, 330)])
    assert error(steps, expected[320:]) < TOLERANCE


def test_relative_bias_of_each_row_of_a_batch_is_its_own(tmp_path: Path) -> None:
    model = seq2seq_model(seq2seq_variant("t5"))
    graphs, source, target = graphs_of(model, tmp_path, 40), tokens(1, 30), tokens(2, 40)
    lengths = [35, 2, 17]
    graphs.encode([source] * 3)
    graphs.decode([target[:length] for length in lengths])
    for step in range(3):
        logits = graphs.decode([target[length + step : length + step + 1] for length in lengths])
        for row, length in enumerate(lengths):
            expected = seq2seq_logits(model, source, target[: length + step + 1])[-1]
            assert error(logits[row], expected) < TOLERANCE


def test_learned_positions_begin_at_the_third_row(tmp_path: Path) -> None:
    model = seq2seq_model(seq2seq_variant("bart"))
    spec = bart_spec(model.config.to_dict())
    weights = Seq2SeqWeights(checkpoint_of(model, tmp_path), spec)
    assert spec.positions is not None
    ours = weights.positions("decoder", spec.positions)
    np.testing.assert_array_equal(ours, model.model.decoder.embed_positions.weight[2:].detach().numpy())


@pytest.mark.parametrize("name", ["m2m_100", "m2m_100.odd"])
def test_positions_of_m2m100_begin_behind_that_of_padding(name: str, tmp_path: Path) -> None:
    model = seq2seq_model(seq2seq_variant(name))
    spec, pad = bart_spec(model.config.to_dict()), model.config.pad_token_id
    assert spec.positions is not None
    ours = Seq2SeqWeights(checkpoint_of(model, tmp_path), spec).positions("encoder", spec.positions)
    embedding = model.model.encoder.embed_positions
    embedding.make_weights(len(ours) + pad + 1, spec.hidden_size, pad)
    np.testing.assert_allclose(ours, embedding.weights[pad + 1 :].numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["marian", "pegasus"])
def test_positions_are_computed_where_a_checkpoint_has_none(name: str, tmp_path: Path) -> None:
    model = seq2seq_model(seq2seq_variant(name))
    table = "model.decoder.embed_positions.weight"
    checkpoint = renamed(checkpoint_of(model, tmp_path), lambda name: "" if name == table else name)
    spec = bart_spec(model.config.to_dict())
    assert spec.positions is not None
    ours = Seq2SeqWeights(checkpoint, spec).positions("decoder", spec.positions)
    np.testing.assert_allclose(ours, model.model.decoder.embed_positions.weight.numpy(), rtol=0, atol=1e-7)


def test_logits_have_the_final_bias(tmp_path: Path) -> None:
    model = seq2seq_model(seq2seq_variant("marian"))
    source, target = tokens(1, 9), tokens(2, 8)
    biased = graphs_of(model, tmp_path, 8).all_logits(source, target)
    bias = model.final_logits_bias.numpy()
    assert np.abs(bias).max() > 1
    assert error(biased - bias, seq2seq_logits(model, source, target) - bias) < TOLERANCE
    assert error(biased - bias, seq2seq_logits(model, source, target)) > 0.1


@pytest.mark.parametrize("variant", SEQ2SEQ_VARIANTS, ids=str)
def test_the_decoder_starts_with_the_token_of_the_configuration(variant: Variant, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(seq2seq_model(variant), tmp_path)
    assert understand(checkpoint).facts.decoder_start_token_id == START
    del checkpoint.config["decoder_start_token_id"]
    # Marian's default is beyond this small vocabulary.
    defaults = {"t5": 1, "mt5": 0, "umt5": 0, "bart": 2, "mbart": 0, "pegasus": 0, "m2m_100": 2}
    if variant.model_type in defaults:
        assert understand(checkpoint).facts.decoder_start_token_id == defaults[variant.model_type]


@pytest.mark.parametrize("variant", SEQ2SEQ_VARIANTS, ids=str)
def test_generation_settings_are_those_that_transformers_derives(variant: Variant) -> None:
    from transformers import AutoConfig, GenerationConfig

    changes = {"num_beams": 3, "bad_words_ids": [[7]], "max_length": 33, "no_repeat_ngram_size": 2}
    changes |= {"forced_bos_token_id": 6, "early_stopping": True, "length_penalty": 0.7, "min_length": 4}
    changes |= {"encoder_repetition_penalty": 1.3, "exponential_decay_length_penalty": [3, 1.2], "min_p": 0.1}
    for settings in (variant.settings, variant.settings | changes):
        own = {name: value for name, value in settings.items() if name != "forced_eos_token_id"}
        config = AutoConfig.for_model(variant.model_type, **own)
        theirs = GenerationConfig.from_model_config(config).to_dict()
        usual = GenerationConfig().to_dict()
        defaults = understood_defaults(variant)
        ours = generation_settings({}, own, defaults)
        assert ours.items() >= {n: theirs[n] for n in GENERATION_FIELDS if theirs.get(n) != usual.get(n)}.items()
        assert {name: theirs[name] for name in ours} == ours
        assert generation_settings({"num_beams": 5}, own, defaults) == {"num_beams": 5}


def test_the_first_words_for_a_forced_bos_of_bart_are_understood() -> None:
    from transformers import AutoConfig, GenerationConfig

    settings = {**seq2seq_variant("bart").settings, "bos_token_id": 4}
    for forced in (True, False):
        own = {**settings, "force_bos_token_to_be_generated": forced}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = AutoConfig.for_model("bart", **own)
        assert GenerationConfig.from_model_config(config).forced_bos_token_id == (4 if forced else None)
        defaults = bart_spec({**own, "model_type": "bart"}).class_defaults
        assert generation_settings({}, own, defaults).get("forced_bos_token_id") == (4 if forced else None)


def understood_defaults(variant: Variant) -> Any:
    return DEFAULTS.get(variant.model_type) or MEMBERS[variant.model_type].defaults


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("t5", "decoder.embed_tokens.weight"),
        ("t5", "lm_head.weight"),
        ("bart", "model.decoder.embed_tokens.weight"),
        ("marian", "lm_head.weight"),
        ("mbart", "model.encoder.embed_tokens.weight"),
    ],
)
def test_one_table_may_have_any_of_its_names(name: str, stored: str, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(seq2seq_model(seq2seq_variant(name)), tmp_path)
    table = "shared.weight" if name == "t5" else "model.shared.weight"
    older = renamed(checkpoint, lambda tensor: stored if tensor == table else tensor)
    assert table not in older.names()
    assert parameters(older) == parameters(checkpoint)


def parameters(checkpoint: Checkpoint) -> int:
    return understand(checkpoint).parameters()


def test_checkpoints_of_the_bare_model_have_no_prefix(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(seq2seq_model(seq2seq_variant("bart")), tmp_path)
    bare = renamed(checkpoint, lambda name: name.removeprefix("model."))
    assert parameters(bare) == parameters(checkpoint)
