"""What a person sees of a run while it trains, on standard error: a live view, or plain lines."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager

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

from model.run_folder import Evaluation, MetricsLine
from stores.printable import printable
from stores.terminal import Terminal
from stores.union import StorePaths, open_stores
from stores.verify import check_content
from stores.views import progress_bar

BARS = "▁▂▃▄▅▆▇█"
SPARKLINE_WIDTH = 60


class TrainingProgress:
    """What a run reports while it trains. This one is silent; the subclasses print."""

    def note(self, text: str) -> None:
        """Report something that is happening."""

    def warn(self, text: str) -> None:
        """Report something that must not be overlooked."""

    @contextmanager
    def running(self, first: int, steps: int) -> Iterator[None]:
        """Wraps the loop, when `first` of `steps` steps are already done."""
        yield

    def step(self, step: int) -> None:
        """Report that a step has been started."""

    def metrics(self, line: MetricsLine) -> None:
        """Report the numbers of a log step."""

    def evaluation(self, evaluation: Evaluation) -> None:
        """Report the numbers of an evaluation."""


class ProgressLines(TrainingProgress):
    """Prints a line for every log step and evaluation, for files and pipes."""

    def __init__(self, console: Console):
        self.console = console
        self.first = self.steps = 0
        self.began = time.monotonic()

    def note(self, text: str) -> None:
        self.console.print(printable(text), highlight=False, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        warning = f"WARNING: {printable(text)}"
        self.console.print(warning, style="bold yellow", highlight=False, markup=False)

    @contextmanager
    def running(self, first: int, steps: int) -> Iterator[None]:
        self.first, self.steps, self.began = first, steps, time.monotonic()
        yield

    def metrics(self, line: MetricsLine) -> None:
        self.note(f"step {line.step}/{self.steps}  {describe(line)}  ETA {self.remaining(line)}")

    def evaluation(self, evaluation: Evaluation) -> None:
        self.note(f"step {evaluation.step}/{self.steps}  {describe_test(evaluation)}")

    def remaining(self, line: MetricsLine) -> str:
        """The time left at the pace so far, as h:mm:ss."""
        done = line.step - self.first
        seconds = round((time.monotonic() - self.began) / done * (self.steps - line.step))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


class LiveProgress(ProgressLines):
    """In a terminal: a progress bar with the time left, the latest numbers and a sparkline of the loss."""

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

    def metrics(self, line: MetricsLine) -> None:
        self.losses.append(line.loss)
        self.latest = describe(line)

    def evaluation(self, evaluation: Evaluation) -> None:
        self.test = f"step {evaluation.step}: {describe_test(evaluation)}"


def make_progress(quiet: bool = False) -> TrainingProgress:
    """The live view in a terminal, lines elsewhere, nothing when `quiet`; all on standard error, so that
    standard output holds the result alone."""
    if quiet:
        return TrainingProgress()
    console = Terminal(stderr=True)
    return LiveProgress(console) if console.is_terminal else ProgressLines(console)


def verify_content(paths: StorePaths, progress: TrainingProgress) -> None:
    """`check_content` of the stores at `paths`, with a line about it, and in a terminal a bar."""
    store = open_stores(paths)
    progress.note(f"verifying every file of {store.name}")
    with progress_bar("verify", silent=not isinstance(progress, LiveProgress)) as show:
        check_content(store, show)


def describe(line: MetricsLine) -> str:
    """The main numbers of a log line."""
    text = (
        f"loss {line.loss:.4f}  {line.bits_per_measurement:.1f} bits/measurement  "
        f"gradient {line.gradient_norm:.2f}  lr {line.learning_rate:.1e}  "
        f"{line.tokens_per_second:,.0f} tokens/s"
    )
    if line.mfu:
        text += f"  MFU {line.mfu['full_attention']:.1%} (full attention)"
    return text


def describe_test(test: Evaluation) -> str:
    """The main numbers of an evaluation."""
    modes = "  ".join(f"{mode} {part.loss:.4f}" for mode, part in test.modes.items())
    return f"{test.split} loss {test.loss:.4f} ({modes})  {test.bits_per_measurement:.1f} bits/measurement"


def sparkline(values: list[float], width: int = SPARKLINE_WIDTH) -> str:
    """A line of bars, lowest to highest, of at most `width` means over `values`."""
    if not values:
        return ""
    count = min(width, len(values))
    edges = [len(values) * i // count for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, span = min(means), max(means) - min(means) or 1.0
    return "".join(BARS[round((mean - low) / span * (len(BARS) - 1))] for mean in means)
