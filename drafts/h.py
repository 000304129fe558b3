import sys, json; sys.path.insert(0,"/tmp/euro")
from ed import edit, add, ROOT
P="nbs/12_pipeline/20_factory.ipynb"
nb=json.load(open(ROOT+P))
cells=nb["cells"]
at=next(i for i,c in enumerate(cells) if "def symbol_calendars(" in "".join(c["source"]))
proof=cells[at+1]; story=cells[at-1]
assert "Each symbol has a calendar of its own" in "".join(story["source"]), "".join(story["source"])[:300]
text="".join(story["source"])
k=text.index("Each symbol has a calendar of its own")
print(repr(text[max(0,k-200):]))
story["source"]=text[:k].rstrip().splitlines(keepends=True)
fn="".join(cells[at]["source"])
del cells[at:at+2]
if not "".join(story["source"]).strip(): cells.remove(story)
json.dump(nb,open(ROOT+P,"w"),indent=1,ensure_ascii=False); open(ROOT+P,"a").write("\n")
edit(P,("from trading.core.calendars import observed_calendar\n",""))
P="nbs/12_pipeline/21_instruments.ipynb"
nb=json.load(open(ROOT+P)); last="".join(nb["cells"][-1]["source"])
import uuid
def cell(kind, src):
    c={"cell_type":kind,"id":uuid.uuid4().hex[:8],"metadata":{},"source":src.strip("\n").splitlines(keepends=True)}
    if kind=="code": c|={"execution_count":None,"outputs":[]}
    return c
nb["cells"]+= [
cell("markdown","""## When each symbol trades

A calendar is a property of the instrument: the venue tells it, or a person's own table does. So coins, shares and currencies live in one profile and one account without a setting.
`market.calendar` and `[calendars]` only stand above it, where somebody knows better. What nobody told is seen from the bars; where those are too few, the kind and the source decide.

A currency market has holidays that no calendar lists: which of its bars are missing is judged by the bars it has."""),
cell("code",'''#| export
USUAL_CALENDARS = {"sample": "XNYS", "alpaca": "XNYS", "ccxt": "24/7", "mt5": "forex"}  # of a source, where neither instrument nor bars tell


@lru_cache(maxsize=64)
def _kept_calendars(path: Path, stamp: int) -> dict[str, str]:
    "Return the calendar of each symbol in a file of kept instruments, read once for each state of it."
    return {s: _calendar(i) for s, i in InstrumentHistory(path.parent.parent, path.stem).last().items()}


def _calendar(instrument: Instrument) -> str:
    "Return an instrument's calendar, by its kind where the venue does not tell it."
    return instrument.calendar or ("forex" if instrument.kind == "fx" else "")


@lru_cache(maxsize=16)
def _sample_calendars(kind: str) -> dict[str, str]:
    from trading.core.datasets import sample_instruments

    return {s: _calendar(i) for s, i in sample_instruments(kind).items()}  # type: ignore[arg-type]


@lru_cache(maxsize=16)
def _own_calendars(path: Path, stamp: int) -> dict[str, str]:
    "Return what a person's own table says; the rest of it is read with the instruments."
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [(r.get("symbol") or "", r.get("calendar") or ("forex" if r.get("kind") == "fx" else "")) for r in csv.DictReader(file)]
    return {s.strip(): check_calendar(c) for s, c in rows if c.strip()}


def named_calendars(
    settings: Settings,
) -> dict[str, str]:  # by symbol: a calendar; empty: nobody told
    "Return the calendar of each symbol: what the settings say, else a person's own table, else what the venue told."
    market = settings.market
    told: dict[str, str] = dict(_sample_calendars(market.sample_kind)) if market.source == "sample" else {}
    path = InstrumentHistory(settings.run.data, f"sample-{market.sample_kind}" if market.source == "sample" else market_source(settings).name).path
    told |= _kept_calendars(path, path.stat().st_mtime_ns) if path.exists() else {}
    own = Path(market.instruments) if market.instruments else None
    told |= _own_calendars(own, own.stat().st_mtime_ns) if own and own.exists() else {}
    every = {} if market.calendar == "auto" else dict.fromkeys(market.symbols, market.calendar)
    return {s: (every | settings.calendars).get(s) or told.get(s, "") for s in market.symbols}


def calendars_of(
    settings: Settings,
) -> dict[str, str]:  # by symbol: a calendar, or 'auto'
    "Return the calendar by which missing bars are judged: the bars' own where a market has holidays that no calendar lists."
    said = {s for s in settings.market.symbols if s in settings.calendars or settings.market.calendar != "auto"}
    return {s: c if c and (s in said or c not in ("forex", "24/5")) else "auto" for s, c in named_calendars(settings).items()}


def symbol_calendars(
    settings: Settings,
    close: pd.DataFrame,  # time × symbol
) -> dict[str, str]:  # by symbol: '24/7', '24/5', 'forex' or an exchange
    "Return the calendar of each symbol: the one that is named, the one that its bars keep, or the usual one of its source."
    named, usual = named_calendars(settings), USUAL_CALENDARS.get(settings.market.source, "24/5")
    there, kept = close.notna().to_numpy(), {}
    for symbol, own in zip(close.columns, there.T, strict=True):  # symbols of one market have the same bars
        if not named.get(symbol) and own.tobytes() not in kept:
            kept[own.tobytes()] = observed_calendar(close.index[own])
    seen = {s: "" if named.get(s) else kept[own.tobytes()] for s, own in zip(close.columns, there.T, strict=True)}
    seen = {s: usual if c == "24/5" and usual not in ("24/7", "forex") else c for s, c in seen.items()}  # an exchange also knows its holidays
    return {s: named.get(s) or seen[s] or usual for s in close.columns}'''),
cell("markdown","A share, a coin and a pair of currencies in one profile; what the settings say stands above the table, and what neither tells is seen from the bars."),
cell("code",'''import pandas as pd

week = pd.date_range("2024-01-01", periods=28, freq="D", tz="UTC")
seen = pd.DataFrame({"BTC/USD": 1.0, "EUR/USD": 1.0, "SAP": 1.0}, index=week)
seen.loc[week.day_of_week == 5, "EUR/USD"] = float("nan")
with tempfile.TemporaryDirectory() as folder:
    (table := Path(folder) / "own.csv").write_text("symbol,kind,calendar,amount_step,price_step\\nBTC/USD,spot,24/7,1,1\\nEUR/USD,fx,,1,1\\nSAP,stock,XETR,1,1\\n")
    asked = {"market.source": "file", "market.symbols": "BTC/USD, EUR/USD, SAP", "run.data": folder}
    mixed = load_settings(None, asked | {"market.instruments": str(table)}, environ={})
    assert symbol_calendars(mixed, seen) == {"BTC/USD": "24/7", "EUR/USD": "forex", "SAP": "XETR"}
    assert calendars_of(mixed) == {"BTC/USD": "24/7", "EUR/USD": "auto", "SAP": "XETR"}
    above = mixed.model_copy(update={"calendars": {"SAP": "XFRA"}})
    assert symbol_calendars(above, seen)["SAP"] == "XFRA" and calendars_of(above)["SAP"] == "XFRA"
    nobody = load_settings(None, asked, environ={})
    assert symbol_calendars(nobody, seen) == {"BTC/USD": "24/7", "EUR/USD": "forex", "SAP": "24/7"}  # as the bars say
    table.write_text("symbol,kind,calendar,amount_step,price_step\\nSAP,stock,XETRA1,1,1\\n")
    os.utime(table, (1, 1))
    test_fail(lambda: symbol_calendars(mixed, seen), contains="did you mean 'XETR'")
assert set(named_calendars(load_settings("sample-forex", environ={})).values()) == {"forex"}'''),
]
json.dump(nb,open(ROOT+P,"w"),indent=1,ensure_ascii=False); open(ROOT+P,"a").write("\n")
edit("nbs/12_pipeline/24_target_weights.ipynb",("from trading.pipeline.factory import policy_of, symbol_calendars\n","from trading.pipeline.factory import policy_of\nfrom trading.pipeline.instruments import symbol_calendars\n"))
edit("nbs/12_pipeline/42_plan_check.ipynb",("from trading.pipeline.factory import bars_of, groups_of, risk_limits, symbol_calendars\n","from trading.pipeline.factory import bars_of, groups_of, risk_limits\nfrom trading.pipeline.instruments import symbol_calendars\n"))
edit("nbs/12_pipeline/60_steps.ipynb",("from trading.pipeline.factory import bars_of, calendars_of, market_source, models_of, symbol_calendars\n","from trading.pipeline.factory import bars_of, market_source, models_of\nfrom trading.pipeline.instruments import calendars_of, symbol_calendars\n"))
edit("nbs/12_pipeline/66_trade_loop.ipynb",("from trading.pipeline.factory import calendars_of, market_source, store_of\nfrom trading.pipeline.instruments import known_instruments\n","from trading.pipeline.factory import market_source, store_of\nfrom trading.pipeline.instruments import calendars_of, known_instruments\n"))
edit("nbs/13_services/06_market_data.ipynb",("from trading.pipeline.factory import calendars_of, market_source, store_of\n","from trading.pipeline.factory import market_source, store_of\nfrom trading.pipeline.instruments import calendars_of\n"))
edit("nbs/runs/10_ingest.ipynb",("from trading.pipeline.factory import bars_of, calendars_of, market_source, source_note, store_of\n","from trading.pipeline.factory import bars_of, market_source, source_note, store_of\n"),("from trading.pipeline.instruments import pinned_instruments\n","from trading.pipeline.instruments import calendars_of, pinned_instruments\n"))
edit("nbs/00_core/44_settings_model.ipynb",("which bars should exist: 24/7, 24/5, forex, an exchange such as XNYS, or auto: what each symbol's bars keep; see [calendars]","which bars should exist, above what the instruments say: 24/7, 24/5, forex, an exchange such as XNYS; auto: as each instrument says; see [calendars]"))
p="/work/wt/euro/settings.ini"; s=open(p).read()
s=s.replace("""# which bars should exist, and when a market is closed: 24/7, 24/5, forex, an exchange such as XNYS, or auto: what the bars of each symbol keep.
# A profile may hold markets of several calendars; [calendars] names the calendar of one symbol: EUR/USD = forex
calendar = auto
""","""# which bars should exist, and when a market is closed, is told by each instrument, so that coins, shares and currencies may live in one profile; this
# stands above it for all symbols, [calendars] for one: 24/7, 24/5, forex, or an exchange such as XNYS
calendar = auto
""")
assert s.count("calendar = 24/7\n")==3, s.count("calendar = 24/7\n")
s=s.replace("calendar = 24/7\n","")
s=s.replace("# the calendar of single symbols, where it is not that of the market: SYMBOL","# the calendar of single symbols, where it is not the one that their instrument tells: SYMBOL")
open(p,"w").write(s)
p="/work/wt/euro/share/samples/instruments.csv"; s=open(p).read()
s=s.replace(",0.00003,0.00003,24/5,",",0.00003,0.00003,forex,"); open(p,"w").write(s)
