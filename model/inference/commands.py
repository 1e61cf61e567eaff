"""The commands that query a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from stores.commands import JsonOption, print_json

app = typer.Typer()

ModelOption = Annotated[
    str,
    typer.Option("--model", help="Folder of a run or an export, or `pretrained`."),
]
ContextOption = Annotated[
    Path | None,
    typer.Option(
        "--context",
        help="Earlier measurements: RIPE Atlas results, a measurement table, or JSON lines or CSV, oldest first, "
        "with src, dst, rtt_ms (or failed), time. Also compressed.",
    ),
]
PairsOption = Annotated[
    str | None,
    typer.Option(
        "--pairs",
        help="Ask about every row of a file with src, dst and perhaps time, in any form that --context may have; "
        "- is standard input. Each is asked with the last rows of its source in --context.",
    ),
]
AnswersOption = Annotated[
    Path | None,
    typer.Option("--out", help="File for the answers to --pairs: .csv, .jsonl or .parquet."),
]
MatrixOption = Annotated[
    bool,
    typer.Option(
        "--matrix", help="Ask about every source of --pairs with every destination of its family."
    ),
]
PrivateOption = Annotated[
    bool,
    typer.Option(
        "--allow-private",
        help="Also accept addresses that are not globally routable: private, reserved, …",
    ),
]


@app.command("predict-rtt")
def predict_rtt_command(
    src: Annotated[str | None, typer.Argument(metavar="SRC", help="Source address.")] = None,
    dst: Annotated[str | None, typer.Argument(metavar="DST", help="Destination address.")] = None,
    model: ModelOption = "pretrained",
    time: Annotated[
        str | None,
        typer.Option(
            "--time",
            help="Time of the ping: Unix seconds, or ISO 8601 as in 2025-06-27T04:53:20Z (without a zone: UTC).",
        ),
    ] = None,
    context: ContextOption = None,
    pairs: PairsOption = None,
    out: AnswersOption = None,
    matrix: MatrixOption = False,
    allow_private: PrivateOption = False,
    as_json: JsonOption = False,
) -> None:
    """Predict a ping between two addresses: the probability of no answer, and the distribution of the RTT. With
    --pairs, do so for every row of a file; if it is interrupted or killed, run the same command again to continue.

    Examples: `pinglm predict-rtt --model runs/a 193.0.2.1 198.51.101.7 --context earlier.csv` ·
    `pinglm predict-rtt --pairs pairs.csv --context dumps/a.json.bz2 --out answers.parquet`
    """
    from model.inference.bulk_command import answer_command, one_or_many
    from model.inference.checks import parse_address, parse_time

    one_or_many(src, dst, pairs, out, matrix)
    second = parse_time("--time", time)
    if pairs is not None and out is not None:
        from model.inference.bulk_file import BulkQuestion

        question = BulkQuestion(pairs, out, context, second, matrix, allow_private)
        answer_command(question, model, as_json)
        return
    from model.inference.context_file import context_of
    from model.inference.ping_model import PingModel
    from model.inference.query import RttQuery, context_used
    from model.inference.views import noted, rtt_view, working
    from stores.views import print_view

    query = RttQuery(
        parse_address("src", src),
        parse_address("dst", dst),
        second,
        context_of(context),
        allow_private,
    )
    with working("predicting", silent=as_json):
        loaded = PingModel.load(model)
        answer = loaded.predict_rtt_batch([query])[0]
        used = context_used(query, loaded.config.context)
        grounds = loaded.grounds(query)
    if as_json:
        asked = {"src": str(query.src), "dst": str(query.dst), "time": query.time}
        print_json({**asked, "context_used": used, **answer.as_dict(), **grounds.as_dict()})
    else:
        print_view(noted(rtt_view(query, answer, used), grounds))


@app.command("complete-ip")
def complete_ip_command(
    prefix: Annotated[
        str,
        typer.Argument(
            metavar="PREFIX",
            help="Whole bytes: 193.0.2, 2001:db9: or a CIDR such as 2001:d00::/24.",
        ),
    ],
    model: ModelOption = "pretrained",
    k: Annotated[int, typer.Option("-k", "--k", help="Number of addresses, at most 256.")] = 10,
    field: Annotated[
        Literal["dst", "src"], typer.Option("--field", help="Complete destinations or sources.")
    ] = "dst",
    context: ContextOption = None,
    allow_private: PrivateOption = False,
    as_json: JsonOption = False,
) -> None:
    """List the most probable addresses that begin with a prefix.

    Example: `pinglm complete-ip --model runs/a 193.0.2 -k 5`
    """
    from model.inference.context_file import context_of
    from model.inference.ping_model import PingModel
    from model.inference.query import CompletionQuery, context_used
    from model.inference.views import completions_view, noted, working
    from stores.views import print_view

    query = CompletionQuery(prefix, k, context_of(context), field, allow_private)
    with working("completing", silent=as_json):
        loaded = PingModel.load(model)
        answer = loaded.complete_ip_batch([query])[0]
        used = context_used(query, loaded.config.context)
        grounds = loaded.grounds(query)
    if as_json:
        asked = {"prefix": prefix, "field": field, "context_used": used}
        completions = [completion.as_dict() for completion in answer]
        print_json({**asked, "completions": completions, **grounds.as_dict()})
    else:
        print_view(noted(completions_view(query, answer, used), grounds))


@app.command("sample-ips")
def sample_ips_command(
    src: Annotated[str, typer.Argument(metavar="SRC", help="Source address.")],
    target_rtt_ms: Annotated[float, typer.Argument(metavar="RTT", help="Target RTT in ms.")],
    model: ModelOption = "pretrained",
    n: Annotated[int, typer.Option("-n", "--n", help="Number of addresses, at most 256.")] = 10,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Share of the RTT by which a match may differ (±).")
    ] = 0.05,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draws.")] = 0,
    context: ContextOption = None,
    allow_private: PrivateOption = False,
    as_json: JsonOption = False,
) -> None:
    """Sample destinations that are at a given RTT from a source, and say how likely the best of them are.

    Example: `pinglm sample-ips --model runs/a 193.0.2.1 20 -n 5 --tolerance 0.1`
    """
    from model.inference.checks import parse_address
    from model.inference.context_file import context_of
    from model.inference.ping_model import PingModel
    from model.inference.prediction import is_convincing
    from model.inference.query import SampleQuery, context_used
    from model.inference.views import noted, samples_view, working
    from stores.views import print_view

    earlier = context_of(context)
    source = parse_address("src", src)
    query = SampleQuery(source, target_rtt_ms, n, earlier, tolerance, seed, allow_private)
    with working("drawing", silent=as_json):
        loaded = PingModel.load(model)
        answer = loaded.sample_ips_batch([query])[0]
        used = context_used(query, loaded.config.context)
        grounds = loaded.grounds(query)
    if as_json:
        asked = {"src": str(query.src), "target_rtt_ms": target_rtt_ms, "tolerance": tolerance}
        found = {
            "convincing": is_convincing(answer),
            "samples": [sample.as_dict() for sample in answer],
        }
        print_json({**asked, "context_used": used, **found, **grounds.as_dict()})
    else:
        print_view(noted(samples_view(query, answer, used), grounds))
