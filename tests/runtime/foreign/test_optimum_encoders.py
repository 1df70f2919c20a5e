"""Encoders that optimum exports give the outputs of transformers; and folders load behind the faces users know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.optimum_folders import checkpoint, export
from support.tiny_checkpoints import VOCABULARY

import edgelm
from edgelm.bundle.bundle import open_bundle
from edgelm.bundle.encoder_contract import encoder_outputs
from edgelm.runtime.encoder import Encoder
from edgelm.runtime.session import Session

pytestmark = pytest.mark.reference

TOLERANCE = 1e-4
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 3, "hidden_size": 36, "intermediate_size": 50}
SIZES |= {"vocab_size": VOCABULARY, "max_position_embeddings": 60, "initializer_range": 0.2}
DISTIL = {"n_layers": 2, "n_heads": 3, "dim": 36, "hidden_dim": 50, "vocab_size": VOCABULARY}
HEADS = {
    "bert": ("AutoModel", SIZES, "feature-extraction"),
    "bert.sequence": ("AutoModelForSequenceClassification", SIZES | {"num_labels": 3}, "text-classification"),
    "roberta.tokens": ("AutoModelForTokenClassification", SIZES | {"num_labels": 5}, "token-classification"),
    "distilbert.spans": ("AutoModelForQuestionAnswering", DISTIL, "question-answering"),
    "bert.masks": ("AutoModelForMaskedLM", SIZES, "fill-mask"),
}


def model_of(name: str) -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    kind, settings, _ = HEADS[name]
    config = transformers.AutoConfig.for_model(name.partition(".")[0], **settings)
    model = getattr(transformers, kind).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    return model


@pytest.mark.parametrize("name", HEADS)
def test_an_encoder_gives_the_outputs_of_transformers_alone_and_padded(tmp_path: Path, name: str) -> None:
    import torch

    model = model_of(name)
    bundle = open_bundle(export(tmp_path / "optimum", model, HEADS[name][2]))
    manifest = bundle.manifest
    assert manifest.tasks[0] == HEADS[name][2]
    if name.startswith("roberta"):  # two positions belong to the padding
        assert manifest.context_length == 58
    session = Session(bundle.path(manifest.graphs["encoder"]), threads=1, renamed=manifest.renamed)
    encoder = Encoder(session, encoder_outputs(manifest), pad_token_id=manifest.pad_token_id or 0)
    rows = [np.random.default_rng(size).integers(5, VOCABULARY, size).tolist() for size in (7, 1, 19)]
    outputs = encoder.run(rows)
    for place, row in enumerate(rows):
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([row]))
        for output, array in outputs.items():
            reference = expected[output][0].numpy()
            got = array[place][: len(row)] if encoder.is_per_token(output) else array[place]
            assert np.abs(got - reference).max() < TOLERANCE * np.abs(reference).max()


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_load_takes_an_encoder_decoder_with_beams_and_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import torch

    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "home"))
    model = checkpoint(name)
    folder = export(tmp_path / "optimum", model, "text2text-generation-with-past")
    sources = [np.random.default_rng(size).integers(5, VOCABULARY - 30, size).tolist() for size in (6, 11)]
    with torch.no_grad():
        expected = [
            model.generate(torch.tensor([ids]), max_new_tokens=12, num_beams=3, do_sample=False)[0, 1:].tolist()
            for ids in sources
        ]
    with edgelm.load(folder, threads=1) as lm:
        single = [lm.generate(ids, max_new_tokens=12, num_beams=3) for ids in sources]
        batch = lm.generate_batch(sources, max_new_tokens=12, num_beams=3)
    assert [list(result.token_ids) for result in single] == expected
    assert [list(result.token_ids) for result in batch] == expected
