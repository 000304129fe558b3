"""One account by hand: what happened on five days, and every number that follows from it, worked out on paper.

day 1  opened with 10,000 in cash and 10 A that cost 50 each
day 2  20 B bought at 100, fee 2                     cash 10,000 - 2,000 - 2
day 3  1,000 paid in; 10 A bought at 60, fee 0.60    cash 7,998 + 1,000 - 600 - 0.60; 20 A cost 500 + 600, that is 55 each
day 4  15 A sold at 52, fee 0.78; 2,000 taken out    profit 15 x (52 - 55) = -45; cash 8,397.40 + 780 - 0.78 - 2,000
day 5  25 B sold at 95, fee 2.375: 20 close, 5 are short    profit 20 x (95 - 100) = -100; cash 7,176.62 + 2,375 - 2.375
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal as D

from trading.accounting.account_book import fill_event
from trading.accounting.ledger import Ledger
from trading.core.types import Event, Fill, Position

ACCOUNT = "five"


def day(number: int, hour: int = 12) -> datetime:
    return datetime(2024, 1, number, hour, tzinfo=UTC)


@dataclass(frozen=True)
class Mark:
    "What the account is at the end of a day."

    prices: dict[str, D]
    cash: D
    paid_in: D
    flow: D  # paid in or out since the mark before
    realised: D
    unrealised: D
    fees: D  # so far
    equity: D  # paid in + realised + unrealised - fees, and also cash + what is held at its price
    held: dict[str, tuple[D, D]]  # symbol: units, cost


BROUGHT = Position("A", D(10), D(50))
FILLS = [
    Fill("t1", "c1", "B", "buy", D(20), D(100), D(2), day(2)),
    Fill("t2", "c2", "A", "buy", D(10), D(60), D("0.60"), day(3)),
    Fill("t3", "c3", "A", "sell", D(15), D(52), D("0.78"), day(4)),
    Fill("t4", "c4", "B", "sell", D(25), D(95), D("2.375"), day(5)),
]
EVENTS = [
    [],
    [fill_event(FILLS[0], ACCOUNT, "paper")],
    [Event("deposit", ACCOUNT, day(3, 9), {"amount": "1000", "currency": "USD"}), fill_event(FILLS[1], ACCOUNT, "paper")],
    [fill_event(FILLS[2], ACCOUNT, "paper"), Event("withdrawal", ACCOUNT, day(4, 13), {"amount": "2000", "currency": "USD"})],
    [fill_event(FILLS[3], ACCOUNT, "paper")],
]  # by day, behind the opening
MARKS = [
    Mark({"A": D(50)}, D(10000), D(10500), D(10500), D(0), D(0), D(0), D(10500), {"A": (D(10), D(500))}),
    Mark({"A": D(55), "B": D(100)}, D(7998), D(10500), D(0), D(0), D(50), D(2), D(10548), {"A": (D(10), D(500)), "B": (D(20), D(2000))}),
    Mark({"A": D(60), "B": D(110)}, D("8397.40"), D(11500), D(1000), D(0), D(300), D("2.60"), D("11797.40"),
         {"A": (D(20), D(1100)), "B": (D(20), D(2000))}),
    Mark({"A": D(52), "B": D(90)}, D("7176.62"), D(9500), D(-2000), D(-45), D(-215), D("3.38"), D("9236.62"),
         {"A": (D(5), D(275)), "B": (D(20), D(2000))}),
    Mark({"A": D(40), "B": D(100)}, D("9549.245"), D(9500), D(0), D(-145), D(-100), D("5.755"), D("9249.245"),
         {"A": (D(5), D(275)), "B": (D(-5), D(-475))}),
]  # fmt: skip
# closed lots by method: symbol, units, opened, closed, cost, proceeds, fees of both ends
SALES = {
    "fifo": [("A", D(10), day(1), day(4), D(500), D(520), D("0.52")), ("A", D(5), day(3), day(4), D(300), D(260), D("0.56")),
             ("B", D(20), day(2), day(5), D(2000), D(1900), D("3.9"))],
    "lifo": [("A", D(10), day(3), day(4), D(600), D(520), D("1.12")), ("A", D(5), day(1), day(4), D(250), D(260), D("0.26")),
             ("B", D(20), day(2), day(5), D(2000), D(1900), D("3.9"))],
    "average": [("A", D(15), day(1), day(4), D(825), D(780), D("1.23")), ("B", D(20), day(2), day(5), D(2000), D(1900), D("3.9"))],
}  # fmt: skip
# open lots by method: symbol, units, cost, fee, opened
LOTS = {
    "fifo": [("A", D(5), D(300), D("0.30"), day(3)), ("B", D(-5), D(-475), D("0.475"), day(5))],
    "lifo": [("A", D(5), D(250), D(0), day(1)), ("B", D(-5), D(-475), D("0.475"), day(5))],
    "average": [("A", D(5), D(275), D("0.15"), day(1)), ("B", D(-5), D(-475), D("0.475"), day(5))],
}


def five_marks(ledger: Ledger, days: int = 5) -> Ledger:
    "Write the account into a ledger, each day marked at its end."
    ledger.open_account(ACCOUNT, "USD", D(10_000), day(1), [BROUGHT])
    for number, (events, mark) in enumerate(zip(EVENTS[:days], MARKS[:days], strict=True), 1):
        ledger.append(events)
        ledger.mark(ACCOUNT, mark.prices, day(number, 18))
    return ledger
