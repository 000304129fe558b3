"'carnet optimise' on files: weights, a comparison out of sample with intervals, and trades in whole lots to the cent; limits are never relaxed."

import json
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


def test_the_currency_is_one_that_the_prices_are_counted_in(files):
    asked = ("--prices", "prices.csv", "--cash", "10000", "--every", "120")
    assert json.loads(carnet(*asked, "--currency", "EUR", "--json")[1])["currency"] == "EUR"
    files.rename(columns=lambda s: f"{s}/USDT").tz_localize(None).rename_axis("Date").to_csv("pairs.csv")
    pairs = ("--prices", "pairs.csv", "--cash", "10000", "--every", "120")
    assert json.loads(carnet(*pairs, "--json")[1])["currency"] == "USDT"
    files.rename(columns={"KO": "KO/USD", "XOM": "XOM/EUR"}).tz_localize(None).rename_axis("Date").to_csv("mixed.csv")
    for words, said in (((*asked, "--currency", "usd"), "'usd' is no code of a currency: write 2 to 10 capitals; did you mean 'USD'"),
                        ((*asked, "--currency", "%&"), "is no code of a currency"), ((*asked, "--currency", ""), ""),
                        ((*asked, "--currency", "KO"), "KO is a symbol of prices.csv"),
                        ((*pairs, "--currency", "EUR"), "JNJ/USDT is priced in USDT and the account counts in EUR; say --currency USDT"),
                        (("--prices", "mixed.csv", "--cash", "10000"), "give a file with prices in one currency")):
        code, told = carnet(*words)
        assert (code == 0) == (said == "") and said in told, (words, told)


def test_limits_are_kept_or_refused_and_what_cannot_be_meant_is_a_sentence(files, tmp_path):
    quick = ("--prices", "prices.csv", "--every", "120", "--json")
    limits = ("--max-weight", "0.4", "--group", "Energy=XOM", "--max-group", "Energy=0.1")
    told = json.loads(carnet(*quick, *limits, "--cash", "10000", "--lot", "AAPL=10")[1])
    assert max(told["weights"].values()) <= 0.4 + 1e-9 and told["weights"]["XOM"] <= 0.1 + 1e-9
    assert all(D(t["amount"]) % 10 == 0 for t in told["trades"] if t["symbol"] == "AAPL")
    for more, what in (
        (("--max-weight", "0.2"), "allow 80.0%, below the 100.0% to invest"), (("--optimizer", "risk-partiy"), "did you mean 'risk-parity'"),
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
