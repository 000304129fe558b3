"Limits, sizes and the kill switch: every rule with its last input that passes and its first that fails."

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal as D

import numpy as np
import pandas as pd
import pytest

from trading.core.errors import BadInput, Refused
from trading.core.margin import MarginTerms
from trading.risk.kill_switch import KillSwitch
from trading.risk.limits import _RANGES, RiskLimits, check_limits, equity_balance
from trading.risk.sizing import drawdown_scale, kelly_fraction, size_position, volatility_fraction

NOON = datetime(2024, 5, 3, 12, tzinfo=UTC)
OTHERS = {"group_weights", "cash_groups", "max_price_age", "margin"}
HIGHEST = {  # the largest value that each limit may have; the smallest is 0
    "max_weight": 10, "max_group_weight": 10, "min_cash": 1, "max_leverage": 100, "max_turnover": 200, "max_concentration": 1, "max_drawdown": 1,
    "max_daily_loss": 1, "max_var_95": 1, "stop_loss": 1, "max_orders": 100_000, "max_order_value": 10**15, "max_daily_value": 10**15,
    "max_price_gap": 1, "max_net": 100, "min_liquidation_distance": 1,
}


def equity(*values, freq="D"):
    return pd.Series(values, pd.date_range("2024-05-01", periods=len(values), freq=freq, tz="UTC"), dtype=float)


# rule, limits, weights and the rest, what is measured, where; the same a little worse, which breaks the rule
TWICE = MarginTerms(leverage=D(2))
GROUPS = {"a": "g", "b": "g", "c": "h", "usd": "Stable"}
ROWS = [
    ("max_weight", {"max_weight": 0.5}, {"weights": {"a": 0.5, "b": 0.3}}, 0.5, "a", {"weights": {"a": 0.3, "b": -0.51}}, 0.51, "b"),
    ("max_weight", {"max_weight": 0.5, "cash_groups": ("Stable",)}, {"weights": {"usd": 0.9, "a": 0.1}}, 0.1, "a",
     {"weights": {"usd": 0.4, "a": 0.6}}, 0.6, "a"),
    ("max_group_weight", {"max_group_weight": 0.5}, {"weights": {"a": 0.2, "b": 0.3, "c": 0.4}}, 0.5, "g",
     {"weights": {"a": -0.2, "b": 0.32, "c": 0.4}}, 0.52, "g"),
    ("max_group_weight", {"max_group_weight": 0.5}, {"weights": {"x": 0.4, "y": 0.1, "a": 0.2}}, 0.5, "assets without a group",
     {"weights": {"x": 0.4, "y": 0.2, "a": 0.2}}, 0.6, "assets without a group"),
    ("max_group_weight", {"max_group_weight": 0.5}, {"weights": {"x": 0.3, "a": 0.3}}, 0.3, "g", {"weights": {"x": 0.3, "a": 0.6}}, 0.6, "g"),
    ("group_weights[h]", {"group_weights": {"h": 0.1}}, {"weights": {"a": 0.9, "c": 0.1}}, 0.1, "h", {"weights": {"c": 0.2}}, 0.2, "h"),
    ("max_group_weight", {"max_group_weight": 0.5}, {"weights": {"x": 0.3, "a": 0.4, "c": 0.1}}, 0.4, "g",
     {"weights": {"x": 0.55, "a": 0.5, "c": 0.1}}, 0.55, "assets without a group"),
    ("group_weights[h]", {"group_weights": {"h": 0.1}}, {"weights": {"a": 0.9}}, 0.0, "h", {"weights": {"c": -0.2}}, 0.2, "h"),
    ("min_cash", {"min_cash": 0.1}, {"weights": {"a": 0.5, "b": 0.4}}, 0.1, "cash", {"weights": {"a": 0.5, "b": 0.45}}, 0.05, "cash"),
    ("min_cash", {"min_cash": 0.3, "cash_groups": ("Stable",)}, {"weights": {"a": 0.7, "usd": 0.3}}, 0.3, "cash and Stable",
     {"weights": {"a": 0.8, "usd": 0.2}}, 0.2, "cash and Stable"),
    ("max_leverage", {"max_leverage": 1}, {"weights": {"a": 0.7, "b": -0.3}}, 1.0, "", {"weights": {"a": 0.8, "b": -0.3}}, 1.1, ""),
    ("max_leverage", {"max_leverage": 1, "cash_groups": ("Stable",)}, {"weights": {"a": 0.7, "usd": 0.3}}, 1.0, "",
     {"weights": {"a": 0.7, "usd": 0.4}}, 1.1, ""),
    ("max_concentration", {"max_concentration": 0.25}, {"weights": {"a": 0.4, "b": 0.3}}, 0.25, "", {"weights": {"a": 0.4, "b": -0.4}}, 0.32, ""),
    ("max_concentration", {"max_concentration": 0.25, "cash_groups": ("Stable",)}, {"weights": {"a": 0.5, "usd": 0.5}}, 0.25, "",
     {"weights": {"a": 0.6, "usd": 0.4}}, 0.36, ""),
    ("max_net", {"max_net": 0.4}, {"weights": {"a": 0.7, "b": -0.3}}, 0.4, "longs less shorts",
     {"weights": {"a": 0.3, "b": -0.8}}, 0.5, "longs less shorts"),
    # half is lent: (1 - 0.25 * 2) / (0.75 * 0.4 + 1.25 * 1.6), then of 0.4 and 1.7
    ("min_liquidation_distance", {"min_liquidation_distance": 0.2, "margin": TWICE}, {"weights": {"a": 0.4, "b": -1.6}}, 0.5 / 2.3,
     "all prices against the account", {"weights": {"a": 0.4, "b": -1.7}}, 0.475 / 2.425, "all prices against the account"),
    ("min_cash", {"min_cash": 0.25, "margin": TWICE}, {"weights": {"a": 0.9, "b": -0.6}}, 0.25, "free margin",
     {"weights": {"a": 0.9, "b": -0.7}}, 0.2, "free margin"),
    ("max_turnover", {"max_turnover": 0.3}, {"turnover": 0.3}, 0.3, "", {"turnover": 0.4}, 0.4, ""),
    ("max_drawdown", {"max_drawdown": 0.1}, {"equity": equity(900, 1000, 950, 900)}, 0.1, "peak balance 1,000.00",
     {"equity": equity(900, 1000, 950, 880)}, 0.12, "peak balance 1,000.00"),
    ("max_daily_loss", {"max_daily_loss": 0.1}, {"equity": equity(2000, 1000, 900)}, 0.1, "the day began with 1,000.00",
     {"equity": equity(2000, 1000, 850)}, 0.15, "the day began with 1,000.00"),
    ("stop_loss", {"stop_loss": 0.1}, {"losses": {"a": 0.1, "b": 0.05}}, 0.1, "a", {"losses": {"a": 0.05, "b": 0.15}}, 0.15, "b"),
]


@pytest.mark.parametrize("rule, limits, good, actual, where, bad, worse, there", ROWS, ids=[f"{r[0]}-{i}" for i, r in enumerate(ROWS)])
def test_every_limit_passes_at_its_value_and_fails_just_beyond(rule, limits, good, actual, where, bad, worse, there):
    limits = RiskLimits(**limits)
    for given, measured, ok, at in ((good, actual, True, where), (bad, worse, False, there)):
        table = check_limits(limits, given.get("weights", {}), GROUPS, **{k: v for k, v in given.items() if k != "weights"})
        assert list(table.index) == [rule]
        row = table.loc[rule]
        assert (row["actual"], bool(row["ok"]), row["where"]) == (pytest.approx(measured, abs=1e-12), ok, at)
        assert row["limit"] == limits.in_force().get(rule, limits.group_weights.get("h"))


def test_the_table_above_has_a_row_for_every_limit_of_the_state():
    of_orders = {"max_orders", "max_order_value", "max_daily_value", "max_price_gap"}  # held by the pre-trade checks
    assert {r[0].partition("[")[0] for r in ROWS} == set(RiskLimits.__dataclass_fields__) - of_orders - (
        OTHERS - {"group_weights"} | {"max_var_95"})


def test_a_digit_in_the_sixteenth_place_is_no_breach_and_one_in_the_eighth_is():
    for over, ok in ((1e-10, True), (1e-8, False)):
        assert check_limits(RiskLimits(max_weight=0.25), {"a": 0.25 + over})["ok"].item() == ok
        assert check_limits(RiskLimits(min_cash=0.25), {"a": 0.75 + over})["ok"].item() == ok


def test_var_needs_sixty_common_returns_of_what_is_held_and_of_nothing_else():
    days = pd.date_range("2024-01-01", periods=61, tz="UTC")
    returns = pd.DataFrame({"a": np.linspace(-0.06, 0.06, 61), "b": 0.0, "c": np.nan}, index=days)
    returns.iloc[0, 1] = np.nan
    limits = RiskLimits(max_var_95=0.04, cash_groups=("Stable",))

    def row(weights, table=returns):
        return check_limits(limits, weights, GROUPS, returns=table).loc["max_var_95", ["actual", "ok", "where"]].tolist()

    assert row({"a": 1.0}) == [pytest.approx(0.054), False, "61 returns"]
    assert row({"a": 0.5, "b": 0.5}) == [pytest.approx(0.02605), True, "60 returns"]
    few = row({"a": 0.5, "b": 0.5}, returns.iloc[:-1])
    assert np.isnan(few[0]) and few[1:] == [False, "59 common returns and at least 60 are needed"]
    assert row({"a": 1.0, "c": 0.0, "d": 0.0})[2] == "61 returns"
    assert row({"a": -1.0})[0] == pytest.approx(0.054)  # a short loses when the asset rises
    unknown = row({"a": 0.5, "d": 0.5})
    assert np.isnan(unknown[0]) and unknown[1:] == [False, "no returns were given for d"]
    assert row({"a": 0.0, "d": 0.0}) == [0.0, True, "nothing is held"] and row({}) == [0.0, True, "nothing is held"]
    assert row({"usd": 1.0, "c": 0.0}) == [0.0, True, "nothing is held"]  # what counts as cash needs no returns
    assert row({"a": 1.0}, returns.abs() + 0.01)[0] == 0.0  # bad days that gain are no loss, and no gain either


def test_what_was_not_given_is_said_for_each_limit_that_needs_it():
    limits = RiskLimits(max_turnover=1, max_drawdown=0.1, max_daily_loss=0.2, stop_loss=0.1, max_var_95=0.1)
    where = check_limits(limits, {"a": 0.5})["where"].to_dict()
    assert where == {"max_turnover": "the plan's turnover was not given", "max_drawdown": "the equity curve was not given",
                     "max_daily_loss": "the equity curve was not given", "max_var_95": "no returns were given for a",
                     "stop_loss": "the purchase prices were not given"}
    for losses, actual, at in (({}, 0.0, ""), ({"a": -0.2}, 0.0, "a")):
        row = check_limits(RiskLimits(stop_loss=0.1), {}, losses=losses).loc["stop_loss"]
        assert (row["actual"], bool(row["ok"]), row["where"]) == (actual, True, at)
    empty = check_limits(RiskLimits(max_weight=0.1, max_group_weight=0.1, min_cash=0.5, max_leverage=1, max_concentration=1), {})
    assert empty["actual"].to_dict() == {"max_weight": 0, "max_group_weight": 0, "min_cash": 1, "max_leverage": 0, "max_concentration": 0}
    assert empty["ok"].all() and check_limits(RiskLimits(), {"a": 9.0}).empty
    assert check_limits(RiskLimits(max_group_weight=0.1), {"x": 0.0}, GROUPS)["where"].item() == ""
    with pytest.raises(BadInput, match="the weight of b is not finite"):
        check_limits(RiskLimits(max_weight=1), {"a": 1.0, "b": np.nan})


@pytest.mark.parametrize("name, highest", HIGHEST.items())
def test_a_limit_may_be_anything_from_zero_to_its_highest_value(name, highest):
    assert set(HIGHEST) == set(_RANGES) == set(RiskLimits.__dataclass_fields__) - OTHERS
    assert RiskLimits(**{name: 0}).in_force() == {name: 0} and RiskLimits(**{name: highest}).in_force() == {name: highest}
    for bad in (-0.001, highest * 1.001):
        with pytest.raises(BadInput, match=f"{name} is {bad!r} and must be a number between 0 and {highest}"):
            RiskLimits(**{name: bad})


def test_a_percentage_is_recognised_and_its_fraction_named():
    for bad, hint in ((30, "; 30 % is 0.3"), (100, "; 100 % is 1"), (1.5, "; 1.5 % is 0.015"), (101, "and 1"), ("30", "and 1")):
        with pytest.raises(BadInput) as said:
            RiskLimits(max_drawdown=bad)
        assert str(said.value).endswith(hint)
    with pytest.raises(BadInput) as said:
        RiskLimits(max_weight=30)  # ten times the account may be meant, so no percentage is guessed
    assert str(said.value).endswith("between 0 and 10")


def test_where_nobody_has_named_a_group_each_symbol_is_one():
    row = check_limits(RiskLimits(max_group_weight=0.5), {"x": 0.3, "y": 0.4}, {}).loc["max_group_weight"]
    assert row["ok"] and row["actual"] == 0.4 and row["where"] == "y"
    row = check_limits(RiskLimits(max_group_weight=0.5), {"x": 0.3, "y": 0.4}, {"a": "g"}).loc["max_group_weight"]
    assert not row["ok"] and row["actual"] == pytest.approx(0.7) and row["where"] == "assets without a group"


def test_ceilings_of_groups_and_ages_are_checked_too():
    assert RiskLimits(group_weights={"g": 10}).in_force() == {"group_weights": {"g": 10}}
    with pytest.raises(BadInput, match=r"group_weights\['g'\] is 10.1"):
        RiskLimits(group_weights={"g": 10.1})
    assert RiskLimits(max_price_age=timedelta(seconds=1)).in_force() == {"max_price_age": timedelta(seconds=1)}
    assert RiskLimits(cash_groups=("x",)).in_force() == {"cash_groups": ("x",)} and RiskLimits().in_force() == {}
    for bad in (timedelta(0), timedelta(seconds=-1), 26, 26.0):
        with pytest.raises(BadInput, match="max_price_age"):
            RiskLimits(max_price_age=bad)


def test_the_balance_of_five_hand_written_values():
    five = pd.Series([1000.0, 1200.0, 900.0, 960.0, 864.0], pd.to_datetime(
        ["2024-05-01 10:00", "2024-05-01 20:00", "2024-05-02 23:59", "2024-05-03 00:00", "2024-05-03 12:00"], utc=True))
    for upto, expected in (
        (1, (1000.0, 1000.0, 1000.0, 0.0, 0.0)), (2, (1200.0, 1200.0, 1000.0, 0.0, 0.0)), (3, (900.0, 1200.0, 1200.0, 0.25, 0.25)),
        (4, (960.0, 1200.0, 900.0, 0.2, 0.0)), (5, (864.0, 1200.0, 900.0, 0.28, 0.04)),
    ):
        b = equity_balance(five.iloc[:upto])
        assert equity_balance(five.iloc[:upto] / 10_000).drawdown == pytest.approx(expected[3])  # an account of less than 1 is one too
        assert (b.equity, b.peak, b.day_start, b.drawdown, b.daily_loss) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("bad", [equity(), equity(1, 0), equity(1, -1), equity(np.nan, 1), equity(1, np.inf), pd.Series([1.0, 2.0])],
                         ids=["empty", "zero", "negative", "missing", "infinite", "no times"])
def test_an_equity_curve_that_cannot_be_one_is_refused(bad):
    with pytest.raises(BadInput, match="finite values above zero, indexed by time"):
        equity_balance(bad)


# ---- sizes


def test_kelly_is_expected_over_variance_between_zero_and_the_cap():
    assert [kelly_fraction(m, 0.04, 0.5) for m in (0.01, 0.02, 0.03, 0.0, -0.01)] == pytest.approx([0.25, 0.5, 0.5, 0.0, 0.0])
    for m, v in ((0.1, 0.0), (0.1, -0.1), (np.inf, 0.1), (0.1, np.inf), (np.nan, 0.1), (0.1, np.nan)):
        with pytest.raises(BadInput, match="both finite, the variance above zero"):
            kelly_fraction(m, v, 1.0)


def test_the_fraction_that_carries_a_volatility():
    assert [volatility_fraction(0.1, r) for r in (0.4, 0.1, 0.05)] == pytest.approx([0.25, 1.0, 1.0])
    assert volatility_fraction(0.1, 0.05, cap=3.0) == 2.0 and volatility_fraction(0.0, 0.2) == 0.0 and volatility_fraction(0.4, 0.5) == 0.8
    for target, realised in ((0.1, 0.0), (0.1, -0.2), (-0.1, 0.2), (0.1, np.nan)):
        with pytest.raises(BadInput, match="the latter must be above zero"):
            volatility_fraction(target, realised)


def test_positions_shrink_linearly_as_the_drawdown_nears_its_limit():
    assert [drawdown_scale(d, 0.2) for d in (0.0, 0.05, 0.15, 0.2, 0.3, 1.0)] == pytest.approx([1.0, 0.75, 0.25, 0.0, 0.0, 0.0])
    assert drawdown_scale(0.5, 1.0) == 0.5 and drawdown_scale(1.0, 1.0) == 0.0
    for drawdown, limit in ((-0.01, 0.2), (1.01, 0.2), (0.1, 0.0), (0.1, 1.01), (0.1, -0.2), (np.nan, 0.2)):
        with pytest.raises(BadInput, match="both are positive fractions"):
            drawdown_scale(drawdown, limit)


SIZES = [  # arguments, units: each worked out by hand
    ({"equity": D(10000), "price": D(50), "fraction": 0.1}, D(20)),  # 1000 at 50
    ({"equity": D(10000), "price": D(3), "fraction": 0.1}, D("333.33333333")),  # rounded down at the eighth digit
    ({"equity": D(10000), "price": D(3), "fraction": 0.1, "amount_step": D("0.5")}, D("333.0")),
    ({"equity": D(10000), "price": D(50), "fraction": 0.01, "stop_price": D(45)}, D(20)),  # 100 at risk, 5 a unit
    ({"equity": D(10000), "price": D(50), "fraction": 0.01, "stop_price": D(55)}, D(20)),  # the same for a short
    ({"equity": D(10000), "price": D(50), "fraction": 0.01, "stop_price": D(0)}, D(2)),
    ({"equity": D(10000), "price": D(50), "fraction": 0.01, "stop_price": D(45), "max_weight": 0.05}, D(10)),  # 500 at 50
    ({"equity": D(10000), "price": D(50), "fraction": 0.01, "stop_price": D(45), "max_weight": 0.5}, D(20)),  # 100 units would be allowed
    ({"equity": D(10000), "price": D("1.2"), "fraction": 0.12, "tick_size": D("0.0001"), "tick_value": D("0.05")}, D(2)),  # 600 a unit
    ({"equity": D(10000), "price": D("1.2"), "fraction": 0.01, "stop_price": D("1.19"), "tick_size": D("0.0001"), "tick_value": D("0.05"),
      "max_weight": 0.0}, D(20)),  # 100 ticks, 5 a unit; a ceiling does not count with ticks
    ({"equity": D(10000), "price": D(50), "fraction": 0.0}, D(0)),
    ({"equity": D("0.9"), "price": D("0.03"), "fraction": 0.5, "amount_step": D("0.2")}, D("15.0")),
    ({"equity": D(10000), "price": D(50), "fraction": 1.0}, D(200)),
]


@pytest.mark.parametrize("given, units", SIZES, ids=map(str, range(len(SIZES))))
def test_sizes_worked_out_by_hand(given, units):
    assert size_position(**given) == units


@pytest.mark.parametrize("change, says", [
    ({"equity": D(0)}, "equity 0"), ({"equity": D(-1)}, "equity -1"), ({"price": D(0)}, "price 0"), ({"fraction": -0.01}, "fraction -0.01"),
    ({"fraction": 1.01}, "fraction 1.01"), ({"amount_step": D(0)}, "equity 100"), ({"tick_size": D(1)}, "belong together"),
    ({"tick_value": D(1)}, "belong together"), ({"tick_size": D(0), "tick_value": D(1)}, "above zero"),
    ({"tick_size": D(1), "tick_value": D(0)}, "above zero"), ({"stop_price": D(10)}, "risks nothing"), ({"stop_price": D(-1)}, "risks nothing"),
])
def test_sizes_that_cannot_be_meant_are_refused(change, says):
    good = {"equity": D(100), "price": D(10), "fraction": 0.5}
    assert size_position(**good) == D(5)
    with pytest.raises(BadInput, match=says):
        size_position(**{**good, **change})


# ---- kill switch


def test_engage_reset_engage_reads_as_written_and_the_first_reason_stays(tmp_path):
    switch = KillSwitch(tmp_path / "kill.jsonl")
    assert (switch.engaged, switch.reason(), switch.history()) == (False, "", [])
    switch.require_off()
    switch.reset("Ada", "nothing to reset", NOON)
    assert not switch.path.exists()
    switch.engage("check", "drawdown", NOON.astimezone(timezone(timedelta(hours=5))))
    switch.engage("other", "later", NOON + timedelta(hours=1))
    assert switch.engaged and switch.reason() == "stopped by check at 2024-05-03T12:00:00+00:00: drawdown"
    with pytest.raises(Refused, match="the kill switch is on: stopped by check"):
        switch.require_off()
    switch.reset("Ada", "gefunden: Gebühr", NOON + timedelta(hours=2))
    assert not switch.engaged and switch.reason() == ""
    switch.engage("Bob", "again", NOON + timedelta(hours=3))
    assert [(c["engaged"], c["who"], c["why"], c["when"]) for c in switch.history()] == [
        (True, "check", "drawdown", "2024-05-03T12:00:00+00:00"), (False, "Ada", "gefunden: Gebühr", "2024-05-03T14:00:00+00:00"),
        (True, "Bob", "again", "2024-05-03T15:00:00+00:00")]
    raw = switch.path.read_text(encoding="utf-8")
    assert raw.count("\n") == 3 and raw.endswith("\n") and "Gebühr" in raw


def test_a_stop_is_on_the_disk_before_engage_returns(tmp_path, monkeypatch):
    switch, sizes = KillSwitch(tmp_path / "kill.jsonl"), []
    monkeypatch.setattr("trading.risk.kill_switch.os.fsync", lambda number: sizes.append(switch.path.stat().st_size))
    switch.engage("check", "drawdown", NOON)
    assert sizes == [switch.path.stat().st_size] and sizes[0] > 50


@pytest.mark.parametrize("who, why", [("", "found"), ("  ", "found"), ("Ada", ""), ("Ada", " ")])
def test_a_reset_needs_a_name_and_a_finding(tmp_path, who, why):
    switch = KillSwitch(tmp_path / "kill.jsonl")
    switch.engage("check", "drawdown", NOON)
    with pytest.raises(BadInput, match="the name of a person and what was found"):
        switch.reset(who, why, NOON)
    assert switch.engaged


def test_a_time_without_zone_is_refused_and_nothing_is_written(tmp_path):
    switch = KillSwitch(tmp_path / "kill.jsonl")
    with pytest.raises(BadInput, match="has no zone"):
        switch.engage("check", "drawdown", NOON.replace(tzinfo=None))
    assert not switch.path.exists()


@pytest.mark.parametrize("damage", ["{", "[]", "1", '{"engaged": false}', '{"engaged": 0, "who": "a", "why": "b", "when": "c"}',
                                    '{"engaged": false, "who": "a", "why": "b"}', '{"who": "a", "why": "b", "when": "c"}', ""])
def test_a_line_that_cannot_be_read_means_stopped_and_the_next_line_begins_anew(tmp_path, damage):
    path = tmp_path / "kill.jsonl"
    good = json.dumps({"engaged": False, "who": "Ada", "why": "found", "when": "2024-05-03"})
    path.write_text(good + "\n" + damage + ("\n" if not damage else ""))
    switch = KillSwitch(path)
    assert switch.reason() == "stopped by nobody known at an unknown time: line 2 of the kill switch cannot be read"
    switch.reset("Ada", "repaired", NOON)
    assert not switch.engaged and len(path.read_text().splitlines()) == 3
