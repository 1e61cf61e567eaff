"""A trained model as plain files, usable without Orbax or the training code.

DIR/model.safetensors   weights, float32 or bfloat16, named as in `model.network.named_weights`; tables
                        trimmed as in `model.inference.trimmed`
DIR/vocabulary.json     the tokens, by id
DIR/card.json, README.md   what it was trained on and is good for, as in `model.inference.card`
DIR/config.json         shape, origin, data, versions, digests; written last, so a folder without it is no model
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from model.config import ModelConfig
from model.inference.card import (
    CARD_FILE,
    README_FILE,
    card_of,
    check_readme,
    write_card_files,
)
from model.inference.trimmed import ROWS, restore_tables, trim_tables, whole_shapes
from model.inference.weights import Origin, Weights, check_finite, check_shapes, check_size
from model.model_files import read_object, regular_file
from model.network.flops import count_parameters
from model.saved import convert_saved
from stores.errors import CheckpointError, OutputError
from stores.files import TEMPORARY_SUFFIX, sha256_file, write_json, write_synced
from stores.provenance import Provenance
from stores.vocabulary import PAYLOAD_BYTES, VOCABULARY_SIZE, VOCABULARY_VERSION, token_name

FORMAT = "pinglm-model"
FORMAT_VERSION = 1
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
VOCABULARY_FILE = "vocabulary.json"
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
SAFETENSORS_DTYPES = {"float32": "F32", "bfloat16": "BF16"}

DtypeName = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Description:
    """What config.json says besides the model's configuration. Fields of a newer version are ignored, if
    the digest covers them."""

    vocabulary_version: int
    dtype: DtypeName
    parameters: int
    origin: Origin
    weights_sha256: str
    provenance: Provenance | None = None
    """What the model was trained on; older exports do not say."""
    rtt_temperature: float = 1.0
    """Older exports have none."""
    config_sha256: str | None = None
    """Of the canonical JSON (sorted keys, no spaces, UTF-8) of all other fields; older exports have none."""

    def __post_init__(self) -> None:
        if not 0 < self.rtt_temperature < math.inf:
            raise ValueError(f"rtt_temperature {self.rtt_temperature}: expected a number above 0")


def write_export(weights: Weights, out: Path, dtype: DtypeName = "float32") -> dict[str, Any]:
    """Write the files into `out`, replacing an export that is already there, finished or not.

    Returns the content of config.json. Raises `OutputError` if `out` holds anything else, or a README.md that
    pinglm did not write.
    """
    if out.exists() and (out.is_file() or not _is_export(out)):
        raise OutputError(
            f"{out}: holds something other than a model: choose an empty or new folder"
        )
    arrays = {name: np.ascontiguousarray(a, DTYPES[dtype]) for name, a in weights.arrays.items()}
    check_finite(arrays, out)
    check_readme(out)
    (out / CONFIG_FILE).unlink(missing_ok=True)
    write_synced(out / WEIGHTS_FILE, save(trim_tables(arrays), metadata={"format": FORMAT}))
    write_json(out / VOCABULARY_FILE, vocabulary())
    parameters = count_parameters(weights.config)["total"]
    write_card_files(out, card_of(weights), parameters)
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "vocabulary_version": VOCABULARY_VERSION,
        "dtype": dtype,
        "parameters": parameters,
        "model": asdict(weights.config),
        "origin": weights.origin,
        "provenance": asdict(weights.provenance) if weights.provenance else None,
        "rtt_temperature": weights.rtt_temperature,
        "weights_sha256": sha256_file(out / WEIGHTS_FILE),
    }
    config["config_sha256"] = digest(config)
    write_json(out / CONFIG_FILE, config)
    return config


def read_export(path: Path) -> Weights:
    """Weights of an exported folder. Raises `CheckpointError` for files that are damaged or edited, do not
    belong together, or are of another version. What config.json claims is compared with the header of the
    weights before these are read."""
    fields = read_object(path, CONFIG_FILE)
    described, config = _describe(fields, path / CONFIG_FILE)
    if read_object(path, VOCABULARY_FILE) != vocabulary():
        raise CheckpointError(
            f"{path / VOCABULARY_FILE}: its tokens differ from those of this version: export the model again"
        )
    file = regular_file(path, WEIGHTS_FILE)
    try:
        shapes = whole_shapes(_read_shapes(file, described.dtype), config.prefix_rows, file)
        check_size(config, shapes, path / CONFIG_FILE)
        check_shapes(config, shapes)
        if sha256_file(file) != described.weights_sha256:
            raise CheckpointError(
                f"{file}: its digest differs from the one in config.json: the file is damaged or "
                "belongs to another export"
            )
        arrays = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from error
    check_finite(arrays, file)
    tables = restore_tables(arrays, config.prefix_rows, file)
    temperature = described.rtt_temperature
    return Weights(config, tables, fields["origin"], described.provenance, temperature)


def digest(fields: dict[str, Any]) -> str:
    """Hex SHA-256 of the canonical JSON of all fields of config.json but the digest itself."""
    others = {name: value for name, value in fields.items() if name != "config_sha256"}
    text = json.dumps(others, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _is_export(path: Path) -> bool:
    """Whether a folder holds an export, or what a killed one left there. Files of these names alone say
    nothing: other programs use them, too."""
    names = {file.name for file in path.iterdir() if not file.name.endswith(TEMPORARY_SUFFIX)}
    try:
        if CONFIG_FILE in names:
            return read_object(path, CONFIG_FILE).get("format") == FORMAT
        if WEIGHTS_FILE in names:
            with safe_open(regular_file(path, WEIGHTS_FILE), "np") as opened:
                ours = (opened.metadata() or {}).get("format") == FORMAT
            return ours and names <= {WEIGHTS_FILE, VOCABULARY_FILE, CARD_FILE, README_FILE}
        return not names
    except (CheckpointError, OSError, SafetensorError):
        return False


def _describe(fields: dict[str, Any], file: Path) -> tuple[Description, ModelConfig]:
    """The content of config.json, checked as far as it can be without the other files."""
    if fields.get("format") != FORMAT or fields.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{file}: expected {FORMAT} version {FORMAT_VERSION}, found "
            f"{fields.get('format')} version {fields.get('format_version')}: export it again"
        )
    described = convert_saved(Description, fields, file)
    known = {"format", "format_version", "model", *vars(described)}
    if described.config_sha256 is None and not fields.keys() <= known:
        raise CheckpointError(
            f"{file}: unknown field {min(fields.keys() - known)}, and no config_sha256: it is damaged or was "
            "edited: export the model again"
        )
    if described.config_sha256 not in (None, digest(fields)):
        raise CheckpointError(
            f"{file}: its digest differs from its config_sha256: it is damaged or was edited: export the "
            "model again"
        )
    config = ModelConfig.from_dict(fields.get("model"), file)
    total = count_parameters(config)["total"]
    if described.parameters != total:
        raise CheckpointError(
            f"{file}: describes a model of {total} weights, but parameters is {described.parameters}: it is "
            "damaged or was edited: export the model again"
        )
    return described, config


def _read_shapes(file: Path, dtype: DtypeName) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays by name, from the header alone. Raises `CheckpointError` for an array of
    another type."""
    with safe_open(file, "np") as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        for name, array in slices.items():
            expected = "I32" if name.endswith(ROWS) else SAFETENSORS_DTYPES[dtype]
            if array.get_dtype() != expected:
                raise CheckpointError(
                    f"{file}: {name} is of type {array.get_dtype()}, but config.json says {dtype}: the files "
                    "do not belong together"
                )
        return {name: tuple(array.get_shape()) for name, array in slices.items()}


def vocabulary() -> dict[str, Any]:
    """The tokens by id, each with `name`, and role tokens with `payload_bytes`."""
    tokens = [
        {"id": token, "name": token_name(token)}
        | ({"payload_bytes": PAYLOAD_BYTES[token]} if token < len(PAYLOAD_BYTES) else {})
        for token in range(VOCABULARY_SIZE)
    ]
    return {"version": VOCABULARY_VERSION, "size": VOCABULARY_SIZE, "tokens": tokens}
