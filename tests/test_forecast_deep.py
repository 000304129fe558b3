"Networks as scikit-learn regressors; needs the extra 'deep'."

import numpy as np
import pandas as pd
import pytest

from trading.forecast.neural import TorchRegressor, lagged_returns

torch = pytest.importorskip("torch", reason="PyTorch comes with the extra 'deep'")


@pytest.mark.parametrize("kind", ["dense", "cnn", "lstm", "transformer"])
def test_a_tiny_set_is_learnt_by_heart_and_the_seed_decides_the_weights(kind):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 8)), rng.normal(size=40)
    net = TorchRegressor(kind, lookback=4, dropout=0.0, rate=1e-2, decay=0.0, budget=120, patience=0, batch=40, device="cpu")
    assert np.mean((net.fit(x, y).predict(x) - y) ** 2) < 0.1 * y.var()
    short = net.set_params(budget=2)
    first = short.fit(x, y).predict(x)
    assert np.array_equal(first, short.fit(x, y).predict(x))
    assert not np.array_equal(first, short.set_params(seed=1).fit(x, y).predict(x))


def test_training_does_not_touch_the_generator_of_others():
    torch.manual_seed(5)
    expected = torch.rand(1).item()
    torch.manual_seed(5)
    TorchRegressor(budget=2, device="cpu").fit(np.random.default_rng(0).normal(size=(50, 2)), np.zeros(50))
    assert torch.rand(1).item() == expected


def test_it_stops_early_on_noise_reports_each_look_and_claims_nothing():
    rng, seen = np.random.default_rng(0), []
    net = TorchRegressor(patience=2, rate=0.01, device="cpu")
    net.fit(rng.normal(size=(600, 4)), rng.normal(size=600), on_look=lambda step, loss: seen.append((step, loss)))
    assert len(net.losses_) < 40 and [s for s, _ in seen] == [50 * (k + 1) for k in range(len(seen))] and [loss for _, loss in seen] == net.losses_
    assert net.share_ == 0.0 and np.abs(net.predict(rng.normal(size=(50, 4)))).max() < 0.2


def worlds(kind, rows, seed):
    "Rows of the last ten values, and the next one; the truth is known."
    draws, x = np.random.default_rng(seed), np.zeros(rows + 11)
    for t in range(2, len(x)):
        means = {"line": 0.5 * x[t - 1], "season": 0.5 * np.sin(t * np.pi / 5), "product": 0.5 * np.clip(x[t - 1] * x[t - 2], -3, 3), "noise": 0.0}
        x[t] = means[kind] + draws.normal() * (np.sqrt(0.5 + 0.5 * min(x[t - 1] ** 2, 4)) if kind == "noise" else 1)
    return np.stack([x[i : i + rows] for i in range(10)], axis=1), x[10 : 10 + rows]


@pytest.mark.parametrize("kind", ["dense", "cnn", "lstm", "transformer"])
def test_a_network_is_as_good_as_ridge_where_the_truth_is_a_line_and_better_where_it_is_not(kind):
    from sklearn.linear_model import Ridge
    from sklearn.metrics import r2_score

    for world in ("line", "season", "product", "noise"):
        x, y = worlds(world, 8000, 3)
        net, ridge = TorchRegressor(kind, lookback=10, device="cpu").fit(x[:5000], y[:5000]), Ridge(10.0).fit(x[:5000], y[:5000])
        ours, theirs = (r2_score(y[5000:], m.predict(x[5000:])) for m in (net, ridge))
        if world in ("line", "season"):
            assert ours > 0.95 * theirs > 0.01, (world, ours, theirs)
        elif world == "product":
            assert ours > theirs + 0.03, (world, ours, theirs)
        else:
            assert ours > -0.003, "in noise, also where it comes in waves, it claims nothing"


@pytest.mark.parametrize("kind", ["dense", "transformer"])
def test_compiled_code_learns_the_network_that_eager_code_learns(kind):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(600, 8)), rng.normal(size=600)
    y = y + x[:, 0] * x[:, 1]
    small = {"lookback": 4, "dropout": 0.3, "budget": 30, "patience": 0, "device": "cpu"}
    eager, compiled = (TorchRegressor(kind, **small, compiled=c).fit(x, y) for c in (False, True))
    assert np.allclose(eager.predict(x), compiled.predict(x), atol=1e-4)
    other = TorchRegressor(kind, **small, seed=1).fit(x, y)
    assert not np.allclose(eager.predict(x), other.predict(x), atol=1e-2)


def test_two_inputs_are_read_step_by_step():
    "The network learns from the newest step of one input times that of another, whatever the columns of the table were called first."
    from trading.forecast.panel import make_panel

    days, rng = pd.date_range("2020", periods=3000, tz="UTC"), np.random.default_rng(1)
    parts = {f"{name}_{step:02d}": pd.DataFrame({"A": rng.normal(size=3000)}, index=days) for name in ("volume", "bar") for step in (2, 0, 1)}
    panel = make_panel(pd.concat(parts, axis=1, names=["feature", "symbol"]), ["A"])
    assert panel.names == ("bar_00", "volume_00", "bar_01", "volume_01", "bar_02", "volume_02")
    x, folded = panel.values[:, 0], panel.values[:, 0].reshape(-1, 3, 2)
    assert np.array_equal(folded[:, 2, 0], parts["bar_02"]["A"]) and np.array_equal(folded[:, 1, 1], parts["volume_01"]["A"])
    y = folded[:, 2, 0] * folded[:, 2, 1] + 0.3 * rng.normal(size=3000)
    net = TorchRegressor("lstm", lookback=3, device="cpu").fit(x[:2400], y[:2400])
    assert np.corrcoef(net.predict(x[2400:]), y[2400:])[0, 1] > 0.6


def test_a_network_is_saved_and_loaded_by_the_registry(tmp_path):
    from trading.core.datasets import sample_bars
    from trading.forecast.forecaster import HorizonForecaster
    from trading.forecast.model_registry import load, save

    bars = sample_bars("stocks").iloc[-900:, :4]
    lags = lambda b: lagged_returns(b, 4)  # noqa: E731
    model = HorizonForecaster(TorchRegressor("cnn", lookback=4, width=8, budget=20, device="cpu"), horizons=(1,)).fit(bars, lags)
    version = save(model, tmp_path, {"data_version": "d", "code_version": "c"})
    pd.testing.assert_frame_equal(load(tmp_path, version).predict(bars, lags), model.predict(bars, lags), check_exact=True)


def test_half_precision_learns_what_full_precision_learns():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 8)), rng.normal(size=400)
    y = y * 0.1 + x[:, 0]
    said = [TorchRegressor(budget=400, patience=0, rate=0.01, batch=64, device="cpu", mixed=mixed).fit(x, y).predict(x) for mixed in (False, True)]
    assert not np.array_equal(*said) and all(np.corrcoef(s, y)[0, 1] > 0.95 for s in said)


def test_a_graphics_card_learns_what_the_processor_learns_in_half_precision_and_compiled():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA on this machine: mixed precision and torch.compile on a graphics card were not tried")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2000, 8)), rng.normal(size=2000)
    y = y * 0.1 + x[:, 0]
    said = {"cpu": TorchRegressor(budget=400, patience=0, rate=0.01, device="cpu").fit(x, y).predict(x)}
    for name, rest in {"full": {"mixed": False}, "mixed": {"mixed": True}, "compiled": {"compiled": True}}.items():
        said[name] = TorchRegressor(budget=400, patience=0, rate=0.01, device="cuda", **rest).fit(x, y).predict(x)
    assert all(np.corrcoef(s, said["cpu"])[0, 1] > 0.98 for s in said.values())
