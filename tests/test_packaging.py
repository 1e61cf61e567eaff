"""What pyproject.toml promises: extras, pins, and files that travel in the wheel."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import cli

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
IMPORTED_AS = {
    "orbax-checkpoint": "orbax",
    "fastapi-offline": "fastapi_offline",
    "prometheus-client": "prometheus_client",
}


def name_of(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    assert match
    return match[0]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("extra", cli.EXTRAS)
def test_the_command_line_knows_every_package_of_an_extra(extra: str) -> None:
    names = [name_of(requirement) for requirement in EXTRAS[extra]]
    packages = {IMPORTED_AS.get(name, name) for name in names if name != "pinglm"}
    assert packages == set(cli.EXTRAS[extra])


def test_every_dependency_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()[1:]
    pinned = {normal(line.split("==")[0]) for line in lines}
    wanted = {normal(name_of(requirement)) for requirement in PROJECT["dependencies"]}
    wanted |= {normal(name_of(each)) for extra in EXTRAS.values() for each in extra}
    assert wanted - pinned == {"pinglm"}


def test_every_dependency_has_a_reason() -> None:
    reasons = (ROOT / "docs/dependencies.md").read_text()
    users = ["prepare", "train", "serve", "cluster", "cloud", "docs", "bench"]
    named = [*PROJECT["dependencies"], *(each for extra in users for each in EXTRAS[extra])]
    missing = [name for each in named if (name := name_of(each)) not in reasons]
    assert not [name for name in missing if name != "pinglm"]


def test_links_between_documents_lead_somewhere() -> None:
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    broken = [
        (file.name, target)
        for file in documents
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", file.read_text())
        if "://" not in target and not (file.parent / target).exists()
    ]
    assert not broken


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 800
