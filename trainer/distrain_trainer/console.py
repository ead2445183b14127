"""What the program says to a person, and how numbers look in a sentence."""

import sys


def say(text: str) -> None:
    """Says one sentence to the person on stderr; above the bar where there is one."""
    print(text, file=sys.stderr, flush=True)


def short(number: float) -> str:
    """A number in at most four figures and a unit: 950, 12.3k, 4.56M."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit * 0.9995:
            return f"{number / limit:.3g}{unit}"
    return f"{number:.3g}"


def clock(seconds: float) -> str:
    """A time span as a clock shows it: 0:07, 12:34, 1:23:45."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
