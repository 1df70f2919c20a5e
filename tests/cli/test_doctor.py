"""``edgelm doctor``: what it finds, what it warns of, and how it ends."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from support.source_tree import ROOT

import edgelm.cli.doctor as doctor
from edgelm.bundle.catalog import load_catalog
from edgelm.cli.diagnosis import EXTRAS, PACKAGES, Diagnosis, diagnose, warnings_of
from edgelm.runtime.usable_memory import MemoryBound

Invoke = Callable[..., Result]


@pytest.fixture
def found(home: Path) -> Diagnosis:
    return diagnose(seconds=0.01)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_MEASURED_SECONDS", 0.01)


def warnings(found: Diagnosis) -> str:
    return "\n".join(warnings_of(found))


def test_it_shows_the_machine_and_the_models(invoke: Invoke, home: Path) -> None:
    result = invoke("doctor")
    assert result.exit_code == 0
    for words in ("Processor\n", "Memory\n", "Software\n", "onnxruntime", "telemetry     off", str(home), "B/s"):
        assert words in result.stdout, words
    lines = {line.split()[0]: line for line in result.stdout.partition("Models")[2].splitlines()[2:]}
    assert set(lines) == {"tiny", *load_catalog().entries}
    assert "installed" in lines["tiny"]
    assert "about" in lines["smollm2"]
    assert "about" not in lines["minilm"]


def test_json_is_complete(invoke: Invoke, home: Path) -> None:
    values = json.loads(invoke("doctor", "--json").stdout)
    assert set(values["versions"]) == {"python", *PACKAGES}
    assert values["telemetry"] is False
    assert values["bandwidth"] > 0
    assert values["disk"] == {"path": str(home), "free": values["disk"]["free"], "writable": True}
    assert {"name", "usable_cores", "instruction_sets", "consequence"} <= set(values["processor"])
    names = [model["name"] for model in values["models"]]
    assert names == ["tiny", *load_catalog().entries]
    assert values["exit_code"] == 0
    assert all(isinstance(warning, str) for warning in values["warnings"])


def test_an_installed_model_of_the_catalog_is_told_once(home: Path) -> None:
    (home / "models" / "tiny").rename(home / "models" / "smollm2")
    models = [model for model in diagnose(seconds=0.01).models if model.name == "smollm2"]
    assert [(model.installed, model.on_disk) for model in models] == [(True, None)]


def test_larger_models_need_more_and_are_slower(found: Diagnosis) -> None:
    by_name = {model.name: model for model in found.models}
    small, large = by_name["smollm2"], by_name["smollm2-1.7b"]
    assert small.need < large.need
    assert small.tokens_per_second is not None
    assert large.tokens_per_second is not None
    assert small.tokens_per_second > 5 * large.tokens_per_second


def test_what_does_not_fit_is_told_with_what_is_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = MemoryBound("the room in the control group /sys/fs/cgroup", 600_000_000)
    monkeypatch.setattr("edgelm.cli.diagnosis.memory_bounds", lambda: [bound])
    found = diagnose(seconds=0.01)
    by_name = {model.name: model for model in found.models}
    assert by_name["smollm2"].fits
    assert not by_name["smollm2-1.7b"].fits
    assert found.exit_code == 0
    assert "the room in the control group /sys/fs/cgroup is 600 MB, of this machine's" in warnings(found)
    nothing = MemoryBound("the room in the control group /sys/fs/cgroup", 50_000_000)
    monkeypatch.setattr("edgelm.cli.diagnosis.memory_bounds", lambda: [nothing])
    found = diagnose(seconds=0.01)
    assert found.exit_code == 3
    assert "no model fits: tiny needs" in warnings(found)


MANY_CORES = """
import os, resource
os.sched_getaffinity = lambda process: set(range(16))
from edgelm.cli.app import app
from edgelm.runtime.usable_memory import status_bytes
used = status_bytes(open("/proc/self/status").read(), "VmData")
import edgelm.cli.doctor
resource.setrlimit(resource.RLIMIT_DATA, (used + 500_000_000, -1))
app.main(["doctor", "--json"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no limit that counts what is allocated")
def test_many_cores_with_little_memory_are_measured_within_it(home: Path) -> None:
    done = subprocess.run([sys.executable, "-c", MANY_CORES], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["bandwidth"] > 0


def test_a_resource_limit_is_warned_of_in_the_words_that_the_runtime_has(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgelm.runtime.usable_memory.address_room", lambda: {"RLIMIT_AS": 400_000_000})
    told = warnings(diagnose(seconds=0.01))
    assert re.search(r"the room under the resource limit RLIMIT_AS is \d+ MB, of .* GB, and counts addresses", told)


def test_a_small_limit_shows_the_steps(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need = next(model.need for model in diagnose(seconds=0.01).models if model.name == "smollm2")
    bound = MemoryBound("the limit of a test", need - 1_000_000)
    monkeypatch.setattr("edgelm.cli.diagnosis.memory_bounds", lambda: [bound])
    model = next(model for model in diagnose(seconds=0.01).models if model.name == "smollm2")
    assert model.fits
    assert model.steps


def test_a_full_or_closed_disk_is_an_exit_code(found: Diagnosis) -> None:
    absent = tuple(model for model in found.models if not model.installed)
    full = replace(found, models=absent, disk=replace(found.disk, free=1_000_000))
    assert full.exit_code == 4
    assert "only 1 MB free" in warnings(full)
    closed = replace(found, models=absent, disk=replace(found.disk, writable=False))
    assert closed.exit_code == 4
    assert "cannot be written" in warnings(closed)
    assert replace(full, models=found.models).exit_code == 0, "the installed one runs"


def test_a_home_that_is_not_there_yet_is_judged_by_what_is_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "not" / "there" / "yet"))
    disk = diagnose(seconds=0.01).disk
    assert disk.writable
    assert disk.free > 0
    assert not (tmp_path / "not").exists()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "file"))
    found = diagnose(seconds=0.01)
    assert not found.disk.writable
    assert "Not a directory" in found.faults[0]


@pytest.mark.skipif(sys.platform == "win32", reason="rights are others there")
def test_a_home_in_a_closed_folder_is_told_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invoke: Invoke
) -> None:
    home, real = tmp_path / "closed" / "x", os.stat

    def stat(path: Any, **how: Any) -> os.stat_result:  # root may look into every folder
        if str(path).startswith(str(home)):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, **how)

    (tmp_path / "closed").mkdir(0o500)
    monkeypatch.setenv("EDGELM_HOME", str(home))
    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "statvfs", lambda path, real=os.statvfs: stat(path) and real(path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    done = invoke("doctor")
    assert done.exit_code == 4
    assert f"{home} cannot be written" in done.stderr
    assert done.stdout.count("free at") == 1


def test_a_home_on_a_drive_that_is_not_there_has_no_room(monkeypatch: pytest.MonkeyPatch, found: Diagnosis) -> None:
    def none(path: Path) -> None:
        raise FileNotFoundError(path)

    monkeypatch.setattr("edgelm.cli.diagnosis.shutil.disk_usage", none)
    disk = diagnose(seconds=0.01).disk
    assert (disk.free, disk.writable) == (0, False)


def test_a_mistake_in_the_users_catalog_is_told_and_stops_nothing(invoke: Invoke, home: Path) -> None:
    (home / "catalog.toml").write_text("[m]\nx = 1\n")
    result = invoke("doctor")
    assert result.exit_code == 0
    assert "catalog.toml: [m]: unknown field 'x'" in result.stderr


def test_variables_that_set_no_threads_here_are_told(found: Diagnosis, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert "threads" not in warnings(found)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert "OMP_NUM_THREADS set: that changes nothing here" in warnings(found)


def test_telemetry_that_was_switched_on_is_told(found: Diagnosis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    assert diagnose(seconds=0.01).telemetry
    assert "unset ORT_DISABLE_TELEMETRY, or set it to 1" in warnings(replace(found, telemetry=True))


def test_missing_tools_are_told_with_the_command(found: Diagnosis) -> None:
    lacking = replace(found, extras={**found.extras, "tools": ("onnx", "gguf")})
    assert "onnx, gguf missing; install EdgeLM with its extra 'tools'" in warnings(lacking)


def test_packages_and_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements: list[str]) -> set[str]:
        return {name for text in requirements if not (name := text.partition(">")[0]).startswith("edgelm")}

    assert set(PACKAGES) == names(project["dependencies"])
    for extra, packages in EXTRAS.items():
        assert set(packages) == names(project["optional-dependencies"][extra]), extra
