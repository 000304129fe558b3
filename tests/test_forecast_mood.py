"A dated score in the settings reaches the forecasts of a run, is kept with it, and comes back when the run is made again."

from datetime import UTC, datetime

import pandas as pd
import pytest
from loopback import HereKernel

from trading.core.settings import load_settings
from trading.pipeline.launch import open_run
from trading.pipeline.notebook_runner import run_stage
from trading.pipeline.run_compare import compare_numbers, open_reproduction
from trading.services.queries_analytics import explanation
from trading.services.workspace import Workspace

NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)


def carry_out(run):
    "Run the first two stages in this process."
    for stage in ("10_ingest", "20_forecast"):
        run_stage(run, stage, HereKernel())
    return run


@pytest.mark.filterwarnings("ignore")
def test_a_score_of_the_settings_reaches_the_forecasts_and_a_reproduction_is_equal_without_its_file(tmp_path):
    days = pd.date_range("2010-01-01", "2020-04-30")
    file = tmp_path / "mood.csv"
    pd.DataFrame({"date": days, "value": [50 + 40 * ((i * 37 % 101) / 101 - 0.5) for i in range(len(days))]}).to_csv(file, index=False)
    places = {"CARNET_RUN__REPORTS": str(tmp_path / "reports"), "CARNET_RUN__DATA": str(tmp_path / "data")}
    environ = places | {"CARNET_MARKET__SYMBOLS": "KO, XOM", "CARNET_MARKET__START": "2015-01-02", "CARNET_FORECAST__HORIZONS": "1",
                        "CARNET_FORECAST__SENTIMENT": str(file)}
    first = carry_out(open_run(load_settings(environ=environ), NOW, "2020-03-12"))
    kept, why = first.read("sentiment"), first.read("explanation")
    assert kept.index[-1] == pd.Timestamp(first.record.as_of) and why["sentiment_score"].abs().min() > 0
    shown = explanation(Workspace(tmp_path / "data", tmp_path / "reports"))
    assert shown["run"] == first.record.id and "sentiment_score" in shown["items"][0]["parts"]
    file.unlink()
    again = carry_out(open_reproduction(first, tmp_path / "reports", NOW))
    assert compare_numbers(first, again) == []
