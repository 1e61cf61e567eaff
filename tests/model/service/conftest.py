"""A real `pinglm serve` process with a small untrained model, for HTTP and for a browser."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import httpx
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict

from model.config import make_config
from model.inference.export import write_export
from model.inference.weights import Weights
from model.network.transformer import Transformer
from stores.codec import Measurement
from stores.provenance import survey
from stores.reader import TokenStore
from tests.stores.test_provenance import make_store

START_SECONDS = 120
SRC, DST = "193.0.2.1", "198.51.101.7"


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model whose head is scaled up, so that answers to different queries differ. It claims to know a
    simulated Internet of one ping, from `SRC` to `DST`."""
    config = make_config(
        "tiny", {"layers": 1, "width": 32, "heads": 2, "mlp": 64, "context": 64}
    ).model
    model = Transformer(config, jnp.dtype("float32"), "xla", nnx.Rngs(0))
    flat = flatten_dict(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    arrays = {".".join(map(str, path)): np.asarray(leaf) for path, leaf in flat.items()}
    arrays["head"] = arrays["head"] * 12.0
    out = tmp_path_factory.mktemp("model") / "small"
    origin = {"store_digest": "0" * 64, "code_version": "0", "step": 0, "test_loss": None}
    row = Measurement(ip_address(SRC), ip_address(DST), 5.0, 1_700_000_000)
    store = make_store(tmp_path_factory.mktemp("one") / "store.zarr", [row], [row])
    provenance = replace(survey(TokenStore.open(store)), data="simulated")
    write_export(Weights(config, arrays, origin, provenance), out)
    return out


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def serving(
    model: Path,
    cache: Path,
    port: int,
    *options: str,
    wait: bool = True,
    descriptors: int | None = None,
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its address; ready unless `wait` is false. It may open that many `descriptors`."""
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # compiling well takes longer than running
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "cli.py", "serve", "--model", str(model), "--port", str(port)]
    if descriptors is not None:
        command = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *command]
    process = subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        if wait:
            until_ready(process, url)
        yield process, url
    finally:
        process.terminate()  # gently, because a killed one tells no coverage
        try:
            process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@contextmanager
def listening(
    model: Path, cache: Path, port: int, *options: str, descriptors: int | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its address, as soon as it answers at all."""
    with serving(model, cache, port, *options, wait=False, descriptors=descriptors) as started:
        until_answering(*started)
        yield started


def until_answering(process: subprocess.Popen[str], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        try:
            httpx.get(f"{url}/health")
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"no answer after {START_SECONDS} s")


def until_ready(process: subprocess.Popen[str], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"not ready after {START_SECONDS} s")


@pytest.fixture(scope="session")
def compile_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("xla")


@pytest.fixture(scope="session")
def url(exported: Path, compile_cache: Path) -> Iterator[str]:
    with serving(exported, compile_cache, free_port(), "--queue", "64") as (_, address):
        yield address
