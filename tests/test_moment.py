"A run on a market that is alive: all stages read the prices of one moment, questions are asked ahead, calls are written down."

import time
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from loopback import HereKernel, make_bars, market, write_settings
from waiting import wait_until

from trading.core.settings import load_settings
from trading.core.types import Plan
from trading.pipeline.factory import market_source
from trading.pipeline.launch import open_run
from trading.pipeline.notebook_runner import run_stage
from trading.pipeline.price_snapshot import PriceSnapshot, begin_stage, take_price_snapshot
from trading.pipeline.run_compare import compare_numbers, open_reproduction
from trading.pipeline.run_record import STAGES
from trading.venues.access.monitor import connection_statistics

pytestmark = pytest.mark.xdist_group("live")
NOW = lambda: datetime.now(UTC)  # noqa: E731


def test_all_stages_read_one_moment_and_orders_the_present(tmp_path, monkeypatch):
    bars, kernel, shift = make_bars(860), HereKernel(), [0.0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("CARNET_RUN__DATA", raising=False)
    with market(bars) as place:
        write_settings(tmp_path, place.url, bars)
        settings = load_settings(overrides={"run.mode": "paper"})
        door = market_source(settings).door
        door.clock = lambda: time.time() + shift[0]
        tickers = lambda: sum("24hr" in path or "ticker" in path for _, path in place.requests)  # noqa: E731

        def carry_out(run, *stages):
            for stage in stages:
                run_stage(run, stage, kernel)

        def later(factor):
            "A minute passes, and prices move."
            shift[0] += 60
            place.prices = {s: p * Decimal(factor) for s, p in place.prices.items()}

        later("1.01")
        run, first = open_run(settings, NOW()), dict(place.prices)
        carry_out(run, STAGES[0])
        assert tickers() == 1 and run.read("snapshot", PriceSnapshot).prices == first
        closes = {s: Decimal(repr(float(p))) for s, p in bars["close"].iloc[-1].items()}
        later("1.01")
        carry_out(run, STAGES[1], STAGES[2])
        assert tickers() == 1
        carry_out(run, STAGES[3])
        plan, filled = run.read("plan", Plan), run.read("orders").set_index("symbol")
        assert plan.actions and tickers() == 2  # the paper exchange asks for the price of that minute
        assert all(a.price == first[a.symbol] != closes[a.symbol] for a in plan.actions)
        assert ((filled["price_filled"] / filled["price_planned"] - 1.01).abs() < 2e-3).all()
        assert not run.read("verdict")["violations"]

        later("1.30")  # resumed: the pinned prices, whatever the market does
        run.restart(STAGES[2])
        carry_out(run, STAGES[2])
        assert run.read("snapshot", PriceSnapshot).prices == first and "snapshot.json" in run.record.artefacts
        assert not any("since its last close" in n for n in run.read("allocation")["notes"])

        again = open_reproduction(run, run.folder.parent, NOW())
        place.requests.clear()
        carry_out(again, STAGES[0])
        for name in ("weights", "decisions"):
            again.write(name, run.read(name))
        again.pin(model_versions=run.record.model_versions)
        carry_out(again, STAGES[3])
        assert again.read("snapshot", PriceSnapshot) == run.read("snapshot", PriceSnapshot) and again.read("plan", Plan) == plan
        assert [d for d in compare_numbers(run, again) if d.split(":")[0] in ("snapshot", "plan", "verdict")] == []
        assert not [path for _, path in place.requests if "klines" in path]

        shift[0] += 60
        second = open_run(settings, NOW())
        begin_stage(second, STAGES[0])
        moved = take_price_snapshot(second, NOW())
        assert moved.prices == place.prices != first
        begin_stage(second, STAGES[1])
        later("1.01")
        before = tickers()
        assert begin_stage(second, STAGES[2]) == len(first)  # what the trading stage asked in the run before
        wait_until(lambda: tickers() > before)
        time.sleep(0.05)
        begin_stage(second, STAGES[3])
        assert market_source(settings).fetch_tickers(settings.market.symbols) == place.prices and tickers() == before + 1

        door.tell()  # adds what was saved since the last minute
        door.monitor.close()
        seen = connection_statistics(settings.run.data)["binance"]
        asked = door.statistics
        assert seen["failed"] == 0 and seen["calls"] >= 4 + tickers() and 0 < seen["p50_s"] <= seen["p99_s"] and seen["uptime"] == 1.0
        assert (seen["hits"], seen["asked"]) == (asked.hits, asked.asked) and asked.hits > 0
        assert seen["saved_calls"] == seen["asked"] - seen["called"]
