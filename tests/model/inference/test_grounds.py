"""What an answer rests on: simulated, real or unknown data, and prefixes that training had or had not."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import app
from model.inference.export import write_export
from model.inference.grounds import Grounds, find_grounds
from model.inference.ping_model import PingModel, load_weights
from model.inference.query import CompletionQuery, RttQuery, SampleQuery
from model.inference.views import noted
from stores.codec import Measurement
from stores.errors import QueryError
from stores.files import write_json
from stores.provenance import Provenance, in_turn, survey
from stores.reader import TokenStore
from tests.model.inference.plain import V4, random_weights
from tests.model.inference.test_answer_views import text_of
from tests.stores.test_provenance import make_store

KNOWN, OTHER = "9.8.7.6", "11.12.13.14"
SIMULATED = "from a model of a simulated Internet"
UNKNOWN = "from a model trained on unknown data"


@pytest.fixture(scope="module")
def provenance(tmp_path_factory: pytest.TempPathFactory) -> Provenance:
    """Of rows from 9.8.7.6 to 11.12.13.14 alone."""
    rows = [Measurement(ip_address(KNOWN), ip_address(OTHER), 5.0, 1_700_000_000)]
    path = make_store(tmp_path_factory.mktemp("one") / "store.zarr", rows, rows)
    return replace(survey(TokenStore.open(path)), data="simulated")


@pytest.fixture(scope="module")
def exported(provenance: Provenance, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a simulated Internet."""
    out = tmp_path_factory.mktemp("simulated") / "model"
    origin = {"store_digest": "0" * 64, "code_version": "0", "step": 0, "test_loss": None}
    write_export(replace(random_weights(12.0), origin=origin, provenance=provenance), out)
    return out


def test_a_simulation_says_so_whatever_is_asked(provenance: Provenance) -> None:
    met = find_grounds(provenance, RttQuery(KNOWN, OTHER))  # type: ignore[arg-type]
    assert met == Grounds("simulated", {}, (SIMULATED,))
    for query in (SampleQuery(KNOWN, 20.0), CompletionQuery("11")):  # type: ignore[arg-type]
        assert find_grounds(provenance, query) == met


def test_a_model_of_simulated_and_of_real_pings_says_that_a_part_is_simulated(
    provenance: Provenance,
) -> None:
    both = in_turn(provenance, replace(provenance, data="real"))
    met = find_grounds(both, RttQuery(KNOWN, OTHER))  # type: ignore[arg-type]
    assert met == Grounds("mixed", {}, ("from a model trained in part on a simulated Internet",))


def test_an_address_of_a_network_that_training_did_not_have_is_marked(
    provenance: Provenance,
) -> None:
    real = replace(provenance, data="real")
    swapped = find_grounds(real, RttQuery(OTHER, KNOWN))  # type: ignore[arg-type]
    assert swapped.unmet_prefixes == {"src": "11.12.0.0/16", "dst": "9.8.0.0/16"}
    assert swapped.notes == (
        "source 11.12.13.14: the training data have no source in 11.12.0.0/16",
        "destination 9.8.7.6: the training data have no destination in 9.8.0.0/16",
    )
    near = RttQuery("9.8.200.1", "11.12.1.1")  # type: ignore[arg-type]
    assert find_grounds(real, near) == Grounds("real", {}, ())
    ipv6 = find_grounds(real, SampleQuery("2a00::1", 5.0))  # type: ignore[arg-type]
    assert ipv6.notes == ("source 2a00::1: the training data have no source in 2a00::/32",)
    assert find_grounds(real, CompletionQuery("9.8.7")).unmet_prefixes == {"prefix": "9.8.0.0/16"}
    assert find_grounds(real, CompletionQuery("9.8.7", field="src")).unmet_prefixes == {}
    assert find_grounds(real, CompletionQuery("9")).unmet_prefixes == {}  # too short to tell


def test_a_model_that_does_not_know_its_data_says_that() -> None:
    model = PingModel(random_weights(12.0))
    assert model.provenance is None
    assert model.grounds(RttQuery(*V4)) == Grounds("unknown", {}, (UNKNOWN,))  # type: ignore[arg-type]


def test_notes_stand_above_the_answer() -> None:
    grounds = Grounds(
        "simulated",
        {},
        (SIMULATED, "source 9.9.9.9: the training data have no source in 9.9.0.0/16"),
    )
    lines = text_of(noted("the answer", grounds)).splitlines()
    assert lines[0] == "From a model of a simulated Internet"
    assert lines[1:] == [
        "source 9.9.9.9: the training data have no source in 9.9.0.0/16",
        "the answer",
    ]
    assert noted("the answer", Grounds("real", {}, ())) == "the answer"


@pytest.mark.parametrize(
    "asked",
    [("predict-rtt", "8.8.8.8", OTHER), ("sample-ips", "8.8.8.8", "20"), ("complete-ip", "8.8")],
)
def test_every_command_says_it_in_text_and_json(exported: Path, asked: tuple[str, ...]) -> None:
    said = CliRunner().invoke(app, [*asked, "--model", str(exported)])
    assert said.exit_code == 0, said.output
    assert said.stdout.startswith("From a model of a simulated Internet\n")
    line = said.stdout.splitlines()[1]
    assert line.split(": ")[0].split()[1] in ("8.8.8.8", "8.8")
    assert line.endswith(" in 8.8.0.0/16")
    answer = json.loads(
        CliRunner().invoke(app, [*asked, "--model", str(exported), "--json"]).stdout
    )
    assert answer["data"] == "simulated"
    assert answer["notes"][0] == SIMULATED
    assert list(answer["unmet_prefixes"].values()) == ["8.8.0.0/16"]


@pytest.mark.parametrize(
    ("asked", "key"),
    [(("sample-ips", "9.8.7.6", "20"), "samples"), (("complete-ip", "8.8"), "completions")],
)
def test_every_address_that_is_found_is_marked_by_itself(
    exported: Path, asked: tuple[str, ...], key: str
) -> None:
    """Training has destinations in 11.12 alone."""
    command = [*asked, "--model", str(exported)]
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)[key]
    text = CliRunner().invoke(app, command).stdout
    for one in found:
        network = ".".join(one["address"].split(".")[:2])
        assert one["unmet_prefix"] == (None if network == "11.12" else f"{network}.0.0/16")
        assert (f"{one['address']} †" in text) == (network != "11.12")
    assert "† the training data have none in its /16" in text


def test_an_older_export_without_provenance_still_answers(exported: Path, tmp_path: Path) -> None:
    config = json.loads((exported / "config.json").read_bytes())
    for name in ("provenance", "config_sha256"):
        del config[name]
    for file in ("model.safetensors", "vocabulary.json"):
        (tmp_path / file).write_bytes((exported / file).read_bytes())
    write_json(tmp_path / "config.json", config)
    assert load_weights(tmp_path).provenance is None
    said = CliRunner().invoke(app, ["predict-rtt", KNOWN, OTHER, "--model", str(tmp_path)])
    assert said.stdout.startswith("From a model trained on unknown data\n")


PRIVATE = ("10.0.0.1", "192.168.7.7", "127.0.0.1", "224.0.0.9", "192.0.2.1", "169.254.0.1")


@pytest.mark.parametrize("address", [*PRIVATE, "fe80::1", "2001:db8::1", "ff02::1", "::1"])
def test_private_and_special_addresses_are_refused_unless_allowed(address: str) -> None:
    public = "2a00::1" if ":" in address else "8.8.8.8"
    for field, query, arguments in (
        ("src", RttQuery, (address, public)),
        ("dst", RttQuery, (public, address)),
        ("src", SampleQuery, (address, 20.0)),
    ):
        with pytest.raises(QueryError, match=f"^{field} {address}: private or special, so no"):
            query(*arguments)  # type: ignore[operator]
        assert query(*arguments, allow_private=True).allow_private  # type: ignore[operator]


@pytest.mark.parametrize(
    ("prefix", "refused"),
    [
        *(
            (p, True)
            for p in ("10", "192.168", "127", "224", "255.255", "fe80::/16", "ff", "fd00:")
        ),
        *((p, False) for p in ("192", "172", "198.51", "2001:", "0.0.0.0/0", "::/0", "8.8")),
    ],
)
def test_a_prefix_of_private_addresses_alone_is_refused(prefix: str, refused: bool) -> None:
    if prefix == "ff":
        prefix = "ff00::/8"
    if refused:
        with pytest.raises(QueryError, match=r"^prefix \S+/\d+: private or special"):
            CompletionQuery(prefix)
    assert CompletionQuery(prefix, allow_private=True).prefix == prefix
    if not refused:
        assert CompletionQuery(prefix).prefix == prefix


def test_commands_refuse_private_addresses_in_one_line_unless_allowed(exported: Path) -> None:
    for asked in (("predict-rtt", "10.0.0.1", OTHER), ("sample-ips", "10.0.0.1", "20")):
        model = ("--model", str(exported))
        refused = CliRunner().invoke(app, [*asked, *model])
        assert isinstance(refused.exception, QueryError)
        assert "--allow-private" in str(refused.exception)
        assert CliRunner().invoke(app, [*asked, *model, "--allow-private"]).exit_code == 0
    refused = CliRunner().invoke(app, ["complete-ip", "192.168", *model])
    assert str(refused.exception).startswith("prefix 192.168.0.0/16: private or special")


def test_the_old_order_of_a_search_still_works_and_warns() -> None:
    new = SampleQuery("8.8.8.8", 20.0, 3, seed=4)  # type: ignore[arg-type]
    with pytest.warns(DeprecationWarning, match="the source comes first") as caught:
        assert SampleQuery(20.0, "8.8.8.8", 3, seed=4) == new  # type: ignore[arg-type]
    assert [Path(warning.filename).name for warning in caught] == ["test_grounds.py"]
    with pytest.warns(DeprecationWarning, match="the source comes first"):
        assert SampleQuery(20, src="8.8.8.8", n=3, seed=4) == new  # type: ignore[arg-type, misc]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SampleQuery(target_rtt_ms=20.0, src="8.8.8.8", n=3, seed=4) == new  # type: ignore[arg-type]
        assert replace(new, n=5).n == 5
    with pytest.raises(TypeError, match="target_rtt_ms"):
        SampleQuery("8.8.8.8")  # type: ignore[call-arg, arg-type]


def test_the_model_takes_the_old_order_too(exported: Path) -> None:
    model = PingModel.load(exported)
    found = model.sample_ips("8.8.8.8", 20.0, 2)
    with pytest.warns(DeprecationWarning, match="the source comes first"):
        assert model.sample_ips(20.0, "8.8.8.8", 2) == found  # type: ignore[arg-type]
    assert model.sample_ips(target_rtt_ms=20.0, src="8.8.8.8", n=2) == found
