"`carnet orders watch --follow` as it is walked at the terminal: what is pushed and what is booked is told, and Ctrl-C ends it in order."

import os
import signal
import subprocess
import sys
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner
from waiting import wait_until

from trading.accounting.account_book import plain
from trading.accounting.ledger import Ledger
from trading.cli.main import main
from trading.core.types import Event, Order, Position
from trading.testing.fake_exchange import FakeExchange
from trading.testing.pushed_orders import push
from trading.testing.sample_runs import make_sample_runs
from trading.testing.venue_fakes import serve_fake

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


class Followed:
    "The command in a process of its own, its lines as they come."

    def __init__(self, folder: Path, *words: str):
        environ = {**os.environ, "CARNET_RUN__DATA": str(folder / "data"), "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
        command = [sys.executable, "-c", "from trading.cli.main import main; main(prog_name='carnet')", "orders", "watch", "--follow", *words]
        self.process = subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        Thread(target=lambda: self.lines.extend(iter(self.process.stdout.readline, "")), daemon=True).start()

    def says(self, words: str) -> str:
        "Wait for a line with these words."
        ended = lambda: self.process.poll() is not None and self.process.stderr.read()  # noqa: E731
        return wait_until(lambda: next((line for line in self.lines if words in line), "") or ended())

    def interrupt(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        return self.process.returncode, self.process.stderr.read()


def test_on_paper_the_books_are_followed_whoever_writes_them(tmp_path, monkeypatch):
    make_sample_runs(tmp_path, ("2022-12-27",))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARNET_RUN__DATA", str(tmp_path / "data"))
    one = Followed(tmp_path)
    assert "the books, as no venue pushes; Ctrl-C ends it" in one.says("following the orders of paper-")
    assert CliRunner().invoke(main, ["orders", "protect", "KO", "--stop", "50", "--by", "anna"]).exit_code == 0
    sent = one.says("is sent: sell")
    assert "KO, stop, trigger 50" in sent
    assert CliRunner().invoke(main, ["orders", "protect", "KO", "--end", "--by", "anna"]).exit_code == 0
    assert sent.split("order ")[1].split()[0] in one.says("is canceled, 0 of")
    code, err = one.interrupt()
    assert code == 0 and "stopping: what is being booked is finished first" in err, (code, err)
    assert "stopped: 2 news of orders" in one.says("stopped:")


def test_a_fill_that_a_venue_pushes_is_told_booked_and_told_again_from_the_books(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in (("BINANCE_API_KEY", "k" * 20), ("BINANCE_SECRET", "s" * 20), ("CARNET_RUN__DATA", str(tmp_path / "data"))):
        monkeypatch.setenv(name, value)
    exchange = FakeExchange()
    with serve_fake("binance", exchange) as url:
        (tmp_path / "settings.ini").write_text("[run]\nprofile = crypto\nmode = live\n\n[crypto:market]\nvenue = binance\nsymbols = BTC/USDT\n"
                                               f"currency = USDT\nstart = 2024-01-01\n\n[crypto:live]\naddress = {url}\n")
        began = datetime.now(UTC) - timedelta(hours=1)
        (tmp_path / "data").mkdir()
        ledger = Ledger(tmp_path / "data" / "ledger.sqlite")
        ledger.open_account("live-crypto", "USDT", D(1_000_000), began, [Position("BTC/USDT", D(2), D(50000))])
        ledger.append(Event("connected", "live-crypto", began, {"venue": "binance", "number": ""}))
        order = Order("c0ffee" * 4, "BTC/USDT", "buy", D("0.5"), "limit", D(49000))  # of a run that has ended and left it in the book
        ledger.append(Event("intent", "live-crypto", began, plain(order) | {"plan": "a plan", "plan_price": None, "venue": "binance"}))
        ledger.close()
        placed = exchange.place(order.client_order_id, "buy", "limit", D("0.5"), price=D(49000))
        one = Followed(tmp_path)
        assert "what the venue pushes, and the books" in one.says("following the orders of live-crypto")
        wait_until(lambda: exchange.lines)
        exchange.fill(placed, D("0.2"))

        def heard() -> bool:  # a line counts as built up a moment before it hears
            push(exchange, deepcopy(placed))
            return any("pushed: order c0ffee" in line for line in one.lines)

        wait_until(heard, every=0.5)
        assert "is open, 0.2 filled" in one.says("pushed: order c0ffee")
        assert "buy 0.2 BTC/USDT at 49000" in one.says("has traded")
        exchange.fill(placed, D("0.3"))
        push(exchange, deepcopy(placed))
        assert "0.5 of 0.5 filled" in one.says("is closed, 0.5 of")
        code, err = one.interrupt()
        assert code == 0 and "stopped: " in one.says("stopped:"), (code, err)
    ledger = Ledger(tmp_path / "data" / "ledger.sqlite")
    assert [f.amount for f in ledger.fills("live-crypto")] == [D("0.2"), D("0.3")] and ledger.unended("live-crypto") == []
    ledger.verify()
    ledger.close()


def test_an_account_that_was_never_opened_is_told_and_nothing_is_followed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARNET_RUN__DATA", str(tmp_path / "data"))
    said = CliRunner().invoke(main, ["orders", "watch", "--follow"])
    assert said.exit_code == 1 and "there is no ledger yet" in said.output and "'carnet run" in said.output
