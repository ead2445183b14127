"""For all tests: no limit on the time of an example, and a last line that says how many were left out, and why."""

import signal
from collections import Counter
from collections.abc import Generator

import hypothesis
import pytest

# A busy machine is no reason to fail: how long an example takes is not what a property is about.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

# A shell starts what runs in its background deaf to Ctrl-C, and so are the commands that the tests start there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    result = yield
    terminal: pytest.TerminalReporter | None = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal and (line := left_out(terminal.stats.get("skipped", []))):
        terminal.write_line(line, yellow=True)
    return result


def left_out(skipped: list[pytest.TestReport | pytest.CollectReport]) -> str:
    """One line for all skipped tests, the commonest reason first; empty where none was skipped."""
    reasons = Counter(reason(report) for report in skipped)
    told = "; ".join(f"{why} ({count})" for why, count in reasons.most_common())
    return f"left out, {reasons.total()} in all: {told}" if told else ""


def reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """What the skipped test says, without pytest's own word before it."""
    said = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return said.removeprefix("Skipped: ")
