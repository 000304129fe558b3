"Write share/templates/answers.json: shortened answers of real runs, shown as examples in the documentation of the service."

import json
import tempfile
from pathlib import Path

import orjson

from trading.api.query_routes import to_json
from trading.services.queries_runs import runs
from trading.services.questions import READS
from trading.services.workspace import workspace_of
from trading.testing.sample_runs import make_sample_runs


def shorten(value):
    "Keep one item of each list and three entries of each long table."
    if isinstance(value, list):
        return [shorten(v) for v in value[:1]]
    if isinstance(value, dict):
        return {k: shorten(v) for k, v in (list(value.items())[:3] if len(value) > 40 else value.items())}
    return value[:200] if isinstance(value, str) else value


def main() -> None:
    "Make two runs and ask every view."
    place = workspace_of(make_sample_runs(Path(tempfile.mkdtemp())))
    name = runs(place)["items"][0]["id"]
    found = {}
    for read in (r for reads in READS.values() for r in reads if r.kept):
        asked = {"name": name} if "{name}" in read.path else {"symbol": "KO"} if read.path == "/prices/history" else {}
        found[read.path] = shorten(orjson.loads(to_json(read.view(place, **asked))))
    Path(__file__).parent.parent.joinpath("share", "templates", "answers.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
