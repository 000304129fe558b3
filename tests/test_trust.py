"Damage to a data folder, met through the real commands: one sentence with the way back, never books that begin anew in silence."

import contextlib
import shutil
import sqlite3
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from typed import carnet_at as carnet

from trading.accounting.event_table import head_file
from trading.accounting.ledger import Ledger
from trading.core.errors import TradingError
from trading.core.settings import load_settings
from trading.core.types import Event, Order, Position
from trading.pipeline.account import open_account_ledger
from trading.pipeline.paper import paper_venue
from trading.pipeline.run_record import create_run

pytestmark = pytest.mark.xdist_group("trust")  # one worker: what they share is made once

D = Decimal
DAY = datetime(2022, 12, 1, 21, tzinfo=UTC)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A data folder whose account on paper has opened, traded once, and was marked."
    data = tmp_path_factory.mktemp("whole") / "data"
    data.mkdir()
    ledger = Ledger(data / "ledger.sqlite")
    ledger.open_account("paper-sample", "USD", D(10_000), DAY, [Position("AAPL", D(10), D(150))])
    ledger.append([Event("note", "paper-sample", DAY, {"text": f"{n} {'x' * 300}"}) for n in range(60)])  # several pages
    settings, funds = load_settings("sample", {"run.data": data}), {"USD": D(10_000), "AAPL": D(10)}
    venue = paper_venue(settings, DAY, datetime.now(UTC), funds, data / "paper-sample.sqlite")
    state = venue.create_order(Order("c1", "AAPL", "buy", D(1), "limit", D(1)))
    ledger.append(Event("placed", "paper-sample", DAY, {"client_order_id": "c1", "id": state.id, "form": ""}))
    ledger.mark("paper-sample", {"AAPL": D(150)}, DAY + timedelta(days=1))
    ledger.verify_new()
    ledger.close(), venue.close()
    return data


@pytest.fixture
def home(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "data")
    return tmp_path


def _half(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 8192 * 4096])


def _garbage(file):
    content = bytearray(file.read_bytes())
    begin = min(8192, len(content) // 2)
    content[begin:] = b"\xff" * (len(content) - begin)
    file.write_bytes(content)


def _shorter(file):
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.executescript("drop trigger no_delete; delete from events where seq > 3;")


def _other(file):
    made = Ledger(file.with_name("other.sqlite"))
    made.open_account("paper-sample", "USD", D(100_000), DAY)
    made.append([Event("note", "paper-sample", DAY, {"text": "another"})] * 70)
    made.close()
    file.with_name("other.sqlite").replace(file)


def _folder(file):
    file.unlink()
    file.mkdir()


def _no_tables(file):
    file.unlink()
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.execute("create table x (y)")


DAMAGE = {
    "empty": (lambda f: f.write_bytes(b""), "is empty, and 65 events were written to it"),
    "gone": (lambda f: f.unlink(), "is gone, and 65 events were written to it"),
    "a folder": (_folder, "is no file"),
    "cut": (_half, "is damaged: "),
    "text": (lambda f: f.write_text("no ledger\n" * 99), "is damaged or another kind of file"),
    "zeros": (lambda f: f.write_bytes(bytes(f.stat().st_size)), "is damaged or another kind of file"),
    "garbage inside": (_garbage, "cannot be"),
    "a database without tables": (_no_tables, "holds nothing, and 65 events"),
    "an older copy": (_shorter, "ends at event 3 and 65 were written to it"),
    "another ledger": (_other, "is another one than was written here: its event 65 differs"),
    "its head is empty": (lambda f: head_file(f).write_bytes(b""), "remembers where the ledger ledger.sqlite ends, cannot be read"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_ledger_is_named_with_the_way_back_and_never_taken_for_a_new_one(home, kind):
    file = home / "data" / "ledger.sqlite"
    damage, said = DAMAGE[kind]
    damage(file)
    for words in (["reconcile"], ["book", "deposit", "5"], ["book", "list"], ["export", "trades"], ["performance"]):
        code, told = carnet(home, *words)
        assert code == 1 and said in told and "carnet restore FILE --into FOLDER" in told and told.count("Error:") == 1, (words, told)
    with pytest.raises(TradingError, match="carnet restore"):  # what a run does first
        open_account_ledger(load_settings("sample", {"run.data": home / "data"})).book("paper-sample")
    code, told = carnet(home, "doctor")
    assert code == 1 and any(said in line and line.startswith("bad") for line in told.splitlines()), told
    code, told = carnet(home, "kill", "the books are damaged")
    assert code in (0, 1) and "Trading is stopped" in told, "the brake needs no ledger"
    assert carnet(home, "kill")[1].count("is stopped") or "the books are damaged" in carnet(home, "kill")[1]


def test_a_ledger_without_a_waiting_write_ahead_log_is_shorter_than_was_written(home, tmp_path):
    file = home / "data" / "ledger.sqlite"
    writer = Ledger(file)
    writer.append([Event("note", "paper-sample", DAY, {"text": str(n)}) for n in range(5)])
    early = file.read_bytes()  # the five events are in the write-ahead log only
    writer.close()
    for log in file.parent.glob("ledger.sqlite-*"):
        log.unlink()
    file.write_bytes(early)
    code, told = carnet(home, "reconcile")
    assert code == 1 and "ends at event 65 and 70 were written to it" in told


def test_whoever_knows_that_the_rest_is_lost_can_go_on(home):
    file = home / "data" / "ledger.sqlite"
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.executescript("drop trigger no_delete; delete from events where seq > 64; delete from readers;")
    assert "move ledger-head.txt away, and what came after is lost" in carnet(home, "book", "list")[1]
    head_file(file).unlink()
    assert carnet(home, "book", "deposit", "5")[0] == 0 and carnet(home, "doctor")[1].count("66 events of the ledger are as they were written") == 1
    assert head_file(file).exists(), "it is remembered again"


@pytest.mark.parametrize("damage", ["empty", "gone", "cut", "text", "garbage inside", "an older copy"])
def test_an_exchange_on_paper_that_lost_its_memory_is_named(home, damage):
    file = home / "data" / "paper-sample.sqlite"
    if damage == "an older copy":
        with contextlib.closing(sqlite3.connect(file)) as db, db:
            db.execute("delete from orders")
    else:
        DAMAGE[damage][0](file)
    code, told = carnet(home, "reconcile")
    assert code == 1 and "carnet restore FILE --into FOLDER" in told or "restore it from a backup" in told, told
    assert code == 1 and "paper-sample.sqlite" in told


SETTINGS = load_settings("sample").model_dump(mode="json")


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "a folder", "garbage inside"])
def test_the_doctor_names_every_file_that_its_owner_cannot_read(home, damage):
    runs = [create_run(home / "reports", "sample", DAY, "paper", "paper-sample", SETTINGS, "h", DAY) for _ in range(2)]
    assert carnet(home, "kill", "to try it")[0] == 0
    for run in runs:
        run.write("weights", {"AAPL": "0.5", "more": "x" * 9000})
    data = home / "data"
    files = {"feedback": data / "feedback" / "sample.jsonl", "audit": data / "ops" / "audit.jsonl", "stops": data / "kill-paper-sample.jsonl",
             "runs": runs[0].folder / "run.json", "artefacts": runs[1].folder / "artefacts" / "weights.json"}
    files["feedback"].parent.mkdir()
    files["feedback"].write_text("no cycle\n" * 2000)
    spared = {"stops"} if damage in ("empty", "cut") else set()  # an empty switch: the stop stands in the flag of all accounts
    for name in files.keys() - spared:
        DAMAGE[damage][0](files[name])
    code, told = carnet(home, "doctor")
    bad = {line.split()[1].rstrip(":"): line for line in told.splitlines() if line.startswith("bad")}
    assert code == 1 and bad.keys() >= {"feedback", "audit", "stops", "runs"} - spared and "(and 1 more)" in bad["runs"], told
    assert "is stopped" in carnet(home, "kill")[1] or "to try it" in carnet(home, "kill")[1], "what stopped stays stopped"


@pytest.mark.parametrize("damage", ["a folder", "text", "bytes"])
@pytest.mark.parametrize(
    ("name", "words"),
    [("instruments/sample-stocks.jsonl", ["reconcile"]), ("health.jsonl", ["doctor"]), ("bars.asked.json", ["ingest"]), ("bars", ["performance"])],
)
def test_other_files_end_in_a_sentence_too(home, name, words, damage):
    file = home / "data" / name
    file.parent.mkdir(exist_ok=True)
    file.mkdir() if damage == "a folder" else file.write_bytes(b"\xff\xfe no text\n" if damage == "bytes" else b"{{{\n")
    code, told = carnet(home, *words)
    assert code in (0, 1) and told.count("Error:") <= 1, told


def test_an_artefact_that_is_damaged_equals_nothing(home):
    one, other = (create_run(home / "reports", "sample", DAY, "paper", "paper-sample", SETTINGS, "h", DAY) for _ in range(2))
    for run in (one, other):
        run.write("weights", {"AAPL": "0.5"})
    assert "equal in inputs and numbers" in carnet(home, "compare", one.record.id, other.record.id)[1]
    file = other.folder / "artefacts" / "weights.json"
    kinds = ((lambda: file.write_text(file.read_text() + " "), "was altered"), (file.unlink, "has no artefact"), (file.mkdir, "cannot be read"))
    for damage, said in kinds:
        damage()
        code, told = carnet(home, "compare", one.record.id, other.record.id)
        assert code == 1 and said in told and other.record.id in told, told


def test_the_watch_holds_the_account_against_its_limits_at_closes_on_which_nothing_ran(home):
    "AAPL falls by 40 % two days after the last mark, and no run has seen it."
    (home / "closes.csv").write_text("Date,AAPL\n2022-12-01,150\n2022-12-02,150\n2022-12-05,150\n2022-12-06,90\n2022-12-07,91\n")
    assert carnet(home, "import", "closes.csv")[0] == 0
    code, told = carnet(home, "watch")
    told = told.replace("\u00a0", "")
    assert code == 0 and "paper-sample, by the close of 2022-12-08 00:00: max_daily_loss 5.22% where 5.00% is allowed" in told, "600 of 11,500"
    listed = carnet(home, "alerts", "list")[1]
    assert "limit of the account broken" in listed and "lost in a day" in listed, listed
