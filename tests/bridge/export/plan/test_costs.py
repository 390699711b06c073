"""The table of costs: every form of every kind of convolution has a cost."""

import pytest

from bridge.export.plan import costs
from tests.support.graphs.ones import layer
from tests.support.graphs.text import the_layer


@pytest.mark.parametrize("spatial", [2, 3])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("chained", [False, True])
def test_the_table_has_every_kind(tmp_path, spatial, groups, chained):
    one = the_layer(layer((6, 6 // groups, *(3,) * spatial), groups=groups), tmp_path)
    names = costs.FORMS if chained else costs.FORMS[1:]
    times = costs.estimates(one, names, chained=chained)
    assert list(times) == [*names, costs.FLOAT32]
    assert all(time > 0 for time in times.values())
