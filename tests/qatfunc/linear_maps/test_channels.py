import pytest
import torch

from qatfunc.linear_maps.channels import (
    channel_extremes,
    output_channels,
    per_output,
    sum_to_channels,
    to_full_rank,
)


@pytest.mark.parametrize(("transposed", "channels"), [(False, 4), (True, 6)])
def test_output_channels(transposed: bool, channels: int):
    assert output_channels(torch.zeros(4, 3, 5), transposed=transposed, groups=2) == channels


def test_conv_channels_are_on_axis_0():
    weight = torch.tensor([[[1.0, -5.0]], [[2.0, 3.0]]])
    high, low = channel_extremes(weight, transposed=False, groups=1)
    assert high.tolist() == [[[1.0]], [[3.0]]]
    assert low.tolist() == [[[-5.0]], [[2.0]]]


def test_conv_ignores_groups():
    weight = torch.tensor([[1.0, -5.0], [2.0, 3.0]])
    high, low = channel_extremes(weight, transposed=False, groups=2)
    assert high.tolist() == [[1.0], [3.0]]
    assert low.tolist() == [[-5.0], [2.0]]


def test_transposed_channels_are_on_axis_1():
    weight = torch.tensor([[[1.0, 9.0], [-2.0, 4.0]], [[-7.0, 0.0], [5.0, 5.0]]])
    high, low = channel_extremes(weight, transposed=True, groups=1)
    assert high.tolist() == [[[9.0], [5.0]], [[9.0], [5.0]]]
    assert low.tolist() == [[[-7.0], [-2.0]], [[-7.0], [-2.0]]]


def test_transposed_channels_of_a_group_come_from_its_own_inputs():
    # 4 inputs in 2 groups, 2 outputs a group: output c = group * 2 + column.
    weight = torch.tensor([[1.0, 2.0], [3.0, -4.0], [5.0, 6.0], [-7.0, 8.0]])
    high, low = channel_extremes(weight, transposed=True, groups=2)
    assert high.tolist() == [[3.0, 2.0], [3.0, 2.0], [5.0, 8.0], [5.0, 8.0]]
    assert low.tolist() == [[1.0, -4.0], [1.0, -4.0], [-7.0, 6.0], [-7.0, 6.0]]
    assert per_output(high, transposed=True, groups=2).tolist() == [3.0, 2.0, 5.0, 8.0]


def test_per_output_of_a_conv():
    scale = torch.tensor([[[1.0]], [[2.0]], [[3.0]]])
    assert per_output(scale, transposed=False, groups=1).tolist() == [1.0, 2.0, 3.0]


def test_per_output_of_one_scale_a_tensor():
    scale = torch.full((1, 1, 1, 1), 2.0)
    assert per_output(scale, transposed=True, groups=2).tolist() == [2.0]
    assert per_output(scale, transposed=False, groups=1).tolist() == [2.0]


def test_to_full_rank_of_a_conv():
    full = to_full_rank(
        torch.tensor([1.0, 2.0]), torch.zeros(2, 3, 5, 5), transposed=False, groups=1
    )
    assert full.shape == (2, 1, 1, 1)
    assert full.flatten().tolist() == [1.0, 2.0]


def test_to_full_rank_of_a_transposed_conv():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    full = to_full_rank(values, torch.zeros(4, 2, 5, 5), transposed=True, groups=2)
    assert full.shape == (4, 2, 1, 1)
    assert full[:, :, 0, 0].tolist() == [[1.0, 2.0], [1.0, 2.0], [3.0, 4.0], [3.0, 4.0]]


def test_to_full_rank_of_one_value():
    full = to_full_rank(torch.tensor([2.0]), torch.zeros(4, 2, 5), transposed=True, groups=2)
    assert full.tolist() == [[[2.0]]]


def test_per_output_undoes_to_full_rank():
    values, weight = torch.arange(6.0), torch.zeros(4, 3, 2)
    full = to_full_rank(values, weight, transposed=True, groups=2)
    assert torch.equal(per_output(full, transposed=True, groups=2), values)
    full = to_full_rank(values, torch.zeros(6, 3, 2), transposed=False, groups=1)
    assert torch.equal(per_output(full, transposed=False, groups=1), values)


@pytest.mark.parametrize(("transposed", "groups"), [(False, 1), (False, 2), (True, 1), (True, 2)])
def test_sums_are_the_transpose_of_spreading(transposed: bool, groups: int):
    weight = torch.arange(4 * 6 * 2.0).reshape(4, 6, 2)
    values = torch.arange(1.0, 1 + (6 * groups if transposed else 4))
    layout = {"transposed": transposed, "groups": groups}
    spread = (to_full_rank(values, weight, **layout) * weight).sum()
    assert spread == (values * sum_to_channels(weight, **layout)).sum()
