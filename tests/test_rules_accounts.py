"Accounts by hand: every balance, profit and lot is a literal that was worked out on paper; nothing is compared with itself."

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal as D
from itertools import permutations

import pyarrow as pa
import pytest
from five_marks import ACCOUNT, BROUGHT, FILLS, LOTS, MARKS, SALES, day, five_marks

import trading.accounting.kept_folds as kept_folds
from trading.accounting.account_book import (
    Book,
    BookBuilder,
    apply_fill,
    fill_event,
    fill_from,
    fold_book,
    paid_with,
    plain,
    state_from,
    time_text,
)
from trading.accounting.event_log import event_key
from trading.accounting.event_table import LedgerError
from trading.accounting.exports import account_moves, cointracking_csv, lots_csv, trades_csv
from trading.accounting.ledger import Ledger
from trading.accounting.replay import FillColumns, read_fills, roll_forward, whole_numbers
from trading.accounting.tax_lots import Lot, LotBook, Sale, account_lots, match_lots
from trading.core.errors import BadInput, Busy, MissingData
from trading.core.hash_chain import chain_hash
from trading.core.types import Event, Fill, OrderState, Position

T = datetime(2024, 5, 3, 12, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path):
    made = Ledger(tmp_path / "ledger.db")
    yield made
    made.close()


def same_as_mark(book: Book, mark) -> None:
    assert (book.cash, book.paid_in, book.realised, book.fees) == (mark.cash, mark.paid_in, mark.realised, mark.fees)
    assert {s: (p.amount, book.costs[s]) for s, p in book.positions.items()} == mark.held
    assert {s: p.average for s, p in book.positions.items()} == {s: cost / units for s, (units, cost) in mark.held.items()}
    assert book.unrealised(mark.prices) == mark.unrealised and book.equity(mark.prices) == mark.equity
    assert book.value(mark.prices) == mark.equity - mark.cash


@pytest.mark.parametrize("many", [10_000, 1, 2])  # event by event, and as columns in blocks
def test_the_account_of_five_marks(ledger, monkeypatch, many):
    monkeypatch.setattr(kept_folds, "MANY", many)
    five_marks(ledger)
    last = ledger.book(ACCOUNT)
    same_as_mark(last, MARKS[4])
    assert (last.account, last.currency, last.realised_by, last.outside) == (ACCOUNT, "USD", {"A": D(-45), "B": D(-100)}, {})
    for number, mark in enumerate(MARKS, 1):
        same_as_mark(ledger.book(ACCOUNT, at=day(number, 18)), mark)
        assert ledger.cash(ACCOUNT, day(number, 18)) == mark.cash
        assert {s: p.amount for s, p in ledger.positions(ACCOUNT, day(number, 18)).items()} == {s: u for s, (u, _) in mark.held.items()}
    history = ledger.equity_history(ACCOUNT)
    assert list(history.index.to_pydatetime()) == [day(n, 18) for n in range(1, 6)]
    for column in ("equity", "cash", "realised", "unrealised", "fees", "paid_in"):
        assert history[column].tolist() == [float(getattr(m, column)) for m in MARKS]


def test_an_account_is_added_up_step_by_step_as_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_folds, "MANY", 2)
    for days in range(1, 6):
        fresh = Ledger(tmp_path / f"{days}.db")
        same_as_mark(five_marks(fresh, days).book(ACCOUNT), MARKS[days - 1])
        same_as_mark(fresh.book(ACCOUNT), MARKS[days - 1])  # asked again: what was added up is not added twice
        fresh.close()


def test_a_moment_counts_what_happened_in_it_and_not_what_came_after(ledger):
    five_marks(ledger)
    assert ledger.book(ACCOUNT, at=day(2)).cash == D(7998) and ledger.book(ACCOUNT, at=day(2) - timedelta(microseconds=1)).cash == D(10000)
    place = ledger.place("fill", ACCOUNT, "paper", "t3")
    assert ledger.book(ACCOUNT, upto=place).realised == D(-45) and ledger.book(ACCOUNT, upto=place - 1).realised == D(0)
    assert ledger.place("fill", ACCOUNT, "paper", "t9") == 0


@pytest.mark.parametrize(
    ("before", "trade", "after", "profit"),
    [
        (("0", "0"), ("buy", "3", "10"), ("3", "30"), "0"),
        (("3", "30"), ("buy", "2", "20"), ("5", "70"), "0"),
        (("5", "70"), ("sell", "2", "20"), ("3", "42"), "12"),  # 2 x 20 - 2 x 14
        (("5", "70"), ("sell", "5", "10"), ("0", "0"), "-20"),
        (("5", "70"), ("sell", "7", "20"), ("-2", "-40"), "30"),  # 5 x 20 - 70, and 2 short at 20
        (("0", "0"), ("sell", "4", "25"), ("-4", "-100"), "0"),
        (("-4", "-100"), ("sell", "1", "50"), ("-5", "-150"), "0"),
        (("-5", "-150"), ("buy", "2", "20"), ("-3", "-90"), "20"),  # 2 x 30 - 2 x 20
        (("-5", "-150"), ("buy", "5", "40"), ("0", "0"), "-50"),
        (("-5", "-150"), ("buy", "8", "20"), ("3", "60"), "50"),  # 150 - 100, and 3 bought at 20
        (("3", "10"), ("sell", "1", "5"), ("2", "6.666666666666666667"), "1.666666666666666667"),  # a third of 10, to 18 places
    ],
)
def test_one_trade_at_average_cost(before, trade, after, profit):
    units, cost, gained = apply_fill(*map(D, before), trade[0], *map(D, trade[1:]))
    assert (units, cost, gained) == (*map(D, after), D(profit))


def test_one_event_of_each_kind_in_every_order_gives_the_same_balances():
    "500 in, 200 out, 10 A brought at 5, 4 B bought at 25 and sold at 30 (or sold first and bought back), each for a fee of 1."
    trades = [fill_event(Fill(side, "c", "B", side, D(4), D(price), D(1), T), "x", "v") for side, price in (("buy", 25), ("sell", 30))]
    kinds = [("deposit", {"amount": "500"}), ("withdrawal", {"amount": "200"}), ("holding", {"symbol": "A", "amount": "10", "average": "5"}),
             *(("fill", t.data) for t in trades)]
    for order in permutations(kinds):
        book = fold_book("x", [("opened", {"currency": "USD"}), *order, ("equity", {"cash": "9"}), ("approved", {})])
        assert (book.cash, book.paid_in, book.fees, book.realised) == (D(318), D(350), D(2), D(20))  # 500 - 200 - 100 - 1 + 120 - 1
        assert book.positions == {"A": Position("A", D(10), D(5))} and book.costs == {"A": D(50)} and book.realised_by == {"B": D(20)}


def test_what_is_brought_twice_is_added():
    brought = [("holding", {"symbol": "A", "amount": units, "average": price}) for units, price in (("10", "5"), ("30", "9"))]
    book = fold_book("x", [("opened", {"currency": "USD"}), *brought])
    assert book.positions == {"A": Position("A", D(40), D(8))} and book.paid_in == D(320) and book.cash == 0


def coin_fill(symbol, side, amount, price, worth, coin, units):
    return ("fill", fill_event(Fill("t", "c", symbol, side, D(amount), D(price), D(worth), T, coin, D(units)), "x", "v").data)


START = [("opened", {"currency": "USD"}), ("deposit", {"amount": "1000"})]


@pytest.mark.parametrize(
    ("before", "trade", "expected"),  # expected: cash, paid in, fees, realised by symbol, units and cost by symbol, outside
    [
        ([], coin_fill("BTC/USD", "buy", "1", "100", "1", "BTC", "0.01"), (900, 1000, 1, {}, {"BTC/USD": ("0.99", "99")}, {})),
        ([("holding", {"symbol": "BTC/USD", "amount": "2", "average": "100"})], coin_fill("BTC/USD", "sell", "1", "200", "2", "BTC", "0.01"),
         (1200, 1200, 2, {"BTC/USD": D(101)}, {"BTC/USD": ("0.99", "99")}, {})),  # 1.01 gone at 200 for 101 of cost
        ([("holding", {"symbol": "BTC/USD", "amount": "2", "average": "100"})], coin_fill("BTC/USD", "buy", "0.01", "100", "2", "BTC", "0.02"),
         (999, 1200, 2, {}, {"BTC/USD": ("1.99", "199")}, {})),  # more fee than was bought
        ([("holding", {"symbol": "BNB/USD", "amount": "10", "average": "300"})], coin_fill("BTC/USD", "buy", "1", "100", "41", "BNB", "0.1"),
         (900, 4000, 41, {"BNB/USD": D(11)}, {"BNB/USD": ("9.9", "2970"), "BTC/USD": ("1", "100")}, {})),
        ([("holding", {"symbol": "BNB/USD", "amount": "0.1", "average": "300"})], coin_fill("BTC/USD", "buy", "1", "100", "164", "BNB", "0.4"),
         (900, 1153, 164, {"BNB/USD": D(11)}, {"BTC/USD": ("1", "100")}, {"BNB": D("0.3")})),  # three quarters of 164 came from outside
        ([("holding", {"symbol": "BNB/USD", "amount": "0.1", "average": "300"})], coin_fill("BTC/USD", "buy", "1", "100", "41", "BNB", "0.1"),
         (900, 1030, 41, {"BNB/USD": D(11)}, {"BTC/USD": ("1", "100")}, {})),
        ([], coin_fill("BTC/USD", "buy", "1", "100", "164", "BNB", "0.4"), (900, 1164, 164, {}, {"BTC/USD": ("1", "100")}, {"BNB": D("0.4")})),
        ([coin_fill("BTC/USD", "buy", "1", "100", "164", "BNB", "0.4")], coin_fill("BTC/USD", "sell", "1", "110", "41", "BNB", "0.1"),
         (1010, 1205, 205, {"BTC/USD": D(10)}, {}, {"BNB": D("0.5")})),
        ([("fill", fill_event(Fill("s", "c", "BNB/USD", "sell", D(1), D(300), D(0), T), "x", "v").data)],
         coin_fill("BTC/USD", "buy", "1", "100", "41", "BNB", "0.1"),  # a coin that was sold short cannot pay
         (1200, 1041, 41, {}, {"BNB/USD": ("-1", "-300"), "BTC/USD": ("1", "100")}, {"BNB": D("0.1")})),
    ],
)
def test_fees_that_a_coin_pays(before, trade, expected):
    cash, paid_in, fees, realised, held, outside = expected
    book = fold_book("x", [*START, *before, trade])
    assert (book.cash, book.paid_in, book.fees, book.realised_by, book.outside) == (D(cash), D(paid_in), D(fees), realised, outside)
    assert {s: (p.amount, book.costs[s]) for s, p in book.positions.items()} == {s: (D(u), D(c)) for s, (u, c) in held.items()}


def test_who_pays_a_fee_and_what_it_is_worth():
    fill = Fill("t", "c", "BTC/USD", "buy", D(1), D(100), D(41), T, "BNB", D("0.1"))
    assert paid_with(fill) == ("BNB/USD", D(41)) and paid_with(fill.but(fee_currency="BTC")) == ("BTC/USD", D(10))
    assert paid_with(fill.but(symbol="BTC")) == ("BNB", D(41))


@pytest.mark.parametrize(("symbol", "allowed"), [("A", True), ("BTC/USD", True), ("BTC/USD:USD", True), ("BTC/EUR", False), ("BTC/EUR:USD", False)])
def test_a_fill_in_another_currency_is_refused(symbol, allowed):
    rows = [*START, ("fill", fill_event(Fill("t", "c", symbol, "buy", D(1), D(1), D(0), T), "x", "v").data)]
    if allowed:
        assert fold_book("x", rows).positions[symbol].amount == 1
    else:
        with pytest.raises(BadInput, match=f"x: a fill of {symbol} in an account of USD, without the rate at which it counts"):
            fold_book("x", rows)


def test_a_missing_price_is_an_error_that_names_it():
    book = fold_book("x", [*START, *(("holding", {"symbol": s, "amount": "1", "average": "1"}) for s in "ABCDEFG")])
    with pytest.raises(MissingData, match="x: no price for B, C, D, E, F; ingest it"):
        book.value({"A": D(1)})
    with pytest.raises(MissingData, match="no price for G;"):
        book.equity(dict.fromkeys("ABCDEF", D(1)))


def test_values_go_into_rows_and_come_back():
    fill = Fill("t1", "c1", "BTC/USD", "buy", D("1.50"), D(100), D("0.1"), T)
    row = {"id": "t1", "client_order_id": "c1", "symbol": "BTC/USD", "side": "buy", "amount": "1.50", "price": "100", "fee": "0.1",
           "timestamp": "2024-05-03T12:00:00.000000+00:00"}
    assert plain(fill) == row and fill_from(row) == fill
    assert fill_event(fill, "x", "v", "p").data == row | {"venue": "v", "plan": "p"} and fill_event(fill, "x", "v").timestamp == fill.timestamp
    in_kind = fill.but(fee_currency="BNB", fee_amount=D("0.01"))
    assert plain(in_kind) == row | {"fee_currency": "BNB", "fee_amount": "0.01"} and fill_from(plain(in_kind)) == in_kind
    state = OrderState("i", "c", "A", "sell", D(3), D(1), "open", None, D("0.2"), "why")
    assert state_from(plain(state)) == state and state_from(plain(state.but(average=D("5.5")))).average == D("5.5")
    assert time_text(T.astimezone(timezone(timedelta(hours=2)))) == "2024-05-03T12:00:00.000000+00:00"
    assert time_text(datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC)) == "2024-01-02T03:04:05.000006+00:00"


# columns


def lines(fills) -> bytes:
    import orjson

    return b"\n".join(orjson.dumps(fill_event(f, "x", "v").data, option=orjson.OPT_SORT_KEYS) for f in fills)


def test_trades_are_read_as_columns_of_whole_numbers():
    fills = read_fills(lines(FILLS))
    ends = tuple((FILLS[n].timestamp.isoformat(timespec="microseconds"), 3, 2, FILLS[n].id, "fill") for n in (0, -1))
    assert fills == FillColumns(["B", "A"], [0, 1, 1, 0], [20, 10, -15, -25], [100, 60, 52, 95], [2000, 600, 780, 2375], (0, 0, 3), *ends)
    finer = read_fills(lines([FILLS[0].but(amount=D("0.05"), price=D("1.5")), FILLS[1].but(price=D("0.125"), fee=D(0))]))
    assert (finer.units, finer.prices, finer.fees, finer.places) == ([5, 1000], [1500, 125], [2, 0], (2, 3, 0))


@pytest.mark.parametrize("spoil", [lambda t: t.replace(b'"B"', b'"B\\n"'), lambda t: t.replace(b'"sell"', b'"lend"', 1),
                                   lambda t: t.replace(b'"amount"', b'"amounts"'), lambda t: t.replace(b'"100"', b'"abc"'),
                                   lambda t: t.replace(b'"amount":"20",', b"")])  # fmt: skip
def test_what_is_not_in_the_usual_form_is_left_to_the_slow_way(spoil):
    assert read_fills(spoil(lines(FILLS))) is None


@pytest.mark.parametrize(
    ("texts", "numbers", "places"),
    [
        (["1", "20"], [1, 20], 0), (["1.5", "20", "0.125"], [1500, 20000, 125], 3), (["1E-8", "2.5"], [1, 250000000], 8),
        (["1E+2", "3"], [100, 3], 0),
        (["123456789012345678901.5", "0.5"], [1234567890123456789015, 5], 1), (["-2.5", "1"], [-25, 10], 1),
        (["-123456789012345678901.5"], [-1234567890123456789015], 1), (["9223372036854775807", "9223372036854775808"], [2**63 - 1, 2**63], 0),
    ],
)  # fmt: skip
def test_decimals_become_whole_numbers(texts, numbers, places):
    assert whole_numbers(pa.array(texts)) == (numbers, places)


ROLLS = [
    # holdings before, trades, and what is held after: units, cost; cash, fees, profit
    ({}, [("buy", "3", "10", "1")], {"A": ("3", "30")}, "-31", "1", {}),
    ({"A": ("3", "10")}, [("sell", "1", "5", "0")], {"A": ("2", "6.666666666666666667")}, "5", "0", {"A": "1.666666666666666667"}),
    ({"A": ("3", "20")}, [("sell", "1", "5", "0")], {"A": ("2", "13.333333333333333333")}, "5", "0", {"A": "-1.666666666666666667"}),
    ({"A": ("-3", "-10")}, [("buy", "1", "2", "0.5")], {"A": ("-2", "-6.666666666666666667")}, "-2.5", "0.5", {"A": "1.333333333333333333"}),
    ({"A": ("5", "70")}, [("sell", "7", "20", "0")], {"A": ("-2", "-40")}, "140", "0", {"A": "30"}),
    ({"A": ("-5", "-150")}, [("buy", "8", "20", "0")], {"A": ("3", "60")}, "-160", "0", {"A": "50"}),
    ({"A": ("0.125", "1")}, [("buy", "1", "8", "0")], {"A": ("1.125", "9")}, "-8", "0", {}),  # the holding has more places than the trade
    ({"A": ("5", "70")}, [("sell", "2", "20", "0.01"), ("sell", "3", "10", "0.02")], {"A": ("0", "0")}, "69.97", "0.03", {"A": "0"}),
    # half of 1e-18 is rounded to the even digit: cost 1e-18 of 2 units, one of them sold; and of 3e-18
    ({"A": ("2", "0.000000000000000001")}, [("sell", "1", "1", "0")], {"A": ("1", "0.000000000000000001")}, "1", "0", {"A": "1"}),
    ({"A": ("2", "0.000000000000000003")}, [("sell", "1", "1", "0")], {"A": ("1", "0.000000000000000001")}, "1", "0", {"A": "0.999999999999999998"}),
]  # fmt: skip


@pytest.mark.parametrize(("before", "trades", "after", "cash", "fees", "profit"), ROLLS)
@pytest.mark.parametrize("way", ["columns", "one by one"])
def test_both_ways_of_adding_up_give_the_same_literals(before, trades, after, cash, fees, profit, way):
    builder = BookBuilder("x")
    builder.currency, builder.held, builder.realised = "USD", {s: (D(u), D(c)) for s, (u, c) in before.items()}, {"A": D(7)}
    fills = [Fill(f"t{n}", "c", "A", side, D(amount), D(price), D(fee), T) for n, (side, amount, price, fee) in enumerate(trades)]
    if way == "columns":
        roll_forward(builder, read_fills(lines(fills)))
    else:
        builder.add(("fill", fill_event(f, "x", "v").data) for f in fills)
    assert {s: (u, c) for s, (u, c) in builder.held.items()} == {s: (D(u), D(c)) for s, (u, c) in after.items()}
    assert (builder.cash, builder.fees) == (D(cash), D(fees))
    assert builder.realised == {"A": 7 + D(profit.get("A", "0"))}


def test_columns_refuse_another_currency_too():
    builder = BookBuilder("x")
    builder.currency = "USD"
    with pytest.raises(BadInput, match="a fill of BTC/EUR in an account of USD"):
        roll_forward(builder, read_fills(lines([FILLS[0].but(symbol="BTC/EUR")])))


# lots


@pytest.mark.parametrize("method", ["fifo", "lifo", "average"])
def test_lots_of_the_account_of_five_marks(ledger, method):
    five_marks(ledger)
    lots = account_lots(ledger, ACCOUNT, method, shorts=True)
    for sales, left in ((lots.sales, lots.left), match_lots(FILLS, method, [BROUGHT], day(1), shorts=True)):
        assert [(s.symbol, s.amount, s.opened, s.closed, s.cost, s.proceeds, s.fees) for s in sales] == SALES[method]
        assert sorted((x.symbol, x.amount, x.cost, x.fee, x.opened) for x in left) == LOTS[method]
    total = sum(s.profit for s in sales)
    assert total == {"fifo": D(-120), "lifo": D(-170), "average": D(-145)}[method]


def test_a_short_sale_is_closed_by_a_purchase():
    fills = [Fill("t1", "c", "A", "sell", D(4), D(25), D(1), day(1)), Fill("t2", "c", "A", "buy", D(1), D(20), D("0.5"), day(3)),
             Fill("t3", "c", "A", "buy", D(5), D(30), D("0.5"), day(4))]
    sales, left = match_lots(fills, "fifo", shorts=True)
    assert sales == [Sale("A", D(1), day(1), day(3), D(20), D(25), D("0.75"), id="t2"),
                     Sale("A", D(3), day(1), day(4), D(90), D(75), D("1.05"), id="t3")]
    assert left == [Lot("A", D(2), D(60), D("0.2"), day(4))]
    assert [s.profit for s in sales] == [D(5), D(-15)] and [s.days for s in sales] == [2, 3]


def test_lots_that_pay_fees_in_coins():
    fills = [Fill("t1", "c", "BNB/USD", "buy", D(10), D(300), D(0), day(1)),
             Fill("t2", "c", "BTC/USD", "buy", D(1), D(100), D(41), day(2), "BNB", D("0.1")),
             Fill("t3", "c", "BTC/USD", "sell", D("0.5"), D(200), D(2), day(3), "BTC", D("0.01"))]
    sales, left = match_lots(fills, "fifo")
    assert sales == [Sale("BNB/USD", D("0.1"), day(1), day(2), D(30), D(41), D(0), "fee", id="t2"),
                     Sale("BTC/USD", D("0.51"), day(2), day(3), D(51), D(102), D("22.91"), id="t3")]  # 51 % of the 41, and the 2
    assert [(x.symbol, x.amount, x.cost, x.fee) for x in left] == [("BNB/USD", D("9.9"), D(2970), D(0)), ("BTC/USD", D("0.49"), D(49), D("20.09"))]
    sales, left = match_lots(fills[1:2], "fifo")  # a coin that is not there
    assert sales == [] and [(x.symbol, x.amount) for x in left] == [("BTC/USD", D(1))]
    sales, left = match_lots([fills[0].but(amount=D("0.04")), fills[1]], "fifo")  # less is there than was taken
    assert sales == [Sale("BNB/USD", D("0.04"), day(1), day(2), D(12), D("16.4"), D(0), "fee", id="t2")] and [x.symbol for x in left] == ["BTC/USD"]


def test_parts_of_lots_leave_the_exact_rest():
    fills = [Fill("t1", "c", "A", "buy", D(3), D("3.333333"), D(1), day(1)), Fill("t2", "c", "A", "sell", D(1), D(5), D(0), day(2))]
    (sale,), (lot,) = match_lots(fills, "fifo")
    assert (sale.cost, sale.fees) == (D("3.333333"), D("0.333333333333333333")) and (lot.cost, lot.fee) == (D("6.666666"), D("0.666666666666666667"))


def test_the_list_for_the_tax_office():
    book = LotBook("fifo", bought={"=cmd": [(day(20), D(5))]})
    book.sales = [Sale("A", D("10.50"), day(1), day(4), D(500), D(520), D("0.52"), currency="USD"),
                  Sale("=cmd", D(1), day(1), day(1, 23), D(2), D(1), D(0), "fee", "mine", "USD", "t7"),
                  Sale("B", D(1), None, day(2), D(0), D(9), D(0))]
    assert lots_csv(book) == (
        "asset,amount,acquired,sold,proceeds,cost,fees,gain,currency,days held,term,wash sale units,closed by,account,"
        "trade id,own proceeds,own cost,own currency\n"
        "A,10.5,2024-01-01 12:00:00,2024-01-04 12:00:00,520,500,0.52,19.48,USD,3,short,0,sale,,,520,500,USD\n"
        "'=cmd,1,2024-01-01 12:00:00,2024-01-01 23:00:00,1,2,0,-1,USD,0,short,1,fee,mine,t7,1,2,USD\n"
        "B,1,missing,2024-01-02 12:00:00,9,0,0,9,,0,unknown,0,sale,,,9,0,\n")


def test_the_list_of_trades():
    in_kind = Fill("t5", "c5", "BTC/USDT:USDT", "buy", D(1), D("1E+2"), D("0.5"), day(2), "BNB", D("0.01"))
    assert trades_csv([FILLS[1], in_kind, FILLS[1].but(symbol="A/USD:EUR")]) == (
        "time UTC,symbol,side,amount,price,value,fee,trade id,order id,fee taken,fee coin,rate,worth\n"
        "2024-01-03 12:00:00,A,buy,10,60,600,0.6,t2,c2,0.6,,1,600\n"
        "2024-01-02 12:00:00,BTC/USDT:USDT,buy,1,100,100,0.5,t5,c5,0.01,BNB,1,100\n"
        "2024-01-03 12:00:00,A/USD:EUR,buy,10,60,600,0.6,t2,c2,0.6,USD,1,600\n")


def test_the_list_for_cointracking():
    rows = [FILLS[1], FILLS[2], Fill("t5", "c5", "BTC/USDT", "buy", D(1), D(100), D("0.5"), day(2), "BTC", D("0.005")),
            Fill("t6", "c6", "BTC/USDT", "sell", D(1), D(100), D("0.5"), day(2), "BNB", D("0.01"))]
    events = [Event("opened", "mine", day(1), {"currency": "USD"}), *(fill_event(f, "mine", "paper") for f in rows)]
    assert cointracking_csv(account_moves(events), "paper") == (
        "Type,Buy,Cur.,Sell,Cur.,Fee,Cur.,Exchange,Group,Comment,Date,Tx-ID\n"
        "Trade,10,A,600.6,USD,0.6,USD,paper,,c2,03.01.2024 12:00:00,t2\n"
        "Trade,779.22,USD,15,A,0.78,USD,paper,,c3,04.01.2024 12:00:00,t3\n"
        "Trade,0.995,BTC,100,USDT,0.005,BTC,paper,,c5,02.01.2024 12:00:00,t5\n"
        "Trade,100,USDT,1,BTC,0.01,BNB,paper,,c6,02.01.2024 12:00:00,t6\n"
        "Other Fee,,,0.01,BNB,,,paper,,c6,02.01.2024 12:00:00,t6-fee\n")


# the ledger


def note(text, when=T, account="x"):
    return Event("note", account, when, {"text": text})


def test_events_are_filtered_by_account_kind_time_and_place(ledger):
    first = [note("a", T), note("b", T + timedelta(seconds=1)), Event("circuit", "x", T, {}), note("c", T, "y"), note("d", T - timedelta(days=1))]
    assert ledger.append(first[:4]) == 4 and ledger.append(first[4]) == 5
    texts = lambda **q: [e.data.get("text") for e in ledger.events(**q)]  # noqa: E731
    assert texts() == ["a", "b", None, "c", "d"] and texts(account="x") == ["a", "b", None, "d"] and texts(kind="note") == ["a", "b", "c", "d"]
    assert texts(account="x", kind=["note", "circuit"]) == ["a", "b", None, "d"] and texts(kind=[]) == [] and texts(account="z") == []
    assert texts(kind="note", since=T) == ["a", "b", "c"] and texts(since=T + timedelta(microseconds=1)) == ["b"]
    assert texts(after=3) == ["c", "d"] and texts(after=5) == [] and ledger.events() == first
    assert ledger.last("note", "x").data == {"text": "d"} and ledger.last("note", "x").timestamp == T - timedelta(days=1)
    assert ledger.last("note", "z") is None and ledger.last("none", "x") is None


def test_what_happens_once_is_found_by_its_parts(ledger):
    fill = fill_event(FILLS[0], "x", "paper")
    ledger.append([note("a"), fill])
    assert event_key(fill) == "fill|x|paper|t1" and event_key(note("a")) is None
    assert ledger.find("fill", "x", "paper", "t1") == fill and ledger.place("fill", "x", "paper", "t1") == 2
    assert ledger.find("fill", "x", "kraken", "t1") is None and ledger.find("fill", "y", "paper", "t1") is None
    assert ledger.append([fill, note("b"), note("b")]) == 4  # the trade is there already; a note may be written as often as one likes
    with pytest.raises(BadInput, match=r"x: fill\|x\|paper\|t1 is in the ledger with another content"):
        ledger.append([note("never"), fill_event(FILLS[0].but(fee=D(3)), "x", "paper")])
    with pytest.raises(BadInput, match="with another content"):  # the two in one call
        ledger.append([fill_event(f, "x", "paper") for f in (FILLS[1], FILLS[1].but(amount=D(11)))])
    assert len(ledger.events()) == 4 and ledger.append([fill_event(FILLS[1], "x", "paper")] * 2) == 5


def test_an_account_is_opened_once(ledger):
    assert ledger.open_account("x", "USD", D(5), T, [Position("A", D(2), D(3))]) is True
    assert ledger.open_account("x", "EUR", D(9), T) is False and ledger.open_account("y", "EUR", D(0), T + timedelta(days=1)) is True
    assert [(e.account, e.kind, e.data) for e in ledger.events()] == [
        ("x", "opened", {"currency": "USD"}), ("x", "deposit", {"amount": "5", "currency": "USD"}),
        ("x", "holding", {"symbol": "A", "amount": "2", "average": "3"}), ("y", "opened", {"currency": "EUR"})]
    assert ledger.accounts() == ["x", "y"] and ledger.book("x").currency == "USD" and ledger.book("y").cash == 0
    with pytest.raises(BadInput, match="the account 'z' was not opened in ledger.db; known: x, y; open it"):
        ledger.book("z")


def test_the_chain_names_the_first_event_that_was_altered(ledger):
    ledger.append([note(str(n)) for n in range(5)])
    assert ledger.verify() == 5
    rows = [row for (row,) in ledger._db.execute("select hash from events order by seq")]
    assert rows[0] == chain_hash("", "x", "note", "2024-05-03T12:00:00.000000+00:00", '{"text":"0"}', length=32)
    assert len(set(rows)) == 5 and len(rows[0]) == 32
    ledger._db.execute("drop trigger no_update")
    ledger._db.execute("update events set data = '{}' where seq = 3")
    with pytest.raises(LedgerError, match="was altered at event 3"):
        ledger.verify()
    ledger._db.execute("drop trigger no_delete")
    ledger._db.execute("delete from events where seq = 2")
    with pytest.raises(LedgerError, match="was altered at event 2"):
        ledger.verify()


def test_a_reader_gets_each_event_once_in_order_and_what_failed_again(ledger):
    ledger.append([note(str(n)) for n in range(3)])
    seen = []

    def reader(seq, event):
        seen.append((seq, event.data["text"]))
        if len(seen) == 2:
            raise RuntimeError("down")

    with pytest.raises(RuntimeError):
        ledger.deliver("one", reader)
    assert ledger.deliver("one", reader) == 2 and ledger.deliver("one", reader) == 0
    assert seen == [(1, "0"), (2, "1"), (2, "1"), (3, "2")]
    assert ledger.deliver("two", lambda seq, event: None) == 3
    ledger.append(note("3"))
    assert ledger.deliver("one", reader) == 1 and seen[-1] == (4, "3")


def test_a_lease_is_of_one_account_and_ends(ledger):
    other = Ledger(ledger.path)
    with ledger.lease("x"):
        with pytest.raises(Busy, match="the account x is being traded by another process"), other.lease("x"):
            pass
        with other.lease("y"):
            pass
    with other.lease("x"):
        pass
    other.close()


def test_orders_without_an_end_are_found(ledger):
    def of(kind, n, account="x"):
        return Event(kind, account, T + timedelta(seconds=n), {"client_order_id": f"c{n}"})

    ledger.append([of("intent", 1), of("intent", 2), of("ended", 1), of("intent", 3), of("intent", 2, "y")])
    assert [e.data["client_order_id"] for e in ledger.unended("x")] == ["c2", "c3"] and ledger.unended("x")[0].timestamp == T + timedelta(seconds=2)
    assert [e.account for e in ledger.unended("y")] == ["y"] and ledger.unended("z") == []


def test_the_last_mark_of_a_moment_counts(ledger):
    ledger.open_account("x", "USD", D(5), T, [Position("A", D(2), D(3))])
    assert ledger.mark("x", {"A": D(4)}, T + timedelta(hours=1)).cash == 5
    ledger.mark("x", {"A": D(6)}, T)
    ledger.mark("x", {"A": D(7)}, T)
    history = ledger.equity_history("x")
    assert history["equity"].tolist() == [19.0, 13.0] and history["unrealised"].tolist() == [8.0, 2.0] and history.index.is_monotonic_increasing
    assert history["paid_in"].tolist() == [11.0, 11.0] and history["cash"].tolist() == [5.0, 5.0] and str(history.index.tz) == "UTC"
    assert ledger.equity_history("y").empty


def test_a_file_that_cannot_be_a_ledger_is_refused(tmp_path):
    with pytest.raises(LedgerError, match="the ledger none.db does not exist; run a trade first"):
        Ledger(tmp_path / "none.db", readonly=True)
    with Ledger(tmp_path / "new.db")._db as db:
        db.execute("pragma user_version = 99")
    db.close()
    with pytest.raises(LedgerError, match="the ledger new.db is of version 99 and this carnet knows"):
        Ledger(tmp_path / "new.db")
    good = Ledger(tmp_path / "good.db")
    good.append([note("x" * 1000) for _ in range(50)])
    good.close()
    whole = (tmp_path / "good.db").read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 50):
        (tmp_path / "short.db").write_bytes(whole[:length])
        with pytest.raises(LedgerError, match="the ledger short.db (cannot be opened: it )?is damaged.*carnet restore"):
            Ledger(tmp_path / "short.db")
    (tmp_path / "short.db").write_bytes(b"X" + whole[1:])
    with pytest.raises(LedgerError, match="damaged"):
        Ledger(tmp_path / "short.db")
    (tmp_path / "short.db").write_bytes(whole)
    reader = Ledger(tmp_path / "short.db", readonly=True)
    assert len(reader.events()) == 50
    with pytest.raises(LedgerError, match="the ledger short.db cannot be written: .*; nothing was recorded"):
        reader.append(note("no"))
    reader.close()
