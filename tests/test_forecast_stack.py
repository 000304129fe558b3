"The stack by name: saved, loaded and never told the future."

import pandas as pd

from trading.core.datasets import sample_bars
from trading.forecast.estimators import make_estimator
from trading.forecast.forecaster import HorizonForecaster
from trading.forecast.model_registry import load, save


def test_a_stack_knows_its_days_and_is_saved_and_loaded_by_the_registry(tmp_path):
    bars = sample_bars("stocks").iloc[-800:, :3]
    model = HorizonForecaster(make_estimator("stack"), horizons=(5,)).fit(bars.iloc[:700])
    stack = model.models_[5].estimator
    assert set(stack.weights_) == {"ridge", "forest", "histogram"} and min(stack.weights_.values()) >= 0 and stack.stack_.cv is None
    version = save(model, tmp_path, {"data_version": "d", "code_version": "c"})
    pd.testing.assert_frame_equal(load(tmp_path, version).predict(bars), model.predict(bars), check_exact=True)
    changed = bars.copy()
    changed.iloc[750:] *= 2
    before = slice(None, bars.index[749])
    pd.testing.assert_frame_equal(model.predict_panel(changed).loc[before], model.predict_panel(bars).loc[before])
