"Training walked from a real run: what drifted starts it, dry runs do not count, the candidate faces the gate, and the next run forecasts with it."

import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from typed import SYMBOLS, planted_settings
from typed import carnet_alone as carnet

from trading.core.settings import load_settings
from trading.data.delta_store import BarStore
from trading.forecast.forecaster import HorizonForecaster
from trading.forecast.model_promotion import current_model_version, promotions
from trading.forecast.model_registry import read_meta
from trading.pipeline.launch import open_run
from trading.pipeline.run_record import Run

pytestmark = pytest.mark.xdist_group("training")  # one worker: what they share is made once

COMMANDS = ("train",)  # what is walked here
PAST = 40
SETTINGS = planted_settings(forecast="model = histogram\nwindow = 900\nhorizons = 1")


def echoes(bars: int = 1000) -> pd.DataFrame:
    "Prices whose moves repeat half of the move before: a ridge regression sees it, the named model does not."
    chance, moves = np.random.default_rng(3), np.zeros((bars, len(SYMBOLS)))
    for t in range(1, bars):
        moves[t] = 0.5 * moves[t - 1] + chance.normal(0, 0.01, len(SYMBOLS))
    return pd.DataFrame(100 * np.exp(np.cumsum(moves, axis=0)), pd.date_range("2015-01-01", periods=bars, freq="B", name="Date"), SYMBOLS)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "Forty days of runs whose intervals were far too narrow, and after them a dry run of another portfolio, which is nobody's account."
    home = tmp_path_factory.mktemp("training")
    (home / "settings.ini").write_text(SETTINGS)
    echoes().round(6).to_csv(home / "closes.csv")
    carnet(home, "import", "closes.csv")
    places = {"run.reports": str(home / "reports"), "run.data": str(home / "data")}
    settings = load_settings("planted", places, file=home / "settings.ini", environ={})
    store = BarStore(home / "data" / "bars")
    version, bars = store.version, store.read(SYMBOLS, "1d")
    said = HorizonForecaster(horizons=(1,)).fit(bars.iloc[: -PAST - 20]).predict_panel(bars)
    first = open_run(settings, datetime(2019, 1, 1, tzinfo=UTC), f"{bars.index[-1]:%Y-%m-%d}").record
    for number, day in enumerate([*bars.index[-PAST - 12 : -12], bars.index[-1]]):
        at, dry = (day + pd.Timedelta(days=1)).to_pydatetime(), number == PAST
        run = Run(home / "reports" / f"{day.date()}_planted_{9 if dry else 1}")
        run.folder.mkdir(exist_ok=True)
        run.save(replace(first, id=run.folder.name, as_of=at, created=at, data_version=version, parameters={"dry_run": True} if dry else {},
                         stages=tuple(replace(s, status="done") for s in first.stages)))
        made = said.xs(day, level="timestamp")
        narrow = {"lower": made["expected"] - 0.3 * made["std"], "upper": made["expected"] + 0.3 * made["std"], "std": made["std"] / 5}
        run.write("forecast", made.assign(**narrow))
    return home, [f"{bars.index[i]:%Y-%m-%d}" for i in (-12, -11, -3)]


def trained(home) -> list[dict]:
    return [json.loads(p.read_text()) for p in sorted((home / "reports").glob("weekly/*_planted/train.json"), key=lambda p: p.stat().st_mtime_ns)]


def test_drift_in_a_run_asks_for_a_training_or_starts_it_and_the_next_run_forecasts_with_what_passed_the_gate(home):
    home, (day, after, later) = home
    models = home / "data" / "models" / "planted"
    assert "no run of profile 'sample' has forecast anything yet; carry out a daily run first" in carnet(home, "train", "--profile", "sample", code=1)
    said = carnet(home, "run", "--as-of", day, CARNET_FORECAST__RETRAIN="ask")
    assert "A training of the models is due, because horizon 1:" in said and "'carnet train --profile planted' starts it" in said
    asked = Run(home / "reports" / f"{day}_planted_1")
    due = [kind for kind, words in asked.read("summary")["attention"] if "A training of the models is due" in words]
    assert due == ["act"] and not trained(home) and current_model_version(models) == "", "a person is asked, and nothing was trained"

    said = carnet(home, "train", "--profile", "planted")
    [told] = trained(home)
    assert told["run"] == asked.record.id and datetime.fromisoformat(told["at"]) == asked.record.as_of, "not the dry run, which is newer"
    assert told["promoted"] and told["words"] in said and "takes the place of" in said, said
    first, second = promotions(models)
    assert first.version == second.before and second.passed and current_model_version(models) == second.version == told["version"]

    said = carnet(home, "run", "--as-of", after)
    assert "trained" not in said and len(trained(home)) == 1, "for a week nobody can tell the new errors from the old"
    used = Run(home / "reports" / f"{after}_planted_1")
    made = [read_meta(models, run.record.model_versions["forecast"])["estimator"] for run in (asked, used)]
    assert "HistGradient" in made[0] and "Ridge(" in made[1], "what was promoted is what forecasts"

    said = carnet(home, "run", "--as-of", later)
    told = trained(home)[-1]
    assert f"The models were trained again: {told['words']}" in said and told["run"] == f"{later}_planted_1" and len(trained(home)) == 2
    page = (home / "reports" / f"{later}_planted_1" / "index.html").read_text()
    assert "This run starts a training of the models, because horizon 1:" in page


def test_a_portfolio_trains_and_promotes_its_own_models_and_touches_no_other(home):
    home, (day, _, _) = home
    family, files = home / "data" / "portfolios" / "family", lambda: {f: f.read_bytes() for f in (home / "data" / "models").rglob("*") if f.is_file()}
    before, weeks = files(), len(trained(home))
    carnet(home, "portfolios", "add", "family")
    (family / "settings.ini").write_text(SETTINGS)
    carnet(home, "import", "closes.csv", "--portfolio", "family")
    assert "no run of profile 'planted' has forecast anything yet" in carnet(home, "train", "--portfolio", "family", code=1), "not those of 'main'"
    carnet(home, "run", "--as-of", day, "--portfolio", "family")
    used = Run(family / "reports" / f"{day}_planted_1").record.model_versions["forecast"]
    assert "HistGradient" in read_meta(family / "models" / "planted", used)["estimator"], "the settings' model, whatever 'main' has promoted"
    said = carnet(home, "train", "--portfolio", "family")
    [told] = [json.loads(p.read_text()) for p in family.glob("reports/weekly/*_planted/train.json")]
    first, second = promotions(family / "models" / "planted")
    assert told["promoted"] and told["words"] in said and current_model_version(family / "models" / "planted") == second.version == told["version"]
    assert "Ridge(" in read_meta(family / "models" / "planted", second.version)["estimator"] and first.passed

    page = family / "models" / "planted" / second.version / "model.json"
    page.write_text(json.dumps(json.loads(page.read_text()) | {"scikit_learn": "0.1"}))  # as after an update: no run can read it
    said = carnet(home, "train", "--portfolio", "family")
    assert f"{second.version} cannot be read and is taken back ({second.version}: saved with scikit-learn 0.1" in said
    now = read_meta(family / "models" / "planted", current_model_version(family / "models" / "planted"))
    assert "Ridge(" in now["estimator"] and now["scikit_learn"] != "0.1"
    assert files() == before and len(trained(home)) == weeks, "nothing of 'main' was touched"
