"An agent from its training to its orders: trained by command, promoted and refused as every strategy, traded by run, replay and loop."

import json
from collections import defaultdict
from pathlib import Path
from shutil import copytree

import numpy as np
import pandas as pd
import pytest
from typed import SYMBOLS, carnet, planted_settings

from trading.accounting.ledger import Ledger
from trading.core.settings import load_settings
from trading.core.types import Plan
from trading.forecast.rl_training import Agent, agent_weights
from trading.pipeline.factory import store_of
from trading.pipeline.launch import open_run
from trading.pipeline.notebook_runner import run_in_process
from trading.pipeline.run_record import STAGES
from trading.services.jobs import jobs
from trading.services.workspace import Workspace

pytestmark = pytest.mark.xdist_group("agent")
COMMANDS = ("research agent",)  # what is walked here
SETTINGS = planted_settings("2021-06-30", forecast="window = 900\nhorizons = 1", allocate="window = 250\nrisk_level = very high")
TRADE = SETTINGS + "[strategies]\nWave = 0.6\nMaCross = 0.2\n"


def waves(bars=1700, seed=3) -> pd.DataFrame:
    "Four prices that swing for sixty days, each at its own time."
    chance = np.random.default_rng(seed)
    moves = 0.005 * chance.normal(size=(bars, 4)) + 0.006 * np.sin(2 * np.pi * (np.arange(bars)[:, None] / 60 + chance.random(4)))
    return pd.DataFrame(100 * np.exp(np.cumsum(moves, axis=0)), pd.date_range("2015-01-01", periods=bars, freq="B"), SYMBOLS)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A folder with an agent that was trained up to 2019 and promoted on what came later, and a rule beside it."
    home = tmp_path_factory.mktemp("agent")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("CARNET_RUN__DATA", "data")
        (home / "settings.ini").write_text(SETTINGS)
        waves().rename_axis("Date").round(6).to_csv(home / "closes.csv")
        assert carnet("import", "closes.csv")[0] == 0
        said = [carnet("research", "agent", "Wave", "--until", "2018-12-31", "--generations", "40")]
        asked = ("strategies", "promote", "Wave", "--grid", "strength=1", "--from", "2018-01-01", "--to", "2021-06-24")
        code, told = carnet(*asked)
        assert code == 1 and "the leak check cannot tell" in told and "looks into the future" not in told, told
        said.append(carnet(*asked, "--accept", "its numbers come from bars up to 2018-12-31, where it holds nothing"))
        said.append(carnet("strategies", "promote", "MaCross", "--grid", "fast=3,5", "--grid", "slow=15,20", "--to", "2021-06-24"))
    return home, said


@pytest.fixture
def home(made, tmp_path, monkeypatch):
    copytree(made[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARNET_RUN__DATA", "data")
    monkeypatch.setenv("CARNET_RUN__REPORTS", "reports")
    (tmp_path / "settings.ini").write_text(TRADE)
    return tmp_path


def plain(said: str) -> str:
    "Return what was said on one line, percents without their space."
    return " ".join(said.split()).replace(" %", "%")


def agent_of(home: Path) -> Agent:
    return Agent.from_json((home / "strategies" / "Wave.py").read_text().split('r"""')[1].split('"""')[0])


def test_it_is_trained_judged_on_later_bars_and_promoted_on_bars_after_those(made):
    home, said = made
    assert all(code == 0 for code, _ in said), said
    assert "standing still nothing, after a fee of 0.10% and slippage of 5 basis points" in plain(said[0][1])
    assert "strategies/Wave.py is written" in said[0][1] and "carnet strategies promote Wave --grid strength=1 --from" in said[0][1]
    assert "Wave" in said[1][1] and "promoted" in said[1][1]
    bars = store_of(load_settings(overrides={"run.data": str(home / "data")}, file=home / "settings.ini", environ={})).read(SYMBOLS, "1d")
    weights = agent_weights(agent_of(home), bars)
    assert agent_of(home).until.startswith("2018-12-31") and not weights.loc[:"2018-12-31"].any(axis=None)
    assert weights.loc["2019-02":].abs().sum(axis=1).mean() > 0.1


def test_the_daily_run_the_replay_and_the_loop_trade_it_beside_the_others(home):
    settings = load_settings()
    run = run_in_process(open_run(settings, pd.Timestamp("2026-11-28", tz="UTC").to_pydatetime(), "2021-06-28"), STAGES[:-1])
    parts, plan = run.read("sleeve_weights"), run.read("plan", Plan)
    bars = store_of(settings).read(SYMBOLS, "1d").loc[:"2021-06-28"]
    wanted = agent_weights(agent_of(home), bars.loc["2018-01-01":]).iloc[-1]
    assert list(parts.columns) == ["policy", "Wave", "MaCross", "limits"] and [r["share"] for r in run.read("sleeves")] == [0.6, 0.2]
    assert parts["Wave"].to_numpy() == pytest.approx(0.6 * wanted[parts.index].to_numpy(), abs=0.01)
    assert plan.actions and run.record.model_versions["strategy Wave"]
    code, said = carnet("replay", "--from", "2021-06-28", "--to", "2021-06-29", "--promoted", "all-along")
    assert code == 0, said
    [days] = Path("reports/replays").glob("*/days.jsonl")
    line = json.loads(days.read_text().splitlines()[0])  # its data version names what had closed, that of the run the whole import
    assert line["targets"] == {s: float(w) for s, w in plan.targets.items() if w}, "the replay plans what the run of that day planned"
    code, said = carnet("trade", "--from", "2021-06-29", "--until", "2021-06-30T01:00Z")
    assert code == 0 and ("filled" in said or "nothing to trade" in said), said
    code, said = carnet("strategies", "compare")
    assert code == 0 and "Wave" in said and "since its promotion" in said


def test_it_is_refused_as_every_strategy_is(home, made):
    code, said = carnet("research", "agent", "Wave")
    assert code == 1 and "there is a strategy Wave already" in said
    file = made[0] / "strategies" / "Wave.py"  # what was promoted
    kept = file.read_text()
    file.write_text(kept.replace("strength=1.0", "strength=1.1"))
    code, said = carnet("trade", "--from", "2021-06-29", "--once")
    file.write_text(kept)
    assert code == 1 and "the code of Wave" in said and "has changed since it was promoted" in said, said
    assert carnet("strategies", "retire", "Wave", "the wave is over")[0] == 0
    code, said = carnet("trade", "--from", "2021-06-29", "--once")
    assert code == 1 and "Wave in [strategies] was retired" in said


@pytest.mark.parametrize(("words", "says"), [
    (("Deaf", "--until", "2016-12-31"), "at least 1000 are needed"),
    (("Deaf", "--symbols", "KO,TSLA"), "does not hold TSLA"),
    (("a-b",), "cannot be the name of a class"),
    (("wave",), "in capitals only"),
    (("Deaf", "--generations", "0"), "generations is"),
    (("Deaf", "--until", "31.12."), "which is no day"),
    (("Deaf", "--profile", "nowhere"), "nowhere"),
])
def test_what_cannot_be_trained_is_one_sentence_and_writes_nothing(home, words, says):
    code, said = carnet("research", "agent", *words)
    assert code == 1 and says in said and not (home / "strategies" / "Deaf.py").exists(), said


def test_a_training_goes_on_where_it_was_cut_off_and_noise_is_not_written(home):
    code, said = carnet("research", "agent", "Late", "--until", "2018-12-31", "--minutes", "0.000001")
    assert code == 1 and "has practised for 0 of 150 generations; the same command again goes on" in said, said
    chance = np.random.default_rng(1).normal(0, 0.01, (1700, 4))
    pd.DataFrame(100 * np.exp(chance.cumsum(axis=0)), waves().index, SYMBOLS).rename_axis("Date").round(6).to_csv("noise.csv")
    Path("settings.ini").write_text(SETTINGS)
    assert carnet("import", "noise.csv")[0] == 0
    code, said = carnet("research", "agent", "Late", "--until", "2018-12-31", "--generations", "30")
    assert code == 1 and "on other bars" in said, "the bars have changed since the checkpoint"
    code, said = carnet("research", "agent", "Hope", "--until", "2018-12-31", "--generations", "30")
    asked = ("strategies", "promote", "Hope", "--grid", "strength=1", "--from", "2018-01-01", "--accept", "a test")
    code, said = (code, said) if code else carnet(*asked)
    assert code == 1 and ("Hope is not written" in said or "not promoted" in said), said
    assert not jobs(Workspace(home / "data", home / "reports", None))["items"]


def test_in_a_margin_account_it_practises_with_borrow_funding_and_impact_as_the_settings_say(home):
    Path("terms.csv").write_text("symbol,kind,amount_step,price_step\nKO,perpetual,0.01,0.01\n")
    margin = "[margin]\nleverage = 1\nborrow = 0.04\nfunding = 0.0001\n[costs]\nimpact_bp = 20\n"
    Path("settings.ini").write_text(SETTINGS.replace("source = file\n", "source = file\ninstruments = terms.csv\n") + margin)
    code, said = carnet("research", "agent", "Both", "--until", "2018-12-31", "--generations", "12")
    assert ("Both.py is written" in said) == (code == 0), said
    assert ("after a fee of 0.10%, slippage of 5 basis points, borrow of 4.00% a year, funding of 0.0100% every 8 hours on KO "
            "and impact of 20 basis points for an order as large as its bar") in plain(said), said
    name = json.loads((home / "data" / "agents" / "Both" / "agent.json").read_text())["world"]
    Path("settings.ini").write_text(Path("settings.ini").read_text().replace("borrow = 0.04", "borrow = 0.05"))
    code, again = carnet("research", "agent", "Both", "--until", "2018-12-31", "--generations", "13")
    assert code == 1 and ("under other rules" in again or "there is a strategy Both already" in again), f"{name}: other costs are another world"
    code, said = carnet("do", "backtest", "strategy=MaCross", 'grid={"fast": [5], "slow": [20]}')
    assert code == 0, said
    [file] = (home / "data" / "backtests").glob("*.json")
    costs = json.loads(file.read_text())["costs"]
    assert costs["borrow"] == 0.05 and costs["funding"] == 0.0001 and costs["fees"] == 0.001, "the back-test counts the same"


def test_every_fill_is_shared_among_the_sleeves_that_wanted_it_and_the_parts_add_up_to_the_account(home):
    "Two days of the loop: each fill is shared by the rule again, in plain numbers, and command and page show what each sleeve earned and paid."
    assert carnet("trade", "--from", "2021-06-25", "--until", "2021-06-30T01:00Z")[0] == 0
    ledger = Ledger(home / "data" / "ledger.sqlite")
    wants, fills = ledger.events("paper-planted", "sleeves"), ledger.events("paper-planted", "fill")
    ledger.close()
    held, spent, paid = defaultdict(float), defaultdict(float), defaultdict(float)
    for fill in fills:
        d, told = fill.data, [w for w in wants if w.timestamp <= fill.timestamp][-1].data["wants"]
        change, symbol = float(d["amount"]) * (1 if d["side"] == "buy" else -1), d["symbol"]
        way = {k: float(told.get(k, {}).get(symbol, 0)) - held[k, symbol] for k in ("policy", "Wave", "MaCross")}
        assert change * sum(way.values()) > 0, "an order follows from what the sleeves want together"
        moved = {k: w * change / sum(way.values()) for k, w in way.items()}
        side = sum(m for m in moved.values() if m * change > 0)
        for k, m in moved.items():
            held[k, symbol] += m
            spent[k, symbol] += m * float(d["price"])
            paid[k] += float(d["fee"]) * max(m * change, 0) / (side * change)
    code, said = carnet("performance", "--json")
    assert code == 0, said
    found = json.loads(said)["contribution"]
    lines = {s["sleeve"]: s for s in found["sleeves"]}
    assert set(lines) == {"policy", "Wave", "MaCross"} and len(fills) > 4
    assert sum(s["amount"] for s in found["sleeves"]) == pytest.approx(found["total"], abs=0.005), "nothing was put in, so this is all that changed"
    last = json.loads(carnet("performance", "--json")[1])
    close = store_of(load_settings()).read(SYMBOLS, "1d")["close"].loc[:"2021-06-29"].iloc[-1]
    for k, line in lines.items():
        assert line["fees"] == pytest.approx(-paid[k], abs=0.02)
    assert last["contribution"]["sleeves"] == found["sleeves"] and close.notna().all()
    code, said = carnet("performance")
    assert code == 0 and "sleeve Wave" in said and "fees −" in said
