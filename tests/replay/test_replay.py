"""Answers that are recorded, kept in files, and made again."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.bundles import TinyDecoder, write_decoder_bundle
from support.int8_cache import add_cache_scales

import edgelm
from edgelm.config import GenerationConfig
from edgelm.errors import ConfigError, EdgeLMError, ManifestError, PromptError
from edgelm.replay.file import Replay
from edgelm.replay.record import Recorder, manifest_hash
from edgelm.replay.rerun import rerun

MESSAGES = [{"role": "user", "content": "hello"}]
SAMPLING = {"do_sample": True, "temperature": 3.0, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_decoder_bundle(folder / "one", TinyDecoder(seed=1), name="one")
    write_decoder_bundle(folder / "two", TinyDecoder(seed=2), name="two")
    return folder


@pytest.fixture
def load(root: Path) -> Iterator[Callable[..., edgelm.LanguageModel]]:
    opened = []

    def load(name: str, **settings: Any) -> edgelm.LanguageModel:
        opened.append(edgelm.load(root / name, prepack=False, threads=1, **settings))
        return opened[-1]

    yield load
    for lm in opened:
        lm.close()


Load = Callable[..., edgelm.LanguageModel]


def record(lm: edgelm.LanguageModel, prompt: Any = "hello", **settings: Any) -> Replay:
    recorder = Recorder(lm)
    recorder.stream(prompt, **settings).drain()
    return recorder.replay()


def test_a_seed_is_drawn_and_kept(load: Load) -> None:
    lm = load("one")
    first, second = record(lm, **SAMPLING), record(lm, **SAMPLING)
    assert first.config.seed is not None
    assert first.config.seed != second.config.seed
    assert record(lm, **SAMPLING, seed=5).config.seed == 5
    assert record(lm, max_new_tokens=3).config.seed is None


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 8},
        SAMPLING,
        {**SAMPLING, "top_p": 0.9, "logit_bias": {"a": -math.inf, 5: 2.0}, "sequence_bias": [([4, 5], -math.inf)]},
        {"num_beams": 3, "length_penalty": 0.5, "max_new_tokens": 6},
        {"stop_strings": "a", "bad_words_ids": [[4], [5, 6]], "exponential_decay_length_penalty": (2, 1.1)},
        {"max_time": 60.0, "max_new_tokens": 9, "min_new_tokens": 9},
    ],
)
def test_the_same_comes_out_again(load: Load, tmp_path: Path, settings: dict[str, Any]) -> None:
    replay = record(load("one"), **settings)
    replay.save(tmp_path / "a.json")
    read = Replay.load(tmp_path / "a.json")
    assert read == replay
    pieces: list[str] = []
    comparison = rerun(load("one"), read, on_text=pieces.append)
    assert comparison.identical
    assert comparison.differences == {}
    assert "".join(pieces) == replay.text
    assert comparison.as_dict() == {
        "identical": True,
        "tokens": len(replay.output_ids),
        "parting": None,
        "differences": {},
    }


def test_an_answer_that_time_ended(load: Load) -> None:
    lm = load("one")
    cut = record(lm, max_new_tokens=5, min_new_tokens=5)
    config = cut.config.updated(max_time=0.001, max_new_tokens=30, min_new_tokens=20)
    assert rerun(lm, _with(cut, config=config)).identical


def test_a_conversation(load: Load) -> None:
    lm = load("one")
    recorder = Recorder(lm)
    answer = recorder.stream_chat(MESSAGES, max_new_tokens=5).drain()
    replay = recorder.replay()
    assert replay.prompt_ids == tuple(lm.encode_chat(MESSAGES))
    assert (replay.output_ids, replay.text) == (answer.token_ids, answer.text)
    assert replay.manifest_sha256 == manifest_hash(lm.bundle)


def test_another_model_parts(load: Load) -> None:
    replay = record(load("one"), max_new_tokens=10, min_new_tokens=10)
    lm = load("two")
    parting = rerun(lm, replay).parting
    assert parting is not None
    now = lm.generate(replay.prompt_ids, replay.config)
    assert list(now.token_ids[: parting.at]) == list(replay.output_ids[: parting.at])
    assert parting.expected is not None
    assert parting.got is not None
    assert (parting.expected[0], parting.got[0]) == (replay.output_ids[parting.at], now.token_ids[parting.at])
    logits = lm.new_decoder().prefill((*replay.prompt_ids, *replay.output_ids[: parting.at]))
    largest, second = sorted(map(float, logits))[:-3:-1]
    assert parting.gap == pytest.approx(largest - second, abs=1e-4)


def test_an_answer_that_ends_earlier_parts_there(load: Load) -> None:
    lm = load("one")
    replay = record(lm, max_new_tokens=6, min_new_tokens=6)
    longer = rerun(lm, _with(replay, output_ids=(*replay.output_ids, 7))).parting
    assert longer is not None
    assert (longer.at, longer.got) == (6, None)
    assert longer.expected is not None
    shorter = rerun(lm, _with(replay, output_ids=replay.output_ids[:4])).parting
    assert shorter is not None
    assert (shorter.at, shorter.expected) == (4, None)


def test_the_type_of_the_kv_cache_is_recorded(load: Load, root: Path, tmp_path: Path) -> None:
    add_cache_scales(write_decoder_bundle(root / "eight", TinyDecoder(seed=1), name="eight"))
    lm = load("eight", kv_cache="int8")
    replay = record(lm, max_new_tokens=12)
    replay.save(tmp_path / "a.json")
    assert Replay.load(tmp_path / "a.json").kv_cache == "int8"
    assert rerun(lm, replay).identical
    assert rerun(load("eight"), replay).differences["kv_cache"] == ("int8", "f32")
    older = json.loads(replay.to_json())
    del older["runtime"]["kv_cache"]
    assert Replay.parse(json.dumps(older).encode(), "older").kv_cache == "f32"
    older["runtime"]["kv_cache"] = "int4"
    with pytest.raises(ManifestError, match="kv_cache"):
        Replay.parse(json.dumps(older).encode(), "other")


def test_what_differs_from_then_is_told(load: Load) -> None:
    lm = load("one")
    replay = record(lm, max_new_tokens=3)
    changed = _with(replay, machine={**replay.machine, "numpy": "1.0"}, runtime={**replay.runtime, "threads": 7})
    differences = rerun(lm, changed).differences
    assert set(differences) == {"numpy", "threads"}
    assert differences["threads"] == ("7", "1")


def test_functions_cannot_be_recorded(load: Load) -> None:
    recorder = Recorder(load("one"))
    for name in ("logits_processor", "stopping_criteria", "tools"):
        with pytest.raises(ConfigError, match=f"{name} cannot be recorded: a file holds no functions"):
            recorder.stream("hello", **{name: [print]})
    with pytest.raises(RuntimeError, match="nothing was recorded"):
        recorder.replay()
    recorder.stream("hello", logits_processor=[], max_new_tokens=2)
    with pytest.raises(RuntimeError, match="not been read to its end"):
        recorder.replay()


def test_another_model_may_not_take_the_ids(load: Load) -> None:
    replay = record(load("one"), max_new_tokens=2)
    with pytest.raises(EdgeLMError, match="the recorded ids go up to 10000"):
        rerun(load("two"), _with(replay, prompt_ids=(10_000,)))


def _with(replay: Replay, **changes: Any) -> Replay:
    import dataclasses

    return dataclasses.replace(replay, **changes)


# Files


@pytest.fixture(scope="module")
def written(root: Path) -> dict[str, Any]:
    with edgelm.load(root / "one", prepack=False) as lm:
        values: dict[str, Any] = json.loads(record(lm, **SAMPLING, logit_bias={5: -math.inf}).to_json())
    return values


@pytest.mark.parametrize("text", ["[]", "3", '{"text": "an answer", "model": "tiny"}'])
def test_json_that_is_no_record_is_told_so(text: str) -> None:
    with pytest.raises(ManifestError, match=r"a\.json: is no recorded answer, which edgelm run --record FILE writes"):
        Replay.parse(text.encode(), "a.json")


def test_a_model_of_another_vocabulary_cannot_replay(root: Path) -> None:
    with edgelm.load(root / "one", prepack=False) as lm:
        foreign = dataclasses.replace(record(lm, **SAMPLING), output_ids=(3, 40_000), model="other")
        with pytest.raises(PromptError, match=r"ids go up to 40000, but one knows .* tokens: its vocabulary is not"):
            rerun(lm, foreign)


def test_all_settings_are_in_the_file(written: dict[str, Any]) -> None:
    assert list(written["config"]) == list(GenerationConfig.field_names())
    assert written["config"]["logit_bias"] == [[5, "-inf"]]
    assert {"edgelm", "onnxruntime", "numpy", "processor", "instruction_sets"} <= set(written["machine"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.update(format=2), "format must be 1, which this version of EdgeLM reads"),
        (lambda v: v.update(more=1), "more is unknown; known are: format, model"),
        (lambda v: v.pop("config"), "config is missing"),
        (lambda v: v.update(config=[]), "config must be an object"),
        (lambda v: v["config"].update(top_p=3), "config: top_p must be above 0 and at most 1, not 3"),
        (lambda v: v["config"].update(nonsense=3), "config: unknown generation setting 'nonsense'"),
        (lambda v: v["config"].update(seed="x"), "config: seed must be an integer"),
        (lambda v: v["config"].update(logit_bias=[[5]]), "config: logit_bias must be a mapping, or a list of pairs"),
        (lambda v: v["config"].update(logit_bias=[[5, "inf"]]), "config: logit_bias must be a finite number"),
        (lambda v: v["config"].update(stop_strings=[[]]), "config: a stop string must have"),
        (lambda v: v["config"].pop("seed"), "config.seed is missing"),
        (lambda v: v["model"].update(manifest_sha256="x"), "model.manifest_sha256 must be 64 lowercase"),
        (lambda v: v["model"].update(name="a\x1b[2J"), "model.name must be a printable string"),
        (lambda v: v["prompt"].update(ids=[]), "prompt.ids must have at least one token"),
        (lambda v: v["prompt"].update(ids=[1.5]), "prompt.ids[0] must be an integer from 0"),
        (lambda v: v["prompt"].update(ids=[-1]), "prompt.ids[0] must be an integer from 0"),
        (lambda v: v["output"].update(text=3), "output.text must be a string"),
        (lambda v: v["output"].update(finish_reason="x"), "output.finish_reason must be one of stop, length"),
        (lambda v: v.update(form={"kind": "x", "text": ""}), "form.kind must be one of json_schema, regex"),
        (lambda v: v.update(form={"kind": "regex", "text": 3}), "form.text must be a string"),
        (lambda v: v["runtime"].update(threads=0), "runtime.threads must be an integer from 1"),
        (lambda v: v["runtime"].pop("threads"), "runtime.threads is missing"),
        (lambda v: v["machine"].update(numpy=[1]), "machine.numpy must be a printable string"),
    ],
)
def test_a_file_is_read_strictly(
    written: dict[str, Any], tmp_path: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    values = json.loads(json.dumps(written))
    assert Replay.parse(json.dumps(values).encode(), "file")
    change(values)
    file = tmp_path / "replay.json"
    file.write_text(json.dumps(values))
    with pytest.raises((ManifestError, ConfigError)) as error:
        Replay.load(file)
    assert str(error.value).startswith(f"{file}: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not valid JSON"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b"[]", "is no recorded answer, which edgelm run --record FILE writes"),
        (b'{"format": 1, "format": 1}', "key 'format' occurs twice"),
        (b'{"format": NaN}', "NaN is not a JSON number"),
        (b"[" * 200_000, "nested deeper"),
    ],
)
def test_what_is_no_replay(tmp_path: Path, data: bytes, words: str) -> None:
    file = tmp_path / "replay.json"
    file.write_bytes(data)
    with pytest.raises(ManifestError, match=words):
        Replay.load(file)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="No such file"):
        Replay.load(tmp_path / "none.json")
    with pytest.raises(PromptError, match="Is a directory"):
        Replay.load(tmp_path)
    with pytest.raises(PromptError, match="null"):
        Replay.load(Path("a\0b"))
