from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.config import PRESETS, ModelConfig, make_config, parse_assignments
from model.network.attention import attend, choose_attention, probe_cudnn
from model.network.dropout import dropout, dropout_keys, keep_mask
from model.network.flops import (
    count_parameters,
    estimate_activations,
    flops_per_token,
    peak_flops,
    utilization,
)
from model.network.transformer import Transformer, dropout_sites
from stores.errors import ConfigError
from tests.model.conftest import small_config

FLOAT32 = jnp.dtype("float32")


def small_model(**overrides: object) -> Transformer:
    return Transformer(small_config(layers=2, **overrides).model, FLOAT32, "xla", nnx.Rngs(0))


@nnx.jit
def logits_of(model: Transformer, tokens: jax.Array) -> jax.Array:
    return model(tokens)


def some_tokens(rows: int = 2, length: int = 64) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).integers(0, 267, (rows, length)), jnp.int32)


@pytest.mark.parametrize("preset", PRESETS)
def test_counted_weights_are_the_weights_of_the_model(preset: str) -> None:
    config = PRESETS[preset].model
    model = nnx.eval_shape(lambda: Transformer(config, FLOAT32, "xla", nnx.Rngs(0)))
    state = jax.tree_util.tree_leaves_with_path(nnx.state(model, nnx.Param))
    tables = [leaf for path, leaf in state if "lookups" in jax.tree_util.keystr(path)]
    leaves = [leaf for path, leaf in state if "lookups" not in jax.tree_util.keystr(path)]
    matrices = sum(leaf.size for leaf in leaves if leaf.ndim == 2)
    counted = count_parameters(config)
    assert counted["matrices"] == matrices
    assert counted["tables"] == sum(leaf.size for leaf in tables)
    assert counted["total"] == sum(leaf.size for leaf in [*leaves, *tables])
    assert bool(tables) == bool(config.prefix_rows)
    assert all(leaf.ndim == 1 and leaf.size == config.width for leaf in leaves if leaf.ndim != 2)


def test_85m_has_the_stated_number_of_weights() -> None:
    assert count_parameters(PRESETS["85m"].model)["matrices"] == 85_538_560
    assert 4e6 < count_parameters(PRESETS["small"].model)["total"] < 6e6


def test_logits_cover_the_vocabulary_and_nothing_of_the_padding() -> None:
    model = small_model()
    logits = logits_of(model, some_tokens())
    assert logits.shape == (2, 64, 267)
    assert logits.dtype == jnp.float32
    total = jax.nn.softmax(logits, axis=-1).sum(-1)
    np.testing.assert_allclose(total, np.ones((2, 64)), rtol=1e-5)


def test_no_position_sees_a_later_one() -> None:
    model, tokens = small_model(), some_tokens()
    changed = tokens.at[:, 40:].set((tokens[:, 40:] + 1) % 267)
    before, after = logits_of(model, tokens), logits_of(model, changed)
    np.testing.assert_array_equal(before[:, :40], after[:, :40])
    assert not np.allclose(before[:, 40:], after[:, 40:])


def test_position_matters() -> None:
    tokens = jnp.full((1, 64), 20, jnp.int32).at[0, 0].set(5)
    logits = logits_of(small_model(), tokens)
    assert float(jnp.abs(logits[0, 10] - logits[0, 50]).max()) > 1e-4


@pytest.mark.parametrize("how", [{"scan": True}, {"remat": True}, {"scan": True, "remat": True}])
def test_scanned_and_rematerialized_layers_compute_the_same(how: dict[str, bool]) -> None:
    """Forward with dropout, and gradients: the plain unrolled form is the twin."""
    tokens, plain, other = some_tokens(), small_model(), small_model(**how)
    keys = dropout_keys(0, jnp.int32(3), dropout_sites(plain.config))

    def loss(model: Transformer) -> jax.Array:
        return (model(tokens, keys) ** 2).mean()

    values, others = (nnx.jit(nnx.value_and_grad(loss))(model) for model in (plain, other))
    for a, b in zip(jax.tree.leaves(values), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)


def test_bfloat16_activations_keep_float32_logits_close_to_the_float32_model() -> None:
    config = small_config(layers=2).model
    half = Transformer(config, jnp.dtype("bfloat16"), "xla", nnx.Rngs(0))
    logits, exact = (logits_of(m, some_tokens()) for m in (half, small_model()))
    assert logits.dtype == jnp.float32
    assert float(jnp.abs(logits - exact).max()) < 0.05
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(nnx.state(half, nnx.Param)))


@pytest.mark.parametrize("length", [1, 3, 5, 16, 27])  # whole blocks of queries, and others
def test_plain_attention_is_causal_softmax_attention(length: int) -> None:
    query, key, value = jax.random.normal(jax.random.key(0), (3, 2, length, 2, 8))
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(8)
    scores[..., np.triu(np.ones((length, length), bool), 1)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    expected = np.einsum("bhqk,bkhd->bqhd", weights, value)
    np.testing.assert_allclose(attend(query, key, value, "xla"), expected, rtol=1e-4, atol=1e-5)


def test_cudnn_attention_agrees_with_the_plain_form() -> None:
    problem = probe_cudnn(10, 64, "bfloat16")
    if problem:
        pytest.skip(f"no cuDNN attention here: {problem}")
    query, key, value = jax.random.normal(jax.random.key(0), (3, 2, 1024, 10, 64), jnp.bfloat16)

    def total(form: str, x: jax.Array) -> jax.Array:
        out = attend(x, key, value, form).astype(jnp.float32)  # type: ignore[arg-type]
        return (out**2).sum()

    fused, plain = (attend(query, key, value, form) for form in ("cudnn", "xla"))
    np.testing.assert_allclose(
        fused.astype(jnp.float32), plain.astype(jnp.float32), rtol=0.02, atol=0.02
    )
    gradients = [jax.grad(total, 1)(form, query).astype(jnp.float32) for form in ("cudnn", "xla")]
    np.testing.assert_allclose(*gradients, rtol=0.05, atol=0.05)


def test_cudnn_asked_for_by_name_without_a_gpu_is_an_error() -> None:
    if jax.default_backend() == "gpu":
        pytest.skip("this device may have cuDNN")
    with pytest.raises(ConfigError, match="attention cudnn: not on this device"):
        choose_attention(ModelConfig(attention="cudnn"), jnp.dtype("bfloat16"))
    assert choose_attention(ModelConfig(), FLOAT32) == ("xla", None)


def test_auto_attention_falls_back_loudly_where_cudnn_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    probe_cudnn.cache_clear()
    chosen, line = choose_attention(ModelConfig(heads=2, width=32), FLOAT32)
    probe_cudnn.cache_clear()
    assert chosen == "xla"
    assert line is not None
    assert "SLOW" in line


def test_dropout_keeps_the_stated_share_and_the_mean() -> None:
    keys = dropout_keys(0, jnp.int32(0), 2)
    kept = np.asarray(keep_mask(keys[0], (64, 128, 64), 0.1))
    assert abs(kept.mean() - 0.9) < 4 * (0.09 / kept.size) ** 0.5
    for axis in range(3):  # no row, position or channel is favoured
        share = kept.mean(tuple(a for a in range(3) if a != axis))
        deviation = (0.09 / (kept.size / kept.shape[axis])) ** 0.5
        assert np.abs(share - 0.9).max() < 5 * deviation
    x = jnp.ones((64, 128, 64))
    assert abs(float(dropout(x, 0.1, keys[0]).mean()) - 1) < 0.002
    assert dropout(x, 0.1, None) is x


def test_dropout_masks_of_two_keys_are_unrelated_at_every_shift() -> None:
    keys = np.asarray(dropout_keys(0, jnp.int32(0), 2))
    shape = (1 << 14,)
    a, b = (np.asarray(keep_mask(jnp.asarray(key), shape, 0.5)) * 2.0 - 1 for key in keys)
    spectrum = np.fft.rfft(a), np.fft.rfft(b)
    cross = np.fft.irfft(spectrum[0] * spectrum[1].conj()) / shape[0]
    own = np.fft.irfft(spectrum[0] * spectrum[0].conj())[1:] / shape[0]
    assert np.abs(cross).max() < 6 / shape[0] ** 0.5
    assert np.abs(own).max() < 6 / shape[0] ** 0.5


def test_dropout_is_a_function_of_seed_and_step() -> None:
    def masks(seed: int, step: int) -> np.ndarray:
        return np.asarray(keep_mask(dropout_keys(seed, jnp.int32(step), 1)[0], (4096,), 0.5))

    np.testing.assert_array_equal(masks(1, 5), masks(1, 5))
    assert (masks(1, 5) != masks(1, 6)).mean() > 0.4
    assert (masks(1, 5) != masks(2, 5)).mean() > 0.4


def test_flops_follow_the_stated_conventions() -> None:
    flops = flops_per_token(PRESETS["85m"].model)
    multiplying = 85_538_560 - 267 * 640
    assert flops["full_attention"] == 6 * multiplying + 12 * 20 * 640 * 1024
    assert flops["causal_attention"] == 6 * multiplying + 6 * 20 * 640 * 1024


def test_an_unknown_device_has_no_utilization() -> None:
    config = PRESETS["85m"].model
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989.4e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert utilization(config, 1e6, "cpu", 1) is None
    measured = utilization(config, 667e3, "NVIDIA H100 80GB HBM3", 1)
    assert measured is not None
    assert 0.44 < measured["full_attention"] < 0.46
    assert measured["causal_attention"] < measured["full_attention"]


def test_memory_estimate_falls_with_remat_and_rises_with_the_batch() -> None:
    plain, remat = (make_config("85m", {"remat": r}).model for r in (False, True))
    sizes = [
        sum(estimate_activations(model, rows, 2).values())
        for model, rows in ((remat, 32), (plain, 32), (plain, 64))
    ]
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"width": 33}, "width 33 over 2 heads"),
        ({"context": 4096}, "context 4096"),
        ({"context": 20}, "context 20"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"layers": "many"}, "layers 'many': expected int"),
        ({"learning_rate": 0}, "learning_rate 0.0"),
        ({"schedule": "linear"}, "schedule 'linear'"),
        ({"scan": "maybe"}, "scan 'maybe': expected true or false"),
        ({"widht": 3}, "no field 'widht'"),
        ({"eval_batches": 1}, "eval_batches 1"),
        ({"vocabulary": 266}, "vocabulary 266: expected 267 or more"),
        ({"prefix_rows": -1}, "prefix_rows -1: expected 0 to"),
        ({"placement": 33}, "placement 33: expected 0 to 32"),
        ({"composed": 1.5}, "composed 1.5: expected 0 to 1"),
        ({"hidden_sources": float("nan")}, "hidden_sources nan: expected 0 to 1"),
        ({"seed": -1}, "seed -1: expected 0 or more"),
        ({"weight_decay": float("nan")}, "weight_decay nan: expected 0 or more"),
    ],
)
def test_a_wrong_field_is_an_error_that_names_it(overrides: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        small_config(**overrides)


def test_an_unknown_preset_and_an_assignment_without_a_value_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"preset 'huge': expected one of .*tiny"):
        make_config("huge", {})
    with pytest.raises(ConfigError, match="--set 'steps': expected FIELD=VALUE"):
        parse_assignments(["seed=1", "steps"])


def test_any_field_can_be_set_from_text() -> None:
    config = make_config(
        "tiny", {"width": "64", "scan": "true", "learning_rate": "1e-2", "seed": "7"}
    )
    assert (config.model.width, config.model.scan) == (64, True)
    assert (config.train.learning_rate, config.train.seed) == (1e-2, 7)
