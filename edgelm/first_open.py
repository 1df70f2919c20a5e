"""The first time that a bundle is opened here, if it was not made here, a process of its own opens it before.

All that can be told without running a graph is checked by then, but libraries of native code have faults of their own:
where one crashes, hangs or takes all memory, that process ends, and the caller has an error in place of its own end.
"""

from __future__ import annotations

import errno
import json

from edgelm import errors
from edgelm.bundle.bundle import Bundle
from edgelm.bundle.home import stamps_folder
from edgelm.bundle.manifest import FAMILY_ROLES, NATIVE_LAYOUT
from edgelm.bundle.opened import is_known, remember
from edgelm.config import RuntimeConfig
from edgelm.errors import MemoryLimitError, ModelError
from edgelm.runtime.child import ChildEnd, NoChildError, run_child, seconds_for
from edgelm.runtime.prepack import try_prepack
from edgelm.runtime.usable_memory import address_limits_told

# What the process writes once it is ready to begin.
READY = "ready"
_KILLED = -9
_REMEDIES = {
    errno.EAGAIN: "end other processes, or raise their limit (ulimit -u)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "end other processes, or raise the system's limit of open files",
}
# A prepacked copy may be larger than what it was made of.
_MAPPED = 2


def try_first(bundle: Bundle, runtime: RuntimeConfig) -> str | None:
    """Tries a bundle in a process of its own: graphs, tokenizer and a step, within bounds of memory and time.

    On Linux the process may allocate ``runtime.max_memory``, or what the machine has left where that is less, on top of
    interpreter and libraries, and map twice the bundle's files: that stops what grows without end. Whether a model
    keeps within ``max_memory`` is for its budget to say.

    Does nothing for what was made here, or opened before: see ``bundle.opened``. Where there is no interpreter to start
    one with, as in a frozen application, there is no trial, and none is remembered.

    Returns:
        What is wrong with the tokenizer, which not every work needs, so that nobody need read it again: its library
        writes a page to stderr where it fails.

    Raises:
        ModelError: the process crashed, hung, or refused the bundle; names the signal. Or the system starts none for
            now, short of processes or open files, say.
        MemoryLimitError: it ran out of memory, or there is none to start it with.
    """
    stamps = stamps_folder()
    manifest = bundle.manifest
    if is_known(bundle.folder, manifest, stamps=stamps):
        return None
    # In processes of their own, too, whose memory is not that of the trial. It does without copies that were not made,
    # and so optimizes the graph itself: to make one again would take the time that it has.
    prepacked = (
        runtime.prepack
        and manifest.layout == NATIVE_LAYOUT
        and all(try_prepack(bundle, role, max_memory=runtime.max_memory) for role in FAMILY_ROLES[manifest.family])
    )
    weights = sum(entry.size for entry in manifest.files.values())
    request = {
        "folder": str(bundle.folder),
        "variant": bundle.variant,
        "prepack": prepacked,
        "max_memory": runtime.max_memory,
        "mapped": _MAPPED * weights,
    }
    try:
        ended = run_child(
            "edgelm.first_open_child",
            "answer",
            json.dumps(request),
            seconds=seconds_for(weights),
        )
    except NoChildError:
        return None
    except OSError as error:
        raise _not_started(bundle, error) from error
    ready, _, answer = ended.output.partition("\n")
    if ready != READY and ended.code is not None and ended.code >= 0:  # of an application that embeds Python, say
        return None
    told = _what_it_told(bundle, ended, answer)
    if not told:
        remember(bundle.folder, manifest, stamps=stamps)
    return told.get("tokenizer")


def _not_started(bundle: Bundle, error: OSError) -> ModelError | MemoryLimitError:
    says = error.strerror or str(error)
    what = f"{bundle.manifest.name} in {bundle.folder} must be opened in a process of its own first, which the system"
    if error.errno == errno.ENOMEM:
        return MemoryLimitError(f"{what} has no memory to start ({says}){address_limits_told()}")
    return ModelError(f"{what} does not start ({says}): {_REMEDIES.get(error.errno or 0, 'try again')}")


def _what_it_told(bundle: Bundle, ended: ChildEnd, answer: str) -> dict[str, str]:
    """Raises what speaks against the bundle; gives other faults, which the caller will meet itself."""
    what = f"{bundle.manifest.name} in {bundle.folder} was opened in a process of its own first, which {ended}"
    if ended.code == _KILLED:
        raise MemoryLimitError(f"{what}, as the system does where memory runs out")
    if ended.code != 0:
        told = f" ({ended.last_line[:200]})" if ended.last_line and ended.code is not None and ended.code > 0 else ""
        raise ModelError(f"{what}{told}: the bundle is refused")
    fault: dict[str, str] = json.loads(answer)
    kind = getattr(errors, fault.get("error", ""), None)
    if kind is not None and issubclass(kind, (ModelError, MemoryLimitError)):
        raise kind(fault["message"])
    return fault
