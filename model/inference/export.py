"""A trained model as three plain files, usable without Orbax or the training code.

DIR/model.safetensors   weights, float32 or bfloat16, named as in `model.inference.weights`
DIR/vocabulary.json     the tokens, by id
DIR/config.json         shape, origin, versions; written last, so a folder without it is no model
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from model.config import ModelConfig
from model.inference.weights import Weights
from model.network.flops import count_parameters
from stores.errors import CheckpointError, OutputError
from stores.files import sha256_file, write_json, write_synced
from stores.vocabulary import PAYLOAD_BYTES, VOCABULARY_SIZE, VOCABULARY_VERSION, token_name

FORMAT = "pinglm-model"
FORMAT_VERSION = 1
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
VOCABULARY_FILE = "vocabulary.json"
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}

DtypeName = Literal["float32", "bfloat16"]


def write_export(weights: Weights, out: Path, dtype: DtypeName = "float32") -> dict[str, Any]:
    """Write the three files into `out`, replacing an export that is already there.

    Returns the content of config.json. Raises `OutputError` if `out` holds anything else.
    """
    if out.exists() and not (out / CONFIG_FILE).exists() and (out.is_file() or any(out.iterdir())):
        raise OutputError(
            f"{out}: holds something other than a model: choose an empty or new folder"
        )
    (out / CONFIG_FILE).unlink(missing_ok=True)
    arrays = {name: np.ascontiguousarray(a, DTYPES[dtype]) for name, a in weights.arrays.items()}
    write_synced(out / WEIGHTS_FILE, save(arrays, metadata={"format": FORMAT}))
    write_json(out / VOCABULARY_FILE, vocabulary())
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "vocabulary_version": VOCABULARY_VERSION,
        "dtype": dtype,
        "parameters": count_parameters(weights.config)["total"],
        "model": asdict(weights.config),
        "origin": weights.origin,
        "weights_sha256": sha256_file(out / WEIGHTS_FILE),
    }
    write_json(out / CONFIG_FILE, config)
    return config


def read_export(path: Path) -> Weights:
    """Weights of an exported folder. Raises `CheckpointError` for files that are damaged, do not
    belong together, or are of another version."""
    config = _read_json(path / CONFIG_FILE)
    if config.get("format") != FORMAT or config.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path / CONFIG_FILE}: expected {FORMAT} version {FORMAT_VERSION}, found "
            f"{config.get('format')} version {config.get('format_version')}: export it again"
        )
    if _read_json(path / VOCABULARY_FILE) != vocabulary():
        raise CheckpointError(
            f"{path / VOCABULARY_FILE}: its tokens differ from those of this version: export the model again"
        )
    file = path / WEIGHTS_FILE
    try:
        if sha256_file(file) != config["weights_sha256"]:
            raise CheckpointError(
                f"{file}: its digest differs from the one in config.json: the file is damaged or "
                "belongs to another export"
            )
        arrays = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from error
    return Weights(
        ModelConfig.from_dict(config["model"], path / CONFIG_FILE), arrays, config["origin"]
    )


def vocabulary() -> dict[str, Any]:
    """The tokens by id, each with `name`, and role tokens with `payload_bytes`."""
    tokens = [
        {"id": token, "name": token_name(token)}
        | ({"payload_bytes": PAYLOAD_BYTES[token]} if token < len(PAYLOAD_BYTES) else {})
        for token in range(VOCABULARY_SIZE)
    ]
    return {"version": VOCABULARY_VERSION, "size": VOCABULARY_SIZE, "tokens": tokens}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_bytes())
        return values
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
