"Books out and in through the terminal: exports that others read, and statements that are kept once."

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from typed import carnet

from trading.accounting.account_book import fill_event
from trading.accounting.ledger import Ledger
from trading.core.types import Event, Fill

COMMANDS = ("export", "holdings import", "holdings list", "holdings write")  # what is walked here
D, START = Decimal, datetime(2023, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARNET_RUN__DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CARNET_RUN__REPORTS", str(tmp_path / "reports"))
    (tmp_path / "data").mkdir()
    return tmp_path


@pytest.fixture
def ledger(home):
    made = Ledger(home / "data" / "ledger.sqlite")
    made.open_account("paper-sample", "USD", D(100_000), START)
    trades = [("buy", 2, 10, 0), ("buy", 2, 30, 10), ("buy", 2, 20, 20), ("sell", 3, 40, 30), ("sell", 1, 5, 400)]
    made.append([fill_event(Fill(f"t{n}", f"c{n}", "AAPL", side, D(a), D(p), D(0), START + timedelta(days=day)), "paper-sample", "paper")
                 for n, (side, a, p, day) in enumerate(trades)])
    made.append(Event("dividend", "paper-sample", START + timedelta(days=40), {"symbol": "AAPL", "amount": "1.5"}))
    return made


BY_HAND = [("fifo", [60, 10, -25]), ("lifo", [40, 10, -25]), ("hifo", [20, 20, -15]), ("lofo", [60, 20, -15]), ("average", [60, -15])]


@pytest.mark.parametrize("method, gains", BY_HAND)
def test_lots_of_each_rule_against_a_table_by_hand(ledger, method, gains):
    code, said = carnet("export", "lots", "--method", method)
    rows = [line.split(",") for line in said.strip().splitlines()]
    assert code == 0 and [int(float(r[7])) for r in rows[1:]] == gains and rows[0][7] == "gain"
    late = [line.split(",") for line in carnet("export", "lots", "--method", method, "--year", "2024")[1].strip().splitlines()[1:]]
    assert len(late) == 1 and late[0][10] == "long" and rows[1][10] == "short"


def test_named_lots_and_what_is_missing(ledger, home):
    (home / "lots.csv").write_text("trade id,day,units\nt3,2023-03-11,2\nt3,2023-03-01,1\nt4,2023-03-21,1\n")
    assert carnet("export", "lots", "--output", "-")[1] == carnet("export", "lots")[1]
    assert not (home / "-").exists(), "a dash is the terminal, as for other programs"
    code, said = carnet("export", "lots", "--method", "specific", "--lots", "lots.csv", "--output", "out.csv")
    assert code == 0 and [line.split(",")[7] for line in (home / "out.csv").read_text().splitlines()[1:]] == ["20", "30", "-15"]
    (home / "lots.csv").write_text("t3,2023-03-11,3\n")
    assert "names 1 AAPL of 2023-03-11, which are not there; there are" in carnet("export", "lots", "--method", "specific", "--lots", "lots.csv")[1]
    ledger.append(fill_event(Fill("t9", "c9", "KO", "sell", D(4), D(50), D(0), START + timedelta(days=500)), "paper-sample", "paper"))
    code, said = carnet("export", "lots", "--year", "2024")
    assert code == 0 and "KO,4,missing,2024-07-13 12:00:00,200,0" in said and "4 KO went on 2024-07-13 12:00 (sale t9) and were never bought" in said
    assert "AAPL" in carnet("export", "open-lots")[1] and "KO," not in carnet("export", "open-lots")[1].replace("4 KO", "")


@pytest.mark.parametrize("what", ["trades", "income", "cointracking", "koinly", "ghostfolio"])
def test_every_export_is_written_and_told(ledger, home, what):
    code, said = carnet("export", what, "--output", "x.csv")
    lines = (home / "x.csv").read_text().splitlines()
    assert code == 0 and len(lines) == int(said.split()[-2]) + 1 > 1
    assert "there is no account mine" in carnet("export", what, "--account", "mine")[1]


KRAKEN = """"txid","refid","time","type","subtype","aclass","asset","amount","fee","balance"
"L1","R1","2024-01-01 10:00:00","deposit","","currency","ZUSD","1000.0000","0","1000"
"L2","R3","2024-01-02 10:00:00","trade","","currency","ZUSD","-400.0000","0.6400","599.36"
"L3","R3","2024-01-02 10:00:00","trade","","currency","AAPL","2.0000000000","0","2"
"L4","R4","2024-01-03 10:00:00","staking","","currency","ETH2.S","0.5000000000","0","0.5"
"L5","R5","2024-01-04 10:00:00","withdrawal","","currency","DOGE","-7","0","-7"
"""


def test_statements_are_kept_once_and_what_cannot_be_used_has_a_reason(home):
    (home / "k.csv").write_text(KRAKEN)
    (home / "closes.csv").write_text("Date,AAPL\n2024-01-02,185.5\n2024-01-03,184.25\n")
    assert carnet("import", "closes.csv")[0] == 0
    code, said = carnet("holdings", "import", "k.csv")
    assert code == 0 and "k.csv: kraken, 5 lines, 5 of them new" in said and "in quarantine: 2 holdings" in said
    assert "0 of them new" in carnet("holdings", "import", "k.csv")[1]
    (home / "k2.csv").write_text(KRAKEN + '"L6","R6","2024-01-05 10:00:00","trade","","currency","AAPL","1","0","3"\n')  # the next month, overlapping
    assert "6 lines, 1 of them new" in carnet("holdings", "import", "k2.csv")[1]
    said = carnet("holdings", "list")[1]
    assert "AAPL         3.0000000000  552.75 USD" in said and "quarantine: more went than came" in said and "worth 1152.11 USD without" in said
    code, said = carnet("holdings", "write", "mine.csv")
    assert code == 0 and (home / "mine.csv").read_text() == "symbol,amount,venue\nAAPL,3.0000000000,kraken\nCASH,599.3600,\n"
    assert "left out: kraken: 0.5000000000 ETH: the profile does not know it" in said
    assert "name the FILES to import" in carnet("holdings", "import")[1]
    (home / "odd.csv").write_text("a,b\n1,2\n")
    assert "is no statement that is known" in carnet("holdings", "import", "odd.csv")[1]


def test_a_dry_run_takes_a_statement_and_does_not_die_at_the_first_unknown_coin(home):
    from trading.core.settings import load_settings
    from trading.services.launching import begin_run

    (home / "ct.csv").write_text('"Type","Buy","Cur.","Sell","Cur.","Fee","Cur.","Exchange","Group","Comment","Date","Tx-ID"\n'
                                 '"Trade","3","MSFT","600.5","USD","","","Depot","","","02.01.2024 10:00:00","a"\n'
                                 '"Airdrop","90","SCAM","","","","","Wallet","","","03.01.2024 10:00:00","b"\n')
    run = begin_run(load_settings(), datetime.now(UTC), "2022-12-16", home / "ct.csv")
    assert "MSFT,3,Depot" in "".join(p.read_text() for p in run.folder.rglob("*") if p.is_file() and p.suffix in (".csv", ".json", ".txt"))


def test_coins_are_priced_by_coingecko_where_the_store_has_no_price(home, monkeypatch):
    from trading.venues import coingecko

    asked = []

    def answers(name, method, url, timeout, headers):
        asked.append(url)
        return {"scam-coin": {"usd": 0.5}, "apple-token": {"usd": 90.0}}

    monkeypatch.setattr(coingecko, "fetch_json", answers)
    (home / "k.csv").write_text("symbol,amount,venue\nAAPL,2,Kraken\nSCAM,100,Wallet\n")
    (home / "closes.csv").write_text("Date,AAPL\n2024-01-02,185\n2024-01-03,180\n")
    assert carnet("import", "closes.csv")[0] == 0 and carnet("holdings", "import", "k.csv")[0] == 0
    assert "SCAM" in carnet("holdings", "list")[1] and "no price" in carnet("holdings", "list")[1] and not asked
    code, said = carnet("holdings", "list", "--coingecko", "SCAM=scam-coin", "--coingecko", "AAPL=apple-token")
    assert code == 0 and "50.00 USD" in said and "360.00 USD" in said and "AAPL: the store says 180" in said and "more than 10\u00a0% apart" in said
    assert "180.00 USD" in carnet("holdings", "list", "--coingecko", "AAPL=apple-token", "--prices", "coingecko")[1]
    assert "names no coin of CoinGecko" in carnet("holdings", "list", "--coingecko", "SCAM")[1]
    assert "has no price in USD of SCAM = unknown" in carnet("holdings", "list", "--coingecko", "SCAM=unknown")[1]


def test_several_venues_of_an_account_are_one_performance(home):
    made = Ledger(home / "data" / "ledger.sqlite")
    for n, account in enumerate(("paper-sample", "paper-sample@other")):
        made.open_account(account, "USD", D(1_000), START)
        made.append(fill_event(Fill(f"t{n}", f"c{n}", "AAPL", "buy", D(2 + n), D(100), D(0), START + timedelta(hours=1)), account, "v"))
        for day, price in ((1, 100), (2, 110)):
            made.mark(account, {"AAPL": D(price)}, START + timedelta(days=day))
    made.close()
    code, said = carnet("performance")
    assert code == 0 and "+2.50\u00a0% by unit value" in said and "50.00" in said.splitlines()[-1], "five shares rose by 10, of 2,000"
