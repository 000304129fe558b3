"Every kind of event of an account: refused at the door when it cannot be meant, and counted as it happened, in whatever order it was written."

import sqlite3
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trading.accounting.account_book import fill_event, fold_book
from trading.accounting.event_kinds import MONEY_KINDS, event_place, time_text
from trading.accounting.ledger import Ledger
from trading.accounting.tax_lots import LotBook, add_event
from trading.core.decimals import EXACT
from trading.core.errors import BadInput
from trading.core.types import Event, Fill, Position

D = Decimal
START = datetime(2024, 1, 1, tzinfo=UTC)


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def account(tmp_path, cash="100000", currency="USDT", held=()):
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.open_account("mine", currency, D(cash), START, held)
    return ledger


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        ("nonsense kind", {"x": "1"}, "there is no kind of event 'nonsense kind'"),
        ("deposit", {"amount": "1000", "currency": "EUR"}, "1000 EUR in an account of USDT; give rate"),
        ("dividend", {"amount": "12", "currency": "CHF", "symbol": "NESN"}, "12 CHF in an account of USDT; give rate"),
        ("withdrawal", {"amount": "-5", "currency": "USDT"}, "a finite amount above zero"),
        ("withdrawal", {"amount": "999999999", "currency": "USDT"}, "a withdrawal of 999999999 USDT on 2024-01-06, when there were 100000"),
        ("withdrawal", {"amount": "100000.00000001", "currency": "USDT"}, "when there were 100000"),
        ("withdrawal", {"amount": "3", "symbol": "ETH/USDT", "price": "2000"}, "a withdrawal of 3 ETH/USDT on 2024-01-06, when there were 2"),
        ("transfer", {"amount": "3", "symbol": "ETH/USDT", "price": "2000", "direction": "out"}, "when there were 2"),
        ("withdrawal", {"amount": "1", "symbol": "SOL/USDT", "price": "20"}, "when there were 0"),
        ("withdrawal", {"amount": "5", "currency": "EUR", "rate": "1.1"}, "when there were 0"),
        ("deposit", {"amount": "Infinity", "currency": "USDT"}, "'Infinity'"),
        ("deposit", {"amount": 100.5, "currency": "USDT"}, "a finite amount above zero, as text"),
        ("deposit", {"amount": "1e", "currency": "USDT"}, "'1e'"),
        ("deposit", {}, "a deposit needs amount"),
        ("deposit", {"amount": "0", "currency": "USDT"}, "'0'"),
        ("split", {"symbol": "ETH/USDT", "ratio": "0"}, "ratio '0'"),
        ("split", {"symbol": "ETH/USDT", "ratio": "-4:1"}, "ratio '-4:1'"),
        ("split", {"symbol": "ETH/USDT", "ratio": "four"}, "ratio 'four'"),
        ("split", {"ratio": "2"}, "a split needs symbol"),
        ("reward", {"symbol": "ETH/USDT", "amount": "-1", "price": "1"}, "above zero"),
        ("spin_off", {"symbol": "A", "to": "B", "ratio": "1", "cost_share": "1.5"}, "a share of the cost between 0 and 1"),
        ("delisting", {"symbol": "ETH/USDT", "price": "-1"}, "a price of zero or more"),
        ("fee", {"currency": "USDT", "amount": "-2"}, "above zero"),
        ("fill", {"id": "1", "symbol": "ETH/USDT", "side": "hold", "amount": "1", "price": "1", "fee": "0", "venue": "v"}, "give buy or sell"),
        ("correction", {"corrects": "99", "note": "x"}, "there is no event 99 of this account to correct"),
        ("correction", {"corrects": "1", "note": "x"}, "there is no event 1 of this account to correct"),
        ("adjustment", {"currency": "USDT", "amount": "NaN", "note": "x"}, "'NaN'"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_written(tmp_path, kind, data, words):
    ledger = account(tmp_path, held=[Position("ETH/USDT", D(2), D(1500))])
    before = ledger.verify()
    with pytest.raises(BadInput) as refused:
        ledger.append(
            [Event("deposit", "mine", at(24), {"amount": "1", "currency": "USDT"})] * (kind not in ("withdrawal", "transfer"))
            + [Event(kind, "mine", at(120), data)]
        )
    assert words in str(refused.value) and ledger.verify() == before


def test_a_withdrawal_of_the_past_cannot_take_what_was_spent_since(tmp_path):
    ledger = account(tmp_path, "1000")
    ledger.append(fill_event(Fill("1", "c", "ETH/USDT", "buy", D(1), D(900), D(0), at(48)), "mine", "v"))
    with pytest.raises(BadInput, match="with this the account would hold -100 USDT today"):
        ledger.append(Event("withdrawal", "mine", at(24), {"amount": "200", "currency": "USDT"}, booked=at(72)))
    ledger.append(Event("withdrawal", "mine", at(24), {"amount": "100", "currency": "USDT"}, booked=at(72)))
    assert ledger.cash("mine") == 0 and ledger.cash("mine", at(30)) == 900 and ledger.events("mine", "withdrawal")[0].booked == at(72)


def test_a_late_trade_counts_where_it_happened(tmp_path):
    ledger = account(tmp_path)
    fills = [
        Fill(n, n, "ETH/USDT", side, D(1), D(price), D(0), at(h))
        for n, side, price, h in [("1", "buy", 100, 1), ("3", "sell", 300, 3), ("2", "buy", 200, 2)]
    ]
    for fill in fills:
        ledger.append(fill_event(fill, "mine", "v"))
    assert [f.id for f in ledger.fills("mine")] == ["1", "2", "3"]
    assert ledger.book("mine").realised == Ledger(ledger.path).book("mine").realised == 150  # at an average cost of 150
    assert ledger.book("mine", at=at(2.5)).positions["ETH/USDT"].amount == 2
    assert ledger.book("mine", upto=ledger.place("fill", "mine", "v", "3")).realised == 200  # as it was known then


def test_a_correction_takes_back_and_a_corrected_correction_does_nothing(tmp_path):
    ledger = account(tmp_path)
    wrong = ledger.append(Event("deposit", "mine", at(1), {"amount": "500", "currency": "USDT"}))
    undo = ledger.append(Event("correction", "mine", at(2), {"corrects": str(wrong), "note": "typed twice"}))
    assert ledger.cash("mine") == 100_000 == Ledger(ledger.path).cash("mine") and ledger.cash("mine", at(1.5)) == 100_000
    assert wrong not in dict(ledger.history("mine"))
    ledger.append(Event("correction", "mine", at(3), {"corrects": str(undo), "note": "it was right"}))
    assert ledger.cash("mine") == 100_500 == Ledger(ledger.path).cash("mine")


def test_the_same_entry_counts_once(tmp_path):
    ledger = account(tmp_path)
    entry = Event("dividend", "mine", at(1), {"amount": "5", "currency": "USDT", "symbol": "AAPL", "id": "alpaca:77", "source": "venue alpaca"})
    assert ledger.append(entry) == ledger.append([entry, entry]) and ledger.cash("mine") == 100_005


def test_a_ledger_of_the_version_before_is_carried_over(tmp_path):
    path = tmp_path / "old.db"
    db = sqlite3.connect(path)
    db.executescript("""create table events (seq integer primary key, account text not null, kind text not null, timestamp text not null, key text,
                        data text not null,
                        hash text not null); create table readers (name text primary key, seq integer not null); pragma user_version = 1;""")
    made = account(tmp_path, "7")
    for row in made._db.execute("select seq, account, kind, timestamp, key, data, hash from events"):
        db.execute("insert into events values (?, ?, ?, ?, ?, ?, ?)", row)
    db.commit(), db.close()
    ledger = Ledger(path)
    assert ledger.verify() == 2 and ledger.cash("mine") == 7
    ledger.append(Event("deposit", "mine", at(1), {"amount": "1"}, booked=at(2)))
    assert ledger.verify() == 3 and Ledger(path).events("mine")[-1].booked == at(2)
    ledger._db.executescript("drop trigger if exists no_update; update events set booked = '' where seq = 3")
    with pytest.raises(Exception, match="was altered at event 3"):
        ledger.verify()


def naive(rows: list[tuple[str, dict]]) -> tuple[Fraction, dict[str, Fraction], Fraction]:
    "Cash, units and what was put in, less taken out, in fractions."
    cash, units, paid = Fraction(0), {}, Fraction(0)

    def move(symbol, n):
        units[symbol] = units.get(symbol, Fraction(0)) + n

    for kind, d in rows:
        n, price = Fraction(d.get("amount", 0)), Fraction(d.get("price", 0))
        out = kind == "withdrawal" or d.get("direction") == "out"
        if kind in ("deposit", "withdrawal", "transfer", "reward", "fee", "adjustment"):
            sign = -1 if out or kind == "fee" else 1
            if "symbol" in d:
                move(d["symbol"], sign * n)
            elif "rate" in d:
                move(d["currency"] + "/USDT", sign * n)
            else:
                cash += sign * n
            if kind in ("deposit", "withdrawal", "transfer"):
                paid += sign * n * (price if "symbol" in d else Fraction(d.get("rate", 1)))
        elif kind in ("dividend", "interest", "funding", "swap"):
            cash += n
        elif kind == "fill":
            sign = 1 if d["side"] == "buy" else -1
            move(d["symbol"], sign * n)
            cash -= sign * n * price + Fraction(d["fee"])
        elif kind in ("split", "rename", "spin_off"):
            new, old = Fraction(d.get("ratio", "1").split(":")[0]), Fraction((d.get("ratio", "1") + ":1").split(":")[1])
            there = units.get(d["symbol"], Fraction(0)) if kind == "spin_off" else units.pop(d["symbol"], Fraction(0))
            move(d.get("to", d["symbol"]), there * new / old)
        elif kind in ("delisting", "merger"):
            cash += units.pop(d["symbol"], Fraction(0)) * Fraction(d.get("price", d.get("cash", 0)))
    return cash, {s: n for s, n in units.items() if n}, paid


amounts = st.integers(1, 10**9).map(lambda n: str(D(n).scaleb(-4)))
coins = st.sampled_from(["A/USDT", "B/USDT", "C/USDT"])
money = st.one_of(
    st.just({"currency": "USDT"}),
    st.builds(lambda r: {"currency": "EUR", "rate": r}, amounts),
    st.builds(lambda s, p: {"symbol": s, "price": p}, coins, amounts),
)
signed = st.builds(lambda a, s: s + a, amounts, st.sampled_from(["", "-"]))
entries = st.one_of(
    st.tuples(st.sampled_from(["deposit", "reward", "fee", "withdrawal"]), st.builds(lambda m, a: m | {"amount": a}, money, amounts)),
    st.tuples(st.just("transfer"), st.builds(lambda m, a, d: m | {"amount": a, "direction": d}, money, amounts, st.sampled_from(["in", "out"]))),
    st.tuples(
        st.sampled_from(["dividend", "interest", "funding", "swap"]),
        st.builds(lambda a, s: {"currency": "USDT", "amount": a, "symbol": s}, signed, coins),
    ),
    st.tuples(st.just("adjustment"), st.builds(lambda m, a: m | {"amount": a, "note": "counted"}, money, amounts)),
    st.tuples(
        st.just("fill"),
        st.builds(
            lambda s, side, a, p, f: {"symbol": s, "side": side, "amount": a, "price": p, "fee": f},
            coins,
            st.sampled_from(["buy", "sell"]),
            amounts,
            amounts,
            amounts,
        ),
    ),
    st.tuples(st.just("split"), st.builds(lambda s, r: {"symbol": s, "ratio": r}, coins, st.sampled_from(["2", "4:1", "1:10", "0.5", "3:2"]))),
    st.tuples(st.just("rename"), st.builds(lambda s, t: {"symbol": s, "to": t}, coins, st.sampled_from(["D/USDT", "E/USDT"]))),
    st.tuples(
        st.just("spin_off"),
        st.builds(lambda s, t: {"symbol": s, "to": t, "ratio": "1:4", "cost_share": "0.3"}, coins, st.sampled_from(["D/USDT", "E/USDT"])),
    ),
    st.tuples(st.just("delisting"), st.builds(lambda s, p: {"symbol": s, "price": p}, coins, amounts)),
    st.tuples(st.just("merger"), st.builds(lambda s, p: {"symbol": s, "cash": p}, coins, amounts)),
)


histories = st.tuples(
    st.lists(st.tuples(entries, st.integers(0, 8)), max_size=25),
    st.randoms(use_true_random=False),
    st.sampled_from(["fifo", "lifo", "hifo", "lofo", "average"]),
)
many = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


def possible(rows: list[tuple[str, dict, str]]) -> list[tuple[str, dict, str]]:
    "Leave out what takes more than is there, which the ledger refuses."
    kept = []
    for kind, d, when in rows:
        if kind == "withdrawal" or d.get("direction") == "out":
            cash, units, _ = naive([r[:2] for r in kept])
            what = d.get("symbol") or (d["currency"] + "/USDT" if "rate" in d else "")
            if Fraction(d["amount"]) > (units.get(what, 0) if what else cash):
                continue
        kept.append((kind, d, when))
    return kept


def check_history(drawn, dice, method) -> list[tuple[str, dict, str]]:
    "Hold book and lots of a history against a naive replay, whatever the order in which it was written."
    rows = [(kind, data | {"id": f"e{n}"}, time_text(at(hour))) for n, ((kind, data), hour) in enumerate(drawn)]
    order = lambda r: event_place(r[0], r[2], r[1])  # noqa: E731
    happened = possible(sorted(rows, key=order))
    again = sorted(dice.sample(happened, len(happened)), key=order)
    assert again == happened
    book = fold_book("mine", [("opened", {"currency": "USDT"}), *((kind, data) for kind, data, _ in again)])
    cash, units, paid = naive([(kind, data) for kind, data, _ in happened])
    assert Fraction(book.cash) == cash and Fraction(book.contributed) == paid
    assert book.positions.keys() <= units.keys() and all(
        abs(Fraction(book.positions[s].amount if s in book.positions else 0) - n) <= Fraction(1, 10**15) for s, n in units.items()
    )
    assert book.paid_in + book.realised + book.income - book.fees == book.cash + sum(book.costs.values())
    lots = LotBook(method, shorts=True, account="mine", currency="USDT")
    with localcontext(EXACT):
        for kind, data, when in happened:
            more = {"client_order_id": "c", "timestamp": when} if kind == "fill" else {}
            add_event(lots, kind, data | more, datetime.fromisoformat(when))
    held, costs = {}, {}
    for lot in lots.left:
        held[lot.symbol], costs[lot.symbol] = held.get(lot.symbol, D(0)) + lot.amount, costs.get(lot.symbol, D(0)) + lot.cost
    assert {s: n for s, n in held.items() if n} == {s: p.amount for s, p in book.positions.items()}, method
    if method == "average":  # the rule that the book itself goes by
        assert all(abs(costs.get(s, D(0)) - c) <= abs(c) * D("1e-12") + D("1e-9") for s, c in book.costs.items())
    return happened


@many
@given(histories)
def test_any_history_is_what_a_naive_replay_says_whatever_the_order_of_booking(drawn):
    check_history(*drawn)


def test_a_ledger_written_in_any_order_says_the_same(tmp_path):
    import random

    rows = [
        Event("deposit", "mine", at(1), {"amount": "50000", "currency": "USDT", "id": "d"}),
        Event("split", "mine", at(30), {"symbol": "ETH/USDT", "ratio": "4", "id": "s"}),
        Event("rename", "mine", at(40), {"symbol": "SOL/USDT", "to": "NEW/USDT", "id": "r"}),
        Event("withdrawal", "mine", at(50), {"amount": "20000", "currency": "USDT", "id": "w"}),
        *(
            fill_event(
                Fill(str(n), str(n), ("ETH/USDT", "SOL/USDT")[n % 2], ("buy", "buy", "sell")[n % 3], D(1 + n % 5), D(100 + n), D(1), at(n / 2)),
                "mine",
                "v",
            )
            for n in range(78)
        ),
        Event("delisting", "mine", at(60), {"symbol": "NEW/USDT", "price": "0.5", "id": "x"}),
    ]
    told = set()
    for seed in range(3):
        (tmp_path / str(seed)).mkdir()
        ledger, order = account(tmp_path / str(seed)), random.Random(seed).sample(rows, len(rows))
        order.sort(key=lambda e: e.kind == "withdrawal")  # what is taken out must be there
        for start in range(0, len(order), 9):
            ledger.append(order[start : start + 9])
            ledger.book("mine")  # the sums are kept and go on
        assert repr(ledger.book("mine")) == repr(Ledger(ledger.path).book("mine"))
        told.add(repr(ledger.book("mine")))
    assert len(told) == 1 and "NEW/USDT" not in told.pop().split("costs=")[0]


@pytest.mark.parametrize("late", [None, "fill", "split"])
def test_many_trades_are_added_up_in_blocks_and_a_late_one_in_its_place(tmp_path, monkeypatch, late):
    monkeypatch.setattr("trading.accounting.kept_folds.MANY", 50)
    fills = [
        fill_event(
            Fill(f"t{n}", f"c{n}", f"S{n % 3}", "buy" if n % 7 < 4 else "sell", D(1 + n % 11) / 8, D(100 + n % 13) / 4, D(n % 5) / 100, at(n // 4)),
            "mine",
            "v",
        )
        for n in range(240)
    ]
    others = [
        Event("split", "mine", at(20), {"symbol": "S1", "ratio": "3:2", "id": "s"}),
        Event("deposit", "mine", at(25), {"amount": "5", "id": "d"}),
        Event("rename", "mine", at(33), {"symbol": "S2", "to": "T2", "id": "r"}),
    ]
    ledger, events = account(tmp_path), sorted([*fills, *others], key=lambda e: e.timestamp)
    first = events.pop(90) if late == "fill" else events.pop(events.index(others[0])) if late == "split" else None
    for start in range(0, len(events), 70):
        ledger.append(events[start : start + 70])
        ledger.book("mine")
    ledger.append([first] if first else [])
    in_order = sorted(
        ((e.kind, time_text(e.timestamp), e.data) for e in ledger.events("mine") if e.kind in MONEY_KINDS), key=lambda r: event_place(*r)
    )
    slow = fold_book("mine", [(kind, data) for kind, _, data in in_order])
    assert repr(ledger.book("mine")) == repr(Ledger(ledger.path).book("mine")) == repr(slow)


@pytest.mark.parametrize("amount", ["1e400", "1e25", "1e-40", "-1e400"])
def test_an_amount_that_no_account_could_be_added_up_with_is_refused_at_the_door(amount):
    from trading.accounting.event_kinds import check_event

    with pytest.raises(BadInput, match="amount"):
        check_event(Event("deposit", "paper-x", datetime(2024, 1, 1, tzinfo=UTC), {"amount": amount, "currency": "USD"}))
    check_event(Event("deposit", "paper-x", datetime(2024, 1, 1, tzinfo=UTC), {"amount": "0.000000000000000001", "currency": "ETH", "rate": "3000"}))
