"Random orders given to the paper exchange directly and, through our ccxt venue, to the same exchange served as Binance serves its own: the same becomes of each."

import random
from datetime import UTC, datetime
from decimal import Decimal as D

from trading.core.errors import TradingError
from trading.core.instruments import Instrument, order_parts
from trading.core.types import Order
from trading.testing.binance_server import Counter, SignatureCheck, make_exchange, served
from trading.venues.crypto.venue import CcxtVenue
from trading.venues.paper.costs import TradingCosts
from trading.venues.paper.exchange import PaperVenue
from trading.venues.paper.matching import QuoteFeed

NOON = datetime(2024, 1, 2, 12, tzinfo=UTC)
BAND = {"price_low": D("0.2"), "price_high": D(5)}
MARKETS = {s: Instrument(s, D(amount), D(price), kind="spot", min_cost=D(cost), max_amount=D(most), max_market_amount=D(market), **BAND) for s, amount, price, cost, most, market in (
    ("BTC/USDT", "0.00001", "0.01", 5, 20, 2), ("ETH/BTC", "0.0001", "0.000001", "0.0001", 500, 60), ("PEPE/USDT", "1", "0.00000001", 1, 900_000_000, 90_000_000),
    ("XRP/USDT", "0.1", "0.0001", 5, 100_000, 9_000))}  # fmt: skip
START = {"BTC/USDT": D("40000.00"), "ETH/BTC": D("0.055000"), "PEPE/USDT": D("0.00000123"), "XRP/USDT": D("0.5214")}
FUNDS = {"USDT": D(400_000), "BTC": D(9), "ETH": D(40), "PEPE": D(2_000_000_000), "XRP": D(150_000)}
TERMS = ("amount_step", "price_step", "min_cost", "max_amount", "max_market_amount", "price_low", "price_high", "currency", "kind")


def drawn_order(dice, number, terms, last):
    "Draw an order as a person or a plan may ask for it: most on the steps of the venue, some not, some far too large."
    side, kind = dice.choice(("buy", "sell")), dice.choice(("market", "limit", "limit", "limit", "stop", "stop_limit"))
    near = lambda low, high: last * D(str(round(dice.uniform(low, high), 5)))  # noqa: E731
    amount = D(str(dice.choice((0.4, 0.9, 1.1, 30, 3_000, 90_000)) * dice.uniform(0.5, 1.5) * 10)) / (last if terms.quote == "USDT" else last * 40_000)
    on = dice.random() > 0.08
    fit = lambda n: terms.price(n) if on else n.quantize(terms.price_step / 10) + terms.price_step / 10  # noqa: E731
    sloppy = terms.amount(amount) + terms.amount_step / 10 if dice.random() < 0.05 else terms.amount(amount)
    price = fit(near(0.9, 1.1) if dice.random() > 0.04 else near(0.1, 6)) if "limit" in kind else None
    stop = fit(near(0.9, 1.1)) if "stop" in kind else None
    force = dice.choice(("GTC", "GTC", "IOC", "FOK", "PO")) if kind == "limit" else "GTC"
    return None if sloppy <= 0 or price == 0 or stop == 0 else Order(f"o{number}", terms.symbol, side, sloppy, kind, price, stop, force)


def told(venue, ask):
    "Return what a venue makes of an order; a refusal is a rejection, whatever words it is given in."
    try:
        state = ask(venue)
    except TradingError:
        return ("rejected",)
    return ("rejected",) if state.status == "rejected" else (state.status, state.amount, state.filled, state.average, state.symbol, state.side)


def side_by_side(number, seed):
    "Give the same orders to both while prices move, and hold every answer, trade and balance of the one against the other's."
    dice, prices, open_, asked = random.Random(seed), dict(START), [], {"filled": 0, "rejected": 0, "open": 0, "split": 0}
    make = lambda: PaperVenue(QuoteFeed(lambda s, t: prices.get(s)), lambda: NOON, MARKETS, TradingCosts(D("0.001"), D(1), D(1)), FUNDS, "USDT")  # noqa: E731
    here, behind = make(), make()
    with served(make_exchange(Counter(behind, lambda: NOON, None), SignatureCheck("key", "secret"))) as url:
        there = CcxtVenue("binance", "key", "secret", base_url=url, symbols=tuple(MARKETS))
        ours, theirs = here.load_markets(), there.load_markets()
        for s in MARKETS:
            assert {t: getattr(theirs[s], t) for t in TERMS} == {t: getattr(ours[s], t) for t in TERMS}, s
        for n in range(number):
            symbol = dice.choice(list(MARKETS))
            prices[symbol] = max(ours[symbol].price(prices[symbol] * D(str(round(dice.uniform(0.97, 1.03), 5)))), ours[symbol].price_step)
            order = drawn_order(dice, n, ours[symbol], prices[symbol])
            if order is None:
                continue
            pieces = order_parts(ours[symbol], order.amount, order.type, order.price or prices[symbol]) if dice.random() < 0.7 else [order.amount]
            assert len(pieces) == 1 or pieces == order_parts(theirs[symbol], order.amount, order.type, order.price or prices[symbol])
            asked["split"] += len(pieces) > 1
            for k, piece in enumerate(pieces[:5]):
                part = order.__class__(f"{order.client_order_id}-{k}", symbol, order.side, piece, order.type, order.price, order.stop_price, order.time_in_force)
                mine, served_ = (told(v, lambda v, part=part: v.create_order(part)) for v in (here, there))
                assert mine == served_, (part, mine, served_)
                asked["rejected" if mine[0] == "rejected" else "open" if mine[0] == "open" else "filled"] += 1
                open_ += [part] if mine[0] == "open" else []
            if open_ and dice.random() < 0.4:
                gone = open_.pop(dice.randrange(len(open_)))
                answers = [told(v, lambda v, gone=gone: v.fetch_order(gone.client_order_id, gone.symbol)) for v in (here, there)]
                assert answers[0] == answers[1], (gone, answers)
                if answers[0][0] == "open":
                    assert len({told(v, lambda v, gone=gone: v.cancel_order(gone.client_order_id, gone.symbol)) for v in (here, there)}) == 1, gone
        assert here.fetch_balance() == there.fetch_balance()
        left = [sorted((s.client_order_id, s.amount, s.filled) for s in v.fetch_open_orders()) for v in (here, there)]
        trades = [sorted((f.client_order_id, f.symbol, f.side, f.amount, f.price, f.fee) for f in v.fetch_my_trades(datetime(2024, 1, 1, tzinfo=UTC))) for v in (here, there)]
        assert left[0] == left[1] and trades[0] == trades[1]
    return asked | {"trades": len(trades[0])}


def test_forty_random_orders_fare_alike():
    fared = side_by_side(40, 3)
    assert all(fared.values()), fared
