"""Tiny encoders with random weights, made by transformers, and runs of the graphs that are built of them."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.tokenizers import word_piece

from edgelm.runtime.session import Session, Switch, Tensor

CONTEXT = 150
# Not a multiple of 32.
VOCABULARY = 211
SPREAD = 0.3

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Encoder:
    """A configuration of transformers' ``model_type`` and the class with the head, without the type's own name."""

    name: str
    head: str = "Model"
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def model_type(self) -> str:
        return self.name.split(".")[0]

    def __str__(self) -> str:
        return self.name


_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 50,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,
    # Larger than usual, so that a wrong one shows.
    "layer_norm_eps": 3e-3,
}
_DISTILBERT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "dim": 36,
    "n_layers": 3,
    "n_heads": 3,
    "hidden_dim": 50,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,
}
_SEQUENCE, _TOKEN = "ForSequenceClassification", "ForTokenClassification"
_QUESTION, _MASKED = "ForQuestionAnswering", "ForMaskedLM"
_FIVE = {"num_labels": 5}
_WIDE = {"hidden_size": 40, "num_attention_heads": 5}

# As in v3: 16 distances each way of their own, the rest of 150 in runs; the test's texts are longer than all of them.
DEBERTA_V3: dict[str, Any] = {
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 32,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
}
# As in v2's largest, with projections of positions of its own, positions' vectors and two types of tokens.
_V2: dict[str, Any] = {
    "relative_attention": True,
    "pos_att_type": "c2p|p2c",
    "max_relative_positions": 70,
    "type_vocab_size": 2,
    "conv_kernel_size": 3,
    "conv_act": "gelu",
}

ENCODER_VARIANTS = (
    Encoder("bert"),
    Encoder("bert.wide", settings=_WIDE | {"hidden_act": "gelu_new", "type_vocab_size": 3}),
    Encoder("bert.relu", settings={"hidden_act": "relu", "type_vocab_size": 1}),
    Encoder("bert.one_head", settings={"num_attention_heads": 1, "hidden_act": "silu"}),
    Encoder("bert.sequence", _SEQUENCE, _FIVE),
    Encoder("bert.one_label", _SEQUENCE, {"num_labels": 1}),
    Encoder("bert.token", _TOKEN, _FIVE),
    Encoder("bert.question", _QUESTION),
    Encoder("bert.masked", _MASKED),
    Encoder("bert.untied", _MASKED, {"tie_word_embeddings": False}),
    Encoder("bert.pretraining", "ForPreTraining"),
    Encoder("roberta"),
    Encoder("roberta.pad", settings={"pad_token_id": 5, "type_vocab_size": 1}),
    Encoder("roberta.sequence", _SEQUENCE, _FIVE),
    Encoder("roberta.token", _TOKEN, _FIVE),
    Encoder("roberta.question", _QUESTION, _WIDE),
    Encoder("roberta.masked", _MASKED),
    Encoder("xlm-roberta.sequence", _SEQUENCE, {"num_labels": 1}),
    Encoder("camembert.masked", _MASKED),
    Encoder("distilbert"),
    Encoder("distilbert.sequence", _SEQUENCE, _FIVE),
    Encoder("distilbert.token", _TOKEN, _FIVE | {"n_heads": 4}),
    Encoder("distilbert.question", _QUESTION, {"sinusoidal_pos_embds": True}),
    Encoder("distilbert.masked", _MASKED, {"activation": "relu"}),
    Encoder("electra", settings={"embedding_size": 20}),
    Encoder("electra.same_width", settings={"embedding_size": 36}),
    Encoder("electra.sequence", _SEQUENCE, _FIVE | {"embedding_size": 20}),
    Encoder("electra.token", _TOKEN, {"embedding_size": 20}),
    Encoder("electra.question", _QUESTION, {"embedding_size": 20}),
    Encoder("electra.masked", _MASKED, {"embedding_size": 20}),
    Encoder("albert", settings={"embedding_size": 20}),
    Encoder("albert.same_width", settings={"embedding_size": 36, "hidden_act": "gelu"}),
    Encoder(
        "albert.groups",
        settings={"embedding_size": 20, "num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2},
    ),
    Encoder("albert.sequence", _SEQUENCE, _FIVE | {"embedding_size": 20}),
    Encoder("albert.token", _TOKEN, {"embedding_size": 20}),
    Encoder("albert.question", _QUESTION, {"embedding_size": 20}),
    Encoder("albert.masked", _MASKED, {"embedding_size": 20}),
    Encoder("mpnet"),
    Encoder("mpnet.long", settings=_WIDE | {"max_position_embeddings": 400, "pad_token_id": 7}),
    Encoder("mpnet.sequence", _SEQUENCE, _FIVE),
    Encoder("mpnet.token", _TOKEN, _FIVE),
    Encoder("mpnet.question", _QUESTION),
    Encoder("mpnet.masked", _MASKED),
    Encoder("deberta-v2", settings=DEBERTA_V3),
    Encoder("deberta-v2.wide", settings=DEBERTA_V3 | _WIDE | {"max_relative_positions": 64, "position_buckets": 7}),
    Encoder(
        "deberta-v2.own", settings=DEBERTA_V3 | {"share_att_key": False, "norm_rel_ebd": "none", "type_vocab_size": 1}
    ),
    Encoder("deberta-v2.c2p", settings=DEBERTA_V3 | {"pos_att_type": ["c2p"], "max_position_embeddings": 260}),
    Encoder(
        "deberta-v2.p2c",
        settings=DEBERTA_V3 | {"pos_att_type": ["p2c"], "share_att_key": False, "num_attention_heads": 1},
    ),
    Encoder("deberta-v2.no_terms", settings=DEBERTA_V3 | {"pos_att_type": None, "position_biased_input": True}),
    Encoder("deberta-v2.absolute", settings=DEBERTA_V3 | {"relative_attention": False, "position_biased_input": True}),
    Encoder("deberta-v2.convolution", settings=_V2),
    Encoder("deberta-v2.wide_kernel", settings=_V2 | {"conv_kernel_size": 5, "conv_act": "tanh", "type_vocab_size": 1}),
    Encoder("deberta-v2.sequence", _SEQUENCE, DEBERTA_V3 | _FIVE),
    Encoder("deberta-v2.one_label", _SEQUENCE, DEBERTA_V3 | {"num_labels": 1, "pooler_hidden_act": "tanh"}),
    Encoder("deberta-v2.token", _TOKEN, _V2 | _FIVE),
    Encoder("deberta-v2.question", _QUESTION, DEBERTA_V3),
    Encoder("deberta-v2.masked", _MASKED, DEBERTA_V3),
    Encoder("deberta-v2.untied", _MASKED, _V2 | {"tie_word_embeddings": False}),
    # transformers can tie this head only in code: where the configuration says so, it ties another matrix.
    Encoder("deberta-v2.newer", _MASKED, DEBERTA_V3 | {"legacy": False, "tie_word_embeddings": False}),
)


def encoder_variant(name: str) -> Encoder:
    """The variant of that name."""
    return next(v for v in ENCODER_VARIANTS if v.name == name)


def reference_encoder(variant: Encoder, seed: int = 0) -> Any:
    """transformers' model of the variant, float32 with eager attention; all of its weights are random."""
    import torch

    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        common = _DISTILBERT if variant.model_type == "distilbert" else _COMMON
        config = transformers.AutoConfig.for_model(
            variant.model_type, **json.loads(json.dumps(common | variant.settings))
        )
        config._attn_implementation = "eager"
        torch.manual_seed(seed)
        family = type(config).__name__.removesuffix("Config")
        model = getattr(transformers, family + variant.head)(config).to(torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Left at 0 or 1, norm weights and biases would say nothing of whether they are used.
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape) * SPREAD)
    return model


def write_encoder(folder: Path, model: Any) -> Path:
    """The model as its authors would publish it: ``config.json``, safetensors, ``tokenizer.json``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder, safe_serialization=True)
    (folder / "tokenizer.json").write_text(word_piece().to_str(), encoding="utf-8")
    return folder


def padded(rows: Sequence[NDArray[np.int64]], fill: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of different lengths, padded on the right, and their attention mask: (B, S) int64 each."""
    shape = len(rows), max(map(len, rows))
    ids, mask = np.full(shape, fill, np.int64), np.zeros(shape, np.int64)
    for row, values in enumerate(rows):
        ids[row, : len(values)] = values
        mask[row, : len(values)] = 1
    return ids, mask


def reference_outputs(model: Any, inputs: Arrays) -> Arrays:
    """What the model gives for the inputs, under the names that the graph's outputs have."""
    import torch

    with torch.no_grad():
        outputs = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    if "prediction_logits" in outputs:
        return {"logits": outputs["prediction_logits"].numpy()}
    names = ("last_hidden_state", "logits", "start_logits", "end_logits")
    return {name: outputs[name].numpy() for name in names if name in outputs}


def run_encoder(session: Session, inputs: Arrays) -> Arrays:
    """Runs the graph; inputs that it does not have are left out."""
    batch, sequence = inputs["input_ids"].shape
    sizes = {"batch": batch, "sequence": sequence}
    binding = session.binding()
    for name in session.inputs:
        binding.input(name, Tensor(inputs[name]))
    outputs = {}
    for name, info in session.outputs.items():
        shape = [sizes[size] if isinstance(size, str) else int(size) for size in info.shape]
        outputs[name] = Tensor(np.full(shape, np.nan, np.float32))
        binding.output(name, outputs[name])
    session.run(binding, Switch())
    return {name: tensor.array for name, tensor in outputs.items()}
