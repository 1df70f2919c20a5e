"""A checkpoint of an encoder-decoder's ForSequenceClassification as the exporter sees it."""

from __future__ import annotations

from dataclasses import replace

from edgelm.errors import UnsupportedModelError
from edgelm_tools.architectures.bart_model import MEMBERS, bart_prefix, bart_spec
from edgelm_tools.architectures.base import Done, ModelFacts
from edgelm_tools.architectures.config_fields import ConfigFields
from edgelm_tools.architectures.labels import head_of
from edgelm_tools.architectures.seq2seq_classifier import DENSE, LABELS, build_classifier
from edgelm_tools.architectures.seq2seq_model import Seq2SeqModel, footprint_of
from edgelm_tools.architectures.seq2seq_spec import Seq2SeqSpec
from edgelm_tools.architectures.t5_model import DEFAULTS, t5_spec
from edgelm_tools.checkpoint.base import Checkpoint
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.quantize.scheme import Scheme

# Model type → labels, by transformers' configuration class, of a checkpoint that does not name them.
_LABELS_BY_DEFAULT = {"bart": 3, "mbart": 2, "t5": 2, "mt5": 2, "umt5": 2}
_T5_PREFIX = "transformer."


class Seq2SeqClassifierModel(Seq2SeqModel):
    """Implements ``Architecture``, as an encoder with a head.

    Args:
        checkpoint: of transformers' BartForSequenceClassification, or of the like for mBART, T5 and its kin.

    Raises:
        UnsupportedModelError: its model type has no such class; else as ``ModelError``.
        ModelError: as ``bart_spec``, ``t5_spec`` and ``Seq2SeqWeights``.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        model_type = str(checkpoint.config["model_type"])
        if model_type not in _LABELS_BY_DEFAULT:
            known = ", ".join(_LABELS_BY_DEFAULT)
            raise UnsupportedModelError(
                f"a {model_type} with a head for classification is not built; built are {known}"
            )
        spec, fields = _spec_and_fields(checkpoint)
        self._head = head_of(fields, count=_LABELS_BY_DEFAULT[model_type])
        self._end = fields.integer("eos_token_id", least=0, most=spec.vocab_size - 1)
        hidden, labels = spec.hidden_size, len(self._head.labels)
        others = {
            f"{DENSE}.weight": (hidden, hidden),
            f"{DENSE}.bias": (hidden,),
            f"{LABELS}.weight": (labels, hidden),
            f"{LABELS}.bias": (labels,),
        }
        # A head that would predict tokens is not used, whether it is there or not.
        super().__init__(checkpoint, replace(spec, tied=True, others=others))

    @property
    def facts(self) -> ModelFacts:
        spec = self.spec
        return ModelFacts(
            architecture=spec.model_type,
            family="encoder",
            tasks=("text-classification",),
            graphs=("encoder",),
            context_length=spec.context_length,
            vocab_size=spec.vocab_size,
            hidden_size=spec.hidden_size,
            footprint=footprint_of(spec),
            head=self._head,
        )

    def layers(self, role: str) -> int:
        return self.spec.encoder.layers + self.spec.decoder.layers

    def build(self, role: str, g: GraphBuilder, scheme: Scheme, done: Done) -> None:
        start = None if self.spec.model_type == "mbart" else self.spec.decoder_start_token_id
        build_classifier(g, self.spec, self._weights, scheme, done, end=self._end, start=start)


def _spec_and_fields(checkpoint: Checkpoint) -> tuple[Seq2SeqSpec, ConfigFields]:
    config, model_type = checkpoint.config, str(checkpoint.config["model_type"])
    if model_type in MEMBERS:
        fields = ConfigFields(config, MEMBERS[model_type].defaults, what="config.json")
        return bart_spec(config, bart_prefix(checkpoint)), fields
    return t5_spec(config, _T5_PREFIX), ConfigFields(config, DEFAULTS[model_type], what="config.json")
