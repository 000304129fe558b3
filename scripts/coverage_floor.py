"Hold the coverage of the last run of `make coverage` against the floor: lines and branches apart."

import json
import subprocess
import sys
import tempfile
from pathlib import Path

LINES, BRANCHES = 95.0, 90.0  # per cent


def shares(totals: dict) -> tuple[float, float]:
    "Return the per cent of lines and of branches that were reached."
    return 100 * totals["covered_lines"] / totals["num_statements"], 100 * totals["covered_branches"] / totals["num_branches"]


def main() -> int:
    "Say both figures; 1 if one is below its floor."
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "coverage.json"
        subprocess.run([sys.executable, "-m", "coverage", "json", "--quiet", "-o", str(file)], check=True)
        lines, branches = shares(json.loads(file.read_text())["totals"])
    print(f"lines {lines:.1f} % (at least {LINES:g}), branches {branches:.1f} % (at least {BRANCHES:g})")
    return int(lines < LINES or branches < BRANCHES)


if __name__ == "__main__":
    sys.exit(main())
