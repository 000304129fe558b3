"An account in euros runs as a user runs it: shares for euros, dollars and francs, and pairs whose profit is in yen and pounds, each amount by hand."

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from trading.accounting.account_book import fill_event
from trading.accounting.ledger import Ledger
from trading.cli.main import main
from trading.core.datasets import sample_bars
from trading.core.instruments import Instrument
from trading.core.settings import load_settings
from trading.core.types import Fill
from trading.execution.plan import make_plan
from trading.execution.plan_sizing import PlanConstraints
from trading.pipeline.currency_rates import AccountRates
from trading.services.holdings import holdings_elsewhere
from trading.services.queries_portfolio import holdings, portfolio
from trading.services.workspace import Workspace

pytestmark = pytest.mark.xdist_group("currency-runs")  # one worker: what they share is made once

DAY = datetime(2022, 12, 23, tzinfo=UTC)  # the decision after the close of the 22nd
SETTINGS = """[run]
profile = mine
[mine:market]
source = file
venue = files
symbols = SAP, AAPL, NESN, USD/JPY, EUR/GBP
currency = EUR
start = 2018-01-02
as_of = 2022-12-22
instruments = terms.csv
[mine:allocate]
window = 120
optimizer = fixed
[mine:targets]
SAP = 0.08
AAPL = 0.12
NESN = 0.08
USD/JPY = 0.1
EUR/GBP = 0.08
"""
TERMS = """symbol,kind,quote,amount_step,price_step,calendar
SAP,stock,EUR,1,0.01,XNYS
AAPL,stock,USD,1,0.01,XNYS
NESN,stock,CHF,1,0.01,XNYS
USD/JPY,fx,JPY,100,0.001,24/5
EUR/GBP,fx,GBP,100,0.00001,24/5
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A folder in which a user has imported five files and made a run."
    folder = tmp_path_factory.mktemp("euros")
    stocks, rates = sample_bars("stocks")["close"].loc["2018":"2022-12-28"], sample_bars("fx")["close"].loc["2018":"2022-12-28"]
    rates = rates.reindex(stocks.index).ffill()  # a market that is open when the shares are
    prices = {"SAP": stocks["KO"], "AAPL": stocks["AAPL"], "NESN": stocks["PG"], "USD/JPY": (rates["EUR/JPY"] / rates["EUR/USD"]).round(3),
              "EUR/GBP": rates["EUR/GBP"]}
    (folder / "settings.ini").write_text(SETTINGS)
    (folder / "terms.csv").write_text(TERMS)
    with pytest.MonkeyPatch.context() as place:
        for name in [n for n in os.environ if n.startswith("CARNET_")]:
            place.delenv(name)
        place.chdir(folder)
        for symbol, close in prices.items():
            file = f"{symbol.replace('/', '')}.csv"
            close.dropna().rename("close").to_csv(file, index_label="time", date_format="%Y-%m-%d")
            done = CliRunner().invoke(main, ["import", file, "--symbol", symbol])
            assert done.exit_code == 0, done.output
        done = CliRunner().invoke(main, ["run"])
        assert done.exit_code == 0, done.output
    return Workspace(folder / "data", folder / "reports", folder / "settings.ini")


def kept(home, name):
    (run,) = home.reports.glob("2022-12-22_mine_1")
    return json.loads((run / "artefacts" / f"{name}.json").read_text())


def ecb(pair, day):
    return sample_bars("fx")["close"][pair].loc[day]


def test_each_symbol_keeps_the_calendar_that_its_instrument_tells(home, monkeypatch):
    from trading.core.errors import BadInput
    from trading.pipeline.factory import calendars_of, symbol_calendars

    monkeypatch.chdir(home.settings.parent)
    settings, days = load_settings("mine", file=home.settings, environ={}), pd.date_range("2022-12-12", "2022-12-23", freq="B", tz="UTC")
    close = pd.DataFrame(1.0, days, list(settings.market.symbols))
    assert symbol_calendars(settings, close) == {"SAP": "XNYS", "AAPL": "XNYS", "NESN": "XNYS", "USD/JPY": "24/5", "EUR/GBP": "24/5"}
    assert calendars_of(settings) == {"SAP": "XNYS", "AAPL": "XNYS", "NESN": "XNYS", "USD/JPY": "auto", "EUR/GBP": "auto"}
    (home.settings.parent / "wrong.csv").write_text(TERMS.replace("SAP,stock,EUR,1,0.01,XNYS", "SAP,stock,EUR,1,0.01,XETRA1"))
    wrong = settings.model_copy(update={"market": settings.market.model_copy(update={"instruments": "wrong.csv"})})
    with pytest.raises(BadInput, match="the calendar 'XETRA1' is unknown; did you mean 'XETR'"):
        symbol_calendars(wrong, close)


def test_the_rates_are_kept_with_their_source_and_stated_in_the_report(home):
    rates = kept(home, "rates")
    assert rates["base"] == "EUR" and rates["financed"] == ["EUR/GBP", "USD/JPY"] and set(rates["rates"]) == {"USD", "CHF", "JPY", "GBP"}
    for currency in ("USD", "CHF", "JPY"):
        told = rates["rates"][currency]
        assert float(told["rate"]) == pytest.approx(1 / ecb(f"EUR/{currency}", "2022-12-22"), rel=1e-9) and "ECB" in told["source"]
    assert float(rates["rates"]["GBP"]["rate"]) == pytest.approx(1 / ecb("EUR/GBP", "2022-12-22"), rel=1e-9)
    assert "own prices" in rates["rates"]["GBP"]["source"]  # the venue's pair goes before the bank's
    page = next(home.reports.glob("2022-12-22_mine_1/index.html")).read_text()
    assert "AAPL: priced in USD, counted in EUR at" in page and "EUR/GBP: priced in GBP" in page and "only the profit is converted" in page


def test_the_plan_counts_in_euros_and_asks_in_each_currency(home):
    plan, rates = kept(home, "plan"), {c: D(r["rate"]) for c, r in kept(home, "rates")["rates"].items()}
    assert plan["currency"] == "EUR" and D(plan["equity"]) == 100_000 and {a["symbol"] for a in plan["actions"]} == set(plan["targets"])
    for a in plan["actions"]:
        worth = D(a["amount"]) * D(a["price"]) * rates.get(a["currency"], D(1))
        step = (100 if "/" in a["symbol"] else 1) * D(a["price"]) * rates.get(a["currency"], D(1))
        assert D(0) <= D(plan["targets"][a["symbol"]]) * 100_000 - worth < step + 200, a["symbol"]  # whole steps, and the fees


def test_fills_fees_and_equity_by_hand(home):
    ledger = Ledger(home.ledger, readonly=True)
    fills, cash = {f.symbol: f for f in ledger.fills("paper-mine")}, D(100_000)
    assert {s: f.currency for s, f in fills.items()} == {"SAP": "", "AAPL": "USD", "NESN": "CHF", "USD/JPY": "JPY", "EUR/GBP": "GBP"}
    for symbol, f in fills.items():
        cash -= (D(0) if "/" in symbol else f.amount * f.price * f.rate) + f.fee * f.rate
    assert ledger.book("paper-mine").cash == cash
    closing, last = kept(home, "closing"), "2022-12-23"
    close = {s: sample_bars("stocks")["close"][real] for s, real in (("SAP", "KO"), ("AAPL", "AAPL"), ("NESN", "PG"))}
    equity, rate = float(cash), {c: 1 / ecb(f"EUR/{c}", last) for c in ("USD", "CHF", "JPY", "GBP")} | {"": 1.0}
    for symbol, f in fills.items():
        if "/" not in symbol:
            equity += float(f.amount) * close[symbol].loc[last] * rate[f.currency]
    now = {"USD/JPY": round(ecb("EUR/JPY", last) / ecb("EUR/USD", last), 3), "EUR/GBP": ecb("EUR/GBP", last)}
    for symbol, price in now.items():  # the profit so far, at the rate of the day
        equity += float(fills[symbol].amount) * (price - float(fills[symbol].price)) * rate[fills[symbol].currency]
    assert float(closing["equity"]) == pytest.approx(equity, abs=1e-4)
    assert portfolio(home, "mine")["equity"] == pytest.approx(equity, abs=1e-4) and portfolio(home, "mine")["currency"] == "EUR"


def test_the_page_shows_weights_and_gains_in_euros(home):
    found = {i["symbol"]: i for i in holdings(home, "mine")["items"]}
    fills = {f.symbol: f for f in Ledger(home.ledger, readonly=True).fills("paper-mine")}
    rate = float(D(kept(home, "rates")["rates"]["USD"]["rate"]))
    assert found["AAPL"]["currency"] == "USD" and found["AAPL"]["rate"] == pytest.approx(rate)
    assert found["AAPL"]["profit"] == pytest.approx(found["AAPL"]["value"] - float(fills["AAPL"].worth))
    assert sum(i["weight"] for i in found.values()) < 0.6 and holdings(home, "mine")["currency"] == "EUR"


@pytest.fixture(scope="module")
def later(home, tmp_path_factory):
    """The same folder after money, units and a removed symbol that the profile does not need: pounds' pair leaves the settings while it is held."""
    folder = tmp_path_factory.mktemp("later") / "euros"
    shutil.copytree(home.settings.parent, folder)
    with pytest.MonkeyPatch.context() as place:
        for name in [n for n in os.environ if n.startswith("CARNET_")]:
            place.delenv(name)
        place.chdir(folder)
        for entry in (["1000", "SEK", "--rate", "0.09"], ["500", "XOF", "--rate", "0.0015"], ["10", "OLDCO", "--price", "5"]):
            done = CliRunner().invoke(main, ["book", "deposit", *entry])
            assert done.exit_code == 0, done.output
        (folder / "settings.ini").write_text(SETTINGS.replace(", EUR/GBP\n", "\n").replace("EUR/GBP = 0.08\n", ""))
        done = CliRunner().invoke(main, ["run"])
        assert done.exit_code == 0, done.output
    return Workspace(folder / "data", folder / "reports", folder / "settings.ini")


def test_what_no_symbol_needs_is_valued_and_said_and_never_locks_the_account(later):
    (run,) = later.reports.glob("2022-12-22_mine_2")
    state = json.loads((run / "artefacts" / "rates.json").read_text())
    beside = {s: (float(b["price"]), b["source"]) for s, b in state["beside"].items()}
    assert beside["SEK/EUR"] == (pytest.approx(1 / ecb("EUR/SEK", "2022-12-22"), rel=1e-9), "the ECB's reference rates")
    assert beside["XOF/EUR"][0] == 0.0015 and beside["OLDCO"][0] == 5 and all("what it cost" in beside[s][1] for s in ("XOF/EUR", "OLDCO"))
    pound = ecb("EUR/GBP", "2022-12-22")
    assert beside["EUR/GBP"] == (pytest.approx(pound * (1 / pound), rel=1e-9), "its stored closes")
    plan = json.loads((run / "artefacts" / "plan.json").read_text())
    assert any("OLDCO" in note and "market.symbols" in note for note in plan["notes"]) and not {a["symbol"] for a in plan["actions"]} & beside.keys()
    worth, page = pd.read_parquet(run / "artefacts" / "holdings_after.parquet")["value"], (run / "index.html").read_text()
    assert worth[["SEK/EUR", "XOF/EUR", "OLDCO"]].to_list() == pytest.approx([1000 / ecb("EUR/SEK", "2022-12-23"), 0.75, 50], abs=1e-6)
    first = pd.read_parquet(next(later.reports.glob("2022-12-22_mine_1/artefacts/holdings_after.parquet")))["value"]
    closing = float(json.loads((run / "artefacts" / "closing.json").read_text())["equity"])
    assert worth["EUR/GBP"] == pytest.approx(first["EUR/GBP"], rel=1e-9) and closing == pytest.approx(worth.sum(), abs=1e-6)
    assert "counted at 0.0015 EUR a unit" in page and "OLDCO: held and none of the profile" in page
    assert "the value at risk counts it like the symbol that moves most" in page


def test_the_pages_and_questions_know_what_is_held_beside(later, monkeypatch):
    from trading.services.queries_analytics import risk, stress_results

    monkeypatch.chdir(later.settings.parent)
    assert risk(later, "mine")["metrics"]["var_95"] > 0 and any("OLDCO" in i["unknown_symbols"] for i in stress_results(later, "mine")["items"])
    assert {"SEK/EUR", "OLDCO", "EUR/GBP"} <= {i["symbol"] for i in holdings(later, "mine")["items"]}
    assert portfolio(later, "mine")["equity"] > 0
    for words in (["performance"], ["reconcile"], ["doctor"]):
        done = CliRunner().invoke(main, words)
        assert "no price" not in done.output and not isinstance(done.exception, KeyError | ValueError), done.output


def test_holdings_elsewhere_count_in_the_currency_of_the_account(home, monkeypatch):
    monkeypatch.chdir(home.settings.parent)
    for name in [n for n in os.environ if n.startswith("CARNET_")]:
        monkeypatch.delenv(name)
    Path("elsewhere.csv").write_text("symbol,amount\nAAPL,10\nSAP,10\nNESN,10\nCASH,5\n")
    done = CliRunner().invoke(main, ["holdings", "import", "elsewhere.csv"])
    assert done.exit_code == 0, done.output
    found = {h["coin"]: float(h["value"]) for h in holdings_elsewhere(load_settings("mine", file=home.settings, environ={}))}
    stocks, day = sample_bars("stocks")["close"], "2022-12-28"
    worth = {"AAPL": stocks["AAPL"].loc[day] / ecb("EUR/USD", day), "SAP": stocks["KO"].loc[day], "NESN": stocks["PG"].loc[day] / ecb("EUR/CHF", day)}
    assert found == {s: pytest.approx(10 * price, rel=1e-9) for s, price in worth.items()} | {"CASH": 5}


def test_a_currency_without_a_rate_is_refused_before_anything_is_planned(home, monkeypatch):
    monkeypatch.chdir(home.settings.parent)
    for name in [n for n in os.environ if n.startswith("CARNET_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CARNET_MARKET__INSTRUMENTS", "odd.csv")
    (home.settings.parent / "odd.csv").write_text(TERMS.replace("NESN,stock,CHF", "NESN,stock,USDT"))
    done = CliRunner().invoke(main, ["run"])
    assert done.exit_code != 0 and "no rate USDT/EUR" in done.output and "carnet import FILE --symbol USDT/EUR" in done.output


def test_twenty_assets_in_three_currencies_are_valued_as_by_hand(tmp_path):
    rng, money = np.random.default_rng(15), ["EUR", "USD", "CHF"]
    moments = pd.date_range("2024-05-01", periods=5, freq="D", tz="UTC")
    paths = {"USD": pd.Series(rng.uniform(0.85, 0.97, 5).round(9), moments), "CHF": pd.Series(rng.uniform(0.98, 1.08, 5).round(9), moments)}
    symbols = [f"A{n:02}" for n in range(20)]
    of = {s: money[n % 3] for n, s in enumerate(symbols)}
    rates = AccountRates("EUR", {s: c for s, c in of.items() if c != "EUR"}, frozenset(), paths, dict.fromkeys(paths, "a table"))
    ledger, cash, units, start = Ledger(tmp_path / "l.sqlite"), D(2_000_000), {}, moments[0].to_pydatetime()
    ledger.open_account("mine", "EUR", cash, start)
    for number, s in enumerate(symbols):
        when, price = start + timedelta(days=1 + number % 3), D(str(round(float(rng.uniform(5, 900)), 4)))
        units[s], rate = D(str(round(float(rng.uniform(1, 90)), 3))), rates.rate_of(s, when)
        fee = D("0.37")
        extra = {} if of[s] == "EUR" else {"currency": of[s], "rate": rate}
        ledger.append(fill_event(Fill(f"t{number}", f"c{number}", s, "buy", units[s], price, fee, when, **extra), "mine", "paper"))
        cash -= (units[s] * price + fee) * (D(f"{paths[of[s]].loc[when]:.10g}") if of[s] != "EUR" else 1)
    now = moments[-1].to_pydatetime()
    prices = {s: D(str(round(float(rng.uniform(5, 900)), 4))) for s in symbols}
    by_hand = cash + sum(units[s] * prices[s] * (1 if of[s] == "EUR" else D(f"{paths[of[s]].iloc[-1]:.10g}")) for s in symbols)
    book = ledger.book("mine")
    assert abs(book.equity(rates.convert(prices, now)) - by_hand) < D("1e-9")
    closes = rates.closes(pd.DataFrame([{s: float(p) for s, p in prices.items()}], [moments[-1]]))
    assert ledger.mark_closes("mine", closes, now) == 1
    assert ledger.equity_history("mine")["equity"].iloc[-1] == pytest.approx(float(by_hand), rel=1e-12)
    terms = {s: Instrument(s, D("0.001"), D("0.0001"), kind="stock", quote=of[s]) for s in symbols}
    rules = PlanConstraints(fee_rate=D("0.001"), min_trade=D(1), drift=D(0))
    plan = make_plan("mine", now, units, book.cash, dict.fromkeys(symbols, 0.05), prices, terms, rules, "EUR", rates=rates.now(now))
    assert abs(plan.equity - by_hand) < D("1e-9")
    after = {a.symbol: units[a.symbol] + (a.amount if a.side == "buy" else -a.amount) for a in plan.actions}
    for s, held in after.items():  # a twentieth of what the fees leave, in whole steps
        worth = held * prices[s] * rates.rate_of(s, now)
        assert abs(worth - plan.equity / 20) < plan.equity * D("0.0002"), s


def test_a_holiday_of_one_source_is_an_absent_row_and_no_absent_panel(tmp_path, monkeypatch):
    "The ECB sets no rates on days on which shares trade: rows of the past that lack one, and a policy that is replayed without them."
    from trading.pipeline.target_weights import whole_closes
    from trading.portfolio.policies import policy
    from trading.portfolio.rolling import policy_history

    monkeypatch.chdir(tmp_path)
    settings = load_settings("sample", {"market.symbols": "AAPL, KO, EUR/USD", "run.data": str(tmp_path)}, environ={})
    stocks, rates = sample_bars("stocks")["close"].loc["2016":, ["AAPL", "KO"]], sample_bars("fx")["close"]["EUR/USD"]
    close = stocks.join(rates.rename("EUR/USD"))
    holidays = close.index[close["EUR/USD"].isna()]
    assert len(holidays) > 10
    whole = whole_closes(settings, close)
    assert whole.index.equals(close.index.difference(holidays)) and whole.notna().all(axis=None)
    history = policy_history(whole, policy("balanced"), every=126)
    assert len(history.weights) > 5 and (history.weights["EUR/USD"] > 0).any() and not history.notes
    rare = close.assign(rare=close["KO"].where(close.index.month == 1))  # what trades a month a year does not take the others' rows away
    assert whole_closes(settings, rare).index.equals(whole.index)
    nothing = policy_history(close[["EUR/USD"]].mask((close.index.day == 1)[:, None]).iloc[:600], policy("balanced"), every=60)
    assert (nothing.weights == 0).all(axis=None) and (nothing.equity == 1).all()


def test_what_rates_did_stands_apart_and_adds_up_by_hand(home, monkeypatch, tmp_path):
    from trading.services.queries_books import contribution

    folder = tmp_path / "euros"
    shutil.copytree(home.settings.parent, folder)
    (folder / "settings.ini").write_text(SETTINGS.replace("as_of = 2022-12-22", "as_of = 2022-12-27"))
    first, home = home, Workspace(folder / "data", folder / "reports", folder / "settings.ini")
    monkeypatch.chdir(folder)
    for name in [n for n in os.environ if n.startswith("CARNET_")]:
        monkeypatch.delenv(name)
    found = contribution(home, "mine")
    fills, day = {f.symbol: f for f in Ledger(home.ledger, readonly=True).fills("paper-mine")}, "2022-12-27"
    close = {s: sample_bars("stocks")["close"][real].loc[day] for s, real in (("AAPL", "AAPL"), ("NESN", "PG"))}
    rows, lines = {e["symbol"]: e for e in found["effects"]}, {i["name"]: i["amount"] for i in found["items"]}
    for symbol, pair in (("AAPL", "EUR/USD"), ("NESN", "EUR/CHF")):
        units, paid, then, now = *(float(n) for n in (fills[symbol].amount, fills[symbol].price, fills[symbol].rate)), 1 / ecb(pair, day)
        assert rows[symbol]["local"] == pytest.approx(units * (close[symbol] - paid) * now, abs=1e-3)
        assert rows[symbol]["effect"] == pytest.approx(units * paid * (now - then), abs=1e-3)  # a rate has ten digits
        assert lines[f"Currency effect {pair[4:]}/EUR"] == pytest.approx(rows[symbol]["effect"], abs=0.01)
    assert round(sum(lines.values()), 2) == found["total"] == round(found["end"] - found["start"], 2) and lines["SAP"]
    later = contribution(home, "mine", since="2022-12-23")  # nothing is traded any more: the two returns make the whole one
    was = {s: sample_bars("stocks")["close"][real].loc["2022-12-23"] for s, real in (("AAPL", "AAPL"), ("NESN", "PG"))}
    for e in (e for e in later["effects"] if e["symbol"] in close):
        rate = ecb(f"EUR/{e['pair'][:3]}", "2022-12-23") / ecb(f"EUR/{e['pair'][:3]}", day) - 1
        own = close[e["symbol"]] / was[e["symbol"]] - 1
        assert e["local_return"] == pytest.approx(own, abs=1e-9) and e["currency_return"] == pytest.approx(rate, abs=1e-9)
    told = CliRunner().invoke(main, ["performance", "--since", "2022-12-23", "--profile", "mine"])
    assert told.exit_code == 0 and "Currency effect USD/EUR" in told.output and "by its price" in told.output, told.output
    costs = CliRunner().invoke(main, ["orders", "costs", "--profile", "mine", "--json"])  # what the orders cost against the plan, by hand
    (bought,) = (g for g in json.loads(costs.output)["groups"]["symbol"] if g["name"] == "AAPL")
    planned = next(float(a["price"]) for a in kept(first, "plan")["actions"] if a["symbol"] == "AAPL")
    paid = float(fills["AAPL"].price) / planned - 1 + float(fills["AAPL"].fee) / float(fills["AAPL"].amount) / planned
    assert bought["orders"] == 1 and bought["cost_bp"] == pytest.approx(1e4 * paid, rel=1e-9)
