"""How processes meet, agree and end together; without JAX, so in real processes that start at once."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from itertools import product

import pytest

from model.training.cluster import find_place
from model.training.meeting import gather, visit
from model.training.peers import Hub, Member, Place
from stores.errors import ConfigError, TrainingError

PROCESS = """
import sys, time
from model.training import peers
from model.training.meeting import gather, visit
from model.training.peers import Place
peers.SILENCE, peers.BEAT = 5.0, 0.5
port, processes, process, then = *map(int, sys.argv[1:4]), sys.argv[4]
here, _ = (visit if process else gather)(Place("127.0.0.1", port, processes, process))
print("met", flush=True)
if then == "fails":
    sys.stdin.readline()  # once all have said that they have met
    here.fail("the disk is full")
    sys.exit(1)
if then == "leaves":
    here.leave()
    sys.exit(0)
time.sleep(600)
"""


def free_port() -> int:
    with socket.create_server(("", 0)) as probe:
        return int(probe.getsockname()[1])


def meet(*plans: str) -> list[subprocess.Popen[str]]:
    """A process for each plan, once all have met."""
    port = str(free_port())
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, port, str(len(plans)), str(process), plan],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process, plan in enumerate(plans)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "met\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return started


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_death_ends_all_others_with_a_line_that_names_it(victim: int) -> None:
    processes = meet("waits", "waits", "waits")
    processes[victim].kill()
    processes[victim].communicate()
    for other in processes[:victim] + processes[victim + 1 :]:
        errors = other.communicate(timeout=60)[1]
        assert other.returncode == 1
        assert re.fullmatch(rf"error: process {victim} of 3 .* has died: run .*\n", errors), errors


def test_a_machine_that_falls_silent_counts_as_dead() -> None:
    """Its connection does not close when its power fails."""
    first, stopped = meet("waits", "waits")
    stopped.send_signal(signal.SIGSTOP)
    errors = first.communicate(timeout=60)[1]
    stopped.kill()
    stopped.communicate()
    assert first.returncode == 1
    assert re.fullmatch(r"error: process 1 of 2 .* does not answer: run .*\n", errors), errors


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_ends_the_others_with_its_reason(failing: int) -> None:
    plans = ["waits", "waits", "waits"]
    plans[failing] = "fails"
    processes = meet(*plans)
    for process in processes:
        errors = process.communicate(timeout=60)[1]
        assert process.returncode == 1
        assert ("the disk is full" in errors) == (process is not processes[failing])
        assert errors.count("\n") <= 1


def test_all_leave_together() -> None:
    for process in meet("leaves", "leaves", "leaves"):
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 0


def in_thread(place: Place, found: dict[int, object]) -> threading.Thread:
    def visit_and_keep() -> None:
        try:
            found[place.process] = visit(place, 20)[0]
        except TrainingError as error:
            found[place.process] = error

    thread = threading.Thread(target=visit_and_keep)
    thread.start()
    return thread


def test_what_process_0_knows_all_know_and_strangers_are_turned_away() -> None:
    port = free_port()
    found: dict[int, object] = {}
    strangers: list[socket.socket] = []

    def come() -> None:
        for said in (b"GET / HTTP/1.1\r\n\r\n", b'{"process": 1}\n', b"[1]\n", b"x" * 5000):
            strangers.append(socket.create_connection(("127.0.0.1", port)))
            strangers[-1].sendall(said)
        in_thread(Place("127.0.0.1", port, 2, 1), found).join()

    thread = threading.Timer(0.2, come)
    thread.start()
    hub, _ = gather(Place("127.0.0.1", port, 2, 0), 20)
    thread.join()
    member = found[1]
    assert isinstance(hub, Hub)
    assert isinstance(member, Member)
    for value in (None, {"steps": 3}, [1, 2]):
        assert hub.share(value) == value
        assert member.share(None) == value
    leaving = threading.Thread(target=member.leave)
    leaving.start()
    hub.leave()
    leaving.join()
    assert hub.over
    assert member.over
    for stranger in strangers:
        stranger.close()


def test_a_process_that_does_not_come_is_named() -> None:
    port = free_port()
    found: dict[int, object] = {}
    thread = in_thread(Place("127.0.0.1", port, 3, 1), found)
    with pytest.raises(TrainingError, match=r"process 2 of 3 did not come within 2 s"):
        gather(Place("127.0.0.1", port, 3, 0), 2)
    thread.join()
    assert "process 2 of 3 did not come" in str(found[1])


def meet_here(host: str, port: int) -> str:
    """The address for JAX that process 0 of two gives when it is told this one."""
    found: dict[int, object] = {}
    thread = in_thread(Place("127.0.0.1", port, 2, 1), found)
    hub, address = gather(Place(host, port, 2, 0), 20)
    thread.join()
    assert isinstance(found[1], Member)
    leaving = threading.Thread(target=found[1].leave)
    leaving.start()
    hub.leave()
    leaving.join()
    return address


def test_process_0_listens_at_the_told_address_and_nowhere_else() -> None:
    refused: list[OSError] = []
    port = free_port()

    def come() -> None:
        try:
            socket.create_connection(("127.0.0.2", port), 1).close()
        except OSError as error:
            refused.append(error)

    thread = threading.Timer(0.2, come)
    thread.start()
    with pytest.raises(TrainingError, match="did not come within 1 s"):
        gather(Place("127.0.0.1", port, 2, 0), 1)
    thread.join()
    assert [type(error) for error in refused] == [ConnectionRefusedError]
    assert meet_here("127.0.0.1", free_port()).startswith("127.0.0.1:")


def test_a_name_that_only_here_means_loopback_is_listened_to_on_all_interfaces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Debian's /etc/hosts has it: the other machines know another address of it."""
    real = socket.getaddrinfo

    def look_up(host: str, *rest: object, **options: object) -> object:
        return real("127.0.1.1" if host == "node7" else host, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert meet_here("node7", free_port()).rpartition(":")[0] in ("[::]", "0.0.0.0")


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"192\.0\.2\.1:.* process 0 cannot listen there: .*assign"
    ):
        gather(Place("192.0.2.1", free_port(), 2, 0), 1)


def test_another_number_of_processes_is_refused() -> None:
    port = free_port()
    found: dict[int, object] = {}
    thread = in_thread(Place("127.0.0.1", port, 4, 1), found)
    with pytest.raises(ConfigError, match=r"process 1 of 4: expected each of 0 to 1 of 2 once"):
        gather(Place("127.0.0.1", port, 2, 0), 20)
    thread.join()
    assert "process 1 of 4" in str(found[1])


def test_an_address_without_process_0_and_one_that_is_taken_are_named() -> None:
    began = time.monotonic()
    with pytest.raises(TrainingError, match="does not find process 0 there"):
        visit(Place("127.0.0.1", free_port(), 2, 1), 1)
    assert time.monotonic() - began < 20
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match="process 0 cannot listen there"):
            gather(Place("127.0.0.1", port, 2, 0), 1)


SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_NODELIST": "node[07-09]",
    "SLURM_NTASKS": "3",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "1",
}


def test_places_are_told_or_found_in_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_place() is None
    assert find_place("node7:4000", 2, 1) == Place("node7", 4000, 2, 1)
    assert find_place("[fd00::7]:4000", 2, 0) == Place("fd00::7", 4000, 2, 0)
    assert find_place("node7:4000", 1, 0) is None
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    place = find_place()
    assert place is not None
    assert (place.host, place.processes, place.process) == ("node07", 3, 2)
    for visible, device in (("0,1", 1), ("0", None)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        place = find_place()
        assert place is not None
        assert place.local_device == device
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert find_place() is None


def test_steps_of_a_slurm_job_and_its_neighbours_meet_at_ports_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    ports = set()
    for job, step in product(range(4090, 4110), range(5)):  # JAX takes the job modulo 4096
        monkeypatch.setenv("SLURM_JOB_ID", str(job))
        monkeypatch.setenv("SLURM_STEP_ID", str(step))
        place = find_place()
        assert place is not None
        assert 61_440 <= place.port < 65_536
        ports.add(place.port)
    assert len(ports) == 100


def test_a_shell_of_salloc_is_alone_though_the_job_has_several_tasks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in SLURM.items():  # as SLURM 22.05 sets them there
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node07")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert find_place() is None


def test_mpirun_in_a_job_of_slurm_counts_its_own_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SLURM.items():  # those of the helper that it started on this node
        monkeypatch.setenv(name, value)
    mpirun = {
        "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": "8",
        "OMPI_COMM_WORLD_RANK": "5",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    }
    for name, value in mpirun.items():
        monkeypatch.setenv(name, value)
    place = find_place()
    assert place is not None
    assert (place.host, place.processes, place.process) == ("10.96.0.1", 8, 5)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")  # from a shell of salloc
    assert find_place() == place


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (("node7:4000", 2, None), "expected all three or none"),
        ((None, None, 0), "expected all three or none"),
        (("node7", 2, 0), "expected HOST:PORT"),
        (("node7:0", 2, 0), "expected HOST:PORT"),
        (("node7:4000", 2, 2), "--process 2 of --processes 2: expected 0 to 1"),
        (("node7:4000", 0, 0), "--processes 0: expected 1 or more"),
    ],
)
def test_options_that_name_no_place_are_refused(
    told: tuple[str | None, int | None, int | None], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        find_place(*told)


def test_a_jax_that_does_not_know_the_job_asks_for_the_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "jax._src.clusters", None)
    assert find_place() is None
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"JAX .* does not tell .*: name --coordinator"):
        find_place()
