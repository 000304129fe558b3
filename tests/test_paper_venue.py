"""The paper exchange takes, refuses, rounds, splits and fills as the venue does: case by case, and side by side with the served exchange under
stock ccxt and a second reckoning of Binance's published filters on 1,000 random orders."""

import random
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from math import ceil

import ccxt
import pandas as pd
import pytest

from trading.core.bars import bars_from
from trading.core.instruments import Instrument, order_parts
from trading.core.types import Order
from trading.testing.binance_server import Counter, SignatureCheck, make_exchange, served
from trading.venues.paper.costs import TradingCosts
from trading.venues.paper.exchange import PaperVenue
from trading.venues.paper.matching import BarFeed, QuoteFeed

D, NOON = Decimal, datetime(2024, 1, 2, 12, tzinfo=UTC)
FREE = TradingCosts(D(0), D(0), D(0))
DAYS = pd.date_range("2024-01-01", periods=8, freq="D", tz="UTC")
FLAT = [(100, 101, 99, 100)] * 4
PAIR = "BTC/USDT"
TERMS = Instrument(PAIR, D("0.001"), D("0.01"), D("0.001"), D(5), max_amount=D(500), price_low=D("0.2"), price_high=D(5))


def place(rows=FLAT, volume=100.0, costs=FREE, terms=TERMS, funds=None, **more):
    "Open an exchange on daily bars; the clock stands at the close of the first."
    frame = pd.DataFrame(rows, columns=["open", "high", "low", "close"], index=DAYS[: len(rows)], dtype=float).assign(volume=volume)
    clock = [datetime(2024, 1, 2, tzinfo=UTC)]
    feed = BarFeed(bars_from({terms.symbol: frame}), negative=[terms.symbol] * terms.negative_prices)
    venue = PaperVenue(feed, lambda: clock[0], {terms.symbol: terms}, costs,
                       funds or {"USDT": D(100_000), "BTC": D(500)}, "USDT", **more)
    return venue, clock


def order(name, side, amount, **more):
    symbol, exact = more.pop("symbol", PAIR), {k: D(str(v)) if k in ("price", "stop_price") else v for k, v in more.items()}
    return Order(name, symbol, side, D(str(amount)), **exact)


def test_a_marketable_limit_order_fills_at_once_as_a_taker_and_its_rest_waits_as_a_maker():
    terms = TERMS.but(maker_fee=D("0.0002"), taker_fee=D("0.001"))
    venue, clock = place(volume=[100.0, 100.0, 40.0, 100.0], costs=TradingCosts(D("0.5"), D(0), D(0), venue_fees=True), terms=terms)
    state = venue.create_order(order("a", "buy", 120, type="limit", price=100))
    assert (state.status, state.filled, state.average) == ("open", 100, 100)  # the whole volume of the bar that it meets
    clock[0] += timedelta(days=3)
    assert venue.fetch_order("a", PAIR).status == "closed"
    first, second = venue.fetch_my_trades(None)
    assert (first.amount, first.fee) == (100, D(10)) and (second.amount, second.price, second.fee) == (20, 100, D("0.4"))


def test_two_orders_share_the_volume_of_one_bar_and_a_market_order_does_not_rest():
    venue, clock = place(costs=TradingCosts(D(0), D(0), D(0), max_share=D("0.1")))
    first, second = venue.create_order(order("a", "buy", 7)), venue.create_order(order("b", "sell", 7))
    assert (first.status, first.filled) == ("closed", 7)
    assert (second.status, second.filled) == ("expired", 3) and "only 0.1 of the volume of 100" in second.reason
    clock[0] += timedelta(days=2)
    assert venue.fetch_order("b", PAIR) == second and venue.fetch_open_orders() == []
    assert venue.create_order(order("c", "buy", 11, type="limit", price=120, time_in_force="FOK")).filled == 0


@pytest.mark.parametrize("kind", [{}, {"type": "limit", "price": 100}, {"type": "limit", "price": 99.5}, {"type": "stop", "stop_price": 100.5}])
def test_nothing_fills_on_a_bar_without_volume(kind):
    venue, clock = place(volume=[100.0, 0.0, 0.0, 100.0])
    state = venue.create_order(order("a", "buy", 1, **kind))
    clock[0] += timedelta(days=2)
    waiting = venue.fetch_order("a", PAIR)
    assert state.filled == waiting.filled == 0
    if kind.get("type") == "limit":
        clock[0] += timedelta(days=1)
        assert venue.fetch_order("a", PAIR).filled == 1  # the first bar in which somebody trades
    elif not kind:
        assert state.status == "expired" and "nothing was traded in the bar of 2024-01-02" in state.reason


def test_a_source_that_tells_no_volume_fills_all_the_same():
    venue, _ = place(volume=0.0)
    assert venue.create_order(order("a", "buy", 1)).filled == 1


@pytest.mark.parametrize(("side", "stop"), [("sell", 105), ("sell", 100), ("buy", 95), ("buy", 100)])
def test_a_stop_on_the_wrong_side_is_refused_or_triggers_as_the_venue_does(side, stop):
    venue, clock = place()
    refused = venue.create_order(order("a", side, 1, type="stop", stop_price=stop))
    assert refused.status == "rejected" and f"the stop {stop} would trigger at once at 100" in refused.reason
    venue, clock = place(stops="trigger")
    assert venue.create_order(order("a", side, 1, type="stop", stop_price=stop)).status == "open"
    clock[0] += timedelta(days=1)
    assert venue.fetch_order("a", PAIR).filled == 1


REFUSED = [
    ({"amount": "0.0015"}, "not a multiple of 0.001"), ({"amount": "501"}, "above the maximum of 500"),
    ({"amount": "0.01"}, "below the minimum of 5 USDT"),
    ({"amount": 1, "type": "limit", "price": "100.005"}, "the price 100.005 is not a multiple of 0.01"),
    ({"amount": 1, "type": "limit", "price": 501}, "outside of 20 to 500"),
    ({"amount": 1, "type": "limit", "price": "19.99"}, "outside of 20 to 500"),
    ({"amount": 1, "time_in_force": "PO"}, "a market order takes from the book"), ({"amount": 1, "type": "limit", "price": -1}, "is not above zero"),
    ({"amount": 1, "type": "limit", "price": 100, "time_in_force": "PO"}, "would trade at once"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "why"), REFUSED)
def test_what_the_venue_refuses_is_refused(asked, why):
    venue, _ = place()
    state = venue.create_order(order("a", "buy", **asked))
    assert state.status == "rejected" and why in state.reason, state
    assert venue.fetch_balance() == {"USDT": 100_000, "BTC": 500}


@pytest.mark.parametrize(("symbol", "last", "step"), [("SHIB/USD", "0.0000085", "0.00000001"), ("PEPE/USD", "0.0000047", "0.0000000001"),
                                                      ("BTC/USD", "90000", "0.1"), ("X/USD", "0.00000001", "0.00000000000001")])  # fmt: skip
def test_a_round_trip_costs_what_the_settings_say_whatever_the_price(symbol, last, step):
    terms = Instrument(symbol, D("0.00000001"), D(step))
    venue = PaperVenue(QuoteFeed(lambda s, t: D(last)), lambda: NOON, {symbol: terms}, TradingCosts(D(0), D(5), D(5)), {"USD": D(100_000)}, "USD")
    bought = venue.create_order(Order("a", symbol, "buy", terms.amount(D(5000) / D(last))))
    sold = venue.create_order(Order("b", symbol, "sell", bought.filled))
    assert abs(bought.average / D(last) - 1) < D("0.0025") and abs(sold.average / D(last) - 1) < D("0.0025")
    assert bought.average > D(last) > sold.average


def test_a_fee_out_of_the_coins_does_not_need_cash_on_top():
    venue, _ = place(funds={"USDT": D(10_000)}, costs=TradingCosts(D("0.001"), D(0), D(0)), fee_in="received")
    assert venue.create_order(order("a", "buy", 100, type="limit", price=100)).filled == 100
    assert venue.fetch_balance() == {"BTC": D("99.9")}


def test_negative_prices_trade_where_the_instrument_allows_them():
    oil = Instrument("CL", D(1), D("0.01"), kind="future", quote="USD", negative_prices=True)
    rows = [(18.0, 20.0, 17.0, 18.0), (-37.0, -30.0, -40.0, -37.63), (-37.0, 12.0, -40.0, 10.0)]
    venue, clock = place(rows, terms=oil, funds={"USD": D(1000), "CL": D(10)}, costs=TradingCosts(D(0), D(5), D(5)))
    venue.currency = "USD"
    sold = venue.create_order(order("a", "sell", 1, symbol="CL"))
    bought = venue.create_order(order("b", "buy", 1, symbol="CL"))
    assert sold.average < -37 < bought.average < D("-36.9")  # costs are against us on both sides, also below zero
    assert venue.fetch_balance()["USD"] == 1000 + sold.average - bought.average
    assert venue.create_order(order("c", "buy", 1, symbol="CL", type="limit", price="-50")).status == "open"


# ------------------------------------------------------------------------------------------------ 1,000 orders side by side

SEED = 7
MARKETS = {
    "BTC/USDT": Instrument("BTC/USDT", D("0.00001"), D("0.01"), D("0.00001"), D(5), D(9000), D("3.5"), price_low=D("0.2"), price_high=D(5),
                           maker_fee=D("0.0005"), taker_fee=D("0.001")),
    "XRP/USDT": Instrument("XRP/USDT", D("0.1"), D("0.0001"), D("0.1"), D(5), D(90_000), D(9000), price_low=D("0.2"), price_high=D(5),
                           maker_fee=D("0.0005"), taker_fee=D("0.001")),
    "PEPE/USDT": Instrument("PEPE/USDT", D(1), D("0.00000001"), D(1), D(1), D(92_141_578_000), D(9_000_000_000), price_low=D("0.2"),
                            price_high=D(5), maker_fee=D("0.0005"), taker_fee=D("0.001")),
}  # fmt: skip
START = {"BTC/USDT": D("40000.00"), "XRP/USDT": D("0.5000"), "PEPE/USDT": D("0.00000470")}


class Reckoning:
    "Binance's spot rules as its documentation states them, in fractions, written without our code: the filters, the locked funds, the fills."

    def __init__(self, funds):
        self.funds, self.open, self.done = {a: Fraction(n) for a, n in funds.items()}, {}, {}

    def free(self, asset):
        held = sum((o["left"] * o["holds"] if o["side"] == "buy" else o["left"]) for o in self.open.values()
                   if asset == ("USDT" if o["side"] == "buy" else o["base"]))
        fees = sum(o["left"] * o["holds"] / 1000 for o in self.open.values() if asset == "USDT" and o["side"] == "buy")
        return self.funds.get(asset, Fraction(0)) - held - fees

    def refused(self, o, m, last):
        amount, price = Fraction(o.amount), None if o.price is None else Fraction(o.price)
        stop = None if o.stop_price is None else Fraction(o.stop_price)
        worth = price or stop or last
        rules = [amount % Fraction(m.amount_step), amount < Fraction(m.min_amount), amount > Fraction(m.max_amount),
                 o.type in ("market", "stop") and amount > Fraction(m.max_market_amount), amount * worth < Fraction(m.min_cost)]
        if stop is not None:
            rules += [stop % Fraction(m.price_step), stop <= last if o.side == "buy" else stop >= last]
        if price is not None:
            rules += [price % Fraction(m.price_step), not last / 5 <= price <= last * 5]
            rules += [o.time_in_force == "PO" and (price >= last if o.side == "buy" else price <= last)]
        base = o.symbol.split("/")[0]
        need = amount if o.side == "sell" else amount * worth * Fraction(1001, 1000)
        return any(rules) or need > self.free(base if o.side == "sell" else "USDT")

    def fill(self, o, price, fee, amount=None):
        sign, base = (1 if o.side == "buy" else -1), o.symbol.split("/")[0]
        amount, price = Fraction(o.amount) if amount is None else amount, Fraction(price)
        cost = Fraction((D(amount.numerator) / D(amount.denominator) * D(price.numerator) / D(price.denominator) * fee)
                        .quantize(D("0.00000001"), "ROUND_CEILING"))
        self.funds[base] = self.funds.get(base, Fraction(0)) + sign * amount
        self.funds["USDT"] -= sign * amount * price + cost
        self.done[o.client_order_id] = "closed"

    def take(self, o, m, last):
        if self.refused(o, m, last):
            return "rejected"
        waits = o.type in ("stop", "stop_limit")
        crosses = not waits and (o.type == "market" or (o.price >= last if o.side == "buy" else o.price <= last))
        if crosses:
            self.fill(o, last, D("0.001"))
            return "closed"
        if o.time_in_force in ("IOC", "FOK"):
            return "expired"
        self.open[o.client_order_id] = {"order": o, "side": o.side, "base": o.symbol.split("/")[0], "left": Fraction(o.amount),
                                        "holds": Fraction(o.price or o.stop_price), "asleep": waits}
        return "open"

    def move(self, prices):
        for name, held in list(self.open.items()):
            o, last = held["order"], Fraction(prices[held["order"].symbol])
            woken = held["asleep"] and (last >= o.stop_price if o.side == "buy" else last <= o.stop_price)
            held["asleep"] = held["asleep"] and not woken
            if held["asleep"]:
                continue
            if o.type == "stop":  # a market order from here on; one whose money no longer buys all of it gets what it buys
                del self.open[name]
                most = Fraction(o.amount) if o.side == "sell" else (self.free("USDT") - Fraction(1, 10**8)) / (last * Fraction(1001, 1000))
                step = Fraction(MARKETS[o.symbol].amount_step)
                self.fill(o, last, D("0.001"), min(Fraction(o.amount), most // step * step))
            elif o.price >= last if o.side == "buy" else o.price <= last:
                del self.open[name]
                self.fill(o, last if woken else o.price, D("0.001") if woken else D("0.0005"))  # it takes at the trigger; later it has waited

    def consolidate(self, base, old, new):
        self.funds[base] = self.funds.get(base, Fraction(0)) * new / old
        self.open = {n: o for n, o in self.open.items() if o["base"] != base}


def random_order(dice, number, last):
    "Draw an order; about a third break a rule."
    symbol = dice.choice(list(MARKETS))
    m, kind = MARKETS[symbol], dice.choice(["market", "limit", "limit", "stop", "stop_limit"])
    worth = D(dice.choice(["1", "4.9", "5.2", "50", "700", "3000", "20000", "200000"])) * D(dice.randint(90, 110)) / 100
    amount = worth / last[symbol]
    amount = m.amount(amount) if dice.random() < 0.85 else amount.quantize(D("0.000000001"))
    price = stop = None
    if kind.startswith("stop"):
        stop = last[symbol] * D(dice.choice(["0.96", "0.99", "0.995", "1", "1.005", "1.01", "1.04"]))
        stop = m.price(stop) if dice.random() < 0.9 else stop + m.price_step / 2
        price = m.price(stop * D(dice.choice(["0.15", "0.99", "0.999", "1.001", "1.01"]))) if kind == "stop_limit" else None
    if kind == "limit":
        price = last[symbol] * D(dice.choice(["0.19", "0.5", "0.97", "0.995", "1", "1.004", "1.03", "4", "5.2"]))
        price = m.price(price) if dice.random() < 0.9 else price + m.price_step / 2
    force = dice.choice(["GTC", "GTC", "GTC", "IOC", "FOK", "PO"]) if kind == "limit" else "GTC"
    if amount <= 0:
        amount = m.amount_step
    return Order(f"o{number}", symbol, dice.choice(["buy", "sell"]), amount, kind, price, stop, force)


def sent(dice, asked):
    "Send an order whole, or, where it is above the venue's largest, in as few parts as the venue takes."
    m = MARKETS[asked.symbol]
    most = m.max_market_amount if asked.type in ("market", "stop") else m.max_amount
    if asked.amount <= most or asked.amount % m.amount_step or dice.random() < 0.2:
        return [asked]
    parts = order_parts(m, asked.amount, asked.type)
    assert sum(parts) == asked.amount and len(parts) == ceil(asked.amount / most) and max(parts) <= most
    assert max(parts) - min(parts) <= m.amount_step and not any(n % m.amount_step for n in parts)
    return [asked.but(client_order_id=f"{asked.client_order_id}-{n}", amount=part) for n, part in enumerate(parts)]


def consolidated(venue, prices):
    "Put ten units of a coin together into one, as an issuer does: open orders end, the units are a tenth, the price is ten times as high."
    for waiting in venue.fetch_open_orders():
        if waiting.symbol == "PEPE/USDT":
            venue.cancel_order(waiting.client_order_id, waiting.symbol)
    venue.move({"PEPE": -venue.fetch_balance()["PEPE"] * 9 / 10})
    prices["PEPE/USDT"] = 10 * prices["PEPE/USDT"]


WALKED = [("market", "closed"), *((kind, end) for kind in ("limit", "stop", "stop_limit") for end in ("open", "rejected")), ("market", "rejected"),
          ("limit", "closed"), ("limit", "expired")]


def opened(prices):
    return PaperVenue(QuoteFeed(lambda s, t: prices[s]), lambda: NOON, MARKETS, TradingCosts(D("0.5"), D(0), D(0), venue_fees=True),
                      {"USDT": D(300_000), "BTC": D(5), "XRP": D(200_000), "PEPE": D(10_000_000_000)}, "USDT")


def moved(dice, prices):
    for symbol in prices:
        prices[symbol] = MARKETS[symbol].price(prices[symbol] * D(dice.randint(985, 1016)) / 1000)


def test_a_thousand_random_orders_end_as_binances_rules_say():
    dice, prices = random.Random(SEED), dict(START)
    venue = opened(prices)
    rules, ends, cut = Reckoning(venue.fetch_balance()), {}, 0
    for number in range(1000):
        if number % 5 == 0:
            moved(dice, prices)
            venue.fetch_open_orders()
            rules.move(prices)
        if number == 500:
            rules.consolidate("PEPE", 10, 1)
            consolidated(venue, prices)
        parts = sent(dice, random_order(dice, number, prices))
        cut += len(parts) > 1
        for asked in parts:
            state, expected = venue.create_order(asked), rules.take(asked, MARKETS[asked.symbol], Fraction(prices[asked.symbol]))
            assert state.status == expected, (asked, state, prices)
            ends[asked.type, expected] = ends.get((asked.type, expected), 0) + 1
            if expected == "open" and dice.random() < 0.5:
                venue.cancel_order(asked.client_order_id, asked.symbol)
                rules.open.pop(asked.client_order_id)
        if number % 50 == 0:
            assert {a: Fraction(n) for a, n in venue.fetch_balance().items()} == {a: n for a, n in rules.funds.items() if n}
    assert {a: Fraction(n) for a, n in venue.fetch_balance().items()} == {a: n for a, n in rules.funds.items() if n}
    assert min(ends[k] for k in WALKED) > 20 and cut > 20, (ends, cut)  # each way was walked
    done = [f.client_order_id for f in venue.fetch_my_trades(None)]
    assert sum(venue.sent(name)[0].type.startswith("stop") for name in done) > 20  # and stops were reached


def test_a_thousand_random_orders_are_the_same_on_paper_and_at_the_served_exchange_under_stock_ccxt():
    dice, prices = random.Random(SEED + 1), dict(START)
    paper, behind = opened(prices), opened(prices)
    with served(make_exchange(Counter(behind, lambda: NOON), SignatureCheck("key", "secret"))) as url:
        client = ccxt.binance({"apiKey": "key", "secret": "secret", "enableRateLimit": False, "options": {"fetchMarkets": {"types": ["spot"]}}})
        client.urls["api"] = {name: re.sub(r"https://[^/]+", url, address) for name, address in client.urls["api"].items()}
        client.session.trust_env = False
        told = client.load_markets()
        assert all(told[s]["limits"]["market"]["max"] == float(m.max_market_amount) for s, m in MARKETS.items())
        outcomes = {}
        for number in range(1000):
            if number % 5 == 0:
                moved(dice, prices)
                paper.fetch_open_orders()
            if number == 500:
                consolidated(behind, dict(prices))
                consolidated(paper, prices)
            asked = random_order(dice, number, prices)
            rounded = D(client.decimal_to_precision(f"{asked.amount:f}", ccxt.TRUNCATE, f"{MARKETS[asked.symbol].amount_step:f}", ccxt.TICK_SIZE))
            if not rounded:
                continue
            m = MARKETS[asked.symbol]
            assert rounded == m.amount(asked.amount)  # both round the same way
            whole = asked.but(amount=rounded, price=asked.price and m.price(asked.price), stop_price=asked.stop_price and m.price(asked.stop_price))
            for asked in sent(dice, whole):
                mine = paper.create_order(asked)
                more = {"newClientOrderId": asked.client_order_id} | ({"triggerPrice": f"{asked.stop_price:f}"} if asked.stop_price else {})
                more |= {"postOnly": True} if asked.time_in_force == "PO" else {"timeInForce": asked.time_in_force} if "limit" in asked.type else {}
                kind = "limit" if "limit" in asked.type else "market"
                try:
                    answer = client.create_order(asked.symbol, kind, asked.side, f"{asked.amount:f}", asked.price and f"{asked.price:f}", more)
                    theirs = (answer["status"], D(str(answer["filled"])))
                except ccxt.BaseError:
                    theirs = ("rejected", D(0))
                assert theirs == (mine.status, mine.filled), (asked, mine, theirs)
                outcomes[asked.type, mine.status] = outcomes.get((asked.type, mine.status), 0) + 1
    assert paper.fetch_balance() == behind.fetch_balance()
    assert [f.but(id="") for f in paper.fetch_my_trades(None)] == [f.but(id="") for f in behind.fetch_my_trades(None)]
    assert min(outcomes[k] for k in WALKED) > 20, outcomes
