"""The Dockerfile without a daemon: linted, and compared with the code it copies and the command it runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from typer.main import get_command

import cli

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
LINES = [line.split(maxsplit=1) for line in TEXT.splitlines() if line and line[0].isupper()]


def values(instruction: str) -> list[str]:
    return [rest for name, rest in LINES if name == instruction]


def copied() -> set[str]:
    ours = [rest.split() for rest in values("COPY") if not rest.startswith("--from")]
    return {source for *sources, _ in ours for source in sources}


def test_hadolint_has_no_complaint() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_what_it_copies_exists_and_is_all_that_the_package_needs() -> None:
    assert all((ROOT / source).exists() for source in copied())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    tool = project["tool"]["setuptools"]
    needed = {f"{name}.py" for name in tool["py-modules"]}
    needed |= {name.rstrip("*") for name in tool["packages"]["find"]["include"]}
    needed |= {project["project"]["readme"], *project["project"]["license-files"]}
    assert copied() == needed | {"pyproject.toml", "constraints.txt"}
    assert "-c constraints.txt '.[serve]'" in values("RUN")[0]


def test_the_folder_that_is_sent_has_all_that_is_copied() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    assert sent == copied()


def test_it_runs_a_command_of_ours_as_nobody_in_particular() -> None:
    (program,) = json.loads(values("ENTRYPOINT")[0])
    name, *options = json.loads(values("CMD")[0])
    assert program == "pinglm"
    command = get_command(cli.app).commands[name]  # type: ignore[attr-defined]
    parsed = command.make_context(name, options)
    assert parsed.params["host"] == "0.0.0.0"
    assert values("EXPOSE") == [str(parsed.params["port"])]
    (user,) = values("USER")
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    assert TEXT.index("USER") > TEXT.rindex("COPY")  # nothing it runs may be changed by it
