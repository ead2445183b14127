"""Property tests hold on a busy machine too."""

import time

from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=2)
@given(number=st.integers())
def test_a_slow_example_does_not_fail(number: int) -> None:
    time.sleep(0.3)  # hypothesis fails an example of more than 0.2 s, unless it is told not to
    assert number == int(str(number))
