"""The FILE of ``--tools``: a Python file, whose functions they are, or schemas as JSON."""

from __future__ import annotations

import inspect
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from edgelm.bundle.strict_json import load_json
from edgelm.errors import ConfigError, ModelError
from edgelm.tool_calls.toolbox import MAX_SCHEMA_BYTES, Toolbox

MODULE_NAME = "edgelm_user_tools"


def load_functions(file: Path) -> Toolbox:
    """The public functions that a Python file defines; importing it runs it, as ``python FILE`` does.

    Raises:
        ConfigError: it cannot be imported or defines no function, or one cannot be described.
    """
    if file.suffix != ".py":
        raise ConfigError(f"{file}: tools that are to be run come from a Python file, such as tools.py")
    module = _imported(file)
    functions = [
        value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]
    if not functions:
        raise ConfigError(f"{file} defines no public function")
    return Toolbox(functions)


def load_descriptions(file: Path) -> Toolbox:
    """Tools that are called for but not run: functions of a Python file, or a JSON list of schemas.

    Raises:
        ConfigError: it cannot be read, or something in it is no tool.
    """
    if file.suffix != ".json":
        return load_functions(file)
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_SCHEMA_BYTES + 1)
        return Toolbox(load_json(data, what=str(file), limit=MAX_SCHEMA_BYTES))
    except (OSError, ModelError) as error:
        raise ConfigError(_reason(file, error)) from error


def _imported(file: Path) -> ModuleType:
    if not file.is_file():
        raise ConfigError(f"{file}: no such file")
    spec = spec_from_file_location(MODULE_NAME, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file}: Python cannot import it")
    module = module_from_spec(spec)
    sys.modules[MODULE_NAME] = module
    sys.path.append(str(file.resolve().parent))  # at the end: a neighbour must not stand in a library's place
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # it is anybody's code
        raise ConfigError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _reason(file: Path, error: OSError | ModelError) -> str:
    return f"{file}: {error.strerror}" if isinstance(error, OSError) else str(error)
