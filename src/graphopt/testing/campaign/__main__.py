"""Campaigns from the command line; see docs/campaigns.md.

python -m graphopt.testing.campaign --json backend.json
python -m graphopt.testing.campaign --load my_passes.py --passes my-pass
python -m graphopt.testing.campaign --models folder/of/models --json models.json
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

from graphopt.errors import GraphoptError
from graphopt.testing.backend import KINDS, VARIANTS
from graphopt.testing.campaign import FAULTS, CampaignReport, run_campaign


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="graphopt.testing.campaign", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--passes", default="default,fuse,cleanup,each", help="names, comma-separated; 'each': every one by itself")
    add("--load", action="append", default=[], metavar="FILE", help="a file of passes, or a folder of them")
    add("--models", help="a folder of .onnx files, or one, instead of onnx's backend cases")
    add("--kinds", default=",".join(KINDS), help="of backend cases (default: %(default)s)")
    add("--variants", default=",".join(VARIANTS), help="of backend cases (default: %(default)s)")
    add("--match", default="", help="a regular expression that the name of a case must contain")
    add("--sample", type=int, default=1, help="every so many cases")
    add("--target", default="onnx", choices=("onnx", "onnxruntime", "tensorrt"))
    add("--jobs", type=int, help="processes (default: one for each processor; 0: this one)")
    add("--timeout", type=float, default=120.0, help="seconds for each pass on each model (default: %(default)s)")
    add("--seconds", type=float, default=20.0, help="for a numeric judgement (default: %(default)s)")
    add("--json", metavar="FILE", help="write everything to this file")
    return parser.parse_args()


def _save(report: CampaignReport, file: str | None) -> None:
    if file:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(json.dumps(report.to_dict(), indent=1) + "\n")


def _progress(done: int, total: int, report: CampaignReport, file: str | None) -> None:
    often = not done % max(1, min(200, total // 20))
    if often:
        _save(report, file)  # whatever happens to a long run, what it has found so far is there
    shown = sys.stderr.isatty()
    if not (shown or often or done == total):
        return
    faults = ", ".join(f"{count} {verdict}" for verdict in FAULTS if (count := report.total(verdict)))
    end = "\r" if shown and done != total else "\n"
    sys.stderr.write(f"{done} of {total} cases, {faults or 'no fault'}{' ' * 10}{end}")
    sys.stderr.flush()


def main() -> int:
    """Runs a campaign; 1 when a pass is at fault, 2 when it could not be run."""
    from rich.console import Console

    args = _arguments()
    try:
        report = run_campaign(
            args.passes.split(","),
            models=args.models,
            kinds=args.kinds.split(","),
            variants=args.variants.split(","),
            match=args.match,
            sample=args.sample,
            load=args.load,
            target=args.target,
            jobs=args.jobs,
            timeout=args.timeout,
            seconds=args.seconds,
            progress=partial(_progress, file=args.json),
        )
    except GraphoptError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    _save(report, args.json)
    Console(width=None if sys.stdout.isatty() else 160).print(report.table())
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
