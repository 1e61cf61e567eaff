"""What a file, its name or an argument says never reaches the terminal as a code that it obeys."""

from __future__ import annotations

import io
import json
import os
import pty
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from rich.table import Table
from rich.text import Text

from stores.manifest import read_manifest, write_manifest
from stores.printable import printable, printable_json
from stores.terminal import Terminal
from tests.test_cli import ROOT, run

EVIL = "a\x1b]0;owned\x07\x9b31m\x7f\u202eb\n[/red]:warning:"
"""Sets the title, turns red, runs from right to left, breaks the line; and is no markup of Rich's."""
SHOWN = r"a\x1b]0;owned\x07\x9b31m\x7f\u202eb\n[/red]:warning:"


def assert_harmless(shown: str) -> None:
    for line in shown.split("\n"):
        assert line.isprintable(), line


def test_printable_is_one_line_of_what_is_there() -> None:
    assert printable(EVIL) == SHOWN
    assert printable("Ünï → 5 µs, ✓") == "Ünï → 5 µs, ✓"
    assert printable(os.fsdecode(b"\xff.json")) == r"\udcff.json"
    assert printable(printable(EVIL)) == SHOWN


def test_json_escapes_and_reads_back_as_the_same() -> None:
    value = {EVIL: [EVIL, "\ud800", "\U000e0041", 1.5, None, "Ü"]}
    text = printable_json(value)
    assert_harmless(text)
    assert "Ü" in text
    assert json.loads(text) == value


def test_a_terminal_escapes_texts_tables_and_titles() -> None:
    table = Table(title=EVIL)
    table.add_column(EVIL)
    table.add_row(EVIL)
    terminal = Terminal()
    terminal.file = io.StringIO()
    terminal.width = 200
    for view in (EVIL, Text(EVIL), table):
        terminal.print(view)
    shown = terminal.file.getvalue()
    assert_harmless(shown)
    assert shown.count(r"\x1b]0;owned") == 5
    assert shown.count("[/red]:warning:") == 5


@pytest.mark.parametrize(("shown_on", "before"), [("xterm", "\r\x1b[2K"), (None, "")])
def test_a_line_is_printed_over_the_last_one_only_on_a_terminal(
    shown_on: str | None, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    if shown_on is not None:
        monkeypatch.setenv("TERM", shown_on)
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
    terminal = Terminal()
    terminal.file = io.StringIO()
    for number in (1, 2):
        terminal.begin_line()
        terminal.print(f"step {number}", end="", highlight=False)
    assert terminal.file.getvalue() == f"{before}step 1{before}step 2"


@pytest.fixture
def evil_store(store: Path, tmp_path: Path) -> Path:
    """A store with a name, a reason and a file that were chosen to do harm."""
    path = Path(shutil.copytree(store, tmp_path / EVIL.replace("/", "|")))
    manifest = read_manifest(path)
    rejected = {EVIL: 3}
    write_manifest(
        path, replace(manifest, ledger=msgspec.structs.replace(manifest.ledger, rejected=rejected))
    )
    return path


@pytest.mark.parametrize("command", ["inspect-store", "verify-store"])
def test_names_and_strings_of_a_store_are_shown_escaped(command: str, evil_store: Path) -> None:
    assert run(command, evil_store).returncode == 0
    (evil_store / EVIL.replace("/", "|")).touch()
    for options in ((), ("--json",)):
        shown = run(command, evil_store, *options)
        assert_harmless(shown.stdout)
        assert_harmless(shown.stderr)
        assert "owned" in shown.stdout


def test_a_name_that_is_not_utf8_is_shown_and_reads_back(store: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(store, tmp_path / os.fsdecode(b"\xff")))
    page = tmp_path / "page.html"
    assert r"\udcff" in run("inspect-store", path, "--plot", page).stdout
    assert r"\udcff" in page.read_text()
    assert json.loads(run("inspect-store", path, "--json").stdout)["path"] == str(path)


def test_errors_show_names_escaped_in_one_line(evil_store: Path, tmp_path: Path) -> None:
    zarr = evil_store / "zarr.json"
    group = json.loads(zarr.read_bytes())
    group["attributes"]["pinglm"]["format_version"] = EVIL
    zarr.write_text(json.dumps(group))
    context = tmp_path / "context.csv"
    context.write_text(f'src,dst,rtt_ms\n"{EVIL}",192.0.2.1,5\n')
    for arguments in (
        ("decode", evil_store),
        ("inspect-store", tmp_path / EVIL),
        ("predict-rtt", "193.0.2.1", "193.0.2.2", "--context", context),
        ("predict-rtt", EVIL, "192.0.2.2"),
    ):
        failed = run(*arguments)
        assert failed.returncode == 1, failed.stderr
        assert_harmless(failed.stderr)
        assert failed.stderr.startswith("error: ")
        assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("decode", "store", EVIL),
        (EVIL,),
        ("decode", "store", "--" + EVIL),
        ("decode", "s", "--mode", EVIL),
    ],
)
def test_usage_errors_show_arguments_escaped(arguments: tuple[str, ...]) -> None:
    failed = run(*arguments)
    assert failed.returncode == 2
    assert_harmless(failed.stderr)
    assert "owned" in failed.stderr


def test_a_plan_names_any_store(evil_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(evil_store.parent)  # so that the name is not cut off
    planned = run("train", "--dry-run", "--preset", "tiny", "--store", evil_store.name)
    assert planned.returncode == 0, planned.stderr
    assert_harmless(planned.stdout)
    assert "owned" in planned.stdout


def run_in_a_terminal(*arguments: object) -> tuple[int, bytes]:
    """Exit code, and everything that the terminal got to see."""
    ours, theirs = pty.openpty()
    command = [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200"}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            block = os.read(ours, 4096)
        except OSError:  # how Linux says that nobody writes any more
            break
        if not block:
            break
        shown += block
    os.close(ours)
    return process.wait(), shown


def test_on_a_real_terminal_only_our_own_colours_get_through(evil_store: Path) -> None:
    (evil_store / EVIL.replace("/", "|")).touch()
    code, shown = run_in_a_terminal("verify-store", evil_store)
    assert code == 1
    assert b"\x1b[" in shown
    assert b"not part of the store" in b" ".join(shown.split())  # however long the path is
    for forbidden in (b"\x1b]", b"\x07", "\x9b".encode(), b"\x7f", "\u202e".encode()):
        assert forbidden not in shown


def test_brackets_in_a_name_are_no_markup_of_a_progress_bar(tmp_path: Path) -> None:
    out = tmp_path / "[bold]b.parquet"
    code, shown = run_in_a_terminal("simulate", "--rows", 1000, "--workers", 1, "--out", out)
    assert code == 0, shown
    assert b"join [bold]b.parquet" in shown
