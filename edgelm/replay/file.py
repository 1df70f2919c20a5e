"""The file of a replay: what was asked, how, of which model, on which machine, and what came out."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from edgelm.bundle.fields import Fields
from edgelm.bundle.publish import write_named_file
from edgelm.bundle.strict_json import load_json
from edgelm.config import KV_CACHE_TYPES, GenerationConfig, KVCacheType
from edgelm.errors import ConfigError, ManifestError, PromptError
from edgelm.text.answer_form import KINDS

FORMAT = 1
MAX_FILE_BYTES = 64 << 20
_MAX_TOKENS = 1 << 22
_MAX_ID = 1 << 31
# Settings whose values may be minus infinity, which JSON has no number for.
_BIASES = ("logit_bias", "sequence_bias")
_NEVER = "-inf"
# Integers of RuntimeConfig that change what is computed, if only by rounding.
RUNTIME = ("threads", "context_length", "prefill_chunk")
_KV_CACHE = "kv_cache"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A recorded answer.

    Attributes:
        model: name and ``manifest_sha256``, which stands for every byte of it.
        prompt_ids: (T,) what the model was given; an encoder-decoder's source.
        config: all settings, with the seed that was used.
        form: the answer's form, as the argument of a call that asked for it and its text; None: free.
        runtime: integers of ``RuntimeConfig``.
        kv_cache: its type of KV cache.
        machine: versions, processor and instruction sets, to be compared where answers part.
        output_ids: the answer's tokens.
        text: the answer.
        finish_reason: why it ended.
    """

    model: str
    manifest_sha256: str
    prompt_ids: tuple[int, ...]
    config: GenerationConfig
    form: tuple[str, str] | None
    runtime: Mapping[str, int]
    machine: Mapping[str, str]
    output_ids: tuple[int, ...]
    text: str
    finish_reason: str
    kv_cache: KVCacheType = "f32"

    def to_json(self) -> bytes:
        """The file."""
        values = {
            "format": FORMAT,
            "model": {"name": self.model, "manifest_sha256": self.manifest_sha256},
            "prompt": {"ids": self.prompt_ids},
            "config": _plain_config(self.config),
            "form": None if self.form is None else {"kind": self.form[0], "text": self.form[1]},
            "runtime": {**self.runtime, _KV_CACHE: self.kv_cache},
            "machine": dict(self.machine),
            "output": {"ids": self.output_ids, "text": self.text, "finish_reason": self.finish_reason},
        }
        text = json.dumps(values, ensure_ascii=False, allow_nan=False)
        return f"{text}\n".encode("utf-8", "replace")

    def save(self, file: Path) -> None:
        """Writes the file, whole or not at all.

        Raises:
            StorageError: the disk is full or not writable.
        """
        write_named_file(file, self.to_json())

    @classmethod
    def load(cls, file: Path) -> Self:
        """Reads what ``save`` wrote.

        Raises:
            PromptError: it cannot be read.
            ManifestError: it is no replay; says where it breaks which rule.
            ConfigError: a setting in it is unknown or out of range.
        """
        try:
            with file.open("rb") as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise PromptError(f"{file}: {getattr(error, 'strerror', None) or error}") from error
        return cls.parse(data, str(file))

    @classmethod
    def parse(cls, data: bytes, what: str) -> Self:
        """Reads the bytes of a replay that ``what`` names in errors, which are those of ``load``."""
        values = load_json(data, what=what, limit=MAX_FILE_BYTES)
        if not isinstance(values, dict) or not values.keys() & {"format", "output"}:
            raise ManifestError(f"{what}: is no recorded answer, which edgelm run --record FILE writes")
        fields = Fields(values, document=what)
        _only(fields, _FIELDS)
        if fields.integer("format", 0, _MAX_ID) != FORMAT:
            raise fields.fault("format", f"must be {FORMAT}, which this version of EdgeLM reads")
        model, output, runtime = fields.object("model"), fields.object("output"), fields.object("runtime")
        _only(model, ("name", "manifest_sha256"))
        _only(output, ("ids", "text", "finish_reason"))
        text = output.value("text")
        if not isinstance(text, str):
            raise output.fault("text", "must be a string")
        return cls(
            model=model.text("name"),
            manifest_sha256=model.digest("manifest_sha256"),
            prompt_ids=_ids(fields.object("prompt")),
            config=_config(fields.value("config"), what),
            form=_form(fields),
            runtime=_runtime(runtime),
            machine=_machine(fields.object("machine")),
            output_ids=_ids(output),
            text=text,
            finish_reason=output.choice("finish_reason", ("stop", "length")),
            kv_cache=_kv_cache(runtime),
        )


_FIELDS = ("format", "model", "prompt", "config", "form", "runtime", "machine", "output")


def _only(fields: Fields, known: tuple[str, ...]) -> None:
    for name in fields:
        if name not in known:
            raise fields.fault(name, f"is unknown; known are: {', '.join(known)}")


def _ids(fields: Fields) -> tuple[int, ...]:
    ids = fields.integers("ids", 0, _MAX_ID, most=_MAX_TOKENS)
    if not ids:
        raise fields.fault("ids", "must have at least one token")
    return ids


def _form(fields: Fields) -> tuple[str, str] | None:
    if fields.value("form") is None:
        return None
    form = fields.object("form")
    _only(form, ("kind", "text"))
    text = form.value("text")
    if not isinstance(text, str):
        raise form.fault("text", "must be a string")
    return form.choice("kind", KINDS), text


def _runtime(fields: Fields) -> dict[str, int]:
    _only(fields, (*RUNTIME, _KV_CACHE))
    return {name: fields.integer(name, 1, _MAX_ID) for name in RUNTIME}


def _kv_cache(fields: Fields) -> KVCacheType:
    """Replays of before there was a choice had one of f32."""
    return "int8" if fields.has(_KV_CACHE) and fields.choice(_KV_CACHE, KV_CACHE_TYPES) == "int8" else "f32"


def _machine(fields: Fields) -> dict[str, str]:
    return {name: fields.text(name) for name in fields}


def _plain_config(config: GenerationConfig) -> dict[str, Any]:
    values = dataclasses.asdict(config)
    for name in _BIASES:
        values[name] = [(token, _NEVER if bias == -math.inf else bias) for token, bias in values[name]]
    return values


def _config(values: Any, what: str) -> GenerationConfig:
    if not isinstance(values, dict):
        raise ManifestError(f"{what}: config must be an object")
    missing = [name for name in GenerationConfig.field_names() if name not in values]
    if missing:
        raise ManifestError(f"{what}: config.{missing[0]} is missing")
    settings = {name: _bias(value) if name in _BIASES else value for name, value in values.items()}
    try:
        return GenerationConfig().updated(**settings)
    except (ConfigError, TypeError) as error:  # TypeError: a list where one value is due
        raise ConfigError(f"{what}: config: {error}") from error


def _bias(value: Any) -> Any:
    pairs = value if isinstance(value, list) else []
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        return value
    return [(token, -math.inf if bias == _NEVER else bias) for token, bias in pairs] if pairs else value
