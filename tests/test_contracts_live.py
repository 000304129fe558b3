"Real orders for perpetuals, by commands and stock ccxt against a served exchange: long and short, funding, liquidation, the brake, and bad days."

import os
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from trading.accounting.ledger import Ledger
from trading.cli.main import main
from trading.core.errors import BadInput
from trading.core.settings import load_settings
from trading.core.types import Action, Event, Order, Plan
from trading.execution.emergency_stop import close_positions
from trading.execution.executor import OrderParameters, execute
from trading.execution.order_manager import OrderContext, RetryPolicy
from trading.execution.reconciliation import expected_holdings, reconcile
from trading.testing.binance_server import SignatureCheck, served
from trading.testing.futures_server import FuturesCounter, FuturesExchange, make_futures_exchange
from trading.venues.crypto.contract_venue import ContractVenue

pytestmark = pytest.mark.xdist_group("contracts")

KEYS = {"BINANCE_API_KEY": "public-key", "BINANCE_SECRET": "private-secret-of-the-test"}
COINS = ("AAA", "BBB", "CCC", "DDD")
SYMBOLS = [f"{c}/USDT:USDT" for c in COINS]
DAY = 86_400_000
NOW = lambda: datetime.now(UTC)  # noqa: E731
SETTINGS = f"""[run]
profile = swaps
mode = live
[swaps:market]
source = ccxt
venue = binance
symbols = {", ".join(SYMBOLS)}
currency = USDT
start = START
calendar = 24/7
max_age_hours = 72
[swaps:margin]
leverage = 2
[swaps:allocate]
policy = long short
window = 260
risk_level = very high
[swaps:forecast]
window = 900
horizons = 1, 5
[swaps:limits]
max_leverage = 1.5
max_weight = 0.6
max_group_weight = 1.0
max_net = 1
max_turnover = 3
max_var_95 = 0.5
max_drawdown = 0.9
max_daily_loss = 0.9
[swaps:execution]
settle_seconds = 0.05
[swaps:live]
address = URL
reported = true
"""


@lru_cache
def rows_of(symbol: str) -> list[list]:
    "Days of a coin that end yesterday, as `klines` tells them."
    days = pd.date_range(end=pd.Timestamp(NOW()).normalize() - pd.Timedelta(days=1), periods=1300, tz="UTC")
    dice = np.random.default_rng(COINS.index(symbol[:3]))
    close = (100 * np.exp(np.cumsum(dice.normal(0.001, 0.02, len(days))))).round(2)
    begin = np.r_[close[0], close[:-1]]
    frame = np.c_[begin, np.maximum(begin, close) * 1.002, np.minimum(begin, close) * 0.998, close, np.full(len(days), 1e6)].round(2)
    return [[int(t.timestamp() * 1000), *map(str, r), int(t.timestamp() * 1000) + DAY - 1, "0", 0, "0", "0", "0"] for t, r in zip(days, frame, strict=True)]


def bars(symbol, interval, start, limit):
    return [r for r in rows_of(symbol) if r[0] >= start][:limit] if interval == "1d" else []


class Place:
    "The exchange, its address, what was asked of it, and what goes wrong."

    def __init__(self, prices: dict[str, D], **more):
        self.desk, self.asked, self.fault = FuturesExchange(prices, **more), [], lambda method, path: ""
        self.app = make_futures_exchange(FuturesCounter(self.desk, bars), SignatureCheck(*KEYS.values()), lambda m, p: self.fault(m, p), self.asked)

    def sent(self) -> int:
        return self.asked.count(("POST", "order"))


@pytest.fixture
def place():
    made = Place({f"{c}USDT": D(rows_of(f"{c}USDT")[-1][4]) for c in COINS})
    with served(made.app) as made.url:
        yield made


@pytest.fixture
def venue(place):
    return ContractVenue("binance", *KEYS.values(), leverage=2, base_url=place.url, symbols=SYMBOLS)


def carnet(*words):
    return CliRunner().invoke(main, list(words))


def test_the_whole_life_of_a_long_and_short_account_by_commands(place, tmp_path, monkeypatch):
    for name in [n for n in os.environ if n.startswith("CARNET_")]:
        monkeypatch.delenv(name)
    for name, value in {**KEYS, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    start = datetime.fromtimestamp(rows_of("AAAUSDT")[0][0] / 1000, UTC).date() - timedelta(days=1)
    (tmp_path / "settings.ini").write_text(SETTINGS.replace("URL", place.url).replace("START", str(start)))
    place.desk.hedged = True
    refused = carnet("run")
    assert refused.exit_code != 0 and "is in hedge mode" in refused.output and place.sent() == 0, refused.output
    place.desk.hedged = False
    first = carnet("run")
    assert "carnet approve" in first.output and place.sent() == 0, first.output
    done = carnet("approve", "last", "--by", "Ada")
    assert done.exit_code == 0, done.output
    desk, held = place.desk, {f"{s[:3]}/USDT:USDT": n for s, n in place.desk.units.items() if n}
    assert len(held) > 1 and min(held.values()) < 0 < max(held.values()) and place.sent() == len(held)
    assert {desk.modes[f"{s[:3]}USDT"] for s in held} == {"ISOLATED"} and {desk.levers[f"{s[:3]}USDT"] for s in held} == {2}
    ledger = Ledger(tmp_path / "data" / "ledger.sqlite", readonly=True)
    book = lambda: ledger.book("live-swaps")  # noqa: E731
    assert {s: p.amount for s, p in book().positions.items()} == held
    desk.fund(D("0.0003"))
    said = carnet("reconcile")
    assert said.exit_code == 0 and "funding" in said.output, said.output
    paid = ledger.events("live-swaps", "funding")
    assert {e.data["symbol"]: D(e.data["amount"]) for e in paid} == {f"{r['symbol'][:3]}/USDT:USDT": D(r["income"]) for r in desk.income if r["incomeType"] == "FUNDING_FEE"}
    prices = {f"{s[:3]}/USDT:USDT": p for s, p in desk.prices.items()}
    assert book().equity(prices) == desk.wallet + sum((n * desk.prices[s] - desk.cost[s] for s, n in desk.units.items()), D(0))
    for symbol, units in list(desk.units.items()):  # what a person trades beside the books is seen
        if units:
            desk._fill(desk._order(symbol, "BUY", "MARKET", D(1), D(0), "by-hand", False, "GTC"), desk.prices[symbol])
            break
    differs = carnet("reconcile")
    assert differs.exit_code != 0 and "is not ours" in differs.output, differs.output
    desk._fill(desk._order(symbol, "SELL", "MARKET", D(1), D(0), "by-hand-2", False, "GTC"), desk.prices[symbol])
    before = place.sent()
    stopped = carnet("kill", "enough", "--who", "Ada", "--flatten")
    assert stopped.exit_code == 0, stopped.output
    assert not any(desk.units.values()) and place.sent() == before + len(held), stopped.output
    assert all(o["reduceOnly"] for o in desk.orders[-len(held):]) and not book().positions
    again = carnet("kill", "enough", "--who", "Ada", "--flatten")
    assert place.sent() == before + len(held), again.output


# what a leveraged account must survive, order by order

A, B = SYMBOLS[:2]


def books(venue, now=None):
    "An account opened with what lies at the venue."
    from trading.execution.reconciliation import open_from_venue

    ledger = Ledger(":memory:")
    open_from_venue(ledger, venue, "live-x", "USDT", venue.fetch_tickers(SYMBOLS), now or NOW(), SYMBOLS)
    return ledger


def plan_of(ledger, *actions):
    from trading.execution.approval import approve_plan, propose_plan

    book = ledger.book("live-x")
    plan = Plan("live-x", NOW(), "USDT", D(10_000), book.cash, tuple(Action(s, side, D(n), D(p), "test") for s, side, n, p in actions), {})
    propose_plan(ledger, plan, NOW())
    approve_plan(ledger, plan, "Ada", NOW())
    return plan


def traded(ledger, venue, plan, **more):
    from trading.core.types import CheckResult

    verdict = CheckResult(plan.hash, (), ("all",)) if False else more.pop("verdict")
    return execute(plan, verdict, venue, ledger, NOW, OrderParameters(D(0)), account="live-x", patience=RetryPolicy(settle=0.05, poll=0.01), **more)
