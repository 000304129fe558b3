"Short and borrowed positions: paper exchange and backtest are one model; a long-short profile trades, pays, closes, and is refused."

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from typed import carnet_at

from trading.accounting.ledger import Ledger
from trading.backtest.engine import backtest
from trading.core.datasets import sample_bars
from trading.core.errors import BadInput, BadSettings, Refused
from trading.core.instruments import Instrument
from trading.core.margin import MarginTerms
from trading.core.settings import load_settings
from trading.core.types import Order
from trading.dashboard import screens_trading as screens
from trading.pipeline.account import open_live_account
from trading.pipeline.factory import policy_of
from trading.pipeline.replay import PARTS, World, take_decision
from trading.pipeline.steps import forecast_step
from trading.pipeline.trade_steps import trade_step
from trading.report.risk_sections import RiskContext, margin_parts
from trading.services import exports
from trading.venues.paper.costs import TradingCosts
from trading.venues.paper.margin_exchange import MarginVenue
from trading.venues.paper.matching import BarFeed

pytestmark = pytest.mark.xdist_group("margin")  # one worker: what they share is made once


def market(seed, count=70, swing=0.04):
    "Three symbols with gaps over night; every row has all of them."
    dice, days = np.random.default_rng(seed), pd.date_range("2024-01-01", periods=count, tz="UTC")
    close = pd.DataFrame(100 * np.exp(np.cumsum(dice.normal(0, swing, (count, 3)), 0)), days, list("ABC"))
    begin = close.shift().fillna(100) * np.exp(dice.normal(0, swing / 4, (count, 3)))
    top, floor = np.maximum(begin, close) * (1 + swing / 4), np.minimum(begin, close) * (1 - swing / 4)
    return pd.concat({"open": begin, "high": top, "low": floor, "close": close}, axis=1).round(6)


def wishes(bars, seed, gross, every=8):
    dice = np.random.default_rng(seed)
    rows = pd.DataFrame(dice.normal(0, 1, (len(bars) // every, 3)), bars.index[::every][: len(bars) // every], list("ABC"))
    return rows.div(rows.abs().sum(axis=1), axis=0) * gross


def replayed(bars, orders, terms, cash, fee="0.001", slippage_bp="5"):
    "Send the orders of a backtest to the paper exchange, each at the close before its fill; return the value at each close, and the exchange."
    now = [bars.index[0].to_pydatetime()]
    markets = {s: Instrument(s, D("1e-12"), D("1e-12"), kind="perpetual" if s == "B" else "spot") for s in "ABC"}
    costs = TradingCosts(D(fee), D(0), D(slippage_bp))
    paper = MarginVenue(BarFeed(bars), lambda: now[0], markets, costs, {"USD": D(cash)}, "USD", terms=terms)
    value, ours = [], orders[~orders["reason"].isin(["liquidation"])]
    for n, when in enumerate(bars.index):
        now[0] = (when + pd.Timedelta(days=1)).to_pydatetime()
        held = paper.fetch_balance()
        value.append(float(held.pop("USD", 0)) + sum(float(u) * bars["close"][s].iloc[n] for s, u in held.items()))
        if n + 1 < len(bars):
            due = list(ours[ours["timestamp"] == bars.index[n + 1]].itertuples())
            opens = [float(held.get(row.symbol, 0)) * (1 if row.side == "buy" else -1) >= 0 for row in due]
            for k, row in sorted(enumerate(due), key=lambda o: opens[o[0]]):  # noqa: B023  what closes comes first
                state = paper.create_order(Order(f"{n}-{k}", row.symbol, row.side, D(repr(float(row.amount))).quantize(D("1e-12"))))
                assert state.status == "closed", state
    return pd.Series(value, bars.index), paper


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_paper_and_backtest_agree_on_costs_of_holding_and_on_every_close(seed):
    bars = market(seed, swing=0.01)
    funded = pd.DataFrame(0.0003, bars.index, ["B"])  # a payment at each midnight
    weights, costs = wishes(bars, seed, 1.3), {"fees": 0.001, "slippage": 0.0005, "cash": 10_000, "leverage": 2}
    done = backtest(bars, weights=weights, borrow=0.05, interest=0.03, swap_long=0.02, swap_short=-0.01, funding=funded, **costs)
    terms = MarginTerms(leverage=D(2), borrow=D("0.05"), interest=D("0.03"), swap_long=D("0.02"), swap_short=D("-0.01"),
                        funding=D("0.0003"), funding_hours=24)
    value, paper = replayed(bars, done.orders, terms, 10_000)
    np.testing.assert_allclose(value, done.equity, rtol=1e-9)
    paid = paper.fetch_activity(datetime(2020, 1, 1, tzinfo=UTC))
    assert {e.kind for e in paid} == {"interest", "swap", "funding"} and {e.data["symbol"] for e in paid if e.kind == "funding"} == {"B"}
    assert "autoclose" not in "".join(f.client_order_id for f in paper.fetch_my_trades())


@pytest.mark.parametrize("seed", [4, 5, 6])
@pytest.mark.filterwarnings("ignore:the margin was used up")
def test_paper_and_backtest_are_liquidated_in_the_same_bar_at_the_same_prices(seed):
    bars = market(seed, swing=0.08)
    weights = wishes(bars, seed, 2.9).iloc[:1]
    done = backtest(bars, weights=weights, fees=0.001, slippage=0.0005, cash=10_000, leverage=3, maintenance=0.2, borrow=0.05)
    forced = done.orders[done.orders["reason"] == "liquidation"].sort_values("symbol")
    assert len(forced) == 3, "the case is about a liquidation"
    value, paper = replayed(bars, done.orders, MarginTerms(leverage=D(3), maintenance=D("0.2"), borrow=D("0.05")), 10_000)
    found = sorted((f for f in paper.fetch_my_trades() if f.client_order_id.startswith("autoclose-")), key=lambda f: f.symbol)
    assert [f.symbol for f in found] == forced["symbol"].tolist() and [f.side for f in found] == forced["side"].tolist()
    assert {f.timestamp for f in found} == set(forced["timestamp"].dt.to_pydatetime())
    np.testing.assert_allclose([float(f.price) for f in found], forced["price"], rtol=1e-9)
    np.testing.assert_allclose(value, done.equity, rtol=1e-9)


# a profile of the samples


SETTINGS = {"allocate.policy": "long short", "allocate.risk_level": "very high", "limits.max_leverage": "1.5", "limits.max_weight": "0.4",
            "limits.max_group_weight": "1",
            "limits.max_net": "0.5", "limits.max_turnover": "3", "margin.leverage": "2", "margin.borrow": "0.05", "market.files": "no"}
LATER = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture(scope="module")
def etfs():
    return sample_bars("etfs").loc["2013-01-01":]


def world(home, bars, **more):
    settings = load_settings("sample-etfs", SETTINGS | {"run.data": str(home), "run.reports": str(home / "reports")} | more, environ={})
    return World(settings, bars, BarFeed(bars, "1d"), lambda when: "v1", "forecasts")


def decide(there, day, **wanted):
    "Decide at a close: what the policy wants, or these weights."
    when = pd.Timestamp(day, tz="UTC").to_pydatetime() + timedelta(days=1)
    if not wanted:
        return take_decision(there, when, LATER)
    run = there.open(when, LATER)
    forecast_step(run, LATER, there.kept, PARTS["forecasts"])
    targets = pd.Series({s: float(wanted.get(s, 0)) for s in there.settings.market.symbols})
    run.write("weights", pd.DataFrame({"target": targets, "reason": "by hand"}).rename_axis("symbol"))
    return run, trade_step(run, LATER)


def test_a_long_short_profile_trades_pays_borrow_and_closes_a_short_with_a_reduce_only_order(etfs, tmp_path, monkeypatch):
    there = world(tmp_path, etfs)
    run, first = decide(there, "2015-12-10")
    targets = run.read("weights")["target"]
    assert (targets > 0).any() and (targets < 0).any() and targets.abs().sum() <= 1.5 and abs(targets.sum()) <= 0.5
    assert first.verdict.ok and {"initial_margin", "maintenance_margin", "min_liquidation_distance", "max_net"} <= set(first.verdict.checked)
    held = first.recorded.after.positions
    assert set(held) == set(targets.index[targets != 0]) and all((p.amount > 0) == (targets[s] > 0) for s, p in held.items())
    for symbol, weight in targets.items():
        if weight:
            assert float(held[symbol].amount * first.recorded.prices[symbol] / first.recorded.after.equity) == pytest.approx(weight, rel=0.05)

    told, values = run.read("margin"), {s: p.amount * first.recorded.prices[s] for s, p in held.items()}
    assert D(told["gross"]) == sum(map(abs, values.values())) and D(told["net"]) == sum(values.values())
    assert D(told["initial"]) == D(told["gross"]) / 2 and D(told["distance"]) > D("0.3")
    assert set(told["liquidation"]) >= {s for s in held if targets[s] < 0}
    facts = dict(margin_parts(RiskContext(margin=told), "USD")[0][1])
    assert facts["Margin used"].endswith("2 times the equity may be held") and facts["Distance to liquidation"].startswith("prices that go")

    shorts = [s for s in targets.index if targets[s] < 0]
    kept = {s: float(held[s].amount * first.recorded.prices[s] / first.recorded.after.equity) for s in held if s != shorts[0]}
    run, second = decide(world(tmp_path, etfs, **{"limits.max_net": "1"}), "2015-12-18", **kept)  # seven days of borrow later
    assert second.verdict.ok, second.verdict.violations
    ledger = Ledger(tmp_path / "ledger.sqlite")
    paid = ledger.events("paper-sample-etfs", "interest")
    assert {e.data["symbol"] for e in paid} == set(shorts) and all(D(e.data["amount"]) < 0 for e in paid)
    sold = {s: held[s] for s in shorts}
    opens = etfs["open"].loc["2015-12-14":"2015-12-18"].mean()  # seven days, from the fill to the last open before this close
    about = sum(-float(p.amount) * opens[s] for s, p in sold.items()) * 0.05 * 7 / 365.25
    assert -float(sum(D(e.data["amount"]) for e in paid)) == pytest.approx(about, rel=0.02)
    orders = [e.data for e in ledger.events("paper-sample-etfs", "intent") if e.data["plan"] == second.plan.hash]
    closing = next(o for o in orders if o["symbol"] == shorts[0])
    assert (closing["side"], closing["reduce_only"], D(closing["amount"])) == ("buy", True, -held[shorts[0]].amount)
    assert all("reduce_only" not in o or o["side"] == "buy" for o in orders), "only what takes a short towards zero says so"
    assert shorts[0] not in second.recorded.after.positions and shorts[0] not in ledger.positions("paper-sample-etfs")
    book = ledger.book("paper-sample-etfs")
    assert book.income == sum(D(e.data["amount"]) for e in paid) and book.realised_by[shorts[0]] != 0
    ledger.close()
    place = SimpleNamespace(data=tmp_path)
    monkeypatch.setattr(exports, "current_settings", lambda *given: there.settings)
    monkeypatch.setattr(exports, "ledger_for_reading", lambda place: Ledger(place.data / "ledger.sqlite", readonly=True))
    lots, lacking = exports.export_accounts(place, "lots")
    closed = [line for line in lots.splitlines() if line.startswith(shorts[0])]
    assert len(closed) == 1 and "missing" not in closed[0] and not lacking, "what was covered was sold before it was bought"


def test_a_liquidation_between_two_runs_is_booked_and_told(etfs, tmp_path):
    burst = etfs.copy()
    later = burst.index >= pd.Timestamp("2015-12-15", tz="UTC")
    for field in ("open", "high", "low", "close"):
        burst.loc[later, (field, "USO")] *= 2.5  # 1.9 in cash and 0.9 owed become 2.25 owed: the account is gone, and owes the rest
    there = world(tmp_path, burst, **{"limits.max_weight": "1", "limits.max_net": "1", "limits.max_var_95": "1"})
    decide(there, "2015-12-10", USO=-0.9)
    with pytest.raises(BadInput, match="there is nothing to plan"):
        decide(there, "2015-12-16", USO=-0.5)
    ledger = Ledger(tmp_path / "ledger.sqlite")
    forced = ledger.fills("paper-sample-etfs")[-1]
    assert forced.client_order_id.startswith("autoclose-") and forced.side == "buy" and f"{forced.timestamp:%Y-%m-%d}" == "2015-12-15"
    assert ledger.positions("paper-sample-etfs") == {} and ledger.cash("paper-sample-etfs") < 0
    told = ledger.last("reconciled", "paper-sample-etfs").data
    assert told["ok"] and any("because the margin was used up" in line for line in told["mended"])
    ledger.close()


def test_what_the_margin_does_not_carry_is_refused_in_one_sentence_and_a_short_needs_a_margin_account(etfs, tmp_path):
    wide = {"margin.maintenance": "0.45", "limits.max_leverage": "2", "limits.max_weight": "1", "limits.max_var_95": "1"}
    there = world(tmp_path / "a", etfs, **wide)
    _, near = decide(there, "2015-12-10", SPY=0.5, IWM=-0.5, USO=0.5, BNO=-0.4)  # (1 - 0.45 * 1.9) / (1.9 - 0.45 * 0.1)
    said = "min_liquidation_distance after the plan: 0.07817 is below the limit of 0.1 (all prices against the account)"
    assert [v.reason for v in near.verdict.violations] == [said]
    assert near.recorded.after.positions == {} and near.traded.execution is None
    with pytest.raises(BadInput, match="the targets, longs and shorts together, are 2.2000 of the account and its margin carries 2"):
        decide(there, "2015-12-10", SPY=1, IWM=-1.2)
    plain = world(tmp_path / "b", etfs, **{"margin.leverage": None, "margin.borrow": None, "allocate.policy": "balanced"})
    with pytest.raises(BadInput, match="the target of IWM is -0.1: a plan holds no short positions"):
        decide(plain, "2015-12-10", SPY=0.5, IWM=-0.1)


@pytest.mark.parametrize(("wrong", "said"), [
    ({"margin.leverage": "0.5"}, "margin.leverage"),
    ({"margin.leverage": "4", "margin.maintenance": "0.3"}, "below the initial margin of 0.25"),
    ({"margin.borrow": "0.05"}, "borrow is set and leverage is not"),
    ({"margin.leverage": "2", "margin.funding_hours": "7"}, "hours that divide a day"),
])  # fmt: skip
def test_settings_of_a_margin_account_that_contradict_each_other_are_refused(wrong, said):
    with pytest.raises(BadSettings, match=said):
        load_settings("sample-etfs", wrong, environ={})


def test_real_orders_of_a_margin_account_are_refused_before_anything_is_asked_of_a_venue(tmp_path):
    settings = load_settings("crypto", {"margin.leverage": "2", "run.mode": "live", "run.data": str(tmp_path)}, environ={})
    record = SimpleNamespace(account="live-crypto", parameters={})
    with pytest.raises(Refused, match="margin accounts trade on paper only, real short and borrowed positions at kraken are not supported yet"):
        open_live_account(record, settings, {}, LATER)
    assert not list(tmp_path.iterdir())


def test_the_policy_needs_a_margin_account():
    settings = load_settings("sample-etfs", {"allocate.policy": "long short"}, environ={})
    with pytest.raises(BadInput, match="give the account's margin.leverage, for example 2"):
        policy_of(settings)


def test_the_page_shows_the_margin_of_an_account_that_has_one(monkeypatch):
    told = {"equity": "10000", "gross": "13000", "net": "-1000", "initial": "6500", "maintenance": "3250", "free": "3500", "distance": "0.4909",
            "leverage": "2", "liquidation": {"B": "196.43"}, "prices": {"B": "100"}, "units": {"B": "-70"}}
    item = {"symbol": "B", "section": "stocks", "group": "", "amount": -70.0, "average": 101.0, "price": 100.0, "value": -7000.0, "target": -0.7,
            "weight": -0.7, "profit": 70.0}
    found = {"account": "a", "currency": "USD", "run": "r", "as_of": "2024-05-03T00:00:00+00:00", "equity": 10000.0, "items": [item],
             "cash": {"value": 17000.0, "weight": 1.7, "target": 1.7}, "margin": told, "sections": {"stocks": [item]}}
    monkeypatch.setattr(screens, "holdings", lambda place, profile: found)
    monkeypatch.setattr(screens, "newer_quotes", lambda *given: {})
    line = {"symbol": "B", "side": "short", "units": "-70", "entry": "101", "mark": "100", "unrealised": "70", "margin": "3500", "liquidation": "106",
            "distance": "0.06"}
    near = {"source": "as mt5 reports it", "as_of": None, "currency": "USD", "equity": "10000", "margin": "3500", "free": "6500", "items": [line],
            "words": ["B is liquidated at 106"]}
    monkeypatch.setattr(screens, "margin_positions", lambda place, profile: near)
    page = {s.key: s for s in screens.holdings_screen(None, SimpleNamespace(profile=None))}
    assert "49.1" in dict(page["margin"].parts[0][1])["Distance to liquidation"]
    shown = page["positions"].html()
    assert all(words in shown for words in ("B is liquidated at 106", "6.0", "3,500", "short", "As mt5 reports it"))
    found["margin"] = None
    assert "margin" not in {s.key for s in screens.holdings_screen(None, SimpleNamespace(profile=None))}


def test_a_replay_charges_borrow_swaps_and_funding_to_the_cent(etfs, tmp_path):
    "By the command: each charge that it books is calculated again by hand from its fills and the opens; without costs nothing is charged."
    told = SETTINGS | {"market.start": "2012-01-02", "market.instruments": str(tmp_path / "own.csv"), "limits.max_var_95": "1",
                       "forecast.window": "900", "forecast.horizons": "1", "forecast.refit": "weekly",
                       "margin.swap_long": "0.02", "margin.swap_short": "0.01", "margin.funding": "0.0003"}
    (tmp_path / "own.csv").write_text("symbol,kind\nUSO,perpetual\nSPY,perpetual\n")
    env = {f"CARNET_{k.upper().replace('.', '__')}": v for k, v in told.items()}
    code, said = carnet_at(tmp_path, "replay", "--profile", "sample-etfs", "--from", "2015-12-10", "--to", "2015-12-16", "--without", "costs", **env)
    assert code == 0, said
    [folder] = (tmp_path / "reports" / "replays").glob("2015*")
    ledger = Ledger(folder / "data" / "ledger.sqlite", readonly=True)
    account = "paper-sample-etfs"
    fills, events = ledger.fills(account), [e for kind in ("interest", "swap", "funding") for e in ledger.events(account, kind)]
    ledger.close()
    booked = {(e.kind, e.data["symbol"], e.timestamp): -D(e.data["amount"]) for e in events}
    assert len(booked) == len(events) and {k for k, *_ in booked} >= {"interest", "swap"}
    opens, units, by_hand, before = etfs["open"], {}, {}, None
    for moment in etfs.loc["2015-12-10":].index[etfs.loc["2015-12-10":].index <= max(e.timestamp for e in events)]:
        for symbol, held in units.items() if before else ():
            value, days = held * D(repr(float(opens.loc[moment, symbol]))), D((moment - before).days)
            year = abs(value) * days / D("365.25")
            costs = {"interest": year * D("0.05") if held < 0 else D(0), "swap": year * (D("0.02") if held > 0 else D("0.01")),
                     "funding": value * D("0.0003") * 3 * days if symbol in ("USO", "SPY") else D(0)}
            by_hand |= {(kind, symbol, moment.to_pydatetime()): cost for kind, cost in costs.items() if held and cost}
        for f in fills:
            if f.timestamp == moment:
                units[f.symbol] = units.get(f.symbol, D(0)) + (f.amount if f.side == "buy" else -f.amount)
        before = moment if units else None
    assert set(booked) == set(by_hand), set(booked) ^ set(by_hand)
    assert all(abs(booked[k] - by_hand[k]) <= D("0.00000002") for k in booked)
    assert {"USO", "SPY"} & {symbol for kind, symbol, _ in booked if kind == "funding"} and min(units.values()) < 0
    summary = json.loads((folder / "replay.json").read_text())
    for kind, cost in summary["costs"]["holding"].items():
        assert cost == pytest.approx(float(sum(v for (k, *_), v in by_hand.items() if k == kind)), abs=0.005)
        assert f"{kind} {cost:,.2f}" in said
    assert "Holding has cost interest" in (folder / "index.html").read_text()
    free = Ledger(folder / "costs" / "data" / "ledger.sqlite", readonly=True)
    assert free.fills(account) and not [e for kind in ("interest", "swap", "funding") for e in free.events(account, kind)]
    free.close()
