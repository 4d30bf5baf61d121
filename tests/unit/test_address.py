"""Server URLs: every form, every default, and no secret in any message."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atomq.address import Address, Node
from atomq.errors import AtomqError, InvalidAddress, InvalidOptions
from atomq.options import Options

CHECKED = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
SENTINEL = {"master_name": "mymaster"}


def refused(url: str, **options: Any) -> str:
    with pytest.raises(InvalidAddress) as caught:
        Address.parse(url, **options)
    return str(caught.value)


# ── forms ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("scheme", ["redis", "valkey", "atomq", "REDIS"])
def test_every_part_of_a_tcp_url_has_a_default(scheme: str) -> None:
    address = Address.parse(f"{scheme}://")
    assert (address.kind, address.nodes) == ("tcp", (Node("localhost", 6379),))
    assert (address.host, address.port, address.db) == ("localhost", 6379, 0)
    assert (address.username, address.password, address.tls) == (None, None, None)


@pytest.mark.parametrize("scheme", ["rediss", "valkeys", "atomqs"])
def test_tls_checks_certificate_and_host_name(scheme: str) -> None:
    assert Address.parse(f"{scheme}://h").tls == CHECKED


@pytest.mark.parametrize(
    ("url", "host", "port", "user", "password", "db"),
    [
        ("redis://user:pw@h:63/3", "h", 63, "user", "pw", 3),
        ("redis://:password@hostname:6380/1", "hostname", 6380, None, "password", 1),
        ("redis://:@h", "h", 6379, None, None, 0),
        ("redis://@h/", "h", 6379, None, None, 0),
        ("redis://h/7/", "h", 6379, None, None, 7),
        ("redis://h:1", "h", 1, None, None, 0),
        ("redis://h:65535", "h", 65535, None, None, 0),
        ("redis:///4", "localhost", 6379, None, None, 4),
        ("redis://[::1]:63/2", "::1", 63, None, None, 2),
        ("redis://u:p@[fe80::1%25eth0]", "fe80::1%eth0", 6379, "u", "p", 0),
        ("redis://u:a%40b%2Fc%3A%23%3F%25@h", "h", 6379, "u", "a@b/c:#?%", 0),
        ("redis://u:a@b@h", "h", 6379, "u", "a@b", 0),
        ("redis://u:a:b@h", "h", 6379, "u", "a:b", 0),
        ("redis://u:a+b@h", "h", 6379, "u", "a+b", 0),
        ("redis://u:a;b@h", "h", 6379, "u", "a;b", 0),
        ("redis://us%C3%A9r:p@h", "h", 6379, "usér", "p", 0),
        ("redis://h?virtual_host=5", "h", 6379, None, None, 5),
        ("redis://h?db=5", "h", 6379, None, None, 5),
        ("redis://h/1?db=5", "h", 6379, None, None, 5),
        ("redis://h?password=a%26b&username=u", "h", 6379, "u", "a&b", 0),
        (" redis://h\n", "h", 6379, None, None, 0),
    ],
)
def test_parts_of_a_tcp_url(
    url: str, host: str, port: int, user: str | None, password: str | None, db: int
) -> None:
    address = Address.parse(url)
    assert (address.host, address.port, address.db) == (host, port, db)
    assert (address.username, address.password) == (user, password)


@pytest.mark.parametrize(
    "scheme", ["redis+socket", "valkey+socket", "atomq+socket", "unix", "socket"]
)
@pytest.mark.parametrize("name", ["virtual_host", "db"])
def test_a_unix_socket(scheme: str, name: str) -> None:
    address = Address.parse(f"{scheme}:///path/to/redis.sock?{name}=3")
    assert (address.kind, address.path, address.db) == ("unix", "/path/to/redis.sock", 3)
    assert (address.nodes, address.host, address.port, address.tls) == ((), None, None, None)
    assert Address.parse(f"{scheme}:///path/to/redis.sock").db == 0


def test_a_unix_socket_with_a_user_and_an_odd_path() -> None:
    address = Address.parse("redis+socket://u:p%40w@/run/a%20b%3Fc@d.sock")
    assert (address.username, address.password) == ("u", "p@w")
    assert address.path == "/run/a b?c@d.sock"


@pytest.mark.parametrize("scheme", ["sentinel", "atomq-sentinel"])
def test_sentinels_with_user_and_database_of_the_first_url(scheme: str) -> None:
    address = Address.parse(
        f"{scheme}://u:pw@a:26380/3;{scheme}://other:x@b/9;{scheme}://[::1]", **SENTINEL
    )
    assert (address.kind, address.master_name) == ("sentinel", "mymaster")
    assert address.nodes == (Node("a", 26380), Node("b", 26379), Node("::1", 26379))
    assert (address.host, address.port) == ("a", 26380)
    assert (address.username, address.password, address.db) == ("u", "pw", 3)
    assert (address.tls, address.sentinel_tls) == (None, False)


@pytest.mark.parametrize("scheme", ["sentinels", "atomqs-sentinel"])
def test_sentinels_over_tls(scheme: str) -> None:
    address = Address.parse(f"{scheme}://a", **SENTINEL)
    assert (address.tls, address.sentinel_tls) == (CHECKED, True)


def test_tls_settings_with_plain_sentinels_are_for_the_server_alone() -> None:
    address = Address.parse("sentinel://a", **SENTINEL, ssl={"ssl_ca_certs": "/ca"})
    assert (address.tls, address.sentinel_tls) == ({**CHECKED, "ssl_ca_certs": "/ca"}, False)


@pytest.mark.parametrize(
    ("scheme", "tls"),
    [
        ("redis+cluster", None),
        ("valkey+cluster", None),
        ("atomq-cluster", None),
        ("rediss+cluster", CHECKED),
        ("valkeys+cluster", CHECKED),
        ("atomqs-cluster", CHECKED),
    ],
)
def test_cluster_nodes(scheme: str, tls: dict[str, Any] | None) -> None:
    address = Address.parse(f"{scheme}://u:p@a:7000;{scheme}://b")
    assert (address.kind, address.nodes) == ("cluster", (Node("a", 7000), Node("b", 6379)))
    assert (address.username, address.password, address.tls) == ("u", "p", tls)


@pytest.mark.parametrize(("scheme", "of_one"), [("redis", "redis"), ("valkeys", "rediss")])
def test_a_node_of_a_cluster_is_reached_as_the_cluster_is(scheme: str, of_one: str) -> None:
    address = Address.parse(f"{scheme}+cluster://u:p@a;{scheme}+cluster://b", lease=7)
    node = address.of_node("c", 7000)
    assert (node.kind, node.safe_url) == ("tcp", f"{of_one}://u:***@c:7000/0")
    assert (node.password, node.tls, node.options) == ("p", address.tls, address.options)


def test_an_embedded_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    here = tmp_path.resolve()
    assert Address.parse("embedded:///var/lib/my%20queue").directory == "/var/lib/my queue"
    assert Address.parse("embedded:/var/lib/q").directory == "/var/lib/q"
    assert Address.parse("embedded:queue/../data").directory == str(here / "data")
    assert Address.parse("embedded:~/q").directory == "/home/somebody/q"
    assert Address.parse("embedded:///x?db=2").db == 2
    assert Address.parse("redis://h").directory is None


@pytest.mark.parametrize(
    ("url", "name", "db"),
    [("memory://", "", 0), ("memory:", "", 0), ("memory://a", "a", 0), ("memory://a/2", "a", 2)],
)
def test_memory(url: str, name: str, db: int) -> None:
    address = Address.parse(url)
    assert (address.kind, address.path, address.db) == ("memory", name, db)


# ── URL and options together ──────────────────────────────────────────────────────────────────


def test_the_query_sets_options_by_their_type() -> None:
    query = "socket_timeout=7&socket_keepalive=no&priority_steps=0,5&client_name=w%31"
    options = Address.parse(f"redis://h?{query}").options
    assert (options.socket_timeout, options.socket_keepalive) == (7.0, False)
    assert (options.priority_steps, options.client_name) == ((0, 5), "w1")


def test_the_query_wins_over_options_and_both_are_kept() -> None:
    address = Address.parse("redis://h?lease=7", {"lease": 1, "prefetch": 2}, max_bytes=3)
    assert address.options == Options(lease=7, prefetch=2, max_bytes=3)
    base = Options.of(lease=1, prefetch=2)
    assert Address.parse("redis://h?lease=7", base).options == Options(lease=7, prefetch=2)


def test_the_url_s_user_and_database_win_over_the_options() -> None:
    given = {"username": "a", "password": "b", "virtual_host": 4}
    assert Address.parse("redis://h", given).options == Options(**given)  # type: ignore[arg-type]
    address = Address.parse("redis://u:p@h/0", given)
    assert (address.username, address.password, address.db) == ("u", "p", 0)
    assert Address.parse("redis://:p@h", given).username == "a"


def test_a_credential_provider_takes_the_place_of_user_and_password() -> None:
    address = Address.parse("redis://u:p@h", credential_provider="package.Class")
    assert (address.username, address.password) == (None, None)
    assert address.options.credential_provider == "package.Class"


def test_a_url_names_no_provider_unless_the_environment_or_an_option_allows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = "redis://u:p@h?credential_provider=package.Class"
    monkeypatch.setenv("ATOMQ_CREDENTIAL_PROVIDERS", "other.Class")
    with pytest.raises(InvalidOptions, match="ATOMQ_CREDENTIAL_PROVIDERS"):
        Address.parse(url)
    assert Address.parse(url, credential_provider="package.Class").username is None
    monkeypatch.setenv("ATOMQ_CREDENTIAL_PROVIDERS", "other.Class, package:Class")
    assert Address.parse(url).options.credential_provider == "package.Class"


def test_tls_settings_in_the_query() -> None:
    query = "ssl_cert_reqs=none&ssl_check_hostname=false&ssl_ca_certs=/ca.pem"
    expected = {"ssl_cert_reqs": "none", "ssl_check_hostname": False, "ssl_ca_certs": "/ca.pem"}
    assert Address.parse(f"rediss://h?{query}").tls == expected
    assert Address.parse(f"redis://h?{query}").tls == expected
    unchecked = Address.parse("rediss://h?ssl_cert_reqs=none").tls
    assert unchecked == {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    assert Address.parse("redis://h", ssl=True).tls == CHECKED
    assert Address.parse("redis://h", ssl={}).tls is None
    assert Address.parse("redis+socket:///s", ssl=True).tls is None


@pytest.mark.parametrize("url", ["embedded:///x", "memory://", "unix:///s", "redis://h"])
def test_no_tls_is_what_servers_without_it_have(url: str) -> None:
    assert Address.parse(url, ssl=False).tls is None


@pytest.mark.parametrize(
    ("url", "options", "name"),
    [
        ("redis://h?sockt_timeout=5", {}, "sockt_timeout"),
        ("redis://h?socket_timeout=x", {}, "socket_timeout"),
        ("redis://h", {"visibility_timeout": 3600.5}, "visibility_timeout"),
        ("redis://h", {"virtual_host": "x"}, "virtual_host"),
        ("redis://h/0", {"virtual_host": "x"}, "virtual_host"),
        ("redis://h/0", {"db": "x"}, "db"),
        ("redis://h?virtual_host=0", {"db": -1}, "db"),
        ("redis://h/0", {"db": 3, "virtual_host": 4}, "db"),
        ("redis://u:p@h", {"username": 5}, "username"),
        ("redis://h?lease=3", {"lease": 0}, "lease"),
        ("redis://h?ssl_cert_reqs=none", {"ssl_cert_reqs": "often"}, "ssl_cert_reqs"),
        ("rediss://h", {"ssl": False}, "ssl"),
        ("rediss://h?ssl_cert_reqs=none&ssl_check_hostname=true", {}, "ssl_check_hostname"),
        ("sentinel://h", {}, "master_name"),
        ("redis+cluster://h", {"layout": "stock"}, "layout"),
    ],
)
def test_wrong_options_are_named(url: str, options: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidOptions, match=f"^{name}: "):
        Address.parse(url, options)


def test_faults_of_query_and_options_are_listed_together() -> None:
    with pytest.raises(InvalidOptions) as caught:
        Address.parse("redis://h?lease=0&prefech=1", prefetch=0)
    assert len(caught.value.faults) == 3
    with pytest.raises(InvalidOptions) as caught:
        Address.parse("redis://h/1?lease=0&prefech=1", lease=5, db="x", prefech=2)
    assert [fault.partition(":")[0] for fault in caught.value.faults] == ["lease", "prefech", "db"]


# ── what is wrong ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "must begin with its scheme"),
        ("localhost", "must begin with its scheme"),
        ("localhost:6379", "no scheme localhost://"),
        ("http://h", "no scheme http://"),
        ("reddis://h", "did you mean redis://?"),
        ("atomq+sentinel://a", "did you mean atomq-sentinel://?"),
        ("rediss+socket:///s", "did you mean redis+socket://?"),
        ("redis:/h", "followed by //"),
        ("redis://h:0", "from 1 to 65535"),
        ("redis://h:65536", "from 1 to 65535"),
        ("redis://h:-1", "from 1 to 65535"),
        ("redis://h:6379x", "from 1 to 65535"),
        ("redis://::1", "[::1]"),
        ("redis://[::1", "[::1]"),
        ("redis://[::1]6379", "[::1]"),
        ("redis://h/x", "database must be a whole number from 0, got 'x'"),
        ("redis://h/-1", "database must be a whole number from 0, got '-1'"),
        ("redis://h/1.0", "got '1.0'"),
        ("redis://h/0/1", "got '0/1'"),
        ("redis://h?virtual_host=x", "got 'x'"),
        ("redis+socket:///s?virtual_host=-1", "got '-1'"),
        ("redis+socket://run/redis.sock", "three slashes"),
        ("redis+socket://", "three slashes"),
        ("redis+socket:///", "three slashes"),
        ("redis://h/0#x", "%23"),
        ("redis://u:a%FFb@h", "UTF-8"),
        ("redis://u:\ud800@h", "UTF-8"),
        ("redis://h%00", "no blanks"),
        ("redis+socket:///a%00", "three slashes"),
        ("embedded:///a%00", "needs a directory"),
        ("redis://h?lease=1&lease=2", "lease is given twice"),
        ("redis://a;redis://b", "names one server"),
        ("redis://a,b", "several servers"),
        ("sentinel://a:26379,b:26379", "IPv6"),
        ("sentinel://a,b", "sentinel://a:26379;sentinel://b:26379"),
        ("sentinel://a;sentinels://b", "must begin with sentinel://"),
        ("sentinel://a?lease=1;sentinel://b?lease=2", "disagree about lease"),
        ("embedded:", "needs a directory"),
        ("embedded:~0", "no directory"),
        ("embedded:~no-such-user/q", "no directory"),
        ("embedded://", "three slashes"),
        ("embedded://relative/x", "three slashes"),
        ("memory://u:p@x", "no password"),
        ("memory:x", "followed by //"),
    ],
)
def test_a_wrong_url_is_explained(url: str, says: str) -> None:
    assert says in refused(url, **(SENTINEL if "sentinel" in url else {}))


def test_a_url_is_text() -> None:
    assert refused(b"redis://:hunter2@h") == "a server URL must be text, got bytes"  # type: ignore[arg-type]


# ── secrets ───────────────────────────────────────────────────────────────────────────────────

SECRETS = [
    "redis://:hunter2@h:6379/1",
    "redis://hunter2@h",
    "redis://u:hunter2@h",
    "redis://h?password=hunter2",
    "rediss://h?ssl_password=hunter2",
    "redis+socket://u:hunter2@/s",
    "sentinel://:hunter2@a/1;sentinel://u:hunter2@b",
    "redis+cluster://:hunter2@a",
    "valkeys://:hunter2@h?ssl_ca_certs=/ca",
]
BROKEN = [
    "redis://:hunter2",
    "redis://:hunter2:6379",
    "redis://:a/hunter2@h",
    "redis://:a?hunter2@h",
    "redis://:a#hunter2@h",
    "redis://u:hunter2@h/x",
    "redis://u:hunter2@h:x",
    "redis://u:hunter2@h:1:2",
    "redis://u:x@y/hunter2@h",
    "redis://:1/hunter2@h",
    "redis://:1?hunter2@h",
    "reddis://u:hunter2@h",
    ":hunter2@h",
    "redis+socket://:hunter2/x@/s",
    "redis+socket://:hunter2",
    "memory://:hunter2@x",
    "redis://h?ssl_pasword=hunter2",
    "redis://h?pasword=hunter2",
    "redis://h?password=hunter2&password=hunter3",
    "sentinel://:hunter2@a;sentinels://:hunter2@b",
]


@pytest.mark.parametrize("url", SECRETS)
def test_no_repr_and_no_str_shows_a_password(url: str) -> None:
    address = Address.parse(url, SENTINEL)
    for text in (repr(address), str(address), address.safe_url, repr(address.options)):
        assert "hunter" not in text.replace("username='hunter2'", "")


@pytest.mark.parametrize("url", BROKEN)
def test_no_message_shows_a_password(url: str) -> None:
    with pytest.raises(AtomqError) as caught:
        Address.parse(url, SENTINEL)
    assert "hunter" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("redis://", "redis://localhost:6379/0"),
        ("rediss://u%40:p@[::1]:63/3?lease=2", "rediss://u%40:***@[::1]:63/3"),
        ("redis+socket:///a%20b?virtual_host=3", "redis+socket:///a%20b?virtual_host=3"),
        ("sentinel://:p@a/3;sentinel://b", "sentinel://:***@a:26379/3;sentinel://b:26379"),
        ("redis+cluster://a;redis+cluster://b", "redis+cluster://a:6379;redis+cluster://b:6379"),
        ("redis+cluster://a/1", "redis+cluster://a:6379/1"),
        (
            "redis+cluster://a;redis+cluster://b/1",
            "redis+cluster://a:6379/1;redis+cluster://b:6379",
        ),
        ("embedded:///x?db=1", "embedded:///x?db=1"),
        ("memory://x/2", "memory://x/2"),
    ],
)
def test_the_safe_url_names_the_same_server(url: str, safe: str) -> None:
    address = Address.parse(url, SENTINEL)
    assert address.safe_url == str(address) == safe
    again = Address.parse(safe, SENTINEL)
    assert (again.nodes, again.path, again.db) == (address.nodes, address.path, address.db)


_TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)


@given(user=_TEXT, password=_TEXT)
def test_any_encoded_user_and_password_come_back(user: str, password: str) -> None:
    credentials = f"{quote(user, safe='')}:{quote(password, safe='')}"
    for url in (f"redis://{credentials}@h:63/3", f"redis+socket://{credentials}@/s?db=3"):
        address = Address.parse(url)
        assert (address.username, address.password, address.db) == (user, password, 3)


@given(path=_TEXT.filter(lambda path: "\0" not in path))
def test_any_encoded_path_comes_back(path: str) -> None:
    assert Address.parse(f"unix:///{quote(path, safe='')}x").path == f"/{path}x"


@given(text=st.text(max_size=60), scheme=st.sampled_from(["redis://", "unix://", "embedded:", ""]))
def test_any_text_is_an_address_or_our_error(text: str, scheme: str) -> None:
    try:
        address = Address.parse(scheme + text)
    except AtomqError:
        return
    assert address.safe_url


# ── as a value ────────────────────────────────────────────────────────────────────────────────


def test_addresses_are_values() -> None:
    url = "rediss://:p@h/1?ssl_ca_certs=/ca"
    assert Address.parse(url) == Address.parse(url)
    assert len({Address.parse(url), Address.parse(url), Address.parse(f"{url}&lease=2")}) == 2
    assert pickle.loads(pickle.dumps(Address.parse(url))) == Address.parse(url)
