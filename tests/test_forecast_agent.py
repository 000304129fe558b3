"The agent's world: honest, fast in principle, and accepted by gymnasium; practice goes on where it was killed."

import json

import numpy as np
import pandas as pd
import pytest

from trading.backtest.engine import backtest
from trading.core.errors import BadInput, Refused
from trading.forecast.panel import bar_volatility, default_features
from trading.forecast.rl_env import (
    Accounts,
    BarOfWorlds,
    BatchedWorlds,
    EnvironmentRules,
    adapt_parameters,
    evaluate_policy,
    register_env,
    step_many,
)
from trading.forecast.rl_training import train_agent


def market(lean=0.0, seed=0, n=900):
    rng = np.random.default_rng(seed)
    r = rng.normal(size=(n, 4))
    for t in range(20, n):
        r[t] += lean * r[t - 20 : t].mean(axis=0) * 20**0.5
    index = pd.date_range("2018-01-01", periods=n, tz="UTC")
    close = pd.DataFrame(100 * np.exp(0.01 * r.cumsum(axis=0)), index=index, columns=list("ABCD"))
    return close, default_features(close), bar_volatility(close) / 0.01


def test_gymnasium_makes_the_world_by_its_name_and_its_checker_accepts_it():
    gymnasium = pytest.importorskip("gymnasium", reason="gymnasium comes with the extra 'rl'")
    from gymnasium.utils.env_checker import check_env

    close, features, loud = market()
    env = gymnasium.make(register_env(), close=close, features=features, relative_volatility=loud, rules=EnvironmentRules(length=50))
    check_env(env.unwrapped, skip_render_check=True)
    first, second = ([env.reset(seed=3)[0], *[env.step(np.array([0.5], dtype=np.float32))[1] for _ in range(20)]] for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("opens", [True, False], ids=["filled at opens", "filled at closes"])
def test_a_path_of_actions_is_worth_what_the_account_of_the_backtest_is_worth(opens):
    close, features, loud = market()
    rng = np.random.default_rng(4)
    fill = close.shift(1).bfill() * np.exp(rng.normal(0, 0.004, close.shape)) if opens else None
    rules = EnvironmentRules(0.0012, 0.0007, shorts=True, length=40, ruin=1.0, borrow=0.04, interest=0.05, swap_long=0.02, swap_short=-0.01)
    eights = pd.date_range(close.index[0], close.index[-1], freq="8h")[1:]
    funding = pd.DataFrame(rng.normal(0.0001, 0.0002, (len(eights), 2)), eights, ["A", "C"])
    batch = BatchedWorlds(close, features, loud, 8, rules, seed=5, fill=fill, funding=funding)
    where, actions = list(zip(batch.time, batch.symbol, strict=True)), rng.uniform(-1, 1, (40, 8))
    actions[10:13] = 1.0  # bought with all that there is: what holding costs is owed
    worth = np.empty((40, 8))
    for k, row in enumerate(actions):
        batch.step(row)
        worth[k] = batch.ended_with
    for i, (t, s) in enumerate(where):
        name = close.columns[s]
        part = {"close": close[[name]]} | ({"open": fill[[name]]} if opens else {})
        bars = pd.concat(part, axis=1).iloc[t : t + 41]
        paid = funding[[name]].loc[bars.index[0] : bars.index[-1]].iloc[1:] if name in funding else None
        wanted = pd.DataFrame(actions[:, [i]], bars.index[:-1], [name])
        tested = backtest(bars, weights=wanted, fees=0.0012, slippage=0.0007, cash=1.0, borrow=0.04, interest=0.05, swap_long=0.02, swap_short=-0.01,
                          funding=paid, register=False)
        np.testing.assert_allclose(worth[:, i], tested.equity.to_numpy()[1:], rtol=1e-9)
        assert tested.carried.abs().sum().sum() > 0


def test_the_price_of_a_drawdown_follows_volatility_regime_and_performance():
    rules, one = EnvironmentRules(drawdown_price=0.2, ruin=0.5), np.ones(1)
    price = lambda loud=1.0, falling=0.5, lost=0.0: adapt_parameters(rules, loud * one, falling * one, lost * one)[0]  # noqa: E731
    assert price() == 0.2 and price(loud=2) == 0.4 and price(loud=9) == pytest.approx(0.6) and price(loud=0.1) == 0.1
    assert price(falling=1) == pytest.approx(0.3) and price(falling=0) == 0.1 and price(lost=0.25) == pytest.approx(0.3) and price(lost=0.9) == 0.4
    close, features, loud = market(n=900)
    worlds = BatchedWorlds(close, features, loud, 4, EnvironmentRules(length=30))
    falling = worlds.planes[-1]  # from the closes so far: below their mean of 200 bars
    assert (falling[:99] == 0.5).all() and (falling[300:] == (close < close.rolling(200).mean()).to_numpy()[300:]).all()


def test_impact_follows_the_paper_exchange():
    from decimal import Decimal as D

    from trading.venues.paper.costs import TradingCosts

    one, zero = np.ones(1), np.zeros(1)
    rules = EnvironmentRules(0.0, 0.0005, impact=0.003, capital=50_000.0)
    bar = BarOfWorlds(10 * one, 10 * one, zero, zero, zero, 8000 * one, one, one)
    moved, _ = step_many(Accounts(zero, one, one, one), 0.4 * one, bar, rules)
    bought = 0.4 * 50_000 / 10
    beyond = (1 - moved.cash[0]) / moved.units[0] / 10 - 1
    paper = TradingCosts(D(0), half_spread_bp=D("2.5"), slippage_bp=D("2.5"), impact_bp=D(30))
    assert beyond == pytest.approx(float(paper.worse(D(bought), D(8000))))


def test_what_a_world_sees_does_not_depend_on_the_future():
    close, features, loud = market()
    short = [f.iloc[:600] for f in (close, features, loud)]
    a, b = BatchedWorlds(close, features, loud, 4, EnvironmentRules(length=30)), BatchedWorlds(*short, 4, EnvironmentRules(length=30))
    for world in (a, b):
        world.time, world.symbol = np.array([300, 350, 400, 450]), np.arange(4)
    for _ in range(25):
        (seen_a, reward_a, *_), (seen_b, reward_b, *_) = (w.step(np.full(4, 0.7)) for w in (a, b))
        assert np.array_equal(seen_a, seen_b) and np.array_equal(reward_a, reward_b)


def test_trading_back_and_forth_costs_exactly_its_fees():
    one, zero = np.ones(1), np.zeros(1)
    held, bar = Accounts(zero, one, one, one), BarOfWorlds(one, one, zero, zero, zero, zero, one, one)
    for k in range(10):
        held, _ = step_many(held, one * (k % 2 == 0), bar, EnvironmentRules())
    assert np.isclose(held.value[0], (0.999 * 0.9995 / 1.001 / 1.0005) ** 5)


def test_doing_nothing_earns_nothing_and_following_pays_only_where_there_is_a_trend():
    at = list(BatchedWorlds(*market(), 1, EnvironmentRules(length=60)).names).index("return_20")
    follow = {"follow": lambda seen: (seen[:, at] > 0) * 1.0}
    trend, walk = (evaluate_policy(follow, *market(lean, n=1400), EnvironmentRules(length=60), worlds=300) for lean in (0.15, 0.0))
    assert (walk.loc["nothing"] == 0).all() and trend.loc["follow", "growth"] > trend.loc["hold", "growth"]
    assert walk.loc["follow", "growth"] < walk.loc["hold", "growth"] + 0.03


def test_a_training_that_was_killed_goes_on_to_the_same_agent_and_an_altered_checkpoint_is_refused(tmp_path):
    "A process that is killed between two checkpoints loses what came after the last one, and nothing else."
    def worlds(length=50):
        return BatchedWorlds(*market(), 32, EnvironmentRules(length=length), seed=1)

    class Killed(Exception):
        pass

    def kill(generation, reward):
        if generation == 5:
            raise Killed

    train_agent(worlds(), tmp_path / "cut", 3)
    with pytest.raises(Killed):
        train_agent(worlds(), tmp_path / "cut", 8, on_progress=kill)
    assert json.loads((tmp_path / "cut" / "agent.json").read_text())["generation"] == 3
    agents = [train_agent(worlds(), tmp_path / name, 8) for name in ("cut", "whole")]
    assert agents[0] == agents[1] and agents[0].generations == 8 and agents[0] != train_agent(worlds(), tmp_path / "seed", 8, seed=1)
    with pytest.raises(BadInput, match="other rules"):
        train_agent(worlds(40), tmp_path / "cut", 9)
    (tmp_path / "cut" / "agent.json").write_text("x")
    with pytest.raises(Refused, match="no checkpoint of an agent"):
        train_agent(worlds(), tmp_path / "cut", 9)
