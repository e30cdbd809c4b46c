"""Whatever is done to the bytes of a file, its reader refuses it or reads it, in bounded memory."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ukb_targets import TARGETS

MAX_BYTES = 32 << 20

Edit = tuple[float, bytes, int]


def mutate(content: bytes, edits: list[Edit], end: float) -> bytes:
    """Replace bytes at relative positions, dropping some there, then cut the file off."""
    for position, insertion, dropped in edits:
        place = int(position * len(content))
        content = content[:place] + insertion + content[place + dropped :]
    return content[: int(end * len(content)) + 1]


EDITS = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.one_of(
            st.binary(max_size=8),
            # What formats count, name and compare with.
            st.sampled_from([b"\0\0", b"\xff\xff\xff\xff", b"\x7f\xff", b"-1", b"nan", b"1e999"]),
            st.sampled_from([b"<", b"&x;", b",", b'"', b"\n", b"\t", b"PK\5\6", b"SQ\0\0"]),
        ),
        st.sampled_from([0, 1, 2, 4, 8, 100]),
    ),
    max_size=4,
)


@pytest.mark.parametrize("name", TARGETS)
def test_only_refusals_come_out(name, tmp_path):
    target = TARGETS[name]
    seeds = target.seeds(tmp_path)
    for seed in seeds:
        target.read(seed, tmp_path)  # accepted: else nothing would be tested below

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.sampled_from(range(len(seeds))), EDITS, st.one_of(st.just(1.0), st.floats(0, 1)))
    def check(seed, edits, end):
        tracemalloc.start()
        try:
            target(mutate(seeds[seed], edits, end), tmp_path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < MAX_BYTES

    check()
