"The compiled account against the same account in plain Python: everything at once, on random bars, to nine digits."

import pickle

import numpy as np
import pandas as pd
import pytest
from account_loop import Loop

from trading.backtest.account import (
    EXIT_REASONS,
    AccountRules,
    TradeRules,
    carry_table,
    entry_ways,
    hold_time,
    make_market,
    payout,
    run_book,
    step_table,
)
from trading.backtest.costs import Costs
from trading.backtest.engine import backtest
from trading.core.bars import bars_from, bars_from_close

BITS = {"entry": 1, "exit": 2, "short_entry": 4, "short_exit": 8}


def random_bars(rng: np.random.Generator, symbols: int, count: int = 160, step: float = 0.03) -> pd.DataFrame:
    "Bars with gaps at the open, holes, days without trade, and a symbol that may end early."
    times = pd.date_range("2021-01-01", periods=count, freq=str(rng.choice(["1h", "1D"])), tz="UTC")
    frames = {}
    for n in range(symbols):
        close = 50 * np.exp(np.cumsum(rng.normal(0, step, count)))
        opened = np.r_[close[0], close[:-1]] * np.exp(rng.normal(0, step / 3, count))
        high = np.maximum(opened, close) * (1 + rng.exponential(step / 3, count))
        low = np.minimum(opened, close) * (1 - np.minimum(rng.exponential(step / 3, count), 0.5))
        volume = np.where(rng.random(count) < 0.05, 0.0, 10.0)
        frame = pd.DataFrame({"open": opened, "high": high, "low": low, "close": close, "volume": volume}, index=times)
        frame[rng.random(count) < 0.04] = np.nan
        if rng.random() < 0.3:
            frame.iloc[int(rng.integers(count // 2, count - 5)):] = np.nan
        frames[f"S{n}"] = frame
    return bars_from(frames)


def plain_run(market, costs: Costs, trade: TradeRules, account: AccountRules, act, targets, ways) -> Loop:
    "Ask the plain loop the same question."
    cell = lambda plane: [[None if np.isnan(x) else float(x) for x in row] for row in plane]  # noqa: E731
    rows = np.broadcast_to(ways, (6, len(market.index), len(market.symbols)))
    carry = carry_table(market, account)
    age, bars = hold_time(trade.time_stop)
    rules = {"hold_time": age, "hold_bars": bars, "entry": trade.order, "valid": trade.valid_bars, "risk": trade.risk, "trailing": trade.trailing,
             "hopeful": trade.intrabar == "optimistic", "partial": list(trade.partial), "steps": step_table(trade.steps).tolist(),
             "size": [[float(x) for x in row] for row in rows[0]], "stop": cell(rows[1]), "target": cell(rows[2]),
             "price": [[float(x) for x in row] for row in rows[4]], "offset": float(rows[5, 0, 0])}
    loop = Loop({"fees": costs.fees, "slippage": costs.slippage, "fixed_fees": costs.fixed_fees, "min_size": costs.min_size, "cash": costs.cash,
                 "fill": market.fill}, rules,
                {"leverage": account.leverage, "keep": account.keep, "payout": payout(account.delisting), "ends": market.ends.tolist(),
                 "negative": account.negative_prices, "carry": np.moveaxis(carry, 0, 2).tolist() if carry.shape[1] else None})
    names = ("fill", "open", "high", "low", "close", "listed")
    bars = [{k: [float(x) for x in market.planes[p, t]] for p, k in enumerate(names)} for t in range(len(market.index))]
    asks = [{"wishes": {n: {k for k, b in BITS.items() if act[t, n] & b} for n in range(act.shape[1]) if act[t, n]},
             "weights": {n: float(targets[t, n]) for n in range(act.shape[1]) if not np.isnan(targets[t, n])} if targets is not None else {}}
            for t in range(len(act))]
    loop.run(bars, asks, market.clock.tolist())
    return loop


def compare(run, loop: Loop) -> None:
    for ours, theirs in zip(run.orders, loop.orders, strict=False):
        assert (int(ours[0]), int(ours[1]), EXIT_REASONS[int(ours[5])]) == (theirs[0], theirs[1], theirs[5])
        np.testing.assert_allclose(ours[2:5], theirs[2:5], rtol=1e-9, atol=1e-9)
    assert len(run.orders) == len(loop.orders)
    np.testing.assert_allclose(run.value, loop.values, rtol=1e-9, atol=1e-6)
    closed = run.trades[run.trades[:, 10] == 0]
    assert len(closed) == len(loop.trades)
    for ours, theirs in zip(closed, loop.trades, strict=True):
        assert EXIT_REASONS[int(ours[9])] == theirs[9]
        np.testing.assert_allclose(ours[:9], theirs[:9], rtol=1e-9, atol=1e-7)


def some(rng, chance, value):
    return value if rng.random() < chance else None


def random_rules(rng: np.random.Generator, bars: pd.DataFrame) -> tuple[Costs, TradeRules, AccountRules, str]:
    leverage = float(rng.choice([1.0, 1.0, 2.0, 5.0]))
    stop = some(rng, 0.6, float(rng.uniform(0.01, 0.1)))
    trade = {"stop_loss": stop, "take_profit": some(rng, 0.4, float(rng.uniform(0.02, 0.15))), "trailing": stop is not None and rng.random() < 0.4,
             "time_stop": [None, int(rng.integers(1, 12)), "36h"][rng.integers(0, 3)],
             "steps": some(rng, 0.3, {"0h": 0.12, "5h": 0.06, "2D": 0.02, "9D": -0.01}), "partial": some(rng, 0.3, [(0.02, 0.5), (0.05, 0.25)]) or (),
             "intrabar": str(rng.choice(["pessimistic", "optimistic"]))}
    trade |= {"order": str(rng.choice(["market", "limit", "stop"])), "valid_bars": int(rng.integers(1, 4))}
    if trade["order"] != "market":
        trade["order_offset"] = float(rng.uniform(0, 0.03))
    if stop is not None and rng.random() < 0.4:
        trade["risk"] = float(rng.uniform(0.002, 0.05))
    elif rng.random() < 0.7:
        trade["size"] = float(rng.uniform(0.1, leverage))
    account = {"leverage": leverage, "maintenance": some(rng, 0.5, float(rng.uniform(0.3, 0.9)) / leverage),
               "delisting": ["last", "zero", 0.3][rng.integers(0, 3)]}
    if rng.random() < 0.5:
        times = bars.index[::7] + pd.Timedelta(minutes=7)
        account |= {"borrow": 0.1, "interest": 0.08, "swap_long": 0.05, "swap_short": -0.02,
                    "funding": pd.DataFrame(rng.normal(0, 0.001, (len(times), bars["close"].shape[1])), times, bars["close"].columns)}
    costs = Costs(*(float(rng.choice([0.0, most])) for most in (0.002, 0.001, 1.0, 2.0)), 10_000.0)
    return costs, TradeRules(**trade), AccountRules(**account), str(rng.choice(["open", "close"]))


@pytest.mark.parametrize("seed", range(10))
def test_the_compiled_account_is_the_plain_one(seed):
    rng, seen = np.random.default_rng(seed), set()
    for _ in range(30):
        bars = random_bars(rng, int(rng.integers(1, 5)), step=float(rng.choice([0.01, 0.04])))
        costs, trade, account, fill = random_rules(rng, bars)
        market = make_market(bars, fill)
        act = rng.choice([0, 1, 2, 4, 8, 5, 10], size=market.planes.shape[1:], p=[0.8, 0.06, 0.04, 0.06, 0.04, 0, 0]).astype(np.int8)
        ways = entry_ways(market, trade)
        run = run_book(market, costs, trade, account, act, ways)
        compare(run, plain_run(market, costs, trade, account, act, None, ways))
        seen |= {EXIT_REASONS[int(r)] for r in run.trades[:, 9]}
    assert {"signal", "stop", "target", "time"} <= seen


@pytest.mark.parametrize("seed", range(4))
def test_weights_are_traded_as_the_plain_account_trades_them(seed):
    rng = np.random.default_rng(100 + seed)
    for _ in range(20):
        bars = random_bars(rng, int(rng.integers(1, 5)))
        costs, _, account, fill = random_rules(rng, bars)
        market = make_market(bars, fill)
        rows = rng.normal(0, 1, market.planes.shape[1:])
        rows *= account.leverage * rng.random((len(rows), 1)) / np.abs(rows).sum(axis=1, keepdims=True)
        targets = np.where(rng.random((len(rows), 1)) < 0.2, rows, np.nan)
        act, ways = np.zeros(rows.shape, np.int8), entry_ways(market, TradeRules())
        run = run_book(market, costs, TradeRules(), account, act, ways, targets)
        compare(run, plain_run(market, costs, TradeRules(), account, act, targets, ways))


def test_prices_below_zero_where_they_are_allowed():
    rng = np.random.default_rng(5)
    for _ in range(30):
        bars = random_bars(rng, 2, step=0.02)
        prices = bars.columns.get_level_values(0) != "volume"
        bars.loc[:, prices] -= float(rng.uniform(20, 60))
        costs, trade, account, fill = random_rules(rng, bars)
        account = AccountRules(**{**account.__dict__, "negative_prices": True})
        market = make_market(bars, fill, negative=True)
        act = rng.choice([0, 1, 2, 4, 8], size=market.planes.shape[1:], p=[0.8, 0.06, 0.04, 0.06, 0.04]).astype(np.int8)
        ways = entry_ways(market, trade)
        compare(run_book(market, costs, trade, account, act, ways), plain_run(market, costs, trade, account, act, None, ways))


def laid_out(bars, fill, negative=False):
    "Lay bars out as the account kernel reads them, one number after the other."
    symbols = list(dict.fromkeys(s for _, s in bars.columns))
    used = "open" if fill != "close" and all(("open", s) in bars.columns for s in symbols) else "close"
    planes = np.full((6, len(bars), len(symbols)), np.nan)
    clock = bars.index.as_unit("ns").asi8
    usual = int(np.median(np.diff(clock, prepend=clock[0])))
    for n, symbol in enumerate(symbols):
        traded = ("volume", symbol) in bars.columns and (bars["volume", symbol] > 0).any()
        seen = None
        for t in range(len(bars)):
            have = {f: bars[f, symbol].iloc[t] for f in ("open", "high", "low", "close") if (f, symbol) in bars.columns}
            known = [v for v in have.values() if v == v]
            idle = traded and bars["volume", symbol].iloc[t] == 0
            planes[0, t, n] = np.nan if idle else have[used]
            planes[1, t, n] = have["open"] if "open" in have and have["open"] == have["open"] else have["close"]
            planes[2, t, n], planes[3, t, n] = (max(known), min(known)) if known else (np.nan, np.nan)
            seen = t if have["close"] == have["close"] else seen
            planes[4, t, n] = 0.0 if seen is None else bars["close", symbol].iloc[seen]
            there = seen is not None and clock[t] - clock[seen] <= max(7 * 86_400 * 10**9, 3 * usual)
            planes[5, t, n] = float(planes[0, t, n] == planes[0, t, n] or there)
    if not bars["close"].isna().to_numpy().any():
        planes[5] = 1.0
    return planes, used


OHLC = ("open", "high", "low", "close")


@pytest.mark.parametrize("fields", [OHLC, (*OHLC, "volume"), ("close",), ("high", "close"), ("volume", "close", "low")])
@pytest.mark.parametrize("fill", ["auto", "close"])
def test_bars_are_laid_out_as_one_number_after_the_other_says_and_are_left_alone(fields, fill):
    rng, days = np.random.default_rng(len(fields)), pd.date_range("2024-01-01", periods=60, tz="UTC")
    for holes in (0.0, 0.2):
        close = 50 * np.exp(np.cumsum(rng.normal(0, 0.05, (60, 3)), axis=0))
        tables = {"open": close * 1.01, "high": close * np.exp(rng.normal(0, 0.02, close.shape)), "low": close * 0.97, "close": close,
                  "volume": rng.integers(0, 3, close.shape).astype(float)}
        gone = rng.random(close.shape) < holes
        gone[20:40, 1], gone[:5, 2] = holes > 0, holes > 0
        bars = pd.concat({f: pd.DataFrame(np.where(gone, np.nan, tables[f]), days, list("ABC")) for f in fields}, axis=1)
        for given in (bars, bars.copy().astype(object).astype(float), bars[bars.columns[::-1]]):
            before = given.copy()
            market = make_market(given, fill)
            planes, used = laid_out(given, fill)
            np.testing.assert_array_equal(market.planes, planes)
            assert market.fill == used and market.planes.flags["C_CONTIGUOUS"]
            pd.testing.assert_frame_equal(given, before)


def test_a_backtest_tells_the_same_whenever_it_is_asked_and_after_it_was_sent_away():
    rng, days = np.random.default_rng(0), pd.date_range("2024-01-01", periods=40, tz="UTC")
    close = pd.DataFrame(50 * np.exp(np.cumsum(rng.normal(0, 0.05, (40, 3)), axis=0)), days, list("ABC"))
    run = backtest(bars_from_close(close), weights=pd.DataFrame(rng.dirichlet(np.ones(3), 40), days, list("ABC")), register=False)
    sent = pickle.loads(pickle.dumps(run))
    tables = ("equity", "accounts", "units", "cash", "carried", "close",
              "delisted", "assumptions", "orders", "trades", "returns", "exposure", "stats")
    for name in tables:
        first, again, there = getattr(run, name), getattr(run, name), getattr(sent, name)
        same = pd.testing.assert_series_equal if isinstance(first, pd.Series) else pd.testing.assert_frame_equal
        same(first, again)
        same(first, there)
    assert repr(run) == repr(sent) == repr(pickle.loads(pickle.dumps(run))) and run._repr_html_() == sent._repr_html_()
    assert run.assumptions.index.name == "topic" and run.assumptions.loc["fees", "assumed"] == "0.1 % of the traded value"
    assert run.delisted.empty and list(run.delisted) == ["symbol", "last", "price", "paid", "amount"] and list(run.close) == list("ABC")
    held = run.trades[run.trades["open"]]
    assert len(held) == 3 and (run.orders.groupby("timestamp").size().iloc[1:] == 3).all()
    assert run.units.iloc[-1].abs().tolist() == pytest.approx([held.set_index("symbol")["amount"][s] for s in "ABC"])
