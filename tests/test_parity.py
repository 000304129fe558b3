"""What was back-tested is what trades: the same strategy as one array calculation and day by day through plan, check, execution and paper exchange.

The reference knows two roundings of the exchange, prices to 0.0001 and fees to 1e-8: a cent decides whether the cash buys one share more. What
both cost together is named: it is the difference to the same arrays without them.

PARITY_DAYS sets the number of days; 520 days of 20 stocks are 10,400 decisions.
"""

import os
import tempfile
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trading.accounting.ledger import Ledger
from trading.backtest.engine import backtest
from trading.core.datasets import sample_bars
from trading.core.instruments import Instrument
from trading.execution.approval import approve_plan, read_plan
from trading.execution.executor import OrderParameters, execute
from trading.execution.plan import PlanConstraints, make_plan
from trading.execution.pre_trade import check_plan
from trading.execution.reconciliation import reconcile
from trading.risk.limits import RiskLimits
from trading.venues.paper.costs import TradingCosts
from trading.venues.paper.exchange import PaperVenue
from trading.venues.paper.matching import BarFeed, exact

pytestmark = pytest.mark.xdist_group("parity")  # one worker: what they share is made once

DAYS = int(os.environ.get("PARITY_DAYS", "520"))
FEE, SLIPPAGE, DRIFT, CASH = 0.001, 0.0005, 0.2, 1_000_000
BARS = sample_bars("stocks")
CLOSE = BARS["close"].iloc[-DAYS - 60 :]
MARKETS = {s: Instrument(s, Decimal(1), Decimal("0.0001"), Decimal(1)) for s in CLOSE.columns}
COSTS = TradingCosts(Decimal(str(FEE)), Decimal(2), Decimal(3))
RULES = PlanConstraints(fee_rate=Decimal(0), min_trade=Decimal(0), drift=Decimal(str(DRIFT)))
STYLE = OrderParameters(Decimal(str(FEE)))


def targets() -> pd.DataFrame:
    "Return the strategy: hold what stands above its average of 50 days, each with a weight of 4.5 %."
    return (CLOSE.rolling(50).mean() < CLOSE).astype(float).iloc[-DAYS - 1 : -1] * 0.045


def as_arrays(rounded: bool) -> tuple[list[tuple], float, float]:
    "Compute the strategy with arrays: decide at a close, trade whole shares at the next one. Return orders, cash and final equity."
    wanted, close = targets().to_numpy(), CLOSE.iloc[-DAYS - 1 :].to_numpy()
    units, cash, orders = np.zeros(close.shape[1]), float(CASH), []
    for day, weights in enumerate(wanted):
        price, later = close[day], close[day + 1]
        aim, value = weights * (cash + units @ price), units * price
        gap = aim - value
        moved = (np.abs(gap) > DRIFT * aim) | ((weights == 0) != (units == 0))
        trade = np.where(moved, np.where((weights == 0) & (gap < 0), -units, np.sign(gap) * np.floor(np.abs(gap) / price)), 0.0)
        paid = later * (1 + np.sign(trade) * SLIPPAGE)
        if rounded:
            paid = np.where(trade > 0, np.ceil(paid * 1e4 - 1e-6), np.floor(paid * 1e4 + 1e-6)) / 1e4
        fees = FEE * np.abs(trade) * paid
        cash -= trade @ paid + (np.ceil(fees * 1e8 - 1e-3) / 1e8 if rounded else fees).sum()
        units += trade
        orders += [(day, CLOSE.columns[i], "buy" if trade[i] > 0 else "sell", int(abs(trade[i]))) for i in np.flatnonzero(trade)]
    return orders, cash, cash + units @ close[-1]


def day_by_day(folder: Path) -> tuple[list[tuple], Ledger, dict]:
    "Trade the strategy as the daily job does. Return orders, the ledger and the last prices."
    moment = {}
    venue = PaperVenue(BarFeed(BARS.iloc[-DAYS - 60 :]), lambda: moment["now"], MARKETS, COSTS, {"USD": Decimal(CASH)}, "USD")
    ledger, orders = Ledger(folder / "ledger.db"), []
    for day, (time, weights) in enumerate(targets().iterrows()):
        now = moment["now"] = (time + timedelta(days=1)).to_pydatetime()
        ledger.open_account("paper", "USD", Decimal(CASH), now)
        book = ledger.book("paper")
        held = {s: p.amount for s, p in book.positions.items()}
        prices = {s: exact(p) for s, p in CLOSE.loc[time].items()}
        plan = make_plan("paper", now, held, book.cash, weights, prices, MARKETS, RULES, "USD")
        verdict = check_plan(plan, RiskLimits(max_weight=0.1), prices, dict.fromkeys(prices, now), now, held, book.cash, MARKETS, None)
        approve_plan(ledger, plan, "the test", now)
        done = execute(plan, verdict, venue, ledger, now, STYLE)
        orders += sorted((day, o.symbol, o.side, int(o.filled)) for o in done.orders)
        assert not done.failed
    assert reconcile(ledger, venue, "paper", moment["now"] + timedelta(days=9)).ok
    return orders, ledger, {s: exact(p) for s, p in CLOSE.iloc[-1].items()}


@pytest.fixture(scope="module")
def traded():
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield day_by_day(Path(folder))


def test_backtest_and_paper_give_the_same_orders_and_explain_every_cent(traded):
    orders, ledger, last = traded
    wanted, cash, equity = as_arrays(rounded=True)
    assert orders == sorted(wanted) and len(orders) > DAYS
    book = ledger.book("paper")
    unexplained = equity - float(book.equity(last))
    assert abs(unexplained) < 1e-4 and abs(cash - float(book.cash)) < 1e-4, unexplained  # floats of a million dollars, added up thousands of times
    other, _, smooth = as_arrays(rounded=False)
    assert abs(smooth / equity - 1) < 1e-4
    print(f"{DAYS * CLOSE.shape[1]} decisions, {len(orders)} orders equal, unexplained {unexplained:.1e} USD; "
          f"without rounding {len(set(other) ^ set(wanted))} orders and {smooth - equity:.4f} USD differ")


def test_the_vectorised_backtest_and_paper_differ_only_by_whole_shares_and_the_band(traded):
    _, ledger, last = traded
    simulated = backtest(BARS.iloc[-DAYS - 60 :], weights=targets(), fees=FEE, slippage=SLIPPAGE, cash=float(CASH)).equity.loc[CLOSE.index[-1]]
    assert abs(simulated / float(ledger.book("paper").equity(last)) - 1) < 0.01


def test_replaying_the_recorded_plans_gives_the_same_trades(traded, tmp_path):
    _, ledger, _ = traded
    moment, copy, trades = {}, Ledger(tmp_path / "copy.db"), []
    venue = PaperVenue(BarFeed(BARS.iloc[-DAYS - 60 :]), lambda: moment["now"], MARKETS, COSTS, {"USD": Decimal(CASH)}, "USD")
    for event in ledger.events("paper", "proposed")[:10]:
        plan, now = read_plan(ledger, "paper", event.data["plan"]), event.timestamp
        moment["now"] = now
        copy.open_account("paper", "USD", Decimal(CASH), now)
        prices, book = {s: exact(p) for s, p in CLOSE.loc[now - timedelta(days=1)].items()}, copy.book("paper")
        held = {s: p.amount for s, p in book.positions.items()}
        verdict = check_plan(plan, RiskLimits(max_weight=0.1), prices, dict.fromkeys(prices, now), now, held, book.cash, MARKETS, None)
        approve_plan(copy, plan, "the replay", now)
        trades += execute(plan, verdict, venue, copy, now, STYLE).fills
    assert trades == ledger.fills("paper")[: len(trades)] and trades
