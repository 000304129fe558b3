"`carnet size` as a trader asks it: shares for euros, pairs in yen, coins in lots of the venue; each amount by hand."

import json
import statistics
from datetime import UTC, datetime
from decimal import Decimal as D

import pandas as pd
import pytest
from typed import carnet

from trading.accounting.ledger import Ledger
from trading.core.types import Event
from trading.data.delta_store import BarStore

START = datetime(2024, 1, 2, tzinfo=UTC)
COMMANDS = ("size",)  # what is walked here
SETTINGS = """[run]
profile = mine
[mine:market]
source = file
venue = file
symbols = SAP, AAPL, GBP/JPY, GOLD
currency = EUR
instruments = terms.csv
start = 2023-01-01
[mine:limits]
max_weight = 1.0
"""
TERMS = """symbol,kind,quote,amount_step,price_step,contract_size,min_amount
SAP,stock,EUR,1,0.01,,
AAPL,stock,USD,1,0.01,,
GBP/JPY,fx,JPY,1000,0.001,100000,1000
GOLD,cfd,USD,0.01,0.1,100,1
"""
PRICES = {"SAP": 100.0, "AAPL": 200.0, "GBP/JPY": 180.0, "GOLD": 2000.0, "EUR/USD": 1.25, "EUR/JPY": 160.0}


def size(*words) -> dict:
    code, said = carnet("size", *words, "--json")
    assert code == 0, said
    return json.loads(said)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARNET_RUN__DATA", "data")
    monkeypatch.setenv("CARNET_RUN__REPORTS", "reports")
    (tmp_path / "settings.ini").write_text(SETTINGS)
    (tmp_path / "terms.csv").write_text(TERMS)
    days, store = pd.date_range("2024-01-01", periods=60, freq="D", tz="UTC", name="timestamp"), BarStore(tmp_path / "data" / "bars")
    for symbol, price in PRICES.items():
        moves = pd.Series([price * (1.01 if i % 2 else 1.0) for i in range(59)] + [price], days)  # up and down by a per cent
        store.upsert(pd.concat({(k, symbol): moves for k in ("open", "high", "low", "close")}, axis=1, names=["field", "symbol"]), "1d", "file")
    return tmp_path


# one per cent of 10,000 € is 100 €: 125 $, or 16,000 ¥
@pytest.mark.parametrize(("symbol", "stop", "units", "loss", "tick", "lots"), [
    ("SAP", "95", "20", "100", "0.20", None),  # 5 € a share
    ("AAPL", "195", "25", "100", "0.2", None),  # 5 $ are 4 €; a cent of 25 shares is 0.25 $
    ("AAPL", "193", "17", "95.2", "0.136", None),  # 7 $ are 5.60 €: 17.86 shares, of which 17 are whole
    ("GBP/JPY", "178", "8000", "100", "0.05", "0.08"),  # 2 ¥ a pound: 8,000 pounds; a thousandth of a yen on them is 8 ¥
    ("GBP/JPY", "177", "5000", "93.75", "0.03125", "0.05"),  # 3 ¥ a pound: 5,333 pounds, of which 5,000 are whole lots of a thousand
    ("GOLD", "1980", "6.25", "100", "0.5", "0.0625"),  # 20 $ an ounce: 6.25 ounces, a hundred to the contract, and all that the account can be
])
def test_what_is_lost_at_the_stop_is_a_per_cent_of_the_account_in_its_own_currency(home, symbol, stop, units, loss, tick, lots):
    found = size(symbol, "--equity", "10000", "--risk", "1%", "--stop", stop)
    assert (D(found["units"]), D(found["loss"]), D(found["tick_value"])) == (D(units), D(loss), D(tick)), found
    assert (found["lots"] and D(found["lots"])) == (lots and D(lots)) and found["side"] == "long"
    assert not any("max_weight" in note for note in found["notes"])


def test_limits_and_the_venues_smallest_order_bind_and_say_so(home):
    found = size("GOLD", "--equity", "10000", "--risk", "0.01", "--stop", "1990")  # 12.5 ounces would be 20,000 €
    assert D(found["units"]) == D("6.25") and D(found["loss"]) == 50 and any("limits.max_weight, 100% of the account" in n for n in found["notes"])
    found = size("GBP/JPY", "--equity", "1000", "--fraction", "50%")  # 500 € are 444 pounds, and a lot is a thousand
    assert D(found["units"]) == 0 and D(found["value"]) == 0 and any("below the minimum of 1000" in n for n in found["notes"])
    assert D(size("SAP", "--equity", "10000", "--fraction", "25%", "--price", "90")["units"]) == 27  # 2,500 € at 90 €
    found = size("SAP", "--equity", "10000", "--risk", "1%", "--stop", "95")
    assert D(found["costs"]) == D("0.0015") * (2000 + 1900), "a tenth of a per cent and five basis points, in and out"


def test_a_volatility_is_that_of_the_stored_bars(home):
    moves = [1 / 1.01 - 1] * 10 + [0.01] * 9 + [0.0]  # the last twenty: down and up by a per cent, and at last nothing
    realised = statistics.stdev(moves) * 365.25**0.5
    found = size("SAP", "--equity", "10000", "--volatility", "5%")
    assert D(found["units"]) == int(0.05 / realised * 10_000 / 100) and 20 < D(found["units"]) < 30


def test_settings_and_books_say_what_is_left_out(home, tmp_path):
    (tmp_path / "settings.ini").write_text(SETTINGS + "[protection]\nstop_loss = 0.05\nrisk_per_trade = 0.01\n")
    found = size("AAPL", "--equity", "10000")  # 5 % of 200 $ are 10 $, 8 €
    assert D(found["units"]) == 12 and D(found["stop"]) == 190 and D(found["loss"]) == 96
    code, said = carnet("size", "AAPL")
    assert code == 1 and "the account paper-mine has no value yet; give one with --equity" in said, said
    ledger = Ledger(tmp_path / "data" / "ledger.sqlite")
    ledger.append([Event("opened", "paper-mine", START, {"currency": "EUR"}), Event("deposit", "paper-mine", START, {"amount": "5000"}),
                   Event("equity", "paper-mine", START, {"equity": "5000", "cash": "5000", "prices": {}})])
    ledger.close()
    code, said = carnet("size", "AAPL")
    assert code == 0 and "long 6 AAPL at 200.0 USD: 960.00 EUR, 19.20\u00a0% of the account" in said, said
    assert "at the stop of 190.00 USD it loses 48.00 EUR" in said and "of the account's value of 2024-01-02" in said
    assert "counted in EUR at 0.8 EUR for one USD" in said, "the rate and its moment stand there"


@pytest.mark.parametrize(("words", "says"), [
    (("TSLA", "--equity", "1000", "--fraction", "0.1"), "does not hold TSLA"),
    (("SAP", "--equity", "many", "--fraction", "0.1"), "'many' is no number"),
    (("SAP", "--equity", "1000", "--fraction", "ten"), "'ten' is no number"),
    (("SAP", "--equity", "1000", "--risk", "1%"), "only bounded by a stop"),
    (("SAP", "--equity", "1000", "--risk", "1%", "--stop", "105"), "means a short position"),
    (("SAP", "--equity", "1000"), "nothing says how large"),
    (("SAP", "--equity", "1000", "--risk", "1%", "--stop", "100.0"), "risks nothing"),
    (("SAP", "--equity", "-5", "--fraction", "0.1"), "must be above zero"),
    (("SAP", "--equity", "1000", "--risk", "150%", "--stop", "90"), "risk_per_trade is 1.5"),
    (("SAP", "--equity", "1000", "--risk", "1%", "--fraction", "1%"), "give one of them"),
])
def test_what_cannot_be_answered_is_one_sentence(home, words, says):
    code, said = carnet("size", *words)
    assert code == 1 and says in said, said


def test_a_margin_account_may_be_short(home, tmp_path):
    (tmp_path / "settings.ini").write_text(SETTINGS + "[margin]\nleverage = 2\n")
    found = size("AAPL", "--equity", "10000", "--risk", "1%", "--stop", "205")
    assert found["side"] == "short" and D(found["units"]) == 25 and D(found["loss"]) == 100
