"""The inputs of every linear layer over a calibration text, computed one layer at a time.

Each layer is built as a small fp32 graph of its own, run over the text, and deleted: a model of any size is calibrated
in the memory of one layer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ModelError
from edgelm.runtime.cores import available_cores
from edgelm.runtime.session import Session, Tensor, give_back_freed_memory
from edgelm.text.chat_template import ChatTemplate
from edgelm.text.prompt import encode_chat
from edgelm.text.tokenizer import Tokenizer
from edgelm.text_side import fitting_tokenizer
from edgelm_tools.architectures.base import ModelFacts
from edgelm_tools.checkpoint.base import TextAssets
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.matrix import Matrix
from edgelm_tools.quantize.gptq import error_factor
from edgelm_tools.quantize.schemes import Blockwise, Recorder, Rowwise, Scheme
from edgelm_tools.runs import run

Sequences = NDArray[np.int64]
CALIBRATION_TOKENS = 4096
_SEQUENCE = 256
_HEAD = "head"
_CONVERSATION = 2 * ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"})


@dataclass(frozen=True, slots=True)
class LayeredDecoder:
    """A decoder that can be computed layer by layer, rotated as it will be quantized.

    Attributes:
        layers: how many.
        norm_epsilon: of the norm before the output head, an RMS norm whose weight is in the head already.
        embed: token ids (sequences, tokens) → the residual stream before the first layer, (…, hidden) float32.
        build_layer: adds one layer to a graph: stream, update → next_stream, next_update, whose sum is the residual
            stream; its linear layers are called ``layer{i}.KIND``, those of the output head ``head.…``.
    """

    layers: int
    norm_epsilon: float
    embed: Callable[[Sequences], NDArray[np.float32]]
    build_layer: Callable[[GraphBuilder, Scheme, int], None]


def calibrated(
    scheme: Rowwise | Blockwise, decoder: LayeredDecoder, facts: ModelFacts, assets: TextAssets, folder: Path
) -> Rowwise | Blockwise:
    """The scheme with what it needs to know of a decoder's inputs; it is computed while a graph is built.

    Args:
        scheme: not calibrated.
        decoder: what will be quantized.
        facts: of the model.
        assets: its tokenizer and chat template.
        folder: where a layer's temporary graph may lie.

    Raises:
        ModelError: the tokenizer is broken, or another model's.
    """
    ids = calibration_texts(assets, facts, _SEQUENCE)
    ids = ids[:: max(1, CALIBRATION_TOKENS // scheme.calibration_tokens)]
    calibration = LayerwiseCalibration(decoder, ids, hadamard_size=scheme.hadamard_size, folder=folder)
    return replace(scheme, calibration=calibration)


def calibration_texts(assets: TextAssets, facts: ModelFacts, longest: int) -> Sequences:
    """``calibration_sequences`` of a model that has no bundle yet; prose alone, if it cannot read its own template.

    Raises:
        ModelError: the tokenizer is broken, or another model's.
    """
    tokenizer = fitting_tokenizer(assets.tokenizer, facts.vocab_size, what="tokenizer.json", model=facts.architecture)
    template = None
    if assets.chat_template and not unknown_markers(tokenizer, assets, facts.vocab_size):
        template = ChatTemplate(assets.chat_template, special_tokens=assets.special_tokens)
    return calibration_sequences(tokenizer, template, min(longest, facts.context_length))


def unknown_markers(tokenizer: Tokenizer, assets: TextAssets, vocab_size: int) -> list[str]:
    """Special tokens that the chat template writes into a conversation, and that the model has no embedding of.

    Such is ``<|im_end|>`` where it was added to a tokenizer, but the model's table was not made longer.

    Raises:
        TemplateError: the template fails.
    """
    if not assets.chat_template or tokenizer.vocab_size <= vocab_size:
        return []
    template = ChatTemplate(assets.chat_template, special_tokens=assets.special_tokens)
    ids = encode_chat(tokenizer, template, _CONVERSATION, add_generation_prompt=False)
    return [tokenizer.id_to_token(i) or str(i) for i in dict.fromkeys(ids) if i >= vocab_size]


def rows_of(table: Matrix, ids: Sequences) -> NDArray[np.float32]:
    """The rows of a table (N, K) that belong to ``ids`` (sequences, tokens): (sequences, tokens, K) float32."""
    rows = {}
    wanted = set(ids.ravel().tolist())
    start = 0
    for part in table.float_parts():
        rows.update({i: part[i - start].copy() for i in wanted if start <= i < start + len(part)})
        start += len(part)
    return np.array([[rows[i] for i in sequence] for sequence in ids.tolist()], np.float32)


def calibration_sequences(tokenizer: Tokenizer, template: ChatTemplate | None, length: int) -> Sequences:
    """What the model is calibrated on: plain prose, and for half of it, conversations where it has a template for them.

    A conversation's first tokens and its markers make the model compute in ways that prose never does.
    The text comes with the tools, and is another than the one quality is measured on.

    Args:
        tokenizer: the model's.
        template: its chat template.
        length: tokens of each sequence, if the text has as many.

    Returns:
        (sequences, tokens) int64, as many as have ``CALIBRATION_TOKENS`` together.

    Raises:
        ModelError: the tokenizer makes no tokens of plain text.
    """
    text = files("edgelm_tools").joinpath("texts", "calibration.txt").read_text(encoding="utf-8")
    prose = tokenizer.encode(text)
    if not prose:
        raise ModelError("the tokenizer makes no tokens of plain text, so there is nothing to calibrate on")
    length = min(length, len(prose))
    wanted = CALIBRATION_TOKENS // length
    chats = [] if template is None else _conversations(tokenizer, template, text, length)[: wanted // 2]
    starts = range(0, len(prose) - length + 1, length)
    return np.array([*chats, *(prose[start : start + length] for start in starts)][:wanted], np.int64)


def _conversations(tokenizer: Tokenizer, template: ChatTemplate, text: str, length: int) -> list[list[int]]:
    """Token ids of conversations in which a paragraph's first sentence asks and the rest of it answers."""
    turns = [paragraph.split(". ", 1) for paragraph in text.split("\n\n") if ". " in paragraph]
    found: list[list[int]] = []
    messages: list[dict[str, str]] = []
    for question, answer in turns:
        messages += [{"role": "user", "content": f"{question}."}, {"role": "assistant", "content": answer}]
        ids = encode_chat(tokenizer, template, messages, add_generation_prompt=False)
        if len(ids) >= length:
            found.append(ids[:length])
            messages = []
    return found


class LayerwiseCalibration:
    """What GPTQ needs of the linear layers' inputs; it must be asked layer by layer, as a graph is built.

    Args:
        decoder: the model.
        ids: (sequences, tokens) int64, see ``calibration_sequences``.
        hadamard_size: see ``Rowwise``.
        folder: where a layer's temporary graph may lie.
    """

    def __init__(self, decoder: LayeredDecoder, ids: Sequences, *, hadamard_size: int, folder: Path) -> None:
        self._decoder = decoder
        self._hadamard_size = hadamard_size
        self._folder = folder
        self._stream = decoder.embed(ids)
        self._update = np.zeros_like(self._stream)
        self._layer = -1
        self._recorded: dict[str, str] = {}
        # Of the layer: inputs by the graph's output that gave them, (tokens, K), for which linear layers each is still
        # there, and the factor that was asked for last.
        self._inputs: dict[str, NDArray[np.float32]] = {}
        self._readers: dict[str, set[str]] = {}
        self._factor: tuple[str, NDArray[np.float32]] | None = None

    def factor(self, name: str) -> NDArray[np.float32]:
        """``gptq.error_factor`` for the linear layer ``layer{i}.{kind}``: (K, K) float32."""
        part, layers = name.split(".")[0], self._decoder.layers
        layer = layers - 1 if part == _HEAD else int(part.removeprefix("layer"))
        while self._layer < layer:
            self._advance()
        seen = _HEAD if part == _HEAD else self._recorded[name]
        if self._factor is None or self._factor[0] != seen:
            self._factor = None
            rows = self._head_inputs() if part == _HEAD else self._inputs[seen]
            self._factor = seen, error_factor(rows.T @ rows)
        if part != _HEAD:
            self._readers[seen].discard(name)
            if not self._readers[seen]:
                self._inputs.pop(seen, None)
        return self._factor[1]

    def _head_inputs(self) -> NDArray[np.float32]:
        """Of the output head, which reads the normed sum of the two; the norm's weight is in the head already."""
        self._inputs.clear()
        rows = (self._stream + self._update).reshape(-1, self._stream.shape[-1])
        spread = np.square(rows).mean(axis=1, keepdims=True) + np.float32(self._decoder.norm_epsilon)
        normed: NDArray[np.float32] = rows / np.sqrt(spread)
        return normed

    def _advance(self) -> None:
        self._layer += 1
        self._factor = None
        self._inputs.clear()
        recorder = Recorder(hadamard_size=self._hadamard_size)
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            path = Path(folder) / "layer.onnx"
            with GraphBuilder(path, name="layer") as graph:
                self._decoder.build_layer(graph, recorder, self._layer)
                graph.save()
            # Threads that spin while they wait would slow down the products that follow.
            with closing(Session(path, threads=available_cores(), spinning=False)) as session:
                for sequence in range(len(self._stream)):
                    self._keep_inputs(sequence, self._run(session, sequence))
        give_back_freed_memory()
        self._recorded = recorder.recorded
        self._readers = {seen: set() for seen in self._inputs}
        for name, seen in self._recorded.items():
            self._readers[seen].add(name)

    def _keep_inputs(self, sequence: int, inputs: dict[str, NDArray[np.float32]]) -> None:
        count, length = self._stream.shape[:2]
        for name, x in inputs.items():
            if name not in self._inputs:
                self._inputs[name] = np.empty((count * length, x.shape[1]), np.float32)
            self._inputs[name][sequence * length : (sequence + 1) * length] = x

    def _run(self, session: Session, sequence: int) -> dict[str, NDArray[np.float32]]:
        """Moves one sequence through the layer; returns the recorded inputs, (tokens, K) each."""
        length = self._stream.shape[1]
        inputs = {
            "stream": Tensor(self._stream[sequence : sequence + 1]),
            "update": Tensor(self._update[sequence : sequence + 1]),
            "seqlens_k": Tensor(np.array([length - 1], np.int32)),
            "total_sequence_length": Tensor(np.array(length, np.int32)),
        }
        caches: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}
        for name, info in session.outputs.items():
            if name.startswith("present."):
                shape = 1, int(info.shape[1]), length, int(info.shape[3])
                caches[name] = inputs[name.replace("present", "past_key_values")] = Tensor(np.zeros(shape, np.float32))
            else:
                outputs[name] = Tensor(np.empty((1, length, int(info.shape[2])), np.float32))
        run(session, inputs, outputs | caches)
        self._stream[sequence] = outputs.pop("next_stream").array[0]
        self._update[sequence] = outputs.pop("next_update").array[0]
        return {name: tensor.array[0] for name, tensor in outputs.items()}
