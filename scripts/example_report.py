"Make reports/example/index.html, the report that anyone can open before installing."

from pathlib import Path

from trading.report.daily_report import build_report
from trading.testing.example_report import example_data

FILE = Path(__file__).parents[1] / "reports" / "example" / "index.html"

if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(build_report(example_data()), encoding="utf-8")
