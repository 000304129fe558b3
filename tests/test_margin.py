"Short and borrowed positions: the paper exchange and the backtest's account are one model, and a profile with a long-short policy trades, pays, closes and is refused."

from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

import numpy as np
import pandas as pd
import pytest

from trading.backtest.engine import backtest
from trading.core.instruments import Instrument
from trading.core.margin import MarginTerms
from trading.core.types import Order
from trading.venues.paper.costs import TradingCosts
from trading.venues.paper.margin_exchange import MarginVenue
from trading.venues.paper.matching import BarFeed

FINE = D("1e-9")


def market(seed, count=70, swing=0.04):
    "Three symbols with gaps over night; every row has all of them."
    dice, days = np.random.default_rng(seed), pd.date_range("2024-01-01", periods=count, tz="UTC")
    close = pd.DataFrame(100 * np.exp(np.cumsum(dice.normal(0, swing, (count, 3)), 0)), days, list("ABC"))
    begin = close.shift().fillna(100) * np.exp(dice.normal(0, swing / 4, (count, 3)))
    top, floor = np.maximum(begin, close) * (1 + swing / 4), np.minimum(begin, close) * (1 - swing / 4)
    return pd.concat({"open": begin, "high": top, "low": floor, "close": close}, axis=1).round(6)


def wishes(bars, seed, gross, every=8):
    dice = np.random.default_rng(seed)
    rows = pd.DataFrame(dice.normal(0, 1, (len(bars) // every, 3)), bars.index[::every][: len(bars) // every], list("ABC"))
    return rows.div(rows.abs().sum(axis=1), axis=0) * gross


def replayed(bars, orders, terms, cash, fee="0.001", slippage_bp="5"):
    "Send the orders of a backtest to the paper exchange, each at the close before it was filled; return its value at each close, its fills and itself."
    now = [bars.index[0].to_pydatetime()]
    markets = {s: Instrument(s, D("1e-12"), D("1e-12"), kind="perpetual" if s == "B" else "spot") for s in "ABC"}
    paper = MarginVenue(BarFeed(bars), lambda: now[0], markets, TradingCosts(D(fee), D(0), D(slippage_bp)), {"USD": D(cash)}, "USD", terms=terms)
    value, ours = [], orders[~orders["reason"].isin(["liquidation"])]
    for n, when in enumerate(bars.index):
        now[0] = (when + pd.Timedelta(days=1)).to_pydatetime()
        held = paper.fetch_balance()
        value.append(float(held.pop("USD", 0)) + sum(float(u) * bars["close"][s].iloc[n] for s, u in held.items()))
        if n + 1 < len(bars):
            due = list(ours[ours["timestamp"] == bars.index[n + 1]].itertuples())
            for k, row in sorted(enumerate(due), key=lambda o: float(held.get(o[1].symbol, 0)) * (1 if o[1].side == "buy" else -1) >= 0):  # what closes comes first
                state = paper.create_order(Order(f"{n}-{k}", row.symbol, row.side, D(repr(float(row.amount))).quantize(D("1e-12"))))
                assert state.status == "closed", state
    return pd.Series(value, bars.index), paper


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_paper_and_backtest_agree_on_costs_of_holding_and_on_every_close(seed):
    bars = market(seed, swing=0.01)
    funded = pd.DataFrame(0.0003, bars.index, ["B"])  # a payment at each midnight
    weights, costs = wishes(bars, seed, 1.3), {"fees": 0.001, "slippage": 0.0005, "cash": 10_000, "leverage": 2}
    done = backtest(bars, weights=weights, borrow=0.05, interest=0.03, swap_long=0.02, swap_short=-0.01, funding=funded, **costs)
    terms = MarginTerms(leverage=D(2), borrow=D("0.05"), interest=D("0.03"), swap_long=D("0.02"), swap_short=D("-0.01"), funding=D("0.0003"), funding_hours=24)
    value, paper = replayed(bars, done.orders, terms, 10_000)
    np.testing.assert_allclose(value, done.equity, rtol=1e-9)
    paid = paper.fetch_activity(datetime(2020, 1, 1, tzinfo=UTC))
    assert {e.kind for e in paid} == {"interest", "swap", "funding"} and "B" == {e.data["symbol"] for e in paid if e.kind == "funding"}.pop()
    assert "autoclose" not in "".join(f.client_order_id for f in paper.fetch_my_trades())


@pytest.mark.parametrize("seed", [4, 5, 6])
@pytest.mark.filterwarnings("ignore:the margin was used up")
def test_paper_and_backtest_are_liquidated_in_the_same_bar_at_the_same_prices(seed):
    bars = market(seed, swing=0.08)
    weights = wishes(bars, seed, 2.9).iloc[:1]
    done = backtest(bars, weights=weights, fees=0.001, slippage=0.0005, cash=10_000, leverage=3, maintenance=0.2, borrow=0.05)
    forced = done.orders[done.orders["reason"] == "liquidation"].sort_values("symbol")
    assert len(forced) == 3, "the case is about a liquidation"
    value, paper = replayed(bars, done.orders, MarginTerms(leverage=D(3), maintenance=D("0.2"), borrow=D("0.05")), 10_000)
    found = sorted((f for f in paper.fetch_my_trades() if f.client_order_id.startswith("autoclose-")), key=lambda f: f.symbol)
    assert [f.symbol for f in found] == forced["symbol"].tolist() and [f.side for f in found] == forced["side"].tolist()
    assert {f.timestamp for f in found} == set(forced["timestamp"].dt.to_pydatetime())
    np.testing.assert_allclose([float(f.price) for f in found], forced["price"], rtol=1e-9)
    np.testing.assert_allclose(value, done.equity, rtol=1e-9)
