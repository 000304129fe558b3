"A MetaTrader account on margin with real orders, by commands in one process: long and short, swaps, a stop-out, both sides of a symbol, the brake."

import json
import os
import re
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal as D

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from swaps import long_short_settings

from trading.accounting.ledger import Ledger
from trading.accounting.sleeve_fills import sleeve_fills
from trading.cli.main import main
from trading.testing.binance_server import served
from trading.venues.mt5.bridge import make_bridge
from trading.venues.mt5.simulated_broker import Contract, roll_over
from trading.venues.mt5.simulated_terminal import SimulatedTerminal

pytestmark = pytest.mark.xdist_group("contracts")

KEY, LOGIN = "key-of-the-bridge-in-the-test", 5_000_001
PAIRS = {"EUR/USD": 1.1, "GBP/USD": 1.3, "NZD/USD": 0.65, "AUD/USD": 0.7}
MARKET = f"""source = mt5
venue = mt5
symbols = {", ".join(PAIRS)}
currency = USD
start = START
max_age_hours = 90
"""
LIVE = f"address = URL\nnumber = {LOGIN}\nreported = true\ntolerance = 0.05\n"


def bars(pair: str) -> pd.DataFrame:
    "Weekdays of a pair up to yesterday."
    days = pd.bdate_range(end=pd.Timestamp(datetime.now(UTC)).normalize() - pd.Timedelta(days=1), periods=1100, tz="UTC")
    dice = np.random.default_rng(list(PAIRS).index(pair))
    close = (PAIRS[pair] * np.exp(np.cumsum(dice.normal(0, 0.004, len(days))))).round(5)
    begin = np.r_[close[0], close[:-1]]
    high, low = np.maximum(close, begin) + 0.0005, np.minimum(close, begin) - 0.0005
    return pd.DataFrame({"open": begin, "high": high, "low": low, "close": close, "volume": 1.0}, index=days)


@pytest.fixture
def terminal():
    contracts = [Contract(p.replace("/", ""), *p.split("/"), commission=3.0, swap_long=-4.0, swap_short=1.5) for p in PAIRS]
    made = SimulatedTerminal(contracts, {p.replace("/", ""): bars(p) for p in PAIRS}, "UTC", cash=20_000.0)
    made.initialize()
    for p in PAIRS:
        price = float(bars(p)["close"].iloc[-1])
        made.symbol_select(p.replace("/", ""))
        made.quote(p.replace("/", ""), price, round(price + 0.0001, 5))
    return made


def carnet(*words):
    return CliRunner().invoke(main, list(words))


def by_hand(terminal, name: str, kind: int, lots: float) -> None:
    assert terminal.order_send({"action": 1, "symbol": name, "volume": lots, "type": kind, "type_filling": 1, "comment": "by hand"}).retcode == 10009


def test_the_whole_life_of_a_long_and_short_account_at_metatrader(terminal, tmp_path, monkeypatch):
    for name in [n for n in os.environ if n.startswith("CARNET_")]:
        monkeypatch.delenv(name)
    for name, value in {"MT5_BRIDGE_KEY": KEY, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("trading.services.queries_margin.FRESH_SECONDS", 0.0)  # each command of a user is a process of its own, and keeps nothing
    monkeypatch.chdir(tmp_path)
    file, desk = tmp_path / "settings.ini", terminal.desk
    with served(make_bridge(terminal, {"tests": KEY}, LOGIN, "UTC")) as url:
        market = MARKET.replace("START", str(bars("EUR/USD").index[0].date()))
        text = long_short_settings("loop", market, 5, "live", execution="settle_seconds = 0.05\n", live=LIVE.replace("URL", url))
        file.write_text(text)
        first = carnet("run")
        assert "carnet approve" in first.output and not desk.positions, first.output
        done = carnet("approve", "last", "--by", "Ada")
        assert done.exit_code == 0, done.output
        held = {f"{p.symbol[:3]}/{p.symbol[3:]}": D(str(p.volume)) * 100_000 * (1 if p.type == 0 else -1) for p in terminal.positions_get()}
        assert len(held) > 1 and min(held.values()) < 0 < max(held.values()), held
        book = lambda: told(lambda ledger: ledger.book("live-loop"))  # noqa: E731

        def told(ask):
            with closing(Ledger(tmp_path / "data" / "ledger.sqlite", readonly=True)) as ledger:
                return ask(ledger)

        assert {s: p.amount for s, p in book().positions.items()} == held
        shown = json.loads(carnet("margin", "--json").output)
        assert {i["symbol"]: D(i["units"]) for i in shown["items"]} == held and not shown["words"]
        assert float(shown["equity"]) == desk.money()["equity"] and float(shown["margin"]) == desk.money()["margin"]

        # a price that a position carries at the terminal closes it there: one of ours is booked, one that a person opened is not ours
        short = next(s for s, n in held.items() if n < 0)
        name = short.replace("/", "")
        sleeves = lambda: told(lambda ledger: sleeve_fills(ledger.events("live-loop"), datetime.max.replace(tzinfo=UTC))).units[short]  # noqa: E731
        owner = {k: n for k, n in sleeves().items() if n}
        assert sum(owner.values()) == held[short]
        (kept,) = terminal.positions_get(symbol=name)
        top = round(kept.price_current + 0.003, 5)
        assert terminal.order_send({"action": 6, "position": kept.ticket, "sl": top}).retcode == 10009
        terminal.quote(name, top - 0.0001, top)
        closed = carnet("reconcile")
        words = rf"mt5 closed {int(-held[short])}[.0]* {short} at {top}[0-9]*, because the stop loss that the position carries there was reached"
        assert closed.exit_code == 0 and re.search(words, closed.output), closed.output
        assert short not in book().positions and not any(sleeves().values()) and owner.keys() <= sleeves().keys()
        by_hand(terminal, name, 0, 0.01)
        (theirs,) = terminal.positions_get(symbol=name)
        assert terminal.order_send({"action": 6, "position": theirs.ticket, "tp": round(top + 0.002, 5)}).retcode == 10009
        terminal.quote(name, round(top + 0.002, 5), round(top + 0.0021, 5))
        assert not terminal.positions_get(symbol=name)
        foreign = carnet("reconcile")
        assert foreign.exit_code != 0 and foreign.output.count("is not ours") == 2 and "was reached" not in foreign.output, foreign.output

        # both sides of a symbol, which only a hedging account can hold, and a position beside the profile open nothing and are told
        desk.hedging = True
        long = next(s for s, n in held.items() if n > 0)
        by_hand(terminal, long.replace("/", ""), 1, 0.01)
        refused = carnet("run")
        assert refused.exit_code != 0 and f"{long} is held long and short beside one another" in refused.output, refused.output
        (against,) = [p for p in terminal.positions_get() if p.symbol == long.replace("/", "") and p.type == 1]
        whole = next(p for p in terminal.positions_get() if p.symbol == against.symbol and p.type == 0)
        request = {"action": 10, "position": against.ticket, "position_by": whole.ticket, "symbol": against.symbol}
        assert terminal.order_send(request).retcode == 10009
        desk.hedging = False
        differs = carnet("reconcile")
        assert differs.exit_code != 0 and "is not ours" in differs.output

        # nights cost swaps; where the level reaches the stop-out the broker closes the largest loss, and both come into the books
        roll_over(desk)
        (near,) = [i for i in shown["items"] if i["symbol"] == long]
        desk.balance -= desk.money()["equity"] - desk.money()["margin"] * 0.9  # only a little is left above the stop-out
        warned = carnet("margin").output
        assert re.search(rf"{long} is liquidated at .* below its price of .*, nearer than limits.min_liquidation_distance", warned), warned
        before = len(desk.deals)
        fall = float(near["mark"]) * 0.98
        terminal.quote(long.replace("/", ""), round(fall, 5), round(fall + 0.0001, 5))
        out = desk.deals[before:]
        assert out and out[0].reason == 6 and out[0].symbol == long.replace("/", "")
        mended = carnet("reconcile")
        liquidated = rf"mt5 closed {int(held[long]) - 1000}[.0]* {long} at .*, because the margin was used up"
        assert re.search(liquidated, mended.output), mended.output
        swaps = told(lambda ledger: list(ledger.events("live-loop", "swap")))
        assert long in {e.data["symbol"] for e in swaps} and all(D(e.data["amount"]) for e in swaps)

        # the books still think of what was sold by hand; the brake closes what is there, and opens nothing for what is not
        stopped = carnet("kill", "enough", "--who", "Ada", "--flatten")
        assert not desk.positions and f"could NOT sell 1000 {long}: reduce only, and there is no position" in stopped.output, stopped.output
        sent = len(desk.deals)
        assert carnet("kill", "enough", "--who", "Ada", "--flatten").exit_code == 1 and len(desk.deals) == sent


def test_settings_that_do_not_fit_open_nothing(tmp_path):
    from trading.core.errors import Refused
    from trading.core.settings import load_settings
    from trading.pipeline.venue_factory import connect_ready

    made = {"run.mode": "live", "run.data": str(tmp_path), "margin.leverage": "5", "live.number": str(LOGIN)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MT5_BRIDGE_KEY", KEY)
        with pytest.raises(Refused, match="the broker rounds each result .* set live.tolerance"):
            connect_ready(load_settings("forex", made, environ={}))
        with pytest.raises(Refused, match="swaps change the balance and must be booked .* set live.reported = true"):
            connect_ready(load_settings("forex", made | {"live.tolerance": "0.05"}, environ={}))
        with pytest.raises(Refused, match="cannot be bound to closing a position .* set execution.type = market"):
            connect_ready(load_settings("forex", made | {"live.tolerance": "0.05", "live.reported": "yes", "execution.type": "limit"}, environ={}))
