"""``edgelm embed``, ``similarity``, ``rerank`` and ``classify``: several texts in, one line each, files or JSON out."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from support.command_line import edgelm
from support.encoder_bundle import LABELS, TinyEncoder, write_encoder_bundle

from edgelm.bundle.manifest_parts import POOLING_MODES, Pooling
from edgelm.cli import embed, vectors
from edgelm.encoder_model import load_encoder

Invoke = Callable[..., Result]

TEXTS = ["the quick brown fox", "she sells sea shells", "a\tlazy dog?"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("bundles")
    kinds = {
        "vectors": TinyEncoder(pooling=Pooling("mean", normalize=True)),
        "labels": TinyEncoder("text-classification"),
        "ranking": TinyEncoder("text-ranking", labels=("relevance",)),
        "nli": TinyEncoder("text-classification", labels=("contradiction", "neutral", "entailment")),
    }
    return {name: str(write_encoder_bundle(root / name, sizes)) for name, sizes in kinds.items()}


def reference(model: str, texts: list[str]) -> np.ndarray:
    with load_encoder(Path(model), prepack=False) as encoder:
        return encoder.embed(texts)


def test_choices_are_those_of_the_runtime() -> None:
    assert embed.POOLINGS == POOLING_MODES
    assert embed.FORMATS == vectors.FORMATS


def test_embed_prints_an_object_a_line(invoke: Invoke, models: dict[str, str]) -> None:
    done = invoke("embed", models["vectors"], *TEXTS)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["text"] for row in rows] == TEXTS
    assert np.array_equal(np.array([row["embedding"] for row in rows], np.float32), reference(models["vectors"], TEXTS))


def test_only_line_breaks_end_a_text(invoke: Invoke, models: dict[str, str]) -> None:
    done = invoke("embed", models["vectors"], stdin="one\u2028more\x0c\x85\r\ntwo\rthree\n\n")
    texts = [json.loads(line)["text"] for line in done.stdout_bytes.decode().split("\n")[:-1]]
    assert texts == ["one\u2028more\x0c\x85", "two", "three", ""]


def test_every_line_has_its_row(invoke: Invoke, models: dict[str, str]) -> None:
    """Also an empty one; where there can be no row, the line is named as editors count them."""
    lines = "\none\n \n\ntwo\n"
    rows = [json.loads(line) for line in invoke("embed", models["vectors"], "--json", stdin=lines).stdout.splitlines()]
    assert [row["text"] for row in rows] == ["", "one", " ", "", "two"]
    alike = json.loads(invoke("similarity", models["vectors"], "--json", stdin=lines).stdout)
    assert np.shape(alike["similarities"]) == (5, 5)
    labelled = json.loads(invoke("classify", models["labels"], "--json", stdin=lines).stdout)
    assert len(labelled["results"]) == 5
    ranked = json.loads(invoke("rerank", models["ranking"], "two", "--json", stdin=lines).stdout)
    assert {row["index"]: row["text"] for row in ranked["results"]}[4] == "two"
    refused = invoke("classify", models["vectors"], "--labels", "a,b", stdin="one\n\ntwo\n")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "line 2 must be a text that is not empty" in refused.stderr
    too_long = invoke("embed", models["vectors"], stdin="one\n\n" + "word " * 99)
    assert "error: line 3 has 398 tokens" in too_long.stderr
    assert "there is no text" in invoke("embed", models["vectors"], stdin="\n \n").stderr


def test_embed_writes_numpy_to_a_pipe_and_to_a_file(invoke: Invoke, models: dict[str, str], tmp_path: Path) -> None:
    lines = "\n".join(TEXTS) + "\n"
    done = invoke("embed", models["vectors"], "--format", "npy", stdin=lines)
    piped = np.load(io.BytesIO(done.stdout_bytes))
    file = tmp_path / "vectors.npy"
    (tmp_path / "lines.txt").write_text(lines)
    arguments = ("embed", models["vectors"], "-f", str(tmp_path / "lines.txt"), "--format", "npy", "-o", str(file))
    assert invoke(*arguments).stderr == f"wrote {file}\n"
    assert np.array_equal(piped, np.load(file))
    assert np.array_equal(piped, reference(models["vectors"], TEXTS))


def test_embed_writes_through_a_link_and_leaves_nothing_beside(
    invoke: Invoke, models: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "made"
    file, link = folder / "vectors.json", folder / "link"
    folder.mkdir()
    link.symlink_to(file)
    for output in (link, file):
        assert invoke("embed", models["vectors"], "x", "-o", str(output)).exit_code == 0
        assert json.loads(file.read_text())["text"] == "x"
    assert link.is_symlink()
    assert sorted(path.name for path in folder.iterdir()) == ["link", "vectors.json"]
    assert invoke("embed", models["vectors"], "x", "-o", str(folder)).exit_code == 4


def test_texts_that_are_given_leave_the_pipe_to_others(home: Path, models: dict[str, str]) -> None:
    done = edgelm("similarity", models["vectors"], "a", "b", input=b"waiting\n")
    assert done.returncode == 0
    assert done.stderr == b"edgelm: warning: standard input is not read: the text is given already\n"
    assert edgelm("similarity", models["vectors"], "a", "b").stderr == b""


def test_embed_writes_what_the_projector_loads(invoke: Invoke, models: dict[str, str], tmp_path: Path) -> None:
    assert invoke("embed", models["vectors"], *TEXTS, "--format", "tsv", "-o", str(tmp_path)).exit_code == 0
    found = np.loadtxt(tmp_path / "vectors.tsv", delimiter="\t", dtype=np.float32)
    assert np.array_equal(found, reference(models["vectors"], TEXTS))
    assert (tmp_path / "metadata.tsv").read_text() == "the quick brown fox\nshe sells sea shells\na lazy dog?\n"


def test_embed_options_change_the_vectors(invoke: Invoke, models: dict[str, str]) -> None:
    def first(*options: str) -> list[float]:
        vector: list[float] = json.loads(invoke("embed", models["vectors"], TEXTS[0], *options).stdout)["embedding"]
        return vector

    plain = first()
    assert np.linalg.norm(plain) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(first("--no-normalize")) > 1.5
    assert first("--pooling", "cls") != plain
    assert first("--prefix", "query: ") != plain


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "tsv", "x"], "name their folder with -o"),
        (["x", "-f", "texts.txt"], "the texts are given twice"),
        (["--pooling", "sum", "x"], "'sum' is not one of"),
        (["-f", "nowhere.txt"], "nowhere.txt: No such file"),
        ([], "there is no text; give it as arguments"),
        (
            ["word " * 99],
            "text 1 has 398 tokens; tiny-encoder takes 64: shorten it, or have it cut with truncation=True",
        ),
        (["x", "-o", "nowhere/v.json"], "there is no folder 'nowhere' to write v.json into"),
        (["x", "--format", "tsv", "-o", "nowhere/v"], "there is no folder 'nowhere'"),
        (["x", "--json", "--format", "npy"], "give either --json or --format npy"),
    ],
)
def test_embed_refuses(invoke: Invoke, models: dict[str, str], arguments: list[str], message: str) -> None:
    done = invoke("embed", models["vectors"], *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_embed_cuts_only_when_asked(invoke: Invoke, models: dict[str, str]) -> None:
    assert invoke("embed", models["vectors"], "word " * 99, "--truncate").exit_code == 0


def test_a_model_with_a_head_makes_no_vectors(invoke: Invoke, models: dict[str, str]) -> None:
    done = invoke("embed", models["labels"], "x")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "is for text-classification" in done.stderr


def test_similarity_is_a_table_of_all_pairs(invoke: Invoke, models: dict[str, str]) -> None:
    found = reference(models["vectors"], TEXTS)
    expected = found @ found.T
    header, *rows = [line.split() for line in invoke("similarity", models["vectors"], *TEXTS).stdout.splitlines()]
    assert header == ["1", "2", "3", "text"]
    assert [[float(cell) for cell in row[1:4]] for row in rows] == pytest.approx(expected, abs=6e-4)
    answer = json.loads(invoke("similarity", models["vectors"], "--json", stdin="\n".join(TEXTS)).stdout)
    assert answer["texts"] == TEXTS
    assert np.array(answer["similarities"]) == pytest.approx(expected, abs=1e-5)
    assert "one text only" in invoke("similarity", models["vectors"], "x").stderr


@pytest.mark.parametrize("kind", ["ranking", "vectors"])
def test_rerank_puts_the_best_first(invoke: Invoke, models: dict[str, str], kind: str) -> None:
    answer = json.loads(invoke("rerank", models[kind], "sea shells", *TEXTS, "--json").stdout)
    scores = [row["score"] for row in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert [TEXTS[row["index"]] for row in answer["results"]] == [row["text"] for row in answer["results"]]
    shown = invoke("rerank", models[kind], "sea shells", *TEXTS, "--top-k", "1").stdout.splitlines()
    assert shown[0].split() == ["score", "passage"]
    assert shown[1].split(maxsplit=1)[1] == answer["results"][0]["text"]
    assert len(shown) == 2


def test_classify_by_the_models_own_labels(invoke: Invoke, models: dict[str, str]) -> None:
    answer = json.loads(invoke("classify", models["labels"], *TEXTS, "--json").stdout)
    assert [row["text"] for row in answer["results"]] == TEXTS
    for row in answer["results"]:
        assert {label["label"] for label in row["labels"]} == set(LABELS)
        assert sum(label["score"] for label in row["labels"]) == pytest.approx(1, abs=1e-5)
    shown = invoke("classify", models["labels"], *TEXTS, "--top-k", "1").stdout.splitlines()
    assert [line.split()[0] for line in shown[1:]] == [row["labels"][0]["label"] for row in answer["results"]]


def test_classify_by_labels_of_the_users_cuts_only_when_asked(invoke: Invoke, models: dict[str, str]) -> None:
    arguments = ("classify", models["vectors"], "word " * 99, "--labels", "fox, sea")
    refused = invoke(*arguments)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert invoke(*arguments, "--truncate").exit_code == 0


def test_classify_refuses_an_empty_template(invoke: Invoke, models: dict[str, str]) -> None:
    done = invoke("classify", models["vectors"], "a dog", "--labels", "fox,sea", "--template", "")
    assert done.exit_code == 2
    assert "must have {} where the label goes" in done.stderr


@pytest.mark.parametrize("kind", ["nli", "vectors", "endless"])
def test_classify_by_labels_of_the_users(invoke: Invoke, models: dict[str, str], endless: str, kind: str) -> None:
    """By entailment, by vectors, and by a language model."""
    arguments = ("classify", models.get(kind, kind), "a dog", "--labels", "fox, sea", "--json")
    (row,) = json.loads(invoke(*arguments).stdout)["results"]
    assert {label["label"] for label in row["labels"]} == {"fox", "sea"}
    assert sum(label["score"] for label in row["labels"]) == pytest.approx(1, abs=1e-5)
    (each,) = json.loads(invoke(*arguments, "--multi-label", "--template", "about {}").stdout)["results"]
    assert each["labels"] != row["labels"]


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("tiny", ["x"], "tiny has no labels of its own; give some with --labels"),
        ("labels", ["x", "--labels", "a,b"], "none is called 'entailment'"),
        ("labels", ["x", "--multi-label"], "give them with --labels"),
        ("nli", ["x", "--labels", " , "], "give at least one candidate label"),
        ("nli", ["x", "--labels", "a", "--template", "none"], "must have {} where the label goes"),
        ("not-there", ["x", "--labels", ","], "give at least one candidate label"),
        ("vectors", ["x"], "tiny-encoder has no labels of its own; give some with --labels"),
    ],
)
def test_classify_refuses(
    invoke: Invoke, models: dict[str, str], kind: str, arguments: list[str], message: str
) -> None:
    done = invoke("classify", models.get(kind, kind), *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
