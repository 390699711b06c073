"""Calibration of an activation range, streamed: init, update with each batch, finish.

Index:
    inputs          checks of calibration batches
    sorting         sorting, and the largest and smallest values
    histogram       histograms with exact counts and sums
    state           init, update, merge: the statistics of an activation
    summaries       the data as searches look it up: sorted values, or bins
    clip_search     the clip whose quantization error over the data is smallest (IFMR)
    both_ends       the range whose quantization error is smallest, both ends searched
    ranges          extremes, search, finish: the first range of an activation
    learned_range   start, take, finish, resolve: a range from calibration to training
"""

from qatfunc.calibration.inputs import LARGEST_INPUT, check_input, unusable
from qatfunc.calibration.learned_range import (
    LearnedRange,
    finish_range,
    resolve_range,
    start_range,
    take,
)
from qatfunc.calibration.ranges import extremes, finish, search
from qatfunc.calibration.state import (
    EXACT_VALUES,
    TAIL_VALUES,
    CalibrationState,
    init,
    merge,
    update,
)

__all__ = [
    "EXACT_VALUES",
    "LARGEST_INPUT",
    "TAIL_VALUES",
    "CalibrationState",
    "LearnedRange",
    "check_input",
    "extremes",
    "finish",
    "finish_range",
    "init",
    "merge",
    "resolve_range",
    "search",
    "start_range",
    "take",
    "unusable",
    "update",
]
