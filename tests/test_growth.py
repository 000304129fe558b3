"""What is kept and advanced is held against what is read anew: books, marks, worth traded, begun positions, open orders, pages."""

import contextlib
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

import numpy as np
import pandas as pd
import pytest

from trading.accounting.account_book import fill_event, fill_from, fold_book
from trading.accounting.event_kinds import read_ratio, scale_units
from trading.accounting.event_table import LedgerError
from trading.accounting.ledger import Ledger
from trading.accounting.unit_values import performance_equity, value_now
from trading.core.errors import TradingError
from trading.core.instruments import Instrument
from trading.core.types import Event, Fill, Order
from trading.execution.protection import entered
from trading.risk.limits import equity_balance
from trading.risk.stress import SCENARIOS, stress
from trading.services.queries_trading import events
from trading.services.query_cache import MEMORY, view
from trading.services.workspace import Workspace, ledger_for_reading
from trading.venues.paper.costs import TradingCosts
from trading.venues.paper.database import order_of_row
from trading.venues.paper.exchange import PaperVenue
from trading.venues.paper.matching import BarFeed, QuoteFeed, match_in_turn
from trading.venues.paper.settlement import bound_money

START = datetime(2024, 1, 1, tzinfo=UTC)


def standing_slowly(ledger, account, now, equity, contributed):
    state = equity_balance(performance_equity(value_now(ledger.history_anew(account)[0], ledger.flows(account), now, equity, contributed)))
    return state.equity, state.peak, state.day_start


def entered_slowly(ledger, account, symbol):
    units, since = D(0), None
    for _, event in ledger.history(account):
        if event.kind == "split" and event.data["symbol"] == symbol:
            units = scale_units(units, read_ratio(event.data["ratio"]))
        elif event.kind == "fill" and event.data["symbol"] == symbol:
            fill = fill_from(event.data)
            before, units = units, units + fill.units
            since = fill.timestamp if (before == 0 or before * units < 0) else since
    return since if units else None


def one_more(ledger, chance: random.Random, number: int, now: datetime) -> datetime:
    "Write what may happen next to an account: mostly in its turn, sometimes at one moment with the last, sometimes late, sometimes a correction."
    step, book = chance.random(), ledger.book("mine")
    now = now if step < 0.2 else now + timedelta(minutes=chance.choice([1, 50, 700]))
    when = now - timedelta(days=chance.choice([1, 2])) if chance.random() < 0.06 and now > START + timedelta(days=4) else now
    symbol = f"S{chance.randrange(4)}"
    what = chance.choice(["fill"] * 6 + ["mark"] * 4 + ["money", "note", "correct", "split"])
    if what == "fill":
        held = book.positions[symbol].amount if symbol in book.positions else D(0)
        side = "sell" if held > 0 and chance.random() < 0.5 else "buy"
        amount = held if side == "sell" and chance.random() < 0.5 else D(1) if side == "buy" else min(held, D(1))
        fill = Fill(f"t{number}", f"c{number}", symbol, side, amount, D(100 + chance.randrange(20)), D("0.1"), when)
        ledger.append(fill_event(fill, "mine", "paper", booked=now))
    elif what == "mark":
        ledger.mark("mine", {f"S{n}": D(100 + chance.randrange(20)) for n in range(4)}, now)
    elif what == "money":
        kind, amount = chance.choice([("deposit", "50000"), ("withdrawal", "10")])
        ledger.append(Event(kind, "mine", when, {"amount": amount, "id": f"m{number}"}, booked=now))
    elif what == "split" and symbol in book.positions:
        ledger.append(Event("split", "mine", now, {"symbol": symbol, "ratio": "2", "id": f"s{number}"}))
    elif what == "correct" and chance.random() < 0.5:
        last = [seq for seq, e in ledger.history("mine") if e.kind == "fill" and e.data["side"] == "sell"]
        if last:
            ledger.append(Event("correction", "mine", now, {"corrects": last[-1], "id": f"x{number}", "note": "it was wrong"}))
    else:
        ledger.append(Event("note", "mine", now, {"text": "nothing"}))
    return now


@pytest.mark.parametrize("seed", range(6))
def test_what_is_kept_equals_what_is_read_anew(tmp_path, seed):
    ledger, chance = Ledger(tmp_path / "l.sqlite"), random.Random(seed)
    ledger.open_account("mine", "USD", D(10**6), START)
    now = START
    for number in range(90):
        now = one_more(ledger, chance, number, now)
        if number % 3:
            continue
        moment = now if chance.random() < 0.5 else now + timedelta(minutes=chance.choice([1, 2000]))
        book = ledger.book("mine")
        assert book == fold_book("mine", ((e.kind, e.data) for _, e in ledger.history("mine"))) == Ledger(ledger.path, readonly=True).book("mine")
        equity = book.equity({s: D(100 + chance.randrange(20)) for s in book.positions})
        asked = "mine", moment, equity, book.contributed
        assert ledger.standing(*asked) == pytest.approx(standing_slowly(ledger, *asked), rel=1e-12)
        pd.testing.assert_frame_equal(ledger.equity_history("mine"), ledger.history_anew("mine")[0], rtol=1e-12, check_freq=False)
        midnight = moment.replace(hour=0, minute=0)
        assert ledger.traded("mine", midnight) == sum((f.worth for f in ledger.fills("mine") if f.timestamp >= midnight), D(0))
        assert all(entered(ledger, "mine", s) == entered_slowly(ledger, "mine", s) for s in ("S0", "S1", "S2", "S3", "S9"))
        assert list(ledger.backward("mine")) == ledger.events("mine")[::-1] and ledger.count("mine") == len(ledger.events("mine"))
        assert list(ledger.backward("mine", ("fill", "note"), 3)) == ledger.events("mine", ("fill", "note"))[::-1][3:]
        assert [ledger.history("mine", last=n) for n in (1, 5, 999)] == [ledger.history("mine")[-n:] for n in (1, 5, 999)]


def test_the_list_of_open_orders_equals_the_events_and_a_wrong_one_is_found(tmp_path):
    ledger, chance = Ledger(tmp_path / "l.sqlite"), random.Random(1)
    ledger.open_account("mine", "USD", D(10**6), START)
    order = {"symbol": "A", "side": "buy", "amount": "1", "type": "market", "price": None, "stop_price": None, "time_in_force": "GTC", "plan": "p"}
    end = {"symbol": "A", "side": "buy", "amount": "1", "filled": "1", "status": "closed", "average": "1", "fee": "0", "reason": "", "plan": "p"}
    waiting = []
    for n in range(60):
        ledger.append(Event("intent", chance.choice(["mine", "other"]), START, order | {"client_order_id": f"c{n}"}))
        waiting.append(n)
        if n % 4:
            gone = waiting.pop(chance.randrange(len(waiting)))
            account = "mine" if ledger.find("intent", "mine", f"c{gone}") else "other"
            ledger.append(Event("ended", account, START, end | {"client_order_id": f"c{gone}", "id": str(gone)}))
        for account in ("mine", "other"):
            assert list(ledger._table.unended(account)) == [row[1:] for row in ledger._table.unended_slowly(account)]
    assert len(ledger.unended("mine")) + len(ledger.unended("other")) == len(waiting)
    ledger._db.execute("delete from open_intents where seq = (select max(seq) from open_intents)")
    for look in (ledger.verify, ledger.verify_new):
        with pytest.raises(LedgerError, match="lists other open orders than its events tell, first at event"):
            look()


def test_a_ledger_without_the_list_is_read_as_it_is_and_gets_one_when_it_is_written(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite")
    ledger.open_account("mine", "USD", D(10**6), START)
    order = {"symbol": "A", "side": "buy", "amount": "1", "type": "market", "price": None, "stop_price": None, "time_in_force": "GTC", "plan": "p"}
    ledger.append([Event("intent", "mine", START, order | {"client_order_id": c}) for c in "ab"])
    ledger._db.executescript("drop trigger intent_open; drop trigger intent_ended; drop table open_intents; drop index by_time;"
                             "pragma user_version = 2")
    ledger.close()
    older = Ledger(tmp_path / "l.sqlite", readonly=True)
    assert [e.data["client_order_id"] for e in older.unended("mine")] == ["a", "b"] and older.verify() == 4
    assert [e.data["client_order_id"] for e in Ledger(tmp_path / "l.sqlite").unended("mine")] == ["a", "b"]


class SlowVenue(PaperVenue):
    "The same exchange that looks at every open order each time: what the fast one is held against."

    def _open_rows(self):
        return self._db.execute("select * from orders where status = 'open' order by seq").fetchall()

    def _free(self, asset, but=0, linked=""):
        free = self._balance(asset) - (bound_money(self._db, self._rates, self._now()) if asset == self.currency else D(0))
        rows = {row["client_order_id"]: row for row in self._open_rows()}
        mine = {linked, *(n for row in rows.values() if row["seq"] == but for n in (row["client_order_id"], row["linked"]))} - {""}
        for row in rows.values():
            order, pair = order_of_row(row), rows.get(row["linked"])
            if mine & {row["client_order_id"], row["linked"]} or (pair and (pair["linked"] != row["client_order_id"] or pair["seq"] < row["seq"])):
                continue
            last = order.price or order.stop_price or self._tape.last(order.symbol, datetime.fromisoformat(row["placed"])).close
            held, amount = self._hold(order.symbol, order.side, order.amount - D(row["filled"]), last)
            free -= amount if held == asset and row["seq"] != but else D(0)
        return free

    def _match_open(self):
        now, rows = self._now(), self._open_rows()
        if any(row["linked"] for row in rows):
            match_in_turn(rows, self._row, lambda row: self._match(row, now, once=True))
            return
        for row in rows:
            self._match(row, now)


def two_venues(path, live, **options):
    "Make an exchange and its slow twin, on the same prices and the same clock."
    chance, state = random.Random(7), {"now": START, "prices": {f"S{n}": D(100) for n in range(4)}}
    hours = pd.date_range(START, periods=400, freq="h")
    steps = pd.DataFrame({f"S{n}": [100 + chance.randrange(-8, 9) for _ in hours] for n in range(4)}, index=hours, dtype=float)
    bars = pd.concat({"open": steps, "high": steps + 2, "low": steps - 2, "close": steps.shift(-1).fillna(100).clip(steps - 2, steps + 2),
                      "volume": steps * 0 + 50}, axis=1, names=["field", "symbol"])
    feed = QuoteFeed(lambda symbol, _: state["prices"].get(symbol)) if live else BarFeed(bars, "1h")
    markets = {f"S{n}": Instrument(f"S{n}", D("0.01"), D("0.01"), quote="EUR" if n == 3 else "") for n in range(4)}
    rates = lambda currency, moment: D("1.1") + D(moment.day) / 100  # noqa: E731
    given = feed, lambda: state["now"], markets, TradingCosts(D("0.001"), D(2), D(3)), {"USD": D(5000), "S0": D(20), "S1": D(20)}, "USD"
    return state, chance, [kind(*given, path / f"{kind.__name__}.db", rates=rates, **options) for kind in (PaperVenue, SlowVenue)]


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("options", [{}, {"latency": timedelta(minutes=30)}, {"wait": True, "fee_in": "received"}])
def test_an_index_of_open_orders_changes_nothing_that_the_exchange_says(tmp_path, live, options):
    state, chance, venues = two_venues(tmp_path, live, **options)
    names = []
    for n in range(70):
        what = chance.random()
        if what < 0.25:
            state["now"] += timedelta(minutes=chance.choice([0, 10, 60, 600]))
            state["prices"] |= {f"S{k}": D(100 + chance.randrange(-8, 9)) for k in range(4)} if chance.random() < 0.7 else {}
        elif what < 0.4 and names:
            name, symbol = chance.choice(names)
            assert len({repr(v.cancel_order(name, symbol)) for v in venues}) == 1
        elif what < 0.47:
            venues[0].close(), venues[1].close()
            venues = [kind(v._tape, v._clock, v._markets, v._costs, {}, "USD", tmp_path / f"{kind.__name__}.db", rates=v._rates, **options)
                      for kind, v in zip((PaperVenue, SlowVenue), venues, strict=True)]
        else:
            symbol, side, kind = f"S{chance.randrange(4)}", chance.choice(["buy", "sell"]), chance.choice(["limit", "limit", "market", "stop"])
            away = chance.randrange(1, 12) * (1 if (side == "buy") == (kind == "stop") else -1)
            price = D(100 + away)
            linked = chance.choice([names[-1][0]] * (names[-1][1] == symbol) + [""] * 3) if names else ""
            limit, stop = price if kind == "limit" else None, price if kind == "stop" else None
            force = chance.choice(["GTC", "GTC", "IOC", "FOK"]) if kind == "limit" else "GTC"
            order = Order(f"o{n}", symbol, side, D(chance.randrange(1, 9)), kind, limit, stop, force, linked=linked)
            assert len({repr(v.create_order(order)) for v in venues}) == 1, order
            names.append((order.client_order_id, symbol))
        for say in ("fetch_free", "fetch_balance", "fetch_open_orders", "fetch_my_trades"):
            fast, slow = (getattr(v, say)() for v in venues)
            assert fast == slow, (n, say)
    assert len(venues[0].fetch_my_trades()) > 3


def test_orders_that_another_process_sent_are_seen(tmp_path):
    _, _, (one, _) = two_venues(tmp_path, True)
    free = one.fetch_free()["USD"]
    other = PaperVenue(one._tape, one._clock, one._markets, one._costs, {}, "USD", tmp_path / "PaperVenue.db", rates=one._rates)
    other.create_order(Order("a", "S0", "buy", D(10), "limit", D(50)))
    assert one.fetch_free()["USD"] == free - D("500.5") and [o.client_order_id for o in one.fetch_open_orders()] == ["a"]
    one.cancel_order("a", "S0")
    assert other.fetch_free()["USD"] == free and other.fetch_open_orders() == []


def test_an_answer_lives_until_something_happens_that_it_rests_on(tmp_path):
    place, made = Workspace(tmp_path, tmp_path / "reports"), []
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.open_account("paper-sample", "USD", D(1000), START)

    @view
    def cash(place):
        made.append("cash")
        return {"cash": ledger_for_reading(place).cash("paper-sample")}

    @view
    def twice(place):
        made.append("twice")
        return {"cash": cash(place)["cash"] * 2}

    @view
    def beside(place):
        made.append("beside")
        return {"files": 1}

    def asked(event=None) -> list[str]:
        if event:
            ledger.append(event)
        MEMORY.expire(place)
        made.clear()
        answers = cash(place), twice(place), beside(place), events(place)
        assert answers[0]["cash"] * 2 == answers[1]["cash"] == ledger.cash("paper-sample") * 2
        assert answers[3]["total"] == len(ledger.events("paper-sample"))
        return list(made)

    assert asked() == ["cash", "twice", "beside"] and asked() == []
    assert asked(Event("note", "paper-sample", START, {"text": "nothing"})) == []  # the list of events has it all the same
    assert asked(Event("deposit", "paper-sample", START, {"amount": "5", "id": "d"})) == ["cash", "twice"]
    (tmp_path / "kill-paper-sample.jsonl").write_text("")
    assert asked() == ["cash", "twice", "beside"]
    twice(place), MEMORY.expire(place)
    assert asked() == []
    ledger.close()
    (tmp_path / "ledger.sqlite").unlink(), (tmp_path / "ledger.sqlite-wal").unlink(missing_ok=True)
    MEMORY.expire(place)
    with pytest.raises(TradingError, match="is gone|event"):
        cash(place)


def replayed_slowly(close, symbol, scenario):
    "The path of one asset through a scenario, by itself; None where its prices are not there."
    start, end = (pd.Timestamp(day, tz="UTC") for day in (scenario.start, scenario.end))
    days = close.index.normalize()
    before = close.loc[(days > start - pd.Timedelta(days=7)) & (days <= start), symbol].dropna()
    within = close.loc[(days > start) & (days <= end), symbol].dropna()
    if before.empty or within.empty or within.index[-1].normalize() < end - pd.Timedelta(days=7):
        return None
    return pd.concat([before.iloc[[-1]], within]) / before.iloc[-1]


def test_stress_of_all_assets_at_once_is_that_of_each():
    chance, days = np.random.default_rng(0), pd.bdate_range("2007-01-02", "2023-06-30", tz="UTC", name="timestamp").as_unit("us")
    close = pd.DataFrame(100 * np.exp(np.cumsum(chance.normal(0, 0.01, (len(days), 12)), 0)), days, [f"S{k}" for k in range(12)])
    close = close.mask(chance.random(close.shape) < 0.15)
    for k in range(4):  # some begin late, some end early
        close.iloc[: 900 * (k + 1), k], close.iloc[-700 * (k + 1):, k + 4] = np.nan, np.nan
    weights = pd.Series(chance.normal(0, 0.1, 12), close.columns)
    for held in (weights, weights.iloc[8:], weights.iloc[:3]):
        found = stress(held, pd.concat({"close": close}, axis=1, names=["field", "symbol"]))
        for name, row in found.iterrows():
            scenario = next(s for s in SCENARIOS.values() if s.name == name)
            paths = {s: p for s in held.index if scenario.start and (p := replayed_slowly(close, s, scenario)) is not None}
            assert row["replayed"] == pytest.approx(sum(abs(held[s]) for s in paths))
            if len(paths) == len(held):
                together = 1 + (pd.DataFrame(paths).sort_index().ffill().bfill() - 1) @ held[list(paths)]
                assert row["deepest"] == pytest.approx(-(together / together.cummax() - 1).min(), rel=1e-12)
                assert row["loss"] == pytest.approx(-sum(held[s] * (p.iloc[-1] - 1) for s, p in paths.items()), rel=1e-12)


def test_a_service_of_many_portfolios_opens_each_ledger_once(tmp_path, monkeypatch):
    places = [Workspace(tmp_path / f"{n}", tmp_path / f"{n}" / "reports") for n in range(60)]
    for n, place in enumerate(places):
        place.data.mkdir()
        with contextlib.closing(Ledger(place.ledger)) as ledger:
            ledger.open_account("paper-sample", "USD", D(n + 1), START)
    seen, begin = [], Ledger.__init__
    monkeypatch.setattr(Ledger, "__init__", lambda self, path, readonly=False: (seen.append(path), begin(self, path, readonly))[1])
    for _ in range(3):
        assert [ledger_for_reading(p).cash("paper-sample") for p in places] == [n + 1 for n in range(60)]
        assert [events(p)["total"] for p in places] == [2] * 60
    assert sorted(seen) == sorted(p.ledger for p in places)
