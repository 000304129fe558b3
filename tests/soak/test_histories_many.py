"The histories of `tests/test_events.py`, ten thousand of them: book, lots, a naive replay, and a real ledger written in any order say the same."

import sys
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import Phase, given, seed, settings

sys.path.insert(0, str(Path(__file__).parent.parent))
from test_events import START, D, account, check_history, fold_book, histories, many  # noqa: E402

from trading.accounting.ledger import Ledger
from trading.core.types import Event

thousands = settings(many, max_examples=2500, derandomize=False, database=None, phases=(Phase.generate,))


@pytest.mark.parametrize("block", range(4))
def test_ten_thousand_histories_are_what_a_naive_replay_says(block):
    def check(drawn):
        check_history(*drawn)

    seed(block)(thousands(given(histories)(check)))()


@pytest.mark.parametrize("block", range(4))
def test_hundreds_of_ledgers_written_in_any_order_say_the_same(block, tmp_path):
    made = iter(range(10**6))

    def check(drawn):
        _, dice, _ = drawn
        rows = [(kind, data, when) for kind, data, when in check_history(*drawn) if kind != "fill"]  # fills have a writer of their own
        folder = tmp_path / str(next(made))
        folder.mkdir()
        ledger = account(folder, cash="1000000000")  # enough for what is taken out before what came in is written
        out = [r for r in rows if r[0] == "withdrawal" or r[1].get("direction") == "out"]
        for kind, data, when in [*dice.sample(rest := [r for r in rows if r not in out], len(rest))]:
            ledger.append(Event(kind, "mine", datetime.fromisoformat(when), data))
            if dice.random() < 0.3:
                ledger.book("mine")  # the sums are kept and go on
        kept = [r for r in rows if r not in out]
        begun = [("opened", {"currency": "USDT"}), ("deposit", {"amount": "1000000000", "currency": "USDT"})]
        said = fold_book("mine", [*begun, *((kind, data) for kind, data, _ in kept)])
        for book in (ledger.book("mine"), Ledger(ledger.path).book("mine")):
            assert book.cash == said.cash and book.contributed == said.contributed
            assert {s: p.amount for s, p in book.positions.items()} == {s: p.amount for s, p in said.positions.items()}
        assert ledger.verify_new() == len(kept) + 2 and D(0) < book.cash and ledger.events("mine")[0].timestamp == START
        ledger.close()

    seed(block)(settings(thousands, max_examples=150)(given(histories)(check)))()
