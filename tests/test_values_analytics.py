"What the analytics queries answer, number by number, for artefacts and marks written by hand."

import math
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from five_marks import ACCOUNT, five_marks

from trading.accounting.ledger import Ledger
from trading.core.bars import bars_from_close
from trading.core.errors import BadInput, MissingData
from trading.core.settings import load_settings
from trading.pipeline.factory import policy_of
from trading.services import queries_analytics as q

AS_OF = datetime(2024, 1, 6, tzinfo=UTC)
DAYS = pd.date_range("2023-01-01", periods=101, tz="UTC")
MOVES = np.resize([0.02, -0.01, 0.03, -0.02], 100)
CLOSE = pd.DataFrame({"AAPL": 100 * np.cumprod(np.r_[1, 1 + MOVES]), "AMD": 100 * np.cumprod(np.r_[1, 1 - MOVES / 2]), "KO": 50.0}, DAYS)


class Answers:
    "The seams of the module, filled by hand."

    def __init__(self, monkeypatch):
        self.settings = load_settings(None, {"allocate.window": 80})
        self.record = SimpleNamespace(id="r1", as_of=AS_OF, settings=self.settings.model_dump(mode="json"), model_versions={"forecast": "m1"},
                                      artefacts={}, data_version="v1")
        self.artefacts, self.asked, self.bars, self.equity = {}, [], bars_from_close(CLOSE), None
        monkeypatch.setattr(q, "newest_run", self.newest)
        monkeypatch.setattr(q, "artefact", lambda place, record, name: self.named(name))
        monkeypatch.setattr(q, "run_bars", lambda place, record: self.bars)
        monkeypatch.setattr(q, "_account_closes", lambda place, name, version: self.bars["close"])
        monkeypatch.setattr(q, "current_settings", lambda place, profile=None: self.settings)
        monkeypatch.setattr(q, "ledger_for_reading", lambda place: SimpleNamespace(equity_history=self.history, accounts=lambda: ["paper-sample"]))
        monkeypatch.setattr(q, "account_history", lambda settings, ledger, account, now: ledger.equity_history(account))  # nothing was stored since

    def newest(self, place, profile, name, dry_runs=False):
        self.asked.append((profile, name, dry_runs))
        self.named(name) if name != "quality" else None
        return self.record

    def named(self, name):
        if name not in self.artefacts:
            raise MissingData(f"no {name}")
        return self.artefacts[name]

    def history(self, account):
        assert account == "paper-sample"
        return self.equity

    def ask(self, query, *args, **named):
        return getattr(q, query).__wrapped__(SimpleNamespace(data=None), *args, **named)


@pytest.fixture
def made(monkeypatch):
    return Answers(monkeypatch)


def figures(r, periods):
    "Work the ratios out anew."
    value = np.cumprod(np.r_[1, 1 + r])
    fall = (value / np.maximum.accumulate(value) - 1).min()
    worst, count = np.sort(r), 0.05 * len(r)
    part = np.clip(count - np.arange(len(r)), 0, 1)
    annual = value[-1] ** (periods / len(r)) - 1
    return {"annual_return": annual, "volatility": r.std(ddof=1) * math.sqrt(periods), "sharpe": r.mean() / r.std(ddof=1) * math.sqrt(periods),
            "sortino": r.mean() * math.sqrt(periods) / math.sqrt((np.minimum(r, 0) ** 2).mean()), "calmar": annual / -fall,
            "omega": np.maximum(r, 0).sum() / -np.minimum(r, 0).sum(), "max_drawdown": fall, "var_95": -np.quantile(r, 0.05),
            "cvar_95": -(part @ worst) / count, "returns": len(r), "periods": periods}


def test_the_account_of_five_marks(made, tmp_path):
    made.equity = five_marks(Ledger(tmp_path / "ledger.sqlite")).equity_history(ACCOUNT)
    answer = made.ask("performance")
    own = answer["account"]
    moves = (48 / 10500, 249.4 / (10548 + 1000 * 9 / 24), -560.78 / (11797.4 - 2000 * 5 / 24), 12.625 / 9236.62)  # each flow for its part of the day
    units = np.cumprod([1, *(1 + m for m in moves)])
    assert own["return"] == pytest.approx(units[-1] - 1) and own["drawdown"] == pytest.approx(1 - units[-1] / units[2])
    paid = [(0, 10500), (2, 1000), (3, -2000)]  # days after the first mark; the flows count at the marks that hold them
    assert sum(f * (1 + own["money_weighted"]) ** ((4 - d) / 365) for d, f in paid) == pytest.approx(9249.245)
    assert (own["from"], own["to"]) == ("2024-01-01T18:00:00+00:00", "2024-01-05T18:00:00+00:00") and answer["currency"] == "USD"
    assert any("4 returns are too few for ratios, at least 30 are needed" in str(v) for v in own.values()) and "sharpe" not in own
    assert "no backtest" in str(answer["backtest"])
    past = made.ask("history")
    assert (past["kind"], past["run"], past["values"], len(past["items"])) == ("account", None, 5, 5)
    assert [i["equity"] for i in past["items"]] == pytest.approx([10500, 10548, 11797.4, 9236.62, 9249.245])
    assert [i["drawdown"] for i in past["items"]] == pytest.approx([0, 0, 0, 1 - units[3] / units[2], 1 - units[4] / units[2]])
    assert past["items"][0]["timestamp"].startswith("2024-01-01T18:00:00")
    assert [i["equity"] for i in made.ask("history", points=3)["items"]] == pytest.approx([10500, 11797.4, 9249.245])
    assert [i["equity"] for i in made.ask("history", points=2)["items"]] == pytest.approx([10500, 9249.245])


def test_an_account_without_marks_and_a_question_that_is_unknown(made):
    made.equity = pd.DataFrame({"equity": [], "unit": []})
    assert "the account has no value yet" in str(made.ask("performance")["account"]) and made.ask("history")["items"] == []
    assert made.ask("history", kind="backtest")["run"] is None
    with pytest.raises(BadInput, match="there is no history of 'orders'; ask for account or backtest"):
        made.ask("history", kind="orders")


@pytest.mark.parametrize("count", [30, 91, 120])
def test_the_ratios_of_an_account_and_of_a_backtest(made, count):
    known = lambda x: figures(x, 365.25) | ({"annual_return": None} if count < 0.25 * 365.25 else {})  # noqa: E731  a quarter of a year at least
    r = np.resize([0.02, -0.01, 0.015, -0.02, 0.01], count)
    index = pd.date_range("2023-01-01", periods=count + 1, tz="UTC")
    made.equity = pd.DataFrame({"equity": 1.0, "flow": 0.0, "unit": 1000 * np.cumprod(np.r_[1, 1 + r])}, index)
    own = made.ask("performance")["account"]
    apart = ("from", "to", "return", "drawdown", "money_weighted", "benchmark")
    assert {k: v for k, v in own.items() if k not in apart} == pytest.approx(known(r))
    made.equity = made.equity.iloc[:30]
    assert "sharpe" not in made.ask("performance")["account"]  # 29 returns
    b = np.resize([0.01, -0.02, 0.01, 0.005], count)
    made.artefacts["backtest"] = pd.DataFrame({"equity": np.cumprod(np.r_[1, 1 + r]), "benchmark": np.cumprod(np.r_[1, 1 + b])}, index)
    found = made.ask("performance")["backtest"]
    assert (found["run"], found["note"], found["from"]) == ("r1", "without forecasts, after costs", "2023-01-01T00:00:00+00:00")
    assert found["to"] == index[-1].isoformat() and found["return"] == pytest.approx(np.prod(1 + r) - 1)
    assert found["benchmark"] == pytest.approx(known(b))
    beta = np.cov(r, b)[0, 1] / b.var(ddof=1)
    assert found["policy"] == pytest.approx({**known(r), "beta": beta, "alpha": (1 + (r - beta * b).mean()) ** 365.25 - 1})
    value = np.cumprod(np.r_[1, 1 + r])
    assert found["drawdowns"][0]["depth"] == pytest.approx((value / np.maximum.accumulate(value) - 1).min(),
                                                           abs=1e-11) and made.asked[-1] == ("sample", "backtest", True)
    past = made.ask("history", kind="backtest")
    assert past["run"] == "r1" and past["values"] == count + 1 and min(-i["drawdown"] for i in past["items"]) == pytest.approx(figures(r,
        252)["max_drawdown"])


def holding(made, **weights):
    made.artefacts["holdings_after"] = pd.DataFrame({"weight": {**weights, "cash": 1 - sum(weights.values())}}).rename_axis("symbol")
    made.artefacts["equity"] = pd.DataFrame({"equity": [1000.0, 900.0, 950.0], "unit": [1.0, 0.9, 0.95]},
                                               pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-03"], utc=True))
    made.artefacts["plan"] = {"equity": "950", "actions": [{"amount": "2", "price": "100"}, {"amount": "0.5", "price": "80"}]}


def test_the_risk_of_two_holdings(made):
    holding(made, AAPL=0.5, AMD=0.25, KO=0.0)
    answer = made.ask("risk")
    r = 0.5 * MOVES[-80:] - 0.125 * MOVES[-80:]
    m, f = answer["metrics"], figures(r, 365.25)
    assert {k: m[k] for k in ("var_95", "cvar_95", "volatility", "max_drawdown")} == pytest.approx({k: f[k] for k in ("var_95", "cvar_95",
        "volatility", "max_drawdown")})
    assert m["var_99"] == pytest.approx(-np.quantile(r, 0.01)) and m["cvar_99"] == pytest.approx(-r.min()) and answer["bars"] == 80
    assert answer["exposure"] == pytest.approx(0.75) and (answer["run"], answer["as_of"]) == ("r1", AS_OF.isoformat()) and made.asked[-1] == (None,
        "holdings_after", False)
    limits = {row["rule"]: row for row in answer["limits"]}
    assert limits["max_turnover"]["actual"] == pytest.approx(240 / 950) and limits["max_drawdown"]["actual"] == pytest.approx(0.05)
    assert limits["max_weight"]["actual"] == 0.5 and limits["max_weight"]["ok"] is False
    assert limits["max_group_weight"]["actual"] == 0.75  # both are technology
    assert limits["max_daily_loss"]["actual"] == 0 and limits["max_var_95"]["actual"] == pytest.approx(f["var_95"])
    parts = {row["symbol"]: row for row in answer["contributions"]}
    s = MOVES[-80:].std(ddof=1)  # AMD moves by half of AAPL the other way
    assert parts["AAPL"]["contribution"] == pytest.approx(0.5 * s) and parts["AMD"]["contribution"] == pytest.approx(-0.125 * s)
    assert parts["AAPL"]["share"] == pytest.approx(4 / 3) and "KO" not in parts


def test_tails_that_differ_are_not_mixed_up(made):
    holding(made, AAPL=1.0)
    steps = np.r_[np.full(76, 0.01), -0.02, -0.03, -0.05, -0.4]
    made.bars = bars_from_close(pd.DataFrame({"AAPL": np.cumprod(np.r_[1, 1 + steps])}, pd.date_range("2023-01-01", periods=81, tz="UTC")))
    m = made.ask("risk")["metrics"]
    assert m["cvar_95"] == pytest.approx(0.125) and m["cvar_99"] == pytest.approx(0.4) and m["var_95"] == pytest.approx(-0.0085)
    assert m["var_99"] == pytest.approx(0.1235)
    assert m["max_drawdown"] == pytest.approx(0.98 * 0.97 * 0.95 * 0.6 - 1)


def test_nothing_held_has_no_risk_and_nothing_known_is_said(made):
    holding(made)
    answer = made.ask("risk")
    assert (answer["metrics"], answer["contributions"], answer["exposure"]) == ({}, [],
        0.0) and {r["rule"]: r["actual"] for r in answer["limits"]}["max_weight"] == 0
    made.artefacts.clear()
    for query, empty in (("risk", "limits"), ("stress_results", "items"), ("attribution", "items"), ("predictions", "items")):
        found = made.ask(query)
        assert found["run"] is None and found[empty] == [] and "no " in str(found)


def test_stress_of_what_is_held(made):
    holding(made, AAPL=0.5, KO=0.25)
    items = {i["scenario"]: i for i in made.ask("stress_results")["items"]}
    assert items["2008"]["loss"] == pytest.approx(0.75 * 0.40) and items["covid-2020"]["loss"] == pytest.approx(0.75 * 0.34)
    assert items["2008"]["source"].startswith("S&P 500 closes 1251.70") and items["ftx-2022"]["loss"] is None and items["ftx-2022"]["unknown"] == 0.75


def test_the_attribution_of_sixty_three_bars(made):
    holding(made, AAPL=0.6, KO=0.2)
    answer = made.ask("attribution")
    own, theirs = 0.6 * MOVES[-63:], (MOVES[-63:] - MOVES[-63:] / 2) / 3
    assert answer["bars"] == 63 and answer["total"] == pytest.approx(np.prod(1 + own) - np.prod(1 + theirs))
    groups = {i["group"]: i for i in answer["items"]}
    assert groups["Technology"]["weight"] == pytest.approx(0.6) and groups["Technology"]["benchmark"] == pytest.approx(2 / 3)
    assert groups["cash"]["weight"] == pytest.approx(0.2) and sum(i["total"] for i in answer["items"]) == pytest.approx(answer["total"])
    made.bars.iloc[-5, 0] = np.nan
    assert "AAPL has no returns for every one of the last 63 bars" in str(made.ask("attribution"))
    made.bars.iloc[:20, 0] = made.bars.iloc[-5, 0]
    assert made.ask("attribution")["items"] == []


def test_correlations_are_over_the_window(made):
    made.bars = bars_from_close(CLOSE[["AAPL", "AMD"]].assign(KO=CLOSE["AAPL"].where(DAYS[20] <= DAYS, 1 / CLOSE["AAPL"])))
    answer = made.ask("return_correlation")
    assert answer["symbols"] == ["AAPL", "AMD", "KO"] and np.array(answer["matrix"]) == pytest.approx(np.array([[1, -1, 1], [-1, 1, -1], [1, -1, 1]]))
    made.bars = bars_from_close(CLOSE)
    assert made.ask("return_correlation")["matrix"][2][0] is None and made.asked[-1] == (None, "quality", True)


def test_plain_numbers():
    assert [q.plain_number(v) for v in (1, np.float64(2.5), None, math.nan, math.inf, -math.inf, 0)] == [1.0, 2.5, None, None, None, None, 0.0]


def test_forecasts_are_found_by_horizon_and_symbol(made):
    index = pd.MultiIndex.from_product([["AAPL", "KO"], [5, 20]], names=["symbol", "horizon"])
    made.artefacts["forecast"] = pd.DataFrame({"expected": [0.01, 0.04, -0.02, -0.03], "confidence": [0.1, 0.2, 0.3, 0.4]}, index)
    answer = made.ask("predictions")
    assert [(i["symbol"], i["horizon"], i["expected"], i["reason"]) for i in answer["items"]] == [
        ("AAPL", 5, 0.01, None), ("AAPL", 20, 0.04, None), ("KO", 5, -0.02, None), ("KO", 20, -0.03, None)]
    assert (answer["horizons"], answer["accuracy"], answer["models"], answer["timeframe"]) == ([5, 20], [], {"forecast": "m1"}, "1d")
    assert answer["coverage"] == made.settings.forecast.coverage and answer["as_of"] == AS_OF.isoformat() and made.asked == [(None, "forecast", True)]
    made.artefacts["weights"] = pd.DataFrame({"reason": {"AAPL": "because"}})
    made.artefacts["accuracy"] = pd.DataFrame({"hit": [0.5]}, pd.Index([5], name="horizon"))
    assert [(i["horizon"], i["reason"]) for i in made.ask("predictions", symbol="AAPL")["items"]] == [(5, "because"), (20, "because")]
    assert [i["confidence"] for i in made.ask("predictions", horizon=20)["items"]] == [0.2,
        0.4] and made.ask("predictions")["accuracy"] == [{"horizon": 5, "hit": 0.5}]
    assert [i["expected"] for i in made.ask("predictions", horizon=5, symbol="KO")["items"]] == [-0.02]
    for how, says in (({"horizon": 6}, "6 bars ahead; the horizons of run r1 are 5, 20"),
                      ({"symbol": "XX"}, "nothing was forecast for 'XX' in run r1")):
        with pytest.raises(MissingData, match=says):
            made.ask("predictions", **how)


def test_the_weights_that_a_policy_would_choose(made):
    index = pd.MultiIndex.from_product([["AAPL"], [policy_of(made.settings).horizon]], names=["symbol", "horizon"])
    made.artefacts["forecast"] = made.artefacts["views"] = pd.DataFrame({"expected": np.nan, "confidence": np.nan}, index)
    rng = np.random.default_rng(0)
    close = pd.DataFrame(100 * np.exp(rng.normal(0, 0.01, (101, 3)).cumsum(axis=0)), DAYS, ["AAPL", "AMD", "XOM"]).assign(KO=np.nan)
    made.bars = bars_from_close(close)
    answer = made.ask("optimise", policy="aggressive", risk_level="very high")
    assert (answer["policy"], answer["risk_level"]) == ("aggressive", "very high")
    assert [i["symbol"] for i in answer["items"]] == ["AAPL", "AMD", "XOM", "KO"]
    assert answer["items"][3] == {"symbol": "KO", "weight": 0.0, "reason": "left out: prices are missing in the window",
                                   "parts": {"policy": 0.0}}
    assert answer["cash"] == pytest.approx(1 - sum(i["weight"] for i in answer["items"])) and all(i["reason"] for i in answer["items"])
    low = made.ask("optimise", policy="aggressive", risk_level="very low")
    assert low["cash"] > 0.6 and max(i["weight"] for i in low["items"]) <= 0.1 + 1e-9 and made.ask("optimise")["policy"] == "balanced"
    with pytest.raises(BadInput, match="the risk level 'wild' is unknown; choose one of very low, low"):
        made.ask("optimise", risk_level="wild")


def test_regimes_and_opportunities_pass_on_what_was_found(made, monkeypatch):
    from trading.features import regime, screener

    chance = pd.DataFrame({"bull": [0.9, 0.2, 0.3], "bear": [0.1, 0.8, 0.7]}, DAYS[:3])

    class Detector:
        def fit(self, bars):
            assert bars is not None and len(bars) <= 2600
            return self

        def predict_proba(self, bars):
            return chance

        def predict_trend(self, bars):
            return pd.DataFrame({"trend": [0.1, 0.2, -0.3]})

    monkeypatch.setattr(regime, "RegimeDetector", Detector)
    answer = made.ask("regimes", bars=2)
    assert (answer["regime"], answer["trend"], answer["probabilities"]) == ("bear", -0.3, {"bull": 0.3, "bear": 0.7})
    assert [(h["bull"], h["bear"]) for h in answer["history"]] == [(0.2, 0.8), (0.3, 0.7)] and len(made.ask("regimes")["history"]) == 3
    table = pd.DataFrame({"score": [3.0, 2.0, 1.0]}, ["C", "A", "B"])
    monkeypatch.setattr(screener, "screen", lambda bars, timeframe: SimpleNamespace(table=table, left_out={"D": timeframe}))
    found = made.ask("opportunities", count=2)
    assert found["items"] == [{"symbol": "C", "score": 3.0}, {"symbol": "A", "score": 2.0}] and found["left_out"] == {"D": "1d"}
    assert len(made.ask("opportunities")["items"]) == 3
