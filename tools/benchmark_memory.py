"""Measures whether a memory limit holds: a process of its own for each limit, context window and type of KV cache.

    python -m edgelm_tools.benchmark_memory smollm2 --limits 256MB,400MB --contexts 1024,4096

Each process loads the model and fills its context window: a prompt that leaves room for a short answer, then that
answer. Its peak is what the system says of it (VmHWM), all included; the estimate is what the model was fitted with.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, cast

import click

from edgelm.bundle.bundle import manifest_of
from edgelm.bundle.store import Store
from edgelm.config import KV_CACHE_TYPES, KVCacheType, RuntimeConfig
from edgelm.errors import EdgeLMError, MemoryLimitError
from edgelm.runtime.fitting import Limit, fit_window
from edgelm.runtime.footprint import MB
from edgelm.sizes import parse_memory_limit

_NO_LIMIT, _LOWEST, _ANY = "none", "lowest", "any"
# What a process does: told the model and its settings as JSON, it says what came of it as JSON.
_CHILD = "from edgelm_tools.fill_window import fill_window; import sys; fill_window(sys.argv[1])"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one process did; sizes in bytes.

    Attributes:
        limit: None: there was none.
        context: tokens of the window, which were filled.
        kv_cache: the type asked for.
        estimate: what was to be expected; None where the model was refused.
        peak: what it came to.
        changed: settings that were changed to fit.
        seconds: until it began to load, or was refused, from the start of the process.
        refusal: why it was.
    """

    limit: int | None
    context: int
    kv_cache: str
    estimate: int | None
    peak: int | None
    changed: dict[str, Any]
    seconds: float
    refusal: str | None

    @property
    def ratio(self) -> float | None:
        """Estimate over peak."""
        return None if self.estimate is None or not self.peak else self.estimate / self.peak

    @property
    def holds(self) -> bool:
        """Whether the process stayed within its limit."""
        return self.limit is None or self.peak is None or self.peak <= self.limit


def measure(
    model: str, limit: int | None, context: int, kv_cache: KVCacheType | None, threads: int | None = None
) -> Row:
    """Runs one process.

    Args:
        model: a name or a folder.
        limit: bytes; None: no limit.
        context: tokens.
        kv_cache: None: what the limit asks for.
        threads: of the graph's operators; None: one a core.

    Raises:
        RuntimeError: the process ended otherwise than by an answer or a refusal.
    """
    settings = {"max_memory": limit, "kv_cache": kv_cache, "threads": threads, "context_length": context}
    started = time.time()
    command = [sys.executable, "-c", _CHILD, json.dumps({"model": model, **settings})]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise RuntimeError(f"the process ended with {done.returncode}: {said[-1][:300]}")
    told = json.loads(done.stdout)
    return Row(
        limit=limit,
        context=context,
        kv_cache=kv_cache or _ANY,
        estimate=told.get("estimate"),
        peak=told.get("peak"),
        changed=told.get("changed", {}),
        seconds=round(told["at"] - started, 2),
        refusal=told.get("refusal"),
    )


def lowest_limit(model: str, context: int, kv_cache: KVCacheType | None) -> int:
    """The lowest limit, in bytes, within which a window of ``context`` tokens fits.

    Raises:
        ModelError: there is no such model, or none that can be opened.
    """
    manifest = manifest_of(Store().resolve(model))
    low, high = 0, 1 << 50
    runtime = RuntimeConfig.given(context_length=context, kv_cache=kv_cache)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            high = min(middle, fit_window(manifest, runtime, limit=Limit(middle)).need.total)
        except MemoryLimitError:
            low = middle
    return high


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| limit | context | KV cache | estimate | peak | ratio | changed | outcome |"
    yield "|--:|--:|---|--:|--:|--:|---|---|"
    for row in rows:
        sizes = ["" if size is None else f"{size / MB:.0f} MB" for size in (row.limit, row.estimate, row.peak)]
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        changed = ", ".join(f"{name} {value}" for name, value in row.changed.items())
        outcome = f"refused in {row.seconds:.1f} s" if row.refusal else "ran" if row.holds else "ABOVE ITS LIMIT"
        cells = (sizes[0], row.context, row.kv_cache, *sizes[1:], ratio, changed, outcome)
        yield f"| {' | '.join(map(str, cells))} |"


def _limit(text: str, model: str, context: int, kv_cache: KVCacheType | None) -> int | None:
    if text == _LOWEST:
        return lowest_limit(model, context, kv_cache)
    return None if text == _NO_LIMIT else parse_memory_limit(text)


@click.command()
@click.argument("model")
@click.option("--limits", default=_NO_LIMIT, show_default=True, help="Sizes, none or lowest, with commas between.")
@click.option("--contexts", default="1024", show_default=True, help="Tokens of context windows.")
@click.option("--kv-caches", default=",".join(KV_CACHE_TYPES), show_default=True, help="Types, or any.")
@click.option("--threads", type=int)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def main(model: str, limits: str, contexts: str, kv_caches: str, threads: int | None, as_json: bool) -> None:
    """Run MODEL, a name or a folder, under memory limits, and compare peaks with limits and estimates."""
    rows = []
    try:
        for kind, limit, context in product(kv_caches.split(","), limits.split(","), map(int, contexts.split(","))):
            kv_cache = cast("KVCacheType | None", None if kind == _ANY else kind)
            rows.append(measure(model, _limit(limit, model, context, kv_cache), context, kv_cache, threads))
            print(".", end="", file=sys.stderr, flush=True)
    except (EdgeLMError, RuntimeError, ValueError) as error:
        sys.exit(f"edgelm: error: {error}")
    print(file=sys.stderr)
    print(json.dumps([asdict(row) for row in rows]) if as_json else "\n".join(table(rows)))
    if not all(row.holds for row in rows):
        sys.exit("a process took more than its limit")


if __name__ == "__main__":
    main()
