"A dated score in the settings reaches the forecasts of a run, is kept with it, and comes back when the run is made again."

from datetime import UTC, datetime

import pandas as pd
import pytest
from loopback import HereKernel

from trading.core.datasets import sample_bars
from trading.core.errors import TradingError
from trading.core.settings import load_settings
from trading.forecast.sentiment import SentimentFeatures, read_scores
from trading.pipeline.launch import open_run
from trading.pipeline.notebook_runner import run_stage
from trading.pipeline.run_compare import compare_numbers, open_reproduction
from trading.pipeline.sentiment import take_sentiment
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


@pytest.mark.parametrize("text, known, values", [
    ("13.01.2018;0,5\n14.01.2018;0,6", ["2018-01-14", "2018-01-15"], [0.5, 0.6]),
    ("1514764800;50\n1514851200;51", ["2018-01-02", "2018-01-03"], [50, 51]),
    ("2018-01-03;-0.5\n2018-01-02;1", ["2018-01-03", "2018-01-04"], [1, -0.5]),
    ("2018-01-01T09:30:00+01:00;1\n2018-01-02T09:30:00+01:00;2", ["2018-01-02 08:30", "2018-01-03 08:30"], [1, 2])])
def test_dates_as_people_write_them(text, known, values, tmp_path):
    (tmp_path / "s.csv").write_text("date;value\n" + text)
    scores = read_scores(tmp_path / "s.csv")
    assert [f"{t:%Y-%m-%d %H:%M}" for t in scores.index] == [f"{pd.Timestamp(t):%Y-%m-%d %H:%M}" for t in known] and scores.tolist() == values


def test_a_date_that_can_be_read_in_two_ways_follows_the_settings_and_is_asked_about_without_them(tmp_path):
    (tmp_path / "s.csv").write_text("date;value\n03.04.2018;1\n05.06.2018;2")
    with pytest.raises(TradingError, match="may begin with the day or the month.*give forecast.sentiment_dates = dmy for 2018-04-03"):
        read_scores(tmp_path / "s.csv")
    told = {"run.data": str(tmp_path / "d"), "run.reports": str(tmp_path / "r"), "forecast.sentiment": str(tmp_path / "s.csv")}
    run = open_run(load_settings(overrides=told | {"forecast.sentiment_dates": "dmy"}, environ={}), NOW, "2022-12-27")
    assert take_sentiment(run, NOW)[0].scores.index.strftime("%Y-%m-%d").tolist() == ["2018-04-04", "2018-06-06"]
    with pytest.raises(TradingError, match="forecast.sentiment_dates = dym: it should be '', 'dmy'"):
        load_settings(overrides={"forecast.sentiment_dates": "dym"}, environ={})


def test_of_what_is_published_at_one_time_the_newest_day_counts_and_a_revision_of_the_past_is_no_news(tmp_path):
    rows = "2018-01-01,2018-02-01,1\n2018-01-02,2018-02-01,2\n2018-01-03,2018-02-02,3\n2018-01-01,2018-02-03,9\n2018-01-04,2018-02-04,4"
    (tmp_path / "s.csv").write_text("date,published,value\n" + rows)
    scores = read_scores(tmp_path / "s.csv")
    assert [t.day for t in scores.index] == [1, 2, 4] and scores.tolist() == [2, 3, 4]
    parts = [r.split(",") for r in rows.split("\n")]
    (tmp_path / "s.csv").write_text("date,published,symbol,value\n" + "\n".join(f"{a},{b},{s},{v}" for s in ("X", "Y") for a, b, v in parts))
    assert read_scores(tmp_path / "s.csv")["Y"].tolist() == [2, 3, 4]
    (tmp_path / "s.csv").write_text("date,published,value\n2018-01-01,2018-02-01,1\n2018-01-01,2018-02-01,2")
    with pytest.raises(TradingError, match="occurs twice"):
        read_scores(tmp_path / "s.csv")


@pytest.mark.parametrize("text", ["", "date,value\n", "\n\n", "date,value\n2018-01-01,\n2018-01-02,NaN"])
def test_a_file_without_a_score_is_named(text, tmp_path):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(TradingError, match=r"s\.csv"):
        read_scores(tmp_path / "s.csv")


@pytest.mark.parametrize(("text", "said"), [
    ("date,value\n2018-01-01,50%", "line 2: '50%' is no number"), ("date,value\n2018-01-01,50\n2018-01-02,inf", "line 3: 'inf' is no number"),
    ("date,value\n2018-02-30,50", "line 2: '2018-02-30' is no time"), ("date,value\n2018,50\n2019,51", "the number 2018 is no time"),
    ("date,value\n2018-01-01,50\n2018-01-01,50", "occurs twice"), ('date,value\n2018-01-01,"1,234"', "may be 1234 or 1.234"),
    ("date,symbol,value\n2018-01-01,KO,50\n2018-01-01,,51", "line 3: the score has no symbol"),
    ("date,symbol,value\n2018-01-01,KO,50\n2018-01-01,KO,51", "a second score of KO"),
    ("date,value,value\n2018-01-01,50,51", "has two columns value"),
    ("date,value,score\n2018-01-01,50,51", "value and score, which are called alike"),
    ("date,time,value\n2018-01-01,09:00,51", "date and time, which are called alike"),
    ("date,value\n9999-12-31,5", "outside the years 1678 to 2261"),
    ("date,value\n0001-01-01,5", "outside the years 1678 to 2261"), ("date,value\n2018-01-01,1e200", r"line 2: 1e\+200 is too large for a score"),
    ("date,value\n2018-01-01,x" + "9" * 5000, r"line 2: 'x9{59}' is no number"),
])
def test_a_score_that_cannot_be_what_it_says_is_refused_with_its_line(text, said, tmp_path):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(TradingError, match=said):
        read_scores(tmp_path / "s.csv")


def test_a_column_of_one_symbol_is_not_the_score_of_the_market(tmp_path):
    bars = sample_bars("stocks").loc["2018":"2019", (slice(None), ["KO", "XOM"])]
    (tmp_path / "s.csv").write_text("date,KO,XOM\n" + "\n".join(f"{day:%Y-%m-%d},{day.day}," for day in bars.index))
    for scores in (read_scores(tmp_path / "s.csv"), read_scores(tmp_path / "s.csv", symbols=("KO", "XOM"))[["KO"]]):
        with pytest.raises(TradingError, match="there is no score for XOM"):
            SentimentFeatures(scores).transform(bars)
    (tmp_path / "s.csv").write_text("date,KO\n" + "\n".join(f"{day:%Y-%m-%d},{day.day}" for day in bars.index))
    assert isinstance(read_scores(tmp_path / "s.csv"), pd.Series) and isinstance(read_scores(tmp_path / "s.csv", symbols=("KO", "XOM")), pd.DataFrame)
