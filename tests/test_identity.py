"One name for one computation: what a rule calls, its bases, closures and globals, parameters and data; resumption and journals follow it."

import importlib
import sys
import types

import numpy as np
import pandas as pd
import pytest

from trading.backtest.sweep import sweep
from trading.core.datasets import sample_bars
from trading.core.identity import identity
from trading.forecast.tune import tune

RULE = """
import math
import numpy as np
LEVEL = 2
TABLE = {"a": [1, 2]}
def helper(x): return x + LEVEL
def deep(x): return helper(x) * 2
class Base:
    shift = 1
    def inner(self, x): return x
class Rule(Base):
    def signals(self, x): return self.inner(deep(x)) + TABLE["a"][0]
def rule(x, n=3):
    def nested(y): return [deep(v) for v in y]
    return nested(x)[:n]
rule_object = Rule()
"""


def module(text: str) -> types.ModuleType:
    made = types.ModuleType("user_rules")
    exec(text, vars(made))
    return made


def named(text: str) -> tuple[str, str]:
    m = module(text)
    return identity(m.rule), identity(m.rule_object)


@pytest.mark.parametrize("old, new, function, method", [
    ("x + LEVEL", "x - LEVEL", True, True), ("LEVEL = 2", "LEVEL = 3", True, True), ("n=3", "n=4", True, False),
    ("shift = 1", "shift = 2", False, True), ("return x\n", "return -x\n", False, True), ('["a"][0]', '["a"][1]', False, True),
    ("[1, 2]", "[1, 3]", False, True), ("* 2", "* 2.0", True, True), ("deep(v)", "helper(v)", True, False),
    ("import math", "import os", False, False),
    ("def deep", "# a remark\n\ndef deep", False, False)])
def test_whatever_a_rule_reads_is_part_of_its_name(old, new, function, method):
    before, after = named(RULE), named(RULE.replace(old, new))
    assert (before[0] != after[0], before[1] != after[1]) == (function, method)


def test_modules_of_the_user_are_read_where_they_are_used_also_inside_functions(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "my_helpers_for_identity.py"

    def rules():
        space = {}
        exec("import my_helpers_for_identity as h\ndef one(x): return h.f(x)", space)
        exec("def two(x):\n    from my_helpers_for_identity import f\n    return f(x)", space)
        return identity(space["one"]), identity(space["two"])

    def written(text):
        file.write_text(text)
        importlib.invalidate_caches()
        sys.modules.pop("my_helpers_for_identity", None)
        sys.dont_write_bytecode, old = True, sys.dont_write_bytecode
        try:
            return rules()
        finally:
            sys.dont_write_bytecode = old

    texts = ("def f(x): return x", "def f(x): return x", "def f(x): return -x * 3", "def f(x): return x\nZ = 1")
    first, again, other, unused = (written(t) for t in texts)
    assert first == again == unused and first[0] != other[0] and first[1] != other[1]
    sys.modules.pop("my_helpers_for_identity", None)


def test_closures_partials_lambdas_arrays_and_estimators_are_told_apart():
    from functools import lru_cache, partial

    from sklearn.linear_model import Ridge

    def made(k):
        return lambda x: x * k

    cached = [lru_cache(f) for f in (lambda x: x, lambda x: x + 1)]
    different = [made(1), made(2), partial(made(1), 3), partial(made(1), 4), np.arange(3), np.arange(3.0), np.arange(4), Ridge(1.0), Ridge(2.0),
                 pd.Series([1.0]), pd.Series([2.0]), *cached, {"a": 1}, {"a": 1.0}, (1, 2), ((1,), 2), "1", 1, True, None]
    assert len({identity(d) for d in different}) == len(different)
    assert identity(Ridge(1.0)) == identity(Ridge(1.0)) and identity(made(3)) == identity(made(3))


def test_a_mended_helper_leaves_no_old_row_in_a_resumed_sweep(tmp_path):
    bars, space = sample_bars("indices").loc["2008":"2018"], {"stop": 390, "calls": []}
    text = """
def helper(close, n): return close.rolling(n).mean()
def rule(bars, n=20):
    calls.append(n)
    if len(calls) == stop: raise KeyboardInterrupt
    return (bars["close"] > helper(bars["close"], n)).astype(int)
"""
    exec(text, space)
    grid, asked = {"n": range(2, 400)}, {"register": False, "progress": False, "metrics": ["total_return"]}
    with pytest.raises(KeyboardInterrupt):
        sweep(bars, space["rule"], grid, folder=tmp_path / "f", **asked)
    assert list((tmp_path / "f").rglob("*.npy"))
    space["stop"] = 10**9
    exec(text.replace("mean()", "median()"), space)
    grid = {"n": range(2, 400)}
    resumed = sweep(bars, space["rule"], grid, folder=tmp_path / "f", **asked)
    fresh = sweep(bars, space["rule"], grid, folder=tmp_path / "g", **asked)
    assert resumed.equals(fresh) and resumed.attrs["resumed"] == 0


def test_a_journal_never_answers_with_another_search(tmp_path):
    bars, seen = sample_bars("stocks").loc["2016":"2018"], []
    a, b = (bars.loc[:, (slice(None), [s])] for s in ("AAPL", "XOM"))
    asked = {"space": {"ridge__alpha": (1.0, 1e5, "log")}, "n_trials": 2, "n_splits": 2, "journal": tmp_path / "j"}
    asked["on_trial"] = lambda p, s, folds: seen.append(s)
    scores = [tune(a, 5, **asked).score, tune(b, 5, **asked).score, tune(b, 1, **asked).score]
    assert len(seen) == 6 and len(set(scores)) == 3
    assert tune(b, 1, **asked).score == scores[2] and len(seen) == 6, "the same search goes on where it was"


CALLED = "def rule(x): return helper(x)\n"
MENDED = {
    "a value of a class": ("class H:\n    k = 1\n    def f(self, x): return x * self.k\nh = H()\ndef helper(x): return h.f(x)", "H.k = 2"),
    "a value of an object": (
        "class H:\n    def __init__(self): self.k = 1\n    def f(self, x): return x * self.k\nh = H()\ndef helper(x): return h.f(x)",
        "h.k = 2"),
    "a method set later": ("class H:\n    def f(self, x): return x\nh = H()\ndef helper(x): return h.f(x)", "h.f = lambda x: -x"),
    "a base": ("class B:\n    def k(self): return 1\nclass H(B): pass\ndef helper(x): return x * H().k()", "B.k = lambda self: 2"),
    "a property": (
        "class H:\n    @property\n    def k(self): return 1\ndef helper(x): return x * H().k",
        "class H:\n    @property\n    def k(self): return 2"),
    "looked up by name": ("class H:\n    k = 1\ndef helper(x): return x * getattr(H, 'k')", "H.k = 2"),
    "globals": ("K = 1\ndef helper(x): return x * globals()['K']", "K = 2"),
    "eval": ("K = 1\ndef helper(x): return x * eval('K + 1')", "K = 2"),
    "a cached helper": (
        "import functools\n@functools.lru_cache\ndef k(): return 1\ndef helper(x): return x * k()",
        "@functools.lru_cache\ndef k(): return 2"),
    "a partial": ("import functools\ndef g(x, k): return x * k\nhelper = functools.partial(g, k=1)", "helper = functools.partial(g, k=2)"),
    "a file": ("def helper(x): return x * float(open('level.txt').read())", "open('level.txt', 'w').write('2')"),
    "the environment": ("import os\ndef helper(x): return x * float(os.environ['LEVEL_OF_A_RULE'])", "os.environ['LEVEL_OF_A_RULE'] = '2'"),
}


@pytest.mark.parametrize("home", [{}, {"__name__": "__main__"}], ids=["bare", "main"])
@pytest.mark.parametrize("mended", MENDED)
def test_whatever_is_mended_after_an_interruption_gives_another_name_and_nothing_else_does(mended, home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEVEL_OF_A_RULE", "1")
    (tmp_path / "level.txt").write_text("1")
    space, (before, after) = dict(home), MENDED[mended]
    exec(CALLED + before, space)
    space["helper"](1)
    name = identity(space["rule"])
    assert identity(space["rule"]) == name
    exec(after, space)
    assert identity(space["rule"]) != name
