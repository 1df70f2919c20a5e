"""What a checkpoint's authors suggest for a task: ``task_specific_params`` of its ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgelm.bundle.bundle import Bundle

CONFIG_NAME = "config.json"


def task_settings(bundle: Bundle, task: str) -> Mapping[str, Any]:
    """The suggested settings of a task, under transformers' names; empty where there are none."""
    config = bundle.read_json(CONFIG_NAME) if bundle.has(CONFIG_NAME) else {}
    of_all = config.get("task_specific_params") if isinstance(config, dict) else None
    settings = of_all.get(task) if isinstance(of_all, dict) else None
    return settings if isinstance(settings, dict) else {}
