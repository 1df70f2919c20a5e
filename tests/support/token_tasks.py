"""Tiny encoder bundles for the tasks that work on single tokens, and texts for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.encoder_bundle import TinyEncoder, write_encoder_bundle

CONTEXT = 40
ENTITY_LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
ROLES = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
# About 140 tokens: several windows of any of the models.
LONG_TEXT = "The quick brown fox jumps over the lazy dog; she sells sea shells by the sea shore. " * 7


def write_task_bundle(folder: Path, task: str, **changes: Any) -> Path:
    """A bundle with random weights for one of the tasks; ``changes`` are those of ``TinyEncoder``."""
    labels = ENTITY_LABELS if task == "token-classification" else ("a", "b")
    sizes = TinyEncoder(task=task, **{"context_length": CONTEXT, "labels": labels, "seed": 3, **changes})
    return write_encoder_bundle(folder, sizes, files={"special_tokens.json": json.dumps(ROLES).encode()})
