"""The loader benchmark runs, compares the same windows, and says what is not installed."""

from __future__ import annotations

import json

import pytest

from benchmarks import loaders


def test_every_loader_is_measured_or_said_to_be_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loaders, "TURNS", 1)
    monkeypatch.setattr(loaders, "TURN_SECONDS", 0.005)
    few = {name: loaders.LOADERS[name] for name in list(loaders.LOADERS)[:3]}

    def missing(store: object, folder: object) -> loaders.Gather:
        raise ImportError

    monkeypatch.setattr(loaders, "LOADERS", {**few, "a loader nobody has": (missing, True)})
    loaders.main(["--json", "--windows", "300"])
    result = json.loads(capsys.readouterr().out)
    assert result["windows"] == 300
    assert result["loaders"]["np.memmap, one file"]["ratio"] == 1
    assert result["loaders"]["TokenStore.gather"]["windows_per_s"] > 0
    assert result["loaders"]["a loader nobody has"] is None
    loaders.main(["--windows", "300"])
    assert "not installed" in capsys.readouterr().out
