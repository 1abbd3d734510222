"""model-config.yaml: typed values, clear refusals, warnings for what looks like a slip."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau.model_store.errors import InvalidModelError
from flambeau.model_store.manifest import ModelConfig, TorchrunConfig, parse_model_config
from flambeau.model_store.model_config import WarmUp

FILE = "model-config.yaml"


def config_of(text: str) -> ModelConfig:
    config, warnings = parse_model_config(text, FILE)
    assert warnings == ()
    return config


def warnings_of(text: str) -> tuple[str, ...]:
    return parse_model_config(text, FILE)[1]


def refusal_of(text: str) -> str:
    with pytest.raises(InvalidModelError) as caught:
        parse_model_config(text, FILE)
    assert caught.value.status == 400
    return caught.value.message


def test_every_key_is_read_into_its_field() -> None:
    text = """
minWorkers: 1
maxWorkers: 2
batchSize: 3
maxBatchDelay: 4
responseTimeout: 5
startupTimeout: 6
deviceType: gpu
deviceIds: [1, 0]
jobQueueSize: 7
clientTimeoutInMills: 8
queueTimeout: 25
maxRetryTimeoutInSec: 9
batching: adaptive
latencyTarget: 22ms
retryLostBatch: 0
isolateFailures: false
queueDiscipline: lifo_on_overload
shareWeight: 15
parallelType: pp
parallelLevel: 4
torchrun:
  nnodes: 1
  nproc-per-node: 4
  rdzv-backend: c10d
  rdzv-endpoint: localhost:29500
  rdzv-conf: a=b
  monitor-interval: 5
  node-rank: 0
  OMP_NUMBER_THREADS: 2
useJobTicket: true
continuousBatching: false
sequenceBatching: false
sequenceMaxIdleMSec: 10
sequenceTimeoutMSec: 11
maxSequenceJobQueueSize: 12
maxNumSequence: 13
asyncCommunication: true
maxConcurrency: 14
useVenv: false
maxRequestsPerWorker: 15
maxWorkerMemory: 16
maxWorkerAge: 17
warmUp: [{data: x}]
recordRequests: 18
targetQueueDelay: 19
scaleDownAfter: 20
idleTimeout: 21
coldStart: reject
handler:
  profile: true
"""
    config = config_of(text)
    assert config == ModelConfig(
        min_workers=1,
        max_workers=2,
        batch_size=3,
        max_batch_delay=4,
        response_timeout=5,
        startup_timeout=6,
        device_type="gpu",
        device_ids=(1, 0),
        job_queue_size=7,
        client_timeout_in_mills=8,
        queue_timeout=25,
        max_retry_timeout_in_sec=9,
        batching="adaptive",
        latency_target=22.0,
        retry_lost_batch=0,
        isolate_failures=False,
        queue_discipline="lifo_on_overload",
        share_weight=15,
        parallel_type="pp",
        parallel_level=4,
        torchrun=TorchrunConfig(1, 4, "c10d", "localhost:29500", "a=b", 5, 0, 2),
        use_job_ticket=True,
        continuous_batching=False,
        sequence_batching=False,
        sequence_max_idle_msec=10,
        sequence_timeout_msec=11,
        max_sequence_job_queue_size=12,
        max_num_sequence=13,
        async_communication=True,
        max_concurrency=14,
        use_venv=False,
        max_requests_per_worker=15,
        max_worker_memory=16,
        max_worker_age=17,
        warm_up=(WarmUp(None, None, "x", "text/plain", 1),),
        record_requests=18,
        target_queue_delay=19,
        scale_down_after=20,
        idle_timeout=21,
        cold_start="reject",
    )
    # The text above names every field: none was forgotten.
    assert None not in [getattr(config, each.name) for each in dataclasses.fields(config)]


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("50", 50), ("50ms", 50), ("50 ms", 50), ("1.5s", 1500), ("0.25s", 250), ("2.5ms", 2.5)],
)
def test_a_target_may_have_a_unit(text: str, milliseconds: float) -> None:
    assert config_of(f"latencyTarget: {text}").latency_target == milliseconds


@pytest.mark.parametrize(
    "text", ["0", "-5", "0.5", "50 m", "fast", "0.5ms", "true", "[50]", "1e3s", "99999999s", "٣ms"]
)
def test_a_target_must_be_a_time(text: str) -> None:
    message = refusal_of(f"latencyTarget: {text}")
    assert "give milliseconds, at least 1, such as 50, 50ms or 1.5s" in message


def test_fixed_batches_have_no_target() -> None:
    message = refusal_of("latencyTarget: 50\nbatching: fixed")
    assert message == (
        "model-config.yaml: batching: 'fixed' is not allowed; give 'adaptive', or no latencyTarget"
    )


@pytest.mark.parametrize(
    ("key", "others"), [("sequenceBatching", "sequenceMaxIdleMSec: 10"), ("continuousBatching", "")]
)
def test_a_target_without_batches_to_form_is_warned_of(key: str, others: str) -> None:
    (warning,) = warnings_of(f"latencyTarget: 50\n{key}: true\n{others}")
    assert warning == f"model-config.yaml: latencyTarget has no effect with {key}"


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "{}", "null", "batchSize:\n"])
def test_a_file_that_says_nothing_configures_nothing(text: str) -> None:
    assert config_of(text) == ModelConfig()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "batchSize: eight",
            "batchSize: 'eight' is not allowed; give a whole number of at least 1",
        ),
        ("batchSize: '8'", "batchSize: '8' is not allowed; give a whole number of at least 1"),
        ("batchSize: 0", "batchSize: 0 is not allowed; give a whole number of at least 1"),
        ("batchSize: 2.0", "batchSize: 2.0 is not allowed; give a whole number of at least 1"),
        ("batchSize: true", "batchSize: True is not allowed; give a whole number of at least 1"),
        ("batchSize: [8]", "batchSize: [8] is not allowed; give a whole number of at least 1"),
        (
            "batchSize: 2147483648",
            "batchSize: 2147483648 is not allowed; give a whole number of at least 1",
        ),
        (
            "maxBatchDelay: -1",
            "maxBatchDelay: -1 is not allowed; give a whole number of at least 0",
        ),
        (
            "responseTimeout: 0",
            "responseTimeout: 0 is not allowed; give a whole number of at least 1",
        ),
        ("deviceType: tpu", "deviceType: 'tpu' is not allowed; give 'cpu' or 'gpu'"),
        ("deviceType: [cpu]", "deviceType: ['cpu'] is not allowed; give 'cpu' or 'gpu'"),
        (
            "deviceIds: 0",
            "deviceIds: 0 is not allowed; give a list of GPU numbers such as [0, 1]",
        ),
        (
            "deviceIds: [0, true]",
            "deviceIds: [0, True] is not allowed; give a list of GPU numbers such as [0, 1]",
        ),
        (
            "deviceIds: [-1]",
            "deviceIds: [-1] is not allowed; give a list of GPU numbers such as [0, 1]",
        ),
        (
            "batching: sometimes",
            "batching: 'sometimes' is not allowed; give 'adaptive' or 'fixed'",
        ),
        (
            "parallelType: xx",
            "parallelType: 'xx' is not allowed; give 'pp' or 'tp' or 'pptp' or 'custom'",
        ),
        ("useVenv: 1", "useVenv: 1 is not allowed; give true or false"),
        ("useVenv: 'yes'", "useVenv: 'yes' is not allowed; give true or false"),
        ("torchrun: 4", "torchrun: 4 is not allowed; give a mapping of keys to values"),
        (
            "torchrun: {nproc-per-node: gpu}",
            "torchrun: nproc-per-node: 'gpu' is not allowed; give a whole number of at least 1",
        ),
        (
            "torchrun: {nnodes: 2}",
            "torchrun: nnodes: 2 is not allowed; give 1: the processes of a worker run on one host",
        ),
        (
            "{minWorkers: 3, maxWorkers: 2}",
            "minWorkers: 3 is not allowed; give at most maxWorkers, which is 2",
        ),
    ],
)
def test_a_bad_value_is_told_with_file_key_value_and_what_is_allowed(
    line: str, message: str
) -> None:
    assert refusal_of(line) == f"{FILE}: {message}"


def test_a_very_long_value_is_cut_short_in_the_message() -> None:
    assert len(refusal_of(f"batchSize: {'x' * 10_000}")) < 200
    assert "so large a number" in refusal_of(f"batchSize: 0x{'f' * 10_000}")


def test_min_workers_alone_means_as_many_at_most() -> None:
    assert config_of("minWorkers: 2") == ModelConfig(min_workers=2, max_workers=2)
    assert config_of("{minWorkers: 2, maxWorkers: 0}") == ModelConfig(min_workers=2, max_workers=2)
    assert config_of("maxWorkers: 2") == ModelConfig(max_workers=2)


@pytest.mark.parametrize(
    "line", ["maxWorkers: 0", "jobQueueSize: 0", "parallelType: ''", "deviceIds: []"]
)
def test_torchserves_ways_to_say_unset_are_understood(line: str) -> None:
    assert config_of(line) == ModelConfig()


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("BatchSize", "batchSize"),
        ("batch_size", "batchSize"),
        ("bacthSize", "batchSize"),
        ("minWorker", "minWorkers"),
        ("max-batch-delay", "maxBatchDelay"),
        ("response_timeout", "responseTimeout"),
        ("deviceId", "deviceIds"),
    ],
)
def test_a_misspelt_key_is_named_with_the_nearest_one(key: str, nearest: str) -> None:
    assert warnings_of(f"{key}: 1") == (
        f"{FILE}: the server does not know the key {key!r} and leaves it to the handler; "
        f"did you mean {nearest!r}?",
    )


@pytest.mark.parametrize(
    "key",
    [
        "handler",
        "pt2",
        "micro_batching",
        "pippy",
        "deepspeed",
        "dali",
        "model_path",
        "12",
        "labels",
    ],
)
def test_keys_that_belong_to_the_handler_do_not_warn(key: str) -> None:
    assert warnings_of(f"{key}: {{a: 1}}") == ()


def test_unknown_torchrun_parameters_are_named() -> None:
    assert warnings_of("{parallelType: tp, torchrun: {nnode: 1, log-dir: x, 3: 4}}") == (
        f"{FILE}: torchrun: unsupported parameter 'nnode' is ignored; did you mean 'nnodes'?",
        f"{FILE}: torchrun: unsupported parameter 'log-dir' is ignored",
        f"{FILE}: torchrun: unsupported parameter 3 is ignored",
    )


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            "parallelLevel: 2",
            "parallelLevel has no effect without parallelType; give 'tp', 'pp', 'pptp' or 'custom'",
        ),
        (
            "torchrun: {nproc-per-node: 2}",
            "torchrun has no effect without parallelType; give 'tp', 'pp', 'pptp' or 'custom'",
        ),
        (
            "{parallelType: tp, parallelLevel: 2, continuousBatching: true}",
            "with parallelType 'tp' a worker has one request or batch in work at a time, in spite "
            "of continuousBatching",
        ),
        ("parallelType: tp", "parallelType has no effect without parallelLevel or torchrun"),
        (
            "{parallelType: tp, parallelLevel: 4, torchrun: {nproc-per-node: 2}}",
            "parallelLevel 4 is not used; torchrun's nproc-per-node, which is 2, counts",
        ),
    ],
)
def test_keys_for_several_processes_that_do_nothing_are_named(text: str, warning: str) -> None:
    assert warnings_of(text) == (f"{FILE}: {warning}",)


@pytest.mark.parametrize(
    "text", ["{parallelType: tp, parallelLevel: 2}", "{parallelType: pp, torchrun: {}}"]
)
def test_keys_for_several_processes_that_belong_together_do_not_warn(text: str) -> None:
    assert warnings_of(text) == ()


def test_a_key_that_is_given_twice_is_reported() -> None:
    config, warnings = parse_model_config("batchSize: 1\nhandler: {a: 1, a: 2}\nbatchSize: 4", FILE)
    assert config.batch_size == 4
    assert warnings == (
        f"{FILE}: line 3: the key 'batchSize' is given more than once; the last one counts",
        f"{FILE}: line 2: the key 'a' is given more than once; the last one counts",
    )


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: b: c", "line 1: mapping values are not allowed here"),
        ("batchSize: 8\n  x: [", "line 2: "),
        ("\t- x", "line 1: "),
        ("- batchSize", "is not allowed at the top; give keys and values"),
        ("just text", "'just text' is not allowed at the top"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("a: *nowhere", "found undefined alias"),
        ("a: !!bool maybe", "not valid YAML"),
        ("a: !!timestamp maybe", "not valid YAML"),
        ("a: 2026-99-99", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("[a]: b\n? [c]\n: d", "unhashable key"),
        ("[" * 5_000, "nested too deeply"),
    ],
)
def test_broken_yaml_is_refused_with_its_place(text: str, part: str) -> None:
    message = refusal_of(text)
    assert message.startswith(f"{FILE}: ")
    assert part in message


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch pwned']",
        "a: !!python/name:os.system",
        "a: !!python/object/new:subprocess.Popen [['true']]",
    ],
)
def test_a_file_that_wants_to_run_code_is_refused(text: str) -> None:
    assert "could not determine a constructor" in refusal_of(text)


def test_a_bomb_of_aliases_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 10):
        aliases = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} [{aliases}]")
    assert "once its aliases are expanded" in refusal_of("\n".join(lines))


def test_a_bomb_of_merge_keys_is_refused() -> None:
    lines = ["a0: &a0 {x: 1}"] + [
        f"a{level}: &a{level} {{<<: [*a{level - 1}, *a{level - 1}], k{level}: 1}}"
        for level in range(1, 30)
    ]
    assert "once its aliases are expanded" in refusal_of("\n".join(lines))


def test_an_alias_that_contains_itself_is_refused() -> None:
    assert "an alias contains itself" in refusal_of("a: &a [*a]")


def test_ordinary_aliases_and_merge_keys_work() -> None:
    config = config_of("handler: &h {batchSize: 4}\n<<: *h\nminWorkers: 1")
    assert (config.batch_size, config.min_workers) == (4, 1)


def test_an_enormous_file_is_refused() -> None:
    assert "larger than" in refusal_of("# " + "x" * 300_000)


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_model_config(text, FILE)
    except InvalidModelError:
        pass


keys = st.sampled_from(["batchSize", "minWorkers", "deviceIds", "torchrun", "batching", "<<"])
scalars = st.sampled_from(["1", "0", "-3", "yes", "x", "[1]", "{a: 1}", "!!int z", "&a [*a]", "~"])


@given(st.lists(st.tuples(keys, scalars), max_size=6))
def test_any_combination_of_values_is_read_or_refused(pairs: list[tuple[str, str]]) -> None:
    try:
        config, _ = parse_model_config("\n".join(f"{k}: {v}" for k, v in pairs), FILE)
    except InvalidModelError:
        return
    assert config.batch_size is None or config.batch_size >= 1
    assert config.min_workers is None or config.min_workers <= (config.max_workers or 0)


def test_requests_for_the_warm_up():
    text = """
warmUp:
  - {file: samples/cat.jpg, contentType: image/jpeg, times: 3}
  - {json: {x: [1, 2]}}
  - {data: some text}
"""
    config, warnings = parse_model_config(text, "model-config.yaml")
    assert warnings == ()
    assert [(w.file, w.json, w.data, w.content_type, w.times) for w in config.warm_up] == [
        ("samples/cat.jpg", None, None, "image/jpeg", 3),
        (None, '{"x": [1, 2]}', None, "application/json", 1),
        (None, None, "some text", "text/plain", 1),
    ]


@pytest.mark.parametrize(
    "entry",
    [
        "{file: ../secret}",
        "{file: /etc/passwd}",
        "{file: a, data: b}",
        "{times: 2}",
        "{data: 5}",
        "{data: x, times: 0}",
        "{data: x, content: y}",
        "text",
    ],
)
def test_what_is_no_request_for_the_warm_up(entry):
    with pytest.raises(InvalidModelError, match=r"warmUp: .* is not allowed; give a list of"):
        parse_model_config(f"warmUp: [{entry}]", "model-config.yaml")
