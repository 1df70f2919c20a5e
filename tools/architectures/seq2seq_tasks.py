"""What an encoder-decoder is for, as its configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgelm.errors import UnsupportedModelError
from edgelm_tools.architectures.config_fields import ConfigFields

_TASKS = ("summarization", "translation")


def tasks_of(c: ConfigFields, *own: str) -> tuple[str, ...]:
    """``own``, what all models of the type are for, and what ``task_specific_params`` has settings for.

    Its keys are tasks, or begin with one: ``translation_en_to_de``.
    """
    named = {task for task in _TASKS for key in c.object("task_specific_params") if str(key).startswith(task)}
    return ("text2text-generation", *(task for task in _TASKS if task in named or task in own))


def refuse_other_heads(config: Mapping[str, Any]) -> None:
    """Whether the class in ``architectures`` writes text: with its head, or bare, which then is the embeddings.

    Raises:
        UnsupportedModelError: it does not.
    """
    classes = config.get("architectures")
    name = str(classes[0]) if isinstance(classes, list) and classes else "Model"
    if name.endswith("EncoderModel") or not name.endswith(("ForConditionalGeneration", "Model")):
        raise UnsupportedModelError(
            f"config.json: architectures names {name!r:.80}; built are encoder-decoders that write text, and of some "
            f"types ForSequenceClassification"
        )
