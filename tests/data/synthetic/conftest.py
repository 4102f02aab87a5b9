"""One small simulated cube that the tests of the simulated Earth share."""

from pathlib import Path

import pytest

from skyframe.data.synthetic.simulate import simulate


@pytest.fixture(scope="session")
def earth_with_imagery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.28 km of the continental climate at the edge of a town, half of it under imagery."""
    path = tmp_path_factory.mktemp("simulated") / "c"
    return simulate(
        path, width_m=1280, height_m=1280, seed=3, climate="continental", origin_m=(15360.0, 7680.0), hr_share=0.5
    )
