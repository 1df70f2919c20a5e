"""EdgeLM runs quantized transformer language models on this machine, inside a memory limit.

    import edgelm
    lm = edgelm.load("smollm2")
    print(lm.chat([{"role": "user", "content": "What is the capital of Japan?"}]).text)

Importing it is light: the runtime is loaded with the first name that needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgelm.cli.pulling import pull
    from edgelm.comparison.compare import compare
    from edgelm.config import GenerationConfig, RuntimeConfig
    from edgelm.encoder_model import EncoderModel, load_encoder
    from edgelm.errors import EdgeLMError
    from edgelm.inspection.attention import attention_maps
    from edgelm.language_model import LanguageModel, load
    from edgelm.results import Chunk, GenerationResult
    from edgelm.tasks.pipelines import pipeline
    from edgelm.text.prompt_template import PromptTemplate
    from edgelm.text_stream import TextStream

__version__ = "0.1.0"

__all__ = [
    "Chunk",
    "EdgeLMError",
    "EncoderModel",
    "GenerationConfig",
    "GenerationResult",
    "LanguageModel",
    "PromptTemplate",
    "RuntimeConfig",
    "TextStream",
    "__version__",
    "attention_maps",
    "compare",
    "load",
    "load_encoder",
    "pipeline",
    "pull",
]

_HOMES = {
    "Chunk": "edgelm.results",
    "EdgeLMError": "edgelm.errors",
    "EncoderModel": "edgelm.encoder_model",
    "GenerationConfig": "edgelm.config",
    "GenerationResult": "edgelm.results",
    "LanguageModel": "edgelm.language_model",
    "PromptTemplate": "edgelm.text.prompt_template",
    "RuntimeConfig": "edgelm.config",
    "TextStream": "edgelm.text_stream",
    "attention_maps": "edgelm.inspection.attention",
    "compare": "edgelm.comparison.compare",
    "load": "edgelm.language_model",
    "load_encoder": "edgelm.encoder_model",
    "pipeline": "edgelm.tasks.pipelines",
    "pull": "edgelm.cli.pulling",
}


# What needs no library of native code.
_LIGHT = ("edgelm.cli.pulling", "edgelm.config", "edgelm.errors", "edgelm.results", "edgelm.text.prompt_template")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgelm' has no attribute {name!r}")
    if _HOMES[name] in _LIGHT:
        return getattr(import_module(_HOMES[name]), name)
    from edgelm.runtime.library_room import loading_libraries

    with loading_libraries():
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
