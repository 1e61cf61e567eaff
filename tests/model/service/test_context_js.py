"""The page's reader of pasted measurements, on the cases that the Python reader is tested with."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[3] / "model" / "service" / "page"
CASES = json.loads((Path(__file__).parents[2] / "data" / "context_cases.json").read_text())
SCRIPT = """
import { readFileSync } from "node:fs";
const { parseContext, ContextError } = await import(process.argv[1]);
const results = JSON.parse(readFileSync(0, "utf8")).map((text) => {
  try {
    return parseContext(text).map(({ measurement: m }) => [m.src, m.dst, m.rtt_ms, m.time]);
  } catch (error) {
    if (!(error instanceof ContextError)) throw error;
    return error.message;
  }
});
console.log(JSON.stringify(results));
"""


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What the script gives for each case: rows, or the message of its error."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on PATH: the page's reader of measurements is not tested")
    module = (
        tmp_path_factory.mktemp("page") / "context.mjs"
    )  # node goes by the name, not the content
    module.write_bytes((PAGE / "context.js").read_bytes())
    done = subprocess.run(
        [node, "--input-type=module", "-e", SCRIPT, module.as_uri()],
        input=json.dumps([*(case["text"] for case in CASES), "", " \n\n"]),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    results: list[Any] = json.loads(done.stdout)
    return results


@pytest.mark.parametrize("at", range(len(CASES)), ids=[case["name"] for case in CASES])
def test_the_page_reads_context_as_the_command_line_does(read: list[Any], at: int) -> None:
    case = CASES[at]
    if "error_line" in case:
        assert isinstance(read[at], str)
        assert read[at].startswith(f"line {case['error_line']}: ")
    else:
        assert read[at] == case["rows"]


def test_an_empty_box_is_an_empty_context(read: list[Any]) -> None:
    """A file without a header is an error, but the page starts with an empty box."""
    assert read[len(CASES) :] == [[], []]
