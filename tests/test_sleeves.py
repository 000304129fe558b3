"What is promoted trades: promoted by command, named in the settings, netted with the policy in the plan, and out again when it breaks its promise."

import html
import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from shutil import copytree

import numpy as np
import pandas as pd
import pytest
from typed import SYMBOLS, carnet, planted_settings

from trading.api.response_cache import to_json
from trading.core.errors import BadSettings, TradingError
from trading.core.settings import load_settings
from trading.core.types import Plan
from trading.dashboard.components import Viewer
from trading.dashboard.screens_analysis import performance_screen
from trading.pipeline.launch import open_run
from trading.pipeline.notebook_runner import run_in_process
from trading.pipeline.run_record import STAGES, Run
from trading.pipeline.sleeves import net_targets, rule_factor, shortfalls, within_limits
from trading.portfolio.policies import RiskLevel
from trading.services.queries_analytics import optimise
from trading.services.questions import READS
from trading.services.workspace import Workspace

pytestmark = pytest.mark.xdist_group("sleeves")
SETTINGS = planted_settings("2021-06-30", forecast="window = 1300\nhorizons = 1, 5", allocate="window = 250\nevery = 63\nrisk_level = very high")
MINE = """from trading.backtest.strategies import SymbolStrategy


class Trend(SymbolStrategy):
    def __init__(self, n=5):
        self.n = n

    def position(self, one):
        return (one['close'].diff(self.n) > 0).to_numpy().astype('int8')
"""
NO_VIEWS = pd.DataFrame({"expected": []}, index=pd.MultiIndex.from_arrays([[], []], names=["symbol", "horizon"]))


def planted(bars=1900, turn=1690) -> pd.DataFrame:
    "Prices that trend for sixty days, and from one day on turn back whenever they begin to."
    chance = np.random.default_rng(5)
    drift = np.repeat(chance.choice([-1, 1], (bars // 30 + 1, 4)), 30, axis=0)[:bars] * 0.003
    drift[turn:] = np.tile(np.repeat([[0.012], [-0.012]], 4, axis=0), (bars, 4))[: bars - turn]
    noise = chance.normal(0, np.where(np.arange(bars) < turn, 0.01, 0.003)[:, None], (bars, 4))
    days = pd.date_range("2015-01-01", periods=bars, freq="B")
    return pd.DataFrame(100 * np.exp(np.cumsum(drift + noise, axis=0)), days, SYMBOLS)


@pytest.fixture(scope="module")
def promoted(tmp_path_factory):
    "A folder with imported prices and two promoted strategies: one that comes with Carnet, one in a file."
    home = tmp_path_factory.mktemp("promoted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("CARNET_RUN__DATA", "data")
        (home / "settings.ini").write_text(SETTINGS)
        planted().rename_axis("Date").round(6).to_csv(home / "closes.csv")
        (home / "trend.py").write_text(MINE)
        assert carnet("import", "closes.csv")[0] == 0
        for asked in (("MaCross", "--grid", "fast=3,5", "--grid", "slow=15,20"), ("trend.py", "--grid", "n=4,8", "--name", "mine")):
            code, said = carnet("strategies", "promote", *asked, "--to", "2021-06-24")
            assert code == 0 and "promoted" in said, said
    return home


@pytest.fixture
def home(promoted, tmp_path, monkeypatch):
    copytree(promoted, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARNET_RUN__DATA", "data")
    monkeypatch.setenv("CARNET_RUN__REPORTS", "reports")
    return tmp_path


def trade(*lines: str) -> None:
    Path("settings.ini").write_text(SETTINGS + "[strategies]\n" + "\n".join(lines) + "\n")


def test_a_promoted_strategy_is_in_the_plan_beside_the_policy_and_the_query_agrees(home):
    trade("MaCross = 0.4", "sixty forty = 0.2, KO 0.6, Energy 0.4")
    settings = load_settings()
    run = run_in_process(open_run(settings, datetime.now(UTC)))
    parts, targets, plan = run.read("sleeve_weights"), run.read("weights")["target"], run.read("plan", Plan)
    assert list(parts) == ["policy", "MaCross", "sixty forty", "limits"] and np.allclose(parts.sum(axis=1), targets, atol=1e-12)
    assert parts.loc["KO", "sixty forty"] == pytest.approx(0.12) and parts.loc["XOM", "sixty forty"] == pytest.approx(0.08) and targets.max() <= 0.4
    close, evidence = planted().loc[:"2021-06-30"], json.loads(carnet("strategies", "show", "MaCross")[1])
    fast, slow = (close.rolling(evidence["params"][k]).mean().iloc[-1] for k in ("fast", "slow"))
    up = fast > slow  # by hand: long while the fast mean is above the slow one
    assert run.record.model_versions["strategy MaCross"] == evidence["seal"]
    assert (parts["MaCross"] > 0).to_dict() == up.to_dict() and 0 < parts["MaCross"].sum() <= 0.4 + 1e-9
    bought = {a.symbol: float(a.amount * a.price) / 100_000 for a in plan.actions}
    assert all(bought[s] == pytest.approx(targets[s], abs=0.02) for s in targets.index if targets[s] > 0.03)
    asked = {i["symbol"]: i["weight"] for i in optimise(Workspace(Path("data"), Path("reports"), Path("settings.ini")))["items"]}
    assert asked == pytest.approx(targets.to_dict(), abs=1e-12)
    held = parts["MaCross"].idxmax()
    assert f"MaCross {parts.loc[held, 'MaCross']:+.1%}" in run.read("weights")["reason"][held]
    page = (run.folder / "index.html").read_text()
    assert "Sleeves against their promises" in page and "MaCross: 4 bars since its promotion" in page


def test_the_report_of_the_day_says_what_asset_group_and_sleeve_made_of_the_change_to_the_cent(home):
    trade("MaCross = 0.4", "sixty forty = 0.2, KO 0.6, Energy 0.4")
    for day in ("2021-06-29", "2021-06-30"):
        code, said = carnet("run", "--as-of", day)
        assert code == 0, said
    run = Run(next(f for f in sorted(Path("reports").glob("*/")) if f.name.startswith("2021-06-30")))
    marks, change, items = run.read("equity")["equity"], run.read("contribution"), {}
    page = (run.folder / "index.html").read_text()
    section = page[page.index('id="contribution"') :].split("<section")[0]
    for title in ("By asset", "By group", "By sleeve"):
        table = section[section.index(title) :].split("</table>")[0]
        cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in table.split("<tr")[2:]]
        rows = [[html.unescape(re.sub("<[^>]+>", "", cell)).strip() for cell in row] for row in cells]
        cents = [Decimal(row[-1].replace(",", "").replace("−", "-")) for row in rows]
        items[title] = dict(zip([row[0] for row in rows], cents, strict=True))
        assert rows[-1][0] == "Change of the account" and sum(cents[:-1]) == cents[-1]
        assert cents[-1] == Decimal(f"{marks.iloc[-1] - marks.iloc[-2]:.2f}"), "the value now less the value before"
    assert {"KO", "Fees"} <= set(items["By asset"]) and "Energy" in items["By group"]
    assert {"policy", "MaCross", "sixty forty"} <= set(items["By sleeve"])
    told = {s["sleeve"]: s["amount"] for s in change["sleeves"]}
    asked = json.loads(carnet("performance", "--since", f"{marks.index[-2] - pd.Timedelta(days=1):%Y-%m-%d}", "--json")[1])["contribution"]
    assert {s["sleeve"]: s["amount"] for s in asked["sleeves"]} == told and asked["items"] == change["items"], "command and report say the same"


def test_the_size_of_a_line_reaches_the_plan_and_is_that_of_the_backtest(home):
    from trading.backtest.engine import backtest
    from trading.backtest.strategies import MaCross

    trade("MaCross = 0.4, fraction 0.1", "[sizing]", "volatility = 0.05")
    run = run_in_process(open_run(load_settings(), datetime.now(UTC)))
    evidence = json.loads(carnet("strategies", "show", "MaCross")[1])
    bars = pd.concat({"close": planted().round(6).tz_localize("UTC").loc["2015":"2021-06-30"]}, axis=1)
    longer = pd.concat([bars, bars.iloc[[-1]].set_index(bars.index[-1:] + pd.Timedelta(days=1))])  # tomorrow opens at today's close
    costs = {"fees": 0.001, "slippage": 0.0005, "cash": 40_000, "register": False}
    done = backtest(longer, MaCross(**evidence["params"]), size=0.1, **costs)
    weight = (done.units.iloc[-1] * done.close.iloc[-1] / done.equity.iloc[-1] * 0.4).rename(None)
    parts, plan = run.read("sleeve_weights")["MaCross"], run.read("plan", Plan)
    assert parts.to_dict() == pytest.approx(weight.to_dict(), abs=1e-9) and 0 < parts.sum() <= 4 * 0.045
    for a in plan.actions:
        if a.side == "buy":
            assert float(a.amount * a.price) <= run.read("weights")["target"][a.symbol] * 100_000 + 1e-6, "whole steps are rounded down"
    assert "10.0\u00a0% of its capital in each position" in (run.folder / "index.html").read_text()
    trade("MaCross = 0.4, risk_per_trade 0.01")
    with pytest.raises(TradingError, match="has no stop"):
        open_run(load_settings(), datetime.now(UTC))


def test_what_is_promoted_under_the_settings_has_their_sizes_and_stops(home):
    Path("settings.ini").write_text(SETTINGS + "[protection]\nstop_loss = 0.2\ntime_stop = 30d\n[sizing]\nvolatility = 0.2\nwindow = 30\n")
    carnet("strategies", "promote", "Donchian", "--grid", "entry=10,20", "--to", "2021-06-24")
    told = json.loads(carnet("strategies", "show", "Donchian")[1])
    assert told["stops"] == {"stop_loss": 0.2, "time_stop": "2592000s", "volatility": 0.2, "volatility_window": 30, "size_cap": 1.0}
    assert told["sized"] == {"volatility": 0.2}
    carnet("strategies", "promote", "TargetWeights", "--grid", "every=month", "--to", "2021-06-24")
    told = json.loads(carnet("strategies", "show", "TargetWeights")[1])
    assert told["stops"] == {} and told["sized"] == "itself"


def test_terminal_service_and_page_compare_what_trades_with_what_was_promised(home):
    trade("MaCross = 0.4", "momentum = 0.1")
    place = Workspace(Path("data").resolve(), Path("reports").resolve(), Path("settings.ini").resolve())
    told = json.loads(carnet("strategies", "compare", "--json")[1])
    items = {i["name"]: i for i in told["items"]}
    assert set(items) == {"MaCross", "mine", "momentum"} and told["policy"] == pytest.approx(0.5)
    assert items["MaCross"]["share"] == 0.4 and items["mine"]["share"] == 0 and items["mine"]["bars"] == items["MaCross"]["bars"] > 150
    fallen = items["MaCross"]
    assert fallen["factor"] == fallen["traded"] == 0 and fallen["live"]["mean"] < 0 < fallen["promised"]["mean"]
    assert "nothing was promised by a policy" in items["momentum"]["text"]
    route = next(r for r in READS["strategies"] if r.path == "/strategies/compare")
    assert json.loads(to_json(route.view(place))) == told
    shown = next(s for s in performance_screen(place, Viewer("ann", "viewer", "planted")) if s.key == "sleeves")
    assert "MaCross" in str(shown.parts) and "taken away" in str(shown.parts)
    said = carnet("strategies", "compare")[1]
    assert "share 40.0\u00a0%, trades 0.0\u00a0%" in said and "the policy has 50.0\u00a0% of the capital" in said
    assert carnet("strategies", "retire", "mine", "no more")[0] == 0
    assert "was retired" in next(i["text"] for i in json.loads(carnet("strategies", "compare", "--json")[1])["items"] if i["name"] == "mine")


def test_what_each_sleeve_earned_is_its_weight_times_the_move_to_the_next_run(home):
    trade("sixty forty = 1, KO 0.3, XOM 0.2")
    for day in ("2021-06-25", "2021-06-30"):
        run = run_in_process(open_run(load_settings(), datetime.now(UTC), day), STAGES[:1])
        run.write("sleeve_weights", pd.DataFrame({"policy": 0.0, "sixty forty": [0.3, 0.2]}, pd.Index(["KO", "XOM"], name="symbol")))
    close = planted()
    move = close.loc["2021-06-30"] / close.loc["2021-06-25"] - 1
    told = json.loads(carnet("strategies", "compare", "--json")[1])
    assert told["runs"] == 2 and told["earned"]["sixty forty"] == pytest.approx(0.3 * move["KO"] + 0.2 * move["XOM"], abs=1e-6)


def test_what_is_not_what_was_promoted_is_refused_before_anything_is_fetched(home):
    def refused() -> str:
        with pytest.raises(TradingError) as said:
            open_run(load_settings(), datetime.now(UTC))
        assert not list(Path("reports").glob("*/run.json"))
        return str(said.value)

    trade("mine = 0.3")
    Path("trend.py").unlink()  # of this folder; the one that was promoted stands in another
    open_run(load_settings(), datetime.now(UTC))
    for made in Path("reports").glob("*/run.json"):
        made.unlink()
    trade("Donchian = 0.3")
    assert "Donchian in [strategies] was never promoted" in refused()
    trade("macros = 0.3")
    assert "did you mean 'MaCross'" in refused()
    assert carnet("strategies", "retire", "MaCross", "the trend ended")[0] == 0
    trade("MaCross = 0.3")
    assert "was retired on" in (said := refused()) and "the trend ended" in said
    Path("settings.ini").write_text(SETTINGS.replace("KO, XOM, GE, PFE", "KO, XOM, GE") + "[strategies]\nmine = 0.3\n")
    assert "was promoted on PFE, which the profile planted does not hold" in refused()
    for lines, what in (
        (("mine = 0.7", "momentum = 0.4"), "add up to 1.1; at most 1"), (("mine = much",), "write the share of the capital first"),
        (("mine = 1.5",), "less than or equal to 1"),
    ):
        trade(*lines)
        with pytest.raises(BadSettings, match=what):
            load_settings()


def test_changed_code_is_refused_and_a_remark_is_not(home):
    assert carnet("strategies", "promote", "trend.py", "--grid", "n=4,8", "--name", "here", "--to", "2021-06-24")[0] == 0
    trade("here = 0.3")
    Path("trend.py").write_text("# a remark\n" + MINE)
    open_run(load_settings(), datetime.now(UTC))
    Path("trend.py").write_text(MINE.replace("> 0", "< 0"))
    with pytest.raises(TradingError, match="the code of here .* has changed since it was promoted; promote it again, or restore the code"):
        open_run(load_settings(), datetime.now(UTC))


def test_a_broken_promise_halves_the_share_then_takes_it_away_and_it_does_not_come_back(home):
    trade("MaCross = 0.4")
    settings, bars = load_settings(), pd.concat({"close": planted().tz_localize("UTC")}, axis=1)
    told = {n: net_targets(settings, bars.iloc[: 1690 + n], NO_VIEWS, None) for n in (15, 60, 130, 200)}
    records = [t.records[0] for t in told.values()]
    factors = [r["factor"] for r in records]
    assert records[0]["live"] is None and factors[-1] == 0 and factors == sorted(factors, reverse=True)
    assert "is taken away and stays in cash until it is promoted again" in records[-1]["text"] and (told[200].parts["MaCross"] == 0).all()
    assert told[200].table["target"].sum() <= told[200].parts["policy"].sum() + 1e-9 <= 0.6 + 1e-9  # its money is nobody's
    for rule, factor in (("none", 1), ("retire", 0)):
        other = settings.model_copy(update={"allocate": settings.allocate.model_copy(update={"sleeve_rule": rule})})
        assert net_targets(other, bars.iloc[:1890], NO_VIEWS, None).records[0]["factor"] == factor


def test_the_shortfall_is_that_of_a_hand_calculation_and_checked_every_21_bars():
    days = pd.date_range("2024-01-01", periods=43, freq="D", tz="UTC")
    live = pd.Series(np.resize([0.01, -0.02], 43), days)
    found = shortfalls(live, {"mean": 0.002, "std": 0.001})
    assert list(found.index) == [days[20], days[41]]
    assert found.iloc[1] == pytest.approx((0.001 - -0.005) / (0.0151825 / 42**0.5), rel=1e-4)  # std of 21 × 1 % and 21 × -2 %, by a pocket calculator
    assert [rule_factor("halve", z) for z in (1.99, 2.0, 2.99, 3.0)] == [1, 0.5, 0.5, 0]


def test_shorts_are_netted_first_and_limits_hold_for_the_sum():
    level = RiskLevel("x", 0.30, 0.2, 0.5, 0.05, {"Energy": 0.35})
    wanted = pd.Series({"KO": 0.25 - 0.10, "XOM": 0.30, "CVX": 0.20, "GE": -0.05, "PFE": 0.45})
    kept, notes = within_limits(wanted, level, {"XOM": "Energy", "CVX": "Energy"})
    assert kept.to_dict() == pytest.approx({"KO": 0.15, "XOM": 0.21, "CVX": 0.14, "GE": 0.0, "PFE": 0.30})
    assert [n.split(":")[0][:20] for n in notes] == ["the sleeves together", "PFE", "Energy"]
