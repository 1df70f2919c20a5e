"""Pipelines of encoder-decoders give token by token what transformers' give for the same checkpoint and settings."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from support.tiny_checkpoints import write_checkpoint
from support.tiny_seq2seq import CONTEXT, PAD, seq2seq_model, seq2seq_variant

import edgelm
from edgelm.bundle.manifest import Source
from edgelm.tasks.pipelines import pipeline

pytestmark = pytest.mark.reference

MODELS = ("t5", "bart", "marian")
TEXT = "The committee met on Monday."
TEXTS = [TEXT, "She sells sea shells 🌍, and nothing was decided."]
SUMMARY = {"num_beams": 3, "max_length": 14, "min_length": 5, "no_repeat_ngram_size": 2, "length_penalty": 2.0}
TRANSLATION = {"num_beams": 2, "max_length": 12, "early_stopping": True, "prefix": "translate English to German: "}

Make = Callable[..., tuple[Any, edgelm.LanguageModel]]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Makes a checkpoint with these settings: transformers' model of it with its tokenizer, and ours."""
    from edgelm_tools.export import export

    loaded: dict[str, tuple[Any, edgelm.LanguageModel]] = {}

    def made(name: str, *, prefix: str | None = None, tasks: Any = None, **generation: Any) -> Any:
        key = repr((name, prefix, tasks, generation))
        if key not in loaded:
            folder = tmp_path_factory.mktemp(name)
            model = seq2seq_model(seq2seq_variant(name))
            model.config.prefix, model.config.task_specific_params = prefix, tasks
            # The start token is a special one, as in published models: transformers' texts begin with it.
            model.config.decoder_start_token_id = PAD
            model.generation_config.update(decoder_start_token_id=PAD, **generation)
            write_checkpoint(folder / "checkpoint", model)
            origin = Source("test:tiny", license="none")
            export(folder / "checkpoint", folder / "b", name="tiny", origin=origin, scheme="fp32", report=False)
            loaded[key] = folder / "checkpoint", edgelm.load(folder / "b", prepack=False, threads=1)
        return loaded[key]

    yield made
    for _, lm in loaded.values():
        lm.close()


def reference(folder: Path, task: str) -> Callable[..., Any]:
    """transformers' pipeline of the checkpoint.

    Its own defaults, 4 beams and 256 new tokens, go before what generation_config.json says of both, other than it
    documents. So they are asked for as the file has them, where the task does not set them.
    """
    config, own = (json.loads((folder / f"{name}.json").read_text()) for name in ("config", "generation_config"))
    of_task = task in (config.get("task_specific_params") or {})
    asked = {} if of_task else {name: own[name] for name in ("num_beams", "max_new_tokens") if name in own}
    with quiet():
        import transformers

        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(PAD)
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, attn_implementation="eager")
        call = transformers.pipeline(task, model=model, tokenizer=tokenizer, device="cpu")

    def answered(inputs: Any, **settings: Any) -> Any:
        with quiet():
            return call(inputs, **{**asked, **settings})

    return answered


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def token_ids(records: list[dict[str, Any]], key: str) -> list[list[int]]:
    """The answers' tokens, without start and padding."""
    return [[int(token) for token in record[f"{key}_token_ids"][1:] if int(token) != PAD] for record in records]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Callable[[edgelm.LanguageModel], list[list[int]]]:
    """The tokens of each answer that a model gives from now on."""

    def watch(lm: edgelm.LanguageModel) -> list[list[int]]:
        answers: list[list[int]] = []
        generate, generate_batch = lm.generate, lm.generate_batch

        def one(prompt: Any, **settings: Any) -> Any:
            result = generate(prompt, **settings)
            answers.append([token for token in result.token_ids if token != PAD])
            return result

        def several(prompts: Any, **settings: Any) -> Any:
            results = generate_batch(prompts, **settings)
            answers.extend([token for token in result.token_ids if token != PAD] for result in results)
            return results

        monkeypatch.setattr(lm, "generate", one)
        monkeypatch.setattr(lm, "generate_batch", several)
        return answers

    return watch


# Without a maximum of the model's own, transformers puts its default of 256 new tokens above the task's maximum.
LIMIT = {"max_length": 30}
CASES: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    # What the authors suggest for the task; and what the caller asks for on top.
    ("summarization", {"tasks": {"summarization": {**SUMMARY, "prefix": "summarize: "}}, **LIMIT}, {}),
    (
        "summarization",
        {"tasks": {"summarization": SUMMARY}, **LIMIT},
        {"num_beams": 2, "max_length": 9, "min_length": 0},
    ),
    # BART's large models have a prefix of their own: a space.
    ("summarization", {"prefix": " ", "max_length": 13, "num_beams": 2}, {}),
    ("summarization", {"max_new_tokens": 7, "num_beams": 3}, {}),
    ("summarization", {}, {"max_new_tokens": 11, "num_beams": 1}),
    ("text2text-generation", {"prefix": "ask: ", "max_length": 13, "num_beams": 3, "no_repeat_ngram_size": 3}, {}),
    ("text2text-generation", {"tasks": {"text2text-generation": TRANSLATION}, **LIMIT}, {}),
    ("text2text-generation", {"num_beams": 3, "max_length": 10}, {"num_return_sequences": 2}),
    ("text2text-generation", {"max_length": 10}, {"num_beams": 1, "min_new_tokens": 9, "repetition_penalty": 1.3}),
)
KEYS = {"summarization": "summary", "text2text-generation": "generated", "translation_en_to_de": "translation"}


@pytest.mark.parametrize(
    ("name", "task", "checkpoint", "settings"),
    # A translator summarizes nothing: ours refuses it, where transformers only warns.
    [(name, *case) for name, case in product(MODELS, CASES) if (name, case[0]) != ("marian", "summarization")],
    ids=lambda value: str(value)[:40],
)
def test_texts(
    make: Make, recorded: Any, name: str, task: str, checkpoint: dict[str, Any], settings: dict[str, Any]
) -> None:
    folder, lm = make(name, **checkpoint)
    answers, key = recorded(lm), KEYS[task]
    call, reference_call = pipeline(task, lm), reference(folder, task)
    for text in TEXTS:
        answers.clear()
        ours, theirs = call(text, **settings), reference_call(text, **settings)
        assert [list(record) for record in ours] == [list(record) for record in theirs]
        stripped = [record[f"{key}_text"].strip() for record in theirs]
        assert [record[f"{key}_text"].strip() for record in ours] == stripped
        assert answers == token_ids(reference_call(text, return_tensors=True, **settings), key)


@pytest.mark.parametrize(
    ("name", "checkpoint", "settings"),
    [
        ("t5", {"tasks": {"translation_en_to_de": TRANSLATION}, **LIMIT}, {}),
        ("t5", {"tasks": {"translation_en_to_de": TRANSLATION}, **LIMIT}, {"num_beams": 1, "max_new_tokens": 20}),
        ("marian", {"num_beams": 3, "max_length": 11}, {}),
        ("marian", {"num_beams": 2, "max_length": 60}, {"max_new_tokens": 6}),
        ("bart", {"num_beams": 2, "max_length": 10, "no_repeat_ngram_size": 2}, {}),
    ],
    ids=str,
)
def test_translations(
    make: Make, recorded: Any, name: str, checkpoint: dict[str, Any], settings: dict[str, Any]
) -> None:
    folder, lm = make(name, **checkpoint)
    answers, task = recorded(lm), "translation_en_to_de"
    call, reference_call = pipeline(task, lm), reference(folder, task)
    for text in TEXTS:
        answers.clear()
        (ours,) = call(text, **settings)
        (theirs,) = reference_call(text, **settings)
        assert ours == {"translation_text": theirs["translation_text"].strip()}
        assert answers == token_ids(reference_call(text, return_tensors=True, **settings), "translation")


@pytest.mark.parametrize("task", KEYS)
def test_lists(make: Make, task: str) -> None:
    folder, lm = make("bart" if task == "summarization" else "marian", num_beams=2, max_length=10)
    theirs = reference(folder, task)(TEXTS)
    ours = pipeline(task, lm)(TEXTS)
    key = f"{KEYS[task]}_text"
    assert [record[key].strip() for record in ours] == [record[key].strip() for record in theirs]
    assert [list(record) for record in ours] == [list(record) for record in theirs]


def test_several_answers_to_each_of_a_list(make: Make) -> None:
    folder, lm = make("bart", num_beams=3, max_length=9)
    settings = {"num_return_sequences": 2}
    ours = pipeline("text2text-generation", lm)(TEXTS, **settings)
    assert ours == reference(folder, "text2text-generation")(TEXTS, **settings)
    assert [len(records) for records in ours] == [2, 2]


def test_a_text_that_just_fits_is_summarized_whole(make: Make, recorded: Any) -> None:
    folder, lm = make("bart", num_beams=2, max_length=10)
    answers = recorded(lm)
    words = " a" * CONTEXT
    text = lm.tokenizer.decode(lm.tokenizer.encode(words)[:CONTEXT])
    assert len(lm.tokenizer.encode(text)) == CONTEXT == lm.bundle.manifest.source_length
    pipeline("summarization", lm)(text)
    assert answers == token_ids(reference(folder, "summarization")(text, return_tensors=True), "summary")
