"A user's own folder and installed packages: strategy, estimator, optimiser, venue, stage and section of the report, named as the shipped ones are."

import json
import re
import shlex
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from execnb.shell import CaptureShell
from typed import carnet, planted_settings

from trading.backtest.strategy_source import check_source, code_digest, find_strategy, source_of
from trading.core import extensions
from trading.core.datasets import sample_bars
from trading.core.errors import BadInput, BadSettings, TradingError
from trading.core.settings import load_settings
from trading.forecast.estimators import make_estimator

COMMANDS = ("new strategy",)  # what is walked here
PACKAGE = """
import numpy as np
from trading.backtest.strategies import SymbolStrategy
from trading.portfolio.base import Optimizer
from .parts import up


class Dip(SymbolStrategy):
    "Buy what fell."
    def __init__(self, n=5):
        self.n = n

    def position(self, one):
        return (~up(one["close"], self.n)).to_numpy().astype(np.int8)


class First(Optimizer):
    "Everything in the first symbol, as far as limits let it."
    def _attempts(self, problem):
        weights = np.zeros(len(problem.limits.symbols))
        weights[0] = problem.limits.budget
        yield "first", lambda: weights


def mean():
    from sklearn.dummy import DummyRegressor
    return DummyRegressor()


class Half:
    "Half of the mean: a class of the package's own."
    def __init__(self, share=0.5):
        self.share = share

    def get_params(self, deep=True):
        return {"share": self.share}

    def set_params(self, **params):
        vars(self).update(params)
        return self

    def fit(self, X, y):
        self.mean_ = float(np.mean(y))
        return self

    def predict(self, X):
        return np.full(len(X), self.share * self.mean_)


def slopes(bars):
    import pandas as pd
    return pd.concat({"slope": bars["close"].pct_change(3)}, axis=1)


def no_regressor():
    return "a text"


class Shop:
    "A venue of the package's own: two symbols, a price that grows by one each day."
    name = "shop"

    def __init__(self, keys, address, sandbox, symbols):
        self.keys, self.address = keys, address

    def fetch_ohlcv(self, symbol, timeframe, since, until):
        import pandas as pd
        days = pd.date_range(max(since, pd.Timestamp("2022-01-01", tz="UTC")), until, freq="1D", inclusive="left", unit="us")
        price = 100.0 + (days - pd.Timestamp("2022-01-01", tz="UTC")).days + 7 * np.sin(days.dayofyear / (3 if symbol == "EGGS" else 5))
        made = pd.DataFrame({k: price for k in ("open", "high", "low", "close")} | {"volume": 1e6}, index=days.rename("timestamp"))
        return made[made.index + pd.Timedelta(days=1) <= until]

    def fetch_tickers(self, symbols):
        from decimal import Decimal
        return dict.fromkeys(symbols, Decimal("100"))


class Market(Shop):
    name = "market"


class Mute:
    name = "mute"

    def __init__(self, **_):
        pass


def no_oil(run):
    table = run.read("weights")
    table.loc["XOM", ["target", "reason"]] = [0.0, "the committee"]
    run.write("weights", table)
    return "no oil this month"


no_oil.after = "allocate"


def early(run):
    run.write("own_note", {"bars": int(run.read("weights").shape[0]) if run.has("weights") else -1})


early.after = "ingest"


def late(run):
    pass


late.after = "trade"


def weather(data):
    "The weather."
    return [("text", f"It rained on {data.profile}.")]


def broken(data):
    "What fails."
    return [("text", 1 / 0)]
"""
POINTS = """[carnet.strategies]
Dip = house_of_rules:Dip
[carnet.estimators]
mean = house_of_rules:mean
text = house_of_rules:no_regressor
half = house_of_rules:Half
[carnet.features]
slopes = house_of_rules:slopes
[carnet.optimizers]
first = house_of_rules:First
no-class = house_of_rules:mean
[carnet.venues]
shop = house_of_rules:Shop
mute = house_of_rules:Mute
market = house_of_rules:Shop
[carnet.stages]
no-oil = house_of_rules:no_oil
early = house_of_rules:early
late = house_of_rules:late
[carnet.report_sections]
weather = house_of_rules:weather
broken = house_of_rules:broken
gone = house_of_rules:gone
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    "An installed package, as an installer leaves it."
    site = tmp_path / "site"
    (site / "house_of_rules").mkdir(parents=True)
    (site / "house_of_rules" / "__init__.py").write_text(PACKAGE)
    (site / "house_of_rules" / "parts.py").write_text("def up(close, n):\n    return close.diff(n) > 0\n")
    info = site / "house_of_rules-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: house-of-rules\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(site))
    extensions._installed.cache_clear()
    yield site / "house_of_rules"
    extensions._installed.cache_clear()
    for name in [n for n in sys.modules if n.startswith("house_of_rules")]:
        del sys.modules[name]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARNET_RUN__DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CARNET_RUN__REPORTS", str(tmp_path / "reports"))
    return tmp_path


def test_a_new_strategy_is_written_runs_as_a_notebook_and_asks_to_be_promoted_by_its_name(home):
    code, said = carnet("new", "strategy", "AboveMean")
    assert code == 0 and "strategies/AboveMean.ipynb" in said, said
    file = home / "strategies" / "AboveMean.ipynb"
    nbformat.validate(nbformat.read(file, 4))
    before = file.read_bytes()
    for wrong, says in (("AboveMean", "a strategy AboveMean already"), ("MaCross", "already, from Carnet"), ("no-name", "cannot be the name")):
        code, said = carnet("new", "strategy", wrong)
        assert code == 1 and says in said, said
    assert file.read_bytes() == before and len(list(file.parent.iterdir())) == 1
    shell = CaptureShell(file)
    for cell in nbformat.read(file, 4).cells:
        if cell.cell_type == "code" and not cell.source.startswith("#| eval: false"):
            shell.run(cell.source)
            assert not shell.exc, (cell.source, shell.exc)
    assert "AboveMean" in carnet("strategies", "list")[1]
    assert carnet("ingest")[0] == 0
    code, said = carnet("strategies", "promote", "AboveMean", "--grid", "window=50,100", "--symbols", "KO,GE", "--from", "2012-01-01")
    assert code == (0 if "promoted" in said and "not promoted" not in said else 1) and "reality check" in said, said
    kept = json.loads(carnet("strategies", "list", "--json")[1])
    assert [row["strategy"] for row in kept] == ["AboveMean"]


def test_a_module_that_its_notebook_did_not_export_is_refused(home):
    from nbdev.export import nb_export

    carnet("new", "strategy", "Mine")
    folder = home / "strategies"
    nb_export(str(folder / "Mine.ipynb"), lib_path=str(folder))
    assert (folder / "Mine.py").is_file() and find_strategy("Mine", True).__name__ == "Mine"
    text = (folder / "Mine.ipynb").read_text()
    (folder / "Mine.ipynb").write_text(text.replace("> mean).to_numpy", "< mean).to_numpy"))
    with pytest.raises(BadInput, match=r"Mine.py is not what .*Mine.ipynb exports"):
        find_strategy("Mine", True)
    (folder / "Mine.py").unlink()
    assert find_strategy("Mine", True).__name__ == "Mine"


def test_names_of_the_own_folder_are_for_the_terminal_and_never_hide_a_shipped_one(home):
    (home / "strategies").mkdir()
    (home / "strategies" / "Own.py").write_text("class Own:\n    def signals(self, bars):\n        return bars['close'] * 0\n")
    assert find_strategy("Own", True).__name__ == "Own"
    with pytest.raises(BadInput, match="only at the terminal"):
        find_strategy("Own", False)
    (home / "strategies" / "MaCross.py").write_text("class MaCross:\n    pass\n")
    with pytest.raises(BadInput, match="comes with Carnet too; rename yours"):
        find_strategy("MaCross", True)
    with pytest.raises(BadInput, match="carnet new strategy Nothing"):
        find_strategy("Nothing", True)


def test_a_strategy_of_a_package_is_found_again_and_refused_when_its_code_changed(package, home):
    assert "house_of_rules" not in sys.modules and len(code_digest("Dip")) == 24 and "house_of_rules" not in sys.modules, "digest without import"
    found = find_strategy("Dip", False)
    source = source_of(found)
    assert source == {"where": "Dip", "digest": code_digest("Dip")}
    check_source(source)
    (package / "parts.py").write_text("def up(close, n):\n    return close.diff(n) >= 0\n")
    with pytest.raises(BadInput, match="has changed since it was promoted"):
        check_source(source)
    assert "not asked yet, from an installed package: Dip" in carnet("strategies", "list")[1]


def test_an_estimator_of_a_package_is_named_in_the_settings_and_seeded(package, home):
    assert load_settings(None, {"forecast.model": "mean"}).forecast.model == "mean"
    with pytest.raises(BadSettings, match=r"'transformer', 'half', 'mean' or 'text'"):
        load_settings(None, {"forecast.model": "meen"})
    made = make_estimator("mean", seed=3)
    assert type(made).__name__ == "DummyRegressor"
    with pytest.raises(BadInput, match="must be an unfitted regressor"):
        make_estimator("text")
    with pytest.raises(BadInput, match="is unknown"):
        make_estimator("meen")


def test_a_model_of_a_package_is_kept_read_back_and_fed_with_its_features(package, home):
    from trading.forecast.forecaster import HorizonForecaster
    from trading.forecast.model_registry import load, save
    from trading.pipeline.named_model import named_features, named_model

    settings = load_settings(None, {"forecast.model": "half", "forecast.features": "slopes"})
    bars, features = sample_bars("stocks").iloc[-600:, :6], named_features(settings)
    made = HorizonForecaster(named_model(settings), (1,)).fit(bars, features)
    version = save(made, home / "models", {"data_version": "x", "code_version": "y"})
    read = load(home / "models", version)
    assert read.features_ == ("slope",) and read.predict(bars, features).equals(made.predict(bars, features))
    with pytest.raises(BadInput, match="did you mean 'slopes'"):
        named_features(load_settings(None, {"forecast.features": "slope"}))


def test_an_optimiser_of_a_package_obeys_the_limits_or_is_refused(package, home):
    bars = sample_bars("stocks")["close"].iloc[-300:, :4]
    bars.rename_axis("Date").to_csv(home / "closes.csv")
    code, said = carnet("optimise", "--prices", "closes.csv", "--cash", "10000", "--optimizer", "first", "--json")
    assert code == 0 and json.loads(said)["weights"][bars.columns[0]] == pytest.approx(1), said
    assert "is unknown" in carnet("optimise", "--prices", "closes.csv", "--cash", "10000", "--optimizer", "furst")[1]
    from trading.portfolio.optimizers import make_optimizer

    returns = bars.pct_change().iloc[1:]
    assert make_optimizer("first").fit(returns).weights_.iloc[0] == pytest.approx(1)
    assert make_optimizer("first", bounds=(0, 0.4)).fit(returns).weights_.max() == pytest.approx(0.4), "the nearest that the limits allow"
    with pytest.raises(BadInput, match="derived from"):
        make_optimizer("no-class")


def test_the_report_ends_with_the_sections_of_packages_and_names_one_that_fails(package, home):
    from trading.pipeline.notebook_runner import run_in_process
    from trading.pipeline.run_record import Run
    from trading.testing.sample_runs import make_sample_runs

    make_sample_runs(home)
    run = Run(home / "reports" / "2022-12-27_sample_1")
    run_in_process(run, ("50_report",))
    page = (run.folder / "index.html").read_text()
    assert "The weather" in page and "It rained on sample." in page
    assert "The section broken of an installed package could not be made: ZeroDivisionError" in page
    assert "The section gone of an installed package could not be made: gone of the package house-of-rules cannot be imported" in page
    assert page.index("Provenance") < page.index("The weather")


SHOP = """[run]
profile = corner
[corner:market]
source = package
venue = shop
symbols = EGGS, MILK
start = 2022-01-01
as_of = 2023-05-01
max_age_hours = 1000
[forecast]
window = 400
[allocate]
window = 100
[limits]
max_weight = 0.5
"""


def test_a_venue_of_a_package_is_ingested_from_like_any_other_and_says_what_it_lacks(package, home):
    (home / "settings.ini").write_text(SHOP)
    code, said = carnet("ingest")
    assert code == 0, said
    from trading.data.delta_store import BarStore

    bars = BarStore(home / "data" / "bars").read(["EGGS"], "1d", source="shop")
    assert bars["close"]["EGGS"].loc["2022-01-02"] == pytest.approx(101 + 7 * np.sin(2 / 3)), "kept under the venue's name"
    for venue, says in (("mute", "the venue mute of an installed package has no fetch_ohlcv()"),
                        ("market", "calls itself 'shop'; its name must be 'market'"),
                        ("shopp", "no installed package brings a venue of that name; did you mean 'shop'")):
        (home / "settings.ini").write_text(SHOP.replace("venue = shop", f"venue = {venue}"))
        code, said = carnet("ingest")
        assert code == 1 and says in said, said


def test_a_venue_of_a_package_takes_real_orders_only_when_it_says_what_it_can_do(package, home, monkeypatch):
    from trading.core import venue_profiles
    from trading.core.venue_profiles import VenueProfile, VenueQuery
    from trading.pipeline.venue_factory import connect, key_names

    monkeypatch.setattr(venue_profiles, "PROFILES", venue_profiles.PROFILES)
    (home / "settings.ini").write_text(SHOP)
    settings = load_settings()
    with pytest.raises(TradingError, match="shop takes no real orders: its package does not say what the venue can do"):
        connect(settings, orders=True)
    import house_of_rules

    known = dict(venue_profiles.PROFILES)
    try:
        house_of_rules.Shop.profile = VenueProfile("shop", "The shop")
        with pytest.raises(BadInput, match="a way to look an order up"):
            connect(settings, orders=True)
        house_of_rules.Shop.profile = VenueProfile("shop", "The shop", lookup=(VenueQuery("fetch_order"),), keys=("TOKEN",))
        assert key_names(settings) == ("SHOP_TOKEN",)
        with pytest.raises(BadSettings, match="orders at shop need a key; set the variable SHOP_TOKEN"):
            connect(settings, orders=True, environ={})
        with pytest.raises(BadInput, match=r"has no load_markets\(\); orders need"):
            connect(settings, orders=True, environ={"SHOP_TOKEN": "the-token-of-a-test"})
        assert connect(settings, environ={"SHOP_TOKEN": "the-token-of-a-test"}).keys == ("the-token-of-a-test",)
    finally:
        venue_profiles.PROFILES.clear()
        venue_profiles.PROFILES.update(known)


SAMPLE = """[run]
profile = sample
[sample:market]
symbols = KO, XOM, GE, PFE
start = 2014-01-02
as_of = 2020-03-12
[forecast]
window = 1000
horizons = 1
[allocate]
window = 250
[limits]
max_weight = 0.4
"""


def test_a_stage_and_a_model_of_a_package_move_the_plan_of_run_and_replay_alike_and_are_pinned(package, home):
    from datetime import UTC, datetime

    from trading.core.types import Plan
    from trading.forecast.model_registry import load
    from trading.pipeline.factory import models_of
    from trading.pipeline.launch import open_run
    from trading.pipeline.notebook_runner import run_in_process

    (home / "settings.ini").write_text(SAMPLE)
    for wrong, says in (("late", "stands after 'trade'"), ("no-oli", "did you mean 'no-oil'")):
        code, said = carnet("set", f"run.stages={wrong}")
        assert code == 0, said
        code, said = carnet("run")
        assert code == 1 and says in said and not list((home / "reports").glob("2020*")), said
    assert carnet("set", "run.stages=early, no-oil")[0] == 0
    code, said = carnet("set", "forecast.model=half")
    assert code == 0, said
    run = run_in_process(open_run(load_settings(), datetime.now(UTC)))
    weights, plan = run.read("weights")["target"], run.read("plan", Plan)
    assert weights["XOM"] == 0 and weights.drop("XOM").sum() > 0.3 and "XOM" not in {a.symbol for a in plan.actions}
    assert run.read("own_note") == {"bars": -1}, "behind the ingest, before the weights"
    assert run.record.model_versions["stage no-oil"].startswith("house-of-rules 1.2 ") and "stage early" in run.record.model_versions
    assert "the stage no-oil moved" in (run.folder / "index.html").read_text()
    model = load(models_of(load_settings()), run.record.model_versions["forecast"])
    assert type(model.estimator).__name__ == "Half" and type(model.estimator).__module__.startswith("house_of_rules")
    forecast = run.read("forecast")  # in usual moves it says one number for all symbols
    told = (forecast["expected"] / forecast["std"]).groupby("horizon")
    assert (told.max() - told.min()).max() < 1e-12 and told.max().abs().min() > 0
    parts = run.read("sleeve_weights")
    assert parts.loc["XOM", "stage no-oil"] < -0.05 and parts.sum(axis=1).to_dict() == pytest.approx(weights.to_dict())
    code, said = carnet("replay", "--from", "2020-03-12", "--to", "2020-03-12")
    assert code == 0, said
    line = json.loads(next((home / "reports" / "replays").glob("*/days.jsonl")).read_text())
    assert line["plan"] == plan.hash, "the replay of the day plans the same"
    (package / "parts.py").write_text("def up(close, n):\n    return close.diff(n) >= 0\n")
    from trading.backtest.strategy_source import code_digest

    assert not run.record.model_versions["stage no-oil"].endswith(code_digest("no-oil", "stages")), "code that changed is another stage"


def test_a_strategy_of_ones_own_trades_on_paper_by_the_commands_of_the_guide_alone(home):
    from trading.accounting.ledger import Ledger
    from trading.pipeline.run_record import Run

    guide = nbformat.read(Path(__file__).parent.parent / "nbs" / "guides" / "20_own_strategy.ipynb", 4)
    text = "\n".join(c.source for c in guide.cells if c.cell_type == "markdown")
    begin = re.search(r"`carnet (new strategy \w+)`", text)[1]
    lines = re.search(r"## On paper\n\n```\n(.+?)```", text, re.DOTALL)[1].splitlines()
    chance, days = np.random.default_rng(8), pd.date_range("2015-01-01", periods=1500, freq="B", name="Date")
    drift = np.repeat(chance.choice([-1, 1], (10, 4)), 150, axis=0) * 0.0025  # trends of 150 days, which a mean of the past sees
    closes = pd.DataFrame(100 * np.exp(np.cumsum(drift + chance.normal(0, 0.008, drift.shape), axis=0)), days, ["KO", "XOM", "GE", "PFE"])
    closes.round(6).to_csv("closes.csv")
    (home / "settings.ini").write_text(planted_settings(f"{days[-4]:%Y-%m-%d}", limits="max_weight = 0.5"))
    assert carnet("import", "closes.csv")[0] == 0
    assert [line.split()[1] for line in lines] == ["ingest", "strategies", "set", "run", "strategies"]
    said = ""
    for line in (f"carnet {begin}", *lines):
        code, said = carnet(*shlex.split(line)[1:])
        assert code == 0, f"{line}: {said}"
    assert "AboveMean" in said and "30.0\u00a0%" in said, said
    run = Run(next((home / "reports").glob("*_planted_1")))
    assert run.read("verdict")["violations"] == [], "nothing is refused"
    parts = run.read("sleeve_weights")["AboveMean"]
    closes = closes.iloc[:-3]
    above = closes.iloc[-1] > closes.rolling(json.loads(carnet("strategies", "show", "AboveMean")[1])["params"]["window"]).mean().iloc[-1]
    assert (parts > 0).to_dict() == above.to_dict() and 0 < parts.sum() <= 0.3 + 1e-9, "what stands above its mean is held"
    ledger = Ledger(home / "data" / "ledger.sqlite")
    try:
        assert {f.symbol for f in ledger.fills("paper-planted")} >= set(parts.index[parts > 0]), "and bought on paper"
    finally:
        ledger.close()


def test_the_table_of_venues_lists_what_packages_bring_and_says_what_is_missing(package, home):
    code, said = carnet("venues", "--json")
    rows = {r["venue"]: r for r in json.loads(said)}
    assert code == 0 and rows["binance"]["comes with"] == "Carnet"
    why = "it has no profile, which says what it can do; its prices can be read"
    assert rows["shop"] == {"venue": "shop", "real orders": f"refused: {why}", "comes with": "house-of-rules 1.2"}
    code, said = carnet("venues", "shop")
    assert code == 1 and "nothing is known of shop: it has no profile" in said
    assert "house-of-rules 1.2" in carnet("venues")[1]


def test_a_source_that_cannot_list_its_symbols_is_scanned_by_name(package, home):
    market = "[mine:market]\nsource = package\nvenue = shop\nsymbols = EGGS, MILK\ncurrency = USD\nstart = 2024-01-01\n"
    (home / "settings.ini").write_text(f"[run]\nprofile = mine\n\n{market}")
    code, said = carnet("scan")
    assert code == 1 and "cannot list its symbols, so all of them cannot be scanned; name those that you mean with --symbol" in said, said
    code, said = carnet("scan", "--symbol", "EGGS", "--symbol", "MILK")
    assert code == 0 and "2 symbols, 2 judged" in said, said
