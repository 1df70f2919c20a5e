"""A checkpoint of BartForSequenceClassification as the exporter sees it."""

from __future__ import annotations

from dataclasses import replace

from edgelm.errors import UnsupportedModelError
from edgelm_tools.architectures.bart_classifier import DENSE, LABELS, build_classifier
from edgelm_tools.architectures.bart_model import MEMBERS, bart_prefix, bart_spec
from edgelm_tools.architectures.base import Done, ModelFacts
from edgelm_tools.architectures.config_fields import ConfigFields
from edgelm_tools.architectures.labels import head_of
from edgelm_tools.architectures.seq2seq_model import Seq2SeqModel, footprint_of
from edgelm_tools.checkpoint.base import Checkpoint
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.quantize.scheme import Scheme

# Of transformers' configuration class, where a checkpoint does not name its labels.
_LABELS_BY_DEFAULT = 3


class BartClassifierModel(Seq2SeqModel):
    """Implements ``Architecture``, as an encoder with a head.

    Args:
        checkpoint: of transformers' BartForSequenceClassification.

    Raises:
        UnsupportedModelError, ModelError: as ``bart_spec`` and ``Seq2SeqWeights``.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        config = checkpoint.config
        if config["model_type"] != "bart":
            raise UnsupportedModelError(f"a {config['model_type']} is no BartForSequenceClassification")
        fields = ConfigFields(config, MEMBERS["bart"].defaults, what="config.json")
        spec = bart_spec(config, bart_prefix(checkpoint))
        self._head = head_of(fields, count=_LABELS_BY_DEFAULT)
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
        build_classifier(g, self.spec, self._weights, scheme, done, end=self._end)
