"""MkDocs hook: docstrings are written for readers of code; this makes their few reST roles look right on a page."""

import re
from typing import Any

ROLE = re.compile(r":(?:class|func|meth|mod|attr):<code>~?(?:[\w.]+\.)?([\w]+(?:\(\))?)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """``:class:`~bridge.errors.SettingsError` `` becomes ``SettingsError``, and a paragraph's ``::`` ends in ``:``."""
    return re.sub(r"::</p>", ":</p>", ROLE.sub(r"<code>\1</code>", html))
