"What an account does at its limits, by hand, through the function that people call: margin, holding, delisting, orders, sizes, exits, strategies."

import numpy as np
import pandas as pd
import pytest

from trading.backtest.engine import backtest
from trading.backtest.strategies import MaCross, Strategy
from trading.backtest.sweep import sweep
from trading.core.bars import bars_from
from trading.core.datasets import sample_bars
from trading.core.errors import BadInput

DAYS = pd.date_range("2024-01-01", periods=8, tz="UTC")
FLAT = [100.0] * 8


def frame(open_=FLAT, high=None, low=None, close=None, volume=None, days=DAYS):
    n = len(open_)
    close = open_ if close is None else close
    table = {"open": open_, "high": np.maximum(open_, close) if high is None else high, "low": np.minimum(open_, close) if low is None else low,
             "close": close, "volume": [5.0] * n if volume is None else volume}
    return pd.DataFrame(table, index=days[:n], dtype=float)


def market(**frames):
    return bars_from(frames or {"X": frame()})


def always(bars, side=1):
    return pd.DataFrame(side, bars.index, list(bars["close"].columns))


def final(bars, signals=None, **how):
    return backtest(bars, signals=always(bars) if signals is None else signals, **{"fees": 0.0, **how}).equity.iloc[-1]


# ---- margin


def test_weights_beyond_the_margin_are_refused_and_within_it_they_are_traded():
    bars = market(A=frame(), B=frame())
    rows = pd.DataFrame([{"A": 5.0, "B": -5.0}], DAYS[:1])
    with pytest.raises(BadInput, match=r"gross value of 10.0000 times the account at 2024-01-01.*leverage=10"):
        backtest(bars, weights=rows)
    with pytest.raises(BadInput, match="sum to 3.0000"):
        backtest(bars, weights=rows.abs() * 0.3)
    result = backtest(bars, weights=rows, leverage=10, fees=0.0)
    assert result.exposure.iloc[1:].tolist() == pytest.approx([10.0] * 7) and result.units.iloc[-1].to_dict() == pytest.approx({"A": 500, "B": -500})


def test_gross_exposure_never_drifts_past_the_maintenance_margin():
    up = frame([100 * 1.2**k for k in range(8)])
    bars = market(A=frame(), B=up)
    result = None
    with pytest.warns(UserWarning, match="margin was used up"):
        result = backtest(bars, weights=pd.DataFrame([{"A": 0.5, "B": -0.5}], DAYS[:1]), fees=0.0)
    assert result.exposure.max() <= 4 + 1e-9 and result.trades["reason"].tolist().count("liquidation") == 2


def test_a_leveraged_long_is_liquidated_where_the_formula_says():
    # 5 × 10,000 at 100: 500 units, 40,000 owed; used up where 500 p - 40,000 = 0.05 · 500 p: p = 84.2105…
    bars = market(X=frame([100.0, 100, 100, 95], low=[100.0, 100, 70, 90], close=[100.0, 100, 98, 95]))
    result = backtest(bars, signals=always(bars), size=5.0, leverage=5, maintenance=0.05, fees=0.0)
    price = 40_000 / 475
    assert result.orders[["reason", "price"]].values.tolist() == [["signal", 100.0], ["liquidation", pytest.approx(price)]]
    assert result.equity.iloc[-1] == pytest.approx(500 * price - 40_000) and result.cash.iloc[1] == pytest.approx(-40_000)
    gap = market(X=frame([100.0, 100, 70, 95]))
    owed = backtest(gap, signals=always(gap), size=5.0, leverage=5, fees=0.0)
    assert owed.equity.iloc[-1] == 0 and any("owed 5,000.00 more" in note for note in owed.notes)


@pytest.mark.parametrize("bad, says", [
    ({"leverage": 0.5}, "leverage is 0.5"), ({"leverage": 5, "maintenance": 0.3}, "below the initial margin of 0.2"),
    ({"borrow": -0.1}, "borrow is -0.1"),
    ({"delisting": "forget"}, "delisting is 'forget'"), ({"delisting": 1.5}, "delisting is 1.5"), ({"size": 1.5}, "size is 1.5"),
    ({"risk": 0.01}, "risk needs a stop_loss"), ({"risk": 0.01, "stop_loss": 0.1, "size": 0.5}, "each say how much"),
    ({"time_stop": 0}, "time_stop is 0"),
    ({"time_stop": "soon"}, "time_stop is 'soon'"), ({"steps": {30: 0.1}}, "an age in steps is 30"), ({"partial": [(0.1, 1.5)]}, "partial names"),
    ({"order": "limit"}, "needs either order_offset or order_price"), ({"order": "iceberg"}, "order is 'iceberg'"),
    ({"intrabar": "lucky"}, "intrabar is"), ({"funding": pd.DataFrame({"DOGE": [0.1]}, DAYS[:1])}, "funding names 'DOGE'"),
    ({"stop_lss": 0.1}, "did you mean 'stop_loss'"),
    ({"valid_bars": 0}, "valid_bars is 0"), ({"detail": market(X=frame()).iloc[:4]}, "no shorter bars inside"),
])
def test_what_makes_no_sense_is_refused_in_one_sentence(bad, says):
    with pytest.raises(BadInput, match=says):
        backtest(market(), signals=always(market()), **bad)


# ---- what holding costs


def test_borrow_swap_interest_and_funding_by_hand():
    day = 1 / 365.25
    short = backtest(market(), signals=always(market(), -1), fees=0.0, borrow=0.36525)
    assert short.equity.iloc[-1] == pytest.approx(10_000 - 60) and short.carried.iloc[-1] == pytest.approx(60), "six nights at ten basis points"
    night = backtest(market(), signals=always(market()), fees=0.0, swap_long=-0.1, swap_short=0.2)
    assert night.equity.iloc[-1] == pytest.approx(10_000 + 6 * 1_000 * day), "a swap below zero is received"
    owed, cash = backtest(market(), signals=always(market()), fees=0.0, size=2.0, leverage=2, interest=0.1), -10_000.0
    for _ in range(6):
        cash *= 1 + 0.1 * day
    assert owed.cash.iloc[-1] == pytest.approx(cash, rel=1e-12)
    due = pd.DataFrame({"X": [0.01, 0.002, 0.5]}, pd.DatetimeIndex(["2024-01-03 08:00", "2024-01-03 16:00", "2023-12-31"], tz="UTC"))
    for side, sign in ((1, -1), (-1, 1)):
        paid = backtest(market(), signals=always(market(), side), fees=0.0, funding=due)
        assert paid.equity.iloc[2:4].tolist() == pytest.approx([10_000, 10_000 * (1 + sign * 0.012)]), "longs pay, shorts receive, at the next open"


# ---- bars that cannot fill, and prices that end


def test_a_bar_without_volume_fills_nothing():
    quiet = market(X=frame([100.0, 101, 102, 103, 104, 105, 106, 107], volume=[5, 0, 0, 5, 5, 5, 5, 5]))
    assert backtest(quiet, signals=always(quiet)).orders["timestamp"].tolist() == [DAYS[3]]
    crash = market(X=frame(low=[100.0, 100, 100, 50, 100, 100, 100, 100], volume=[5, 5, 5, 0, 5, 5, 5, 5]))
    assert final(crash, stop_loss=0.1) == 10_000, "nobody traded there, so no stop was filled there"
    silent = market(X=frame(volume=[0.0] * 8))
    result = backtest(silent, signals=always(silent))
    assert len(result.orders) == 1 and "not reported, so not looked at: X" in result.assumptions.loc["volume", "assumed"]


@pytest.mark.parametrize("rule, left", [("last", 10_000), ("zero", 5_000), (0.3, 6_500)])
def test_a_delisted_symbol_is_settled_by_the_rule_listed_and_warned_about(rule, left):
    gone = frame()
    gone.iloc[5:] = np.nan
    bars = market(A=frame(), B=gone)
    with pytest.warns(UserWarning, match="B: prices end at 2024-01-05"):
        by_weights = backtest(bars, weights=pd.DataFrame([{"A": 0.5, "B": 0.5}], DAYS[:1]), fees=0.0, delisting=rule)
    with pytest.warns(UserWarning, match="B: prices end"):
        by_signals = backtest(bars, signals=always(bars), fees=0.0, delisting=rule)
    for result in (by_weights, by_signals):
        assert result.equity.iloc[-1] == pytest.approx(left) and result.units["B"].iloc[-1] == 0
        assert result.delisted[["symbol", "last", "price"]].values.tolist() == [["B", DAYS[4], 100.0]]
        assert result.trades.loc[result.trades["symbol"] == "B", "reason"].tolist() == ["delisted"]
    hole = frame()
    hole.iloc[2:4] = np.nan
    hole.iloc[6:] = np.nan
    assert not len(backtest(market(A=frame(), B=hole), signals=always(bars), delisting=rule).delisted), "no longer than a hole that it had before"


def test_six_funds_of_which_five_come_later_leave_nothing_idle():
    late = frame()
    late.iloc[:4] = np.nan
    bars = market(SPY=frame(), **{f"F{k}": late for k in range(5)})
    idle = backtest(bars, signals=always(bars), fees=0.0, shared=False)
    together = backtest(bars, signals=always(bars), fees=0.0)
    assert idle.exposure.iloc[2] == pytest.approx(1 / 6) and together.exposure.iloc[2] == pytest.approx(1.0)
    both = backtest(market(A=frame(), B=frame()), signals=pd.DataFrame({"A": 1, "B": [0] * 3 + [1] * 5}, DAYS), fees=0.0)
    assert both.units.iloc[-1].to_dict() == pytest.approx({"A": 50, "B": 50}), "room is left for a symbol that is flat"


@pytest.mark.parametrize("how", ["signals", "events", "limits"])
def test_a_market_that_opens_two_days_later_keeps_its_part(how):
    "A Friday's signal for a share and a coin, both at 100: the coin is filled on Saturday, the share on Monday, each with half of the account."
    days = pd.date_range("2024-01-01", periods=28, tz="UTC")
    share = frame([100.0] * 28, days=days)
    share.loc[days.day_of_week > 4] = np.nan
    bars, friday = market(STK=share, BTC=frame([100.0] * 28, days=days)), pd.Timestamp("2024-01-12", tz="UTC")

    class Both:
        def on_bar(self, account):
            if account.time == friday:
                for symbol in ("STK", "BTC"):
                    account.buy(symbol, **({"limit": 100.0} if how == "limits" else {}))

    signals = {"signals": pd.DataFrame({s: (days >= friday).astype(int) for s in ("STK", "BTC")}, days)} if how == "signals" else {"strategy": Both()}
    done = backtest(bars, **signals, fees=0.0, slippage=0.0, cash=1000.0, shared=True)
    assert done.orders[["symbol", "amount"]].values.tolist() == [["BTC", 5.0], ["STK", 5.0]]
    assert done.orders["timestamp"].dt.day.tolist() == [13, 15]
    share.loc[days > pd.Timestamp("2024-01-03", tz="UTC")] = np.nan  # no price for more than a week: it claims nothing
    alone = backtest(market(STK=share, BTC=frame([100.0] * 28, days=days)), **signals, fees=0.0, slippage=0.0, cash=1000.0, shared=True)
    assert alone.orders[["symbol", "amount"]].values.tolist() == [["BTC", 10.0]]


def test_entries_that_do_not_fit_together_are_cut_alike():
    result = backtest(market(A=frame(), B=frame()), signals=always(market(A=frame(), B=frame())), size=0.8, fees=0.0)
    assert result.units.iloc[-1].to_dict() == pytest.approx({"A": 50, "B": 50})


def test_crude_oil_of_april_2020_is_a_ruin_where_it_may_be_traded():
    days = pd.DatetimeIndex([f"2020-04-{d}" for d in (13, 14, 15, 16, 17, 20, 21, 22)], tz="UTC")
    close, open_ = [22.41, 20.11, 19.87, 19.87, 18.27, -37.63, 10.01, 13.78], [24.0, 22.5, 20.0, 20.0, 19.9, 17.73, -14.0, 11.4]
    bars = market(CL=frame(open_, close=close, days=days))
    with pytest.raises(BadInput, match="a price must be above zero"):
        backtest(bars, signals=always(bars))
    result = backtest(bars, signals=always(bars), fees=0.0, negative_prices=True)
    units = 10_000 / 22.5  # all cash in units at 22.50; used up where 444 p is a quarter of itself: at zero, on the way from 17.73 to -37.63
    assert result.orders["amount"].tolist() == pytest.approx([units] * 2) and result.orders["price"].iloc[1] == pytest.approx(0, abs=1e-9)
    gap = market(CL=frame([22.0, 22.0, -14.0, 11.0, 11.0], days=days))
    owes = backtest(gap, signals=always(gap), fees=0.0, negative_prices=True)
    assert owes.equity.iloc[-1] == 0 and any(f"owed {14 * 10_000 / 22:,.2f} more" in note for note in owes.notes)


# ---- sizes, orders, exits


def test_one_per_cent_at_risk_is_one_per_cent_lost_at_the_stop():
    falls = market(X=frame(low=[100.0, 100, 100, 90, 100, 100, 100, 100]))
    wide = backtest(falls, signals=always(falls), risk=0.01, stop_loss=0.02, fees=0.0)
    assert wide.orders["cost"].iloc[0] == pytest.approx(5_000) and wide.equity.iloc[-1] == pytest.approx(9_900)
    assert final(falls, risk=0.01, stop_loss=0.005) == pytest.approx(9_950), "without leverage there is room for half of it"
    tight = backtest(falls, signals=always(falls), risk=0.01, stop_loss=0.005, leverage=2, fees=0.0)
    assert tight.orders["cost"].iloc[0] == pytest.approx(20_000) and tight.equity.iloc[-1] == pytest.approx(9_900)
    moving = pd.DataFrame({"X": np.linspace(0.01, 0.08, 8)}, DAYS)  # known at the close of the first bar: 1 %
    assert backtest(falls, signals=always(falls), risk=0.005, stop_loss=moving, fees=0.0).orders["cost"].iloc[0] == pytest.approx(5_000)


def test_a_limit_waits_for_its_price_and_a_stop_for_its_breakout():
    dips = market(X=frame(low=[100.0, 99, 97, 100, 100, 100, 100, 100], high=[100.0, 101, 100, 100, 104, 100, 100, 100]))
    once = pd.DataFrame({("entry", "X"): [True] + [False] * 7}, DAYS)
    def first(**how):
        found = backtest(dips, signals=once, fees=0.0, slippage=0.01, **how).orders
        return [] if not len(found) else [found["timestamp"].iloc[0], found["price"].iloc[0]]

    assert first(order="limit", order_offset=0.02) == [], "only the next bar, and that went to 99"
    assert first(order="limit", order_offset=0.02, valid_bars=2) == [DAYS[2], 98.0], "a limit is filled at its price, without slippage"
    assert first(order="limit", order_price=pd.Series(101.0, DAYS)) == [DAYS[1], 100.0], "or at a better open"
    assert first(order="stop", order_offset=0.03, valid_bars=5) == [DAYS[4], pytest.approx(103 * 1.01)]
    short = pd.DataFrame({("short_entry", "X"): [True] + [False] * 7}, DAYS)
    assert backtest(dips, signals=short, fees=0.0, order="limit", order_offset=0.01).orders["price"].tolist() == [101.0]
    with pytest.raises(BadInput, match="needs highs and lows"):
        backtest(dips[["close"]], signals=once, order="limit", order_offset=0.02)


def test_a_target_in_the_bar_of_a_limit_counts_only_if_it_must_have_come_after():
    bar = frame(high=[100.0, 110, 100, 100, 100, 100, 100, 100], low=[100.0, 95, 100, 100, 100, 100, 100, 100])
    how = {"order": "limit", "order_offset": 0.05, "take_profit": 0.1}
    assert len(backtest(market(X=bar), signals=always(market()), **how).trades.query("not open")) == 0, "the high may have come before the low"
    assert backtest(market(X=bar), signals=always(market()), intrabar="optimistic", **how).trades["reason"].tolist() == ["target"]
    bar.iloc[1, 3] = 108.0
    assert backtest(market(X=bar), signals=always(market()), **how).trades["exit"].tolist() == [DAYS[1]], "it closed beyond the target"


def test_ten_per_cent_at_once_and_two_after_two_days():
    steps = {"0h": 0.10, "2d": 0.02}
    slow = market(X=frame(high=[100.0, 103, 103, 103, 103, 103, 103, 103]))
    sold = backtest(slow, signals=always(slow), steps=steps, fees=0.0).trades.iloc[0]
    assert (sold["exit"], sold["exit_price"], sold["reason"]) == (DAYS[3], 102.0, "step"), "bought on the second day, two days later"
    quick = market(X=frame(high=[100.0, 103, 111, 103, 103, 103, 103, 103]))
    sold = backtest(quick, signals=always(quick), steps=steps, fees=0.0).trades.iloc[0]
    assert (sold["exit"], sold["exit_price"]) == (DAYS[2], pytest.approx(110))


def test_parts_are_sold_on_the_way_and_the_rest_runs():
    bars = market(X=frame([100.0, 100, 100, 104, 108, 112, 90, 90]))
    result = backtest(bars, signals=always(bars), partial=[(0.05, 0.5), (0.1, 0.25)], stop_loss=0.05, fees=0.0)
    closed = result.trades[["amount", "exit_price", "reason"]].values.tolist()
    assert closed == [[50, pytest.approx(108), "partial"], [25, pytest.approx(112), "partial"], [25, 90.0, "stop"]], "gaps pay the open"
    assert result.equity.iloc[-1] == pytest.approx(50 * 108 + 25 * 112 + 25 * 90)


@pytest.mark.parametrize("limit, day", [(3, 4), ("3d", 4), ("60h", 4), (pd.Timedelta(days=1), 2)])
def test_a_time_stop_leaves_at_the_open_when_the_time_has_come(limit, day):
    sold = backtest(market(), signals=always(market()), time_stop=limit).trades.iloc[0]
    assert (sold["exit"], sold["reason"]) == (DAYS[day], "time")


def test_shorter_bars_tell_what_came_first():
    hours = pd.date_range("2024-01-01", periods=8 * 4, freq="6h", tz="UTC")
    fine = frame([100.0] * 32, high=[100.0] * 9 + [111.0] + [100.0] * 22, low=[100.0] * 10 + [94.0] + [100.0] * 21, days=hours)
    day = fine.resample("1D").agg({"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"})
    bars, how = market(X=day), {"stop_loss": 0.05, "take_profit": 0.1}
    told = [final(bars, **how), final(bars, intrabar="optimistic", **how), final(bars, detail=market(X=fine), **how)]
    assert told == pytest.approx([9_500, 11_000, 11_000])


def test_stops_see_highs_and_lows_when_orders_are_filled_at_the_close():
    bars = market(X=frame(low=[100.0, 100, 100, 80, 100, 100, 100, 100], high=[100.0, 100, 100, 100, 100, 130, 100, 100]))
    assert final(bars, fill="close", stop_loss=0.1) == pytest.approx(9_000) and final(bars, fill="close", take_profit=0.2) == pytest.approx(12_000)


# ---- a strategy is one class or function


class Dip(Strategy):
    "Buy below the mean; its stop is a parameter, its universe the cheaper half."

    def __init__(self, window: int = 2, stop: float = 0.1):
        self.window, self.stop = window, stop

    needs = ("high", "low")

    def signals(self, bars):
        close = bars["close"]
        return (close <= close.rolling(self.window).mean()).astype(int)

    def rules(self, bars):
        return {"stop_loss": self.stop, "time_stop": 3}

    def universe(self, bars):
        return bars["close"].rank(axis=1, method="first") <= len(bars["close"].columns) / 2


def test_a_strategy_brings_its_stops_and_its_universe_and_a_sweep_varies_them():
    bars = market(A=frame(low=[100.0, 100, 100, 88, 100, 100, 100, 100]), B=frame([200.0] * 8))
    result = backtest(bars, Dip(), fees=0.0)
    assert set(result.trades["symbol"]) == {"A"} and result.trades["reason"].tolist()[0] == "stop"
    assert backtest(bars, Dip(), fees=0.0, stop_loss=0.2).trades["reason"].tolist()[0] == "time", "what is given goes first"
    with pytest.raises(BadInput, match="the field 'high' is missing"):
        backtest(bars.drop(columns=[("high", "A"), ("high", "B")]), Dip())
    table = sweep(bars, Dip, {"stop": [0.05, 0.3], "time_stop": [2, 5]}, ["final", "trades"], fees=0.0, shared=True, register=False)
    for (stop, hold, symbol), row in table.iterrows():
        alone = backtest(bars, Dip(stop=stop), fees=0.0, time_stop=hold).stats
        assert symbol == "all" and row.tolist() == pytest.approx([alone["final"], alone["trades"]])


def test_stops_targets_and_sizes_are_parameters_of_a_sweep():
    bars = sample_bars("indices").loc["2008":"2009"]
    grid = {"fast": [5, 10], "slow": [20], "stop_loss": [None, 0.03], "take_profit": [None, 0.05], "size": [None, 0.5]}
    each = sweep(bars, MaCross, grid, ["final", "trades", "exposure"], register=False)
    assert each.attrs["engine"] == "account" and len(each) == 2 * 8 * 2
    row = each.xs("NASDAQ", level="symbol").query("fast == 10 and size == 0.5 and stop_loss == 0.03 and take_profit == 0.05").iloc[0]
    one = backtest(bars.loc[:, (slice(None), ["NASDAQ"])], MaCross(10, 20), stop_loss=0.03, take_profit=0.05, size=0.5).stats
    assert row.tolist() == pytest.approx([one["final"], one["trades"], one["exposure"]], rel=1e-9)
    together = sweep(bars, MaCross, {"fast": [5], "slow": [20], "risk": [0.005, 0.01]}, ["final"], stop_loss=0.02, shared=True, register=False)
    assert together.loc[(5, 20, 0.01, "all"), "final"] == pytest.approx(backtest(bars, MaCross(5, 20), risk=0.01, stop_loss=0.02).equity.iloc[-1])
    with pytest.raises(BadInput, match="stop_loss is in the grid and given as well"):
        sweep(bars, MaCross, {"stop_loss": [0.1]}, stop_loss=0.2, register=False)
    with pytest.raises(BadInput, match="cannot use engine='vectorbt'"):
        sweep(bars, MaCross, {"fast": [5]}, stop_loss=0.2, engine="vectorbt", register=False)


class Ladder:
    "Buy at a limit below, sell half at a profit, keep what the account says."

    def __init__(self):
        self.seen = []

    def on_bar(self, account):
        self.seen.append((account.time, account.equity, dict(account.positions), dict(account.orders), len(account.bars)))
        if not account.positions and not account.orders:
            account.buy(limit=98.0, size=0.5, stop_loss=0.1)
        elif account.bars_held() == 1:
            account.target(0.25)


def test_an_event_driven_strategy_sees_the_account_and_acts_on_the_next_bar():
    bars = market(X=frame(low=[100.0, 97, 100, 100, 100, 100, 100, 100]))
    strategy = Ladder()
    result = backtest(bars, strategy, fees=0.0)
    assert strategy.seen == [], "each backtest begins with a copy"
    units, worth = 5_000 / 98, 10_000 + 5_000 / 98 * 2
    assert result.orders[["timestamp", "price", "reason"]].values.tolist() == [[DAYS[1], 98.0, "signal"], [DAYS[3], 100.0, "rebalance"]]
    assert result.units["X"].iloc[[1, 3]].tolist() == pytest.approx([units, 0.25 * worth / 100])
    for call, says in ((lambda a: a.buy("Y"), "'Y' is not among"), (lambda a: a.buy(limit=1, stop=2), "both limit and stop"),
                       (lambda a: a.buy(size=-1), "size is -1"), (lambda a: a.target(5.0), "gross value of 5"),
                       (lambda a: a.buy(until=3), "knows no 'until'"), (lambda a: a.target(np.nan), "target of X is nan")):
        wrong = type("Wrong", (), {"on_bar": lambda self, account, call=call: call(account)})
        with pytest.raises(BadInput, match=says):
            backtest(bars, wrong())


def test_the_table_of_assumptions_says_what_was_taken_for_granted():
    told = backtest(market(), signals=always(market()), stop_loss=0.1, leverage=3, borrow=0.02, delisting=0.5).assumptions["assumed"]
    words = {"decision": "open of the next bar", "inside a bar": "stop counts before the target", "margin": "up to 3 times", "holding": "2 % a year",
             "delisting": "0.5 of the last", "volume": "without moving the price", "fees": "0.1 %", "cash": "one account"}
    for topic, said in words.items():
        assert said in told[topic], (topic, told[topic])
