"""Model types and the classes that build them; a class is imported when a checkpoint asks for it."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from edgelm.errors import UnsupportedModelError
from edgelm_tools.architectures.base import Architecture
from edgelm_tools.checkpoint.base import Checkpoint

_LLAMA = "edgelm_tools.architectures.llama_model:LlamaModel"
_GPT = "edgelm_tools.architectures.gpt_model:GptModel"
_ENCODER = "edgelm_tools.architectures.encoder_model:EncoderModel"
_T5 = "edgelm_tools.architectures.t5_model:T5Model"
_BART = "edgelm_tools.architectures.bart_model:BartModel"
_BERGAMOT = "edgelm_tools.architectures.bergamot_model:BergamotModel"

# model_type in config.json → module:class; the class is called with the checkpoint.
ARCHITECTURES: dict[str, str] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "phi3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3": _LLAMA,
    "gemma3_text": _LLAMA,
    "granite": _LLAMA,
    "olmo2": _LLAMA,
    "smollm3": _LLAMA,
    "stablelm": _LLAMA,
    "gpt2": _GPT,
    "gpt_neox": _GPT,
    "opt": _GPT,
    "bloom": _GPT,
    "bert": _ENCODER,
    "roberta": _ENCODER,
    "xlm-roberta": _ENCODER,
    "camembert": _ENCODER,
    "distilbert": _ENCODER,
    "electra": _ENCODER,
    "albert": _ENCODER,
    "mpnet": _ENCODER,
    "deberta-v2": _ENCODER,
    "t5": _T5,
    "mt5": _T5,
    "umt5": _T5,
    "bart": _BART,
    "mbart": _BART,
    "marian": _BART,
    "pegasus": _BART,
    "m2m_100": _BART,
    "bergamot": _BERGAMOT,
}
# The first of ``architectures`` in config.json → the same, for classes of another family than others of their type.
CLASSES: dict[str, str] = {
    f"{family}ForSequenceClassification": "edgelm_tools.architectures.seq2seq_classifier_model:Seq2SeqClassifierModel"
    for family in ("Bart", "MBart", "T5", "MT5", "UMT5")
}


def understand(checkpoint: Checkpoint) -> Architecture:
    """The checkpoint as a model of its architecture.

    Raises:
        UnsupportedModelError: its model type, or one of its settings or tensors, is not known; names it.
        ModelError: its configuration or tensors are not sound.
    """
    model_type = checkpoint.config.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"model type {model_type!r:.80} is not built natively; known are: {', '.join(ARCHITECTURES)}"
        )
    classes = checkpoint.config.get("architectures")
    first = str(classes[0]) if isinstance(classes, list) and classes else ""
    module, _, name = CLASSES.get(first, ARCHITECTURES[model_type]).partition(":")
    return cast(Architecture, getattr(import_module(module), name)(checkpoint))
