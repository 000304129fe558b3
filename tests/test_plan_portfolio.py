"Portfolio files as people save them, and plans as tables that add up."

import csv
import re
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading.core.errors import BadInput
from trading.core.instruments import Instrument
from trading.execution.plan import PlanConstraints, apply_plan, make_plan
from trading.execution.portfolio_csv import plan_csv, plan_frame, plan_totals, read_amount, read_portfolio

KNOWN = ["AAPL", "MSFT", "BTC/USDT"]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16"]
AMOUNTS = st.decimals("0.00000001", 10**9, places=8)


@given(st.dictionaries(st.sampled_from(KNOWN), AMOUNTS), AMOUNTS, st.sampled_from(",;\t"), st.sampled_from(ENCODINGS))
@settings(max_examples=60, deadline=None)
def test_what_was_written_is_what_is_read(tmp_path_factory, holdings, cash, mark, encoding):
    path = tmp_path_factory.mktemp("portfolio") / "p.csv"
    lines = [f"symbol{mark}amount", *(f"{s}{mark}{u:f}" for s, u in holdings.items()), f"CASH{mark}{cash:f}"]
    path.write_bytes("\r\n".join([*lines, ""]).encode(encoding))
    portfolio = read_portfolio(path, KNOWN)
    assert portfolio.holdings == holdings and portfolio.cash == cash


@given(st.text(alphabet="0123456789,.-+eE xX%'", max_size=8))
@settings(max_examples=300, deadline=None)
def test_a_number_is_read_as_meant_or_refused(text):
    try:
        number, repaired = read_amount(text, "line 2")
    except BadInput as error:
        assert "line 2" in str(error)
        return
    plain = text.strip().replace(" ", "").replace("'", "")
    plain = "-" + plain[:-1] if plain.endswith("-") else plain  # as programs of accountants write it
    assert number >= 0 and bool(repaired) == ("," in plain or plain.count(".") > 1)
    assert not re.fullmatch(r"[-+]?[1-9]\d{0,2},\d{3}", plain)  # a question, never a number
    if not repaired:
        assert number == abs(Decimal(plain))
    else:  # the last of two signs divides; one that repeats groups thousands
        last = max(".,", key=plain.rfind)
        mark = last if plain.count(last) == 1 else "x"
        assert number == abs(Decimal("".join(c for c in plain.replace(mark, "d") if c not in ".,").replace("d", ".")))


def test_an_unreadable_file_is_one_sentence(tmp_path):
    (tmp_path / "latin.csv").write_bytes("symbol,amount\nAAPL,1\nBemerkung f\xfcr mich,2\n".encode("latin-1"))
    with pytest.raises(BadInput, match="is not UTF-8 text"):
        read_portfolio(tmp_path / "latin.csv", KNOWN)
    with pytest.raises(BadInput, match="cannot be read"):
        read_portfolio(tmp_path, KNOWN)


ASSETS = st.lists(st.tuples(st.decimals("0.01", 900, places=2), st.decimals("0", 500, places=4)), min_size=1, max_size=12)


@given(ASSETS, st.decimals(0, 9999, places=6))
@settings(max_examples=60, deadline=None)
def test_the_totals_add_up_to_the_cent(assets, cash):
    symbols = [f"S{n}" for n in range(len(assets))]
    prices = {s: a[0] for s, a in zip(symbols, assets, strict=True)}
    holdings = {s: a[1] for s, a in zip(symbols, assets, strict=True)}
    if cash + sum(prices[s] * holdings[s] for s in symbols) <= 1:
        return
    rules = PlanConstraints(fee_rate=Decimal("0.0013"), min_trade=Decimal(5))
    markets = {s: Instrument(s, amount_step=Decimal("0.0001"), price_step=Decimal("0.00000001")) for s in symbols}
    targets = dict.fromkeys(symbols, 1 / len(symbols))
    plan = make_plan("paper", datetime(2024, 1, 3, tzinfo=UTC), holdings, cash, targets, prices, markets, rules, "USD")
    totals = plan_totals(plan, rules)
    assert totals["total before"] - totals["fees"] == totals["total after"] == totals["cash after"] + totals["holdings after"]
    assert abs(totals["cash after"] - apply_plan(plan, holdings, rules).cash) <= Decimal("0.03")
    rows = list(csv.DictReader(plan_csv(plan).splitlines()))
    assert [Decimal(r["quantity"]) for r in rows] == [a.amount for a in plan.actions]
    assert len(plan_frame(plan)) == len(rows)
