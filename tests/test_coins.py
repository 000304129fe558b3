"A run on a market of coins: what a person decided about groups is what it trades by, it keeps that, and it keeps the cycle's version."

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trading.core.bars import bars_from
from trading.core.errors import BadInput
from trading.core.instruments import Instrument
from trading.core.settings import gather_settings, load_settings
from trading.data.delta_store import BarStore
from trading.execution.plan import PlanConstraints, make_plan
from trading.features.cycle_score import CycleScore
from trading.pipeline.factory import groups_of, risk_limits
from trading.pipeline.launch import open_run, settings_of
from trading.pipeline.notebook_runner import run_in_process
from trading.pipeline.run_compare import compare_runs, open_reproduction
from trading.services.queries_system import decide, taxonomy
from trading.services.workspace import Workspace

pytestmark = pytest.mark.xdist_group("coins")  # one worker: what they share is made once

NOW = datetime(2023, 6, 1, 1, tzinfo=UTC)
COINS = {"BTC/USD": 20_000, "ETH/USD": 1_500, "ADA/USD": 0.4, "DOGE/USD": 0.1}
SMALL = {"market.symbols": ", ".join(COINS), "market.start": "2020-01-01", "forecast.window": "1200", "allocate.window": "252",
         "allocate.every": "365"}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Workspace:
    "A store with four coins, drawn at random."
    home = tmp_path_factory.mktemp("coins")
    rng, days = np.random.default_rng(5), pd.date_range("2020-01-01", "2023-05-31", tz="UTC")
    frames = {}
    for symbol, price in COINS.items():
        close = pd.Series(price * np.exp(np.cumsum(rng.normal(0, 0.03, len(days)))), days)
        frames[symbol] = pd.DataFrame({"open": close, "high": close * 1.01, "low": close * 0.99, "close": close, "volume": 1e6})
    BarStore(home / "data" / "bars").upsert(bars_from(frames), "1d", "kraken")
    return Workspace(home / "data", home / "reports")


def settings_at(place: Workspace, **more):
    places = {"run.data": place.data, "run.reports": place.reports}
    return load_settings("crypto", SMALL | places | {k.replace("__", "."): v for k, v in more.items()}, environ={})


def allocate(place: Workspace, settings):
    "Do the stages of a run that decide, on what the store has."
    run = open_run(settings, NOW, "2023-05-31")
    run.pin(data_version=BarStore(place.data / "bars").versions()["version"].iloc[-1])
    return run_in_process(run, ("20_forecast", "30_allocate"))


def test_a_decision_changes_the_next_run_and_a_run_keeps_what_it_was_made_with(place):
    before = allocate(place, settings_at(place))
    assert groups_of(settings_of(before))["DOGE/USD"] == "Memecoins"
    assert before.read("weights")["target"]["DOGE/USD"] <= risk_limits(settings_of(before)).group_weights["Memecoins"] + 1e-9

    decide(place, "overrides", "DOGE", "L1/L0 majors")
    after = allocate(place, settings_at(place, allocate__cycle="signals-v2"))
    assert groups_of(settings_of(after))["DOGE/USD"] == "L1/L0 majors"
    assert after.read("weights")["target"]["DOGE/USD"] > 2 * before.read("weights")["target"]["DOGE/USD"]
    assert after.record.settings["taxonomy"] == {"DOGE": "L1/L0 majors"} and after.record.settings_hash != before.record.settings_hash
    prices = {s: Decimal(p) if isinstance(p, int) else Decimal(repr(p)) for s, p in COINS.items()}
    targets = after.read("weights")["target"]
    plan = make_plan("paper-crypto", NOW, {}, Decimal(100_000), targets[targets > 0], prices,
                     {s: Instrument(s, Decimal("0.00000001"), Decimal("0.00000001")) for s in COINS},
                     PlanConstraints(fee_rate=Decimal(0), min_trade=Decimal(1)), "USD", after.record.data_version, after.record.settings_hash,
                     after.record.model_versions, groups=groups_of(settings_of(after)))
    assert {a.symbol: a.group for a in plan.actions}["DOGE/USD"] == "L1/L0 majors"

    found = after.read("cycle")  # the version is kept with the plan, for high means something else in each
    assert CycleScore.from_json(json.dumps(found["score"])).version == "signals-v2" and found["note"] in after.read("allocation")["notes"]
    assert plan.model_versions["cycle_score"] == "signals-v2, high = euphoria" and "numbers are not compared" in compare_runs(before, after)[-1]

    decide(place, "overrides", "DOGE", None)  # taken back: the page and the next run forget it, the run that was made with it does not
    assert "taxonomy" not in {k.split(".")[0] for k in gather_settings("crypto", {"run.data": place.data}, environ={})[1]}
    again = open_reproduction(after, place.reports, NOW)
    assert groups_of(settings_of(again))["DOGE/USD"] == "L1/L0 majors"


def test_an_alias_and_a_group_from_the_page_are_settings_like_others(place):
    decide(place, "aliases", "WHO", "LDO")
    found, stand = gather_settings("crypto", {"run.data": place.data, "market.symbols": "BTC/USD, WHO/USD", "taxonomy.BTC": "Others"}, environ={})
    groups = groups_of(found)
    assert (groups["BTC/USD"], groups["WHO/USD"]) == ("Others", "DeFi")
    assert (stand["aliases.WHO"], stand["taxonomy.BTC"]) == ("decision in taxonomy.json", "command line")
    assert [i["group"] for i in taxonomy(place, "crypto", ("WHO/USD",))["items"]] == ["DeFi"]
    file = Path(place.data / "taxonomy.json")
    kept = file.read_text()
    file.write_text("{")
    with pytest.raises(BadInput, match="taxonomy.json cannot be read"):
        settings_at(place)
    file.write_text(kept)
    decide(place, "aliases", "WHO", None)
