"""The memory that converting a checkpoint takes, before it begins, and what is left out so that it fits a limit.

Its phases come one after the other: quantizing (with calibration, layer by layer), measuring the scales of an int8 KV
cache, the report, and what such a cache costs. Each is estimated from the model's sizes alone; the constants were
measured with Python 3.11 and ONNX Runtime 1.32 on Linux x86-64, and are such that no estimate is below the peak.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgelm.bundle.manifest import Manifest
from edgelm.bundle.model_shape import expected_manifest
from edgelm.errors import MemoryLimitError
from edgelm.runtime.footprint import footprint_of, tokenizer_bytes
from edgelm.runtime.memory import Budget, budget, encoder_budget, megabytes
from edgelm_tools.architectures.base import Architecture
from edgelm_tools.calibration import CALIBRATION_TOKENS
from edgelm_tools.evaluate import CHUNK, EVALUATION_TOKENS, WINDOW
from edgelm_tools.expected import shape_of
from edgelm_tools.matrix import MOST_VALUES
from edgelm_tools.quantize.schemes import Scheme, calibrates, scheme_named

MB = 1_000_000
FLOAT_BYTES = 4
FEWER_CALIBRATION_TOKENS = 1024
# Above this the fp32 graph that the report compares with would not fit beside the model: of others than decoders.
MOST_BYTES_FOR_REPORT = 3 << 30
# Python, NumPy, ONNX Runtime, onnx and gguf, once imported and at work.
INTERPRETER_AND_TOOLS = 120 * MB
# Copies of a matrix, or of the rows of it that are read at a time, while it is changed and rounded.
_MATRIX_COPIES = 6
# Of a Hessian: itself, its factor, and what the factor is made of.
_HESSIAN_COPIES = 3.3
# Of a part's weights in fp32: as they are mapped, and as they are laid out anew.
_LOADED_COPIES = 2.1
# Of the output head's share in a bundle that is loaded: it is the largest of what is laid out anew.
_HEAD_COPIES = 2
# Values of a run for each token, in widths of the stream and of the feed-forward layers.
_RUN_WIDTHS = 12
# Of the logits of both: as they come, and in the runtime.
_LOGIT_SETS = 4
_COMPARED = 40 * MB
_ENCODER_TOKENS = 512
# Of the texts that an int8 KV cache is measured on, at most.
_CACHE_TEXT = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionPlan:
    """What a conversion does beside quantizing.

    Attributes:
        report: measure what quantization cost.
        cache_scales: measure the scales that an int8 KV cache needs.
        cache_figures: measure what such a cache costs.
        calibration_tokens: of the text that int8 or int4 is calibrated on.
        left_out: what is not done that would have been, in words.
        need: bytes of resident memory at its peak, as estimated.
    """

    report: bool
    cache_scales: bool
    cache_figures: bool
    calibration_tokens: int
    left_out: tuple[str, ...] = ()
    need: int = 0


def plan_conversion(
    model: Architecture, scheme: str, source: Path, *, report: bool = True, limit: int | None = None
) -> ConversionPlan:
    """What is done within ``limit`` bytes of resident memory.

    Args:
        model: the checkpoint, understood.
        scheme: one of ``SCHEMES``.
        source: the checkpoint's folder or file.
        report: whether a report is wanted.
        limit: None: all that is wanted.

    Raises:
        MemoryLimitError: not even quantizing alone fits; names need, limit and what would help.
    """
    estimate = ConversionEstimate(model, scheme, source)
    most = estimate.quantizing(CALIBRATION_TOKENS) if limit is None else limit
    tokens = next(
        (count for count in (CALIBRATION_TOKENS, FEWER_CALIBRATION_TOKENS) if estimate.quantizing(count) <= most), None
    )
    if tokens is None:
        raise _refusal(estimate, most)
    needs = {"quantizing": estimate.quantizing(tokens)}
    wanted = {"report": report and estimate.can_report, "cache_scales": estimate.is_decoder}
    left_out = [] if tokens == CALIBRATION_TOKENS else [f"calibrated on {tokens} tokens, not {CALIBRATION_TOKENS}"]
    for phase, words in _PHASES.items():
        if phase == "cache_figures":
            wanted[phase] = wanted["report"] and wanted["cache_scales"]
        need = getattr(estimate, phase)() if wanted[phase] else 0
        if limit is not None and need > limit:
            wanted[phase] = False
            left_out.append(f"{words}, which needs {megabytes(need)}")
        needs[phase] = need if wanted[phase] else 0
    return ConversionPlan(**wanted, calibration_tokens=tokens, left_out=tuple(left_out), need=max(needs.values()))


_PHASES = {
    "report": "no report of what quantization costs",
    "cache_scales": "no scales for an int8 KV cache",
    "cache_figures": "no measure of what an int8 KV cache costs",
}


class ConversionEstimate:
    """Peaks of the phases of a conversion, in bytes of resident memory; for the arguments see ``plan_conversion``."""

    def __init__(self, model: Architecture, scheme: str, source: Path) -> None:
        self.model = model
        self.source = source
        self._used: Scheme = model.prepared(scheme_named(scheme), None, source)
        self._scheme = scheme
        self.is_decoder = model.facts.family == "decoder"
        self.can_report = self.is_decoder or FLOAT_BYTES * model.parameters() <= MOST_BYTES_FOR_REPORT

    @property
    def calibrates(self) -> bool:
        """Whether inputs of the layers are looked at."""
        return calibrates(self._used)

    def quantizing(self, calibration_tokens: int) -> int:
        """Of reading, calibrating, rounding and writing, tensor by tensor."""
        sizes = self.model.facts.footprint
        widest = max(sizes.intermediate_size, sizes.hidden_size, sizes.heads * sizes.head_size)
        rounding = FLOAT_BYTES * _MATRIX_COPIES * max(sizes.hidden_size * widest, min(self._table, MOST_VALUES))
        if self.model.facts.family == "encoder" and self.calibrates_whole:
            rounding = max(rounding, int(_LOADED_COPIES * FLOAT_BYTES * self.model.parameters()))
        if not self.calibrates:
            return self._base + rounding + self._table
        streams = 2 * FLOAT_BYTES * calibration_tokens * sizes.hidden_size
        inputs = FLOAT_BYTES * calibration_tokens * (2 * sizes.hidden_size + sizes.heads * sizes.head_size + widest)
        hessian = int(_HESSIAN_COPIES * FLOAT_BYTES * widest**2)
        head = self._table // 4 + 2 * FLOAT_BYTES * calibration_tokens * sizes.hidden_size
        return (
            self._base + streams + max(self._layer, inputs + hessian + rounding, inputs + self._layer, head + rounding)
        )

    def report(self) -> int:
        """Of comparing the bundle with the model in fp32."""
        sizes = self.model.facts.footprint
        candidate = self._running(min(WINDOW, self.model.facts.context_length))
        if not self.is_decoder:
            return self._base + candidate + int(_LOADED_COPIES * FLOAT_BYTES * self.model.parameters())
        streams = 2 * FLOAT_BYTES * EVALUATION_TOKENS * sizes.hidden_size
        running = FLOAT_BYTES * CHUNK * _RUN_WIDTHS * (sizes.hidden_size + sizes.intermediate_size)
        comparing = self._head + int(_LOADED_COPIES * FLOAT_BYTES * self._table) + self._logits
        return self._base + self._states + max(candidate, streams + max(self._layer + running, comparing))

    def cache_scales(self) -> int:
        """Of running the bundle over long texts."""
        return self._base + self._running(min(_CACHE_TEXT, self.model.facts.context_length))

    def cache_figures(self) -> int:
        """Of comparing the bundle with itself: of running it, and of its output head beside what it reads."""
        running = self._running(min(WINDOW, self.model.facts.context_length))
        return self._base + 2 * self._states + max(running, self._head + self._logits)

    @property
    def calibrates_whole(self) -> bool:
        """Whether an encoder is run in fp32 as a whole, for its inputs."""
        return self._scheme == "int8"

    @cached_property
    def _base(self) -> int:
        return INTERPRETER_AND_TOOLS + tokenizer_bytes(self._expected, footprint_of(self._expected))

    @cached_property
    def _table(self) -> int:
        """Values of the table of embeddings, and of the output head."""
        return self.model.facts.vocab_size * self.model.facts.hidden_size

    @cached_property
    def _logits(self) -> int:
        return FLOAT_BYTES * _LOGIT_SETS * CHUNK * self.model.facts.vocab_size + _COMPARED

    @cached_property
    def _states(self) -> int:
        """Of the evaluation text: what the last layer's attention leaves, and the stream beside it."""
        sizes = self.model.facts.footprint
        return FLOAT_BYTES * EVALUATION_TOKENS * (sizes.hidden_size + sizes.heads * sizes.head_size)

    @cached_property
    def _head(self) -> int:
        """The bundle's output head at work, and the end of its last layer."""
        parameters = self.model.parameters()
        layers = sum(self.model.layers(role) for role in self.model.facts.graphs)
        share = (self._table + max(0, parameters - self._table) // layers) / max(parameters, 1)
        return int(min(1, _HEAD_COPIES * share) * self._running(1))

    @cached_property
    def _layer(self) -> int:
        """A layer in fp32, as it is loaded."""
        layers = sum(self.model.layers(role) for role in self.model.facts.graphs)
        return int(_LOADED_COPIES * FLOAT_BYTES * max(0, self.model.parameters() - self._table) / layers)

    @cached_property
    def _expected(self) -> Manifest:
        facts = self.model.facts
        return expected_manifest(
            shape_of(self.model, self.source),
            name="bundle",
            tasks=facts.tasks,
            parameters=self.model.parameters(),
            context_length=facts.context_length,
            scheme=self._scheme,
        )

    def _running(self, tokens: int) -> int:
        """The bundle at work on a text of so many tokens, beside what the process has already."""
        manifest = self._expected
        if manifest.family == "encoder":
            need: Budget = encoder_budget(manifest, batch_tokens=_ENCODER_TOKENS, longest=_ENCODER_TOKENS)
        else:
            need = budget(manifest, tokens=tokens, prefill_chunk=CHUNK)
        return need.total - need.interpreter - need.text


def _refusal(estimate: ConversionEstimate, limit: int) -> MemoryLimitError:
    need = estimate.quantizing(FEWER_CALIBRATION_TOKENS)
    helps = [f"a limit of {megabytes(need + MB)}"]
    if estimate.calibrates:
        blocks = ConversionEstimate(estimate.model, "int8-block", estimate.source).quantizing(0)
        if blocks < need:
            helps.append(f"--scheme int8-block, which needs no calibration and {megabytes(blocks + MB)}")
    return MemoryLimitError(
        f"converting needs {megabytes(need)}, even without a report and with little calibration; the limit is "
        f"{megabytes(limit)}; what would help: {'; or '.join(helps)}"
    )
