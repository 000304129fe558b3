"The trading loop: each close is decided once, as the replay decides it; restarts, missed closes, late bars, the brake, and a person who is asked."

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from trading.accounting.ledger import Ledger
from trading.cli.main import main
from trading.core.datasets import sample_bars
from trading.core.errors import BadInput, MissingData, Refused
from trading.core.settings import load_settings
from trading.core.types import Action, CheckResult, Plan
from trading.execution.approval import approve_plan, plan_status
from trading.pipeline import trade_loop, trade_steps
from trading.pipeline.account import TradingAccount, open_account_ledger
from trading.pipeline.forecast_review import promising_runs
from trading.pipeline.replay import run_replay
from trading.pipeline.trade_loop import open_loop
from trading.pipeline.training import keep_forecast
from trading.risk.kill_switch import KillSwitch
from trading.services import loop_control
from trading.services.loop_control import require_loop_alive, trading_loops
from trading.services.workspace import Workspace

pytestmark = pytest.mark.xdist_group("loop")
START, HOUR, ACCOUNT = datetime(2021, 12, 20, tzinfo=UTC), timedelta(hours=1), "paper-sample-coins-1h"
FAST = {"market.symbols": "BTC/USDT, ETH/USDT, SOL/USDT", "market.start": "2021-10-01", "forecast.window": "900", "forecast.refit": "weekly",
        "forecast.horizons": "1, 6", "allocate.window": "300", "limits.max_turnover": "3", "trade.drift": "0.01"}


def settings_at(home: Path, **more: str):
    return load_settings("sample-coins-1h", FAST | {"run.data": home / "data", "run.reports": home / "reports"} | more, environ={})


def loop_at(home: Path, start: datetime = START, **more: str):
    told: list[str] = []
    return open_loop(settings_at(home, **more), start, told.append), told


def plans_of(home: Path) -> dict[str, str]:
    ledger = Ledger(home / "data" / "ledger.sqlite")
    found = {Plan.from_json(e.data["text"]).as_of.isoformat(): e.data["plan"] for e in ledger.events(ACCOUNT, "proposed")}
    ledger.close()
    return found


def fills_of(home: Path) -> list:
    ledger = Ledger(home / "data" / "ledger.sqlite")
    found = [(f.client_order_id, f.amount, f.price) for f in ledger.fills(ACCOUNT)]
    ledger.close()
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    home = tmp_path_factory.mktemp("loop")
    loop, told = loop_at(home)
    assert loop.run(START + 5 * HOUR) == "the time 2021-12-20 05:00 has come"
    return home, told, loop.state.known


def test_the_loop_decides_what_a_replay_of_the_same_hours_decides(whole, tmp_path):
    home, told, state = whole
    done = run_replay(settings_at(tmp_path), "2021-12-20T00:00Z", "2021-12-20T05:00Z", datetime(2026, 1, 1, tzinfo=UTC))
    lines = [json.loads(text) for text in (done.folder / "days.jsonl").read_text().splitlines()]
    acted = {line["as_of"]: line["plan"] for line in lines if line["orders"]}
    assert len(lines) == 6 == state["decisions"] and not state["problems"] and acted and plans_of(home) == acted
    assert state["last"]["plan"] == lines[-1]["plan"] and state["last"]["equity"] == lines[-1]["equity"]
    assert fills_of(home) == [(f.client_order_id, f.amount, f.price) for f in Ledger(done.folder / "data" / "ledger.sqlite").fills(ACCOUNT)]


def test_a_restart_goes_on_and_decides_nothing_twice(whole, tmp_path):
    loop_at(tmp_path)[0].run(START + 2 * HOUR)
    again, told = loop_at(tmp_path, START + 2 * HOUR)  # the clock stands where it was: this close is decided already
    again.run(START + 5 * HOUR)
    assert again.state.known["decisions"] == 3 and plans_of(tmp_path) == plans_of(whole[0]) and fills_of(tmp_path) == fills_of(whole[0])
    early, told = loop_at(tmp_path, START)
    early.run(START + 2 * HOUR)
    assert "is past the close of 2021-12-20 05:00 already" in told[0]
    assert early.state.known["decisions"] == 0 and fills_of(tmp_path) == fills_of(whole[0])


@pytest.mark.parametrize(("rule", "decided"), [("skip", 1), ("newest", 2)])
def test_missed_closes_are_told_and_treated_by_the_rule(rule, decided, tmp_path):
    loop_at(tmp_path)[0].run(START + timedelta(minutes=1))
    late, told = loop_at(tmp_path, START + 3 * HOUR + timedelta(minutes=10), **{"loop.missed": rule})
    late.run(START + 4 * HOUR + timedelta(minutes=1))
    assert "2 closes missed since 2021-12-20 00:00" in told[0] and late.state.known["decisions"] == decided
    assert any("03:00 is over since 600 s" in words for words in told) == (rule == "skip")
    assert late.state.known["missed"] == (3 if rule == "skip" else 2)


def test_a_bar_that_comes_late_is_waited_for_but_not_for_ever(tmp_path, monkeypatch):
    loop, told = loop_at(tmp_path)
    real, asked = loop.source.fetch_ohlcv, []

    def slow(symbol, timeframe, since=None, until=None):
        asked.append(loop.clock())
        frame = real(symbol, timeframe, since, until)
        lag = timedelta(seconds=20) if loop.clock() < START + HOUR + timedelta(minutes=2) else 3 * HOUR
        return frame[frame.index + HOUR <= loop.clock() - lag] if loop.clock() > START + timedelta(minutes=5) else frame
    monkeypatch.setattr(loop.source, "fetch_ohlcv", slow, raising=False)
    loop.run(START + 2 * HOUR + timedelta(minutes=5))
    assert any(words.startswith("2021-12-20 01:00 equity") for words in told), told
    assert any("no bar closed at 2021-12-20 02:00" in words for words in told) and loop.state.known["decisions"] == 2


def test_the_emergency_stop_of_another_process_ends_it(tmp_path):
    loop, told = loop_at(tmp_path)
    jump, slept = loop.sleep, []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:
            code = ("from trading.risk.kill_switch import KillSwitch; from datetime import datetime, UTC; "
                    f"KillSwitch({str(tmp_path / 'data' / f'kill-{ACCOUNT}.jsonl')!r}).engage('Ada', 'prices are nonsense', datetime.now(UTC))")
            subprocess.run([sys.executable, "-c", code], check=True)
        jump(seconds)
    loop.sleep = sleep
    ended = loop.run(START + 9 * HOUR)
    assert "stopped by Ada" in ended and "prices are nonsense" in ended and loop.state.known["decisions"] <= 3
    with pytest.raises(Refused, match="carnet kill --reset"):
        loop_at(tmp_path, START + 4 * HOUR)[0].run(START + 5 * HOUR)
    place = Workspace(tmp_path / "data", tmp_path / "reports")
    with pytest.raises(MissingData, match="has ended: trading is stopped by Ada"):
        require_loop_alive(place, "sample-coins-1h", 60, datetime.now(UTC))
    assert "nonsense" in trading_loops(place)["items"][0]["ended"]
    KillSwitch(tmp_path / "data" / f"kill-{ACCOUNT}.jsonl").reset("Ada", "it was a test", datetime.now(UTC))
    assert loop_at(tmp_path, START + 4 * HOUR)[0].run(START + 4 * HOUR + timedelta(minutes=1)).startswith("the time")


def test_a_crash_between_two_orders_sends_nothing_twice(whole, tmp_path, monkeypatch):
    def dies(*args, **named):
        raise KeyboardInterrupt
    loop, _ = loop_at(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(trade_steps, "record_step", dies)
        with pytest.raises(KeyboardInterrupt):
            loop.run(START + 5 * HOUR)
    assert loop.state.known["ended"] == "interrupted"
    again, told = loop_at(tmp_path, START)
    again.run(START + 5 * HOUR)
    assert plans_of(tmp_path) == plans_of(whole[0]) and fills_of(tmp_path) == fills_of(whole[0])
    assert not list((tmp_path / "data").glob("pending-*"))


def test_a_plan_that_a_person_must_approve_is_sent_when_they_do_and_dropped_when_a_newer_close_comes(tmp_path, monkeypatch):
    asks = TradingAccount.settle_approval

    def asked(self, plan, verdict):  # as with real orders
        if plan_status(self.ledger, self.account, plan.hash) == "unknown":
            from trading.execution.approval import propose_plan

            propose_plan(self.ledger, plan, self.clock())
        return plan_status(self.ledger, self.account, plan.hash)
    monkeypatch.setattr(TradingAccount, "settle_approval", asked)
    loop, told = loop_at(tmp_path)
    loop.run(START + HOUR + timedelta(minutes=1))  # nobody answers: the plan of 00:00 is dropped at 01:00
    name = loop.waiting[1]
    assert sum("awaits approval" in words for words in told) == 2 and not fills_of(tmp_path)
    ledger = Ledger(tmp_path / "data" / "ledger.sqlite")
    plans = [Plan.from_json(e.data["text"]) for e in ledger.events(ACCOUNT, "proposed")]
    assert [plan_status(ledger, ACCOUNT, p.hash) for p in plans] == ["canceled", "proposed"]
    approve_plan(ledger, plans[1], "Ada", START + HOUR)
    ledger.close()
    loop.run(START + HOUR + timedelta(minutes=3))
    assert len(fills_of(tmp_path)) == len(plans[1].actions) and loop.waiting is None
    assert (tmp_path / "reports" / name / "artefacts" / "plan.json").exists(), "the plan lay where a person looks for it"
    monkeypatch.setattr(TradingAccount, "settle_approval", asks)


@pytest.mark.parametrize(("limit", "four_eyes", "status"), [("1000", False, "approved"), ("999.99", False, "proposed"), (None, False, "proposed")])
def test_a_small_plan_with_real_orders_may_be_approved_by_a_rule(limit, four_eyes, status, tmp_path):
    now = datetime.now(UTC)
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.open_account("live-crypto", "USD", Decimal(10_000), now)
    plan = Plan("live-crypto", now, "USD", Decimal(10_000), Decimal(10_000), (Action("BTC/USD", "buy", Decimal("0.01"), Decimal(100_000), "why"),))
    desk = TradingAccount("live-crypto", ledger, None, None, now, "USD", False, "", ask_above=limit and Decimal(limit))
    assert desk.settle_approval(plan, CheckResult(plan.hash, (), ("max_weight",))) == status
    if status == "approved":
        assert ledger.events("live-crypto", "approved")[0].data["who"] == "rule: not above 1000 USD"


def test_the_command_says_what_it_needs_and_what_it_did(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARNET_RUN__DATA", str(tmp_path / "data"))
    sections: dict[str, list[str]] = {}
    for key, value in FAST.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, []).append(f"{name} = {value}")
    Path("settings.ini").write_text("\n".join(f"[sample-coins-1h:{s}]\n" + "\n".join(lines) for s, lines in sections.items()))
    words = ["trade", "--profile", "sample-coins-1h"]
    refused = CliRunner().invoke(main, [*words, "--once"])
    assert refused.exit_code == 1 and "say with --from where its clock shall start" in refused.output
    done = CliRunner().invoke(main, [*words, "--from", "2021-12-20", "--once"])
    assert done.exit_code == 0 and "orders filled" in done.output and "the close of 2021-12-20 00:00 is decided" in done.output, done.output
    again = CliRunner().invoke(main, [*words, "--from", "2021-12-20", "--once"])
    assert again.exit_code == 0 and "filled" not in again.output
    alive = CliRunner().invoke(main, ["alive", "--loop", "sample-coins-1h"])
    assert alive.exit_code == 1 and "has ended" in alive.output
    audit = (Path("data") / "ops" / "audit.jsonl").read_text()
    assert "trading loop started" in audit
    with pytest.raises(BadInput, match="leave --from out"):
        open_loop(load_settings("crypto", {"run.data": tmp_path / "data"}, environ={}), START)


@pytest.mark.parametrize("retrain", ["ask", "start"])
def test_models_that_are_too_old_are_trained_after_a_decision_or_a_person_is_asked_once_a_day(retrain, tmp_path, monkeypatch):
    "The newest search was 100 days ago: what a daily run starts, the loop starts too, with the decision that it has just made as the newest run."
    home, asked, old = tmp_path, [], {"at": (START - timedelta(days=100)).isoformat(), "run": "x", "words": ""}
    (home / "reports" / "weekly" / "2021-09-01_000000_sample-coins-1h").mkdir(parents=True)
    (home / "reports" / "weekly" / "2021-09-01_000000_sample-coins-1h" / "train.json").write_text(json.dumps(old))

    def train(settings, now):
        run = promising_runs(settings.run.reports, settings.run.profile, None)[0]
        asked.append(run.as_of)
        return "ridge stays in force."

    monkeypatch.setattr(loop_control, "train_models", train)
    told: list[str] = []
    loop_control.run_trading_loop(settings_at(home, **{"forecast.retrain": retrain}), START, START + 2 * HOUR, False, told.append)
    due = [w for w in told if "A training of the models is due" in w]
    assert len(due) == 1 and "the models were last searched with what was known on 2021-09-11, 100 days ago; the limit is 92" in due[0]
    [known] = trading_loops(Workspace(home / "data", home / "reports", None))["items"]
    assert known["training"] == due[0]
    if retrain == "ask":
        assert not asked and due[0].endswith("'carnet train --profile sample-coins-1h' starts it.")
    else:
        assert len(asked) == 1 and START <= asked[0] <= START + HOUR and due[0].endswith("the models were trained again: ridge stays in force.")


@pytest.mark.parametrize("retrain", ["ask", "start"])
def test_forecasts_that_broke_their_word_start_a_training_in_the_loop_as_in_a_daily_run(retrain, tmp_path, monkeypatch):
    "Fifty hours that the loop has decided lie in its folder with intervals far too narrow; one with honest intervals asks for nothing."
    asked = []
    monkeypatch.setattr(loop_control, "train_models", lambda settings, now: asked.append(now) or "ridge stays in force.")
    settings = settings_at(tmp_path, **{"forecast.retrain": retrain})
    open_account_ledger(settings).open_account(ACCOUNT, "USDT", Decimal(10_000), START - timedelta(days=20))

    def hours(spread: float) -> list[str]:
        for back in range(10, 60):
            rows = pd.MultiIndex.from_product([settings.market.symbols, [1]], names=["symbol", "horizon"])
            promise = {"expected": 0.0, "std": spread, "lower": -1.645 * spread, "upper": 1.645 * spread, "naive": 0.0, "confidence": 0.5}
            keep_forecast(settings, START - back * HOUR, pd.DataFrame(promise, rows))
        told: list[str] = []
        start = START if spread > 0.001 else START + timedelta(days=1)
        loop_control.run_trading_loop(settings, start, start + HOUR, False, told.append)
        return [w for w in told if "A training of the models is due" in w]

    assert not any("spreads" in w or "inside the interval" in w for w in hours(0.012)) and not asked
    [due] = hours(0.0004)
    assert "because horizon 1:" in due and "% of outcomes lie inside the interval" in due
    end = {"start": "the models were trained again: ridge stays in force.", "ask": "'carnet train --profile sample-coins-1h' starts it."}[retrain]
    assert len(asked) == (retrain == "start") and due.endswith(end)


PERPETUALS = """[run]
profile = perps
[perps:market]
source = sample
venue = coins_1h
timeframe = 1h
symbols = BTC/USDT, ETH/USDT, SOL/USDT
currency = USDT
calendar = 24/7
start = 2021-10-01
max_age_hours = 3
instruments = own.csv
[perps:margin]
leverage = 2
funding = 0.0008
[perps:forecast]
window = 900
refit = weekly
horizons = 1, 6
[perps:allocate]
policy = long short
window = 300
risk_level = very high
[perps:limits]
max_leverage = 1.5
max_weight = 0.6
max_group_weight = 1.0
max_net = 1
max_turnover = 3
max_var_95 = 0.5
max_drawdown = 0.9
max_daily_loss = 0.9
"""


def test_an_hourly_loop_of_perpetuals_pays_each_at_the_hours_of_its_venue_and_a_replay_pays_the_same(tmp_path, monkeypatch):
    "Bitcoin by a file of rates; of the others none is stored: the rate of eight hours, for ether half of it every four."
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith("CARNET_")]:
        monkeypatch.delenv(name)
    Path("settings.ini").write_text(PERPETUALS)
    Path("own.csv").write_text("symbol,kind,funding_hours\nBTC/USDT,perpetual,1\nETH/USDT,perpetual,4\nSOL/USDT,perpetual,\n")
    told = {pd.Timestamp(START) + n * HOUR: Decimal(n - 30) / 10000 for n in range(20, 50)}
    Path("btc.csv").write_text("timestamp,rate\n" + "".join(f"{at.isoformat()},{rate}\n" for at, rate in told.items()))

    def carnet(*words):
        done = CliRunner().invoke(main, [*words])
        assert done.exit_code == 0, done.output
        return done.output

    assert "30 payments read" in carnet("import", "btc.csv", "--funding", "--symbol", "BTC/USDT")
    said = carnet("trade", "--from", "2021-12-21", "--until", "2021-12-21")
    assert "no decision" not in said, said
    said = carnet("replay", "--from", "2021-12-20", "--to", "2021-12-21")  # the close of a day is the midnight after it
    assert "margin.funding = 0.0008 every 8 hours is assumed, which is 0.0004 every 4 hours where the venue pays so" in said, said
    folders = {"loop": Path("data"), "replay": next(Path("reports/replays").glob("*")) / "data"}
    books = {name: Ledger(folder / "ledger.sqlite", readonly=True) for name, folder in folders.items()}
    charged = lambda ledger: [(e.timestamp, e.data["symbol"], Decimal(e.data["amount"])) for e in ledger.events("paper-perps", "funding")]  # noqa: E731
    paid = {name: charged(ledger) for name, ledger in books.items()}
    fills, market = books["loop"].fills("paper-perps"), sample_bars("coins_1h")["open"]
    traded = lambda some: [(f.timestamp, f.symbol, f.side, f.amount, f.price, f.fee) for f in some]  # noqa: E731  orders are named after data, to which the file adds rates of later
    assert paid["loop"] == paid["replay"] and traded(fills) == traded(books["replay"].fills("paper-perps"))
    every = lambda hours, rate: lambda at: Decimal(rate) if at.hour % hours == 0 else 0  # noqa: E731
    rate = {"BTC/USDT": told.get, "ETH/USDT": every(4, "0.0004"), "SOL/USDT": every(8, "0.0008")}
    by_hand = []
    for at in pd.date_range(START + 24 * HOUR, START + 47 * HOUR, freq="h"):  # what fell due at the last close is booked by the next look
        for symbol in sorted(rate):
            units = sum((f.amount if f.side == "buy" else -f.amount for f in fills if f.symbol == symbol and f.timestamp < at), Decimal(0))
            cost = (units * Decimal(repr(float(market.loc[at, symbol]))) * rate[symbol](at)).quantize(Decimal("1e-8"), ROUND_CEILING)
            by_hand += [(at, symbol, -cost)] if cost else []
    assert sorted(paid["loop"]) == by_hand and {s for _, s, _ in by_hand} == {*rate}


def test_the_loop_tells_what_lacks_beside_the_bars_once_and_again_when_it_comes_back(tmp_path, monkeypatch):
    "Funding of a symbol that its venue refuses, over five closes; news is told each time that it is another."
    lacks, news = "funding of BTC/USDT:USDT: the venue is being repaired", "{} payments of funding added or corrected"
    words = [[lacks, news.format(12)], [lacks, news.format(2)], [lacks], [], [lacks]]
    monkeypatch.setattr(trade_loop, "ingest_beside", lambda *_: ("", words.pop(0) if len(words) > 1 else words[0]))
    loop, told = loop_at(tmp_path)
    loop.run(START + 4 * HOUR)
    assert [line for line in told if "funding" in line] == [lacks, news.format(12), news.format(2), lacks], told
