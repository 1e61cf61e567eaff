"""The card of an exported model, as JSON and in prose: its data, training, evaluation, limits and licence.

    DIR/card.json   `data`, `training`, `evaluation`, `example`, `licence`
    DIR/README.md   the same for people

`export` writes both from what the weights know, without `evaluation` and `example` (null); `model-card` writes them
again with the results of `evaluate`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model.inference.weights import Weights
from stores.errors import OutputError
from stores.files import write_json, write_synced
from stores.provenance import Provenance, summary

CARD_FILE = "card.json"
README_FILE = "README.md"
MARK = "<!-- Written by pinglm, which may write it again. -->"
"""Begins a README.md that may be replaced."""

WHAT = {
    "simulated": "pings of a simulated Internet, of which none was measured, and whose addresses only look real",
    "real": "pings that were measured",
    "mixed": "pings, of which some were measured and others are those of a simulated Internet",
}
UNKNOWN = "data that nobody noted"
LICENCES = {"simulated": "Apache-2.0"}
"""Of the weights, by the data they were trained on. What the terms of measured data allow, their owner knows."""


def card_of(weights: Weights) -> dict[str, Any]:
    """The card of a model that has not been evaluated, which can be written as JSON."""
    origin = weights.origin
    return {
        "data": data_card(weights.provenance)
        | {"store_digest": origin.get("store_digest"), "base": origin.get("base")},
        "training": {
            "code_version": origin.get("code_version"),
            "steps": origin.get("step"),
            "test": {"nats_per_measurement": origin.get("test_loss")},
        },
        "evaluation": None,
        "example": None,
        "licence": licence(weights.provenance),
    }


def data_card(provenance: Provenance | None) -> dict[str, Any]:
    """What `data` of every card begins with."""
    what = UNKNOWN if provenance is None else WHAT[provenance.data]
    return {"what": what, "provenance": summary(provenance)}


def licence(provenance: Provenance | None) -> str | None:
    """The licence of weights of this provenance; `None` where that depends on the data."""
    return None if provenance is None else LICENCES.get(provenance.data)


def write_card_files(out: Path, card: dict[str, Any], parameters: int) -> None:
    """Write card.json and README.md into an exported model of so many weights. Raises `OutputError`, also for a
    README.md that is somebody else's."""
    check_readme(out)
    write_json(out / CARD_FILE, card)
    write_synced(out / README_FILE, readme(card, parameters).encode())


def check_readme(out: Path) -> None:
    """Raise `OutputError` for a README.md in the folder that pinglm did not write."""
    file = out / README_FILE
    if file.exists() and not file.read_bytes().startswith(MARK.encode()):
        raise OutputError(f"{file}: was not written by pinglm: move it, or choose another folder")


def readme(card: dict[str, Any], parameters: int) -> str:
    """A card in prose, as Markdown."""
    sections = {
        "Data": _data(card["data"]),
        "Training": _training(card["training"]),
        "Evaluation": _evaluation(card["evaluation"]),
        "Limits": _limits(card["data"]["provenance"]),
        "Licence": _licence(card["licence"]),
    }
    parts = [MARK, "# A pinglm model", _about(parameters)]
    parts += [part for title, text in sections.items() for part in (f"## {title}", text)]
    return "\n\n".join(parts) + "\n"


def _about(parameters: int) -> str:
    return f"""A transformer of {parameters:,} weights, look-up tables included, that has learned latency: it
predicts the round-trip time of a ping between two addresses, finds addresses at a given round-trip time, and
completes addresses.

    pinglm predict-rtt --model . SOURCE DESTINATION
    pinglm serve --model .

`model.safetensors` holds the weights, `config.json` shape and origin, `vocabulary.json` the tokens, `card.json`
what is below."""


def _data(data: dict[str, Any]) -> str:
    provenance = data["provenance"]
    digest = f"Digest of its store: `{data['store_digest']}`."
    if provenance is None:
        return f"Trained on {UNKNOWN}: simulated or real, this export cannot tell. {digest}"
    days = [str(provenance[name])[:10] for name in ("first_time", "last_time")]
    return (
        f"Trained on {provenance['rows']:,} {data['what']}. They go from {provenance['sources']:,} sources to "
        f"{provenance['destinations']:,} destinations, between {days[0]} and {days[1]}. {digest}"
    ) + (
        f" Its weights began as those of a model trained on the store `{data['base']}`."
        if data.get("base")
        else ""
    )


def _training(training: dict[str, Any]) -> str:
    text = f"{training['steps'] or 0:,} steps"
    if "tokens" in training:
        minutes = training["seconds"] / 60
        text += f" ({training['tokens']:,} tokens, {minutes:,.0f} minutes on {training['device']})"
    text += f" with pinglm {training['code_version']}"
    loss = training["test"]["nats_per_measurement"]
    return f"{text}. " + (
        "No loss on the test rows was noted."
        if loss is None
        else f"The loss on the test rows is {loss:.2f} nats per measurement."
    )


def _evaluation(evaluation: dict[str, Any] | None) -> str:
    if evaluation is None:
        return (
            "Not evaluated yet: `pinglm evaluate` compares it with baselines, and `pinglm model-card` adds the "
            "result here."
        )
    rows = [
        f"| {name.replace('_', ' ')} | {_ms(errors['seen_pairs'])} | {_ms(errors['unseen_pairs'])} |"
        for name, errors in evaluation["median_abs_error_ms"].items()
    ]
    head = [
        f"Median absolute error in ms on {evaluation['asked']:,} test rows; `model` is this one. A pair of",
        "addresses is seen if the training data has it.",
        "",
        "| predictor | seen pairs | unseen pairs |",
        "|---|---|---|",
    ]
    return "\n".join([*head, *rows])


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _limits(provenance: dict[str, Any] | None) -> str:
    limits = [
        "It answers for every pair of public addresses, also for networks that its data did not have. Such answers "
        'are marked ("the training data have no destination in 8.8.0.0/16"), and are guesses unless there is '
        "context.",
        "It knows the time of its data only. Routes change, and it does not learn of that unless its context shows "
        "it.",
        "A vantage point that it was not trained on needs context: a few measurements of its own.",
    ]
    if provenance is None:
        limits.insert(
            0, "What it was trained on is not known, so nobody can say what it is good for."
        )
    elif provenance["data"] == "simulated":
        limits.insert(
            0,
            "**It has never seen the Internet**: no answer of it says anything about real addresses.",
        )
    elif provenance["data"] == "mixed":
        limits.insert(
            0,
            "A part of its data is a simulated Internet, whose addresses only look real: an answer about a network "
            "that only this part had says nothing about the real one.",
        )
    return "\n".join(f"- {limit}" for limit in limits)


def _licence(name: str | None) -> str:
    if name is not None:
        return f"{name}, as pinglm itself."
    return (
        "Not stated. pinglm is Apache-2.0, but what may be done with these weights depends on the terms of the "
        "data that they were trained on."
    )
