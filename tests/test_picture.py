"""The picture policy: aligned, within bounds, close to the shape, and the identity on what it made."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sysdesign.models.picture import PicturePolicy

POLICIES = (
    PicturePolicy(),
    PicturePolicy(side=32),
    PicturePolicy(min_tokens=64, max_tokens=100),
    PicturePolicy(min_tokens=64, max_tokens=71),
)


@given(st.sampled_from(POLICIES), st.integers(8, 6000), st.integers(8, 6000))
def test_every_size_is_aligned_bounded_and_stays(policy: PicturePolicy, width: int, height: int) -> None:
    new = policy.size(width, height)
    assert new[0] % policy.side == 0 and new[1] % policy.side == 0
    tokens = new[0] * new[1] // policy.side**2
    if max(width, height) <= 50 * min(width, height):
        assert policy.min_tokens <= tokens <= policy.max_tokens
    assert policy.size(*new) == new


@pytest.mark.parametrize("policy", POLICIES[:2])
@pytest.mark.parametrize("shape", [(1200, 800), (800, 1200), (1000, 1000), (1920, 1080), (640, 480), (300, 900), (4000, 1000)])
def test_the_shape_is_kept_within_three_percent(policy: PicturePolicy, shape: tuple[int, int]) -> None:
    width, height = policy.size(*shape)
    assert abs(math.log(width / height) - math.log(shape[0] / shape[1])) < 0.03


def test_fit_puts_transparency_on_white_and_leaves_a_fitting_picture_alone() -> None:
    policy = PicturePolicy(min_tokens=64, max_tokens=100)
    clear = policy.fit(Image.new("RGBA", (300, 200), (255, 0, 0, 0)))
    assert clear.mode == "RGB" and clear.getpixel((5, 5)) == (255, 255, 255)
    assert policy.fit(clear) is clear or policy.fit(clear).tobytes() == clear.tobytes()
