"""The published schema of configuration files accepts what the reader accepts, and no more."""

import json
from importlib import resources
from typing import Any

import jsonschema
from hypothesis import event, given
from hypothesis import strategies as st

from bridge.config.reader import read_config

SCHEMA = json.loads(resources.files("bridge.config").joinpath("schema.json").read_text())
_VALIDATOR = jsonschema.Draft202012Validator({"$ref": "#/$defs/config", "$defs": SCHEMA["$defs"]})

_flags = st.sampled_from([None, True, False])
# JSON calls 1.0 an integer, Python does not: no such floats for batch_num.
_junk = st.sampled_from([None, True, "INT8", "arq_retrain", "x", 0, 3, -0.5, 1e39, {}, []])
_wide = st.sampled_from([2.0**64, -(2.0**64), 2.0**65, -(2.0**65), 3e38])
_numbers = st.floats(-4.0, 4.0) | st.integers(-3, 3) | _wide


def _section(valid: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Sections in which most values are of the right kind."""
    values = {key: st.one_of(value, value, value, value, _junk) for key, value in valid.items()}
    right = st.fixed_dictionaries({}, optional=valid)
    wrong = st.fixed_dictionaries({}, optional={**values, "unknown": st.just(1)})
    return st.one_of(right, wrong, _junk)


CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "retrain_enable": _flags,
        "distill": _junk,
        "retrain_data_config": _section(
            {
                "dst_type": st.sampled_from([None, "INT8", "INT16"]),
                "batch_num": st.integers(-1, 5),
                "fixed_min": _flags,
                "clip_max": st.none() | _numbers,
                "clip_min": st.none() | _numbers,
                "asymmetric": _flags,
                "range_search": st.sampled_from([None, "mse", "ifmr", "minmax"]),
            }
        ),
        "retrain_weight_config": _section(
            {
                "dst_type": st.sampled_from([None, "INT8"]),
                "weights_retrain_algo": st.sampled_from([None, "arq_retrain", "ulq_retrain"]),
                "channel_wise": _flags,
                "s_rec_flag": _flags,
            }
        ),
    },
)


@given(CONFIGS)
def test_the_schema_and_the_reader_agree(config: dict[str, Any]) -> None:
    """valid(config) if and only if read_config(config) does not raise."""
    try:
        read_config(config, channel_wise=True)
        accepted = True
    except ValueError:
        accepted = False
    event("accepted" if accepted else "refused")
    assert _VALIDATOR.is_valid(config) == accepted


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
