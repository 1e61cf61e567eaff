"""Text that comes from files, made harmless for a terminal.

Names of files, tensors and predictors, strings of a manifest, addresses in a context: whoever wrote the
file chose them, and a terminal obeys escape codes wherever they come from. So the three ways out escape
them: the error line of `cli.py`, `stores.commands.print_json`, and `stores.terminal.Terminal`.
"""

from __future__ import annotations

import json
from typing import Any


def printable(text: str) -> str:
    """`text` as one line that shows all there is: control and formatting characters, line breaks, and bytes
    that are no UTF-8 become escapes (`\\x1b`, `\\n`, `\\u202e`, `\\udcff`)."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_json(value: Any) -> str:
    """`value` as indented JSON whose lines hold only printable characters; it reads back as the same."""
    lines = json.dumps(value, indent=1, ensure_ascii=False).split("\n")
    return "\n".join(line if line.isprintable() else _escape_json(line) for line in lines)


def _escape_json(line: str) -> str:
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)
