"""What an encoder-decoder is for, as its configuration says."""

from __future__ import annotations

from edgelm_tools.architectures.config_fields import ConfigFields

_TASKS = ("summarization", "translation")


def tasks_of(c: ConfigFields, *own: str) -> tuple[str, ...]:
    """``own``, what all models of the type are for, and what ``task_specific_params`` has settings for.

    Its keys are tasks, or begin with one: ``translation_en_to_de``.
    """
    named = {task for task in _TASKS for key in c.object("task_specific_params") if str(key).startswith(task)}
    return ("text2text-generation", *(task for task in _TASKS if task in named or task in own))
