"""How far a pass over a store is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called as progress(done, total), in windows or in bytes, whatever the pass counts."""
