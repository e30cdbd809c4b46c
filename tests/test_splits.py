"""The split and the label fractions are public functions of the id."""

import hashlib

import numpy as np

from benchmark.cohorts.splits import fraction_rank, split_of

IDS = [str(9_000_000 + k) for k in range(1, 4001)]


def test_shares():
    split = split_of(IDS)
    shares = [(split == name).mean() for name in ("train", "validation", "test")]
    np.testing.assert_allclose(shares, [0.70, 0.15, 0.15], atol=0.02)


def test_definition():
    digest = hashlib.sha256(b"ecgcmr-bench/split/1/9000001").digest()
    u = int.from_bytes(digest[:8], "big") / 2**64
    expected = "train" if u < 0.70 else "validation" if u < 0.85 else "test"
    assert split_of(["9000001"])[0] == expected
    digest = hashlib.sha256(b"ecgcmr-bench/fraction/1/3/9000001").digest()
    assert fraction_rank(["9000001"], 3)[0] == int.from_bytes(digest[:8], "big") / 2**64


def test_a_withdrawal_moves_nobody():
    gone = set(IDS[::7])
    left = [i for i in IDS if i not in gone]
    before = dict(zip(IDS, split_of(IDS), strict=True))
    rank = dict(zip(IDS, fraction_rank(IDS, 0), strict=True))
    assert dict(zip(left, split_of(left), strict=True)) == {i: before[i] for i in left}
    assert dict(zip(left, fraction_rank(left, 0), strict=True)) == {i: rank[i] for i in left}


def test_replicates_draw_other_labels_and_fractions_are_nested():
    a, b = fraction_rank(IDS, 0), fraction_rank(IDS, 1)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.05
    assert set(np.flatnonzero(a < 0.01)) <= set(np.flatnonzero(a < 0.1))
