"The compiled account against the same account in plain Python: everything at once, on random bars, to nine digits."

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
from trading.core.bars import bars_from

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
