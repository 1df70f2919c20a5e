"""The measures as people read them: what each is called, how it is written, and what it is."""

from __future__ import annotations

from edgelm.comparison.results import Row

COLUMNS = {
    "tokens": ("tokens", "{:.0f}", "tokens of the answer"),
    "tokens_per_second": ("tokens/s", "{:.1f}", "speed of decoding"),
    "distinct_1": ("distinct-1", "{:.2f}", "share of tokens that are different ones"),
    "distinct_2": ("distinct-2", "{:.2f}", "share of pairs of tokens that are different ones"),
    "repetition": ("repetition", "{:.2f}", "share of 4-grams of tokens that the answer had before"),
    "logprob": ("logprob", "{:.1f}", "log probability of the answer under the model's own distribution, in nats"),
    "mean_logprob": ("per token", "{:.2f}", "mean log probability of a token"),
    "rouge_1": ("ROUGE-1", "{:.2f}", "words shared with the reference (F1)"),
    "rouge_2": ("ROUGE-2", "{:.2f}", "pairs of words shared with the reference (F1)"),
    "rouge_l": ("ROUGE-L", "{:.2f}", "longest sequence of words shared with the reference (F1)"),
    "chrf": ("chrF", "{:.2f}", "runs of characters shared with the reference (chrF2)"),
}


def measured(row: Row, name: str) -> str:
    """A measure of an answer; empty where there is none."""
    value = row.as_dict().get(name)
    return "" if value is None else COLUMNS[name][1].format(value)
