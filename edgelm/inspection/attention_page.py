"""Attention maps as a page to explore: one HTML file with everything in it, which asks no other for anything.

A layer's heads lie side by side; a click on one shows it large, with the tokens at its sides and the answer's below a
line; pointing at a cell tells who looks at whom, and how much. A table of entropies leads to heads that look narrowly
or widely.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from edgelm.errors import ConfigError
from edgelm.inspection.attention_image import ANCHORS
from edgelm.inspection.maps import Attention, AttentionMap
from edgelm.inspection.page import page

# Weights of a page: each takes less than 3 bytes in it.
MOST_WEIGHTS = 1 << 23
_STEPS = 65535


def attention_page(attention: Attention) -> str:
    """The page, as text.

    Raises:
        ConfigError: it would be too large for a browser; says how many weights there are.
    """
    count = sum(one.weights.size for one in attention.maps)
    if count > MOST_WEIGHTS:
        raise ConfigError(
            f"a page holds at most {MOST_WEIGHTS} attention weights, not {count}: choose layers or heads, "
            "or a shorter text"
        )
    data = {
        "model": attention.model,
        "answer": attention.answer,
        "promptTokens": attention.prompt_tokens,
        "maps": [_packed(one) for one in attention.maps],
        "anchors": ANCHORS,
    }
    title = f"What {attention.model} attends to"
    return page(title=title, style=_STYLE, body=_BODY, script=_SCRIPT, data=data)


def _packed(one: AttentionMap) -> dict[str, Any]:
    """Weights as 16-bit steps from 0 to 1, little-endian, in base64."""
    steps = np.rint(np.clip(one.weights, 0, 1) * _STEPS).astype("<u2")
    return {
        "kind": one.kind,
        "layers": one.layers,
        "heads": one.heads,
        "queries": one.queries,
        "keys": one.keys,
        "entropy": one.entropy.astype(np.float64).tolist(),
        # As the terminal writes them, where the digits are cut off alike.
        "bits": [[f"{bits:.2f}" for bits in layer] for layer in one.entropy],
        "weights": base64.b64encode(steps.tobytes()).decode(),
    }


_STYLE = """body { font: 14px/1.45 system-ui, sans-serif; margin: 1.2rem 1.6rem; color: #22252b; background: #fff; }
h1 { font-size: 1.25rem; margin: 0 0 .2rem; }
h2 { font-size: 1rem; margin: 1.4rem 0 .5rem; }
p { margin: .2rem 0; max-width: 60rem; }
.quiet { color: #646b78; }
.choices label { margin-right: 1.2rem; }
select { font: inherit; }
#heads { display: flex; flex-wrap: wrap; gap: .8rem; }
figure { margin: 0; cursor: pointer; }
figure canvas { border: 1px solid #ced2d8; image-rendering: pixelated; display: block; }
figure.chosen canvas { outline: 3px solid #d9730d; }
figcaption { font-size: .8rem; text-align: center; }
#large { overflow: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .75rem; }
th { font-weight: normal; color: #646b78; padding: 0 .35rem; text-align: right; }
td { width: 2.4rem; text-align: center; cursor: pointer; border: 1px solid #fff; }
td.chosen { outline: 2px solid #d9730d; }
#tip { position: fixed; pointer-events: none; background: #22252b; color: #fff; padding: .25rem .5rem;
  border-radius: 4px; font-size: .8rem; white-space: pre; display: none; z-index: 1; }
#scale { vertical-align: middle; border: 1px solid #ced2d8; }
"""

_BODY = """<h1 id="title"></h1>
<p id="about" class="quiet"></p>
<p id="rows" class="quiet"></p>
<p class="choices">
<label>attention <select id="kind"></select></label>
<label>layer <select id="layer"></select></label>
weight 0 <canvas id="scale" width="160" height="12"></canvas> 1
<span class="quiet">(colours by its square root; queries go down, keys to the right)</span>
</p>
<h2 id="heading"></h2>
<div id="heads"></div>
<h2 id="largeheading"></h2>
<div id="large"><canvas></canvas></div>
<h2>Entropy of each head, in bits</h2>
<p class="quiet">The mean over all tokens: 0 looks at one token alone, more spreads wider.</p>
<div id="entropies"></div>
<div id="tip"></div>
"""

_SCRIPT = """const { anchors } = data;
const find = id => document.getElementById(id);
const names = { encoder: "encoder", decoder: "decoder", cross: "decoder over source" };
const make = (tag, parent, text = "") => {
  const made = document.createElement(tag);
  made.textContent = text;
  parent.append(made);
  return made;
};
const colours = Array.from({ length: 256 }, (_, shade) => {
  const place = shade / 255 * (anchors.length - 1), low = Math.min(Math.floor(place), anchors.length - 2);
  return anchors[low].map((from, i) => Math.round(from + (anchors[low + 1][i] - from) * (place - low)));
});
for (const map of data.maps) {
  const bytes = Uint8Array.from(atob(map.weights), char => char.charCodeAt(0));
  const view = new DataView(bytes.buffer), size = map.queries.length * map.keys.length;
  map.weight = (layer, head, q, k) =>
    view.getUint16(2 * ((layer * map.heads.length + head) * size + q * map.keys.length + k), true) / 65535;
}
const chosen = { map: data.maps.at(-1), layer: 0, head: 0 };
const shown = token => JSON.stringify(token).slice(1, -1).replaceAll('\\\\"', '"').replace(/^ | $/g, "\\u00b7");

function paint(layer, head) {
  const { map } = chosen, rows = map.queries.length, columns = map.keys.length;
  const plain = document.createElement("canvas");
  plain.width = columns;
  plain.height = rows;
  const context = plain.getContext("2d"), image = context.createImageData(columns, rows);
  for (let q = 0, at = 0; q < rows; q++) {
    for (let k = 0; k < columns; k++, at += 4) {
      const shade = Math.round(255 * Math.sqrt(map.weight(layer, head, q, k)));
      image.data.set([...colours[shade], 255], at);
    }
  }
  context.putImageData(image, 0, 0);
  return plain;
}

function explain(canvas, head, cell, left, top) {
  canvas.onmousemove = event => {
    const { map, layer } = chosen, box = canvas.getBoundingClientRect();
    const x = (event.clientX - box.left - canvas.clientLeft) / canvas.clientWidth * canvas.width - left;
    const y = (event.clientY - box.top - canvas.clientTop) / canvas.clientHeight * canvas.height - top;
    const k = Math.floor(x / cell), q = Math.floor(y / cell), tip = find("tip");
    const inside = k >= 0 && q >= 0 && k < map.keys.length && q < map.queries.length;
    tip.style.display = inside ? "block" : "none";
    if (!inside) return;
    const weight = map.weight(layer, head, q, k).toFixed(4);
    tip.textContent = `${q} ${shown(map.queries[q])} \\u2192 ${k} ${shown(map.keys[k])}: ${weight}`;
    tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
    tip.style.top = event.clientY + 14 + "px";
  };
  canvas.onmouseleave = () => { find("tip").style.display = "none"; };
}

function drawHeads() {
  const { map, layer } = chosen;
  find("heading").textContent = `Layer ${map.layers[layer]}: ${map.heads.length} heads`;
  find("heads").replaceChildren();
  map.heads.forEach((number, head) => {
    const figure = make("figure", find("heads")), canvas = make("canvas", figure);
    const cell = Math.max(1, Math.floor(150 / Math.max(map.queries.length, map.keys.length)));
    canvas.width = map.keys.length * cell;
    canvas.height = map.queries.length * cell;
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(paint(layer, head), 0, 0, canvas.width, canvas.height);
    make("figcaption", figure, `head ${number} \\u00b7 ${map.bits[layer][head]} bits`);
    figure.className = head === chosen.head ? "chosen" : "";
    figure.onclick = () => choose({ head });
    explain(canvas, head, cell, 0, 0);
  });
}

function drawLarge() {
  const { map, layer, head } = chosen, canvas = find("large").firstElementChild;
  const cell = Math.max(2, Math.min(26, Math.floor(900 / Math.max(map.queries.length, map.keys.length))));
  const labels = cell >= 9, font = `${Math.min(13, cell)}px system-ui, sans-serif`;
  const context = canvas.getContext("2d");
  context.font = font;
  const long = tokens => labels ? Math.max(...tokens.map(token => context.measureText(shown(token)).width)) + 8 : 0;
  const left = Math.ceil(long(map.queries)), top = Math.ceil(long(map.keys));
  canvas.width = left + map.keys.length * cell;
  canvas.height = top + map.queries.length * cell;
  context.imageSmoothingEnabled = false;
  context.drawImage(paint(layer, head), left, top, map.keys.length * cell, map.queries.length * cell);
  context.font = font;
  context.fillStyle = "#22252b";
  context.textBaseline = "middle";
  if (labels) {
    context.textAlign = "right";
    map.queries.forEach((token, q) => context.fillText(shown(token), left - 5, top + (q + .5) * cell));
    context.textAlign = "left";
    context.rotate(-Math.PI / 2);
    map.keys.forEach((token, k) => context.fillText(shown(token), -top + 5, left + (k + .5) * cell));
    context.rotate(Math.PI / 2);
  }
  context.strokeStyle = "#ced2d8";
  context.strokeRect(left + .5, top + .5, canvas.width - left - 1, canvas.height - top - 1);
  if (data.maps.length === 1 && data.promptTokens < map.queries.length) {
    const line = top + data.promptTokens * cell + .5;
    context.strokeStyle = "#d9730d";
    context.strokeRect(left, line, canvas.width - left, 0);
  }
  find("largeheading").textContent = `Layer ${map.layers[layer]}, head ${map.heads[head]}`;
  explain(canvas, head, cell, left, top);
}

function drawEntropies() {
  const { map } = chosen, most = Math.max(...map.entropy.flat(), 1e-9);
  find("entropies").replaceChildren();
  const table = make("table", find("entropies")), first = make("tr", table);
  make("th", first, "layer \\\\ head");
  map.heads.forEach(number => make("th", first, number));
  map.layers.forEach((number, layer) => {
    const row = make("tr", table);
    make("th", row, number);
    map.heads.forEach((_, head) => {
      const value = map.entropy[layer][head], shade = Math.round(170 * value / most);
      const cell = make("td", row, map.bits[layer][head]);
      cell.style.background = `rgb(${colours[shade]})`;
      cell.style.color = shade > 120 ? "#fff" : "#22252b";
      cell.className = layer === chosen.layer && head === chosen.head ? "chosen" : "";
      cell.onclick = () => choose({ layer, head });
    });
  });
}

function choose(changes) {
  Object.assign(chosen, changes);
  find("layer").replaceChildren();
  chosen.map.layers.forEach((number, layer) => { make("option", find("layer"), number).value = layer; });
  find("layer").value = chosen.layer;
  find("tip").style.display = "none";
  drawHeads();
  drawLarge();
  drawEntropies();
}

find("rows").textContent = data.maps.some(map => map.kind !== "encoder")
  ? "A decoder's row is what it looked at behind that token, to choose the next one." : "";
find("title").textContent = `What ${data.model} attends to`;
find("about").textContent = `${data.promptTokens} tokens of text`
  + (data.answer ? `; answer: ${shown(data.answer)}` : "");
data.maps.forEach((map, place) => { make("option", find("kind"), names[map.kind]).value = place; });
find("kind").value = data.maps.length - 1;
find("kind").onchange = event => choose({ map: data.maps[event.target.value], layer: 0, head: 0 });
find("layer").onchange = event => choose({ layer: Number(event.target.value) });
const scale = find("scale").getContext("2d");
for (let x = 0; x < 160; x++) {
  scale.fillStyle = `rgb(${colours[Math.round(255 * Math.sqrt(x / 159))]})`;
  scale.fillRect(x, 0, 1, 12);
}
choose({});
"""
