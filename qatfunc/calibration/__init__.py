"""Calibration of an activation range, streamed: init, update with each batch, finish.

Index:
    inputs          which batches are of use
    sorting         order, and the largest and smallest values
    histogram       what is kept of many values
    state           init, update, merge: what calibration has seen
    clip_search     the clip whose quantization error over the data is smallest (IFMR)
    ranges          extremes, search, finish: the first range of an activation
"""

from qatfunc.calibration.inputs import LARGEST_INPUT, check_input, unusable
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
    "check_input",
    "extremes",
    "finish",
    "init",
    "merge",
    "search",
    "unusable",
    "update",
]
