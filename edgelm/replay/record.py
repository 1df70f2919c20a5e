"""Answers that are recorded as they are made."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import Any

from edgelm.bundle.bundle import Bundle
from edgelm.chat_model import Message
from edgelm.config import GenerationConfig
from edgelm.errors import ConfigError
from edgelm.language_model import LanguageModel, Prompt
from edgelm.replay.file import Replay
from edgelm.replay.machine import describe_machine
from edgelm.runtime.cores import available_cores
from edgelm.text.answer_form import split_form
from edgelm.text_stream import TextStream

_FUNCTIONS = ("logits_processor", "stopping_criteria")
_SEED_BITS = 32


class Recorder:
    """Takes the place of a model for one answer, and has its replay once it has ended.

    The replay has no draft model: with sampling, one that guesses makes other draws.

    Raises:
        ConfigError: the model is a folder of another tool, whose files have no hashes to know it again by.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self._hash = manifest_hash(lm.bundle)
        self._stream: TextStream | None = None
        self._asked: tuple[tuple[int, ...], GenerationConfig, tuple[str, str] | None] | None = None

    def stream(self, prompt: Prompt, **settings: Any) -> TextStream:
        """As the model's; where tokens are drawn without a seed, one is drawn first.

        Raises:
            ConfigError: a setting is a function, or what else cannot be recorded. Others: see ``LanguageModel.stream``.
        """
        for name in (*_FUNCTIONS, "tools"):
            if settings.get(name):
                raise ConfigError(f"{name} cannot be recorded: a file holds no functions")
        form, others = split_form(settings)
        ids = tuple(int(token) for token in self._lm.encode(prompt))
        config = self._lm.resolved(**{name: value for name, value in others.items() if name not in _FUNCTIONS})
        if config.do_sample and config.seed is None:
            config = config.updated(seed=secrets.randbits(_SEED_BITS))
        kept = None if form is None else (form.kind, form.text)
        self._stream = self._lm.stream(ids, config, **form_argument(kept))
        self._asked = ids, config, kept
        return self._stream

    def stream_chat(self, messages: Sequence[Message], **settings: Any) -> TextStream:
        """As the model's; see ``stream``."""
        return self.stream(self._lm.encode_chat(messages), **settings)

    def replay(self) -> Replay:
        """The recorded answer.

        Raises:
            RuntimeError: none was asked for, or it has not come to its end.
        """
        if self._stream is None or self._asked is None:
            raise RuntimeError("nothing was recorded")
        result, (ids, config, form) = self._stream.result, self._asked
        return Replay(
            model=self._lm.name,
            manifest_sha256=self._hash,
            prompt_ids=ids,
            config=config,
            form=form,
            runtime=runtime_of(self._lm),
            machine=describe_machine(),
            output_ids=result.token_ids,
            text=result.text,
            finish_reason=result.finish_reason,
            kv_cache=self._lm.runtime.kv_cache,
        )


def manifest_hash(bundle: Bundle) -> str:
    """SHA-256 of a model's manifest, which has the hashes of all its files.

    Raises:
        ConfigError: the folder is another tool's, whose files have no hashes.
    """
    manifest = bundle.manifest
    if any(not file.sha256 for file in manifest.files.values()):
        raise ConfigError(f"{manifest.name} is a folder of another tool, without hashes to know it again by")
    return hashlib.sha256(manifest.to_json()).hexdigest()


def runtime_of(lm: LanguageModel) -> dict[str, int]:
    """How a model is run, as far as it changes what is computed."""
    return {
        "threads": lm.runtime.threads or available_cores(),
        "context_length": lm.context_length,
        "prefill_chunk": lm.runtime.prefill_chunk,
    }


def form_argument(form: tuple[str, str] | None) -> dict[str, str]:
    """The argument of a call that asks for a recorded form; choices were recorded as the grammar they are."""
    if form is None:
        return {}
    kind, text = form
    return {"grammar" if kind == "choices" else kind: text}
