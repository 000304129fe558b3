"What a person sees when a cell of a notebook ends in one of our values: short text, a small card, nothing from another host."

import re
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter

import trading
from trading.accounting.account_book import Book
from trading.backtest.leak_detector import Leak, LeakReport
from trading.backtest.promotion import StrategyPromotion
from trading.backtest.strategies import MaCross
from trading.backtest.strategy_promotion import PromotionDecision
from trading.core.instruments import Instrument
from trading.core.types import Action, CheckResult, Plan, Position, Violation
from trading.execution.executor import Execution, OrderResult
from trading.forecast.forecast_table import ForecastTable
from trading.pipeline.run_record import Run, RunRecord, Stage

pytestmark = pytest.mark.xdist_group("lab")  # one worker: what they share is made once

NOW = datetime(2024, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    return trading.sample_bars("stocks").iloc[-300:].loc[:, (slice(None), ["AAPL", "KO"])]


@pytest.fixture(scope="module")
def run(bars):
    return trading.backtest(bars, MaCross(5, 20), register=False)


def order(symbol: str, filled: str) -> OrderResult:
    ten, price, average = Decimal(10), Decimal(100), Decimal(101)
    return OrderResult(symbol, "buy", "id", ten, ten, Decimal(filled), price, average, Decimal("1.5"), Decimal(2), "closed", "cash was <short>")


@pytest.fixture(scope="module")
def values(bars, run, tmp_path_factory) -> dict:
    returns = bars["close"].pct_change().dropna()
    policy = trading.policy("balanced", "medium")
    weights = policy.weights(returns)
    action = Action("BTC/USDT", "buy", Decimal("0.5"), Decimal(40_000), "below its target by <b>5 %</b>")
    plan = Plan("paper", NOW, "USDT", Decimal(100_000), Decimal(50_000), (action,) * 40)
    record = RunRecord("2024-03-01-x", "sample", NOW, "paper", "paper-sample", NOW, {}, "abc", (Stage("10_ingest", "failed", 1.25, "<no> network"),))
    folder = tmp_path_factory.mktemp("run")
    (folder / "run.json").write_text(record.to_json())
    index = pd.MultiIndex.from_product([["AAPL", "KO"], [1, 5]], names=["symbol", "horizon"])
    leak = Leak("a centred <window>", ("signal",), pd.Timestamp(NOW), 3, ("noise",))
    decision = PromotionDecision(False, ("too few bars",), {"trials": 12, "reality_check": 0.4, "drawdown": 0.2})
    return {
        "Backtest": run,
        "Sweep": trading.sweep(bars, MaCross, {"fast": range(3, 12), "slow": range(15, 40, 5)}, register=False, progress=False),
        "Walk-forward": trading.walk_forward(bars, lambda b: 1, lambda c, b: b["close"]["KO"].pct_change().fillna(0), 100, 50, register=False),
        "Promotion": StrategyPromotion("MaCross", {"fast": 5}, decision, {"thresholds": {"reality_check": 0.03}}, run.returns, "seal"),
        "Leak check": LeakReport((leak,), 20),
        "Policy": policy, "Weights": weights, "Policy history": trading.policy_history(bars["close"], policy, window=100),
        "Forecast": ForecastTable({"expected": 0.01, "std": 0.02, "confidence": 0.6, "lower": -0.02, "upper": 0.04}, index),
        "Plan": plan, "Risk checks": CheckResult(plan.hash, (Violation("max_turnover", "50 % where <20 %> is allowed"),), ("max_turnover",)),
        "Execution": Execution("paper", plan.hash, "paper", NOW, NOW, 0.2, (order("BTC/USDT", "10"), order("ETH/USDT", "4")), ()),
        "Account": Book("paper", "USDT", Decimal(10), {"BTC/USDT": Position("BTC/USDT", Decimal(2), Decimal(100))}, {"BTC/USDT": Decimal(200)},
                        Decimal(5), Decimal(1), Decimal(206)),
        "Instrument": Instrument("BTC/USDT", Decimal("0.00001"), Decimal("0.01"), taker_fee=Decimal("0.001"), venue="binance"),
        "Run": Run(folder), "Comparison": trading.compare(mine=run, held=returns.mean(axis=1)),
    }


def seen(value: object) -> dict[str, str]:
    return DisplayFormatter().format(value)[0]


NAMES = ("Backtest", "Sweep", "Walk-forward", "Promotion", "Leak check", "Policy", "Weights", "Policy history", "Forecast", "Plan", "Risk checks",
         "Execution", "Account", "Instrument", "Run", "Comparison")


@pytest.mark.parametrize("name", NAMES)
def test_every_value_has_a_small_themed_card_that_asks_nothing_of_other_hosts(values, name):
    page = seen(values[name])["text/html"]
    assert f"<b>{name}</b>" in page and 1_500 < len(page) < 30_000
    assert not re.search(r"https?://|<script|<link|<img|@import|url\(", page)
    assert "prefers-color-scheme:dark" in page and "data-jp-theme-light=false" in page


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"Sweep", "Weights", "Forecast"}))
def test_every_value_that_is_no_table_is_one_line_of_text(values, name):
    text = seen(values[name])["text/plain"]
    assert text.startswith(f"<{name}") and len(text) < 260 and "\n" not in text and repr(values[name]) == text


@pytest.mark.parametrize("name", ["Plan", "Risk checks", "Execution", "Leak check", "Run"])
def test_what_comes_from_data_is_escaped(values, name):
    page = seen(values[name])["text/html"]
    assert not re.search(r"<(no|window|short|20|b>5)", page) and re.search(r"&lt;(no|window|short|20|b)", page)


def test_the_figures_on_the_cards_are_those_of_the_values(values, run):
    facts = values["Backtest"]._card().facts
    assert facts["total return"] == f"{run.equity.iloc[-1] / 10_000 - 1:.1%}".replace("-", "−").replace("%", "\u00a0%")
    assert facts["trades"] == str((~run.trades["open"]).sum())
    assert "not on record" in values["Backtest"]._card().notes[-1], "whoever sees the card knows that nobody will know of the trial"
    plan = values["Plan"]._card()
    assert plan.facts["turnover"] == "800.0\u00a0%" and len(plan.rows) == 40 and "28 more rows" in values["Plan"]._repr_html_()
    assert values["Execution"]._card().state == "1 not as planned" and values["Run"]._card().state == "failed"
    weights = values["Weights"]
    assert values["Policy"]._card().facts["like equal holdings"] == f"{weights.sum() ** 2 / (weights**2).sum():.1f}"


@pytest.mark.parametrize("name", ["Sweep", "Forecast", "Weights"])
def test_tables_with_a_card_are_plain_pandas_in_every_other_respect(values, name):
    value = values[name]
    assert type(value.head(2)) in (pd.DataFrame, pd.Series) and type(value * 2) in (pd.DataFrame, pd.Series)
    assert value.equals(value.copy()) and "carnet-card" not in seen(value.head(2)).get("text/html", "")


def test_a_backtest_that_holds_nothing_or_loses_all_still_has_a_card_and_a_sheet(bars):
    nothing = trading.backtest(bars, signals=bars["close"] * 0, register=False)
    assert "<Backtest" in repr(nothing) and "Nothing was traded." in nothing.report().html
    falling = bars * 1
    falling.iloc[150:] *= 0.001
    with pytest.warns(UserWarning):
        ruined = trading.backtest(falling, weights=bars["close"].iloc[:1] * 0 + 1.2, leverage=3.0, register=False)
    assert ruined.notes and "ruined" in ruined._repr_html_() + str(ruined.notes) and ruined.report().html


def test_the_tear_sheet_is_one_file_with_the_figures_of_the_backtest(run, tmp_path):
    sheet = run.report(title="A & B")
    path = sheet.save(tmp_path / "deep" / "sheet.html")
    page = path.read_text(encoding="utf-8")
    assert "A &amp; B" in page and len(page) < 400_000 and not re.search(r"https?://|<script|<img", page)
    assert f"{run.stats['sharpe']:.2f}".replace("-", "−") in page
    assert all(part in page for part in ("Rolling Sharpe", "Deepest drawdowns", "Distribution"))
    assert 'data-tip="Mean excess return per unit of volatility' in page, "terms explain themselves"
    assert "iframe" in sheet._repr_html_() and len(repr(sheet)) < 120
    with pytest.raises(trading.TradingError, match=r"ends in \.html"):
        sheet.save(tmp_path / "sheet.pdf")


def test_the_sheet_takes_a_benchmark_of_ones_own(run, bars):
    own = bars["close"]["KO"].pct_change().fillna(0)
    assert "Rolling beta to KO" in run.report(own, "KO").html
    with pytest.raises(trading.TradingError, match="at the 300 times"):
        run.report(own.iloc[:20], "KO")


def test_a_comparison_says_whether_the_difference_is_more_than_luck(run):
    up = run.returns + 0.01
    sure = trading.compare(run, better=up)
    assert np.isclose(sure.difference.loc["better", "per_year"], 0.01 * 252, rtol=0.02) and "more than luck" in sure._repr_html_()
    rng = np.random.default_rng(1)
    noise = pd.DataFrame(rng.normal(0, 0.01, (400, 2)), pd.date_range("2020-01-01", periods=400, tz="UTC"))
    assert "no difference is shown" in trading.compare(noise[0], noise[1], names=["x", "y"])._repr_html_()
    for wrong, why in [((run,), "two results"), ((run, 3), "is a int"), ((run, run.returns.reset_index(drop=True)), "indexed by time")]:
        with pytest.raises(trading.TradingError, match=why):
            trading.compare(*wrong)


def test_pairs_that_begin_later_and_report_no_volume_are_traded():
    bars = trading.sample_bars("forex").iloc[-400:].copy()
    bars.loc[bars.index[:100], (slice(None), "EUR/USD")] = np.nan
    made = trading.backtest(bars, MaCross(5, 20), register=False)
    assert {"EUR/USD", "EUR/GBP"} <= set(made.trades["symbol"]) and "EUR/USD" in made.assumptions.loc["volume", "assumed"]


def test_the_research_notebooks_are_copied_once_and_each_has_parameters(tmp_path):
    import nbformat
    from click.testing import CliRunner

    from trading.cli.main import main

    place = tmp_path / "mine"
    done = CliRunner().invoke(main, ["lab", "--copy", str(place)])
    books = sorted(place.glob("*.ipynb"))
    assert done.exit_code == 0 and len(books) >= 12 and "notebooks in" in done.output
    for book in books[2:]:
        cells = nbformat.read(book, 4).cells
        (asked,) = [c.source for c in cells if "parameters" in c.metadata.get("tags", [])]
        assert all(word in asked for word in ("market = ", "symbols = ", "start, end = ")), book.name
        assert any(c.cell_type == "markdown" and "## What did not work" in c.source for c in cells), book.name
    again = CliRunner().invoke(main, ["lab", "--copy", str(place)])
    assert again.exit_code == 1 and "nothing was copied" in again.output


def test_plots_to_zoom_into_have_a_still_twin_and_hold_every_trade(bars, run, values, tmp_path):
    shown = seen(run.explore("KO", bars))
    figure = shown["application/vnd.plotly.v1+json"]
    marks = sum(len(t["x"]) for t in figure["data"] if t.get("mode") == "markers")
    assert "carnet-card" in shown["text/html"] and marks == (run.orders["symbol"] == "KO").sum() > 2
    assert seen(values["Sweep"].explore())["application/vnd.plotly.v1+json"]["data"][0]["type"] == "heatmap"
    page = run.explore().save(tmp_path / "plot.html").read_text(encoding="utf-8")
    assert not re.search(r"<script[^>]+src=", page), "the library is inside"
    with pytest.raises(trading.TradingError, match="was not traded"):
        run.explore("AAPLE")


FIRST_BACKTEST = """
import trading
bars = trading.read_bars_file("mine.csv", "KO")
run = trading.backtest(bars, signals=(bars["close"] > bars["close"].rolling(50).mean()).astype(int), fees=0.001, register=False)
run
run.explore(bars=bars)
"""


def test_the_first_interactive_backtest_of_ones_own_file_takes_no_more_than_ten_lines(bars, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = bars.xs("KO", axis=1, level=1)
    own.tz_convert(None).rename_axis("Date").to_csv("mine.csv")
    lines = [line for line in FIRST_BACKTEST.splitlines() if line]
    assert len(lines) <= 10
    names: dict = {}
    exec("\n".join(lines[:-2]), names)  # the two last lines are what a cell shows
    card, plot = seen(eval(lines[-2], names)), seen(eval(lines[-1], names))
    assert "Sharpe" in card["text/html"] and names["run"].trades.shape[0] > 3
    marks = sum(len(t["x"]) for t in plot["application/vnd.plotly.v1+json"]["data"] if t.get("mode") == "markers")
    assert marks == len(names["run"].orders), "every trade is there to point at"
