"Stops, targets, trailing and time stops: at the backtest's prices on paper, through loop and commands, after a crash, at venues without stops."

import json
import os
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pandas as pd
import pytest
from click.testing import CliRunner
from test_trade_loop import ACCOUNT, FAST, HOUR, START, loop_at

from trading.accounting.ledger import Ledger
from trading.cli.main import main
from trading.core.bars import bars_from
from trading.core.errors import UnknownOutcome, VenueUnreachable
from trading.core.instruments import Instrument
from trading.core.margin import MarginTerms
from trading.core.types import Event, Order, Position
from trading.core.venue_proxy import VenueProxy
from trading.execution.emergency_stop import cancel_orders
from trading.execution.order_manager import OrderContext, record_fills, submit_order
from trading.execution.protection import end_protections, keep_rules, protect_position, protections, release_orders, watch_protections
from trading.execution.reconciliation import reconcile
from trading.pipeline.position_protection import bar_extremes
from trading.risk.exit_rules import ExitRules
from trading.security.audit_log import AuditLog
from trading.services.commands import Actor, Context, perform
from trading.services.order_control import working_orders
from trading.services.workspace import Workspace
from trading.venues.paper.costs import TradingCosts
from trading.venues.paper.exchange import PaperVenue
from trading.venues.paper.margin_exchange import MarginVenue
from trading.venues.paper.matching import BarFeed, QuoteFeed

pytestmark = pytest.mark.xdist_group("loop")
D = Decimal
DAY, DAYS = timedelta(days=1), pd.date_range("2024-01-01", periods=8, tz="UTC")
COIN = {"BTC/USDT": Instrument("BTC/USDT", D("0.001"), D("0.01"))}


class Account:
    "An exchange and books with 10,000, and a clock."

    def __init__(self, folder, tape, venue=None):
        self.now = DAYS[1].to_pydatetime()
        self.exchange = PaperVenue(tape, lambda: self.now, COIN, TradingCosts(D(0), D(0), D(0)), {"USDT": D(10000)}, "USDT")
        self.ledger = Ledger(folder / "ledger.sqlite")
        self.ledger.open_account("mine", "USDT", D(10000), self.now)
        self.desk = self.context(venue(self.exchange) if venue else self.exchange)

    def context(self, venue):
        return OrderContext(venue, self.ledger, "mine", lambda: self.now, sleep=lambda s: None)

    def trade(self, name, side, amount):
        record_fills(self.desk, [submit_order(self.desk, Order(name, "BTC/USDT", side, D(amount)))], "", self.now)

    def agree(self):
        assert reconcile(self.ledger, self.exchange, "mine", self.now).ok


def market(opens, highs, lows, closes) -> pd.DataFrame:
    "Six days around 100, after which nothing happens."
    fill = lambda row, usual: [*row, *[usual] * (8 - len(row))]  # noqa: E731
    prices = {"open": fill(opens, 100.0), "high": fill(highs, 100.0), "low": fill(lows, 100.0), "close": fill(closes, 100.0)}
    return bars_from({"BTC/USDT": pd.DataFrame(prices | {"volume": 1e6}, DAYS)})


RISE = market([100, 100, 100, 104], [101, 101, 102, 112], [99, 99, 99, 103], [100, 100, 101, 111])
CASES = {  # bars, rules; bought at the open of the third day; price and day at which it was left are a hand calculation
    "stop": (market([100, 100, 100], [101, 101, 101], [99, 99, 94], [100, 100, 95]), ExitRules(D("0.05")), 95, 2),
    "gap through the stop": (market([100, 100, 100, 90], [101, 101, 101, 91], [99, 99, 99, 89], [100, 100, 100, 90]), ExitRules(D("0.05")), 90, 3),
    "target": (RISE, ExitRules(None, D("0.1")), 110, 3),
    "both in one bar: the stop": (market([100, 100, 100], [101, 101, 112], [99, 99, 94], [100, 100, 100]), ExitRules(D("0.05"), D("0.1")), 95, 2),
    "the target of two": (RISE, ExitRules(D("0.05"), D("0.1")), 110, 3),
    "trailing": (market([100, 100, 100, 118, 106], [101, 101, 120, 118, 107], [99, 99, 99, 105, 105], [100, 100, 118, 106, 106]),
                 ExitRules(D("0.1"), None, True), 108, 3),
    "time": (market([100, 100, 100, 101, 102, 103], [103] * 6, [99] * 6, [100, 100, 101, 102, 103, 103]), ExitRules(time_stop=2 * DAY), 102, 4),
}


@pytest.mark.parametrize("case", CASES)
def test_the_paper_exchange_leaves_where_the_backtest_leaves(case, tmp_path):
    from trading.backtest.engine import backtest

    bars, rules, price, day = CASES[case]
    held = pd.Series([0, 1, *[1] * 6], DAYS)
    once = backtest(bars, signals=held, fees=0.0, **rules.options).trades.iloc[0]
    assert (once["exit_price"], once["exit"]) == (price, DAYS[day])
    mine = Account(tmp_path, BarFeed(bars))
    for i in range(2, 8):
        mine.now = DAYS[i].to_pydatetime()
        mine.agree()
        if i == 2:
            mine.trade("in", "buy", 10)
        known = bars.loc[: mine.now - DAY]
        watch_protections(mine.desk, mine.exchange.fetch_tickers(["BTC/USDT"]), bar_extremes(known))
        keep_rules(mine.desk, rules, bar_extremes(known))
    out = mine.ledger.fills("mine")[-1]
    assert (out.side, out.price, out.timestamp.date()) == ("sell", price, out.timestamp.date()) and DAYS[day] <= out.timestamp <= DAYS[day] + DAY
    assert len(mine.ledger.fills("mine")) == 2 and mine.exchange.fetch_open_orders() == [] and not protections(mine.ledger, "mine")
    mine.agree()


def test_a_short_position_is_protected_on_the_other_side(tmp_path):
    quote = {"BTC/USDT": D(100)}
    mine = Account(tmp_path, QuoteFeed(lambda s, t: quote[s]))
    mine.exchange = MarginVenue(QuoteFeed(lambda s, t: quote[s]), lambda: mine.now, COIN, TradingCosts(D(0), D(0), D(0)), {"USDT": D(10000)}, "USDT",
                                terms=MarginTerms(leverage=D(2)))
    mine.desk = mine.context(mine.exchange)
    mine.trade("in", "sell", 10)
    p, _ = protect_position(mine.desk, "BTC/USDT", "ada", stop=D(105), target=D(90))
    assert p.side == "buy" and p.words.startswith("BTC/USDT 10 short from 100: stop 105 at the venue") and len(mine.exchange.fetch_open_orders()) == 2
    quote["BTC/USDT"] = D(106)
    assert watch_protections(mine.desk, quote) == ["BTC/USDT: the protection has ended, the position was closed"]
    assert mine.ledger.positions("mine") == {} and mine.exchange.fetch_open_orders() == [] and mine.ledger.cash("mine") == 9940


class NoStops(VenueProxy):
    "A venue that keeps no stop orders."

    keeps = ()


class Dies(VenueProxy):
    "A venue at which the process dies before or after the third order."

    when, count = "after", 0

    def _call(self, method, *args, **options):
        if method == "create_order":
            self.count += 1
            if self.count == 3 and self.when == "before":
                raise KeyboardInterrupt
            answer = super()._call(method, *args, **options)
            if self.count == 3:
                raise KeyboardInterrupt
            return answer
        return super()._call(method, *args, **options)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kept", [True, False])
def test_a_process_that_dies_beside_an_order_is_followed_by_one_that_finds_it(when, kept, tmp_path):
    quote = {"BTC/USDT": D(100)}
    mine = Account(tmp_path, QuoteFeed(lambda s, t: quote[s]))
    if not kept:
        mine.exchange.keeps = ()
    dying = Dies(mine.exchange)
    dying.when, dying.count = when, 0 if kept else 1
    mine.desk = mine.context(dying)
    mine.trade("in", "buy", 10)
    with pytest.raises(KeyboardInterrupt):
        protect_position(mine.desk, "BTC/USDT", "ada", stop=D(95), target=D(120) if kept else None)
        quote["BTC/USDT"] = D(94)
        watch_protections(mine.desk, quote)
    mine.desk = mine.context(mine.exchange)
    watch_protections(mine.desk, quote)
    if kept:
        assert len(mine.exchange.fetch_open_orders()) == 2 and mine.ledger.positions("mine")["BTC/USDT"].amount == 10
        quote["BTC/USDT"] = D(94)
        watch_protections(mine.desk, quote)
    assert [(f.side, f.amount) for f in mine.exchange.fetch_my_trades()] == [("buy", 10), ("sell", 10)] and not protections(mine.ledger, "mine")
    mine.agree()


class Deaf(VenueProxy):
    "A venue that loses cancellations, or does not carry them out."

    lost = True

    def _call(self, method, *args, **options):
        if method == "cancel_order" and self.lost:
            raise VenueUnreachable("nobody answered")
        return super()._call("fetch_order" if method == "cancel_order" else method, *args, **options)


@pytest.mark.parametrize(("lost", "error"), [(True, VenueUnreachable), (False, UnknownOutcome)])
def test_a_stop_whose_cancellation_is_not_known_is_neither_moved_nor_traded_beside(lost, error, tmp_path):
    quote = {"BTC/USDT": D(100)}
    mine = Account(tmp_path, QuoteFeed(lambda s, t: quote[s]))
    mine.trade("in", "buy", 10)
    protect_position(mine.desk, "BTC/USDT", "ada", ExitRules(D("0.05"), trailing=True))
    before = mine.exchange.fetch_open_orders()
    deaf = Deaf(mine.exchange)
    deaf.lost, quote["BTC/USDT"] = lost, D(120)
    desk = mine.context(deaf)
    for attempt in (lambda: watch_protections(desk, quote), lambda: release_orders(desk, ["BTC/USDT"]), lambda: end_protections(desk, "test"),
                    lambda: protect_position(desk, "BTC/USDT", "ada", stop=D(90))):
        with pytest.raises(error):
            attempt()
        assert mine.exchange.fetch_open_orders() == before and protections(mine.ledger, "mine")["BTC/USDT"].stop == 95
    assert watch_protections(mine.desk, quote) == ["BTC/USDT: the stop has moved from 95.00 to 114.00"]
    assert len(mine.exchange.fetch_open_orders()) == 1


def test_what_changes_under_a_protection_is_followed(tmp_path):
    quote = {"BTC/USDT": D(100)}
    mine = Account(tmp_path, QuoteFeed(lambda s, t: quote[s]))
    mine.trade("in", "buy", 10)
    rules = ExitRules(D("0.05"), D("0.5"))
    keep_rules(mine.desk, rules)
    mine.trade("more", "buy", 5)  # the units change, the orders follow
    keep_rules(mine.desk, rules)
    assert {o.amount for o in mine.exchange.fetch_open_orders()} == {15} and len(mine.exchange.fetch_open_orders()) == 2
    stop = protections(mine.ledger, "mine")["BTC/USDT"].stop_order
    mine.exchange.cancel_order(stop, "BTC/USDT")  # somebody cancels it at the exchange
    watch_protections(mine.desk, quote)
    assert len(mine.exchange.fetch_open_orders()) == 2 and protections(mine.ledger, "mine")["BTC/USDT"].stop_order != stop
    assert keep_rules(mine.desk, ExitRules()) == ["the protection of BTC/USDT has ended: the settings have no rule for it any more"]
    assert mine.exchange.fetch_open_orders() == []
    protect_position(mine.desk, "BTC/USDT", "ada", stop=D(80))
    keep_rules(mine.desk, rules)
    assert protections(mine.ledger, "mine")["BTC/USDT"].by == "ada", "what a person has set stays"
    release_orders(mine.desk, ["BTC/USDT"])
    mine.trade("out", "sell", 15)
    mine.now += DAY
    mine.trade("again", "buy", 1)
    watch_protections(mine.desk, quote)
    assert not protections(mine.ledger, "mine") and mine.exchange.fetch_open_orders() == [], "another position has another protection"
    mine.agree()


def test_the_stop_of_all_trading_ends_what_is_watched_here(tmp_path):
    quote = {"BTC/USDT": D(100)}
    mine = Account(tmp_path, QuoteFeed(lambda s, t: quote[s]), NoStops)
    mine.trade("in", "buy", 10)
    protect_position(mine.desk, "BTC/USDT", "ada", stop=D(95))
    assert cancel_orders(mine.desk).ended == ("the protection of BTC/USDT has ended: trading was stopped",)
    quote["BTC/USDT"] = D(50)
    assert watch_protections(mine.desk, quote) == [] and mine.ledger.positions("mine")["BTC/USDT"].amount == 10


@pytest.mark.parametrize("kept", [True, False])
def test_a_protection_follows_a_split_instead_of_selling_at_its_old_price(kept, tmp_path):
    quote = {"BTC/USDT": D(100)}
    mine = Account(tmp_path, QuoteFeed(lambda s, t: quote[s]), None if kept else NoStops)
    mine.trade("in", "buy", 10)
    protect_position(mine.desk, "BTC/USDT", "ada", stop=D(95), target=D("130.05"))
    release_orders(mine.desk, ["BTC/USDT"])  # as the exchange does, or the command that books a split on paper
    mine.now += DAY
    split = mine.ledger.append(Event("split", "mine", mine.now, {"symbol": "BTC/USDT", "ratio": "10"}))
    mine.exchange.move({"BTC": D(90)})
    quote["BTC/USDT"] = D(10)
    (told,) = watch_protections(mine.desk, quote)
    assert told == "BTC/USDT was split: 100 from 10 are protected, stop 9.5, take profit 13.01"  # 13.005 in steps of a cent, upwards
    now = protections(mine.ledger, "mine")["BTC/USDT"]
    assert (now.stop, now.target, now.amount, now.entry, now.by) == (D("9.50"), D("13.01"), 100, 10, "ada")
    assert watch_protections(mine.desk, quote) == [] and mine.ledger.positions("mine")["BTC/USDT"] == Position("BTC/USDT", D(100), D(10))
    assert [(o.amount, o.filled) for o in mine.exchange.fetch_open_orders()] == [(100, 0)] * (2 if kept else 1)
    release_orders(mine.desk, ["BTC/USDT"])
    if not kept:  # fifty of a hundred are no new position
        mine.trade("some", "sell", 50)
        assert watch_protections(mine.desk, quote) == [] and protections(mine.ledger, "mine")["BTC/USDT"].amount == 50
    else:  # taken back, the levels are those of before
        mine.ledger.append(Event("correction", "mine", mine.now, {"corrects": str(split), "note": "booked by mistake"}))
        mine.exchange.move({"BTC": D(-90)})
        quote["BTC/USDT"] = D(100)
        watch_protections(mine.desk, quote)
        assert protections(mine.ledger, "mine")["BTC/USDT"].stop == D("95.00") and [o.amount for o in mine.exchange.fetch_open_orders()] == [10, 10]
    quote["BTC/USDT"] = D(94) if kept else D("9.5")
    watch_protections(mine.desk, quote)
    assert mine.ledger.positions("mine") == {} and not protections(mine.ledger, "mine")
    mine.agree()


def test_a_position_that_was_split_long_ago_is_protected_like_any_other(tmp_path):
    quote = {"BTC/USDT": D(100)}
    mine = Account(tmp_path, QuoteFeed(lambda s, t: quote[s]))
    mine.trade("in", "buy", 10)
    mine.ledger.append(Event("split", "mine", mine.now + DAY, {"symbol": "BTC/USDT", "ratio": "10"}))
    mine.exchange.move({"BTC": D(90)})
    mine.now, quote["BTC/USDT"] = mine.now + 2 * DAY, D(10)
    protect_position(mine.desk, "BTC/USDT", "ada", stop=D(9))
    assert watch_protections(mine.desk, quote) == [] and protections(mine.ledger, "mine")["BTC/USDT"].stop == 9


# through the settings, the loop and the commands

RULES = {"protection.stop_loss": "0.01", "protection.take_profit": "0.02", "protection.trailing": "yes"}


@pytest.fixture(scope="module")
def traded(tmp_path_factory):
    home = tmp_path_factory.mktemp("protected")
    loop, told = loop_at(home, **RULES)
    loop.run(START + 2 * HOUR)
    return home, told


def carnet(home, *words, **more):
    env = {k: None for k in os.environ if k.startswith("CARNET_")}
    env |= {"CARNET_RUN__DATA": str(home / "data"), "CARNET_RUN__REPORTS": str(home / "reports")}
    env |= {"CARNET_RUN__PROFILE": "sample-coins-1h"} | {f"CARNET_{k.replace('.', '__').upper()}": v for k, v in FAST.items()}
    return CliRunner(env=env | more).invoke(main, list(words))


def test_the_loop_protects_what_it_buys_and_the_commands_change_it(traded, monkeypatch):
    home, told = traded
    monkeypatch.chdir(home)
    assert any("at the venue" in line and "moved here" in line for line in told), told
    ledger = Ledger(home / "data" / "ledger.sqlite")
    sold = [e.data for e in ledger.events(ACCOUNT, "fill") if e.data["plan"] == "protection"]
    assert sold and all(f["side"] == "sell" for f in sold), "an hour of coins is enough for a stop of one per cent"
    open_now = json.loads(carnet(home, "orders", "list", "--json").output)
    held = ledger.positions(ACCOUNT)
    assert {p["symbol"] for p in open_now["protections"]} == set(held) and all(p["by"] == "settings" for p in open_now["protections"])
    symbol = sorted(held)[0]
    for words, part in (((symbol, "--stop", "9999999"), "would act at once"), ((symbol,), "say what protects it"),
                        (("DOGE/USDT", "--stop", "1"), "holds no DOGE/USDT"),
                        ((symbol, "--stop", "1", "--trailing", "0.1"), "contradict"), ((symbol, "--stop", "1", "--until", "2001-01-01"), "is over")):
        refused = carnet(home, "orders", "protect", *words)
        assert refused.exit_code == 1 and part in refused.output, refused.output
    made = carnet(home, "orders", "protect", symbol, "--stop", "1", "--until", "2d", "--by", "ada")
    assert made.exit_code == 0 and "stop 1 at the venue" in made.output and "watched here, not at the venue" in made.output
    assert carnet(home, "orders", "watch").output.strip() == "nothing has happened"
    stop = protections(ledger, ACCOUNT)[symbol].stop_order
    assert "protects" in carnet(home, "orders", "replace", stop, "--stop-price", "2").output
    done = carnet(home, "orders", "cancel", stop[:8])
    assert done.exit_code == 0 and "is cancelled, 0 of" in done.output and f"the protection of {symbol} has ended" in done.output
    gone = carnet(home, "orders", "cancel", "ffffffff")
    assert gone.exit_code == 1 and "'carnet orders list' names those that are open" in gone.output
    for words in (("--trailing", "0.2"), ("--end",)):
        assert carnet(home, "orders", "protect", symbol, *words).exit_code == 0
    actions = [e.action for e in AuditLog(home / "data" / "ops" / "audit.jsonl").entries()]
    assert actions[-4:] == ["order cancelled", "order cancelled: failed", "position protected", "protection ended"]
    assert carnet(home, "orders", "protect", symbol, "--trailing", "0.2").exit_code == 0
    stopped = carnet(home, "kill", "a test")
    assert f"the protection of {symbol} has ended: trading was stopped" in stopped.output
    listed = carnet(home, "orders", "list")
    assert listed.output.strip() == "no order is open, and nothing is protected"
    assert "nothing was changed" in carnet(home, "orders", "protect", symbol, "--stop", "1").output
    ledger.close()


def test_api_and_page_list_what_the_terminal_lists_and_replace_orders(traded, tmp_path, monkeypatch):
    quote = {"BTC/USDT": D(100)}
    mine = Account(tmp_path, QuoteFeed(lambda s, t: quote[s]))
    mine.ledger.open_account("paper-sample-coins-1h", "USDT", D(10000), mine.now)
    desk = OrderContext(mine.exchange, mine.ledger, "paper-sample-coins-1h", lambda: mine.now, sleep=lambda s: None)
    submit_order(desk, Order("resting1", "BTC/USDT", "buy", D(5), "limit", D(90)), "plan")
    monkeypatch.setattr("trading.services.order_control.account_context", lambda settings, ledger, account, now: desk)
    (tmp_path / "settings.ini").write_text("[run]\nprofile = sample-coins-1h\n")
    place = Workspace(tmp_path, tmp_path / "reports", tmp_path / "settings.ini")
    assert [(o["order"], o["price"], o["what"]) for o in working_orders(place)["orders"]] == [("resting1", "90", "of a plan")]
    audit = []
    api, page = (Context(place, Actor("ada", "trader", ("main",), via)) for via in ("api", "page"))
    done = perform("replace-order", {"order": "resting1", "price": "95"}, api, lambda *line: audit.append(line[1]))
    assert done.complete and "in its place is open, 0 of 5 filled" in done.text and [o.amount for o in mine.exchange.fetch_open_orders()] == [5]
    assert audit == ["order replaced"] and [o["price"] for o in working_orders(place)["orders"]] == ["95"]
    end = perform("cancel-order", {"order": done["new"]}, page, None)
    assert end.complete and mine.exchange.fetch_open_orders() == [] and datetime.now(UTC) > mine.now
