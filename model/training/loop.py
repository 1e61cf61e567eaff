"""Training: from a store and a configuration to a run folder with checkpoints, curves and a result."""

from __future__ import annotations

import math
import signal
import statistics
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from numpy.typing import NDArray

from model.config import Config
from model.devices import check_batch, memory_statistics, use_compile_cache, visible_devices
from model.network.flops import count_parameters, utilization
from model.run_folder import (
    CHECKPOINTS_FOLDER,
    METRICS_FILE,
    PROFILE_FOLDER,
    Base,
    Evaluation,
    MetricsLine,
    RunResult,
)
from model.training.batches import DeviceBatches, make_batches
from model.training.checkpoint import Checkpoints
from model.training.content_check import content_check_of
from model.training.context_free import ContextFree
from model.training.failures import device_failure
from model.training.held_out import HeldOutLoss, rows_on
from model.training.logs import Logs, logs_of
from model.training.loss import summarize
from model.training.peers import Peers
from model.training.progress import TrainingProgress
from model.training.run import Run, check_record, open_run
from model.training.signals import SharedStop, stop_requests
from model.training.step import Steps, TrainState
from model.training.stopwatch import Stopwatch
from model.training.surveyor import surveyor_of
from stores.errors import PinglmError, TrainingError
from stores.files import read_json_lines
from stores.sampler import MixtureSampler
from stores.union import Store, StorePaths, open_stores

IN_FLIGHT = 2
"""Steps that the host runs ahead of the devices: enough to keep them busy, few enough to stop soon."""
PROFILED_STEPS = range(4, 7)
"""Counted from 1 in this process: after compilation and the first allocations."""


def train(
    config: Config,
    store_paths: StorePaths,
    out: Path,
    *,
    start: Mapping[str, NDArray[Any]] | None = None,
    base: Base | None = None,
    progress: TrainingProgress | None = None,
    profile: bool = False,
    peers: Peers | None = None,
    verified: bool = False,
) -> RunResult:
    """Train up to `config.train.steps`, or until a signal asks to stop; the same call then continues.

    `start` are weights by name to begin with, of the model `base`, which has the same shape; a run that is
    continued goes on from its own. Several stores are trained on as one (`open_stores`). `peers` are the
    processes that train together (`model.training.cluster.joined`); all make this call, and process 0 alone
    reports and writes anything but checkpoints. All files of the store are compared with their digests while it
    trains, unless they have been before (`verified`).

    Returns the content of RUN/result.json; after SIGTERM or SIGUSR1, the same with `finished` false and
    `stopped_by` set, and RUN/result.json is not written. SIGINT saves and raises `KeyboardInterrupt`.
    Raises `NotAStoreError` or `DamagedStoreError` for the store, `OutputError` for a folder that is in
    the way or a full disk, `ConfigError` for stores that do not go together and a batch that does not fit
    them or the devices, `CheckpointError` for a run of another store or list of stores, shape or
    configuration, and `TrainingError` for a loss that is not finite or a device that runs out of memory.
    """
    began = time.perf_counter()
    use_compile_cache()
    peers = peers or Peers()
    if progress is None or peers.process:
        progress = TrainingProgress()
    store = open_stores(store_paths)
    if start is not None and base is None:
        base = Base()
    with open_run(out, config, store, peers, base) as run:
        finished = run.share(run.result)
        if finished and finished.steps >= config.train.steps:
            return finished
        if store.new_sources:
            progress.warn(store.new_sources)
        try:
            with stop_requests() as asked:
                trainer = Trainer(config, store, run, start, progress, profile, began, verified)
                stop = SharedStop(asked, trainer.devices)
                steps = trainer.train(stop)
                result = run.share(lambda: trainer.result(steps, stop))
                assert result is not None
        except PinglmError:
            raise
        except (jax.errors.JaxRuntimeError, ValueError) as error:  # Gloo's are ValueErrors
            raise device_failure(error, config) from error
        if stop.signal == signal.SIGINT:
            peers.leave()
            progress.note(f"interrupted: saved at step {result.steps}, run again to continue")
            raise KeyboardInterrupt
        if result.finished and peers.process == 0:
            run.finish(result)
        return result


class Trainer:
    """The part of a run that one process does."""

    def __init__(
        self,
        config: Config,
        store: Store,
        run: Run,
        initial: Mapping[str, NDArray[Any]] | None,
        progress: TrainingProgress,
        profile: bool,
        began: float,
        verified: bool = False,
    ):
        self.config = config
        self.store = store
        self.run = run
        self.initial = initial
        self.progress = progress
        self.devices = visible_devices(config.train.fsdp)
        self.profile = profile and self.devices.host == 0  # of the processes, the one that writes
        check_batch(config.train, self.devices.count)
        sampler = MixtureSampler(store, "train", config.train.batch_size, config.train.seed)
        self.batches = make_batches(config, sampler.shard(self.devices.host, self.devices.hosts))
        self.held_out = self.batches_of(store.choosing_split)
        on_test = self.held_out.split == "test"
        self.on_test = self.held_out if on_test else self.batches_of("test")
        progress.note(f"compiling for {self.devices.count} × {self.devices.kind}")
        self.steps = Steps(config, self.devices, rows_on(self.devices))
        if self.steps.fallback:
            progress.warn(self.steps.fallback)
        self.watch = Stopwatch()
        self.chosen: Evaluation | None = None  # the last one, on the split that chooses
        self.test: Evaluation | None = None  # the last one on test
        self.began = began
        self.verified = verified
        self.first_step_seconds: float | None = None

    def batches_of(self, split: str) -> HeldOutLoss:
        """The fixed batches of a split."""
        train, context = self.config.train, self.config.model.context
        return HeldOutLoss(self.store, train.eval_batches, context, self.devices, split)

    def train(self, stop: SharedStop) -> int:
        """The loop: a batch, a step, and at intervals a log line, an evaluation or a checkpoint. Returns how
        many steps the run has done."""
        train, path = self.config.train, self.run.path
        with (
            Checkpoints(path / CHECKPOINTS_FOLDER, train.keep_checkpoints) as self.checkpoints,
            surveyor_of(self.store, self.run) as self.surveyor,
            content_check_of(self.store, self.run, self.verified) as check,
        ):
            state, first = self.start()
            with (
                logs_of(self.run, first, self.config, self.held_out.split) as logs,
                DeviceBatches(
                    self.batches, self.devices, first, train.steps, same=train.overfit_one_batch
                ) as batches,
                self.progress.running(first, train.steps),
                jax.transfer_guard("disallow"),  # data moves only by device_put and device_get
            ):
                self.watch.start()
                ahead: deque[tuple[jax.Array, jax.Array | None]] = deque()
                step = first
                for step in range(first + 1, train.steps + 1):
                    self.trace(step - first)
                    state, loss = self.steps.train(state, *next(batches))
                    if self.first_step_seconds is None:
                        loss.block_until_ready()
                        self.first_step_seconds = time.perf_counter() - self.began
                    ahead.append((loss, stop.say()))
                    if len(ahead) > IN_FLIGHT:
                        earlier, answer = ahead.popleft()
                        earlier.block_until_ready()
                        stop.hear(answer)
                    self.watch.steps += 1
                    self.progress.step(step)
                    check.raise_damage()

                    final, stopping = step == train.steps, bool(stop)
                    if final or step % train.log_every == 0:
                        self.checkpoints.check()
                        state = self.log(state, step, logs)
                    if final or step % train.eval_every == 0:
                        self.evaluate(state, step, logs)
                    if final or stopping or step % train.save_every == 0:
                        self.save(state, step)
                    if stopping:
                        break
                if step == train.steps:
                    if self.chosen is None:  # it was killed after its last checkpoint
                        self.evaluate(state, step, logs)
                    if self.on_test is not self.held_out:
                        self.test = self.on_test.measure(self.steps, state.weights, step)
            if step == train.steps:
                self.surveyor.note(self.progress, wait=True)
            self.checkpoints.wait()
            if step == train.steps:
                check.finish(self.progress)
        return step

    def start(self) -> tuple[TrainState, int]:
        """The state to continue from, and how many steps it has done."""
        done = self.checkpoints.steps()
        if not done:
            return self.steps.start_from(self.initial) if self.initial else self.steps.init(), 0
        step, where = done[-1], self.checkpoints.path / str(done[-1])
        record = self.checkpoints.read_record(step)
        check_record(where, record, self.run.record)
        before, now = record.config.train.steps, self.config.train.steps
        if before != now:
            self.progress.warn(
                f"steps {before} → {now}: from here on the schedule is the one for {now}"
            )
        if record.code_version != self.run.record.code_version:
            versions = f"{record.code_version} → {self.run.record.code_version}"
            self.progress.warn(f"the code has changed since the checkpoint: {versions}")
        self.progress.note(f"continuing from step {step}")
        return self.checkpoints.restore(step, self.steps.abstract_state), step

    def log(self, state: TrainState, step: int, logs: Logs) -> TrainState:
        """Write a log line for the steps since the last one; returns the state with an empty meter."""
        meter = jax.device_get(state.meter)
        self.check_finite(state, step)
        batch, context = self.config.train.batch_size, self.config.model.context
        rate = (
            self.watch.steps * batch * context / self.watch.lap()
        )  # the fetch above waited for all of them
        tokens, steps = summarize(meter.tally), int(meter.steps)
        fill = tokens.tokens / (steps * batch * (context - 1))
        line = MetricsLine(
            step=step,
            loss=float(meter.loss) / steps,
            accuracy=tokens.accuracy,
            bits_per_measurement=tokens.bits_per_measurement,
            gradient_norm=float(meter.gradient_norm) / steps,
            learning_rate=float(jax.device_get(self.steps.learning_rate(state))),
            tokens_per_second=rate,
            live_tokens_per_second=rate * fill,
            mfu=utilization(self.config.model, rate, self.devices.kind, self.devices.count),
            kinds=tokens.kinds,
        )
        logs.metrics(line)
        self.progress.metrics(line)
        return state._replace(meter=self.steps.reset_meter())

    def evaluate(self, state: TrainState, step: int, logs: Logs) -> None:
        """Measure and record the loss on the fixed batches of the split that chooses."""
        with self.watch.paused():
            self.chosen = self.held_out.measure(self.steps, state.weights, step)
        if self.on_test is self.held_out:
            self.test = self.chosen
        logs.evaluation(self.chosen)
        self.progress.evaluation(self.chosen)

    def save(self, state: TrainState, step: int) -> None:
        """Start a checkpoint, once the state is known to be finite."""
        self.check_finite(state, step)
        if not jax.device_get(self.steps.all_finite(state.weights)):
            raise self.not_finite("a weight", step, step)
        found = self.chosen
        loss = found.nats_per_measurement if found is not None and found.step == step else None
        with self.watch.paused():
            self.surveyor.note(self.progress, wait=step == self.config.train.steps)
            self.checkpoints.save(step, state, self.run.record, loss)

    def check_finite(self, state: TrainState, step: int) -> None:
        """Raise `TrainingError` if a loss or gradient since the last log step was not finite."""
        meter = jax.device_get(state.meter)
        for name, value in (("the loss", meter.loss), ("the gradient", meter.gradient_norm)):
            if not math.isfinite(value):
                raise self.not_finite(name, step - int(meter.steps) + 1, step)

    def not_finite(self, what: str, first: int, last: int) -> TrainingError:
        self.checkpoints.wait()
        good = self.checkpoints.steps()
        kept = (
            f"the last checkpoint is the one of step {good[-1]}"
            if good
            else "there is no checkpoint yet"
        )
        return TrainingError(
            f"{self.run.path}: {what} became NaN or infinite between steps {first} and {last}; {kept}: "
            "start again in another folder with a lower learning rate"
        )

    def trace(self, step: int) -> None:
        """With --profile, write an XLA trace of a few early steps."""
        if self.profile and step == PROFILED_STEPS.start:
            jax.profiler.start_trace(str(self.run.path / PROFILE_FOLDER))
        if self.profile and step == PROFILED_STEPS.stop:
            jax.profiler.stop_trace()
            self.progress.note(f"trace of a few early steps in {self.run.path / PROFILE_FOLDER}")

    def result(self, step: int, stop: SharedStop) -> RunResult:
        """What the run has reached so far, and once it is finished, the context-free model to compare."""
        file = self.run.path / METRICS_FILE
        lines = [MetricsLine.from_dict(line, file) for line in read_json_lines(file)]
        finished = step == self.config.train.steps
        rate = statistics.median(line.tokens_per_second for line in lines) if lines else None
        apart = self.on_test is not self.held_out
        baseline = None
        if finished:
            self.progress.note("fitting the context-free model for comparison")
            chosen_on = self.held_out.batches if apart else None
            baseline = ContextFree(self.store).evaluate(self.on_test.batches, chosen_on)
        return RunResult(
            run=str(self.run.path),
            finished=finished,
            stopped_by=stop.signal.name if stop.signal and not finished else None,
            preset=self.config.preset,
            steps=step,
            loss=lines[-1].loss if lines else None,
            losses=tuple((line.step, line.loss) for line in lines),
            tokens_per_second=rate,
            first_step_seconds=self.first_step_seconds,
            mfu=lines[-1].mfu if lines else None,
            evaluation=self.test,
            baseline=baseline,
            parameters=count_parameters(self.config.model)["total"],
            device=self.devices.kind,
            devices=self.devices.count,
            attention=self.steps.attention,
            precision=self.steps.dtype.name,
            memory=memory_statistics(),
            store=self.store.name,
            store_digest=self.store.digest,
            chosen_on=self.held_out.split,
            validation=self.chosen if apart else None,
            new_sources=self.store.new_sources,
        )
