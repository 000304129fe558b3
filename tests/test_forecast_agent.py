"The agent's world: honest, fast in principle, and accepted by gymnasium; practice goes on where it was killed."

import json

import numpy as np
import pandas as pd
import pytest

from trading.core.errors import BadInput, Refused
from trading.forecast.panel import bar_volatility, default_features
from trading.forecast.rl_env import BatchedWorlds, EnvironmentRules, evaluate_policy, make_env, step_many
from trading.forecast.rl_training import train_agent


def market(lean=0.0, seed=0, n=900):
    rng = np.random.default_rng(seed)
    r = rng.normal(size=(n, 4))
    for t in range(20, n):
        r[t] += lean * r[t - 20 : t].mean(axis=0) * 20**0.5
    index = pd.date_range("2018-01-01", periods=n, tz="UTC")
    close = pd.DataFrame(100 * np.exp(0.01 * r.cumsum(axis=0)), index=index, columns=list("ABCD"))
    return close, default_features(close), bar_volatility(close) / 0.01


def test_gymnasium_s_checker_accepts_the_world():
    checker = pytest.importorskip("gymnasium.utils.env_checker", reason="gymnasium comes with the extra 'rl'")
    env = make_env(*market(), EnvironmentRules(length=50))
    checker.check_env(env, skip_render_check=True)
    first, second = ([env.reset(seed=3)[0], *[env.step(np.array([0.5], dtype=np.float32))[1] for _ in range(20)]] for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_batch_and_single_worlds_earn_the_same():
    close, features, loud = market()
    rules = EnvironmentRules(length=40)
    batch = BatchedWorlds(close, features, loud, 8, rules, seed=5)
    where, actions = list(zip(batch.time, batch.symbol, strict=True)), np.random.default_rng(0).random((40, 8))
    for row in actions:
        batch.step(row)
    for i, (t, s) in enumerate(where):
        position, value = 0.0, 1.0
        for k in range(40):
            growth = close.iat[t + k + 1, s] / close.iat[t + k, s] - 1
            value *= (1 - abs(actions[k, i] - position) * 0.0015) * (1 + actions[k, i] * growth)
            position = actions[k, i] * (1 + growth) / (1 + actions[k, i] * growth)
        assert np.isclose(batch.ended_with[i], value, rtol=1e-9)


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
    held, value, best, one = np.zeros(1), np.ones(1), np.ones(1), np.ones(1)
    for k in range(10):
        held, value, best, _ = step_many(held, one * (k % 2 == 0), 0 * one, value, best, one, EnvironmentRules())
    assert np.isclose(value[0], (1 - 0.0015) ** 10)


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
