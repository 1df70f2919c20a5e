"""The process in which a bundle is opened for the first time; see ``first_open``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from edgelm.bundle.bundle import Bundle, open_bundle
from edgelm.bundle.encoder_contract import encoder_outputs
from edgelm.bundle.home import stamps_folder
from edgelm.config import RuntimeConfig
from edgelm.errors import EdgeLMError, MemoryLimitError
from edgelm.first_open import READY
from edgelm.runtime.child import limit_own_memory
from edgelm.runtime.encoder import Encoder
from edgelm.runtime.engine import open_engine
from edgelm.runtime.prepack import graph_to_load
from edgelm.runtime.session import Session
from edgelm.text_side import TOKENIZER_NAME, read_tokenizer

# A prompt, so that both a run of several tokens and one of a single token are tried.
_PROMPT = 2
# In every vocabulary.
_TOKEN = 0


def answer(request: str) -> None:
    """Opens the bundle of a request, and writes to stdout that it begins, and then how that went.

    Args:
        request: JSON: ``folder``, ``variant``, ``prepack``, ``max_memory`` and ``mapped`` (bytes of its files).
    """
    asked = json.loads(request)
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    limit_own_memory(asked["max_memory"], mapped=asked["mapped"])
    fault: dict[str, str] = {}
    try:
        bundle = open_bundle(Path(asked["folder"]), stamps=stamps_folder(), variant=asked["variant"])
        if bundle.has(TOKENIZER_NAME):  # a part that not every work needs
            try:
                read_tokenizer(bundle)
            except EdgeLMError as error:
                fault["tokenizer"] = str(error)
        take_a_step(bundle, RuntimeConfig(threads=1, prepack=asked["prepack"]))
    except EdgeLMError as error:
        fault |= {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        fault |= {"error": MemoryLimitError.__name__, "message": f"{asked['folder']}: there is not enough memory"}
    sys.stdout.write(json.dumps(fault))


def take_a_step(bundle: Bundle, runtime: RuntimeConfig) -> None:
    """Loads a bundle's graphs and runs each once on the shortest of inputs.

    Raises:
        ModelError: the runtime refuses a graph, or it fails.
        MemoryLimitError: there is not enough memory.
    """
    manifest = bundle.manifest
    if manifest.family == "encoder":
        _encode(bundle, runtime)
        return
    room = min(manifest.context_length, _PROMPT + 1)
    prompt = [_TOKEN] * min(_PROMPT, room)
    engine = open_engine(bundle, runtime, room)
    try:
        if manifest.family == "decoder":
            decoder = engine.new_decoder()
            decoder.prefill(prompt)
            if len(prompt) < room:
                decoder.step(_TOKEN)
        else:
            rows = engine.new_batch([np.array([_TOKEN])])
            rows.reserve(1, room)
            rows.prefill([np.array([manifest.decoder_start_token_id or _TOKEN])])
            if room > 1:
                rows.step(np.array([_TOKEN]))
    finally:
        engine.close()


def _encode(bundle: Bundle, runtime: RuntimeConfig) -> None:
    graph, optimize = graph_to_load(bundle, "encoder", prepack=runtime.prepack)
    renamed = bundle.manifest.renamed
    session = Session(graph, threads=1, optimize=optimize, renamed=renamed, planning=False)
    try:
        Encoder(session, encoder_outputs(bundle.manifest)).run([[_TOKEN]])
    finally:
        session.close()
