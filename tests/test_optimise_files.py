"'carnet optimise' on files: weights, a comparison out of sample with intervals, and trades in whole lots to the cent; limits are never relaxed."

import json
import sys
from decimal import Decimal as D

import numpy as np
import pytest
from click.testing import CliRunner

from trading.cli.main import main
from trading.core.datasets import sample_bars
from trading.core.errors import TradingError

SYMBOLS = ["KO", "XOM", "AAPL", "JNJ"]


def carnet(*words):
    done = CliRunner().invoke(main, ["optimise", *map(str, words)])
    assert done.exception is None or isinstance(done.exception, (SystemExit, TradingError)), done.exception
    return done.exit_code, done.output + (str(done.exception) if isinstance(done.exception, TradingError) else "")


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    close = sample_bars("stocks")["close"][SYMBOLS].loc["2021":"2022"]
    close.tz_localize(None).rename_axis("Date").to_csv("prices.csv")
    (tmp_path / "mine.csv").write_text("symbol,amount\nKO,100\nXOM,50\nCASH,1000\n")
    return close


def test_weights_comparison_and_trades_come_out(files):
    asked = ("--prices", "prices.csv", "--holdings", "mine.csv", "--optimizer", "inverse-volatility", "--against", "risk-parity")
    told = json.loads(carnet(*asked, "--every", "63", "--json")[1])
    inverse = 1 / files.pct_change().iloc[1:].iloc[-told["window"] :].std()
    assert np.allclose([told["weights"][s] for s in SYMBOLS], inverse / inverse.sum(), rtol=0.15)  # the covariance is shrunk
    rows = {r["optimizer"]: r for r in told["comparison"]}
    assert list(rows) == ["inverse-volatility", "equal-weight", "risk-parity"]
    for row in rows.values():
        for figure in ("return", "volatility", "sharpe", "max_drawdown"):
            low, high = row[figure]["interval"]
            assert low < high and low - 0.2 * abs(low) <= row[figure]["value"] <= high + 0.2 * abs(high)
    low, high = rows["risk-parity"]["over_equal"]["interval"]
    assert "over_equal" not in rows["equal-weight"] and low < high
    after, cash = {"KO": D(100), "XOM": D(50)}, D(1000)
    for t in told["trades"]:
        sign = 1 if t["side"] == "buy" else -1
        assert D(t["amount"]) % 1 == 0 and abs(D(t["fee"]) - D(t["value"]) * D("0.001")) < D("0.006")
        after[t["symbol"]] = after.get(t["symbol"], D(0)) + sign * D(t["amount"])
        cash -= sign * D(t["value"]) + D(t["fee"]) + D(t["slippage"])
    assert abs(cash - D(told["cash_after"])) < D("0.05") and cash > -D("0.05") and all(u >= 0 for u in after.values())
    code, said = carnet(*asked, "--every", "63")
    assert code == 0 and "in 95 of 100 resampled histories" in said and "over equal weights" in said and "costs " + told["costs"] in said


def test_a_currency_that_is_none_is_refused(files):
    for code, said in (("usd", "'usd' is no code of a currency: write 2 to 10 capitals; did you mean 'USD'"), ("%&", "is no code of a currency")):
        failed, told = carnet("--prices", "prices.csv", "--cash", "10000", "--currency", code)
        assert failed and said in told, told


def test_limits_are_kept_or_refused_and_what_cannot_be_meant_is_a_sentence(files, tmp_path):
    quick = ("--prices", "prices.csv", "--every", "120", "--json")
    limits = ("--max-weight", "0.4", "--group", "Energy=XOM", "--max-group", "Energy=0.1")
    told = json.loads(carnet(*quick, *limits, "--cash", "10000", "--lot", "AAPL=10")[1])
    assert max(told["weights"].values()) <= 0.4 + 1e-9 and told["weights"]["XOM"] <= 0.1 + 1e-9
    assert all(D(t["amount"]) % 10 == 0 for t in told["trades"] if t["symbol"] == "AAPL")
    for more, what in (
        (("--max-weight", "0.2"), "allow 80.0\u00a0%, below the 100.0\u00a0%"), (("--optimizer", "risk-partiy"), "did you mean 'risk-parity'"),
        (("--max-turnover", "0.1"), "give --holdings"),
        (("--group", "Energy=XOMM"), "XOMM is not in prices.csv"), (("--lot", "0"), "a lot is above zero"), (("--cash", "much"), "is no number"),
        (("--target", "KO"), "write NAME=VALUE"), (("--window", "9000"), "leave nothing of"), (("--holdings", "none.csv"), "cannot be read"),
        (("--optimizer", "fixed"), "no targets were given"), (("--max-group", "Cars=0.1"), "has a limit and no symbols"),
    ):
        code, said = carnet(*quick, *more)
        assert code and what in said, (more, said)
    (tmp_path / "short.csv").write_text("Date,KO,XOM\n2024-01-02,1,2\n2024-01-03,1.1,2.1\n")
    assert "at least 62 are needed" in carnet("--prices", "short.csv")[1]
    code, said = carnet("--holdings", "mine.csv")
    assert code and "give --prices FILE too" in said


def test_two_currencies_floors_lots_taxes_and_a_page(files, tmp_path):
    own = ("--currency", "EUR", "--quoted", "USD=KO,XOM", "--every", "120", "--optimizer", "inverse-volatility", "--group", "Drinks=KO",
           "--min-group", "Drinks=0.4", "--json")
    rate = 0.8 + 0.1 * np.arange(len(files)) / len(files)  # dollars become dearer
    (files.assign(**{"EUR/USD": 1 / rate})).tz_localize(None).rename_axis("Date").to_csv("two.csv")
    lots = "AAPL,100,2020-05-04,60\nAAPL,100,2021-03-01,130\nKO,10,2021-02-01,48\nCASH,1000,,\n"
    (tmp_path / "lots.csv").write_text(f"symbol,amount,bought,price\n{lots}")
    told = json.loads(carnet("--prices", "two.csv", "--holdings", "lots.csv", "--tax-rate", "0.25", "--report", "page.html", *own)[1])
    assert set(told["weights"]) == set(SYMBOLS) and told["weights"]["KO"] >= 0.4 - 1e-9, "the pair gives rates and is no holding"
    prices = {t["symbol"]: float(t["price"]) for t in told["trades"]}
    assert abs(prices["KO"] - files["KO"].iloc[-1] * rate[-1]) < 1e-3 and abs(prices["AAPL"] - files["AAPL"].iloc[-1]) < 1e-3
    sale = next(t for t in told["trades"] if t["side"] == "sell")
    units, cost = D(sale["amount"]), D(sale["fee"]) + D(sale["slippage"])
    paid = min(units, 100) * 60 + max(units - 100, 0) * 130  # first in, first out, in euros as the share is
    assert sale["symbol"] == "AAPL" and abs(D(sale["gain"]) - (units * D(sale["price"]) - cost - paid)) < D("0.02")
    assert abs(D(told["tax"]) - D(told["gains"]) / 4) < D("0.02") and told["method"] == "fifo"
    page = (tmp_path / "page.html").read_text()
    assert "What to hold: inverse-volatility" in page and f"{D(sale['value']):,.2f}" in page and "https://" not in page and "<script src" not in page
    younger = json.loads(carnet("--prices", "two.csv", "--holdings", "lots.csv", "--tax-rate", "0.25", "--method", "lifo", *own)[1])
    assert D(younger["gains"]) < D(told["gains"])
    for more, what in (
        (("--tax-rate", "0.25"), "give --holdings"), (("--tax-rate", "0.25", "--holdings", "mine.csv"), "the columns bought"),
        (("--tax-rate", "26", "--holdings", "lots.csv"), "a fraction of the gains"), (("--report", "page.txt"), "ends in .html"),
        (("--min-group", "Drinks=0.4", "--max-group", "Drinks=0.3"), "must be between"), (("--min-group", "Cars=0.4"), "has a limit and no symbols"),
        (("--quoted", "USD=KOO"), "KOO is not in"), (("--quoted", "USD=KO", "--quoted", "GBP=KO"), "in the currencies"),
    ):
        code, said = carnet("--prices", "prices.csv", "--currency", "EUR", "--group", "Drinks=KO", "--every", "120", *more)
        assert code and what in said, (more, said)


def test_a_method_whose_package_is_missing_says_how_to_get_it_and_the_others_go_on(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "riskfolio", None)  # as in a plain installation
    code, told = carnet("--prices", "prices.csv", "--optimizer", "herc")
    assert code != 0 and "HERC needs the package riskfolio-lib: pip install 'carnet[optimizers]'" in told
    assert carnet("--prices", "prices.csv", "--optimizer", "mean-variance", "--json")[0] == 0
