"Every setting is read by something: a field that no code, notebook or flow asks for promises what nobody keeps."

import ast
import json
import re
from pathlib import Path

import pytest

from trading.core.settings import load_settings
from trading.core.settings_model import Settings, SettingsSection
from trading.pipeline.factory import risk_limits
from trading.risk.limits import RiskLimits

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "trading" / "core" / "settings_model.py"


def sources() -> list[str]:
    "Return the code of everything that runs: the package without the settings themselves, run notebooks and flows."
    files = [p for p in [*(ROOT / "trading").rglob("*.py"), *(ROOT / "prefect").glob("*.py")] if p.name not in (MODEL.name, "_modidx.py")]
    books = [json.loads(p.read_text(encoding="utf-8"))["cells"] for p in (ROOT / "nbs" / "runs").glob("*.ipynb")]
    return [*(p.read_text(encoding="utf-8") for p in files), *("\n".join("".join(c["source"]) for c in b if c["cell_type"] == "code") for b in books)]


def readings() -> set[tuple[str, str]]:
    "Return (section, field) for every field that is read off its section or a name for it; field '' is the section."
    found = set()
    for text in sources():
        tree = ast.parse(re.sub(r"^[%!].*$", "", text, flags=re.MULTILINE))
        names: dict[str, set[str]] = {}  # what a variable of this file may stand for
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign | ast.NamedExpr | ast.For | ast.comprehension):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                value = node.value if isinstance(node, ast.Assign | ast.NamedExpr) else node.iter
                several = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
                for left, right in zip(target.elts, value.elts, strict=False) if several else [(target, value)]:
                    for part in ast.walk(right):
                        if isinstance(left, ast.Name) and isinstance(part, ast.Attribute) and part.attr in Settings.model_fields:
                            names.setdefault(left.id, set()).add(part.attr)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                if node.attr in Settings.model_fields:
                    found.add((node.attr, ""))
                owner = node.value
                sections = {owner.attr} if isinstance(owner, ast.Attribute) else names.get(owner.id, set()) if isinstance(owner, ast.Name) else set()
                found |= {(section, node.attr) for section in sections}
                if node.attr == "model_dump":  # given on as a whole
                    found |= {(section, field) for section, field in FIELDS if section in sections}
    return found


FIELDS = [(section, field) for section, info in Settings.model_fields.items()
          for field in (info.annotation.model_fields if isinstance(info.annotation, type) and issubclass(info.annotation, SettingsSection) else [""])]


@pytest.fixture(scope="module")
def read():
    return readings()


@pytest.mark.parametrize(("section", "field"), FIELDS)
def test_a_setting_has_a_reader(section, field, read):
    assert (section, field) in read, f"nothing reads {section}.{field}: wire it or delete it"


def test_a_setting_without_a_reader_would_be_noticed(read):
    assert ("limits", "max_wieght") not in read and ("access", "indicator_seconds") not in read


def test_the_list_of_settings_is_the_real_one():
    assert len(FIELDS) > 90 and ("limits", "stop_loss") in FIELDS and ("groups", "") in FIELDS


TIGHT = {"max_concentration": 0.11, "stop_loss": 0.12, "max_orders": 13, "max_order_value": 1400, "max_daily_value": 15000,
         "max_price_gap": 0.016, "max_weight": 0.17, "max_group_weight": 0.18, "min_cash": 0.19,
         "max_turnover": 0.2, "max_var_95": 0.021, "max_drawdown": 0.22, "max_daily_loss": 0.023,
         "max_leverage": 0.9, "max_net": 0.4, "min_liquidation_distance": 0.3}


@pytest.mark.parametrize("name", TIGHT)
def test_each_limit_of_the_settings_arrives_at_the_risk_checks(name):
    limits = risk_limits(load_settings(overrides={f"limits.{name}": str(TIGHT[name])}, environ={}))
    assert float(getattr(limits, name)) == TIGHT[name]
    others = load_settings(environ={})
    assert limits.but(**{name: None}) == risk_limits(others).but(**{name: None}), "and no other limit is touched"


def test_every_limit_of_an_account_can_be_set():
    from_elsewhere = {"group_weights": "[risk_levels]", "cash_groups": "no setting: everything counts", "max_price_age": "market.max_age_hours",
                      "margin": "[margin]"}
    assert set(RiskLimits.__dataclass_fields__) - set(from_elsewhere) == set(TIGHT)
