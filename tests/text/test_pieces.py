"""Where long texts are cut."""

import pytest

from speechbrain_mamba.text.pieces import split_text


def cut(text, limit):
    return [(piece.text, piece.end) for piece in split_text(text, len, limit)]


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("One. Two.", 99, [("One. Two.", "")]),
        ("", 9, []),
        (" \n ", 9, []),
        ("One. Two.", 5, [("One.", "sentence"), ("Two.", "")]),
        ("One, two.\n\nThree. Four", 10, [("One, two.", "paragraph"), ("Three.", "sentence"), ("Four", "")]),
        ("One\ntwo\nthree", 99, [("One two three", "")]),
        ('"Go!" he said? (Yes.) No', 8,
         [('"Go!"', "sentence"), ("he said?", "sentence"), ("(Yes.)", "sentence"), ("No", "")]),
        ("Mr. X saw Dr. Who at 3.5 km", 16, [("Mr. X saw Dr.", "word"), ("Who at 3.5 km", "")]),
        ("so, it goes on", 10, [("so,", "phrase"), ("it goes on", "")]),
        ("incomprehensibilities", 5, [("incomprehensibilities", "")]),
        ("a b c d e f g h", 7, [("a b c d", "word"), ("e f g h", "")]),
        ("你好。再见！", 3, [("你好。", "sentence"), ("再见！", "")]),
        ("Wait... what", 8, [("Wait...", "sentence"), ("what", "")]),
    ],
)  # fmt: skip
def test_a_text_is_cut_at_the_best_places(text, limit, expected):
    assert cut(text, limit) == expected


def test_nothing_is_lost_and_all_pieces_are_small():
    text = " ".join(f"word{i}{',' if i % 7 == 0 else '.' if i % 11 == 0 else ''}" for i in range(3000))
    pieces = split_text(text, len, 60)
    assert " ".join(piece.text for piece in pieces) == text
    assert all(len(piece.text) <= 60 for piece in pieces) and len(pieces) < 3 * len(text) / 60
