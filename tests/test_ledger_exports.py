"What the ledger gives to others is read back by a reader that knows nothing of it."

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from trading.accounting.account_book import fill_event
from trading.accounting.exports import account_moves, cointracking_csv, lots_csv
from trading.accounting.ledger import Ledger
from trading.accounting.tax_lots import account_lots
from trading.core.types import Fill, Position
from trading.venues.cointracking import read_cointracking

START = datetime(2023, 1, 2, 9, 30, tzinfo=UTC)
D = Decimal


def balances(bookings) -> dict[str, D]:
    "Add up what is left of each currency; the amounts of CoinTracking contain the fee."
    left: dict[str, D] = {}
    for b in bookings:
        for amount, currency in ((b.buy, b.buy_currency), (-b.sell, b.sell_currency)):
            if currency:
                left[currency] = left.get(currency, D(0)) + amount
    return {c: a for c, a in left.items() if a}


def _moves(ledger):
    return account_moves(e for _, e in ledger.history("mine") if e.kind == "fill")


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    made = Ledger(tmp_path / "ledger.db")
    made.open_account("mine", "USDT", D(0), START, [Position("PEPE/USDT", D(500_000), D("0.00000001"))])
    trades = [("buy", "BTC/USDT", "0.12345678", "1000000", "12.345678"), ("buy", "PEPE/USDT", "2000000", "0.00000002", "0.0001"),
              ("sell", "BTC/USDT", "0.02345678", "1100000", "2.5"), ("sell", "PEPE/USDT", "1500000.5", "0.00000003", "0.0001")]
    fills = [Fill(f"t{n}", f"c{n}", s, side, D(a), D(p), D(f), START + timedelta(days=200 * n)) for n, (side, s, a, p, f) in enumerate(trades)]
    made.append([fill_event(f, "mine", "paper") for f in fills])
    return made


def test_the_trades_for_cointracking_come_back_as_the_same_holdings(ledger):
    told = balances(read_cointracking(cointracking_csv(_moves(ledger), "paper")))
    book = ledger.book("mine")
    assert told["BTC"] == book.positions["BTC/USDT"].amount == D("0.1")
    assert told["PEPE"] == book.positions["PEPE/USDT"].amount - 500_000 and told["USDT"] == book.cash


@pytest.fixture
def in_kind(tmp_path) -> Ledger:
    "Fees taken in the coin that was bought, in a third coin of the account, and in one that is not in the books."
    made = Ledger(tmp_path / "kind.db")
    made.open_account("mine", "USDT", D(3_000_000), START)
    trades = [("buy", "BNB/USDT", "10", "300", "", "0"), ("buy", "BTC/USDT", "0.12345678", "1000000", "BTC", "0.00012346"),
              ("buy", "PEPE/USDT", "2000000", "0.00000002", "BNB", "0.00000001"), ("sell", "BTC/USDT", "0.02345678", "1100000", "BNB", "0.06666667"),
              ("sell", "BNB/USDT", "3.5", "410", "BNB", "0.0035"), ("sell", "PEPE/USDT", "1500000.5", "0.00000003", "KCS", "0.00000009")]
    worth = {"BTC": D(1000000), "BNB": D(410), "KCS": D("12.34"), "": D(0)}
    fills = [Fill(f"t{n}", f"c{n}", s, side, D(a), D(p), D(u) * worth[coin], START + timedelta(days=200 * n), coin, D(u))
             for n, (side, s, a, p, coin, u) in enumerate(trades)]
    made.append([fill_event(f, "mine", "binance") for f in fills])
    return made


def test_fees_taken_in_coins_come_back_as_the_same_holdings_and_the_same_profit(in_kind):
    told, book = balances(read_cointracking(cointracking_csv(_moves(in_kind), "binance"))), in_kind.book("mine")
    held = {s.partition("/")[0]: p.amount for s, p in book.positions.items()}
    assert held == {a: told[a] for a in held} and told["USDT"] + 3_000_000 == book.cash and told["KCS"] == D("-0.00000009")
    assert held["BTC"] == D("0.09987654") and held["BNB"] == 10 - D("0.00000001") - D("0.06666667") - D("3.5035")
    assert book.paid_in == 3_000_000 + D("0.00000009") * D("12.34")  # the owner paid that one from outside
    assert book.paid_in + book.realised - book.fees == book.cash + sum(book.costs.values())
    for method in ("fifo", "lifo", "average"):
        lots = account_lots(in_kind, "mine", method)
        sales, left = lots.sales, lots.left
        assert {s: sum(x.amount for x in left if x.symbol == s) for s in book.positions} == {s: p.amount for s, p in book.positions.items()}
        assert sum(s.fees for s in sales) + sum(x.fee for x in left) == book.fees
        assert method != "average" or abs(sum(s.profit for s in sales) - book.realised) < D("1e-12")


def test_the_tax_lots_add_up_to_the_profit_of_the_book(ledger):
    import csv
    import io

    for method in ("fifo", "lifo", "average"):
        lots = account_lots(ledger, "mine", method)
        sales, left = lots.sales, lots.left
        rows = list(csv.DictReader(io.StringIO(lots_csv(lots))))
        assert sum(D(r["gain"]) for r in rows) == sum(s.profit - s.fees for s in sales) and len(rows) == len(sales)
        assert sum((x.amount for x in left if x.symbol == "PEPE/USDT"), D(0)) == ledger.positions("mine")["PEPE/USDT"].amount
    average = account_lots(ledger, "mine", "average").sales
    assert abs(sum(s.profit for s in average) - ledger.book("mine").realised) < D("1e-12")
