"""What `prepare` shows of URLs, and that local files load nothing that only URLs need."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stores.manifest import read_manifest
from tests.pipeline.remote.prepared import ROOT, command, digest
from tests.pipeline.remote.web_server import Web
from tests.s3_server import KEY, SECRET, TOKEN

SIGNED = "X-Amz-Signature=neverprinted&X-Amz-Credential=neverprinted%2F2026&token=neverprinted"


def test_signatures_appear_nowhere_and_may_change(
    web: tuple[Web, list[str]], local_files: str, tmp_path: Path
) -> None:
    at, urls = web
    signed = [f"{url}?{SIGNED}" for url in urls]
    with pytest.raises(KeyboardInterrupt):
        digest(signed, tmp_path / "out", stop="ingest: parse")
    assert digest([f"{url}?{SIGNED}anew" for url in urls], tmp_path / "out") == local_files
    assert all(SIGNED in path for path, _ in at.asked)
    done = subprocess.run(
        command(signed, tmp_path / "other"), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    at.files.clear()
    failed = subprocess.run(
        command(signed, tmp_path / "failed"), capture_output=True, text=True, timeout=120
    )
    assert (failed.returncode, failed.stdout) == (1, "")
    assert re.fullmatch(r"error: http://[^?]*: there is no such file\n", failed.stderr)
    shown = done.stdout + done.stderr + failed.stderr
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert "neverprinted" not in shown
    assert b"neverprinted" not in written
    assert {entry.name for entry in read_manifest(tmp_path / "out/store.zarr").inputs} == {
        Path(url).name for url in urls
    }


def test_keys_of_a_bucket_appear_nowhere(bucket: str, tmp_path: Path) -> None:
    environment = {**os.environ, "RUST_LOG": "debug"}
    done = subprocess.run(
        command([bucket], tmp_path / "out"),
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    for secret in (KEY, SECRET, TOKEN):
        assert secret not in done.stdout + done.stderr
        assert secret.encode() not in written


HIDDEN = "import sys; sys.modules[sys.argv.pop(1)] = None; import cli; cli.main()"


def test_without_the_extra_a_bucket_says_what_to_install_and_the_web_needs_none(
    web: tuple[Web, list[str]], tmp_path: Path
) -> None:
    def run(url: str) -> subprocess.CompletedProcess[str]:
        arguments = ["obstore", "ingest", "--input", url, "--out", str(tmp_path / "out"), "--json"]
        return subprocess.run(
            [sys.executable, "-c", HIDDEN, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=ROOT,
        )

    failed = run("s3://bucket/pings/*.bz2")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == (
        "error: obstore is not installed: this command needs the extra `cloud`: "
        "run pip install '.[cloud]' in the clone\n"
    )
    assert run(web[1][0]).returncode == 0


def test_local_files_load_nothing_that_only_urls_need(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pipeline.inputs import find_inputs, find_left_out\n"
        "results = [f'{sys.argv[1]}/2024-01']  # what looks into Parquet loads PyArrow, and that ssl\n"
        "find_inputs(results); find_left_out(results)\n"
        "print([name for name in ('urllib.request', 'http.client', 'ssl') if name in sys.modules])\n"
        "import cli\n"
        "find_inputs(sys.argv[1:2]); find_left_out(sys.argv[1:2])\n"
        "try: cli.app(['ingest', '--input', f'{sys.argv[1]}/c.json', '--out', sys.argv[2]])\n"
        "except SystemExit as end: assert not end.code\n"
        "print([name for name in sys.modules if name.startswith(('obstore', 'stores.bucket', 'pipeline.remote'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(tmp_path / "out")],
        capture_output=True, text=True, timeout=120, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = done.stdout.splitlines()
    assert (found[0], found[-1]) == ("[]", "[]")
