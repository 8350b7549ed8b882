"""`python -m training.doctor`: what is installed here, what is wrong, and how to put it right."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence

from training.health import Finding, games, machine, packages

CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    packages.check,
    machine.check,
    games.check,
)
WORDS = {"ok": "ok", "optional": "optional", "wrong": "WRONG"}


def lines(findings: Sequence[Finding]) -> Iterator[str]:
    """One for each finding, with its fix."""
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        fix = f" -> {finding.fix}" if finding.fix else ""
        yield f"{WORDS[finding.status]:8}  {finding.what:{width}}  {finding.found}{fix}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 if something that is needed is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m training.doctor",
        description="Say what is installed here, what is wrong, and how to put it right. Exit code "
        "1 means that something needed is wrong; what is optional is only said.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = parser.parse_args(arguments)
    findings = [finding for check in CHECKS for finding in check()]
    healthy = all(finding.status != "wrong" for finding in findings)
    if chosen.json:
        told = [dataclasses.asdict(finding) for finding in findings]
        print(json.dumps({"healthy": healthy, "findings": told}))
    else:
        print("\n".join(lines(findings)))
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
