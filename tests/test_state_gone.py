"What is gone or broken beside the books is said where it is looked for, before anything is built on it."

import os
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D
from pathlib import Path

import pytest
from click.testing import CliRunner

from trading.accounting.event_table import LedgerError, head_file
from trading.accounting.ledger import Ledger
from trading.cli.main import main
from trading.core.files import write_atomic
from trading.core.settings import load_settings
from trading.core.types import Event
from trading.pipeline.run_record import Run
from trading.services.alerting import list_alerts, open_outbox
from trading.services.launching import begin_run, execute_run
from trading.services.queries_portfolio import portfolio
from trading.services.queries_system import alert_history
from trading.services.workspace import Workspace

DAY = datetime(2022, 12, 28, tzinfo=UTC)


@pytest.fixture
def place(tmp_path, monkeypatch):
    for name in [n for n in os.environ if n.startswith("CARNET_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return load_settings("sample", environ={})


def invoke(*words):
    return CliRunner().invoke(main, list(words))


def opened(settings):
    "Books that were written and verified once."
    Path(settings.run.data).mkdir(parents=True)
    ledger = Ledger(Path(settings.run.data) / "ledger.sqlite")
    ledger.open_account("paper-sample", "USD", D(1000), DAY)
    ledger.verify_new()
    return ledger


def test_alerts_of_a_new_folder_are_none_and_asking_makes_no_file(place, tmp_path):
    assert list_alerts(place) == [] and "no alerts yet" in invoke("alerts", "list").output
    assert not (tmp_path / "data" / "alerts.sqlite").exists()


def test_alerts_that_are_gone_are_not_none(place, tmp_path):
    open_outbox(place).close()
    assert list_alerts(place) == []
    for file in (tmp_path / "data").glob("alerts.sqlite*"):
        file.unlink()
    done = invoke("alerts", "list")
    assert done.exit_code == 1 and "alerts.sqlite is gone" in done.output and "carnet restore" in done.output
    words = alert_history(Workspace(tmp_path / "data", tmp_path / "reports", tmp_path / "settings.ini"))
    assert words["items"] == [] and "alerts.sqlite is gone" in str(words)
    open_outbox(place).close()
    assert "no alerts yet" in invoke("alerts", "list").output


def test_garbage_in_the_place_of_alerts_is_said(place, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "alerts.sqlite").write_text("garbage" * 400)
    done = invoke("alerts", "list")
    assert done.exit_code == 1 and "not a database" in done.output


def test_a_run_on_broken_books_ends_before_its_first_stage(place, tmp_path):
    ledger = opened(place)
    ledger.close()
    head = head_file(tmp_path / "data" / "ledger.sqlite")
    seq, rest = head.read_text().split(" ", 1)
    head.write_text(f"{int(seq) + 7:020d} {rest}")
    run = begin_run(place, DAY)
    with pytest.raises(LedgerError, match="ledger.sqlite"):
        execute_run(run, place)
    assert all(s.status == "pending" for s in Run(run.folder).record.stages) and not (tmp_path / "data" / "bars").exists()


def test_books_that_grow_while_somebody_reads_a_long_list_are_not_called_cut_off(place, tmp_path):
    from trading.services.query_cache import MEMORY
    from trading.services.workspace import ledger_for_reading

    ledger, here = opened(place), Workspace(tmp_path / "data", tmp_path / "reports")
    events = ledger_for_reading(here)._table.select(("seq",))  # another thread of the service, in the middle of a list
    assert next(iter(events)) == (1,)
    ledger.append(Event("note", "paper-sample", DAY, {"who": "ann", "text": "written meanwhile"}))
    MEMORY.forget()
    assert portfolio(here)["missing"].startswith("the account paper-sample has no value yet"), "and not that the ledger should be restored"
    ledger.close()
    file = head_file(here.ledger)  # what is cut off is found all the same
    file.write_text(file.read_text().replace("3 ", "9 ", 1))
    MEMORY.forget()
    assert "restore" in portfolio(here)["missing"]


def test_a_missing_witness_is_told_once_and_then_there_again(place, tmp_path):
    ledger = opened(place)
    assert ledger.head_gone() == ""
    head_file(tmp_path / "data" / "ledger.sqlite").unlink()
    assert "is gone and is written anew" in ledger.head_gone() and "cannot be told" in ledger.head_gone()
    ledger.append(Event("note", "paper-sample", DAY + timedelta(hours=1), {"text": "seen", "source": "person x"}))
    assert ledger.head_gone() == ""
    ledger.close()


def test_a_file_is_written_whole_and_through_to_the_disk(tmp_path, monkeypatch):
    seen = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (seen.append(os.fstat(handle).st_size), real(handle)))
    write_atomic(tmp_path / "a" / "b.json", b"12345")
    assert (tmp_path / "a" / "b.json").read_bytes() == b"12345" and seen == [5]


@pytest.mark.parametrize("decided, again", [(DAY - timedelta(hours=12), True), (DAY, True), (DAY - timedelta(days=3), False), (None, False)])
def test_a_loop_that_is_started_again_after_its_end_has_nothing_to_do(decided, again, place, monkeypatch):
    "A service that a supervisor starts again must not fail for ever; a wrong date is a mistake as before."
    from trading.services import loop_control

    class Loop:
        length, clock = timedelta(days=1), staticmethod(lambda: DAY + timedelta(days=2))
        decided = staticmethod(lambda: decided)
        run = staticmethod(lambda until, once: "asked")

    monkeypatch.setattr(loop_control, "open_loop", lambda *args: Loop())
    ended = loop_control.run_trading_loop(place, None, DAY, False, print)
    assert ("is decided" in ended) == again and (ended == "asked") != again


def test_a_profile_with_bars_of_its_own_is_not_taken_for_the_sample_of_its_name(place, tmp_path):
    from trading.core.datasets import sample_bars
    from trading.pipeline.market_bars import market_bars

    (tmp_path / "settings.ini").write_text("[forex:market]\nsource = file\nvenue = files\nsymbols = EUR/USD\ntimeframe = 1d\n")
    assert market_bars("forex").equals(sample_bars("forex").dropna(axis=1, how="all"))  # nothing is stored: the sample
    days = [f"2024-03-{d:02},1.00{d}" for d in range(4, 9)]
    (tmp_path / "EURUSD.csv").write_text("\n".join(["time,close", *days]) + "\n")
    done = invoke("import", "EURUSD.csv", "--symbol", "EUR/USD", "--profile", "forex", "--decimal", ".")
    assert done.exit_code == 0, done.output
    assert market_bars("forex")["close"]["EUR/USD"].to_list() == [1.004, 1.005, 1.006, 1.007, 1.008]
