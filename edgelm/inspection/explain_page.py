"""Explained tokens as a page to explore.

The text lies at the top, each token coloured by its surprise; pointing at one, or a click, which holds it, shows below
how it was chosen: candidates down, stages to the right, and where the draw fell among the tokens.
"""

from __future__ import annotations

import math
from typing import Any

from edgelm.errors import ConfigError
from edgelm.inspection.explain.results import Candidate, ExplainedToken, Explanation, Stage
from edgelm.inspection.explain.visible import printable, visible
from edgelm.inspection.page import page

# Of all tokens: each takes about 100 bytes in the page.
MOST_CANDIDATES = 1 << 18


def explain_page(explanation: Explanation) -> str:
    """The page, as text.

    Raises:
        ConfigError: it would be too large for a browser; says how many candidates there are.
    """
    count = sum(len(token.candidates) for token in explanation.tokens)
    if count > MOST_CANDIDATES:
        raise ConfigError(f"a page holds at most {MOST_CANDIDATES} candidates, not {count}: keep fewer of each stage")
    given = explanation.finish_reason is None
    title = f"How likely {explanation.model} finds it" if given else f"How {explanation.model} chose its tokens"
    data = {
        "title": title,
        "prompt": [_flowing(token) for token in explanation.prompt],
        "finishReason": explanation.finish_reason,
        "meanSurprise": _finite(explanation.mean_surprise),
        "perplexity": _finite(explanation.perplexity),
        "tokens": [_token(token) for token in explanation.tokens],
    }
    return page(title=title, style=_STYLE, body=_BODY, script=_SCRIPT, data=data)


def _token(token: ExplainedToken) -> dict[str, Any]:
    return {
        "id": token.id,
        "text": visible(token.token),
        "flow": _flowing(token.token),
        "surprise": [_finite(token.raw_surprise), _finite(token.surprise)],
        "entropy": [_finite(token.raw_entropy), _finite(token.entropy)],
        "choice": token.choice,
        "uniform": token.uniform,
        "interval": token.interval,
        "stages": [_stage(stage) for stage in token.stages],
        "candidates": [_candidate(candidate) for candidate in token.candidates],
    }


def _stage(stage: Stage) -> dict[str, Any]:
    mass, entropy = _finite(stage.removed_mass), _finite(stage.entropy)
    return {
        "label": stage.label,
        "allowed": stage.allowed,
        "removed": stage.removed,
        "mass": mass,
        "entropy": entropy,
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "id": candidate.id,
        "text": visible(candidate.token),
        "p": [_finite(value) for value in candidate.probabilities],
        "cut": candidate.removed_by,
        "why": candidate.reason,
        "interval": candidate.interval and [_finite(value) for value in candidate.interval],
    }


def _flowing(token: str) -> str:
    """A token within the text: blanks as they are, line breaks with a mark."""
    return printable(token).replace("\n", "↵\n")


def _finite(value: float) -> float | None:
    """With six digits; None for infinity."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


_STYLE = """:root { color-scheme: light dark; --ink: #22252b; --quiet: #646b78; --paper: #fff; --panel: #f5f6f8;
  --line: #d9dce2; --bar: #3d7fc4; --soft: #c4d9f0; --accent: #c25e00; --heat: 224 88 20; --cut: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6ea; --quiet: #9aa1ad; --paper: #17191d; --panel: #202329; --line: #3a3f48; --bar: #6aa7e6;
    --soft: #2d4663; --accent: #ff9d45; --heat: 255 120 50; --cut: #ff8a80; }
}
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1.2rem 1.6rem 3rem; max-width: 84rem;
  color: var(--ink); background: var(--paper); }
h1 { font-size: 1.3rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 0 0 .3rem; }
p { margin: .2rem 0; }
.quiet { color: var(--quiet); }
.choices { display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; align-items: center; margin: .8rem 0; }
select { font: inherit; color: inherit; background: var(--panel); border: 1px solid var(--line); border-radius: 4px; }
#scale { display: inline-block; width: 9rem; height: .8rem; border: 1px solid var(--line); vertical-align: middle;
  background: linear-gradient(to right, rgb(var(--heat) / 0), rgb(var(--heat) / .75)); }
#text { font-size: 1.05rem; line-height: 1.9; white-space: break-spaces; overflow-wrap: anywhere; max-height: 44vh;
  overflow-y: auto; padding: .7rem .9rem; border: 1px solid var(--line); border-radius: 6px; }
#text span { unicode-bidi: isolate; }
.token { cursor: pointer; border-radius: 3px; padding: .12rem 0; box-shadow: inset 1px 0 var(--line); }
.token:focus { outline: none; }
.token:hover { outline: 1px solid var(--accent); }
.token.chosen { outline: 2px solid var(--accent); }
#detail { margin-top: 1rem; padding: .9rem 1rem; background: var(--panel); border-radius: 6px; }
.name { font-family: ui-monospace, monospace; overflow-wrap: anywhere; unicode-bidi: isolate; }
#facts { display: flex; flex-wrap: wrap; gap: 0 2rem; }
#strip { position: relative; height: 1.5rem; margin: .6rem 0 .2rem; background: var(--line); border-radius: 3px;
  overflow: hidden; }
#strip div { position: absolute; top: 0; bottom: 0; background: var(--bar); opacity: .55;
  border-right: 1px solid var(--panel); }
#strip div.chosen { opacity: 1; background: var(--accent); }
#strip div.drawn { width: 2px; margin-left: -1px; background: var(--ink); opacity: 1; border: 0; }
#table { overflow-x: auto; margin-top: .8rem; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th { font-weight: 600; text-align: left; vertical-align: bottom; padding: .2rem .5rem; white-space: nowrap; }
th small { display: block; font-weight: normal; color: var(--quiet); }
td { padding: .2rem .5rem; border-top: 1px solid var(--line); vertical-align: top; min-width: 5.2rem; }
td:first-child { max-width: 15rem; min-width: 7rem; }
tr.chosen td:first-child { font-weight: 700; color: var(--accent); }
.bar { display: block; height: .42rem; background: var(--soft); border-radius: 2px; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--bar); }
tr.chosen .bar i { background: var(--accent); }
.cut { color: var(--cut); }
"""

_BODY = """<h1 id="title"></h1>
<p id="about" class="quiet"></p>
<div class="choices">
<label>colour by <select id="measure"></select></label>
<label>units <select id="units"><option value="nats">nats</option><option value="bits">bits</option></select></label>
<span><span id="least"></span> <span id="scale"></span> <span id="most"></span></span>
<span class="quiet">point at a token, or click to hold it; arrow keys go on</span>
</div>
<div id="text"></div>
<div id="detail">
<h2 id="heading"></h2>
<div id="facts"></div>
<div id="draw"><div id="strip"></div><p id="drawn" class="quiet"></p></div>
<div id="table"></div>
</div>
<noscript><p>This page draws what it shows with a script of its own, which this browser does not run.</p></noscript>
"""

_SCRIPT = """const find = id => document.getElementById(id);
const make = (tag, parent, text = "", kind = "") => {
  const made = document.createElement(tag);
  made.textContent = text;
  if (kind) made.className = kind;
  parent.append(made);
  return made;
};
const measures = {
  "surprise, raw": token => token.surprise[0],
  "surprise, final": token => token.surprise[1],
  "entropy, raw": token => token.entropy[0],
  "entropy, final": token => token.entropy[1],
};
const MOST = 6;  // nats at the strongest colour
const state = { held: 0, shown: 0, spans: [] };
const inUnits = nats => nats === null ? "\\u221e"
  : (find("units").value === "bits" ? nats / Math.LN2 : nats).toFixed(2);
const unit = () => find("units").value;
const percent = p => {
  const value = 100 * p;
  return value >= 99.95 ? "100 %" : value >= 10 ? `${value.toFixed(1)} %`
    : value >= 0.01 ? `${value.toFixed(2)} %` : value > 0 ? "< 0.01 %" : "0 %";
};
const change = pair => inUnits(pair[0]) === inUnits(pair[1]) ? inUnits(pair[0])
  : `${inUnits(pair[0])} \\u2192 ${inUnits(pair[1])}`;

function colour() {
  const measure = measures[find("measure").value];
  data.tokens.forEach((token, place) => {
    const value = measure(token), part = Math.min(1, (value === null ? MOST : value) / MOST);
    state.spans[place].style.backgroundColor = `rgb(var(--heat) / ${(0.75 * part).toFixed(3)})`;
    state.spans[place].title = `${token.text}  ${find("measure").value} ${inUnits(value)} ${unit()}`;
  });
  find("least").textContent = "0";
  find("most").textContent = `${inUnits(MOST)} ${unit()} or more`;
  const final = data.finishReason === null ? "" : `, ended by ${data.finishReason}`;
  find("about").textContent = `${data.tokens.length} tokens${final}; mean surprise (raw) `
    + `${inUnits(data.meanSurprise)} ${unit()} a token, perplexity `
    + (data.perplexity === null ? "\\u221e" : data.perplexity.toPrecision(4));
}

function facts(token) {
  const box = find("facts"), steps = token.stages.length > 1 ? " (raw \\u2192 final)" : "";
  box.replaceChildren();
  make("span", box, `surprise ${change(token.surprise)} ${unit()}${steps}`);
  make("span", box, `entropy ${change(token.entropy)} ${unit()}${steps}`);
  if (token.choice === "likeliest") make("span", box, "the likeliest was taken");
}

function strip(token) {
  const drawn = token.uniform !== null, box = find("strip");
  find("draw").hidden = !drawn;
  if (!drawn) return;
  box.replaceChildren();
  for (const candidate of token.candidates) {
    if (!candidate.interval) continue;
    const [start, end] = candidate.interval, part = make("div", box);
    part.style.left = `${100 * start}%`;
    part.style.width = `${100 * (end - start)}%`;
    part.title = `${candidate.text}  ${start.toFixed(4)} to ${end.toFixed(4)}`;
    if (candidate.id === token.id) part.className = "chosen";
  }
  make("div", box, "", "drawn").style.left = `${100 * token.uniform}%`;
  find("drawn").textContent = `drew ${token.uniform.toFixed(4)}; ${token.text} has ${token.interval[0].toFixed(4)} to `
    + `${token.interval[1].toFixed(4)} of the tokens in the order of their ids (grey: those that the table leaves out)`;
}

function row(table, token, candidate) {
  const line = make("tr", table, "", candidate.id === token.id ? "chosen" : "");
  const name = make("td", line, "", "name");
  make("span", name, candidate.text).title = `id ${candidate.id}`;
  const alive = candidate.cut === null ? token.stages.length : candidate.cut;
  candidate.p.slice(0, alive).forEach(p => {
    const cell = make("td", line, percent(p));
    make("i", make("span", cell, "", "bar")).style.width = `${100 * p}%`;
  });
  if (alive < token.stages.length) {
    make("td", line, `\\u2717 ${candidate.why}`, "cut").colSpan = token.stages.length - alive;
  }
}

function show(place) {
  state.shown = place;
  const token = data.tokens[place];
  state.spans.forEach((span, index) => span.classList.toggle("chosen", index === state.held));
  const heading = find("heading");
  heading.replaceChildren();
  make("span", heading, token.text, "name");
  make("span", heading, `  token ${place + 1} of ${data.tokens.length}, id ${token.id}`, "quiet");
  facts(token);
  strip(token);
  find("table").replaceChildren();
  const table = make("table", find("table")), head = make("tr", table);
  make("th", head, "candidate");
  for (const stage of token.stages) {
    const cell = make("th", head, stage.label);
    if (stage.removed) make("small", cell, `cut ${stage.removed} (${percent(stage.mass)})`);
    make("small", cell, `${stage.allowed} tokens`);
    make("small", cell, `entropy ${inUnits(stage.entropy)} ${unit()}`);
  }
  token.candidates.forEach(candidate => row(table, token, candidate));
}

function hold(place) {
  state.held = Math.max(0, Math.min(data.tokens.length - 1, place));
  show(state.held);
  state.spans[state.held].scrollIntoView({ block: "nearest" });
}

find("title").textContent = data.title;
for (const text of data.prompt) make("span", find("text"), text, "quiet");
data.tokens.forEach((token, place) => {
  const span = make("span", find("text"), token.flow, "token");
  span.tabIndex = 0;
  span.setAttribute("role", "button");
  span.onclick = () => hold(place);
  span.onfocus = () => hold(place);
  span.onmouseenter = () => show(place);
  state.spans.push(span);
});
find("text").onmouseleave = () => show(state.held);
document.onkeydown = event => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step || event.target.tagName === "SELECT") return;
  hold(state.held + step);
  event.preventDefault();
};
for (const name of Object.keys(measures)) {
  if (data.finishReason !== null || name.endsWith("raw")) make("option", find("measure"), name);
}
find("measure").onchange = colour;
find("units").onchange = () => { colour(); show(state.shown); };
colour();
hold(0);
"""
