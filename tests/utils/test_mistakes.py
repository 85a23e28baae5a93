"""What is a mistake of the user."""

from speechbrain_mamba.utils.mistakes import is_mistake


def test_an_error_without_words_is_none():
    try:
        raise ValueError
    except ValueError as error:
        assert not is_mistake(error)
    assert not is_mistake(ValueError("never raised"))
