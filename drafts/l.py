import sys; sys.path.insert(0,sys.argv[1])
from ed import edit
P="nbs/12_pipeline/21_instruments.ipynb"
edit(P,
("""    return {s: _calendar(i) for s, i in InstrumentHistory(path.parent.parent, path.stem).last().items()}


def _calendar(instrument: Instrument) -> str:
    "Return an instrument's calendar, by its kind where the venue does not tell it."
    return instrument.calendar or ("forex" if instrument.kind == "fx" else "")
""","""    return {s: i.calendar for s, i in InstrumentHistory(path.parent.parent, path.stem).last().items()}
"""),
("    return {s: _calendar(i) for s, i in sample_instruments(kind).items()}","    return {s: i.calendar for s, i in sample_instruments(kind).items()}"),
("""        rows = [(r.get("symbol") or "", r.get("calendar") or ("forex" if r.get("kind") == "fx" else "")) for r in csv.DictReader(file)]
""","""        rows = [(r.get("symbol") or "", r.get("calendar") or "") for r in csv.DictReader(file)]
"""),
("What nobody told is seen from the bars; where those are too few, the kind and the source decide.","What nobody told is seen from the bars; where those are too few, the source decides."),
)
