"""Joining the processes of a run into one JAX: `jax.distributed`, told where it is or found from the cluster."""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import jax

from model.training.meeting import gather, visit
from model.training.peers import Peers, Place
from stores.errors import ConfigError

FIRST_PORT, PORTS = 61_440, 4_096
"""JAX takes the number of a SLURM job modulo this many."""
STEP_STRIDE = 181
"""Ports between two steps of a job, so that those of a job do not meet those of the next hundred jobs."""
GRACE = 2.0
"""Seconds that a failed process waits for the news that another one has died, which would be why."""


def find_place(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> Place | None:
    """The place that these options name, or else the one that SLURM or Open MPI gave this process;
    `None` for a process that trains alone. Raises `ConfigError` for options that name no place."""
    told = (coordinator, processes, process)
    if coordinator is not None and processes is not None and process is not None:
        return _told_place(coordinator, processes, process)
    if told != (None, None, None):
        raise ConfigError("--coordinator, --processes and --process: expected all three or none")
    cluster = next((each for each in _clusters() if each.is_env_present()), None)
    if cluster is None or cluster.get_process_count() == 1 or _in_shell_of_salloc(cluster):
        return None
    host, port = cluster.get_coordinator_address(None, None).rsplit(":", 1)
    return Place(
        host,
        _port_of_step(int(port)) if cluster.name == "slurm" else int(port),
        cluster.get_process_count(),
        cluster.get_process_id(),
        _own_device(cluster.get_local_process_id()),
    )


def _clusters() -> tuple[Any, ...]:
    """What `jax.distributed` itself asks. There is no public way to ask without joining, which comes later.

    Open MPI is first: in a job of SLURM, `mpirun` starts its own helpers by `srun`, and what these start
    inherits the numbers of the helpers. Raises `ConfigError` in a job of several tasks when this JAX has
    it no more."""
    try:
        from jax._src.clusters import OmpiCluster, SlurmCluster
    except ImportError as error:
        if any(
            os.environ.get(name, "1") != "1" for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
        ):
            raise ConfigError(
                f"JAX {jax.__version__} does not tell which task of the job this is: name --coordinator, "
                "--processes and --process"
            ) from error
        return ()
    return OmpiCluster, SlurmCluster


def _port_of_step(port_of_job: int) -> int:
    """Another port for each step of a job: two `srun` in one job are two runs, perhaps on the same nodes."""
    step = int(os.environ.get("SLURM_STEP_ID", "0"))
    return FIRST_PORT + (port_of_job - FIRST_PORT + step * STEP_STRIDE) % PORTS


def _in_shell_of_salloc(cluster: Any) -> bool:
    """Whether SLURM started this process by itself, in a step of one task, although it is told the number
    of the tasks in the job: nobody has started the others."""
    return cluster.name == "slurm" and os.environ.get("SLURM_STEP_NUM_TASKS") == "1"


def _own_device(task: int | None) -> int | None:
    """The device of this task of a machine; `None` if it was given its own, which is then the only one it
    sees and the first, whatever the number of the task."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if visible and "," not in visible else task


def _told_place(coordinator: str, processes: int, process: int) -> Place | None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ConfigError(f"--coordinator {coordinator!r}: expected HOST:PORT")
    if not 0 <= process < processes:
        raise ConfigError(
            f"--process {process} of --processes {processes}: expected 0 to {processes - 1}"
            if processes > 0
            else f"--processes {processes}: expected 1 or more"
        )
    return Place(host.strip("[]"), int(port), processes, process) if processes > 1 else None


@contextmanager
def joined(place: Place | None) -> Iterator[Peers]:
    """Be one of the processes of a run for the whole block: JAX sees the devices of all of them.

    To be entered before the first use of a device. When one of the processes dies or fails, the others
    print one line that says so and exit with 1, wherever they are. Raises what meeting the others raises.
    """
    if place is None:
        yield Peers()
        return
    _keep_libraries_off_stdout()
    peers: Peers
    if place.process == 0:
        peers, address = gather(place)
    else:
        peers, port = visit(place)
        address = f"127.0.0.1:{_relay(place.host, port)}"
    try:
        jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is ours
        jax.distributed.initialize(
            address,
            place.processes,
            place.process,
            place.local_device,
            cluster_detection_method="deactivate",
            coordinator_bind_address=address,
            heartbeat_timeout_seconds=55,  # later than `peers` would notice, but within a minute
        )
        jax.devices()  # waits for all, and lets no other thread run: so before anything can go wrong in one
        yield peers
    except BaseException as error:
        if not peers.over:
            time.sleep(GRACE)
            peers.fail(" ".join(str(error).split()) or type(error).__name__)
            atexit.register(_exit, 130 if isinstance(error, KeyboardInterrupt) else 1)
        raise
    peers.leave()
    jax.distributed.shutdown()


def start_alone() -> NoReturn:
    """Run this command anew in place of this process and without the others, which have ended.

    JAX has no way from one of several processes to a process alone.
    """
    again = [argument for argument in sys.orig_argv[1:] if argument != "--verify"]  # it has been
    alone = ["--coordinator", "localhost:1", "--processes", "1", "--process", "0"]
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(sys.stdout.fileno(), 1)  # see `_keep_libraries_off_stdout`
    os.execv(sys.executable, [sys.executable, *again, *alone])


def _exit(status: int) -> None:
    """End before JAX's own way out, which would wait for processes that have ended."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _relay(host: str, port: int) -> int:
    """A port of this machine that leads to that one, and stays open when the other end breaks off.

    JAX aborts a process, with a stack trace, in the moment in which its connection to process 0 breaks.
    It is for `Peers` to end the process then, with a line that says why.
    """
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            near = listener.accept()[0]
            try:
                far = socket.create_connection((host, port))
            except OSError:
                near.close()  # JAX tries again
                continue
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, sink), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    relay: int = listener.getsockname()[1]
    return relay


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)


def _keep_libraries_off_stdout() -> None:
    """Standard output is for the result alone; Gloo, which connects CPUs, would write to it, too."""
    sys.stdout.flush()
    sys.stdout = open(os.dup(1), "w", encoding=sys.stdout.encoding)  # noqa: SIM115
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
