"""Fixtures: the instruction sets, layouts and dtypes that every operator is tested under."""

import problems
import pytest

from convrnn import _core


@pytest.fixture(params=_core.available_isas())
def isa(request):
    """Runs the test under every instruction set that this processor and this build have."""
    before = _core.isa()
    _core.set_isa(request.param)
    yield request.param
    _core.set_isa(before)


@pytest.fixture(params=problems.LAYOUTS)
def layout(request):
    return request.param


@pytest.fixture(params=problems.DTYPES)
def dtype(request):
    return request.param
