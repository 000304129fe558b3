"Every model and every set of features that the settings can name, in a run as a user starts it; and what is said where one cannot be had."

from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from trading.cli.main import main
from trading.core.errors import BadInput, BadSettings, TradingError
from trading.core.settings import load_settings
from trading.forecast.model_registry import load
from trading.forecast.neural import lagged_returns
from trading.pipeline.factory import bars_of
from trading.pipeline.launch import open_run
from trading.pipeline.notebook_runner import run_in_process
from trading.services.queries_analytics import explanation
from trading.services.workspace import Workspace
from trading.testing.sample_runs import SMALL

pytestmark = pytest.mark.xdist_group("models-by-name")
MINE = """import pandas as pd
import numpy as np


def features(bars):
    close = bars["close"]
    return pd.concat({"week": np.log(close).diff(5), "fall": close / close.rolling(60).max() - 1}, axis=1)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder whose bars are there already."
    home = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        (home / "features").mkdir()
        (home / "features" / "mine.py").write_text(MINE)
        run_in_process(open_run(settings(), datetime.now(UTC)), ("10_ingest",))
        yield home


def settings(**forecast: str):
    where = {"run.data": "data", "run.reports": "reports", "forecast.horizons": "1, 5"}
    return load_settings(overrides=SMALL | where | {f"forecast.{k}": v for k, v in forecast.items()}, environ={})


NAMED = [
    ({"model": "ar"}, "LinearRegression", ["bar_00", "bar_01", "bar_02", "bar_03", "bar_04"]), ({"model": "running"}, "RunningRidge", None),
    ({"model": "forest"}, "RandomForestRegressor", None), ({"model": "histogram"}, "HistGradientBoostingRegressor", None),
    ({"features": "sequence 3"}, "Pipeline", ["bar_00", "bar_01", "bar_02"]), ({"features": "technical 1w"}, "Pipeline", None),
    ({"features": "mine"}, "Pipeline", ["fall", "week"]),
    *([({"model": kind}, "TorchRegressor", None) for kind in ("dense", "cnn", "lstm", "transformer")] if find_spec("torch") else []),
]


@pytest.mark.parametrize(("words", "kind", "names"), NAMED, ids=[" ".join(w.values()) for w, _, _ in NAMED])
def test_a_run_learns_forecasts_and_decides_with_what_the_settings_name(place, words, kind, names):
    run = run_in_process(open_run(settings(**words), datetime.now(UTC)), ("10_ingest", "20_forecast"))
    made = load(place / "data" / "models" / "sample", run.record.model_versions["forecast"])
    assert type(made.models_[1].estimator).__name__ == kind and (names is None or list(made.features_) == names)
    table = run.read("forecast")
    assert np.isfinite(table["expected"]).all() and (table["lower"] < table["upper"]).all() and set(table.index.unique("horizon")) == {1, 5}
    assert run.read("decisions")["words"]
    if words.get("features") == "technical 1w":
        assert {"rsi_14", "rsi_14_1w"} <= set(made.features_) and "volume_ratio_20" not in made.features_, "the sample has no volume"


def test_an_autoregression_reads_the_last_five_moves_in_order(place):
    "What it says of a row is the sum of the last five usual moves times its coefficients, oldest first."
    run = run_in_process(open_run(settings(model="ar"), datetime.now(UTC)), ("10_ingest", "20_forecast"))
    made, bars = load(place / "data" / "models" / "sample", run.record.model_versions["forecast"]), bars_of(run)
    row = lagged_returns(bars.iloc[-400:], 5).iloc[-1].unstack("feature").iloc[0]
    fitted = made.models_[1].estimator
    assert fitted.predict(row.to_frame().T.to_numpy())[0] == pytest.approx(fitted.intercept_ + row.to_numpy() @ fitted.coef_)


def test_the_page_explains_a_forecast_by_the_features_of_the_settings(place, monkeypatch):
    run = run_in_process(open_run(settings(features="mine"), datetime.now(UTC)), ("10_ingest", "20_forecast"))
    told = explanation(Workspace(place / "data", place / "reports", place / "settings.ini"))
    assert told["run"] == run.record.id and set(told["items"][0]["parts"]) >= {"week", "fall"}


def test_what_cannot_be_had_is_said_before_anything_is_fetched(place):
    (place / "features" / "ahead.py").write_text(MINE.replace("diff(5)", "diff(5).shift(-1)"))
    (place / "features" / "broken.py").write_text("def features(bars):\n    return bars['volume_of_yesterday']\n")
    (place / "features" / "empty.py").write_text("x = 1\n")
    (place / "features" / "typo.py").write_text("def features(bars:\n")
    before = set((place / "reports").glob("*"))
    for words, what in (
        ({"model": "lstm", "features": "technical"}, "write sequence 20 there"), ({"features": "yours"}, "forecast.features = yours is unknown"),
        ({"features": "empty"}, "has no features"), ({"features": "typo"}, "cannot be run: SyntaxError|cannot be read as Python"),
        ({"features": "sequence", "sentiment": "web"}, "a score has no place"),
    ):
        with pytest.raises(TradingError, match=what):
            open_run(settings(**words), datetime.now(UTC))
    assert set((place / "reports").glob("*")) == before
    for words in ({"model": "lstmm"}, {"features": "technical 5"}, {"features": "../mine"}, {"features": "sequence 1000"}):
        with pytest.raises(BadSettings):
            settings(**words)
    for name, what in (("ahead", "look into the future: week"), ("broken", "the features broken failed in line 2 of broken.py")):
        with pytest.raises(BadInput, match=what):
            run_in_process(open_run(settings(features=name), datetime.now(UTC)), ("10_ingest", "20_forecast"))


@pytest.mark.skipif(find_spec("torch") is not None, reason="PyTorch is installed")
def test_a_network_without_its_extra_is_refused_at_the_terminal_in_one_sentence(place):
    Path("settings.ini").write_text("[forecast]\nmodel = transformer\n")
    done = CliRunner().invoke(main, ["run", "--profile", "sample"])
    Path("settings.ini").unlink()
    said = done.output + str(done.exception)
    assert done.exit_code != 0 and "pip install 'carnet[deep]'" in said
