"`carnet demo` as a newcomer calls it: runs of several markets in one folder, which terminal, queries and page then show."

import os
import re
import subprocess
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner
from typed import CARNET

from trading.accounting.ledger import Ledger
from trading.cli.main import main
from trading.services.queries_analytics import performance
from trading.services.queries_books import contribution
from trading.services.queries_portfolio import holdings, portfolio
from trading.services.queries_runs import records
from trading.services.workspace import Workspace

pytestmark = pytest.mark.xdist_group("demo")  # one worker: what they share is made once

PROFILES = {"sample-etfs": 2, "sample-forex": 1}  # fewer than four, for the suite's sake; all four are made by the soak


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    home = tmp_path_factory.mktemp("demo")
    wishes = [w for p in PROFILES for w in ("--profile", p)]
    environ = {k: v for k, v in os.environ.items() if not k.startswith("CARNET_")}
    environ |= {"PYTHONPATH": os.getcwd(), "CARNET_RUN__DATA": str(home / "elsewhere")}
    words = [*CARNET, "demo", "here", "--days", "2", *wishes, "--no-serve"]
    done = subprocess.run(words, cwd=home, env=environ, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return home, done.stdout


def test_each_market_has_its_runs_in_one_place(demo):
    home, told = demo
    place = Workspace(home / "here" / "data", home / "here" / "reports", home / "here" / "settings.ini")
    made = records(place)
    assert {r.profile for r in made} == set(PROFILES) and all(r.status == "done" and not r.parameters["dry_run"] for r in made)
    assert not (home / "elsewhere").exists()
    for profile in PROFILES:
        assert re.search(rf"^{profile}: [0-9,.]+ USD, [+−]", told, re.MULTILINE)
        assert portfolio(place, profile)["positions"] and holdings(place, profile)["items"]
    assert Ledger(place.ledger, readonly=True).verify() > 20


def test_the_change_of_two_days_adds_up_and_stands_beside_its_benchmark(demo):
    home, _ = demo
    place = Workspace(home / "here" / "data", home / "here" / "reports", home / "here" / "settings.ini")
    found = contribution(place, "sample-etfs")
    ledger = Ledger(place.ledger, readonly=True)
    marks = ledger.equity_history("paper-sample-etfs")["equity"]
    assert Decimal(str(round(marks.iloc[-1] - marks.iloc[0], 2))) == sum(Decimal(str(i["amount"])) for i in found["items"])
    beside = performance(place, "sample-etfs")["account"]["benchmark"]
    from trading.core.datasets import sample_bars

    spy = sample_bars("etfs")["close"]["SPY"]
    first, last = (spy.asof(marks.index[k] - marks.index.to_series().diff().iloc[-1]) for k in (0, -1))
    assert beside["name"] == "SPY" and beside["return"] == pytest.approx(last / first - 1)
    assert beside["difference"] == pytest.approx(performance(place, "sample-etfs")["account"]["return"] - beside["return"])


def test_a_second_call_makes_nothing_anew_and_another_folder_is_left_alone(demo, monkeypatch):
    home, _ = demo
    monkeypatch.chdir(home)
    monkeypatch.setenv("CARNET_RUN__DATA", "mine")
    before = len(list((home / "here" / "reports").glob("*_sample*")))
    again = CliRunner().invoke(main, ["demo", "here", "--days", "1", "--profile", "sample-etfs", "--no-serve"])
    assert again.exit_code == 0, again.output
    assert Path.cwd() == home and os.environ["CARNET_RUN__DATA"] == "mine", "whoever called it goes on where they were"
    assert len(list((home / "here" / "reports").glob("*_sample*"))) == before
    (home / "letter.txt").write_text("mine")
    refused = CliRunner().invoke(main, ["demo", ".", "--no-serve"])
    assert refused.exit_code == 1 and "holds something else already" in refused.output
