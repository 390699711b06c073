"""bridge.config.reader: every key of the dict, and what each of them refuses."""

import copy

import pytest

from bridge.config.reader import read_config, set_default_range_search
from qatfunc import SearchSpec

SAMPLE = {
    "retrain_data_config": {
        "dst_type": "INT8",
        "batch_num": 10,
        "fixed_min": False,
        "clip_min": None,
        "clip_max": None,
    },
    "retrain_weight_config": {
        "dst_type": "INT8",
        "weights_retrain_algo": "arq_retrain",
        "channel_wise": False,
    },
}


def read(data=None, weight=None, *, channel_wise=True, **top):
    sections = {"retrain_data_config": data, "retrain_weight_config": weight}
    return read_config(sections | top, channel_wise=channel_wise)


def test_the_sample_of_the_documentation():
    config = read_config(SAMPLE, channel_wise=True)
    assert config.enabled
    assert (config.layer.weight.bits, config.layer.weight.per_channel) == (8, False)
    assert (config.layer.activation.bits, config.layer.activation.symmetric) == (8, False)
    assert not config.layer.activation.fixed_min
    assert config.search.batch_num == 10
    assert config.clip is None
    assert (config.learned_scale, config.reciprocal_scale) == (False, False)


def test_the_default_search_can_be_set():
    set_default_range_search("ifmr")
    try:
        assert read().search.method == read({"range_search": None}).search.method == "ifmr"
        assert read({"range_search": "mse"}).search.method == "mse"
    finally:
        set_default_range_search("mse")
    assert read().search.method == "mse"
    with pytest.raises(ValueError, match="method must be 'mse' or 'ifmr', got 'minmax'"):
        set_default_range_search("minmax")


def test_reading_leaves_the_dict_alone():
    before = copy.deepcopy(SAMPLE)
    read_config(SAMPLE, channel_wise=True)
    assert before == SAMPLE


@pytest.mark.parametrize("channel_wise", [True, False])
@pytest.mark.parametrize(
    "config",
    [
        None,
        {},
        {"retrain_data_config": {}, "retrain_weight_config": {}},
        {"retrain_enable": None, "retrain_data_config": None, "retrain_weight_config": None},
        {
            "retrain_data_config": dict.fromkeys(
                [
                    *("dst_type", "batch_num", "fixed_min", "clip_max", "clip_min", "asymmetric"),
                    "range_search",
                ]
            ),
            "retrain_weight_config": dict.fromkeys(
                ["dst_type", "weights_retrain_algo", "channel_wise", "s_rec_flag"]
            ),
        },
    ],
    ids=["none", "empty", "empty-sections", "sections-none", "values-none"],
)
def test_what_is_not_given_takes_its_default(config, channel_wise):
    read = read_config(config, channel_wise=channel_wise)
    assert read.enabled
    assert (read.layer.weight.bits, read.layer.weight.per_channel) == (8, channel_wise)
    activation = read.layer.activation
    assert (activation.bits, activation.symmetric, activation.fixed_min) == (8, False, False)
    assert (read.search.batch_num, read.search.method) == (1, "mse")
    assert read.clip is None
    assert (read.learned_scale, read.reciprocal_scale) == (False, False)


def test_every_key_does_what_it_says():
    assert not read(retrain_enable=False).enabled
    assert read({"dst_type": "INT16"}).layer.activation.bits == 16
    assert read({"dst_type": "INT16"}).layer.weight.bits == 8
    assert read({"batch_num": 7}).search.batch_num == 7
    assert read({"range_search": "ifmr"}).search == SearchSpec(method="ifmr")
    assert read({"range_search": "mse"}).search == SearchSpec()
    assert read({"fixed_min": True}).layer.activation.fixed_min
    assert read({"asymmetric": False}).layer.activation.symmetric
    assert not read({"asymmetric": True}).layer.activation.symmetric
    assert read(weight={"weights_retrain_algo": "ulq_retrain"}).learned_scale
    assert read(weight={"s_rec_flag": True}).reciprocal_scale
    assert not read(weight={"channel_wise": False}).layer.weight.per_channel
    assert read(weight={"channel_wise": True}, channel_wise=False).layer.weight.per_channel


@pytest.mark.parametrize(
    ("data", "clip"),
    [
        ({"clip_max": 3.0}, (3.0, -1.0)),
        ({"clip_max": 3}, (3.0, -1.0)),
        ({"clip_max": 3.0, "clip_min": -0.5}, (3.0, -0.5)),
        ({"clip_max": 3.0, "clip_min": 0}, (3.0, 0.0)),
        ({"clip_max": 3.0, "fixed_min": True}, (3.0, 0.0)),
        ({"clip_max": 3.0, "clip_min": -0.5, "fixed_min": True}, (3.0, 0.0)),
        ({"clip_max": 2.0**64, "clip_min": -(2.0**64)}, (2.0**64, -(2.0**64))),
    ],
)
def test_a_given_clip(data, clip):
    assert read(data).clip == clip


@pytest.mark.parametrize("end", [2.0**65, 3e38, 3.4028234663852886e38])
@pytest.mark.parametrize("key", ["clip_max", "clip_min"])
def test_a_clip_too_wide_for_float32_is_named(key, end):
    data = {"clip_max": end} if key == "clip_max" else {"clip_max": 1.0, "clip_min": -end}
    message = rf"retrain_data_config\['{key}'\] must be at most 2\^64 \(1.8e19\) in magnitude"
    with pytest.raises(ValueError, match=message):
        read(data)


@pytest.mark.parametrize("config", [[], "INT8", 8, (("retrain_enable", True),), {"retrain_enable"}])
def test_what_is_not_a_dict_is_a_type_error(config):
    with pytest.raises(TypeError, match=f"config must be a dict, got {type(config).__name__}"):
        read_config(config, channel_wise=True)


DATA, WEIGHT = "retrain_data_config", "retrain_weight_config"


@pytest.mark.parametrize(
    ("section", "key", "value", "wanted"),
    [
        ("config", "retrain_enable", 1, "True or False"),
        ("config", "retrain_enable", "yes", "True or False"),
        ("config", DATA, "INT8", "a dict"),
        ("config", WEIGHT, [], "a dict"),
        (DATA, "dst_type", "INT4", "'INT8' or 'INT16'"),
        (DATA, "dst_type", "int8", "'INT8' or 'INT16'"),
        (DATA, "dst_type", 8, "'INT8' or 'INT16'"),
        (DATA, "batch_num", True, "an int of at least 1"),
        (DATA, "batch_num", 0, "an int of at least 1"),
        (DATA, "batch_num", -3, "an int of at least 1"),
        (DATA, "batch_num", 2.0, "an int of at least 1"),
        (DATA, "batch_num", "10", "an int of at least 1"),
        (DATA, "fixed_min", 0, "True or False"),
        (DATA, "fixed_min", "False", "True or False"),
        (DATA, "asymmetric", 1, "True or False"),
        (DATA, "clip_max", True, "a number that float32 can hold"),
        (DATA, "clip_max", "1.0", "a number that float32 can hold"),
        (DATA, "clip_max", float("nan"), "a number that float32 can hold"),
        (DATA, "clip_max", float("inf"), "a number that float32 can hold"),
        (DATA, "clip_max", 1e39, "a number that float32 can hold"),
        (DATA, "clip_max", 10**400, "a number that float32 can hold"),
        (DATA, "clip_min", [-1.0], "a number that float32 can hold"),
        (DATA, "range_search", "IFMR", "'mse' or 'ifmr'"),
        (DATA, "range_search", True, "'mse' or 'ifmr'"),
        (WEIGHT, "dst_type", "INT16", "'INT8'"),
        (WEIGHT, "dst_type", "INT4", "'INT8'"),
        (WEIGHT, "weights_retrain_algo", "arq", "'arq_retrain' or 'ulq_retrain'"),
        (WEIGHT, "weights_retrain_algo", "ARQ_RETRAIN", "'arq_retrain' or 'ulq_retrain'"),
        (WEIGHT, "weights_retrain_algo", ["arq_retrain"], "'arq_retrain' or 'ulq_retrain'"),
        (WEIGHT, "channel_wise", 1, "True or False"),
        (WEIGHT, "channel_wise", "True", "True or False"),
        (WEIGHT, "s_rec_flag", 0, "True or False"),
    ],
)
def test_a_wrong_value_is_named_with_the_wish(section, key, value, wanted):
    config = {key: value} if section == "config" else {section: {key: value}}
    with pytest.raises(ValueError, match="must be") as error:
        read_config(config, channel_wise=True)
    assert str(error.value) == f"{section}[{key!r}] must be {wanted}, got {value!r}"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"retrain": True}, r"config has no key 'retrain'; did you mean 'retrain_enable'\?"),
        ({"retrain_data": {}}, r"config has no key 'retrain_data'; did you mean '\w+'\?"),
        ({3: {}}, r"config has no key 3 \(known: retrain_data_config, retrain_enable, "),
        (
            {DATA: {"batch_nums": 3}},
            r"retrain_data_config has no key 'batch_nums'; did you mean 'batch_num'\?",
        ),
        (
            {DATA: {"channel_wise": True}},
            r"retrain_data_config has no key 'channel_wise' \(known: asymmetric, batch_num, ",
        ),
        (
            {WEIGHT: {"weight_retrain_algo": "arq_retrain"}},
            r"retrain_weight_config has no key 'weight_retrain_algo'; "
            r"did you mean 'weights_retrain_algo'\?",
        ),
        # An unknown key is an unknown key, given or not.
        ({WEIGHT: {"bits": None}}, r"retrain_weight_config has no key 'bits'"),
    ],
)
def test_an_unknown_key_is_named_with_its_section(config, message):
    with pytest.raises(ValueError, match=message):
        read_config(config, channel_wise=True)


@pytest.mark.parametrize(
    ("data", "high", "low"),
    [
        ({"clip_max": -1.0, "clip_min": 1.0}, -1.0, 1.0),
        ({"clip_max": 1.0, "clip_min": 2.0}, 1.0, 2.0),
        ({"clip_max": 2.0, "clip_min": 1.0}, 2.0, 1.0),
        ({"clip_max": -0.5, "clip_min": -1.0}, -0.5, -1.0),
        ({"clip_max": 0.0}, 0.0, -1.0),
        ({"clip_max": -1.0, "fixed_min": True}, -1.0, 0.0),
    ],
)
def test_clips_that_do_not_hold_0_or_cross_are_refused(data, high, low):
    message = rf"needs clip_max > 0 >= clip_min, got clip_max={high}, clip_min={low}"
    with pytest.raises(ValueError, match=message):
        read(data)


@pytest.mark.parametrize("fixed_min", [True, False])
def test_clip_min_alone_is_refused(fixed_min):
    message = r"retrain_data_config\['clip_min'\] = -1.0 needs a clip_max too, got none"
    with pytest.raises(ValueError, match=message):
        read({"clip_min": -1, "fixed_min": fixed_min})


def test_a_config_is_read_from_any_mapping_and_cannot_be_changed():
    from types import MappingProxyType

    config = read_config(MappingProxyType({"retrain_enable": False}), channel_wise=True)
    with pytest.raises(AttributeError, match="enabled"):
        config.enabled = True
