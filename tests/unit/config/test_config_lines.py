"""The line of each key in a TOML text."""

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from tminus.config.effective import toml
from tminus.config.lines import KeyPath, key_lines, line_of

TEXT = r'''# [no.table]
top = "a = 1 # no comment"

[server]  # [no]
"quoted key" = 1
'lite=ral' = { inner = "}" , more = [1, 2] }
a.b . "c\u0064" = 2
many = [
  "]", # ]
  "[",
  [ 1 ], { x = '#' },
]
basic = """
inside = 1
[not.this]
\""" ""\
"""""
after_basic = 1
literal = @@@
inside = \
'@@@
after_literal = 1979-05-27T07:32:00Z

[[agents]]
id = 1
[agents.deep]
x = 1
[[agents.list]]
x = 1
[[agents.list]]
x = 2

  [[ agents ]]
  id = 2
  [[agents.list]]
  x = 3
[ "ser.ver" . 'x]' ]
y = 1
z = ""'''.replace("@@@", "'" * 3)


def test_every_key_of_a_tricky_text_is_on_its_line() -> None:
    tomllib.loads(TEXT)
    lines = key_lines(TEXT)
    expected = {
        ("top",): 2,
        ("server",): 4,
        ("server", "quoted key"): 5,
        ("server", "lite=ral"): 6,
        ("server", "a"): 7,
        ("server", "a", "b"): 7,
        ("server", "a", "b", "cd"): 7,
        ("server", "many"): 8,
        ("server", "basic"): 13,
        ("server", "after_basic"): 18,
        ("server", "literal"): 19,
        ("server", "after_literal"): 22,
        ("agents",): 24,
        ("agents", 0): 24,
        ("agents", 0, "id"): 25,
        ("agents", 0, "deep"): 26,
        ("agents", 0, "deep", "x"): 27,
        ("agents", 0, "list"): 28,
        ("agents", 0, "list", 0): 28,
        ("agents", 0, "list", 0, "x"): 29,
        ("agents", 0, "list", 1): 30,
        ("agents", 0, "list", 1, "x"): 31,
        ("agents", 1): 33,
        ("agents", 1, "id"): 34,
        ("agents", 1, "list"): 35,
        ("agents", 1, "list", 0): 35,
        ("agents", 1, "list", 0, "x"): 36,
        ("ser.ver",): 37,
        ("ser.ver", "x]"): 37,
        ("ser.ver", "x]", "y"): 38,
        ("ser.ver", "x]", "z"): 39,
    }
    assert lines == expected


def test_windows_line_ends_make_no_difference() -> None:
    assert key_lines(TEXT.replace("\n", "\r\n")) == key_lines(TEXT)


def test_an_unlisted_key_has_the_line_of_the_key_that_contains_it() -> None:
    lines = key_lines("a = 1\n[b]\nc = [{ d = 1 }]\n")
    assert line_of(lines, ("b", "c", 0, "d")) == 3
    assert line_of(lines, ("b", "missing")) == 2
    assert line_of(lines, ("missing",)) == 1


strings = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = st.one_of(
    st.integers().map(str),
    strings.map(toml),
    st.text("ab #=[]{}\"\n'\\", max_size=8).map(toml),
    st.text('ab #=[]{}"\\', max_size=8).map(lambda text: f"'{text}'"),
    st.text("ab #=[]{}\"\n'", max_size=8)
    .filter(lambda text: '"""' not in text)
    .map(lambda text: '"""' + text.rstrip('"') + '"""'),
    st.text('ab #=[]{}"\n\\', max_size=8).map(lambda text: f"'''{text}'''"),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3).map(
        lambda items: "[ # ]\n" + "".join(f"{item}, # '\n" for item in items) + "]"
    ),
    max_leaves=5,
)
NOISE = st.lists(st.sampled_from(["\n", "# x = 1\n", '# """\n', " \n", "# [a]\n"]), max_size=3).map("".join)
COMMENTS = st.sampled_from(["", " # [c]", ' # "'])


@st.composite
def texts(draw: st.DrawFn) -> tuple[str, dict[KeyPath, int]]:
    """Generate a TOML text, and the line of each of its tables and keys."""
    text = ""
    expected: dict[KeyPath, int] = {}
    tables = draw(st.lists(strings, unique=True, max_size=4))
    for number, table in enumerate(["", *tables]):
        path: KeyPath = ()
        for index in range(draw(st.integers(1, 2)) if number % 2 else 1):
            text += draw(NOISE)
            if number:
                is_list = bool(number % 2)
                path = (table, index) if is_list else (table,)
                expected.setdefault((table,), text.count("\n") + 1)
                expected[path] = text.count("\n") + 1
                text += (f"[[{toml(table)}]]" if is_list else f"[ {toml(table)} ]") + draw(COMMENTS) + "\n"
            # A key at the top level must not have the name of a table: the text would define that name twice.
            for key in draw(st.lists(strings.filter(lambda key: key not in tables), unique=True, max_size=3)):
                text += draw(NOISE)
                expected[(*path, key)] = text.count("\n") + 1
                text += f"{toml(key)} = {draw(VALUES)}{draw(COMMENTS)}\n"
    return text, expected


@given(texts())
def test_keys_are_found_with_anything_between_them(case: tuple[str, dict[KeyPath, int]]) -> None:
    text, expected = case
    tomllib.loads(text)
    assert key_lines(text) == expected
