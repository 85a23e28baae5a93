"""Plans are kept for the next call, but not for the next test, which may change what decides on them."""

import pytest

from speechbrain_mamba.ops.backends.triton import plan, ssd_plan


@pytest.fixture(autouse=True)
def _forget_plans():
    yield
    plan.forget()
    ssd_plan.forget()
