"""Who may ask what, how much and how often; what is kept of it; and that nothing else gets out."""

from __future__ import annotations

import datetime
import json
import logging
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from service_helpers import HTTP, ListedCollection, QuotingGenerator, chat_body, lines_of, routes_of, serving

from hiperrag.errors import UserError
from hiperrag.service import keys
from hiperrag.service.app import create_app
from hiperrag.service.running import _config
from hiperrag.service.settings import ServiceSettings

OPEN = ("/health", "/login")
TEXTS = ("Whales sing in winter.", "Bees dance.")
BROWSER = {"accept": "text/html,application/xhtml+xml"}


@pytest.fixture
def ring(tmp_path, monkeypatch):
    """A file of keys, read again at each request, and the keys of two people: one may ask all, one only `a`."""
    monkeypatch.setattr(keys, "_LOOK_EVERY_S", 0.0)
    file = tmp_path / "keys.json"
    return file, keys.add(file, "Ada", None, None), keys.add(file, "Bob", ["a"], None)


def settings(**more) -> ServiceSettings:
    return ServiceSettings(collections={"a": "a", "b": "b"}, **more)


def make_app(**more):
    collections = {name: ListedCollection(name, TEXTS) for name in ("a", "b")}
    return create_app(settings(**more), collections, QuotingGenerator())


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def search(url: str, collection: str = "a", **more) -> httpx.Response:
    return HTTP.post(f"{url}/v1/search", json={"collection": collection, "query": "whales"}, **more)


def test_every_route_asks_for_a_key(ring):
    app = make_app(keys_file=ring[0])
    routes = routes_of(app)
    assert {("GET", "/"), ("GET", "/openapi.json"), ("POST", "/v1/chat/completions")} <= set(routes)
    with serving(app) as url, httpx.Client(verify=False, base_url=url) as client:
        for method, path in [*routes, ("GET", "/nothing"), ("POST", "/v1/nothing")]:
            for headers in (
                {},
                bearer("hrk_wrong"),
                {"authorization": "Bearer"},
                {"authorization": f"Basic {ring[1]}"},
            ):
                response = client.request(method, path, headers=headers)
                if path in OPEN:
                    assert response.status_code in (200, 422), (method, path)
                else:
                    assert response.status_code == 401, (method, path, headers)
                    assert response.headers["www-authenticate"] == "Bearer"
                    assert method == "HEAD" or set(response.json()["error"]) == {"message", "type", "param", "code"}
        for method, path in routes:
            assert client.request(method, path, headers=bearer(ring[1])).status_code != 401


def test_a_key_opens_its_collections_only(ring):
    with serving(make_app(keys_file=ring[0])) as url:
        assert search(url, "b", headers=bearer(ring[1])).status_code == 200
        assert search(url, "a", headers=bearer(ring[2])).status_code == 200
        for name in ("b", "not there"):  # the one that is there cannot be told from the one that is not
            refused = search(url, name, headers=bearer(ring[2]))
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "collection_forbidden")
        for path, body in (
            ("chat/completions", chat_body("x", model="hiperrag/b")),
            ("embeddings", {"model": "hiperrag/b", "input": "x"}),
            ("rerank", {"model": "hiperrag/b", "query": "x", "documents": ["x"]}),
            ("attributions", {"model": "hiperrag/b", "question": "x", "answer": "x", "passages": ["x"]}),
        ):
            assert HTTP.post(f"{url}/v1/{path}", json=body, headers=bearer(ring[2])).status_code == 403
        models = HTTP.get(f"{url}/v1/models", headers=bearer(ring[2])).json()["data"]
        assert [model["id"] for model in models] == ["hiperrag/a"]
        assert list(HTTP.get(f"{url}/ready", headers=bearer(ring[2])).json()["collections"]) == ["a"]
        for path in ("collections/b", "collections/b/passages/p1", "collections/b/passages/p1/pages/1.png"):
            assert HTTP.get(f"{url}/v1/{path}", headers=bearer(ring[2])).status_code in (403, 404)


def test_keys_end_when_they_expire_or_are_removed(ring):
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1)
    file, ada, bob = ring
    eve = keys.add(file, "Eve", None, past)
    with serving(make_app(keys_file=file)) as url:
        assert search(url, headers=bearer(eve)).status_code == 401
        assert search(url, headers=bearer(bob)).status_code == 200
        keys.remove(file, "Bob")
        assert search(url, headers=bearer(bob)).status_code == 401
        assert search(url, headers=bearer(ada)).status_code == 200
        file.write_text("{broken")
        assert search(url, headers=bearer(ada)).status_code == 401


def test_a_file_of_keys_holds_no_key(ring):
    file, ada, bob = ring
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert ada != bob
    assert len(ada) > 43
    assert ada not in file.read_text()
    assert bob not in file.read_text()
    file.chmod(0o620)
    with pytest.raises(UserError, match="may write it"):
        keys.read(file)


def test_the_command_makes_lists_and_removes_keys(hiperrag, tmp_path):
    file = tmp_path / "keys.json"
    status, made, errors = hiperrag("keys", "add", file, "Ada", "--collection", "a", "--days", 7)
    assert (status, len(errors)) == (0, 1)
    assert keys.KeyRing(file).find(keys.digest(made.strip())).collections == ["a"]
    status, listed, _ = hiperrag("keys", "list", file)
    assert "Ada" in listed
    assert made.strip() not in listed
    for arguments in (("add", file, "Ada"), ("remove", file, "Bob"), ("add", file, "a\nb"), ("list", tmp_path / "no")):
        status, _, errors = hiperrag("keys", *arguments)
        assert (status, len(errors)) == (2, 1)
    assert hiperrag("keys", "remove", file, "Ada")[0] == 0
    assert keys.read(file) == []


def test_people_sign_in(ring):
    file, ada, _ = ring
    with serving(make_app(keys_file=file)) as url, httpx.Client(verify=False, base_url=url) as browser:
        assert browser.get("/", headers=BROWSER).headers["location"] == "/login"
        page = browser.get("/login")
        assert 'type="password"' in page.text
        assert "sha256-" in page.headers["content-security-policy"]
        wrong = browser.post("/login", data={"key": "hrk_wrong"}, headers={"origin": url})
        assert (wrong.status_code, "not valid" in wrong.text) == (401, True)
        assert browser.post("/login", data={"key": ada}, headers={"origin": "http://evil.example"}).status_code == 403
        entered = browser.post("/login", data={"key": ada}, headers={"origin": url})
        assert (entered.status_code, entered.headers["location"]) == (303, "/")
        cookie = entered.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
        assert ada not in cookie
        assert browser.get("/v1/models").status_code == 200
        body = {"collection": "a", "query": "x"}
        assert browser.post("/v1/search", json=body).status_code == 403
        assert browser.post("/v1/search", json=body, headers={"origin": "http://evil.example"}).status_code == 403
        assert browser.post("/v1/search", json=body, headers={"origin": "null"}).status_code == 403
        assert browser.post("/v1/search", json=body, headers={"origin": url}).status_code == 200
        keys.remove(file, "Ada")
        assert browser.get("/v1/models").status_code == 401


def test_programs_sign_in_and_out(ring):
    with (
        serving(make_app(keys_file=ring[0])) as url,
        httpx.Client(verify=False, base_url=url, headers={"origin": url}) as browser,
    ):
        entered = browser.post("/login", json={"key": ring[2]})
        assert entered.json() == {"name": "Bob", "collections": ["a"]}
        for body in (b"[]", b"{}", b'{"key": 3}', b"[" * 100_000, b"\xff"):
            assert browser.post("/login", content=body).status_code == 422
        token = browser.cookies["hiperrag_session"]
        assert browser.post("/logout").status_code == 303
        assert HTTP.get(f"{url}/v1/models", headers={"cookie": f"hiperrag_session={token}"}).status_code == 401


def test_pages_of_other_sites_get_nothing_without_keys_either():
    with serving(make_app()) as url:
        assert search(url, headers={"origin": "http://evil.example"}).status_code == 403
        assert search(url, headers={"origin": "http://["}).status_code == 403
        assert search(url, headers={"origin": url}).status_code == 200
        for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "[", ""):
            assert HTTP.get(f"{url}/v1/models", headers={"host": host}).status_code in (400, 403)
        for host in ("localhost:9", "127.0.0.1", "[::1]:8080"):
            assert HTTP.get(f"{url}/v1/models", headers={"host": host}).status_code == 200
    with serving(make_app(base_url="https://rag.example.org/papers")) as url:
        found = search(url, headers={"host": "rag.example.org", "origin": "https://rag.example.org"})
        assert found.json()["hits"][0]["url"] == "https://rag.example.org/papers/#/a/passages/p1?page=1"


def test_requests_per_minute_are_each_keys_own(ring):
    with serving(make_app(keys_file=ring[0], requests_per_minute=3)) as url:
        statuses = [search(url, headers=bearer(ring[1])).status_code for _ in range(4)]
        refused = search(url, headers=bearer(ring[1]))
        assert statuses == [200, 200, 200, 429]
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert search(url, headers=bearer(ring[2])).status_code == 200
        assert HTTP.get(f"{url}/health").status_code == 200


def test_requests_per_minute_without_keys_and_of_guesses(ring):
    with serving(make_app(requests_per_minute=2)) as url:
        assert [search(url).status_code for _ in range(3)] == [200, 200, 429]
    with serving(make_app(keys_file=ring[0])) as url:
        statuses = [HTTP.post(f"{url}/login", json={"key": "x"}).status_code for _ in range(21)]
    assert statuses == [401] * 20 + [429]


def test_only_a_trusted_proxy_says_who_asks():
    def statuses(**more) -> list[int]:
        app = make_app(requests_per_minute=1, **more)
        with serving(app, _config(app.state.service.settings, app)) as url:
            return [search(url, headers={"x-forwarded-for": f"192.0.2.{n}"}).status_code for n in range(2)]

    assert statuses() == [200, 429]
    assert statuses(trusted_proxies=["192.0.2.9"]) == [200, 429]
    assert statuses(trusted_proxies=["127.0.0.1"]) == [200, 200]


def test_bodies_have_a_limit_however_they_are_sent():
    with serving(make_app(max_request_bytes=2000)) as url:
        fits = json.dumps({"collection": "a", "query": "x" * 1900}).encode()
        over = json.dumps({"collection": "a", "query": "x" * 2100}).encode()
        headers = {"content-type": "application/json"}
        for path in ("/v1/search", "/login"):
            for content in (over, iter([over[:1000], over[1000:]])):  # with a Content-Length, and in chunks
                response = HTTP.post(url + path, content=content, headers=headers)
                assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
        assert HTTP.post(f"{url}/v1/search", content=iter([fits[:10], fits[10:]]), headers=headers).status_code == 200


def test_a_body_that_does_not_come_is_not_waited_for():
    with serving(make_app(request_timeout_s=0.2)) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(
                b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\n\r\n{"
            )
            assert client.recv(100).startswith(b"HTTP/1.1 408 ")


def test_folders_of_this_machine_are_in_no_response():
    collection = ListedCollection("a", TEXTS)
    for hit, document in zip(collection._hits, ("/home/ada/papers/whales.pdf", "papers/bees.pdf"), strict=True):
        hit.passage.document = document
    app = create_app(ServiceSettings(collections={"a": "a"}), {"a": collection}, QuotingGenerator())
    with serving(app) as url:
        found = search(url).json()
        answer = HTTP.post(f"{url}/v1/chat/completions", json=chat_body("Do whales sing?", "hiperrag/a"))
    assert [hit["document"] for hit in found["hits"]] == ["whales.pdf", "papers/bees.pdf"]
    assert [citation["document"] for citation in answer.json()["citations"]] == ["whales.pdf"]
    assert "ada" not in answer.text


def test_every_response_has_the_headers(ring):
    with serving(make_app(keys_file=ring[0])) as url:
        for method, path in (("GET", "/health"), ("GET", "/nothing"), ("POST", "/v1/search"), ("GET", "/login")):
            headers = HTTP.request(method, url + path).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"


def test_the_audit_log_says_who_asked_what(ring, tmp_path):
    file = tmp_path / "audit.jsonl"
    with serving(make_app(keys_file=ring[0], audit_log=file)) as url:
        search(url, headers=bearer(ring[2]))
        HTTP.post(f"{url}/v1/chat/completions", json=chat_body("Whales?\nnow", "hiperrag/b"), headers=bearer(ring[1]))
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: search(url, headers=bearer(ring[1])), range(40)))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 42
    assert datetime.datetime.fromisoformat(lines[0].pop("time")).tzinfo
    assert lines[0] == {
        "key": "Bob",
        "action": "search",
        "collection": "a",
        "question": "whales",
        "passage_ids": ["p1", "p2"],
        "status": 200,
    }
    chat = next(line for line in lines if line["action"] == "chat")
    assert (chat["key"], chat["collection"], chat["question"]) == ("Ada", "b", "Whales? now")
    assert ring[1] not in file.read_text()


def test_no_key_gets_into_logs_or_responses(ring, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    said = []
    with serving(make_app(keys_file=ring[0])) as url, httpx.Client(verify=False, base_url=url) as client:
        for path in ("/v1/models", f"/v1/models?key={ring[1]}", "/metrics", "/ready", "/openapi.json", "/nothing"):
            said.append(client.get(path, headers=bearer(ring[1])).text)
        said.append(client.post("/login", json={"key": ring[1]}, headers={"origin": url}).text)
        said.append(client.post("/v1/search", json={"query": 1}, headers=bearer(ring[1])).text)
        ring[0].unlink()
        said.append(client.get("/v1/models", headers=bearer(ring[1])).text)
    logged = "\n".join(
        record.getMessage() for record in caplog.records if not record.name.startswith(("http", "hpack"))
    )
    for text in (*said, logged, *capfd.readouterr()):
        assert ring[1] not in text
        assert str(ring[0]) not in text or text is logged  # the owner of the log may read where the file is


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"host": "0.0.0.0"}, "--no-keys"),
        ({"host": "::"}, "--no-keys"),
        ({"host": "example.org"}, "--no-keys"),
        ({"keys_file": "k", "no_keys": True}, "contradict"),
        ({"tls_key": "k"}, "go together"),
        ({"collections": {"../x": "x"}}, "NAME=PATH"),
        ({"collections": {}}, "name a collection"),
        ({"base_url": "ftp://x"}, "base_url"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_settings_that_cannot_be(given, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        ServiceSettings(**{"collections": {"a": "a"}, **given})
    assert ServiceSettings(collections={"a": "a"}, host="0.0.0.0", no_keys=True).host == "0.0.0.0"


def test_the_command_says_in_one_line_what_is_wrong(hiperrag, tmp_path):
    built = tmp_path / "built"
    built.mkdir()
    (built / "manifest.json").write_text(ListedCollection("a", TEXTS).manifest.model_dump_json())
    bad_keys = tmp_path / "bad.json"
    bad_keys.write_text("[]")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, words in (
            ((built, "--port", port), "cannot listen on"),
            ((tmp_path / "none",), "no such collection"),
            ((built, f"x={built}", f"x={built}"), "two collections"),
            ((built, "--keys", bad_keys, "--port", 0), "not a file of keys"),
            ((built, "--keys", tmp_path / "none", "--port", 0), "no such file of keys"),
            ((built, "--host", "0.0.0.0"), "--no-keys"),
            ((built, "--audit", tmp_path, "--port", 0), "--audit"),
            ((built, "--tls-cert", bad_keys, "--tls-key", bad_keys, "--port", 0), "--tls-cert"),
        ):
            status, out, errors = hiperrag("serve", *arguments)
            assert (status, out, len(errors)) == (2, "", 1), errors
            assert words in errors[0]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes the certificate, is not installed")
def test_tls(tmp_path):
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    more = ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]
    subprocess.run([*command.split(), *more], check=True, capture_output=True)
    app = make_app(tls_certificate=certificate, tls_key=key)
    with serving(app, _config(app.state.service.settings, app)) as url:
        url = url.replace("http://127.0.0.1", "https://localhost")
        with httpx.Client(verify=ssl.create_default_context(cafile=certificate)) as client:
            found = client.post(f"{url}/v1/search", json={"collection": "a", "query": "x"}).json()
    assert found["hits"][0]["url"].startswith("https://localhost:")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_command_lets_answers_end_when_it_is_told_to_stop(built, number, status):
    """A real process with the packaged models: it says where it is, and an answer that was begun comes to its end."""
    command = [sys.executable, "-c", "from hiperrag.cli import main; main()", "serve", built, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stderr.readline()
            url = re.fullmatch(r"hiperrag: serving c at (http://127\.0\.0\.1:\d+)\n", line)[1]
            body = chat_body("Do male humpback whales sing for hours in the breeding season?", stream=True)
            with HTTP.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
                lines = lines_of(response)
                assert '"role":"assistant"' in next(lines)
                process.send_signal(number)
                assert list(lines)[-1] == "data: [DONE]"
            assert process.wait(60) == status
            assert process.stderr.read() == ""
        finally:
            process.kill()
