"""The labels of a model with a classifier, by the rules of transformers' configurations and pipelines."""

from __future__ import annotations

from edgelm.bundle.manifest import Head
from edgelm.bundle.manifest_parts import PROBLEM_TYPES
from edgelm_tools.architectures.config_fields import ConfigFields

_MOST_LABELS = 1 << 16


def head_of(fields: ConfigFields, *, count: int = 2) -> Head:
    """Labels and problem type of a configuration; ``count``: how many labels there are where it does not say.

    Raises:
        UnsupportedModelError: another problem type than those of a manifest.
        ModelError: a field breaks its rule.
    """
    labels = _labels(fields, count)
    if fields.has("problem_type"):
        return Head(labels, fields.choice("problem_type", PROBLEM_TYPES))
    # A single label is scored by a sigmoid, as each of several labels that may hold at once.
    return Head(labels, "multi_label_classification" if len(labels) == 1 else "single_label_classification")


def _labels(fields: ConfigFields, count: int) -> tuple[str, ...]:
    if not fields.has("id2label"):
        if fields.has("num_labels"):
            count = fields.integer("num_labels", most=_MOST_LABELS)
        return tuple(f"LABEL_{i}" for i in range(count))
    by_id = fields.object("id2label")
    labels = tuple(by_id.get(str(i)) for i in range(len(by_id)))
    if not labels or not all(isinstance(label, str) for label in labels):
        raise fields.fault("id2label", f"must give each id from 0 on a text, not {dict(by_id)!r:.80}")
    return tuple(str(label) for label in labels)
