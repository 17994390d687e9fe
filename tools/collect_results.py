"""Copy the evidence of finished runs (no checkpoints) into a folder to commit, and make its tables.

    python tools/collect_results.py runs results digits

copies each run's args.json, result.json, metrics.jsonl, classes.json and predictions.npz to results/digits/<method>/<data>/<n>x/<run>, and writes
results/digits.md, .csv, .tex from all that is there, and results/runs.csv from every study under results/.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from ssl_bench import runs, tables

EVIDENCE = ("args.json", "result.json", "metrics.jsonl")
WHERE_THERE = ("classes.json", "predictions.npz")  # runs of earlier versions have none


def collect(source: Path, results: Path, study: str) -> int:
    """Number of finished runs copied; runs copied before stay."""
    count = 0
    for result in sorted(source.rglob("result.json")):
        run = result.parent
        if (run.parent / "args.json").is_file():
            continue  # a stage of a run; what it came to is in the run's own files
        target = results / study / Path(*run.parts[-4:])
        target.mkdir(parents=True, exist_ok=True)
        stages = json.loads(result.read_text(encoding="utf-8")).get("minutes_of_stages", {})
        last = run / [*stages][-1] if stages else run  # of a run of stages: its last one's
        for name in (*EVIDENCE, *(name for name in WHERE_THERE if (run / name).is_file())):
            shutil.copyfile((last if name == "metrics.jsonl" else run) / name, target / name)
        count += 1
    tables.write_tables(runs.collect([results / study]), results / study)
    studies = [folder for folder in sorted(results.iterdir()) if folder.is_dir()]
    runs.write_runs_csv(runs.collect(studies), results / "runs.csv")
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the --log folder of the runs")
    parser.add_argument("results", type=Path, help="the folder to commit")
    parser.add_argument("study", help="name of the study")
    options = parser.parse_args()
    print(f"{collect(options.source, options.results, options.study)} runs -> {options.results / options.study}")


if __name__ == "__main__":
    main()
