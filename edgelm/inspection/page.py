"""Pages to explore: one HTML file with everything in it, which asks no other for anything.

What a model or a user wrote is data: it is in no place where a browser would take it for markup or code, and even there
only this page's own style and script would run, whose hashes its security policy names.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from typing import Any


def page(*, title: str, style: str, body: str, script: str, data: Mapping[str, Any]) -> str:
    """The page, as text.

    Args:
        title: of the window; any text.
        style: CSS. It is used as it is, as ``body`` and ``script`` are: nothing that others wrote may be in them.
        body: HTML.
        script: JavaScript, which finds the data as ``data``.
        data: what can be written as JSON, whatever its texts; without NaN and infinity.
    """
    script = f'\n"use strict";\nconst data = JSON.parse(document.getElementById("data").textContent);\n{script}'
    style = f"\n{style}"
    policy = f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; img-src data:"
    # None of the texts may end the element, or begin another.
    values = json.dumps(data, allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{style}</style>
</head>
<body>
{body}<script type="application/json" id="data">{values}</script>
<script>{script}</script>
</body>
</html>
"""


def _source(text: str) -> str:
    """How a policy names an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
