"""The one place that imports optimum, transformers and torch: a checkpoint that is not built natively, traced to ONNX.

It is run in a process of its own (``export_in_child``), whose memory is given back and which reaches no network. A
checkpoint's ``config.json`` can name code: of that file only plain settings that the model's own class takes are
handed over, and nothing but safetensors beside it.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgelm.bundle.lifeline import lifeline
from edgelm.errors import MissingDependencyError, ModelError, UnsupportedModelError, how_to_install

REFERENCE_NAME = "reference.npz"
_PACKAGES = {"optimum.exporters.onnx": "optimum-onnx", "transformers": "transformers", "torch": "torch"}
# Run with -P: nothing in the user's current folder is ever imported.
_CHILD = (
    "import sys; from edgelm.bundle.lifeline import end_with_parent; end_with_parent(); "
    "from edgelm_tools.optimum_export import run_export; run_export(*sys.argv[1:])"
)
_REFUSED = "refused: "
# What all models' configurations may have; the rest must be an argument of the model's own configuration class.
_COMMON = (
    *("model_type", "architectures", "id2label", "label2id", "problem_type", "is_encoder_decoder"),
    *("tie_word_embeddings", "pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"),
)
# What transformers' models read of a configuration whose class does not name it.
_UNDECLARED = {
    "deberta-v2": (
        *("share_att_key", "position_buckets", "norm_rel_ebd", "attention_head_size", "pooler_hidden_size"),
        *("conv_kernel_size", "conv_groups", "conv_act", "embedding_size"),
    ),
    "deberta": ("talking_head", "pooler_hidden_size", "embedding_size"),
    **dict.fromkeys(("t5", "mt5", "umt5", "longt5"), ("dense_act_fn", "is_gated_act")),
}
OUTPUTS = ("last_hidden_state", "logits", "start_logits", "end_logits")
_TOKENS = 12
_CLASSES = {
    "text-generation-with-past": "AutoModelForCausalLM",
    "text2text-generation-with-past": "AutoModelForSeq2SeqLM",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "fill-mask": "AutoModelForMaskedLM",
    "feature-extraction": "AutoModel",
}
# The end of a model class's name → optimum's task.
_TASKS = {
    "ForCausalLM": "text-generation-with-past",
    "LMHeadModel": "text-generation-with-past",
    "ForConditionalGeneration": "text2text-generation-with-past",
    "MTModel": "text2text-generation-with-past",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
}


def check_installed() -> None:
    """Whether the extra is there.

    Raises:
        MissingDependencyError: it is not; carries the pip command.
    """
    for module, package in _PACKAGES.items():
        try:
            found = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            raise MissingDependencyError(
                f"exporting with optimum needs {package}, which is not installed; {how_to_install('optimum')}"
            )


def task_of(config: Mapping[str, Any]) -> str:
    """optimum's task for a checkpoint, by the name of its model class; that of a bare model where no other fits."""
    names = config.get("architectures")
    for name in names if isinstance(names, list) else []:
        for ending, task in _TASKS.items():
            if isinstance(name, str) and name.endswith(ending):
                return task
    return "feature-extraction"


def plain_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what is not a setting: fields of the library's own (``_…``), at any depth.

    Raises:
        UnsupportedModelError: it names code to run.
    """
    if "auto_map" in config or "custom_pipelines" in config:
        raise UnsupportedModelError("config.json names code of the checkpoint's own, which EdgeLM does not run")
    return {name: _plain(value) for name, value in config.items() if not name.startswith("_")}


def export_in_child(checkpoint: Path, target: Path, task: str) -> None:
    """Writes optimum's folder of a checkpoint, and what the checkpoint itself answers to a test, as ``REFERENCE_NAME``.

    Args:
        checkpoint: a folder with a ``config.json`` of plain settings and safetensors; the file may be rewritten.
        target: the folder to write.
        task: see ``task_of``.

    Raises:
        UnsupportedModelError: neither optimum nor transformers know the model.
        ModelError: the export failed; carries the last line that was said.
    """
    command = [sys.executable, "-P", "-c", _CHILD, str(checkpoint), str(target), task]
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    try:
        with lifeline() as stdin:
            done = subprocess.run(
                command, stdin=stdin, capture_output=True, text=True, check=False, env=os.environ | quiet
            )
    except OSError as error:
        raise ModelError(f"optimum could not be started: {error}") from error
    if done.returncode == 0:
        return
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    refusal = next((line for line in lines if line.startswith(_REFUSED)), None)
    if refusal is not None:
        raise UnsupportedModelError(refusal.removeprefix(_REFUSED))
    raise ModelError(f"optimum could not export the checkpoint: {lines[-1][:300]}")


def run_export(checkpoint: str, target: str, task: str) -> None:
    """What the child process does."""
    from optimum.exporters.onnx import main_export

    model_type = _keep_known_settings(Path(checkpoint) / "config.json")
    _check_supported(model_type, task)
    main_export(
        checkpoint,
        target,
        task=task,
        library_name="transformers",
        do_validation=False,
        local_files_only=True,
        trust_remote_code=False,
    )
    np.savez(Path(target) / REFERENCE_NAME, **_reference(checkpoint, task))


def _keep_known_settings(path: Path) -> str:
    """Rewrites ``config.json`` to what the model's configuration class takes as arguments; returns the model's type."""
    from transformers import CONFIG_MAPPING

    config = json.loads(path.read_text(encoding="utf-8"))
    model_type = str(config.get("model_type"))
    if model_type not in CONFIG_MAPPING:
        _refuse(f"transformers does not know the model type {model_type!a}")
    known = {*_COMMON, *_UNDECLARED.get(model_type, ())}
    for kind in CONFIG_MAPPING[model_type].__mro__[:-1]:
        known |= set(inspect.signature(kind.__init__).parameters) if "__init__" in vars(kind) else set()
    path.write_text(json.dumps({name: value for name, value in config.items() if name in known}), encoding="utf-8")
    return model_type


def _check_supported(model_type: str, task: str) -> None:
    from optimum.exporters.tasks import TasksManager

    try:
        tasks = TasksManager.get_supported_tasks_for_model_type(model_type, "onnx", library_name="transformers")
    except KeyError:
        _refuse(f"optimum does not know the model type {model_type!a}")
    if task not in tasks:
        _refuse(f"optimum exports {model_type} for {', '.join(tasks)}, not for {task}")


def _refuse(reason: str) -> None:
    sys.stderr.write(f"{_REFUSED}{reason}\n")
    raise SystemExit(1)


def _reference(checkpoint: str, task: str) -> dict[str, Any]:
    """Arrays: ``ids`` (1, T) and the model's outputs for them, and the ``source`` (1, T) of an encoder-decoder."""
    import torch
    import transformers

    kind = getattr(transformers, _CLASSES[task])
    model = kind.from_pretrained(
        checkpoint, use_safetensors=True, trust_remote_code=False, local_files_only=True, torch_dtype=torch.float32
    ).eval()
    ids = torch.arange(_TOKENS)[None] * 7 % min(model.config.vocab_size, 1000)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if task.startswith("text2text"):
        given |= {"input_ids": ids.flip(1), "decoder_input_ids": ids}
    with torch.no_grad():
        made = model(**given)
    arrays = {name: made[name].numpy() for name in OUTPUTS if name in made}
    return {"ids": ids.numpy(), "source": given["input_ids"].numpy(), **arrays}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return plain_settings(value)
    return [_plain(item) for item in value] if isinstance(value, list) else value
