"An account in one currency that holds what is priced in others: every amount counts at its recorded rate, and costs are kept in both."

import csv
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

import pytest

from trading.accounting.account_book import fill_event, fold_book
from trading.accounting.exports import account_moves, cointracking_csv, lots_csv, open_lots_csv, trades_csv
from trading.accounting.ledger import Ledger
from trading.accounting.performance import explain_change
from trading.accounting.tax_lots import account_lots
from trading.core.errors import BadInput, MissingData
from trading.core.types import Event, Fill
from trading.execution.reconciliation import compare_sums, expected_holdings

NOON = datetime(2024, 5, 2, 12, tzinfo=UTC)


def fill(number, symbol, side, amount, price, fee, currency, rate, financed=False, days=0):
    when = NOON + timedelta(days=days)
    return Fill(f"t{number}", f"c{number}", symbol, side, D(amount), D(price), D(fee), when, currency=currency, rate=D(rate), financed=financed)


def opened(ledger, currency, *fills):
    ledger.open_account("mine", currency, D(10_000), NOON - timedelta(days=1))
    ledger.append([fill_event(f, "mine", "paper") for f in fills])
    return ledger.book("mine")


def test_a_share_for_dollars_in_an_account_of_euros_by_hand(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite")
    book = opened(ledger, "EUR", fill(1, "AAPL", "buy", 10, 100, 1, "USD", "0.9"), fill(2, "AAPL", "buy", 10, 110, 1, "USD", "0.95", days=1),
                  fill(3, "AAPL", "sell", 5, 120, 1, "USD", "0.92", days=2))
    # paid 900 + 1045, fees 0.90 + 0.95 + 0.92, got 552
    assert book.cash == D("10000") - 900 - 1045 + 552 - D("2.77") and book.fees == D("2.77")
    assert book.realised == 552 - D("486.25") and book.costs == {"AAPL": D("1458.75")} and book.own_costs == {"AAPL": D(1575)}
    assert book.equity({"AAPL": D(130) * D("0.93")}) == book.cash + 15 * D("120.9") and not compare_sums(book)
    with pytest.raises(BadInput, match="without the rate at which it counts"):  # dollars are never taken for euros
        ledger.append(fill_event(Fill("t9", "c9", "AAPL", "buy", D(1), D(100), D(0), NOON + timedelta(days=3)), "mine", "paper"))
        ledger.book("mine")


def test_a_pair_of_currencies_whose_profit_is_in_pounds_by_hand(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite")
    book = opened(ledger, "USD", fill(1, "EUR/GBP", "buy", 1000, "0.85", "0.05", "GBP", "1.30", True),
                  fill(2, "USD/JPY", "sell", 2000, 150, 0, "JPY", "0.0066", True))
    now = {"EUR/GBP": D("0.86") * D("1.31"), "GBP/USD": D("1.31"), "USD/JPY": D(149) * D("0.0067"), "JPY/USD": D("0.0067")}
    # 10 pounds at 1.31, 2,000 yen at 0.0067, a fee of 0.05 pounds at 1.30; no money was exchanged for the positions
    assert book.cash == D("9999.935") and book.equity(now) == D("9999.935") + D("13.10") + D("13.40") and not compare_sums(book)
    assert expected_holdings(book) == {"USD": D("9999.935"), "EUR/GBP": D(1000), "USD/JPY": D(-2000)}
    with pytest.raises(MissingData, match="no rate JPY/USD for the profit of USD/JPY"):
        book.equity({s: p for s, p in now.items() if s != "JPY/USD"})
    ledger.mark("mine", now, NOON + timedelta(hours=1))
    ledger.append([fill_event(fill(3, "EUR/GBP", "sell", 400, "0.87", 0, "GBP", "1.32", True, 1), "mine", "paper"),
                   fill_event(fill(4, "USD/JPY", "buy", 3000, 148, 0, "JPY", "0.0068", True, 1), "mine", "paper")])
    after = ledger.book("mine")
    assert after.realised_by == {"EUR/GBP": D("10.56"), "USD/JPY": D("27.2")}  # 8 pounds at 1.32, 4,000 yen at 0.0068
    assert after.own_costs == {"EUR/GBP": D(510), "USD/JPY": D(148_000)} and not compare_sums(after)
    later = now | {"EUR/GBP": D("0.87") * D("1.32"), "GBP/USD": D("1.32"), "USD/JPY": D(148) * D("0.0068"), "JPY/USD": D("0.0068")}
    assert after.equity(later) == D("9999.935") + D("10.56") + D("27.2") + 12 * D("1.32")
    ledger.mark("mine", later, NOON + timedelta(days=1, hours=1))
    change = explain_change(ledger, ["mine"], NOON + timedelta(hours=1), NOON + timedelta(days=1, hours=1))
    assert change.assets == {"EUR/GBP": D("10.56") + D("15.84") - D("13.10"), "USD/JPY": D("27.2") - D("13.4")}
    assert change.total == sum(change.assets.values())
    lots = account_lots(ledger, "mine", "fifo")
    assert sum(s.profit for s in lots.sales) == after.realised and [s.own_currency for s in lots.sales] == ["GBP", "JPY"]
    assert "Derivatives / Futures Profit,10.56,USD" in cointracking_csv(account_moves(e for _, e in ledger.history("mine")), "Carnet")


def test_lots_and_exports_carry_both_costs(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite")
    fills = [fill(1, "AAPL", "buy", 10, 100, 1, "USD", "0.9"), fill(2, "NESN", "buy", 4, 90, 0, "CHF", "1.02"),
             fill(3, "AAPL", "sell", 4, 120, 0, "USD", "0.92", days=2)]
    opened(ledger, "EUR", *fills, Fill("t4", "c4", "SAP", "buy", D(2), D(150), D(0), NOON))
    lots = account_lots(ledger, "mine", "fifo")
    (sold,) = csv.DictReader(io.StringIO(lots_csv(lots)))
    assert (sold["proceeds"], sold["cost"], sold["gain"], sold["currency"]) == ("441.6", "360", "81.24", "EUR")
    assert (sold["own proceeds"], sold["own cost"], sold["own currency"]) == ("480", "400", "USD")
    left = {r["asset"]: r for r in csv.DictReader(io.StringIO(open_lots_csv(lots.left, {"mine": "EUR"})))}
    assert [(left[s]["cost"], left[s]["own cost"], left[s]["own currency"]) for s in ("AAPL", "NESN", "SAP")] == [
        ("540", "600", "USD"), ("367.2", "360", "CHF"), ("300", "300", "EUR")]
    trade = next(csv.DictReader(io.StringIO(trades_csv(fills))))
    assert (trade["value"], trade["rate"], trade["worth"], trade["fee coin"]) == ("1000", "0.9", "900", "USD")
    moves = account_moves(e for _, e in ledger.history("mine"))
    assert {m.gave_unit or m.got_unit for m in moves if m.kind == "trade"} == {"EUR", "AAPL"}  # no dollars that were never there


@pytest.mark.parametrize("event", [
    Event("withdrawal", "mine", NOON + timedelta(days=2), {"symbol": "AAPL", "amount": "5", "price": "92"}),
    Event("split", "mine", NOON + timedelta(days=2), {"symbol": "AAPL", "ratio": "2"}),
    Event("rename", "mine", NOON + timedelta(days=2), {"symbol": "AAPL", "to": "PEAR"}),
    Event("deposit", "mine", NOON + timedelta(days=2), {"symbol": "AAPL", "amount": "5", "price": "92"}),
])
def test_what_happens_besides_trades_moves_the_own_cost_or_makes_it_unknown(event):
    first = fill_event(fill(1, "AAPL", "buy", 10, 100, 0, "USD", "0.9"), "mine", "paper")
    book = fold_book("mine", [("opened", {"currency": "EUR"}), ("fill", first.data), (event.kind, event.data)])
    assert book.own_costs == {"withdrawal": {"AAPL": D(500)}, "split": {"AAPL": D(1000)}, "rename": {"PEAR": D(1000)}, "deposit": {}}[event.kind]
    assert book.paid_in + book.realised == book.cash + sum(book.costs.values())
