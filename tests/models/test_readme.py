"""What README.md shows of the real model is what the real model does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from support.command_line import environment
from support.source_tree import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
# Other processors sum the products of the calibration in another order.
KL_TOLERANCE = 0.001
PERPLEXITY_TOLERANCE = 1.005


def test_the_first_command_answers_as_shown(command: Callable) -> None:
    shown = re.search(r'^\$ edgelm run (\w+) "(.*?)"\n.*?\n([^\n]*)\n```', README, re.MULTILINE | re.DOTALL)
    assert shown
    done = command("run", shown[1], shown[2])
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{shown[3]}\n", "")
    assert "Tokyo" in done.stdout


def test_the_translation_is_as_shown(command: Callable) -> None:
    shown = re.search(r'^\$ edgelm translate --to (\w+) "(.*?)"\n([^\n]*)\n', README, re.MULTILINE)
    assert shown
    assert command("translate", "--to", shown[1], shown[2]).stdout == f"{shown[3]}\n"


def test_the_python_examples_run(home: Path) -> None:
    first, second, *_ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    for example, start in (
        (first, "The capital of Japan is Tokyo. 8 stop\n"),
        ("import edgelm\n" + second, "Bom dia.\n"),
    ):
        run = [sys.executable, "-W", "error", "-c", example]
        where = environment(EDGELM_HOME=str(home))
        done = subprocess.run(run, env=where, capture_output=True, encoding="utf-8", cwd=ROOT)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(start)


def test_the_table_shows_the_figures_of_the_report(home: Path) -> None:
    report = json.loads((home / "models" / "smollm2" / "report.json").read_text())
    row = re.search(r"^\| `int8` .*?\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) % \|", README, re.MULTILINE)
    assert row
    assert abs(float(row[1]) - report["kl"]) < KL_TOLERANCE
    assert 1 / PERPLEXITY_TOLERANCE < float(row[2]) / report["perplexity"] < PERPLEXITY_TOLERANCE
    assert abs(float(row[3]) / 100 - report["top1"]) < 0.01
