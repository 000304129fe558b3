"What each bar trades, and at which price, on bars of a few rows: every stop, delay and refusal with its neighbour."

import numpy as np
import pandas as pd
import pytest

from trading.backtest.engine import backtest, target_rows
from trading.backtest.execution_timing import check_signals, fill_prices, next_bar, same_symbols
from trading.backtest.vectorbt_engine import Costs, fill_directions
from trading.core.bars import bars_from
from trading.core.calendars import bars_a_year
from trading.core.errors import BadInput
from trading.risk.metrics import composite_score
from trading.risk.sizing import volatility_size

DAY = pd.date_range("2024-01-01", periods=8, tz="UTC")


def one(close, open_=None, high=None, low=None, symbol="A"):
    close = np.asarray(close, float)
    open_ = close if open_ is None else np.asarray(open_, float)
    frame = pd.DataFrame({"open": open_, "high": np.maximum(open_, close) if high is None else high,
                          "low": np.minimum(open_, close) if low is None else low,
                          "close": close}, DAY[: len(close)])
    return bars_from({symbol: frame})


def closes(**columns):
    return bars_from({s: pd.DataFrame({"close": np.asarray(v, float)}, DAY[: len(v)]) for s, v in columns.items()})


def sides(bars, signals, **how):
    "Give the direction held at each close."
    return np.sign(backtest(bars, signals=signals, **{"fees": 0.0, **how}).units["A"]).astype(int).tolist()


def follow(values, **how):
    "Give the directions of positions on rising opens 10, 11, 12 … with closes half above, and the prices of the orders."
    n = len(values)
    bars, positions = one(np.arange(n) + 10.5, np.arange(n) + 10.0), pd.DataFrame({"A": values}, DAY[:n])
    return sides(bars, positions, **how), backtest(bars, signals=positions, fees=0.0, **how).orders["price"].tolist()


def test_a_position_is_taken_at_the_next_open_or_close():
    assert follow([0, 1, 1, 0, -1, 0]) == ([0, 0, 1, 1, 0, -1], [12, 14, 15])
    assert follow([1, 1, 0, 0], fill="close") == ([0, 1, 1, 0], [11.5, 13.5])
    assert follow([0, 1, -1, -1, 1, 1], size=0.5) == ([0, 0, 1, -1, -1, 1], [12, 13, 15]), "a fraction turns in one order too"


def test_a_bar_without_a_price_is_passed_over():
    positions, price = pd.DataFrame({"A": [1, 1, 0, -1, 0, 0]}, DAY[:6]), pd.DataFrame({"A": [1, np.nan, 1, np.nan, np.nan, 1.0]}, DAY[:6])
    assert next_bar(positions, price)["A"].tolist() == [0, 0, 1, 1, 1, 0] and next_bar(positions, price)["A"].dtype == np.int8
    assert next_bar(positions, price.fillna(1))["A"].tolist() == [0, 1, 1, 0, -1, 0]
    bars = one([10, 11, np.nan, 13, 14, 15, 16])
    events = pd.DataFrame({("entry", "A"): [0, 1, 0, 0, 0, 0, 0], ("exit", "A"): [0, 0, 1, 0, 1, 0, 0]}, DAY[:7], dtype=bool)
    assert sides(bars, events) == [0, 0, 0, 0, 0, 0, 0]  # the exit of the hole replaces the entry before it
    events = pd.DataFrame({("entry", "A"): [0, 1, 0, 0, 0, 0, 1], ("exit", "A"): [0, 0, 0, 0, 1, 0, 0]}, DAY[:7], dtype=bool)
    assert sides(bars, events) == [0, 0, 0, 1, 1, 0, 0]  # what is wanted at the last close is never traded


def test_events_of_each_kind():
    bars = one([10.0] * 8)

    def run(**rows):
        table = {(kind, "A"): [n in at for n in range(8)] for kind, at in rows.items()}
        return sides(bars, pd.DataFrame(table, DAY))

    assert run(entry=[0], exit=[3]) == [0, 1, 1, 1, 0, 0, 0, 0] and run(short_entry=[1], short_exit=[3]) == [0, 0, -1, -1, 0, 0, 0, 0]
    assert run(entry=[0], short_exit=[2]) == [0, 1, 1, 1, 1, 1, 1, 1] and run(short_entry=[0], exit=[2]) == [0, -1, -1, -1, -1, -1, -1, -1]
    assert run(entry=[0], short_entry=[3], exit=[2]) == [0, 1, 1, 0, -1, -1, -1, -1] and run(entry=[0, 5], short_entry=[2]) == [0, 1, 1, -1, -1, -1,
        1, 1]
    for both, says in (({"entry": [2], "exit": [2]}, "entry and exit"), ({"entry": [2], "short_entry": [2]}, "entry and short_entry"),
                       ({"short_entry": [2], "short_exit": [2]}, "short_entry and short_exit")):
        with pytest.raises(BadInput, match=f"A: {says} at 2024-01-03"):
            run(**both)
    assert run(exit=[2], short_exit=[2]) == [0] * 8 and run(entry=[2], short_exit=[2]) == [0, 0, 0, 1, 1, 1, 1, 1]


# direction, entry, the opens, highs and lows of the bars after it, stop loss, take profit, trailing; bar and price of the hit
STOPS = [
    (1, 100, [[99, 99, 95.0]], 0.05, None, False, (0, 95.0)), (1, 100, [[99, 99, 95.01]], 0.05, None, False, None),
    (1, 100, [[94, 96, 93]], 0.05, None, False, (0, 94.0)),
    (1, 100, [[101, 125.0, 100]], None, 0.25, False, (0, 125.0)), (1, 100, [[101, 124.99, 100]], None, 0.25, False, None),
    (1, 100, [[112, 113, 111]], None, 0.1, False, (0, 112.0)),
    (1, 100, [[100, 111, 94]], 0.05, 0.1, False, (0, 95.0)),  # both within one bar: the loss is assumed
    (1, 100, [[100, 101, 99], [100, 111, 99], [90, 90, 80]], 0.05, 0.1, False, (1, 110.0)),
    (1, 100, [[100, 120, 99], [119, 119, 114.0]], 0.05, None, True, (1, 114.0)),
    (1, 100, [[100, 120, 99], [119, 119, 114.01]], 0.05, None, True, None), (1, 100, [[100, 120, 99], [119, 119, 114.0]], 0.05, None, False, None),
    (1, 100, [[100, 120, 96], [119, 130, 115], [121, 122, 120]], 0.05, None, True, (2, 121.0)),
    (1, 100, [[96, 97, 95.0]], 0.05, None, True, (0, 95.0)),
    (-1, 100, [[101, 105.0, 101]], 0.05, None, False, (0, 105.0)), (-1, 100, [[101, 104.99, 101]], 0.05, None, False, None),
    (-1, 100, [[107, 108, 106]], 0.05, None, False, (0, 107.0)),
    (-1, 100, [[99, 99, 75.0]], None, 0.25, False, (0, 75.0)), (-1, 100, [[99, 99, 75.01]], None, 0.25, False, None),
    (-1, 100, [[88, 89, 87]], None, 0.1, False, (0, 88.0)),
    (-1, 100, [[99, 100, 80], [82, 84.0, 82]], 0.05, None, True, (1, 84.0)), (-1, 100, [[99, 100, 80], [82, 83.9, 82]], 0.05, None, True, None),
    (-1, 100, [[100, 106, 89]], 0.05, 0.1, False, (0, 105.0)), (1, 100, [[100, 500, 1]], None, None, False, None),
]


@pytest.mark.parametrize("direction, entry, rows, loss, profit, trailing, hit", STOPS, ids=map(str, range(len(STOPS))))
def test_each_stop_is_hit_at_its_price_and_not_a_hundredth_before(direction, entry, rows, loss, profit, trailing, hit):
    open_, high, low = np.vstack([[[entry] * 3] * 2, rows]).T.astype(float)  # decided, then bought at the open of a quiet bar
    bars = one(open_, open_, high, low)
    wanted = pd.Series(direction, bars.index)
    trades = backtest(bars, signals=wanted, fees=0.0, stop_loss=loss, take_profit=profit, trailing=trailing, maintenance=0.0).trades
    found = [(bars.index.get_loc(t.exit) - 2, t.exit_price) for t in trades[~trades["open"]].itertuples()]
    assert found == ([] if hit is None else [(hit[0], pytest.approx(hit[1]))])


STOPPED = one([100, 100, 102, 96, 96, 97, 104, 104], [100, 100, 101, 102, 96, 96, 98, 104])


@pytest.mark.parametrize("positions, how, first, last, orders", [  # orders: bar → prices, where they differ from the open (or the close)
    ([1] * 8, {"stop_loss": 0.03}, [0, 1, 1, 0, 0, 0, 0, 0], None, {3: [97.0]}),
    ([1] * 8, {"stop_loss": 0.03, "slippage": 0.01}, [0, 1, 1, 0, 0, 0, 0, 0], None, {3: [97.97]}),  # paid 101
    ([-1] * 8, {"take_profit": 0.035}, [0, -1, -1, 0, 0, 0, 0, 0], None, {3: [96.5]}),
    ([-1] * 8, {"stop_loss": 0.015}, [0, -1, 0, 0, 0, 0, 0, 0], None, {2: [101.5]}),
    ([-1] * 8, {"stop_loss": 0.015, "slippage": 0.01}, [0, -1, 0, 0, 0, 0, 0, 0], None, {2: [101.0]}),  # received 99, 100.485 is passed at the open
    ([1] * 8, {"stop_loss": 0.05, "trailing": True}, [0, 1, 1, 0, 0, 0, 0, 0], None, {3: [96.9]}),  # five per cent below 102
    ([1] * 8, {"stop_loss": 0.5, "take_profit": 0.5}, [0, 1, 1, 1, 1, 1, 1, 1], None, {}),
    ([1] * 8, {"fill": "close", "stop_loss": 0.03}, [0, 1, 1, 0, 0, 0, 0, 0], None, {3: [97.0]}),
    ([1, 1, 1, 1, 0, 1, 1, 1], {"stop_loss": 0.03, "take_profit": 0.06}, [0, 1, 1, 0, 0, 0, 1, 0], [0, 1, 1, 0, 0, 0, 0, 0],
     {3: [97.0], 6: [98.0, 103.88]}),
    ([1, 1, -1, -1, -1, -1, -1, -1], {"fill": "close", "stop_loss": 0.03}, [0, 1, 1, 0, -1, -1, 0, 0], [0, 1, 1, -1, -1, -1, 0, 0],
     {3: [97.0, 96.0], 6: [98.88]}),
    ([1, 1, -1, -1, -1, -1, -1, -1], {"stop_loss": 0.03}, [0, 1, 1, -1, -1, -1, -1, -1], None, {}),  # turned at the open of 102, before the fall
    ([1, 1, 0, 0, 0, 0, 0, 0], {"fill": "close", "stop_loss": 0.03}, [0, 1, 1, 0, 0, 0, 0, 0], None, {3: [97.0]}),  # the stop comes before the close
], ids=map(str, range(12)))
def test_stops_within_a_series_of_signals(positions, how, first, last, orders):
    signals, slip = pd.DataFrame({"A": positions}, DAY), how.get("slippage", 0.0)
    assert sides(STOPPED, signals, **how) == (last or first)
    done = backtest(STOPPED, signals=signals, fees=0.0, **how).orders
    plain = done["price"] / np.where(done["side"] == "buy", 1 + slip, 1 - slip)
    for bar, prices in orders.items():
        assert plain[(done["timestamp"] == DAY[bar]).to_numpy()].tolist() == pytest.approx(prices)
    usual = STOPPED["close" if how.get("fill") else "open"]["A"]
    quiet = ~done["timestamp"].isin([DAY[k] for k in orders]).to_numpy()
    assert plain[quiet].tolist() == pytest.approx(usual[done["timestamp"][quiet]].tolist())


def test_two_orders_in_one_bar_reach_the_account():
    b = backtest(STOPPED, signals=pd.DataFrame({"A": [1, 1, 1, 1, 0, 1, 1, 1]}, DAY), fees=0.0, cash=100.0, stop_loss=0.03, take_profit=0.06)
    assert b.equity.tolist() == pytest.approx([100, 100, 102, 97, 97, 97, 102.82, 102.82]) and b.trades["pnl"].tolist() == pytest.approx([-3, 5.82])
    assert b.orders["price"].tolist() == pytest.approx([100, 97, 98, 103.88]) and b.orders["timestamp"].tolist() == [DAY[1], DAY[3], DAY[6], DAY[6]]
    assert b.trades[["entry", "exit", "bars"]].to_numpy().tolist() == [[DAY[1], DAY[3], 2], [DAY[6], DAY[6], 0]] and b.units["A"].tolist() == [0, 1,
        1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("how, says", [
    ({"stop_loss": 0.0}, "stop_loss is 0.0"), ({"stop_loss": 1.0}, "stop_loss is 1.0"), ({"stop_loss": -0.1}, "stop_loss is -0.1"),
    ({"take_profit": 0.0}, "take_profit is 0.0"), ({"take_profit": np.inf}, "take_profit is inf"), ({"trailing": True}, "needs a stop_loss to trail"),
    ({"trailing": True, "take_profit": 0.1}, "needs a stop_loss to trail"), ({"fill": "high"}, "fill is 'high'")])
def test_stops_that_make_no_sense_are_refused(how, says):
    for fine in ({"stop_loss": 0.99}, {"take_profit": 5.0}, {"stop_loss": 0.01, "trailing": True}):
        follow([0, 1, 1], **fine)
    with pytest.raises(BadInput, match=says):
        follow([0, 1, 1], **how)


def test_the_price_of_a_fill():
    bars = one([10, 11], [9, 10])
    for fill, used, first in (("auto", "open", 9), ("open", "open", 9), ("close", "close", 10)):
        price, name = fill_prices(bars, fill)
        assert (name, price.iloc[0, 0]) == (used, first)
    only = closes(A=[1, 2], B=[3, 4])
    assert fill_prices(only)[1] == "close"
    with pytest.raises(BadInput, match="the field 'open' is missing for A, B"):
        fill_prices(only, "open")
    half = bars_from({"A": bars.xs("A", axis=1, level=1), "B": pd.DataFrame({"close": [1.0, 2.0]}, DAY[:2])})
    assert fill_prices(half)[1] == "close"
    torn = bars.copy()
    torn.iloc[1, 0] = np.nan
    with pytest.raises(BadInput, match="A: only one of open and close is there at 2024-01-02"):
        fill_prices(torn)
    fill_prices(torn, "close")
    with pytest.raises(BadInput, match="at least 2 are needed"):
        fill_prices(bars[:1])


def test_signals_are_checked_by_symbol_time_and_value():
    bars = closes(A=[1, 2, 3], B=[1, 2, 3])
    good = pd.DataFrame({"B": [0, 1, -1], "A": [0, 0, 1]}, DAY[:3])
    assert check_signals(good, bars).equals(good[["A", "B"]].astype(np.int8))
    assert check_signals(good["A"], closes(A=[1, 2, 3]))["A"].tolist() == [0, 0, 1]
    events = pd.DataFrame({("entry", "A"): [1, 0, 0], ("exit", "B"): [0, 0, 1]}, DAY[:3])
    table = check_signals(events, bars)
    assert table.shape == (3, 8) and table["entry"]["A"].tolist() == [True, False,
        False] and not table["short_entry"].any(axis=None) and table["exit"]["B"].sum() == 1
    for bad, says in (
        (good["A"], "one series and the bars have 2 symbols"), (good.assign(A=[0, np.nan, 1]), "A: the signal is missing at 2024-01-02"),
        (good.assign(A=[0, 0.5, 1]), "A: the signal is 0.5 at 2024-01-02"), (good.assign(A=[0, 2, 1]), "A: the signal is 2.0"),
        (good.assign(A=[0, -2, 1]), "A: the signal is -2.0"),
        (good[:2], "lack the time 2024-01-03"), (good.set_axis(DAY[1:4]), "have the time 2024-01-04"), (good[["A"]], "say nothing about 'B'"),
        (good.assign(C=0), "name 'C', which the bars lack; the bars have A, B"),
        (events.rename(columns={"exit": "out"}, level=0), "the event 'out' is unknown"),
        (good.set_axis(DAY[:3].tz_localize(None)), "signals: the times have no zone"),
    ):
        with pytest.raises(BadInput, match=says):
            check_signals(bad, bars)
    same_symbols(["B", "A", "A"], ["A", "B"], "x")


# ---- the account


def test_one_long_trade_with_every_cost_by_hand():
    bars = one([100, 100, 110, 120, 120], [100, 100, 105, 115, 120])
    b = backtest(bars, signals=pd.DataFrame({"A": [1, 1, 1, 0, 0]}, DAY[:5]), fees=0.01, slippage=0.02, fixed_fees=5.0, cash=1000.0, periods=365)
    # bought at 102 with all: (1000 - 5) / 1.01 = 985.1485 buy 9.658319 units; sold at 117.6: 1135.818 less 11.35818 and 5
    paid = 995 / 1.01
    units, out = paid / 102, paid / 102 * 117.6
    assert b.orders[["side", "price"]].to_numpy().tolist() == [["buy", 102.0],
        ["sell", pytest.approx(117.6)]] and b.orders["amount"].tolist() == pytest.approx([units] * 2)
    assert b.orders["fee"].tolist() == pytest.approx([1000 - paid, out * 0.01 + 5]) and b.orders["cost"].tolist() == pytest.approx([paid, out])
    assert b.orders["timestamp"].tolist() == [DAY[1], DAY[4]] and b.orders["symbol"].tolist() == ["A", "A"]
    assert b.equity.tolist() == pytest.approx([1000, units * 100, units * 110, units * 120, out * 0.99 - 5])
    assert b.cash.tolist() == pytest.approx([1000, 0, 0, 0, out * 0.99 - 5],
                                            abs=1e-9) and b.units["A"].tolist() == pytest.approx([0, units, units, units, 0])
    assert b.exposure.tolist() == pytest.approx([0, 1, 1, 1, 0]) and b.returns.iloc[1] == pytest.approx(units / 10 - 1)
    trade = b.trades.iloc[0]
    assert len(b.trades) == 1 and (trade["side"], trade["entry"], trade["exit"], trade["bars"], trade["open"]) == ("long", DAY[1], DAY[4], 3, False)
    assert trade["pnl"] == pytest.approx(out * 0.99 - 5 - 1000)
    assert trade["fees"] == pytest.approx(1000 - paid + out * 0.01 + 5) and trade["amount"] == pytest.approx(units)
    assert (trade["entry_price"], trade["exit_price"]) == (102.0,
                                                           pytest.approx(117.6)) and trade["return"] == pytest.approx(trade["pnl"] / paid)


def test_a_short_and_its_figures_by_hand():
    bars = closes(A=[100, 100, 90, 80, 88, 88])
    b = backtest(bars, signals=pd.DataFrame({"A": [-1, -1, -1, 0, 0, 0]}, DAY[:6]), fees=0.0, cash=1000.0, periods=365)
    assert b.fill == "close" and b.equity.tolist() == pytest.approx([1000, 1000, 1100, 1200, 1120, 1120]) and b.units["A"].tolist() == [0, -10, -10,
        -10, 0, 0]
    assert b.trades["side"].tolist() == ["short"] and b.trades["pnl"].tolist() == pytest.approx([120])
    s = b.stats
    returns = np.array([0, 0, 0.1, 1200 / 1100 - 1, 1120 / 1200 - 1, 0])
    assert (s["start"], s["end"], s["bars"], s["periods"]) == (DAY[0], DAY[5], 6, 365)
    assert (s["final"], s["total_return"], s["max_drawdown"], s["trades"], s["win_rate"],
            s["fees"]) == pytest.approx((1120, 0.12, -80 / 1200, 1, 1.0, 0.0))
    assert s["annual_return"] == pytest.approx(1.12 ** (365 / 5) - 1) and s["volatility"] == pytest.approx(returns.std(ddof=1) * 365**0.5)
    assert s["sharpe"] == pytest.approx(returns.mean() / returns.std(ddof=1) * 365**0.5)
    assert s["sortino"] == pytest.approx(returns.mean() * 365**0.5 / np.sqrt((80 / 1200) ** 2 / 6))
    assert s["calmar"] == pytest.approx(s["annual_return"] / (80 / 1200))
    assert (s["drawdown_from"], s["drawdown_low"]) == (DAY[3], DAY[4]) and pd.isna(s["drawdown_until"]) and np.isnan(s["profit_factor"])
    assert s["var_95"] == pytest.approx(-np.quantile(returns, 0.05)) and s["cvar_95"] == pytest.approx(80 / 1200)
    assert s["turnover"] == pytest.approx((1000 + 880) / b.equity.mean() * 365 / 5)
    assert s["exposure"] == pytest.approx((1 + 900 / 1100 + 800 / 1200) / 6) and s["score"] == pytest.approx(70.0)
    assert len(b.drawdowns) == 1 and backtest(bars, signals=pd.DataFrame({"A": [0] * 6}, DAY[:6])).stats[["trades", "fees",
        "final"]].tolist() == [0, 0, 10_000]


def test_winners_and_losers_make_the_profit_factor():
    bars = closes(A=[10, 10, 12, 12, 9, 9, 9])
    b = backtest(bars, signals=pd.DataFrame({"A": [1, 0, 1, 0, 0, 0, 0]}, DAY[:7]), fees=0.0, cash=100.0)
    assert b.trades["pnl"].tolist() == pytest.approx([20, -30]) and b.stats["profit_factor"] == pytest.approx(2 / 3) and b.stats["win_rate"] == 0.5


@pytest.mark.parametrize("sharpe, calmar, factor, points", [
    (2.0, 2.0, 3.0, 100), (4.0, 9.0, 9.0, 100), (1.0, 0.0, 1.0, 20), (0.0, 1.0, 1.0, 15), (0.0, 0.0, 2.0, 15), (-5.0, -5.0, 0.0, 0),
    (np.nan, np.nan, np.nan, 0), (0.5, np.nan, 1.5, 17.5)])
def test_the_score_is_forty_thirty_thirty(sharpe, calmar, factor, points):
    assert composite_score(sharpe, calmar, factor) == pytest.approx(points)


def times(count, apart):
    return pd.date_range("2024-01-01", periods=count, freq=apart, tz="UTC")


@pytest.mark.parametrize("index, count", [
    (times(30, "1D"), 365.25), (pd.bdate_range("2024-01-01", periods=30, tz="UTC"), 252), (times(96, "1h"), 252 * 24),
    (times(240, "1h"), 365.25 * 24), (pd.date_range("2024-01-06", periods=96, freq="4h", tz="UTC"), 365.25 * 6), (times(30, "7D"), 365.25 / 7),
    (times(30, "30D"), 365.25 / 30), (times(90, "20h"), 438.3), (times(30, "4D"), 365.25 / 4),
    (pd.date_range("2000-01-01", periods=81, freq="QS", tz="UTC"), 4)])
def test_how_many_bars_make_a_year(index, count):
    assert bars_a_year(index) == pytest.approx(count, rel=1e-3)
    assert bars_a_year(index[:2]) > 0
    with pytest.raises(BadInput, match="how many make a year"):
        bars_a_year(index[:1])


def test_weights_are_traded_at_the_next_price_of_each_symbol():
    bars = closes(A=[10, 10, 20, 20, 20], B=[10, np.nan, 10, 10, 5])
    rows = pd.DataFrame({"B": [0.5, 0.0], "A": [0.5, 1.0]}, [DAY[0], DAY[3]])
    targets, price = target_rows(bars, rows)
    assert np.array_equal(targets["A"], [np.nan, 0.5, np.nan, np.nan, 1.0], equal_nan=True) and np.array_equal(targets["B"],
        [np.nan, np.nan, 0.5, np.nan, 0.0], equal_nan=True)
    assert price["A"].tolist() == [10, 10, 20, 20, 20]
    b = backtest(bars, weights=rows, fees=0.0, cash=100.0, periods=365)
    # 5 A at 10; on the third bar 150 are there and 75 buy 7.5 B at 10, but 50 are in cash: vectorbt buys what the cash allows
    assert b.equity.tolist()[:2] == [100, 100] and b.units["A"].tolist()[1:3] == [5, 5] and b.equity.iloc[2] == 150
    assert b.units["B"].iloc[2] == pytest.approx(5) and b.equity.iloc[4] == pytest.approx(125) and b.units["B"].iloc[4] == 0
    assert target_rows(bars, rows.iloc[:0])[0].isna().all(axis=None) and target_rows(bars, rows.set_axis([DAY[0], DAY[4]]))[0]["A"].notna().sum() == 1
    for bad, says in (
        (rows.set_axis([DAY[0], DAY[7]]), "the weights are of 2024-01-08"), (rows.assign(A=[np.nan, 1]), "A: the weight is nan at 2024-01-01"),
        (rows.assign(A=[np.inf, 1]), "A: the weight is inf"), (rows.assign(A=[0.51, 1]), "sum to 1.0100 at 2024-01-01"),
        (rows[["A"]], "say nothing about 'B'"),
    ):
        with pytest.raises(BadInput, match=says):
            target_rows(bars, bad)
    target_rows(bars, rows.assign(A=[0.5 + 1e-10, 1]))


def test_a_shared_purse_pays_fees_slippage_and_the_smallest_order():
    bars = closes(A=[10, 10, 10], B=[10, 10, 10])
    rows = pd.DataFrame({"A": [0.5], "B": [0.25]}, DAY[:1])
    b = backtest(bars, weights=rows, fees=0.01, slippage=0.1, fixed_fees=1.0, cash=100.0)
    assert b.orders.set_index("symbol")["amount"].to_dict() == pytest.approx({"A": 5.0,
        "B": 2.5}) and b.orders["price"].tolist() == pytest.approx([11, 11])
    assert b.orders["fee"].sum() == pytest.approx(0.01 * 82.5 + 2) and b.cash.iloc[1] == pytest.approx(100 - 82.5 - 2.825)
    assert backtest(bars, weights=rows, min_size=3.0, cash=100.0).orders["symbol"].tolist() == ["A"]
    assert list(b.accounts) == ["all"] and b.equity.name == "equity"


def test_each_symbol_has_its_own_purse_and_size_is_a_fraction_of_it():
    bars = closes(A=[10, 10, 20, 20], B=[10, 10, 5, 5])
    held = pd.DataFrame({"A": [1] * 4, "B": [1] * 4}, DAY[:4])
    b = backtest(bars, signals=held, fees=0.0, cash=100.0, shared=False)
    assert b.accounts.iloc[-1].to_dict() == pytest.approx({"A": 100, "B": 25}) and b.equity.tolist() == pytest.approx([100, 100, 125, 125])
    half = backtest(bars, signals=held, fees=0.0, cash=100.0, size=0.5, shared=False)
    assert half.units.iloc[-1].to_dict() == pytest.approx({"A": 2.5, "B": 2.5}) and half.equity.iloc[-1] == pytest.approx(112.5)
    table = pd.DataFrame({"A": [0.2, 0.9, 0.9, 0.9], "B": [0.4, 0.9, 0.9, 0.9]}, DAY[:4])  # the size known when the entry was decided
    apart = backtest(bars, signals=held, fees=0.0, cash=100.0, size=table, shared=False)
    assert apart.units.iloc[-1].to_dict() == pytest.approx({"A": 1.0, "B": 2.0})
    for size, says in ((0.0, "A: size is 0.0"), (1.1, "A: size is 1.1"), (table * -1, "A: size is -0.2 at 2024-01-01")):
        with pytest.raises(BadInput, match=says):
            backtest(bars, signals=held, size=size)
    for bad in ({"stop_loss": 0.1}, {"take_profit": 0.1}, {"trailing": True, "stop_loss": 0.1}, {"size": 0.5}):
        with pytest.raises(BadInput, match="stops and size belong to signals"):
            backtest(bars, weights=held / 2, **bad)


def test_exactly_one_intention_is_needed():
    bars, held = closes(A=[1, 2, 3]), pd.DataFrame({"A": [1, 1, 1]}, DAY[:3])

    class Both:
        def weights(self, bars):
            return held * 0.5

        def signals(self, bars):
            raise AssertionError("weights go first")

    class Signals:
        def signals(self, bars):
            return held

    assert backtest(bars, Both(), fees=0).units["A"].iloc[-1] == pytest.approx(6250 / 3) and backtest(bars, Signals(),
        fees=0).units["A"].iloc[-1] == pytest.approx(5000)
    for asked in ({}, {"signals": held, "weights": held}, {"strategy": Both(), "signals": held}):
        with pytest.raises(BadInput, match="exactly one of a strategy, signals= or weights="):
            backtest(bars, **asked)
    with pytest.raises(BadInput, match="int has neither signals"):
        backtest(bars, 3)


def test_a_ruined_purse_stays_at_zero_and_its_later_orders_are_forgotten():
    bars = closes(A=[10, 10, 25, 10, 10, 10], B=[10] * 6)
    shorts = pd.DataFrame({"A": [-1, -1, 1, 0, 0, 0], "B": [0] * 6}, DAY[:6])
    b = backtest(bars, signals=shorts, fees=0.0, cash=200.0, shared=False)
    assert b.accounts["A"].tolist() == [100, 100, 0, 0, 0, 0] and b.equity.tolist() == [200, 200, 100, 100, 100, 100]
    assert b.units["A"].tolist() == [0, -10, 0, 0, 0, 0] and len(b.orders) == 2 and b.trades["reason"].tolist() == ["liquidation"]
    assert any("the account of A was ruined" in note and "owed 50.00 more" in note for note in b.notes), "250 to buy back what 200 are there for"
    assert b.cash.tolist() == [200, 300, 100, 100, 100, 100] and b.returns.tolist() == [0, 0, -0.5, 0, 0, 0] and b.stats["max_drawdown"] == -0.5


def test_a_short_is_closed_where_its_margin_is_used_up():
    bars = one([10, 10, 25, 10], [10, 10, 10, 10])
    b = backtest(bars, signals=pd.DataFrame({"A": [0, -1, 1, 0]}, DAY[:4]), fees=0.0, cash=100.0)
    # sold at the open of the third bar: 200 - 10 p is a quarter of 10 p at 16, and 40 are left; they buy at the open of the fourth
    assert b.orders["price"].tolist() == pytest.approx([10, 16, 10]) and b.equity.tolist() == pytest.approx([100, 100, 40, 40])
    assert b.orders["reason"].tolist() == ["signal", "liquidation", "signal"] and b.trades["pnl"].tolist() == pytest.approx([-60, 0])


def test_defaults_and_a_hole_while_something_is_held():
    bars, held = closes(A=[10, 10, np.nan, 5, 20]), pd.DataFrame({"A": [1] * 5}, DAY[:5])
    b = backtest(bars, signals=held, size=0.5)
    assert b.orders["fee"].tolist() == pytest.approx([0.001 * b.orders["cost"].item()]) and b.orders["price"].tolist() == [10.0]
    assert b.costs == Costs(0.001, 0.0, 0.0, 0.0, 10_000.0) and b.periods == 252
    assert b.exposure.tolist() == pytest.approx([0, *(b.units["A"].iloc[1] * p / e for p, e in zip([10, 10, 5, 20], b.equity[1:], strict=True))])


def test_the_size_that_carries_a_volatility():
    close = [100, 110, 99, 108.9, 98.01, 107.811]  # ±10 %: the sample deviation of three is 0.11547, of two 0.141421
    table = volatility_size(closes(A=close), 0.1, window=2, periods=1)
    assert table["A"].isna().tolist() == [True, True, False, False, False,
                                          False] and table["A"].iloc[2:].tolist() == pytest.approx([0.1 / 0.1414213562] * 4)
    assert volatility_size(closes(A=close), 0.1, window=3, periods=4)["A"].iloc[3] == pytest.approx(0.1 / (0.1154700538 * 2))
    assert volatility_size(closes(A=close), 9.0, window=2, periods=1)["A"].iloc[2] == 1.0
    weekend = pd.DataFrame({"close": close}, pd.date_range("2024-01-05", periods=6, tz="UTC"))  # with a weekend a year has 365.25 bars
    assert volatility_size(bars_from({"A": weekend}), 0.1, window=2)["A"].iloc[2] == pytest.approx(0.1 / (0.1414213562 * 365.25**0.5))
    gap = volatility_size(closes(A=[100, 110, np.nan, 99, 108.9, 98.01]), 0.1, window=2, periods=1)["A"]
    assert gap.isna().tolist() == [True, True, True, False, False, False] and gap.iloc[3] == pytest.approx(0.1 / 0.1414213562)
    for target, window in ((0.0, 2), (-1, 2), (0.1, 1)):
        with pytest.raises(BadInput, match="the target is above 0"):
            volatility_size(closes(A=close), target, window)


@pytest.mark.parametrize("bad, says", [({"fees": 1.0}, "fees is 1.0, the whole"), ({"slippage": 1.0}, "slippage is 1.0"),
                                       ({"fees": -0.01}, "fees is -0.01"), ({"slippage": np.nan}, "slippage"),
                                       ({"fixed_fees": -1}, "fixed_fees"), ({"min_size": -1}, "min_size"), ({"cash": 0.0}, "cash is 0.0"),
                                       ({"cash": np.inf}, "cash is inf")])
def test_costs_at_the_edge(bad, says):
    Costs(0.0, 0.999, 0.0, 0.0, 0.01)
    with pytest.raises(BadInput, match=says):
        Costs(**{"fees": 0.1, **bad})


def test_the_engine_turns_in_one_order_unless_it_has_a_fraction():
    close = pd.DataFrame({"A": [10.0, 10, 10, 12, 12]}, DAY[:5])
    wanted = pd.DataFrame({"A": [0, 1, -1, -1, 0]}, DAY[:5], dtype=np.int8)
    fills = fill_directions(close, close, wanted, Costs(0.0, cash=100.0))
    assert fills.orders[["side", "amount"]].to_numpy().tolist() == [["buy", 10.0], ["sell", 20.0],
        ["buy", 10.0]] and fills.value["A"].tolist() == [100, 100, 100, 80, 80]
    assert fills.trades["side"].tolist() == ["long", "short"] and fills.trades["pnl"].tolist() == [0, -20] and fills.units["A"].tolist() == [0, 10,
        -10, -10, 0]
    with pytest.raises(BadInput, match="A: turns from long to short in one order at 2024-01-03"):
        fill_directions(close, close, wanted, Costs(0.0, cash=100.0), close * 0 + 0.5)
