"""Forecasts, risk and weights in time: each symbol on its own clock, with holes, closures and several currencies."""

import numpy as np
import pandas as pd
import pytest

from trading.backtest.engine import backtest
from trading.backtest.strategies import CrossSectionalMomentum, MaCross, RsiReversion
from trading.core.bars import bars_from_close
from trading.core.calendars import check_on_calendar, expected_bars
from trading.core.carried_prices import carry_prices, closed_markets, day_returns
from trading.core.currencies import conversion_rates
from trading.core.errors import BadInput, BadSettings, MissingData
from trading.core.settings import load_settings
from trading.features.technical import rsi
from trading.forecast.forecaster import HorizonForecaster, accuracy, hold_out
from trading.forecast.labels import triple_barrier
from trading.forecast.panel import bar_volatility, default_features
from trading.forecast.targets import PurgedKFold, answer_ends, forward_returns
from trading.pipeline.target_weights import closed_now, recent_day_returns, target_weights
from trading.risk.limits import RiskLimits, check_limits
from trading.risk.metrics import value_at_risk

NONE = pd.DataFrame({"expected": []}, index=pd.MultiIndex.from_arrays([[], []], names=["symbol", "horizon"]))


def walk(index, names, seed=0, size=0.01):
    steps = np.random.default_rng(seed).normal(0, size, (len(index), len(names)))
    return pd.DataFrame(100 * np.exp(np.cumsum(steps, axis=0)), index, list(names))


@pytest.fixture(scope="module")
def sparse():
    "Three coins on 5-minute bars: one trades in 12 % of them, and for two days nobody traded at all."
    clock = pd.date_range("2024-01-01", periods=288 * 25, freq="5min", tz="UTC")
    close = walk(clock, ("BTC", "ETH", "LTC"), size=0.001)
    rng = np.random.default_rng(1)
    close["ETH"] = close["ETH"].where(rng.random(len(clock)) < 0.6)
    close["LTC"] = close["LTC"].where(rng.random(len(clock)) < 0.12)
    return close.drop(clock[288 * 10 : 288 * 12])


@pytest.mark.parametrize("horizon, span", [("5m", "5min"), ("1h", "1h"), ("4h", "4h"), ("24h", "24h"), (12, "1h"), (288, "24h")])
def test_an_answer_is_the_price_known_at_the_horizon_or_missing(sparse, horizon, span):
    found, span = forward_returns(sparse, [horizon], "5m")[horizon], pd.Timedelta(span)
    for symbol, price in sparse.items():
        own, some = price.dropna(), 0
        for t, answer in found[symbol].dropna().iloc[::97].items():
            past = own[own.index <= t + span]
            assert np.exp(answer) == pytest.approx(past.iloc[-1] / price[t]) and past.index[-1] > t and t + span - past.index[-1] <= span / 10
            some += 1
        assert some > 0 and found[symbol][price.isna()].isna().all() and found[symbol][sparse.index + span > sparse.index[-1]].isna().all()


def test_the_row_of_four_horizons_works_on_coins_that_trade_rarely(sparse):
    bars = bars_from_close(sparse)
    model = HorizonForecaster(horizons=["5m", "1h", "4h", "24h"], timeframe="5m").fit(bars)
    now = model.predict(bars, missing="leave out")
    assert set(now.index.unique("horizon")) == {"5m", "1h", "4h", "24h"} and "BTC" in now.index.unique("symbol")
    held = hold_out(HorizonForecaster(horizons=["1h"], timeframe="5m"), bars, n_splits=2)
    judged = accuracy(held, "5m").loc["1h"]
    assert abs(judged["coverage_90"] - 0.9) < 0.05 and set(held.index.unique("symbol")) == {"BTC", "ETH", "LTC"}


def test_no_answer_is_learnt_that_was_not_known(sparse):
    price, known = answer_ends(sparse, "24h", "5m")
    there = price >= 0
    at = np.broadcast_to(np.arange(len(sparse))[:, None], price.shape)
    assert (known[there] >= price[there]).all() and (known[there] > at[there]).all()
    assert (sparse.index[known[there]] - sparse.index[at[there]] >= pd.Timedelta("24h")).all()


def test_a_currency_beside_a_coin_counts_its_own_days():
    days = pd.date_range("2023-01-02", periods=500, freq="D", tz="UTC")
    both = walk(days, ("BTC", "EUR"))
    alone = both["EUR"] = both["EUR"].where(days.day_of_week < 5)
    for k in (1, 5, 20):
        found, own = forward_returns(both, [k])[k], alone.dropna()
        assert np.allclose(found["EUR"].dropna(), np.log(own.shift(-k) / own).dropna()) and np.allclose(
            found["BTC"].iloc[:-k], np.log(both["BTC"].shift(-k) / both["BTC"]).dropna())
    assert np.allclose(bar_volatility(both)["EUR"].dropna(), bar_volatility(alone.dropna().to_frame())["EUR"].dropna())
    features, single = default_features(both), default_features(alone.dropna().to_frame())
    assert np.allclose(features.xs("EUR", axis=1, level=1).reindex(single.index).to_numpy(), single.to_numpy(), equal_nan=True)
    labels = triple_barrier(both, bar_volatility(both), 5)
    lone = triple_barrier(alone.dropna().to_frame(), bar_volatility(alone.dropna().to_frame()), 5)
    assert labels.xs("EUR", level="symbol").equals(lone.xs("EUR", level="symbol")) and labels.index.is_monotonic_increasing


def test_purge_and_embargo_in_time():
    days = pd.date_range("2024-01-01", periods=200, freq="D", tz="UTC").delete(np.arange(60, 90))
    rows = pd.DataFrame({"x": 0.0}, days)
    for train, test in PurgedKFold(4, pd.Timedelta(days=5), pd.Timedelta(days=3)).split(rows):
        before, after = days[train[train < test[0]]], days[train[train > test[-1]]]
        assert not len(before) or days[test[0]] - before[-1] > pd.Timedelta(days=5)
        assert not len(after) or after[0] - days[test[-1]] > pd.Timedelta(days=8)
    with pytest.raises(BadInput, match="no negative distance"):
        PurgedKFold(4, pd.Timedelta(days=-1))


def test_an_hourly_profile_keeps_its_ceiling_and_its_day():
    hours = pd.date_range("2024-01-01", periods=24 * 120, freq="h", tz="UTC")
    close = walk(hours, ("A/USD", "B/USD", "C/USD", "D/USD", "E/USD"), size=0.007)
    settings = load_settings(None, {"market.symbols": ", ".join(close), "market.timeframe": "1h", "allocate.window": "504",
                                    "allocate.risk_level": "high", "limits.max_weight": "1", "limits.max_group_weight": "1"}, environ={})
    table, policy = target_weights(settings, close, NONE, None)
    real = (close.pct_change().iloc[-504:] @ table["target"]).std() * 8766**0.5
    assert 0.15 < real < 0.185 and policy.level.volatility == 0.18  # not 63 %
    weights = pd.Series(0.2, close.columns)
    days = recent_day_returns(settings, close)
    row = check_limits(RiskLimits(max_var_95=0.05), weights, returns=days).loc["max_var_95"]
    by_hand = -(close.groupby(close.index.floor("D")).last().pct_change().dropna() @ weights).quantile(0.05)
    assert row["actual"] == pytest.approx(by_hand) and row["where"] == "119 returns"
    hourly = close.pct_change().dropna()
    again = check_limits(RiskLimits(max_var_95=0.05), weights, returns=hourly).loc["max_var_95"]
    assert again["actual"] == pytest.approx(by_hand, rel=0.1) and again["where"] == "120 days"
    assert again["actual"] > 3 * value_at_risk(hourly @ weights)
    tested = backtest(bars_from_close(close[["A/USD"]]), signals=pd.Series(1, hours), fees=0.0)
    assert tested.stats["var_95"] == pytest.approx(value_at_risk(day_returns(tested.returns)))
    assert tested.stats["annual_return"] == pytest.approx((tested.equity.iloc[-1] / 1e4) ** (8766 / (len(hours) - 1)) - 1)


def test_coins_shares_and_currencies_live_in_one_profile():
    days = pd.date_range("2023-01-01", "2024-01-06", freq="D", tz="UTC")  # ends on a Saturday
    close = walk(days, ("BTC/USD", "EUR/USD", "AAPL"))
    close["EUR/USD"] = close["EUR/USD"].where(days.day_of_week != 5)
    shares = expected_bars("XNYS", "1d", days[0], days[-1])
    close["AAPL"] = close["AAPL"].where(days.isin(shares))
    settings = load_settings(None, {"market.symbols": ", ".join(close), "allocate.window": "200", "limits.max_weight": "1"}, environ={})
    table, _ = target_weights(settings, close, NONE, None)
    assert (table["target"] > 0).all(), table
    closed = closed_now(settings, close)
    assert list(closed) == ["EUR/USD", "AAPL"] and "24 hours before" in closed["AAPL"] and "2024-01-08 14:30" in closed["AAPL"]
    assert "2024-01-07 22:00" in closed["EUR/USD"]
    prices, shut = carry_prices(close, {"BTC/USD": "24/7", "EUR/USD": "forex", "AAPL": "XNYS"}, "1d", pd.Timedelta(0))
    assert prices.iloc[5:].notna().all(axis=None) and shut["AAPL"].sum() > 100 and not shut["BTC/USD"].any()
    late = close.copy()
    late.iloc[-4:, 2] = np.nan  # two sessions without a bar: late, not closed
    assert list(closed_markets(late, {"BTC/USD": "24/7", "EUR/USD": "forex", "AAPL": "XNYS"}, "1d")) == ["EUR/USD"]
    with pytest.raises(BadInput, match=r"BTC/USD: .* lie outside its calendar XNYS, the first at .*; they keep 24/7"):
        check_on_calendar(days, "XNYS", "1d", "BTC/USD")


def test_a_plan_leaves_a_closed_market_alone():
    from datetime import UTC, datetime
    from decimal import Decimal as D

    from trading.core.instruments import Instrument
    from trading.execution.plan import PlanConstraints, make_plan

    prices, markets = {"BTC/USD": D(100), "EUR/USD": D(2)}, {s: Instrument(s, D("0.01"), D("0.01")) for s in ("BTC/USD", "EUR/USD")}
    rules, targets = PlanConstraints(fee_rate=D(0), min_trade=D(1)), {"BTC/USD": 0.5, "EUR/USD": 0.0}
    plan = make_plan("a", datetime(2024, 1, 6, tzinfo=UTC), {"EUR/USD": D(100)}, D(800), targets, prices, markets, rules, "USD",
                     closed={"EUR/USD": "EUR/USD: its market is closed"})
    assert [a.symbol for a in plan.actions] == ["BTC/USD"] and plan.equity == 1000 and "EUR/USD: its market is closed" in plan.notes
    assert plan.actions[0].value == 500


def test_horizons_of_the_settings_may_be_times():
    def horizons(text, timeframe="5m"):
        return load_settings(None, {"market.timeframe": timeframe, "forecast.horizons": text}, environ={}).forecast.horizons

    assert horizons("5m, 1h, 4h, 24h") == (1, 12, 48, 288) and horizons("1, 5, 20") == (1, 5, 20) and horizons("4h, 1d", "1h") == (4, 24)
    with pytest.raises(BadSettings, match="1h is 0.25 bars of 4h"):
        horizons("1h", "4h")


def test_a_dollar_account_counts_dollars():
    from trading.core.datasets import sample_bars

    ecb = sample_bars("fx")["close"].loc["1999":"2019"]
    pairs = pd.DataFrame({"USD/JPY": ecb["EUR/JPY"] / ecb["EUR/USD"], "EUR/GBP": ecb["EUR/GBP"], "EUR/USD": ecb["EUR/USD"]}).dropna()
    one = pairs[["USD/JPY"]].loc["2012":"2015-06"]
    told = {c: backtest(bars_from_close(one), signals=pd.Series(1, one.index), fees=0.0, currency=c) for c in ("USD", "JPY", "")}
    first, last = one["USD/JPY"].iloc[1], one["USD/JPY"].iloc[-1]  # bought at the close after the decision
    assert told["JPY"].stats["total_return"] == pytest.approx(last / first - 1) == told[""].stats["total_return"]
    assert told["USD"].stats["total_return"] == pytest.approx(1 - first / last)
    assert told["USD"].orders[["amount", "cost"]].iloc[0].tolist() == pytest.approx([10_000, 10_000])
    weights = pd.DataFrame([[0.5, 0.5, 0.0]], one.index[:1], list(pairs))
    both = backtest(bars_from_close(pairs.loc[one.index[0] : one.index[-1]]), weights=weights, fees=0.0, currency="USD")
    cross, euro = pairs["EUR/GBP"].loc[one.index], pairs["EUR/USD"].loc[one.index]
    pound = ecb["EUR/USD"] / ecb["EUR/GBP"]  # known a day later, as the ECB tells it
    known = pound.set_axis(pound.index + pd.Timedelta(days=1)).reindex(one.index, method="ffill")
    units = 5000 / (cross.iloc[1] * known.iloc[1])
    by_hand = 10_000 + 5000 * (1 - first / last) + units * (cross.iloc[-1] - cross.iloc[1]) * known.iloc[-1]
    assert both.equity.iloc[-1] == pytest.approx(by_hand, rel=1e-9)
    assert euro.notna().all()
    with pytest.raises(MissingData, match="no rate from JPY to XXX among the ECB's reference rates"):
        backtest(bars_from_close(one), signals=pd.Series(1, one.index), currency="XXX")


def test_an_account_in_euros_trades_many_times_and_loses_fees_in_euros():
    days = pd.date_range("2024-01-01", periods=200, tz="UTC")
    pair = walk(days, ["GBP/USD"], seed=4)
    rates = pd.DataFrame({"EUR/USD": np.linspace(1.0, 1.2, 200)}, days)
    tested = backtest(bars_from_close(pair), MaCross(3, 9), fees=0.001, currency="EUR", rates=rates)
    rate, equity = 1 / rates["EUR/USD"], 10_000.0
    for trade in backtest(bars_from_close(pair), MaCross(3, 9), fees=0.001).trades.itertuples():
        if trade.open:
            continue
        units = equity / 1.001 / (trade.entry_price * rate[trade.entry])
        paid = 0.001 * units * (trade.entry_price * rate[trade.entry] + trade.exit_price * rate[trade.exit])
        equity += units * (trade.exit_price - trade.entry_price) * rate[trade.exit] - paid
    assert not tested.trades["open"].any() or tested.units.iloc[-1, 0] != 0
    assert tested.cash.iloc[-1] + 0.001 * 0 == pytest.approx(equity, rel=1e-3 if tested.trades["open"].any() else 1e-9)
    with pytest.raises(MissingData, match="no rate for USD in EUR"):
        conversion_rates(["USD"], "EUR", days - pd.Timedelta(days=30), rates)


def test_a_halt_has_no_strength_and_is_not_bought():
    days = pd.date_range("2022-01-01", periods=600, tz="UTC")
    close = walk(days, ("A", "B", "C"), seed=2)
    close.iloc[300:, 0] = close.iloc[299, 0]  # trading in A is halted
    close["C"] = 50.0  # and C never moves
    assert rsi(close["A"]).iloc[320:].isna().all() and rsi(close["C"]).isna().all()
    bars = bars_from_close(close)
    held = RsiReversion().signals(bars)
    assert (held["C"] == 0).all() and (held["A"].iloc[320:].diff().fillna(0) <= 0).all()
    rows = CrossSectionalMomentum(lookback=100, skip=10, top=0.3).weights(bars)
    assert (rows["C"] == 0).all() and (rows.loc[days[320] :, "A"] == 0).all() and rows["B"].sum() > 0
    settings = load_settings(None, {"market.symbols": "A, B, C", "allocate.window": "200"}, environ={})
    table, _ = target_weights(settings, close, NONE, None)
    assert table.loc[["A", "C"], "target"].tolist() == [0, 0] and table.loc["C", "reason"] == "left out: its price has not moved in the window"
