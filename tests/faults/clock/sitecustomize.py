"""Sets the wall clock of a Python process wrong by $CLOCK_SHIFT seconds, before anything reads it.

Found wherever this folder is on the search path. Monotonic clocks stay, as they do in earnest.
"""

import datetime
import os
import time

SHIFT = float(os.environ.get("CLOCK_SHIFT", "0"))
_time, _time_ns, _datetime = time.time, time.time_ns, datetime.datetime


class Shifted(_datetime):
    """A date and time that thinks it is another now."""

    @classmethod
    def now(cls, tz=None):
        return _datetime.now(tz) + datetime.timedelta(seconds=SHIFT)


time.time = lambda: _time() + SHIFT
time.time_ns = lambda: _time_ns() + int(SHIFT * 1e9)
datetime.datetime = Shifted
