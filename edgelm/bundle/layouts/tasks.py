"""What an encoder is for, told by the outputs of its graph: the classes in ``config.json`` are of the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

from edgelm.bundle.layouts.model_config import ModelFacts
from edgelm.bundle.manifest import Head, Pooling
from edgelm.bundle.onnx_model import ValueInfo
from edgelm.errors import UnsupportedModelError


def encoder_tasks(outputs: Mapping[str, ValueInfo], facts: ModelFacts, pooling: Pooling | None) -> tuple[str, ...]:
    """The tasks, as in a manifest; ``outputs`` are by their usual names.

    Raises:
        UnsupportedModelError: the graph gives nothing that a task is made of.
    """
    if {"start_logits", "end_logits"} <= outputs.keys():
        return ("question-answering",)
    if "last_hidden_state" in outputs:
        return ("feature-extraction",) if pooling is None else ("feature-extraction", "sentence-similarity")
    if "logits" not in outputs:
        raise UnsupportedModelError(
            f"the graph gives {', '.join(sorted(outputs))[:200] or 'nothing'}; EdgeLM reads last_hidden_state, "
            "token_embeddings, logits, or start_logits and end_logits"
        )
    if _rank(outputs["logits"]) == 2:
        one = facts.head is not None and len(facts.head.labels) == 1
        return ("text-ranking", "text-classification") if one else ("text-classification",)
    return ("fill-mask",) if _is_vocabulary(outputs["logits"], facts) else ("token-classification",)


def head_of(outputs: Mapping[str, ValueInfo], facts: ModelFacts) -> Head | None:
    """The labels, where the logits are of labels: other models' configurations have some too, meaning nothing."""
    logits = outputs.get("logits")
    if logits is None or (_rank(logits) == 3 and _is_vocabulary(logits, facts)):
        return None
    return facts.head


def _rank(value: ValueInfo) -> int:
    return len(value.dims or ())


def _is_vocabulary(logits: ValueInfo, facts: ModelFacts) -> bool:
    return bool(logits.dims) and facts.vocab_size is not None and (logits.dims or (0,))[-1] == facts.vocab_size
