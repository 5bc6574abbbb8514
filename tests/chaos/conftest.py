"""The table of tries, printed at the end."""

from __future__ import annotations

from collections import Counter


def pytest_terminal_summary(terminalreporter) -> None:
    tries: Counter[tuple[str, str]] = Counter()
    good: Counter[tuple[str, str]] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            found = dict(getattr(report, "user_properties", ()))
            if "chaos" in found and report.when == "call":
                key = tuple(found["chaos"])
                tries[key] += 1
                good[key] += outcome == "passed"
    if tries:
        terminalreporter.write_line("\n| command | what was done | tries | held |\n|---|---|---|---|")
        for key in sorted(tries):
            terminalreporter.write_line(f"| {key[0]} | {key[1]} | {tries[key]} | {good[key]} |")
        terminalreporter.write_line(f"| all | | {tries.total()} | {good.total()} |")
