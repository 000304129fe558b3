"""What `allocate.optimizer` names decides what a run holds, within the account's limits."""

import warnings

import numpy as np
import pandas as pd
import pytest

from trading.core.datasets import sample_bars
from trading.core.errors import BadInput
from trading.core.settings import load_settings
from trading.pipeline.factory import policy_of
from trading.pipeline.target_weights import target_weights
from trading.portfolio.mean_risk import HierarchicalRiskParity, RiskParity
from trading.portfolio.optimizers import OPTIMIZERS

RETURNS = sample_bars("stocks")["close"].pct_change(fill_method=None).iloc[-504:]


def weights(**overrides):
    chosen = policy_of(load_settings(overrides={k.replace("__", "."): v for k, v in overrides.items()}, environ={}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return chosen.weights(RETURNS), chosen


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"fixed", "group-targets"}))
def test_every_optimiser_can_be_named_and_keeps_the_accounts_limits(name):
    settings = load_settings(environ={})
    w, chosen = weights(allocate__optimizer=name)
    groups = chosen.groups
    most = min(settings.limits.max_weight, chosen.level.max_weight)
    assert w.min() >= 0 and w.max() <= most + 1e-9 and w.sum() <= 1 - settings.limits.min_cash + 1e-9
    for group in set(groups.values()):
        assert w[[s for s in w.index if groups.get(s) == group]].sum() <= settings.limits.max_group_weight + 1e-9
    assert set(chosen.reasons_) == set(RETURNS.columns)
    assert not (w - weights()[0]).abs().max() < 1e-6 or name in ("risk-parity",)  # another rule, other weights: risk parity is what 'balanced' holds


def test_the_weights_are_those_of_the_optimiser_within_the_policys_limits():
    w, chosen = weights(allocate__optimizer="hrp")
    room = dict.fromkeys(RETURNS, (0.0, chosen.level.max_weight))
    caps = {g: (0.0, c) for g, c in chosen.level.group_limits.items() if g in chosen.groups.values()}
    own = HierarchicalRiskParity(room, chosen.groups, caps, 1 - chosen.level.min_cash).fit(RETURNS).weights_
    assert np.allclose(w / w.sum(), own / own.sum(), atol=1e-8)


def test_options_are_taken_and_wrong_ones_refused_before_anything_is_fetched():
    taken = policy_of(load_settings(overrides={"allocate.optimizer": "risk parity", "optimizer.risk": "CVaR"}, environ={})).optimizer
    assert isinstance(taken, RiskParity) and taken.risk == "CVaR"
    for overrides, message in (
        ({"allocate.optimizer": "risk-partiy"}, "did you mean 'risk-parity'"),
        ({"allocate.optimizer": "herc", "optimizer.linkages": "ward"}, "did you mean 'linkage'"),
        ({"optimizer.risk": "CVaR"}, "allocate.optimizer is policy, which does not look at it"),
        ({"targets.KO": "0.6"}, "allocate.optimizer is policy, which does not look at it"),
        ({"allocate.optimizer": "fixed"}, "no targets were given"),
        ({"allocate.optimizer": "fixed", "targets.KO": "0.7", "targets.XOM": "0.7"}, "the targets add up to 140.0%"),
        ({"allocate.optimizer": "fixed", "targets.KO": "0.6"}, "the target of KO is 60.0% and at most"),
        ({"allocate.optimizer": "fixed", "targets.TSLA": "0.1"}, "a target for TSLA, which has no returns"),
        ({"allocate.optimizer": "group-targets", "targets.Cars": "0.1"}, "the group Cars has a target and no symbol"),
        ({"allocate.optimizer": "black-litterman", "views.KO over XOM": "0.001"}, "over"),
    ):
        with pytest.raises(BadInput, match=message):
            policy_of(load_settings(overrides=overrides, environ={})).weights(RETURNS)


def test_fixed_targets_are_held_and_what_they_leave_is_cash():
    w, chosen = weights(allocate__optimizer="fixed", targets__KO="0.08", targets__XOM="0.06", allocate__risk_level="very high")
    assert w["KO"] == pytest.approx(0.08, abs=1e-9) and w["XOM"] == pytest.approx(0.06, abs=1e-9) and w.sum() == pytest.approx(0.14, abs=1e-9)
    assert "neutral" in chosen.reasons_["KO"]


def test_views_from_the_settings_move_the_weights():
    calm, _ = weights(allocate__optimizer="black-litterman")
    told, _ = weights(**{"allocate__optimizer": "black-litterman", "views__KO > XOM": "0.002 @ 0.9"})
    assert told["KO"] > calm["KO"] + 0.005 and told["XOM"] < calm["XOM"] - 0.005


def test_symbols_without_a_group_are_told_and_held_together():
    w, chosen = weights(groups__Industrials="XOM")  # the others of the group have none any more
    assert (w > 0).sum() > 3 and any("no group is known of" in note and "they count together" in note for note in chosen.notes_)


def test_a_group_whose_symbols_are_all_left_out_binds_nobody():
    chosen = policy_of(load_settings(environ={}))
    held = [s for s in RETURNS if chosen.groups.get(s) != "Financials"]
    assert len(held) < RETURNS.shape[1] and chosen.weights(RETURNS[held]).sum() > 0.5


def test_group_targets_follow_the_cycle_without_knowing_the_future():
    coins = sample_bars("coins")["close"][["BTC/USDT", "ETH/USDT", "DOGE/USDT", "LINK/USDT"]].loc["2018-06":"2022-09"].ffill().dropna()
    shares = {"BTC": "0.35", "ETH": "0.25", "Large caps": "0.1", "Memecoins": "0.05", "Stablecoins": "0.25"}
    told = {"market.symbols": list(coins.columns), "allocate.optimizer": "cycle", "allocate.cycle": "signals-v2", "allocate.risk_level": "very high"}
    told |= {"groups.BTC": "BTC/USDT", "groups.ETH": "ETH/USDT", "groups.Memecoins": "DOGE/USDT", "groups.Large caps": "LINK/USDT"}
    told |= {f"targets.{g}": w for g, w in shares.items()} | {"limits.max_group_weight": 0.5, "limits.max_weight": 0.5}
    settings = load_settings("crypto", overrides=told, environ={})
    views = pd.DataFrame({"expected": [], "confidence": []}, index=pd.MultiIndex.from_arrays([[], []], names=["symbol", "horizon"]))
    table, policy = target_weights(settings, coins, views, None)
    assert policy.optimizer.targets.shape[1] == 4 and table["target"].sum() <= 0.9  # a share of stablecoins stays in cash
    early = target_weights(settings, coins.iloc[:-300], views, None)[1]
    assert policy.weights(coins.pct_change().iloc[-804:-300]).equals(early.weights(coins.pct_change().iloc[-804:-300]))
    for overrides, message in (({"allocate.optimizer": "cycle"}, "needs the neutral share of each group"),):
        with pytest.raises(BadInput, match=message):
            target_weights(load_settings("crypto", overrides=overrides, environ={}), coins, views, None)
