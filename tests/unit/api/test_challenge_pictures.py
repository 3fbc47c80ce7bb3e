"""The pictures of challenges: an image without text in an SVG, with room for all digits."""

import io
import re
from base64 import b64decode
from collections.abc import Iterator

import pytest
from PIL import Image, ImageDraw

from tminus.api.challenges import DIGITS, HEIGHT, WIDTH, Challenges


@pytest.fixture(scope="module")
def challenges() -> Iterator[Challenges]:
    made = Challenges(None)  # type: ignore[arg-type]  # pictures need no database
    yield made
    made.close()


def pixels(svg: str) -> Image.Image:
    data = re.search('base64,([^"]+)"', svg)
    assert data is not None
    return Image.open(io.BytesIO(b64decode(data[1]))).convert("L")


def test_all_digits_have_room_in_the_largest_font(challenges: Challenges) -> None:
    challenges._picture("0000")
    drawing = challenges._drawing
    assert drawing is not None
    assert drawing.word_space_probability == 1
    draw = ImageDraw.Draw(Image.new("RGB", (WIDTH, HEIGHT)))
    boxes = [draw.multiline_textbbox((1, 1), digit, font=font) for font in drawing.truefonts for digit in "0123456789"]
    # The library begins at a tenth of a digit's width from the edge.
    assert (DIGITS + 0.1) * max(width for _, _, width, _ in boxes) <= WIDTH
    assert max(height for *_, height in boxes) <= HEIGHT


@pytest.mark.parametrize("text", ["0000", "8888", "1111", "7417"])
def test_the_digits_are_black_on_white(challenges: Challenges, text: str) -> None:
    picture = pixels(challenges._picture(text))
    assert picture.size == (WIDTH, HEIGHT)
    dark = picture.point(lambda value: 255 if value < 60 else 0)
    assert 600 < dark.histogram()[255] < WIDTH * HEIGHT / 2


def test_no_two_pictures_of_a_text_are_equal(challenges: Challenges) -> None:
    made = [challenges._picture("1234") for _ in range(10)]
    assert len(set(made)) == 10
    assert not any("1234" in re.sub('base64,[^"]+', "", one) for one in made)
    assert max(map(len, made)) < 8000
