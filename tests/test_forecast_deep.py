"Networks as scikit-learn regressors; needs the extra 'deep'."

import numpy as np
import pandas as pd
import pytest

from trading.forecast.neural import TorchRegressor, lagged_returns

torch = pytest.importorskip("torch", reason="PyTorch comes with the extra 'deep'")
pytest.importorskip("skorch", reason="skorch comes with the extra 'deep'")


@pytest.mark.parametrize("kind", ["dense", "cnn", "lstm", "transformer"])
def test_a_tiny_set_is_learnt_by_heart_and_the_seed_decides_the_weights(kind):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 8)), rng.normal(size=40)
    net = TorchRegressor(kind, lookback=4, dropout=0.0, rate=1e-2, decay=0.0, epochs=120, patience=0, batch=40, device="cpu")
    assert np.mean((net.fit(x, y).predict(x) - y) ** 2) < 0.1 * y.var()
    short = net.set_params(epochs=2)
    first = short.fit(x, y).predict(x)
    assert np.array_equal(first, short.fit(x, y).predict(x))
    assert not np.array_equal(first, short.set_params(seed=1).fit(x, y).predict(x))


def test_training_does_not_touch_the_generator_of_others():
    torch.manual_seed(5)
    expected = torch.rand(1).item()
    torch.manual_seed(5)
    TorchRegressor(epochs=1, device="cpu").fit(np.random.default_rng(0).normal(size=(50, 2)), np.zeros(50))
    assert torch.rand(1).item() == expected


def test_it_stops_early_on_noise_and_reports_each_epoch():
    rng, seen = np.random.default_rng(0), []
    net = TorchRegressor(epochs=40, patience=2, rate=0.01, device="cpu")
    net.fit(rng.normal(size=(600, 4)), rng.normal(size=600), on_epoch=lambda epoch, loss: seen.append(epoch))
    assert len(net.losses_) < 40 and seen == list(range(1, len(seen) + 1))


def test_a_network_is_saved_and_loaded_by_the_registry(tmp_path):
    from trading.core.datasets import sample_bars
    from trading.forecast.forecaster import HorizonForecaster
    from trading.forecast.model_registry import load, save

    bars = sample_bars("stocks").iloc[-900:, :4]
    lags = lambda b: lagged_returns(b, 4)  # noqa: E731
    model = HorizonForecaster(TorchRegressor("cnn", lookback=4, width=8, epochs=2, device="cpu"), horizons=(1,)).fit(bars, lags)
    version = save(model, tmp_path, {"data_version": "d", "code_version": "c"})
    pd.testing.assert_frame_equal(load(tmp_path, version).predict(bars, lags), model.predict(bars, lags), check_exact=True)


def test_half_precision_learns_what_full_precision_learns():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 8)), rng.normal(size=400)
    y = y * 0.1 + x[:, 0]
    said = [TorchRegressor(epochs=60, patience=0, rate=0.01, batch=64, device="cpu", mixed=mixed).fit(x, y).predict(x) for mixed in (False, True)]
    assert not np.array_equal(*said) and all(np.corrcoef(s, y)[0, 1] > 0.95 for s in said)


def test_a_graphics_card_learns_what_the_processor_learns_in_half_precision_and_compiled():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA on this machine: mixed precision and torch.compile on a graphics card were not tried")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2000, 8)), rng.normal(size=2000)
    y = y * 0.1 + x[:, 0]
    said = {"cpu": TorchRegressor(epochs=40, patience=0, rate=0.01, device="cpu").fit(x, y).predict(x)}
    for name, rest in {"full": {"mixed": False}, "mixed": {"mixed": True}, "compiled": {"compiled": True}}.items():
        said[name] = TorchRegressor(epochs=40, patience=0, rate=0.01, device="cuda", **rest).fit(x, y).predict(x)
    assert all(np.corrcoef(s, said["cpu"])[0, 1] > 0.98 for s in said.values())
