"""What a person sees of a run while it trains, on standard error: a live view, or plain lines."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.text import Text

BARS = "▁▂▃▄▅▆▇█"
SPARKLINE_WIDTH = 60


class Progress:
    """Silent. Also what a run tells: notes, its steps, its log lines and evaluations."""

    def note(self, text: str) -> None:
        """Something that happens."""

    def warn(self, text: str) -> None:
        """Something that must not be overlooked."""

    @contextmanager
    def running(self, first: int, steps: int) -> Iterator[None]:
        """Around the loop: `first` of `steps` steps are done already."""
        yield

    def step(self, step: int) -> None:
        """A step has begun."""

    def metrics(self, line: dict[str, Any]) -> None:
        """A log line, as in metrics.jsonl."""

    def evaluation(self, line: dict[str, Any]) -> None:
        """An evaluation, as in evaluations.jsonl."""


class Lines(Progress):
    """A line per log step and evaluation, for files and pipes."""

    def __init__(self, console: Console):
        self.console = console
        self.first = self.steps = 0
        self.began = time.monotonic()

    def note(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        self.console.print(f"WARNING: {text}", style="bold yellow", highlight=False, markup=False)

    @contextmanager
    def running(self, first: int, steps: int) -> Iterator[None]:
        self.first, self.steps, self.began = first, steps, time.monotonic()
        yield

    def metrics(self, line: dict[str, Any]) -> None:
        self.note(f"step {line['step']}/{self.steps}  {describe(line)}  ETA {self.remaining(line)}")

    def evaluation(self, line: dict[str, Any]) -> None:
        self.note(f"step {line['step']}/{self.steps}  {describe_test(line)}")

    def remaining(self, line: dict[str, Any]) -> str:
        """Time left at the pace so far, as h:mm:ss."""
        done = line["step"] - self.first
        seconds = round((time.monotonic() - self.began) / done * (self.steps - line["step"]))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


class LiveView(Lines):
    """Progress bar with ETA, the last numbers, and a sparkline of the loss, in a terminal."""

    def __init__(self, console: Console):
        super().__init__(console)
        self.losses: list[float] = []
        self.latest = self.test = ""
        self.bar = Bar(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )

    @contextmanager
    def running(self, first: int, steps: int) -> Iterator[None]:
        task = self.bar.add_task("train", total=steps, completed=first)
        self.task = task
        with Live(get_renderable=self.render, console=self.console, refresh_per_second=2):
            yield

    def render(self) -> Group:
        """The view as it is now."""
        lines = [Text(line) for line in (self.latest, sparkline(self.losses), self.test) if line]
        return Group(self.bar.get_renderable(), *lines)

    def step(self, step: int) -> None:
        self.bar.update(self.task, completed=step)

    def metrics(self, line: dict[str, Any]) -> None:
        self.losses.append(line["loss"])
        self.latest = describe(line)

    def evaluation(self, line: dict[str, Any]) -> None:
        self.test = f"step {line['step']}: {describe_test(line)}"


def make_progress(quiet: bool = False) -> Progress:
    """The live view in a terminal, lines elsewhere; on standard error, so that output stays JSON."""
    if quiet:
        return Progress()
    console = Console(stderr=True)
    return LiveView(console) if console.is_terminal else Lines(console)


def describe(line: dict[str, Any]) -> str:
    """The main numbers of a log line."""
    text = (
        f"loss {line['loss']:.4f}  {line['bits_per_measurement']:.1f} bits/measurement  "
        f"gradient {line['gradient_norm']:.2f}  lr {line['learning_rate']:.1e}  "
        f"{line['tokens_per_second']:,.0f} tokens/s"
    )
    if line["mfu"]:
        text += f"  MFU {line['mfu']['full_attention']:.1%} (full attention)"
    return text


def describe_test(line: dict[str, Any]) -> str:
    """The main numbers of an evaluation."""
    modes = "  ".join(f"{mode} {part['loss']:.4f}" for mode, part in line["modes"].items())
    return (
        f"test loss {line['loss']:.4f} ({modes})  "
        f"{line['bits_per_measurement']:.1f} bits/measurement"
    )


def sparkline(values: list[float], width: int = SPARKLINE_WIDTH) -> str:
    """A line of bars, lowest to highest, of at most `width` means over `values`."""
    if not values:
        return ""
    count = min(width, len(values))
    edges = [len(values) * i // count for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, span = min(means), max(means) - min(means) or 1.0
    return "".join(BARS[round((mean - low) / span * (len(BARS) - 1))] for mean in means)
