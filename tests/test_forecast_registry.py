"Saved models: what comes back, and what is refused."

import hashlib
import json

import pandas as pd
import pytest

from trading.core.datasets import sample_bars
from trading.core.errors import Refused
from trading.forecast.estimators import make_estimator
from trading.forecast.explain import explain
from trading.forecast.forecaster import HorizonForecaster
from trading.forecast.model_registry import load, save

SAID = {"data_version": "d1", "code_version": "c1"}


@pytest.fixture(scope="module")
def bars():
    return sample_bars("stocks").iloc[-900:, :4]


class Foreign:
    "A class that no forecast needs."

    def __init__(self):
        self.x = 1


@pytest.mark.parametrize("name", ["ridge", "running", "forest", "histogram", "boosting"])
def test_every_estimator_comes_back_and_predicts_to_the_last_bit(tmp_path, bars, name):
    if name == "boosting":
        pytest.importorskip("xgboost", reason="xgboost-cpu is an extra")
    model = HorizonForecaster(make_estimator(name), horizons=(1,)).fit(bars)
    version = save(model, tmp_path, SAID)
    pd.testing.assert_frame_equal(load(tmp_path, version).predict(bars), model.predict(bars), check_exact=True)


def test_two_processes_would_give_the_model_the_same_version(tmp_path, bars):
    first, second = (save(HorizonForecaster(horizons=(1,)).fit(bars), tmp_path / d, SAID) for d in "ab")
    assert first == second


def test_a_file_with_foreign_code_is_refused_even_when_its_hash_was_rewritten(tmp_path, bars):
    skops = pytest.importorskip("skops.io", reason="skops is missing: pip install carnet")
    version = save(HorizonForecaster(horizons=(1,)).fit(bars), tmp_path, SAID)
    data = skops.dumps({"schema": "horizon-forecaster/1", "estimator": Foreign()})
    page = tmp_path / version / "model.json"
    (tmp_path / version / "model.skops").write_bytes(data)
    page.write_text(json.dumps(json.loads(page.read_text()) | {"file_hash": hashlib.sha256(data).hexdigest()}))
    with pytest.raises(Refused, match="which no forecast needs"):
        load(tmp_path, version)


def test_another_scikit_learn_is_refused(tmp_path, bars):
    version = save(HorizonForecaster(horizons=(1,)).fit(bars), tmp_path, SAID)
    page = tmp_path / version / "model.json"
    page.write_text(json.dumps(json.loads(page.read_text()) | {"scikit_learn": "0.1"}))
    with pytest.raises(Refused, match="saved with scikit-learn 0.1"):
        load(tmp_path, version)


@pytest.mark.parametrize("name", ["ridge", "forest", "histogram"])
def test_explanations_sum_to_the_forecast(bars, name):
    if name != "ridge":
        pytest.importorskip("shap", reason="shap is an extra")
    model = HorizonForecaster(make_estimator(name), horizons=(1, 5)).fit(bars)
    gap = explain(model, bars).sum(axis=1) - model.predict(bars)["expected"]
    assert gap.abs().max() < 1e-7
