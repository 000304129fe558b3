"Every estimator of our own in scikit-learn's shape passes its checks, except those that are named here with a reason."

import pytest
from sklearn.linear_model import Ridge
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import check_estimator

from trading.core.bars import bars_from_close
from trading.core.datasets import sample_bars
from trading.forecast.estimators import RunningRidge
from trading.forecast.forecaster import HorizonForecaster
from trading.forecast.meta_labeling import MetaModel
from trading.forecast.stacking import PurgedStack

OWN_ERROR = "says BadInput with the next step, a ValueError of ours, where scikit-learn expects its NotFittedError"
FEW_ROWS = "the check learns from 10 or 15 rows; a network refuses to learn from fewer than 20"
EXCUSED = {
    "check_estimators_unfitted": OWN_ERROR,
    "check_n_features_in_after_fitting": FEW_ROWS,
    "check_estimators_nan_inf": FEW_ROWS,
    "check_regressors_no_decision_function": FEW_ROWS,
    "check_fit2d_1feature": FEW_ROWS,
}
NOT_RUN = {"check_array_api_input": "scikit-learn skips it unless SCIPY_ARRAY_API is set; no array API is claimed"}
WITHOUT_DATA = (  # the checks that need no matrix: the only ones that apply to what learns from bars or forecasts
    "check_estimator_cloneable", "check_estimator_repr", "check_no_attributes_set_in_init", "check_parameters_default_constructible",
    "check_get_params_invariance", "check_set_params", "check_valid_tag_types", "check_estimator_tags_renamed", "check_mixin_order",
)


@pytest.mark.filterwarnings("ignore:Estimator TorchRegressor does not inherit")  # scikit-learn is imported only when it learns
def test_a_network_passes_every_check_that_is_not_excused():
    pytest.importorskip("torch", reason="PyTorch comes with the extra 'deep'")
    from trading.forecast.neural import TorchRegressor

    net = TorchRegressor(budget=200, patience=0, rate=0.02, batch=64, device="cpu")
    results = check_estimator(net, expected_failed_checks=EXCUSED, on_fail=None, on_skip=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert not failed, failed
    assert {r["check_name"] for r in results if r["status"] == "xfail"} == set(EXCUSED), "an excuse is no longer needed"
    assert {r["check_name"] for r in results if r["status"] == "skipped"} <= set(NOT_RUN)
    assert sum(r["status"] == "passed" for r in results) >= 40


@pytest.mark.filterwarnings("ignore:Estimator RunningRidge does not inherit")
def test_a_ridge_that_goes_on_learning_passes_every_check():
    results = check_estimator(RunningRidge(), on_fail=None, on_skip=None)
    assert not {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert {r["check_name"] for r in results if r["status"] == "skipped"} <= set(NOT_RUN)
    assert sum(r["status"] == "passed" for r in results) >= 40


@pytest.mark.filterwarnings("ignore:Estimator PurgedStack does not inherit")
def test_a_stack_passes_every_check():
    stack = PurgedStack([("line", Ridge()), ("tree", DecisionTreeRegressor(max_depth=3, random_state=0))])
    results = check_estimator(stack, on_fail=None, on_skip=None)
    assert not {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert {r["check_name"] for r in results if r["status"] == "skipped"} <= set(NOT_RUN)
    assert sum(r["status"] == "passed" for r in results) >= 40


@pytest.mark.parametrize("estimator", [HorizonForecaster(), MetaModel()], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("name", WITHOUT_DATA)
def test_what_learns_from_bars_keeps_the_manners_that_need_no_matrix(estimator, name):
    getattr(estimator_checks, name)(type(estimator).__name__, estimator)


@pytest.mark.filterwarnings("ignore:Can't test estimator")
@pytest.mark.parametrize("estimator", [HorizonForecaster(), MetaModel()], ids=lambda e: type(e).__name__)
def test_scikit_learn_is_told_that_bars_are_no_matrix_and_finds_nothing_else_wrong(estimator):
    assert not estimator.__sklearn_tags__().input_tags.two_d_array
    assert {r["status"] for r in check_estimator(estimator, on_fail=None)} == {"passed"}


def test_a_forecaster_does_by_bars_what_the_checks_ask_of_a_matrix():
    bars = bars_from_close(sample_bars("stocks")["close"][["KO", "XOM"]].iloc[-900:])
    before, model = bars.copy(), HorizonForecaster(horizons=(1,))
    settings = model.get_params()
    assert model.fit(bars) is model and model.get_params() == settings and bars.equals(before)
    first = model.predict(bars)
    assert first.equals(model.fit(bars).predict(bars)), "fitted again, it says the same"
    assert [k for k in vars(model) if k not in settings and not k.endswith("_")] == [], "what was learnt ends in an underscore"
    swapped = model.predict(bars.iloc[:, ::-1]).sort_index()
    assert swapped.index.equals(first.sort_index().index) and (swapped - first.sort_index()).abs().max().max() < 1e-12
