"""Tiny encoders with a head and a tokenizer of their kind, as transformers' pipelines run them."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.tiny_encoders import DEBERTA_V3, Encoder, reference_encoder
from support.tokenizers import SENTENCES, byte_level, unigram, word_piece
from tokenizers import AddedToken, Tokenizer, processors

CONTEXT = 60
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    'She sells sea-shells (by the sea shore); user@world, 50% "off"!',
    "Größe naïve façade — 你好世界 こんにちは 🌍🎉 👩‍👩‍👧 end",
    "  two  spaces\nand\ta new line  ",
    "x",
    "",
    "ſtrange İstanbul e\u0301tude \u200bzero\u00a0width q̃ ﬁne",
)
LONG_TEXT = " ".join(SENTENCES) + " " + " ".join(reversed(SENTENCES)) + " assistant"


@dataclass(frozen=True)
class Kind:
    """A model type with the tokenizer that such models have; ``roles`` are transformers' names of special tokens."""

    name: str
    tokenizer: Callable[[], Tokenizer]
    roles: dict[str, str]
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def _bert_tokenizer() -> Tokenizer:
    tokenizer = word_piece()
    tokenizer.add_special_tokens([AddedToken("[MASK]", normalized=False)])
    return tokenizer


def roberta_tokenizer() -> Tokenizer:
    tokenizer = byte_level(("<s>", "<pad>", "</s>", "<unk>"))
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def _unigram_tokenizer() -> Tokenizer:
    tokenizer = unigram(with_bytes=False)
    tokenizer.add_special_tokens(["<s>", "<pad>", AddedToken("<mask>", lstrip=True, normalized=False)])
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ids
    )
    return tokenizer


_SQUARE = {
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "mask_token": "[MASK]",
}
_ANGLE = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
_ONE_TYPE = {"type_vocab_size": 1}
KINDS = (
    Kind(
        "bert",
        _bert_tokenizer,
        _SQUARE,
        {"vocab_size": 211},
    ),
    Kind("roberta", roberta_tokenizer, _ANGLE, {"vocab_size": 421, **_ONE_TYPE}),
    Kind("xlm-roberta", _unigram_tokenizer, _ANGLE, {"vocab_size": 230, **_ONE_TYPE}),
)

# Classifies texts, also with labels of the user's own.
DEBERTA = Kind("deberta-v2", _unigram_tokenizer, _ANGLE, {"vocab_size": 230, **DEBERTA_V3})


def write_task_checkpoint(folder: Path, kind: Kind, head: str, seed: int = 0) -> Path:
    """The checkpoint as its authors would publish it; ``head``: the class's name without the type's own."""
    tokenizer = kind.tokenizer()
    pad = tokenizer.token_to_id(kind.roles["pad_token"])
    # RoBERTa's kin count positions from behind the padding's.
    positions = CONTEXT if kind.name in ("bert", "deberta-v2") else CONTEXT + pad + 1
    settings = {"max_position_embeddings": positions, "pad_token_id": pad, **kind.settings}
    if head == "ForTokenClassification":
        settings["id2label"] = dict(enumerate(LABELS))
    model = reference_encoder(Encoder(kind.name, head, settings), seed)
    if head == "ForTokenClassification":
        _balance(model, tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder, safe_serialization=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if kind.name == "bert" else [])]
    named: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "model_input_names": inputs,
    }
    named |= {"clean_up_tokenization_spaces": kind.name == "bert"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named | kind.roles))
    return folder


def _balance(model: Any, tokenizer: Tokenizer) -> None:
    """Makes all labels about equally frequent; with random weights, nearly all tokens would have the same."""
    import torch

    with torch.no_grad():
        model.classifier.weight.mul_(4)
        logits = torch.cat([model(torch.tensor([tokenizer.encode(text).ids])).logits[0] for text in TEXTS])
        model.classifier.bias.sub_(logits.mean(dim=0))


def reference_pipeline(task: str, folder: Path, **settings: Any) -> Any:
    """transformers' pipeline of the checkpoint, on one thread."""
    import torch

    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        return transformers.pipeline(task, model=str(folder), tokenizer=str(folder), device="cpu", **settings)
