"""Run every benchmark of this folder and write bench/RESULTS.md: one row per figure, with machine and date.

A benchmark is a script that prints one JSON object per line: figure, value, unit, and where there is one, rival, rival_value and ratio.
`python bench/run.py daily sweep` runs only those.
"""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
KEPT = HERE / "results.json"
BEFORE = HERE / "before.json"  # by benchmark and figure: what an earlier tree needed on the same machine


def machine() -> str:
    "Describe this machine in one line."
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next((line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")), model)
    return f"{os.cpu_count()} cores, {model}, Python {platform.python_version()}, {platform.system()}"


def number(value: object) -> str:
    "Write a figure with three digits that matter."
    return f"{value:,.0f}" if isinstance(value, int | float) and abs(value) >= 1000 else f"{value:.3g}" if isinstance(value, float) else str(value)


def write_table(kept: dict) -> None:
    "Write what was measured, by benchmark."
    before = json.loads(BEFORE.read_text()) if BEFORE.exists() else {}
    told = "Rivals were measured in the same run on the same machine" + ("; before: what an earlier tree needed there." if before else ".")
    lines = ["# Figures", "", f"Written by `make bench` from `results.json`, where a note about a run may stand beside its rows. {told}", ""]
    heads = ["figure", "value", "unit", *["before"] * bool(before), "rival", "its value", "ratio"]
    for name, part in sorted(kept.items()):
        lines += [f"## {name}", ""]
        lines += [f"{part['date']}, {part['machine']}" + (f"; {part['note']}" if part.get("note") else ""), ""]
        lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for row in part["rows"]:
            earlier = before.get(name, {}).get(row["figure"])
            cells = [str(row["figure"]), number(row["value"]), row.get("unit") or "", *[number(earlier) if earlier else ""] * bool(before),
                     row.get("rival") or "",
                     number(row["rival_value"]) if row.get("rival_value") is not None else "",
                     number(row["ratio"]) if row.get("ratio") is not None else ""]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    (HERE / "RESULTS.md").write_text("\n".join(lines), encoding="utf-8")


def main(wanted: list[str]) -> int:
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    failed = []
    for script in sorted(HERE.glob("*.py")):
        if script.stem == "run" or (wanted and script.stem not in wanted):
            continue
        print(f"--- {script.stem}", flush=True)
        done = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode or not rows:
            failed.append(script.stem)
        if not rows:
            continue  # what was measured before a figure was missed is kept
        print(*(f"{r['figure']}: {number(r['value'])} {r.get('unit', '')}" for r in rows), sep="\n")
        kept[script.stem] = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine(), "rows": rows}
        KEPT.write_text(json.dumps(kept, indent=1, ensure_ascii=False), encoding="utf-8")
        write_table(kept)
    if failed:
        print(f"Error: no figures, or not those that were asked for, from {', '.join(failed)}; run the script by itself to see why", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
