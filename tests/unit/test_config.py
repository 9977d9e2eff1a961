"""Settings: profile < environment < flags; what is wrong is named with its bounds; secrets stay out of messages."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from judgify_engine import config
from judgify_engine.config import Config, load
from judgify_engine.errors import SettingsError


def profile(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def refusal(profile: str | None = None, flags: dict[tuple[str, ...], Any] | None = None, **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(profile, flags, environ)
    return caught.value.detail


def test_flags_override_environment_which_overrides_profile(tmp_path: Path) -> None:
    mine = profile(tmp_path, "[http]\nport = 1\nbacklog = 1\nhost = 'a'\n")
    found = load(mine, {("http", "port"): 3}, {"JUDGIFY_HTTP_PORT": "2", "JUDGIFY_HTTP_BACKLOG": "2"})
    assert (found.http.port, found.http.backlog, found.http.host) == (3, 2, "a")
    assert found.profile == "mine"


def test_short_and_long_names_mean_the_same() -> None:
    assert load(None, None, {"JUDGIFY_PORT": "81"}) == load(None, None, {"JUDGIFY_HTTP_PORT": "81"})
    short = load(None, None, {"JUDGIFY_DATABASE_URL": "postgresql://h/d", "JUDGIFY_DATA_DIR": "x", "JUDGIFY_WORKERS": "1"})
    assert (short.database.url, short.data_dir, short.workers) == ("postgresql://h/d", "x", 1)


def test_embedded_without_a_database_and_standard_with_one() -> None:
    alone = load(None, None, {})
    named = load(None, None, {"JUDGIFY_DATABASE_URL": "postgresql://h/d"})
    assert (alone.profile, alone.embedded) == ("embedded", True)
    assert (named.profile, named.embedded) == ("standard", False)
    assert load(None, {("database", "url"): "postgresql://h/d"}, {}).profile == "standard"


def test_only_the_embedded_profile_knows_the_test_token_and_the_example_workflows() -> None:
    seed, other = load("embedded", None, {}).seed, load("standard", None, {}).seed
    assert (seed.token, seed.tenant, seed.workflows) == ("test-token", "demo", 10)
    assert (other.token, other.workflows, other.page_code) == ("", 0, False)


def test_profile_comes_from_argument_then_environment() -> None:
    assert load(None, None, {"JUDGIFY_PROFILE": "standard"}).profile == "standard"
    assert load("embedded", None, {"JUDGIFY_PROFILE": "standard"}).profile == "embedded"


@pytest.mark.parametrize("days", ["1", "6"])
def test_judgments_are_kept_for_ever_or_at_least_a_week(days: str) -> None:
    assert refusal(JUDGIFY_KEEP_JUDGMENTS_DAYS=days) == f"keep.judgments_days must be 0 (for ever) or at least 7, got {days}"
    assert load(None, None, {"JUDGIFY_KEEP_JUDGMENTS_DAYS": "7"}).keep.judgments_days == 7
    assert load(None, None, {}).keep.judgments_days == 0
    assert "keep.partition" in refusal(JUDGIFY_KEEP_PARTITION="year")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"IN_CPU": "0.75"}, "scaling.in_cpu must be at most scaling.target_cpu (0.7), got 0.75"),
        ({"OUT_MEMORY": "0.5"}, "scaling.target_memory must be at most scaling.out_memory (0.5), got 0.8"),
        ({"IN_RESPONSE_MS": "5000"}, "scaling.in_response_ms must be at most scaling.out_response_ms (3000), got 5000"),
        ({"MIN_WORKERS": "5", "MAX_WORKERS": "4"}, "scaling.min_workers must be at most scaling.max_workers (4), got 5"),
        ({"MIN_REPLICAS": "21"}, "scaling.min_replicas must be at most scaling.max_replicas (20), got 21"),
        ({"REPORT_INTERVAL_S": "61"}, "scaling.report_interval_s must be at most scaling.window_s (60), got 61"),
        ({"EXECUTOR": "kubernetes"}, "scaling.kubernetes_name must name what is scaled where scaling.executor is kubernetes"),
    ],
)
def test_thresholds_that_would_make_it_flap_are_refused(given: dict[str, str], message: str) -> None:
    assert refusal(**{f"JUDGIFY_SCALING_{name}": value for name, value in given.items()}) == message
    assert load(None, None, {"JUDGIFY_SCALING_MIN_WORKERS": "5"}).scaling.max_workers == 0


def test_every_default_is_within_its_own_bounds() -> None:
    assert msgspec.convert(msgspec.to_builtins(Config()), Config) == Config()


def test_every_key_can_be_given_by_the_environment() -> None:
    tree = msgspec.to_builtins(Config())
    environ = {
        f"JUDGIFY_{section}_{key}".upper(): str(value)
        for section, keys in tree.items()
        if isinstance(keys, dict)
        for key, value in keys.items()
    }
    environ["JUDGIFY_DATABASE_URL"] = "postgresql://h/d"
    found = msgspec.to_builtins(load("standard", None, environ))
    tree["database"]["url"], tree["profile"] = "postgresql://h/d", "standard"
    tree["seed"]["token"] = ""
    assert found == tree


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        load(None, None, {}).http.port = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "key", "bound"),
    [
        ("JUDGIFY_PORT", "99999", "http.port", "<= 65535"),
        ("JUDGIFY_PORT", "-1", "http.port", ">= 0"),
        ("JUDGIFY_PORT", "many", "http.port", "`int`"),
        ("JUDGIFY_HTTP_BACKLOG", "0", "http.backlog", ">= 1"),
        ("JUDGIFY_HTTP_MAX_BODY_BYTES", "10", "http.max_body_bytes", ">= 1024"),
        ("JUDGIFY_HTTP_REQUEST_TIMEOUT_S", "0", "http.request_timeout_s", "> 0"),
        ("JUDGIFY_HTTP_REQUEST_TIMEOUT_S", "nan", "http.request_timeout_s", "> 0"),
        ("JUDGIFY_HTTP_REQUEST_TIMEOUT_S", "inf", "http.request_timeout_s", "<= 86400"),
        ("JUDGIFY_QUEUE_PARTITIONS", "65", "queue.partitions", "<= 64"),
        ("JUDGIFY_BATCH_MAX_ROWS", "10001", "batch.max_rows", "<= 10000"),
        ("JUDGIFY_BATCH_MAX_WAIT_S", "1.5", "batch.max_wait_s", "<= 1"),
        ("JUDGIFY_CHANGE_SLOT", "A slot", "change.slot", "^[a-z0-9_]{1,63}$"),
        ("JUDGIFY_LIVE_PUSH_INTERVAL_S", "0.001", "live.push_interval_s", ">= 0.02"),
        ("JUDGIFY_KEEP_LIVE_HOURS", "5", "keep.live_hours", ">= 6"),
        ("JUDGIFY_LOG_FORMAT", "xml", "log.format", "xml"),
        ("JUDGIFY_SEED_PAGE_CODE", "maybe", "seed.page_code", "`bool`"),
        ("JUDGIFY_WORKERS", "257", "workers", "<= 256"),
    ],
)
def test_a_wrong_value_names_key_bounds_and_what_came(name: str, value: str, key: str, bound: str) -> None:
    message = refusal(**{name: value})
    assert message.startswith(f"{key}: ")
    assert bound in message
    assert repr(value) in message


def test_a_wrong_value_in_the_profile_is_named_the_same_way(tmp_path: Path) -> None:
    message = refusal(profile(tmp_path, "[queue]\npartitions = 0\n"))
    assert message.startswith("queue.partitions: ")
    assert ">= 1" in message
    assert "got 0" in message


def test_the_smallest_batch_is_at_most_the_largest() -> None:
    message = refusal(JUDGIFY_BATCH_MIN_ROWS="2000")
    assert "batch.min_rows" in message
    assert "1000" in message
    assert "2000" in message


@pytest.mark.parametrize("rest", ["h:port", "h:80/path?x", "h h", "h#x"])
def test_a_proxy_that_is_none_is_refused_without_its_password(rest: str) -> None:
    message = refusal(JUDGIFY_ACTIONS_PROXY=f"http://user:secret@{rest}")
    assert message.startswith("actions.proxy: ")
    assert "secret" not in message


@pytest.mark.parametrize("text", ["prot = 1", "[http]\nprot = 1", "[htp]\nport = 1"])
def test_a_misspelt_key_is_refused(tmp_path: Path, text: str) -> None:
    message = refusal(profile(tmp_path, text))
    assert "unknown field" in message
    assert "`prot`" in message or "`htp`" in message


def test_a_misspelt_variable_is_refused_and_the_known_ones_named() -> None:
    message = refusal(JUDGIFY_PROT="8000")
    assert "JUDGIFY_PROT" in message
    assert "JUDGIFY_PORT" in message


def test_an_empty_variable_is_one_that_was_not_set() -> None:
    assert load(None, None, {"JUDGIFY_DATABASE_URL": "", "JUDGIFY_PORT": ""}) == load(None, None, {})


@pytest.mark.parametrize("name", [*config.FOREIGN[1:], "JUDGIFY_TEST_DATABASE_URL", "PATH"])
def test_variables_of_others_are_let_be(name: str) -> None:
    assert load(None, None, {name: "x"}) == load(None, None, {})


def test_an_unknown_profile_names_the_known_ones() -> None:
    message = refusal("nosuch")
    assert "nosuch" in message
    assert "embedded" in message
    assert "standard" in message


def test_a_profile_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    assert "mine.toml" in refusal(profile(tmp_path, "port 8000"))


@pytest.mark.parametrize(
    "text",
    [
        "[database]\nurl = ['postgresql://u:geheim@h/d']",
        "[database]\nurll = 'postgresql://u:geheim@h/d'",
        "database = 'postgresql://u:geheim@h/d'",
        "[seed]\ntoken = ['geheim']",
        "[seed]\ntokn = 'geheim'",
        "seed = 'geheim'",
    ],
)
def test_secrets_stay_out_of_messages(tmp_path: Path, text: str) -> None:
    assert "geheim" not in refusal(profile(tmp_path, text))


def test_a_secret_in_the_environment_stays_out_of_messages() -> None:
    message = refusal(JUDGIFY_DATABASE_URL="postgresql://u:geheim@h/d", JUDGIFY_SEED_TOKEN="geheim", JUDGIFY_PORT="x")
    assert "geheim" not in message


@pytest.mark.parametrize("environ", [{}, {"JUDGIFY_PORT": "81"}])
def test_a_value_where_a_section_belongs_is_a_settings_error(tmp_path: Path, environ: dict[str, str]) -> None:
    assert refusal(profile(tmp_path, "http = 5"), **environ).startswith("http")
