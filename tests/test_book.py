"What happens to an account besides orders, booked at the terminal: books and exchange agree, and everything can be taken back."

import contextlib
import json
import os
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial

import pytest
from click.testing import CliRunner

from trading.accounting.account_book import fill_event
from trading.accounting.ledger import Ledger
from trading.cli.main import main
from trading.core.errors import BadInput
from trading.core.settings import load_settings
from trading.core.types import Event, Fill, Position
from trading.execution.reconciliation import reconcile
from trading.pipeline.paper import paper_venue
from trading.security.audit_log import AuditLog
from trading.services.commands import Actor, Context, perform
from trading.services.workspace import Workspace

D = Decimal
DAY = datetime(2022, 12, 1, 21, tzinfo=UTC)


@pytest.fixture
def home(tmp_path):
    "An account on paper with 10,000 dollars and ten shares, and its exchange."
    data = tmp_path / "data"
    data.mkdir()
    ledger = Ledger(data / "ledger.sqlite")
    ledger.open_account("paper-sample", "USD", D(10_000), DAY, [Position("AAPL", D(10), D(150))])
    ledger.mark("paper-sample", {"AAPL": D(150)}, DAY + timedelta(days=1))
    ledger.mark("paper-sample", {"AAPL": D(150)}, DAY + timedelta(days=3))
    ledger.close()
    settings = load_settings("sample", {"run.data": data})
    paper_venue(settings, DAY, datetime.now(UTC), {"USD": D(10_000), "AAPL": D(10)}, data / "paper-sample.sqlite")
    return tmp_path


def carnet(home, *words) -> str:
    env = {k: None for k in os.environ if k.startswith("CARNET_")} | {
        "CARNET_RUN__DATA": str(home / "data"),
        "CARNET_RUN__REPORTS": str(home / "reports"),
    }
    with contextlib.chdir(home):
        result = CliRunner(env=env).invoke(main, list(words))
    assert result.exit_code in (0, 1, 2) and "unexpected" not in result.output, result.output
    return f"{result.exit_code} {result.output}"


def test_a_year_of_entries_at_the_terminal_and_books_and_exchange_agree_after_each(home):
    for words, said in [
        (("deposit", "1000", "--at", "2022-12-02"), "cash: 10000 → 11000"),
        (("withdraw", "250.50", "USD", "--at", "2022-12-02 15:00"), "cash: 11000 → 10749.5"),
        (("deposit", "100", "EUR", "--rate", "1.05", "--at", "2022-12-03"), "EUR/USD: 0 → 100"),
        (("dividend", "AAPL", "2.30", "--at", "2022-12-03", "--document", "statement.pdf"), "income: 0 → 2.3"),
        (("split", "AAPL", "4:1", "--at", "2022-12-04"), "AAPL: 10 → 40"),
        (("rename", "AAPL", "FRUIT", "--at", "2022-12-05"), "FRUIT: 0 → 40"),
        (("reward", "0.5", "ETH", "--price", "1200", "--at", "2022-12-05"), "ETH: 0 → 0.5"),
        (("fee", "3", "--at", "2022-12-06"), "fees: 0 → 3"),
        (("interest", "--at", "2022-12-06", "--", "-1.75"), "income: 602.3 → 600.55"),
        (("transfer", "0.2", "ETH", "--price", "1300", "--out", "--at", "2022-12-06"), "ETH: 0.5 → 0.3"),
        (("delist", "ETH", "900", "--at", "2022-12-07"), "ETH: 0.3 → 0"),
        (("adjust", "0.01", "USD", "--note", "rounding of the broker", "--at", "2022-12-08"), "income: 600.55 → 600.56"),
        (("spin-off", "FRUIT", "SEED", "1:8", "--cost-share", "0.1", "--at", "2022-12-09"), "SEED: 0 → 5"),
        (("merger", "SEED", "--cash", "40", "--at", "2022-12-10"), "SEED: 5 → 0"),
    ]:
        assert said in carnet(home, "book", *words), words
        assert words[0] not in ("rename", "delist", "merger") or "all equal" in carnet(home, "reconcile"), words
    listed = carnet(home, "book", "list")
    assert listed.count("[person ") == 14 and "a rename AAPL to FRUIT on 2022-12-05" in listed
    book = Ledger(home / "data" / "ledger.sqlite").book("paper-sample")
    assert book.paid_in + book.realised + book.income - book.fees == book.cash + sum(book.costs.values())
    assert book.cash == D(10000 + 1000) - D("250.5") + D("2.3") - 3 - D("1.75") + 270 + D("0.01") + 200 and book.costs["FRUIT"] == 1350
    assert len([e for e in AuditLog(home / "data" / "ops" / "audit.jsonl").entries() if e.action == "entry booked"]) == 14


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("withdraw", "999999"), "and there were 10000|when there were 10000"),
        (("withdraw", "--", "-5"), "above zero"),
        (("deposit", "10", "EUR"), "give rate"),
        (("deposit", "ten"), "which is no number"),
        (("split", "AAPL", "0"), "ratio '0'"),
        (("split", "TSLA", "2"), "held no TSLA"),
        (("dividend", "aapl", "2.30"), "and AAPL it does"),
        (("deposit", "5", "aapl", "--price", "150"), "and AAPL it does"),
        (("deposit", "5", "--at", "03/04/2022"), "is no time"),
        (("deposit", "5", "--at", "2999-01-01"), "in the future"),
        (("adjust", "5"), "needs note"),
        (("deposit", "NaN"), "which is no number"),
        (("transfer", "5"), "give --in or --out"),
        (("undo", "99", "why not"), "there is no entry 99"),
        (("undo", "1", "why not"), "its opening"),
        (("delist", "AAPL", "--", "-1"), "zero or more"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence_and_changes_nothing(home, words, said):
    before = len(Ledger(home / "data" / "ledger.sqlite").events())
    answer = carnet(home, "book", *words)
    assert answer[0] in "12" and any(part in answer for part in said.split("|")), answer
    assert len(Ledger(home / "data" / "ledger.sqlite").events()) == before and "all equal" in carnet(home, "reconcile")


def test_an_entry_is_taken_back_and_a_late_one_says_what_it_moved(home):
    late = carnet(home, "book", "deposit", "500", "--at", "2022-12-02", "--id", "bank 7")
    assert "two values from 2022-12-02 on: 11,500.00 → 12,000.00 USD that day" in late and "it was booked already" in carnet(
        home, "book", "deposit", "500", "--at", "2022-12-02", "--id", "bank 7"
    )
    history = Ledger(home / "data" / "ledger.sqlite").equity_history("paper-sample")
    assert history["equity"].tolist() == [12000, 12000] and history["unit"].tolist() == [1, 1]
    number = late.split("is entry ")[1].split(".")[0]
    assert "counts no more" in carnet(home, "book", "undo", number, "the bank took it back") and "all equal" in carnet(home, "reconcile")
    assert Ledger(home / "data" / "ledger.sqlite").equity_history("paper-sample")["equity"].tolist() == [11500, 11500]
    assert "there is no entry" in carnet(home, "book", "undo", number, "again")


class Broker:
    "A venue where things happen beside the account."

    name = "broker"

    def __init__(self, balance, trades=(), activity=(), prices=None):
        self.balance, self.trades, self.activity, self.prices = balance, list(trades), list(activity), prices or {}

    def load_markets(self):
        return {}

    def fetch_balance(self):
        return dict(self.balance)

    def fetch_open_orders(self):
        return []

    def fetch_my_trades(self, since=None):
        return self.trades

    def fetch_tickers(self, symbols):
        return {s: self.prices[s] for s in symbols if s in self.prices}

    def fetch_activity(self, since):
        return [e for e in self.activity if e.timestamp >= since]


@pytest.fixture
def live(home, monkeypatch):
    "The same account with real orders, at a broker."
    ledger = Ledger(home / "data" / "ledger.sqlite")
    ledger.open_account("live-sample", "USD", D(1000), DAY, [Position("AAPL", D(10), D(150))])
    ledger.close()
    now = DAY + timedelta(days=5)

    def open_venue(settings, mode, ledger, now, at=""):
        return live.broker, now

    live = type("Live", (), {})()
    live.broker, live.place = None, Workspace(home / "data", home / "reports", None)
    monkeypatch.setattr("trading.services.account_control.open_venue", open_venue)
    monkeypatch.setattr("trading.services.book_control.open_venue", open_venue)
    live.explain = lambda *accept: perform(
        "explain-differences", {"accept": list(accept), "mode": "live"}, Context(live.place, Actor("ann"), clock=lambda: now), None
    )
    live.book = lambda: Ledger(home / "data" / "ledger.sqlite").book("live-sample")
    return live


@pytest.mark.parametrize(
    ("balance", "kind", "check"),
    [
        ({"USD": 2000, "AAPL": 10}, "deposit", lambda b: b.cash == 2000 and b.contributed == 3500),
        ({"USD": 700, "AAPL": 10}, "withdrawal", lambda b: b.cash == 700),
        ({"USD": 1000, "AAPL": 40}, "split", lambda b: b.costs["AAPL"] == 1500),
        ({"USD": 1000, "AAPL": 1}, "split", lambda b: b.costs["AAPL"] == 1500),
        ({"USD": 1000, "FRUIT": 10}, "rename", lambda b: b.costs["FRUIT"] == 1500),
        ({"USD": 1000, "FRUIT": 30}, "rename", lambda b: b.positions["FRUIT"].amount == 30),
        ({"USD": 1800, "AAPL": 0}, "delisting", lambda b: b.realised == -700),
        ({"USD": 1000, "AAPL": "10.031"}, "transfer", lambda b: b.positions["AAPL"].amount == D("10.031")),
    ],
)
def test_a_difference_is_explained_accepted_and_gone(live, balance, kind, check):
    live.broker = Broker({a: D(n) for a, n in balance.items() if n}, prices={"AAPL": D(120), "FRUIT": D(130)})
    asked = live.explain()
    assert [p["kind"] for p in asked["proposals"]] == [kind] and not asked.complete and "--accept" in asked.text
    done = live.explain(1)
    assert done.complete and check(live.book()), done.text
    assert live.explain().text == "live-sample and its venue are equal"
    with pytest.raises(BadInput, match="there is no explanation 3"):
        live.explain(3)


def test_a_trade_by_hand_is_adopted_and_what_the_venue_reports_comes_first(live):
    by_hand = Fill("h1", "", "AAPL", "sell", D(4), D(130), D("0.5"), DAY + timedelta(days=1))
    paid = Event("dividend", "", DAY + timedelta(days=2), {"symbol": "AAPL", "currency": "USD", "amount": "47", "id": "broker:9"})
    live.broker = Broker({"USD": D(1000) + D("519.5") + 47, "AAPL": D(6)}, [by_hand], [paid])
    asked = live.explain()
    assert [(p["kind"], p["certain"]) for p in asked["proposals"]] == [("dividend", True), ("fill", True)]
    assert live.explain(1, 2).complete and live.book().income_by == {"dividend": {"AAPL": 47}} and live.book().positions["AAPL"].amount == 6


def test_reported_entries_are_booked_without_asking_where_a_setting_says_so_and_small_differences_pass(tmp_path):
    ledger = Ledger(tmp_path / "l.db")
    ledger.open_account("x", "USD", D(1000), DAY, [Position("AAPL", D(10), D(150))])
    now = DAY + timedelta(days=3)
    moved = [
        Event("deposit", "", DAY + timedelta(days=1), {"currency": "USD", "amount": "500", "id": "b:1"}),
        Event("withdrawal", "", DAY + timedelta(days=2), {"currency": "USD", "amount": "100", "id": "b:2"}),
    ]
    venue, look = (
        Broker({"USD": D(1400), "AAPL": D(10)}, activity=moved),
        partial(reconcile, ledger, account="x", now=now, sleep=lambda s: None),
    )
    assert not look(venue=venue).ok
    done = look(venue=venue, reported=True)
    assert done.ok and len(done.mended) == 2 and ledger.events("x", "deposit")[-1].data["source"] == "venue broker"
    assert look(venue=venue, reported=True).mended == ()
    off = Broker({"USD": D("1400.04"), "AAPL": D("10.0003")}, prices={"AAPL": D(130)})
    assert (
        not look(venue=off).ok
        and not look(venue=off, allowed={"USD": D("0.05")}).ok
        and look(venue=off, allowed={"USD": D("0.05"), "AAPL": D("0.001")}).ok
    )
    assert (
        look(venue=off, money=D("0.05")).ok
        and not look(venue=off, money=D("0.03")).ok
        and not look(venue=Broker(off.balance), money=D("0.05")).ok
    )
    assert not look(venue=Broker({"USD": D(1400), "AAPL": D(9)}, prices={"AAPL": D(130)}), money=D("0.05")).ok  # a share is not dust


def test_a_limit_knows_a_withdrawal_from_a_loss(tmp_path):
    from trading.execution.limit_monitor import watch_limits
    from trading.risk.limits import RiskLimits

    ledger, limits = Ledger(tmp_path / "l.db"), RiskLimits(max_daily_loss=0.05, max_drawdown=0.25)
    ledger.open_account("x", "USD", D(100_000), DAY)
    ledger.mark("x", {}, DAY)
    ledger.append(Event("withdrawal", "x", DAY + timedelta(hours=1), {"amount": "30000", "currency": "USD"}))
    assert watch_limits(ledger, "x", limits, dict, lambda: DAY + timedelta(hours=2))() == ""
    ledger.append(
        [
            Event("fee", "x", DAY + timedelta(hours=2), {"amount": "7000", "currency": "USD"}),
            Event("deposit", "x", DAY + timedelta(hours=2), {"amount": "50000", "currency": "USD"}),
        ]
    )
    assert "max_daily_loss" in watch_limits(ledger, "x", limits, dict, lambda: DAY + timedelta(hours=2))()  # and a deposit hides nothing


def test_a_stop_that_rests_on_paper_follows_a_split_and_comes_back_when_it_is_taken_back(home):
    from trading.execution.protection import protections

    def resting():
        return [(o.side, o.amount, p.stop) for o in exchange().fetch_open_orders() for p in [protections(books(), "paper-sample")["AAPL"]]]

    books = lambda: Ledger(home / "data" / "ledger.sqlite", readonly=True)  # noqa: E731
    settings = load_settings("sample", {"run.data": home / "data"})
    exchange = lambda: paper_venue(settings, DAY + timedelta(days=3), datetime.now(UTC), {}, home / "data" / "paper-sample.sqlite")  # noqa: E731
    assert carnet(home, "orders", "protect", "AAPL", "--stop", "100.004").startswith("0 ") and resting() == [("sell", D(10), D("100.004"))]
    said = carnet(home, "book", "split", "AAPL", "4:1", "--at", "2022-12-04")
    assert said.startswith("0 ") and "AAPL: 10 → 40" in said and "AAPL was split: 40 from 37.5 are protected, stop 25.001" in said, said
    assert resting() == [("sell", D(40), D("25.001"))]
    listed = carnet(home, "orders", "list")
    assert "25.001" in listed and "100.004" not in listed
    number = said.split("is entry ")[1].split(".")[0]
    back = carnet(home, "book", "undo", number, "typed twice")
    assert "AAPL: 40 → 10" in back and "AAPL was split: 10 from 150 are protected, stop 100.004" in back, back
    assert resting() == [("sell", D(10), D("100.004"))]
    ledger = Ledger(home / "data" / "ledger.sqlite")
    assert reconcile(ledger, exchange(), "paper-sample", DAY + timedelta(days=3)).ok and not ledger.fills("paper-sample")
    ledger.close()
    paid = carnet(home, "book", "dividend", "AAPL", "2.30", "--at", "2022-12-04")
    assert "a dividend of 2.30 USD for AAPL on 2022-12-04" in paid, paid
    gone = carnet(home, "book", "delist", "AAPL", "0", "--at", "2022-12-04 12:00")
    assert "the protection has ended, the position was closed" in gone and exchange().fetch_open_orders() == [], gone
    assert "an adjustment needs note" in carnet(home, "book", "adjust", "5")


def test_what_is_booked_now_on_a_recorded_market_comes_behind_its_last_trades_and_before_the_next(home):
    assert "AAPL: 10 → 40" in carnet(home, "book", "split", "AAPL", "4")
    assert "a split 4 AAPL on 2022-12-04 21:00" in carnet(home, "book", "list")
    carnet(home, "note", "seen today")
    wrong = carnet(home, "book", "deposit", "100")
    assert "clock" not in wrong
    assert "counts no more" in carnet(home, "book", "undo", wrong.split("is entry ")[1].split(".")[0], "typed wrong")
    assert "a deposit of 250 USD on 2022-12-04 21:00" in carnet(home, "book", "deposit", "250")  # not the day of the remark or of the undoing
    ledger = Ledger(home / "data" / "ledger.sqlite")
    ledger.append(
        [fill_event(Fill("t1", "o1", "AAPL", "buy", D(5), D("37.50"), D(0), DAY + timedelta(days=4)), "paper-sample", "paper sample")]
    )
    assert ledger.book("paper-sample").positions["AAPL"].amount == 45


def test_a_split_or_a_new_name_before_the_next_close_changes_no_value_on_the_page_and_a_pair_counts_its_rate_once(home):
    from trading.dashboard.components import Viewer
    from trading.dashboard.screens_trading import holdings_screen
    from trading.services.queries_portfolio import holdings
    from trading.services.query_cache import MEMORY

    (home / "data" / "ops").mkdir()
    (home / "data" / "ops" / "loop-sample.json").write_text(json.dumps({"close": (DAY + timedelta(days=3)).isoformat()}))
    ledger = Ledger(home / "data" / "ledger.sqlite")
    pair = Fill("t1", "o1", "EUR/GBP", "buy", D(1000), D("0.84"), D(0), DAY + timedelta(days=2), currency="GBP", rate=D("1.20"), financed=True)
    ledger.append([fill_event(pair, "paper-sample", "paper sample")])
    ledger.mark("paper-sample", {"AAPL": D(150), "EUR/GBP": D("0.86") * D("1.25"), "GBP/USD": D("1.25")}, DAY + timedelta(days=3, minutes=1))
    ledger.close()

    def shown() -> tuple[dict, dict, str]:
        place = Workspace(home / "data", home / "reports")
        MEMORY.forget()
        told = holdings(place, "sample")
        page = holdings_screen(place, Viewer("ada", "viewer", "sample"))
        return told, {i["symbol"]: i for i in told["items"]}, "".join(str(s.html()) for s in page)

    before, items, page = shown()
    assert items["EUR/GBP"]["value"] == pytest.approx(1000 * 0.86 * 1.25) and items["EUR/GBP"]["profit"] == pytest.approx(1000 * 0.02 * 1.25)
    assert before["equity"] == pytest.approx(10_000 + 1_500 + 25) and ">1,500.00<" in page
    said = carnet(home, "book", "split", "AAPL", "4:1")
    assert "AAPL: 10 → 40" in said, said
    after, items, page = shown()
    assert (items["AAPL"]["amount"], items["AAPL"]["price"], items["AAPL"]["value"]) == (40, 37.5, 1500) and after["equity"] == before["equity"]
    assert ">1,500.00<" in page and ">6,000.00<" not in page
    assert "FRUIT" in carnet(home, "book", "rename", "AAPL", "FRUIT")
    later, items, _ = shown()
    assert (items["FRUIT"]["price"], items["FRUIT"]["value"]) == (37.5, 1500) and "AAPL" not in items and later["equity"] == before["equity"]
    assert "counts no more" in carnet(home, "book", "undo", said.split("is entry ")[1].split(".")[0], "it was another share")
    assert {i["symbol"]: i["price"] for i in shown()[0]["items"]}["FRUIT"] == 150


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("split", "AAPL", "4"), "split"),
        (("rename", "AAPL", "FRUIT"), "rename"),
        (("spin-off", "AAPL", "SEED", "1", "--cost-share", "0.1"), "spin off"),
    ],
)
def test_a_split_at_the_very_moment_of_a_trade_is_asked_about(home, words, said):
    ledger = Ledger(home / "data" / "ledger.sqlite")
    bought = Fill("t1", "o1", "AAPL", "buy", D(5), D(150), D(0), datetime(2022, 12, 3, tzinfo=UTC))
    ledger.append([fill_event(bought, "paper-sample", "paper sample")])
    answer = carnet(home, "book", *words, "--at", "2022-12-03")
    choice = f"--at '2022-12-02 23:59' when the {said} came before it, or --at '2022-12-03 00:01' when it came after"
    assert answer.startswith("1 ") and choice in answer
    assert ledger.book("paper-sample").positions["AAPL"].amount == 15 and carnet(
        home, "book", *words, "--at", "2022-12-03 00:01"
    ).startswith("0 ")


@pytest.mark.parametrize(
    "words",
    [
        ("book", "adopt", "first"),
        ("book", "adopt", "1,2"),
        ("book", "list", "--last", "-1"),
        ("book", "list", "--last", "9" * 24),
        ("audit", "show", "--last", "0"),
        ("feedback", "replay", "--last", "-3"),
        ("alerts", "list", "--limit", "-1"),
        ("export", "lots", "--output", ""),
    ],
)
def test_numbers_of_lines_and_names_that_are_none_are_one_sentence(home, words):
    answer = carnet(home, *words)
    assert answer[0] in "12" and "Error: " in answer


def test_a_price_beyond_any_venue_changes_nothing_of_what_protects_a_position(home):
    assert carnet(home, "orders", "protect", "AAPL", "--stop", "100").startswith("0 ")
    before = Ledger(home / "data" / "ledger.sqlite").events("paper-sample", "protection")
    for price in ("1e400", "9" * 24):
        answer = carnet(home, "orders", "protect", "AAPL", "--take-profit", price)
        assert answer.startswith("1 ") and "take_profit" in answer
    assert Ledger(home / "data" / "ledger.sqlite").events("paper-sample", "protection") == before


def test_a_ratio_that_no_units_are_split_by_leaves_books_that_go_on(home):
    for ratio in ("1e400", "9" * 24, "0.000000000000000000001", "1:1e20"):
        assert "a split with ratio" in carnet(home, "book", "split", "AAPL", ratio)
    for _ in range(2):  # more digits than a decimal has by default
        assert carnet(home, "book", "split", "AAPL", "999999999999.7", "--at", f"2022-12-0{5 + _}").startswith("0 ")
    assert "times price 100000000000000000 is beyond" in carnet(home, "book", "deposit", "1e17", "AAPL", "--price", "1e17")
    assert carnet(home, "book", "deposit", "1").startswith("0 ") and "a deposit of 1 USD" in carnet(home, "book", "list")


def test_a_full_disk_is_no_reason_to_restore_a_backup(home):
    resource = pytest.importorskip("resource", reason="Windows has no limit of a file's size")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, hard))
    try:
        answer = carnet(home, "book", "deposit", "5")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert answer.startswith("1 ") and "free space" in answer and "backup" not in answer
    assert carnet(home, "book", "deposit", "5").startswith("0 ")


def test_what_is_booked_behind_a_value_without_a_price_counts_at_its_cost(home):
    carnet(home, "book", "dividend", "AAPL", "8", "EUR", "--rate", "1.05", "--at", "2022-12-03")  # between the two values, which knew no euros
    told = carnet(home, "performance", "--json")
    change = json.loads(told.removeprefix("0 "))["contribution"]
    assert {i["name"]: i["amount"] for i in change["items"]} == {"dividend": 8.40} and change["total"] == 8.40
    assert "no return of a year yet" in carnet(home, "performance")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is copied and killed")
def test_an_entry_that_was_killed_at_any_point_is_done_once_by_whoever_comes_next(home, monkeypatch):
    import shutil
    import signal

    from trading.accounting.event_log import EventLog
    from trading.execution.protection import protections
    from trading.services import book_control
    from trading.services.query_cache import MEMORY
    from trading.venues.paper.database import PaperFile

    real = {name: getattr(book_control, name) for name in ("book_events", "follow_books", "_resume_orders", "_halt_orders")}
    die = lambda *words, **more: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    after = lambda do: lambda *words, **more: (do(*words, **more), die())  # noqa: E731
    points = {
        "before the orders are taken off": (book_control, "_halt_orders", die),
        "before anything is written": (book_control, "_owned", die),
        "while the entry is written": (EventLog, "_write", after(EventLog._write)),
        "when the entry stands": (Ledger, "mark_again", die),
        "before the exchange follows": (book_control, "follow_books", lambda *words: die() if len(dead.append(1) or dead) > 1 else []),
        "while the exchange follows": (PaperFile, "_add", die),
        "before the orders are placed again": (book_control, "_resume_orders", die),
        "before the answer": (book_control, "book_events", after(real["book_events"])),
    }
    data, kept = home / "data", home / "kept"
    assert carnet(home, "orders", "protect", "AAPL", "--stop", "100").startswith("0 ")
    shutil.copytree(data, kept)
    place = Workspace(data, home / "reports")

    def asked(command: str, key: str, **words):
        monkeypatch.setenv("CARNET_RUN__DATA", str(data))
        return perform(command, words, Context(place, Actor("ann"), key=key), None)

    def state() -> tuple:
        ledger = Ledger(data / "ledger.sqlite")
        settings = load_settings("sample", {"run.data": data})
        venue = paper_venue(settings, DAY + timedelta(days=3), datetime.now(UTC), {}, data / "paper-sample.sqlite", books=(ledger, "paper-sample"))
        same = reconcile(ledger, venue, "paper-sample", DAY + timedelta(days=3)).ok
        stands = [(o.symbol, o.amount) for o in venue.fetch_open_orders()]
        entries = [e.kind for _, e in ledger.history("paper-sample") if e.kind in ("deposit", "split", "rename")]
        held, cash = dict(ledger.positions("paper-sample")), ledger.cash("paper-sample")
        known = {s: p.stop for s, p in protections(ledger, "paper-sample").items()}
        ledger.close()
        return same, stands, entries[1:], {s: p.amount for s, p in held.items()}, cash, known

    each = [
        ("book-entry", {"kind": "deposit", "amount": "250"}, {"AAPL": D(10)}, 10_250, [("AAPL", D(10))]),
        ("book-entry", {"kind": "split", "symbol": "AAPL", "ratio": "4"}, {"AAPL": D(40)}, 10_000, [("AAPL", D(40))]),
        ("book-entry", {"kind": "rename", "symbol": "AAPL", "to": "FRUIT"}, {"FRUIT": D(10)}, 10_000, None),
    ]
    for number, (point, (where, name, deadly)) in enumerate(points.items()):
        for command, words, held, cash, orders in (each[number % 3], each[(number + 1) % 3]):
            way = ("the same request", "the same line at the terminal", "only the next start")[(number + (words["kind"] == "split")) % 3]
            shutil.rmtree(data)
            shutil.copytree(kept, data)
            MEMORY.forget()
            key = "ann 7f3a" if way == "the same request" else ""
            dead: list[int] = []
            if (child := os.fork()) == 0:
                try:
                    setattr(where, name, deadly)
                    asked(command, key, **words)
                finally:
                    os._exit(3)
            assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), (point, words)
            stood = bool([e for e in Ledger(data / "ledger.sqlite", readonly=True).events("paper-sample", words["kind"]) if "source" in e.data])
            assert stood == (point not in list(points)[:3]), point
            if way == "only the next start":
                same, _, entries, has, money, _ = state()
                assert same and entries == ([words["kind"]] if stood else []), (point, words)
                assert (has, money) == ((held, cash) if stood else ({"AAPL": D(10)}, 10_000)), (point, words, has, money)
                continue
            said = asked(command, key, **words)
            same, stands, entries, has, money, known = state()
            assert same and entries == [words["kind"]] and has == held and money == cash, (point, way, words, said.text, entries, has, money)
            assert orders is None or stands == orders, (point, way, words, stands)
            assert "→" in said.text, (point, way, said.text)
            told = "it was booked before, by a command that was interrupted, and is not booked twice" in said.text
            assert told == (stood and not key), (point, said.text)
            if key:
                assert asked(command, key, **words).details["seq"] == said.details["seq"], "and the same answer again"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is copied and killed")
def test_an_explanation_whose_acceptance_was_killed_is_accepted_once_and_nothing_that_took_its_number(live, home, monkeypatch):
    import shutil
    import signal

    from trading.accounting.event_log import EventLog
    from trading.services import book_control
    from trading.services.query_cache import MEMORY

    by_hand = Fill("h1", "", "AAPL", "sell", D(4), D(130), D("0.5"), DAY + timedelta(days=1, hours=1))
    paid = Event("dividend", "", DAY + timedelta(days=2), {"symbol": "AAPL", "currency": "USD", "amount": "47", "id": "broker:9"})
    live.broker = Broker({"USD": D(1000) + D("519.5") + 47, "AAPL": D(6)}, [by_hand], [paid])
    ledger = Ledger(home / "data" / "ledger.sqlite")
    for days in (1, 3):
        ledger.mark("live-sample", {"AAPL": D(150)}, DAY + timedelta(days=days))
    ledger.close()
    die = lambda *words, **more: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    after = lambda do: lambda *words, **more: (do(*words, **more), die())  # noqa: E731
    points = {
        "before anything is written": (book_control, "book_events", die),
        "while the entries are written": (EventLog, "_write", after(EventLog._write)),
        "when they stand, before the values of the past": (Ledger, "mark_again", die),
        "before the answer": (book_control, "book_events", after(book_control.book_events)),
    }

    def accept(key: str) -> str:
        MEMORY.forget()
        if not key:
            return carnet(home, "reconcile", "--mode", "live", "--accept", "1")
        return perform("explain-differences", {"accept": [1], "mode": "live"}, Context(live.place, Actor("ann"), key=key), None).text

    data, kept = home / "data", home / "kept"
    shutil.copytree(data, kept)
    for point, (where, name, deadly) in points.items():
        for key in ("", "ann 7f3a"):
            shutil.rmtree(data)
            shutil.copytree(kept, data)
            if (child := os.fork()) == 0:
                try:
                    setattr(where, name, deadly)
                    accept(key)
                finally:
                    os._exit(3)
            assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), point
            stood = bool(Ledger(data / "ledger.sqlite", readonly=True).events("live-sample", "dividend"))
            assert stood == (point not in list(points)[:2]), point
            said = accept(key)
            assert ("it was booked when this was asked before" in said) == stood and "still different" in said, (point, key, said)
            ledger = Ledger(data / "ledger.sqlite")
            book = ledger.book("live-sample")
            assert (book.income_by, book.positions["AAPL"].amount) == ({"dividend": {"AAPL": 47}}, 10), (point, key, said)
            assert not ledger.mark_again("live-sample") and ledger.equity_history("live-sample")["equity"].tolist() == [2500, 2547], (point, key)
            ledger.close()
            if key:
                assert "it was booked when this was asked before" in accept(key), "and once more"
            accept(key and "ann 7f3b")  # asked anew: now it is the trade that stands under this number
            book = live.book()
            assert (book.income_by, book.positions["AAPL"].amount) == ({"dividend": {"AAPL": 47}}, 6), (point, key)
