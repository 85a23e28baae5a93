"""Options that would decode nothing."""

import pytest

from speechbrain_mamba.decoders.search_options import check_decoding_steps, check_search_options


@pytest.mark.parametrize(
    "options, message",
    [
        ({"beam_size": 0}, "beam_size is 0, but must be an integer of at least 1."),
        ({"test_beam_size": 2.5}, "test_beam_size is 2.5, but must be an integer of at least 1."),
        ({"valid_search_interval": 0}, "valid_search_interval is 0, but must be an integer of at least 1."),
        ({"topk": True}, "topk is True, but must be an integer of at least 1."),
        ({"temperature": 0.0}, "temperature is 0.0, but must be above 0."),
        ({"test_temperature": float("nan")}, "test_temperature is nan, but must be above 0."),
        ({"ctc_weight": 1.5}, "ctc_weight is 1.5, but must be from 0 to 1."),
        ({"ctc_weight_decode": -0.1}, "ctc_weight_decode is -0.1, but must be from 0 to 1."),
        ({"lm_weight": "much"}, "lm_weight is 'much', but must be at least 0."),
        ({"max_decode_ratio": 0}, "max_decode_ratio is 0, but must be above 0."),
        ({"min_decode_ratio": 0.5, "max_decode_ratio": 0.4}, "min_decode_ratio is 0.5, above max_decode_ratio"),
        ({"beam_prune_logp": 3.0}, "beam_prune_logp is 3.0, but must be at most 0, as log-probabilities are."),
        ({"token_prune_min_logp": 0.1}, "token_prune_min_logp is 0.1, but must be at most 0"),
        ({"blank_skip_threshold": 0}, "blank_skip_threshold is 0, but must be a probability above 0."),
    ],
)
def test_what_decodes_nothing_is_told(options, message):
    with pytest.raises(ValueError) as error:
        check_search_options(**options)
    assert str(error.value).startswith(message)


def test_what_decodes_something_is_not():
    check_search_options(beam_size=1, topk=1, temperature=0.1, ctc_weight=0, ctc_weight_decode=1, lm_weight=0)
    check_search_options(min_decode_ratio=0.5, max_decode_ratio=0.5, beam_prune_logp=0, blank_skip_threshold=1, other=0)


@pytest.mark.parametrize("frames, ratio, needed", [(3, 0.3, 0.334), (1, 0.9, 1.0), (7, 0.1, 0.143)])
def test_the_ratio_that_is_asked_for_leaves_a_step(frames, ratio, needed):
    with pytest.raises(ValueError, match=rf"'short' of {frames} frames: set it to at least {needed}\."):
        check_decoding_steps({"long": 99, "short": frames}, 0.0, ratio)
    check_decoding_steps({"long": 99, "short": frames}, 0.0, needed)
