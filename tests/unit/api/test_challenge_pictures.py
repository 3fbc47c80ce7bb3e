"""The pictures of challenges: an image without text in an SVG, with room for all digits."""

import io
import re
from base64 import b64decode
from collections.abc import Iterator

import pytest
from PIL import Image

from tminus.api.challenges import HEIGHT, WIDTH, Challenges


@pytest.fixture(scope="module")
def challenges() -> Iterator[Challenges]:
    made = Challenges(None)  # type: ignore[arg-type]  # pictures need no database
    yield made
    made.close()


def pixels(svg: str) -> Image.Image:
    data = re.search('base64,([^"]+)"', svg)
    assert data is not None
    return Image.open(io.BytesIO(b64decode(data[1]))).convert("L")


@pytest.mark.parametrize("text", ["0000", "8888", "1111", "7417"])
def test_no_digit_is_cut_off(challenges: Challenges, text: str) -> None:
    """The library cuts off what has no room. At an edge there are only some of the dots, which are 3 pixels wide."""
    for _ in range(25):
        picture = pixels(challenges._picture(text))
        assert picture.size == (WIDTH, HEIGHT)
        dark = picture.point(lambda value: 255 if value < 60 else 0)
        assert dark.crop((WIDTH - 1, 0, WIDTH, HEIGHT)).histogram()[255] <= 18, "a stroke is cut off"
        assert dark.histogram()[255] > 600, "digits are black on white"


def test_no_two_pictures_of_a_text_are_equal(challenges: Challenges) -> None:
    made = [challenges._picture("1234") for _ in range(10)]
    assert len(set(made)) == 10
    assert not any("1234" in re.sub('base64,[^"]+', "", one) for one in made)
    assert max(map(len, made)) < 8000
