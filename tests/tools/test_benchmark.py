from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.bundles import write_decoder_bundle

from edgelm.errors import ConfigError, EdgeLMError
from edgelm_tools.benchmark import (
    OURS,
    Sample,
    compare,
    edgelm_command,
    machine,
    main,
    markdown_table,
    median,
    parse_engines,
)

FAST = {"prefill_tps": 1000.0, "decode_tps": 100, "load_s": 0.1, "peak_rss_mb": 200.0}
SLOW = {"prefill_tps": 500.0, "decode_tps": 40.0, "load_s": 0.3, "peak_rss_mb": 300.0}
WORK = {"prompt_tokens": 255, "new_tokens": 128, "threads": 2, "model": "tiny", "scheme": "int8"}


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def printing(*lines: str) -> list[str]:
    return python(f"print({chr(10).join(lines)!r})")


def printing_json(values: dict[str, object]) -> list[str]:
    return printing("some talk before", json.dumps(values), "and after")


def test_a_median_is_taken_of_each_figure_by_itself() -> None:
    samples = [
        Sample(prefill_tps=prefill, decode_tps=decode, load_s=0.1, peak_rss_mb=200.0)
        for prefill, decode in ((1, 30), (2, 10), (9, 20))
    ]
    assert median(samples) == Sample(prefill_tps=2, decode_tps=20, load_s=0.1, peak_rss_mb=200.0)


def test_engines_take_turns_and_ours_tells_what_was_done(tmp_path: Path) -> None:
    log = tmp_path / "log"
    commands = {
        name: python(f"open({str(log)!r}, 'a').write({name[0]!r}); print({json.dumps(values)!r})")
        for name, values in ((OURS, FAST | WORK), ("other", SLOW))
    }
    comparison = compare(commands, runs=3)
    assert log.read_text() == "EoEoEo"
    assert comparison.about["model"] == "tiny"
    assert comparison.samples == {OURS: [Sample(**FAST)] * 3, "other": [Sample(**SLOW)] * 3}


def test_the_table_tells_how_many_times_better_we_are() -> None:
    lines = markdown_table({OURS: Sample(**FAST), "other": Sample(**SLOW)}).splitlines()
    assert lines[0] == "| engine | prefill tokens/s | decode tokens/s | load s | peak MB |"
    assert lines[2] == "| EdgeLM | 1,000 | 100 | 0.10 | 200 |"
    assert lines[3] == "| other | 500 (×2.00) | 40 (×2.50) | 0.30 (×3.00) | 300 (×1.50) |"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (python("import sys; sys.exit('line one\\nno such model')"), "other ended with exit code 1: no such model"),
        (python("import sys; sys.exit(3)"), "other ended with exit code 3: it said nothing"),
        (printing("no figures here"), "other printed no line of JSON"),
        (printing("{broken"), "other printed no JSON: "),
        (printing_json({"prefill_tps": 1.0}), "other: decode_tps must be a number above zero, not None"),
        (printing_json(SLOW | {"load_s": 0}), "other: load_s must be a number above zero, not 0"),
        (printing_json(SLOW | {"load_s": True}), "other: load_s must be a number above zero, not True"),
        (printing_json(SLOW | {"peak_rss_mb": float("nan")}), "other: peak_rss_mb must be a number above zero"),
        (["/there/is/no/such/program"], "other: /there/is/no/such/program: No such file or directory"),
    ],
)
def test_a_command_that_measures_nothing_is_named(command: list[str], message: str) -> None:
    with pytest.raises(EdgeLMError) as raised:
        compare({OURS: printing_json(FAST | WORK), "other": command}, runs=1)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("changed", [{"prompt_tokens": 200}, {"new_tokens": 64}])
def test_engines_that_did_other_work_are_not_compared(changed: dict[str, object]) -> None:
    (name, value) = next(iter(changed.items()))
    with pytest.raises(ConfigError, match=f"other: {name} is {value}, but EdgeLM took {WORK[name]}"):
        compare({OURS: printing_json(FAST | WORK), "other": printing_json(SLOW | WORK | changed)}, runs=1)


def test_engines_are_split_as_a_shell_would() -> None:
    assert parse_engines(["a b = run 'with spaces' x=1", "c=d"]) == {"a b": ["run", "with spaces", "x=1"], "c": ["d"]}


@pytest.mark.parametrize("texts", [["nonsense"], ["=command"], ["name="], ["a='b"], ["EdgeLM=x"], ["a=x", "a=y"]])
def test_engines_written_otherwise_are_refused(texts: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"NAME=COMMAND|split into words|taken already"):
        parse_engines(texts)


def test_the_machine_is_described() -> None:
    facts = machine()
    assert all(facts.values())
    assert int(facts["cores"]) >= 1
    assert "onnxruntime" in facts["versions"]


def test_prompt_ids_go_before_their_number() -> None:
    arguments = {"prompt_tokens": 5, "new_tokens": 2, "threads": 1}
    assert "--prompt-tokens" in edgelm_command("m", **arguments)
    command = edgelm_command("m", **arguments, prompt_ids=Path("ids.json"))
    assert command[command.index("--prompt-ids") + 1] == "ids.json"
    assert "--prompt-tokens" not in command


class TestCommand:
    @pytest.fixture
    def bundle(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "home"))
        return str(write_decoder_bundle(tmp_path / "tiny"))

    def run(self, bundle: str, *arguments: str) -> str:
        work = ["--runs", "2", "--prompt-tokens", "5", "-n", "4", "-t", "1"]
        result = CliRunner().invoke(main, [bundle, *work, *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    def test_measures_a_real_bundle_beside_another_command(self, bundle: str) -> None:
        other = shlex.join(printing_json(SLOW | {"prompt_tokens": 5, "new_tokens": 4}))
        printed = self.run(bundle, "--compare", f"other={other}")
        assert "5 tokens of prompt, 4 of answer, 1 threads; medians of 2" in printed
        assert printed.count("| EdgeLM |") == 1
        assert printed.count("| other | 500 (×") == 1

    def test_prints_json_with_every_run(self, bundle: str) -> None:
        printed = json.loads(self.run(bundle, "--json"))
        assert printed["machine"]["cores"]
        assert printed["work"]["prompt_tokens"] == 5
        assert len(printed["engines"][OURS]["runs"]) == 2
        assert printed["engines"][OURS]["median"]["decode_tps"] > 0

    def test_a_failure_is_one_line(self, bundle: str) -> None:
        result = CliRunner().invoke(main, [f"{bundle}-not", "--runs", "1"])
        assert result.exit_code == 1
        assert result.stderr.splitlines()[-1].startswith("Error: EdgeLM ended with exit code 2: edgelm: error: ")
