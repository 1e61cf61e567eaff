"""`fetch` against a server that behaves like the RIPE Atlas API."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.fetch.api import KEY as KEY_VARIABLE
from pipeline.fetch.api import find_key
from pipeline.fetch.dumps import Fetched
from pipeline.remote import tries
from stores.errors import ConfigError, OutputError, RemoteError
from tests.helpers import Writes
from tests.pipeline.fetch.atlas_api import KEY, Api
from tests.pipeline.fetch.downloads import DAY, JAN, expected, files, lines, run


@pytest.mark.parametrize("ends_count", [True, False])
def test_every_result_is_in_the_file_of_its_measurement_and_day(
    ends_count: bool, server: tuple[Api, str], tmp_path: Path
) -> None:
    api, url = server
    api.ends_count = ends_count
    fetched = run(url, tmp_path / "d")
    assert lines(tmp_path / "d") == expected(api)
    days = ["20240101T000000Z-20240102T000000Z", "20240102T000000Z-20240103T000000Z",
            "20240103T000000Z-20240104T000000Z"]  # fmt: skip
    assert list(files(tmp_path / "d")) == [
        f"{m}-{day}.ndjson" for m in (1001, 1004) for day in days
    ]
    size = sum(map(len, files(tmp_path / "d").values()))
    assert fetched == Fetched(str(tmp_path / "d"), 6, len(expected(api)), size, 0)
    assert all(text.endswith(b"}\n") for text in files(tmp_path / "d").values())


def test_faults_that_pass_leave_no_trace(server: tuple[Api, str], tmp_path: Path) -> None:
    api, url = server
    api.faults = ["429", "500", "drop", "503", "", "cut", "drop", "", "502", "408"]
    run(url, tmp_path / "d")
    assert lines(tmp_path / "d") == expected(api)
    api.faults, api.last_line_ends = ["cut", "drop"], False
    run(url, tmp_path / "e")
    assert files(tmp_path / "e") == files(tmp_path / "d")


def test_a_server_is_given_the_time_that_it_asks_for(
    server: tuple[Api, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, url = server
    waited: list[float] = []
    monkeypatch.setattr(tries.time, "sleep", waited.append)
    api.faults, api.retry_after = ["429", "429"], "17"
    run(url, tmp_path / "d")
    assert waited == [17.0, 17.0]
    api.faults, api.retry_after = ["429"], "4000"
    with pytest.raises(RemoteError, match=r"answers 429: .* \(it asks to wait 4000 s\)"):
        run(url, tmp_path / "e")


def test_a_connection_that_always_breaks_off_at_the_same_place_ends(
    server: tuple[Api, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What arrives again is no progress."""
    api, url = server
    monkeypatch.setattr(tries, "PROGRESS", 1000)
    api.faults = ["drop"] * 100
    with pytest.raises(
        RemoteError, match=r"1001-20240101.*the connection broke off: .* \(8 tries\)"
    ):
        run(url, tmp_path / "d")
    assert len(api.asked) == 8
    assert files(tmp_path / "d") == {}


def test_what_is_here_is_not_asked_for_again(server: tuple[Api, str], tmp_path: Path) -> None:
    api, url = server
    api.faults = ["", "", "404"]
    with pytest.raises(RemoteError, match=r"/1001/results/ \(.*\): there is no such measurement"):
        run(url, tmp_path / "d")
    assert len(files(tmp_path / "d")) == 2
    (tmp_path / "d/.1001-x.ndjson.0badcafe.tmp").write_bytes(b"what a killed process leaves")
    api.asked.clear()
    fetched = run(url, tmp_path / "d")
    assert (fetched.files, fetched.files_before) == (4, 2)
    assert len(api.asked) == 4
    assert lines(tmp_path / "d") == expected(api)
    assert not list((tmp_path / "d").glob(".*.tmp"))
    api.asked.clear()
    assert run(url, tmp_path / "d").files == 0
    assert api.asked == []


def test_other_measurements_and_times_are_added(server: tuple[Api, str], tmp_path: Path) -> None:
    api, url = server
    run(url, tmp_path / "d", start="2024-01-02T12:00", stop="2024-01-02T13:00", msm="1001")
    api.asked.clear()
    run(url, tmp_path / "d", msm="1001")
    noon = JAN + DAY + DAY // 2
    assert api.asked_ranges() == [
        (1001, start - 1, stop)
        for start, stop in [
            (JAN, JAN + DAY), (JAN + DAY, noon), (noon + 3600, JAN + 2 * DAY), (JAN + 2 * DAY, JAN + 3 * DAY),
        ]
    ]  # fmt: skip
    run(url, tmp_path / "d", msm="1004")
    assert lines(tmp_path / "d") == expected(api)


def test_other_probes_servers_and_folders_are_refused(
    server: tuple[Api, str], tmp_path: Path
) -> None:
    _, url = server
    run(url, tmp_path / "d", probes="3,7-9", msm="1004")
    assert {r["prb_id"] for r in lines(tmp_path / "d")} == {3, 7, 8, 9}
    run(url, tmp_path / "d", probes="7-9,3", msm="1004")
    with pytest.raises(ConfigError, match="fetched with --probes 3,7-9, not of all: use the same"):
        run(url, tmp_path / "d")
    with pytest.raises(
        ConfigError, match=r"fetched from http://127.0.0.1:.*, not http://h: use the"
    ):
        run("http://h", tmp_path / "d", probes="3,7-9")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").touch()
    with pytest.raises(OutputError, match="holds something other than results that were fetched"):
        run(url, tmp_path / "other")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("html", "line 1 of the answer is no JSON object: does --url name a RIPE Atlas API?"),
        ("endless", "line 1 of the answer is no JSON object"),
        ("400", "the server does not accept the question: are the probes right?"),
        ("418", "the server answers 418"),
    ],
)  # fmt: skip
def test_what_is_not_an_answer_is_named_and_leaves_no_file(
    fault: str, said: str, server: tuple[Api, str], tmp_path: Path
) -> None:
    api, url = server
    api.faults = [fault]
    with pytest.raises(RemoteError) as raised:
        run(url, tmp_path / "d")
    assert said in str(raised.value)
    assert "1001-20240101" in str(raised.value)
    assert files(tmp_path / "d") == {}


def test_a_server_whose_end_looks_like_a_broken_connection_is_refused(
    server: tuple[Api, str], tmp_path: Path
) -> None:
    server[0].stated = False
    with pytest.raises(RemoteError, match="the server states no length"):
        run(server[1], tmp_path / "d")


def test_a_day_without_results_is_an_empty_file(server: tuple[Api, str], tmp_path: Path) -> None:
    _, url = server
    run(url, tmp_path / "d", start="2023-06-01", stop="2023-06-02", msm="1001")
    assert files(tmp_path / "d") == {"1001-20230601T000000Z-20230602T000000Z.ndjson": b""}


def test_a_name_reaches_the_disk_after_its_bytes(
    server: tuple[Api, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = Writes(monkeypatch)
    run(server[1], tmp_path / "d")
    assert all(writes.durable(tmp_path / "d" / name) for name in files(tmp_path / "d"))
    assert writes.durable(tmp_path / "d/.fetch/asked.json")


def test_a_key_opens_what_is_private_and_goes_nowhere_else(
    server: tuple[Api, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, url = server
    api.private = {1004}
    with pytest.raises(
        RemoteError, match="access denied: set RIPE_ATLAS_API_KEY to a key that may"
    ):
        run(url, tmp_path / "d")
    with pytest.raises(RemoteError, match="access denied: the key in RIPE_ATLAS_API_KEY may not"):
        run(url, tmp_path / "d", key="wrong")
    monkeypatch.setenv(KEY_VARIABLE, f"{KEY}\n")
    run(url, tmp_path / "d", key=find_key(url))
    assert lines(tmp_path / "d") == expected(api)
    other = Api(api.results)
    with other.serve() as elsewhere:
        api.moved_to = elsewhere
        run(url, tmp_path / "e", key=KEY)
    assert api.asked[-1][1] == f"Key {KEY}"
    assert {authorization for _, authorization in other.asked} == {None}
    with pytest.raises(
        ConfigError, match="anyone on the way could read the key in RIPE_ATLAS_API_KEY"
    ):
        find_key("http://atlas.example")
    assert find_key("https://atlas.example") == KEY
    monkeypatch.setenv(KEY_VARIABLE, "neverprinted\nX: y")
    with pytest.raises(
        ConfigError, match=r"^RIPE_ATLAS_API_KEY: holds characters that no key has$"
    ):
        find_key(url)
