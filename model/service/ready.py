"""The model behind the service: described at once, compiled in the background, then ready."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model.inference.card import CARD_FILE
from model.inference.ping_model import PingModel, model_folder
from model.inference.query import MAX_BRANCHES
from model.model_files import read_object
from model.network.flops import count_parameters
from model.service.answers import KINDS
from model.service.batcher import Batcher
from model.service.schemas import MAX_CONTEXT, MAX_QUERIES
from model.service.web import BODY_BYTES
from stores.provenance import summary

log = logging.getLogger("pinglm.service")


class ReadyModel:
    """A loaded model that compiles in a thread; `ready` says whether it is done, `status` in words."""

    def __init__(self, path: str | Path, queue: int):
        """Loads the weights; raises `CheckpointError`. At most `queue` queries may wait."""
        self._model = PingModel.load(path)
        self.grounds = self._model.grounds
        self.window = self._model.config.context
        self.status = "warming up"
        self.limits = {
            "context": MAX_CONTEXT,
            "n": MAX_BRANCHES,
            "k": MAX_BRANCHES,
            "batch": MAX_QUERIES,
            "body_bytes": BODY_BYTES,
            "queue": queue,
        }
        folder = model_folder(path)
        self.description: dict[str, Any] = {
            "name": "pretrained" if str(path) == "pretrained" else Path(path).resolve().name,
            "parameters": count_parameters(self._model.config)["total"],
            "model": asdict(self._model.config),
            "origin": self._model.origin,
            "provenance": summary(self._model.provenance),
            "card": read_object(folder, CARD_FILE) if (folder / CARD_FILE).exists() else None,
        }
        asks = {kind.name: kind.ask for kind in KINDS}
        self.batcher = Batcher(lambda kind, queries: asks[kind](self._model, queries), queue)

    @property
    def ready(self) -> bool:
        """Whether every program is compiled."""
        return self.status == "ready"

    def start(
        self, progress: Callable[[int, int], None], done: Callable[[str | None], None]
    ) -> None:
        """Compile in a thread: calls `progress(done, total)`, then `done(None)` or `done(what failed)`."""

        def warm_up() -> None:
            try:
                self._model.warm_up(progress)
            except Exception as error:
                log.exception("warm-up failed")
                self.status = "failed to start"
                done(str(error).splitlines()[0] if str(error) else type(error).__name__)
            else:
                self.status = "ready"
                done(None)

        threading.Thread(target=warm_up, name="warm-up", daemon=True).start()
