"""URLs as text: what is one, and what of it may be shown. Imports next to nothing: every command asks."""

from __future__ import annotations

import re

_SECRET = re.compile(
    r"x-(amz|goog)-|.*(sig|token|key|secret|passw|auth|cred|accessid|session)|(policy|expires)$"
)
"""Names of parameters, in lower case, that sign a URL, or say with whose right it is asked for."""
_AZURE = re.compile(r"s(e|p|v|r|t|s|rt|pr|ip|koid|ktid|kt|ke|ks|kv)$")
"""What goes with a signature named `sig`, and changes with it."""


def is_url(place: str) -> bool:
    """Whether `place` is a URL and not a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", place) is not None


def without_secrets(url: str) -> str:
    """An http:// or https:// URL as it may be recorded, logged and printed: without user, password and
    fragment, and without those parameters of its query that sign it or hold a key or token."""
    place, _, query = url.partition("#")[0].partition("?")
    scheme, _, rest = place.partition("://")
    host, slash, path = rest.partition("/")
    pieces = [piece for piece in re.split("[&;]", query) if piece]
    names = [_name(piece) for piece in pieces]
    kept = [
        piece
        for piece, name in zip(pieces, names, strict=True)
        if not _SECRET.match(name) and not ("sig" in names and _AZURE.match(name))
    ]
    shown = f"{scheme.lower()}://{host.rpartition('@')[2]}{slash}{path}"
    return f"{shown}?{'&'.join(kept)}" if kept else shown


def _name(piece: str) -> str:
    """The name of a parameter, in lower case and with %-escapes read."""
    name = piece.partition("=")[0]
    return re.sub("%([0-9A-Fa-f]{2})", lambda found: chr(int(found[1], 16)), name).lower()
