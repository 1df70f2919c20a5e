"""A comparison as a page: one HTML file with everything in it, which asks no other for anything.

Answers stand in a table that a click on a column's name sorts; the prompts are above it, whole.
"""

from __future__ import annotations

from typing import Any

from edgelm.comparison.columns import COLUMNS, measured
from edgelm.comparison.results import OVERLAPS, Comparison, Row
from edgelm.inspection.page import page

# Measures from 0 to 1, drawn as bars.
_SHARES = frozenset({"distinct_1", "distinct_2", "repetition", *OVERLAPS})


def comparison_page(comparison: Comparison) -> str:
    """The page, as text."""
    axes, measures = comparison.axes, comparison.measures
    several = "input" in axes
    data = {
        "title": "Comparison on " + ", ".join(dict.fromkeys(row.model for row in comparison.rows)),
        "axes": list(axes),
        "measures": [
            {"name": COLUMNS[name][0], "about": COLUMNS[name][2], "share": name in _SHARES} for name in measures
        ],
        "asked": [
            {
                "name": f"{one.prompt}, input {one.input}" if several else one.prompt,
                "text": one.text,
                "references": list(one.references),
            }
            for one in comparison.asked
        ],
        "rows": [_row(row, axes, measures) for row in comparison.rows],
    }
    return page(title=str(data["title"]), style=_STYLE, body=_BODY, script=_SCRIPT, data=data)


def _row(row: Row, axes: tuple[str, ...], measures: tuple[str, ...]) -> dict[str, Any]:
    values = row.as_dict()
    return {
        "axes": [values[axis] for axis in axes],
        "values": [values.get(name) for name in measures],
        "shown": [measured(row, name) for name in measures],
        "text": row.text,
        "ended": row.finish_reason,
    }


_STYLE = """body { font: 14px/1.45 system-ui, sans-serif; margin: 1.2rem 1.6rem; color: #22252b; background: #fff; }
h1 { font-size: 1.25rem; margin: 0 0 .2rem; }
h2 { font-size: 1rem; margin: 1.4rem 0 .5rem; }
p { margin: .2rem 0; max-width: 70rem; }
.quiet { color: #646b78; }
pre { white-space: pre-wrap; background: #f4f5f7; padding: .5rem .7rem; margin: .3rem 0; max-width: 70rem; }
summary { cursor: pointer; }
table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: .3rem .35rem .5rem; border-bottom: 1px solid #e3e5e9; }
th { position: sticky; top: 0; background: #fff; cursor: pointer; white-space: nowrap; font-size: .75rem; }
th[aria-sort=ascending]::after { content: " \\2191"; }
th[aria-sort=descending]::after { content: " \\2193"; }
td.axis { max-width: 9rem; overflow-wrap: anywhere; font-size: .85rem; }
td.long { min-width: 7rem; }
td.axis div { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; overflow: hidden; }
td.number { text-align: right; font-variant-numeric: tabular-nums; font-size: .85rem; }
td.share { background: linear-gradient(90deg, #9db4cf calc(var(--share) * 100%), #eef0f3 0)
  .35rem 1.65rem / calc(100% - .7rem) 3px no-repeat; }
td.text { white-space: pre-wrap; width: 100%; min-width: 22rem; }
"""
_BODY = """<h1 id="title"></h1>
<p class="quiet" id="count"></p>
<h2>Prompts</h2>
<div id="prompts"></div>
<h2>Answers</h2>
<table><thead><tr id="heads"></tr></thead><tbody id="rows"></tbody></table>
<p class="quiet" id="about"></p>
"""
_SCRIPT = """const find = id => document.getElementById(id);
const make = (tag, parent, text = "", kind = "") => {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = kind;
  parent.append(made);
  return made;
};
find("title").textContent = data.title;
find("count").textContent = `${data.rows.length} answers; a click on a column's name sorts by it.`;
find("about").textContent = data.measures.map(one => `${one.name}: ${one.about}`).join("; ") + ".";
for (const one of data.asked) {
  const details = make("details", find("prompts"));
  make("summary", details, one.name);
  make("pre", details, one.text);
  one.references.forEach(text => {
    make("p", details, "reference", "quiet");
    make("pre", details, text);
  });
}

function show(rows) {
  find("rows").replaceChildren();
  for (const row of rows) {
    const line = make("tr", find("rows"));
    row.axes.forEach(value => {
      const cell = make("td", line, "", String(value ?? "").length > 14 ? "axis long" : "axis");
      make("div", cell, value ?? "");
      cell.title = value ?? "";
    });
    const text = make("td", line, row.text, "text");
    if (row.ended === "length") make("span", text, " [cut by length]", "quiet");
    row.shown.forEach((text, i) => {
      const share = data.measures[i].share && row.values[i] !== null;
      const cell = make("td", line, text, share ? "number share" : "number");
      if (share) cell.style.setProperty("--share", row.values[i]);
    });
  }
}

const keys = [
  ...data.axes.map((_, i) => row => row.axes[i]),
  row => row.text,
  ...data.measures.map((_, i) => row => row.values[i]),
];
const order = (a, b) => a === null || b === null ? (a === null) - (b === null)
  : typeof a === "number" ? a - b : a.localeCompare(b);
const names = [...data.axes.map(name => [name, ""]), ["text", ""], ...data.measures.map(one => [one.name, one.about])];
names.forEach(([name, about], column) => {
  const head = make("th", find("heads"), name);
  head.title = about;
  head.onclick = () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    [...find("heads").cells].forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    show([...data.rows].sort((a, b) => order(keys[column](a), keys[column](b)) * (down ? -1 : 1)));
  };
});
show(data.rows);
"""
