"A venue in memory whose every answer a test decides, with a clock that moves when somebody sleeps."

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

from trading.core.errors import MissingData
from trading.core.instruments import Instrument
from trading.core.types import Fill, Order, OrderState

NOON = datetime(2024, 5, 3, 12, tzinfo=UTC)


class StubClock:
    "A clock that a test moves; `sleep` moves it too and is remembered."

    def __init__(self, start: datetime = NOON):
        self.time, self.slept = start, []

    def __call__(self) -> datetime:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += timedelta(seconds=seconds)


class StubVenue:
    "Fills market orders at its price at once, and limit orders only when `fills` says so; `faults` are raised by method, one a call."

    def __init__(self, clock: StubClock, prices: dict, balance: dict, name: str = "stub"):
        self.name, self.clock, self.prices, self.balance = name, clock, {s: D(p) for s, p in prices.items()}, {a: D(n) for a, n in balance.items()}
        self.markets = {s: Instrument(s, D(1), D("0.01")) for s in prices}
        self.orders: dict[str, OrderState] = {}
        self.trades: list[Fill] = []
        self.faults: dict[str, list[Exception | None]] = {}
        self.arrives = True  # whether an order whose call fails is carried out all the same
        self.share = D(1)  # part of an order that is filled at once; below one the rest stays open
        self.fee = D(0)  # of the value
        self.calls: list[str] = []
        self.seen: list[Order] = []

    def _enter(self, method: str) -> None:
        self.calls.append(method)
        fault = self.faults[method].pop(0) if self.faults.get(method) else None
        if fault is not None and not (method == "create_order" and self.arrives):
            raise fault
        self._late = fault

    def load_markets(self) -> dict[str, Instrument]:
        return self.markets

    def fetch_tickers(self, symbols: Iterable[str]) -> dict[str, D]:
        self._enter("fetch_tickers")
        return {s: self.prices[s] for s in symbols if s in self.prices}

    def fetch_balance(self) -> dict[str, D]:
        self._enter("fetch_balance")
        return dict(self.balance)

    def create_order(self, order: Order) -> OrderState:
        self.seen.append(order)
        self._enter("create_order")
        late, amount, price = self._late, order.amount * self.share, self.prices[order.symbol]
        status = "closed" if amount == order.amount else "open"
        fee = amount * price * self.fee
        number = f"n{len(self.orders) + 1}"
        self.orders[order.client_order_id] = OrderState(number, order.client_order_id, order.symbol, order.side, order.amount, amount, status,
                                                        price if amount else None, fee)  # fmt: skip
        if amount:
            self.trade(order.client_order_id, order.symbol, order.side, amount, price, fee)
        if late is not None:
            raise late
        return self.orders[order.client_order_id]

    def trade(self, client_order_id, symbol, side, amount, price, fee=0, moves: bool = True) -> Fill:
        "Book a trade, by default with what it does to the balance."
        fill = Fill(f"t{len(self.trades) + 1}", client_order_id, symbol, side, D(amount), D(price), D(fee), self.clock())
        self.trades.append(fill)
        if moves:
            self.balance[symbol] = self.balance.get(symbol, D(0)) + fill.units
            self.balance["USD"] = self.balance.get("USD", D(0)) + fill.cash
        return fill

    def fetch_order(self, client_order_id: str, symbol: str) -> OrderState:
        self._enter("fetch_order")
        if client_order_id not in self.orders:
            raise MissingData(f"no order {client_order_id}")
        return self.orders[client_order_id]

    def fetch_open_orders(self) -> list[OrderState]:
        self._enter("fetch_open_orders")
        return [s for s in self.orders.values() if s.status == "open"]

    def fetch_my_trades(self, since: datetime | None = None) -> list[Fill]:
        self._enter("fetch_my_trades")
        return [f for f in self.trades if since is None or f.timestamp >= since]

    def cancel_order(self, client_order_id: str, symbol: str) -> OrderState:
        self._enter("cancel_order")
        self.orders[client_order_id] = self.orders[client_order_id].but(status="canceled", reason="asked for")
        return self.orders[client_order_id]
