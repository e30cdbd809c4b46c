from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from benchmark.api import Cohort, UserError
from benchmark.cli import main
from benchmark.cohorts import show
from benchmark.cohorts.simulated import SimulatedCohort
from benchmark.cohorts.simulated.presets import PRESETS


class Clinic(Cohort):
    name = "clinic"


def test_sheet_is_a_small_picture_in_colour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["show", "cohort", "--scale", "tiny", "--preset", "hard"]) == 0
    assert capsys.readouterr().out.strip() == "cohort-simulated-hard.png"
    content = Path("cohort-simulated-hard.png").read_bytes()
    assert len(content) < 250_000
    picture = image.imread(io.BytesIO(content))[..., :3]
    assert picture.shape[0] > 1000
    assert picture.shape[1] > 1400
    red, green, blue = (255 * np.moveaxis(picture, -1, 0)).astype(int)
    left = np.s_[:, : picture.shape[1] // 2 - 100]
    paper = (red > 235) & (green < red - 8) & (np.abs(green - blue) < 16)
    assert paper[left].mean() > 0.2
    outlines = (red > 200) & (green < 110) & (blue < 110)
    assert 300 < outlines.sum() < 20_000
    trace = (red < 60) & (green < 60) & (blue < 60)
    assert trace[left].sum() > 5_000


def test_people_shown_are_those_of_the_cohort() -> None:
    from benchmark.cohorts.simulated.cohort import simulate_block

    cohort = SimulatedCohort.at("tiny", "easy")
    block = simulate_block(cohort, 0)
    people = show._people(cohort)
    assert len({person.name for person in people}) == 3
    for person in people:
        row = int(person.name.removeprefix("SIM-")) - 1
        assert np.allclose(person.ecg_mv, block["ecg"][row] * 0.005)
        assert np.array_equal(person.pictures[0, 0], block["cine"][row, 0, 0])
        assert np.array_equal(person.pictures[2, 0], block["long_axis"][row, 0])
        assert np.array_equal(person.truth[1], block["masks"][row, 0])
        assert f"LVEDV {block['phenotypes'][row, 0]:.0f} mL" in person.numbers
    assert people[0].words.startswith("woman")
    assert people[0].words.endswith("no diagnosis")
    assert people[1].words.startswith("man")
    assert people[2].words.endswith("MI")


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_its_picture(preset: str) -> None:
    path = Path(__file__).parent.parent / f"docs/pictures/cohort-{preset}.png"
    assert path.stat().st_size < 250_000


def test_real_people_are_not_shown(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="real: they are not shown one by one"):
        show.contact_sheet(Clinic, path=tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cohort", ["ukb", "wfdb"])
def test_command_refuses_real_cohorts(
    cohort: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.png"
    assert main(["show", "cohort", "--cohort", cohort, "--out", str(out)]) == 2
    assert "real" in capsys.readouterr().err
    assert not out.exists()


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "x.png"
    with pytest.raises(UserError, match="cannot write"):
        show.contact_sheet(SimulatedCohort, scale="tiny", path=path)
