#!/usr/bin/env python3
"""What curl cannot send to `kronq serve`: broken heads, two requests in one breath, hundreds of idle connections. Python's standard library only.

    serve_http.py heads|kept|idle|slow|large HOST PORT      the server's own --timeout is 3 for `large`

Each response is read to its end by the rules of HTTP/1.1 here, independently of the server. Ends with status 1 at the first thing that is wrong."""
import http.client
import json
import socket
import sys
import threading
import time

mode, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])


def connect():
    s = socket.create_connection((host, port), timeout=20)
    return s, s.makefile("rb")


def read_answer(f, head=False):
    """(status, headers, body) of the next response; None at the end of the connection."""
    line = f.readline()
    if not line:
        return None
    status, headers = int(line.split()[1]), {}
    while (line := f.readline().strip()):
        name, value = line.decode().split(":", 1)
        headers[name.lower()] = value.strip()
    body = b"" if head or status == 204 else f.read(int(headers["content-length"]))
    return status, headers, body


def answers(raw, n=None, head=False):
    """The first n answers; n None: all until the server closes the connection, which it must."""
    s, f = connect()
    s.sendall(raw)
    out = []
    while n is None or len(out) < n:
        try:
            a = read_answer(f, head)
        except ConnectionError:
            a = None
        if a is None:
            break
        out.append(a)
    s.close()
    return out


def is_error(answer, status, what):
    assert answer is not None, f"{what}: no answer"
    assert answer[0] == status, f"{what}: {answer}"
    assert answer[1]["content-type"] == "application/json", f"{what}: {answer}"
    error = json.loads(answer[2])["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"] and error["code"], f"{what}: {answer}"


def request(method="POST", path="/tokenize", headers=(), body=b'{"prompt":"a"}', first="Host: localhost"):
    lines = [f"{method} {path} HTTP/1.1", *([first] if first else []), *headers]
    if body is not None and not any(h.lower().startswith(("content-length", "transfer-encoding")) for h in headers):
        lines.append(f"Content-Length: {len(body)}")
    if body is not None and not any(h.lower().startswith("content-type") for h in headers):
        lines.append("Content-Type: application/json")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


HEALTH = request("GET", "/health", body=None)
NINE = b'{"prompt":"a"}'

# (what, bytes, status); none of them may be followed by an answer to what comes behind it
BAD = [
    ("no Host", request("GET", "/health", body=None, first=None), 400),
    ("two Hosts", request("GET", "/health", ["Host: localhost"], None), 400),
    ("Host with a space", request("GET", "/health", body=None, first="Host: local host"), 400),
    ("another site's Host", request("GET", "/health", body=None, first="Host: evil.example"), 403),
    ("another site's Host, absolute", request("GET", "http://evil.example/health", body=None), 403),
    ("two lengths", request(headers=["Content-Length: 14", "Content-Length: 3"]), 400),
    ("a list of lengths", request(headers=["Content-Length: 14, 3"]), 400),
    ("length and coding", request(headers=["Content-Length: 14", "Transfer-Encoding: chunked"], body=b"e\r\n" + NINE + b"\r\n0\r\n\r\n"), 400),
    ("coding and length", request(headers=["Transfer-Encoding: chunked", "Content-Length: 14"], body=b"e\r\n" + NINE + b"\r\n0\r\n\r\n"), 400),
    ("a negative length", request(headers=["Content-Length: -1"]), 400),
    ("a length in words", request(headers=["Content-Length: ten"]), 400),
    ("a length with a sign", request(headers=["Content-Length: +14"]), 400),
    ("a length beyond 64 bits", request(headers=["Content-Length: 18446744073709551630"]), 400),
    ("another coding", request(headers=["Transfer-Encoding: gzip"]), 501),
    ("coding twice", request(headers=["Transfer-Encoding: chunked", "Transfer-Encoding: identity"]), 501),
    ("a space before the colon", request(headers=["Content-Length : 14"]), 400),
    ("a folded line", request(headers=["X-A: b", " c: d"]), 400),
    ("a NUL", request(headers=["X-A: b\0"]), 400),
    ("bare line feeds", b"GET /health HTTP/1.1\nHost: localhost\n\n", 400),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("HTTP/0.9", b"GET /health\r\n", 400),
    ("no HTTP", b"hello\r\n\r\n", 400),
    ("JSON", b'{"prompt": "a"}\r\n\r\n', 400),
    ("a NUL in the path", request("GET", "/health%00", body=None), 400),
    ("a long target", request("GET", "/" + "a" * 9000, body=None), 414),
    ("large headers", request("GET", "/health", ["X-A: " + "a" * 40000], None), 431),
    ("many headers", request("GET", "/health", [f"X-{i}: {i}" for i in range(4000)], None), 431),
    ("too many header lines", request("GET", "/health", [f"X{i}: a" for i in range(600)], None), 431),
    ("an expectation", request(headers=["Expect: 200-ok"]), 417),
]


def heads():
    for what, raw, status in BAD:
        goes_on = status == 403  # where that request ends is certain
        got = answers(raw + (b"" if what == "TLS" else HEALTH), 2 if goes_on else None)
        assert got, f"{what}: no answer"
        is_error(got[0], status, what)
        assert len(got) == 1 + goes_on, f"{what}: a request behind it was answered: {got[1:]}"
    for what, raw, status in [
        ("gzip", request(headers=["Content-Encoding: gzip"], body=b"\x1f\x8b\x08\0"), 415),
        ("a form", request(headers=["Content-Type: application/x-www-form-urlencoded"]), 415),
        ("a web page's text", request(headers=["Content-Type: text/plain", "Origin: https://evil.example"]), 415),
        ("no type", b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 14\r\n\r\n" + NINE, 415),
        ("a method that does not fit", request("DELETE"), 405),
        ("a method nobody knows", request("BREW", "/health", body=None), 405),
        ("an unknown path", request("GET", "/nope", body=None), 404),
        ("a path of another case", request("GET", "/Health", body=None), 404),
    ]:
        got = answers(raw + HEALTH, 2)
        is_error(got[0], status, what)
        assert len(got) == 2 and got[1][0] == 200, f"{what}: the connection did not go on: {got}"
        assert status != 405 or got[0][1]["allow"] in ("OPTIONS, POST", "GET, HEAD, OPTIONS"), got
    for what, raw in [
        ("Host with a port", request("GET", "/health", body=None, first="Host: localhost:9")),
        ("capitals", request("GET", "/health", body=None, first="hOST: LOCALHOST")),
        ("IPv6 loopback", request("GET", "/health", body=None, first="Host: [::1]:80")),
        ("absolute form", request("GET", "http://127.0.0.1/health", body=None)),
        ("a query", request("GET", "/health?a=b&c", body=None)),
        ("a slash at the end", request("GET", "/health/", body=None)),
        ("percent-encoding", request("GET", "/%68ealth", body=None)),
        ("the same length twice", request(headers=["Content-Length: 14", "Content-Length: 14"])),
        ("chunks", request(headers=["Transfer-Encoding: chunked"], body=b"4;ext=1\r\n" + NINE[:4] + b"\r\nA\r\n" + NINE[4:] + b"\r\n0\r\nX-T: r\r\n\r\n")),
        ("identity", request(headers=["Content-Encoding: identity"])),
        ("a charset", request(headers=["Content-Type: application/json; charset=utf-8"])),
        ("an empty line first", b"\r\n" + HEALTH),
        ("HTTP/1.0", b"GET /health HTTP/1.0\r\n\r\n"),
    ]:
        got = answers(raw, 1)
        assert len(got) == 1 and got[0][0] == 200, f"{what}: {got}"
    got = answers(request("HEAD", "/v1/models", body=None), 1, head=True)
    assert got[0][0] == 200 and int(got[0][1]["content-length"]) > 50, got
    got = answers(request("OPTIONS", "/tokenize", body=None), 1)
    assert got[0][0] == 204 and got[0][1]["allow"] == "OPTIONS, POST" and "access-control-allow-origin" not in got[0][1], got
    for what, path, kind, size, status in [
        ("a body too large", "/tokenize", "application/json", 10**7, 413),
        ("a path that is not there", "/nope", "application/json", 10**6, 404),
        ("a type that is not read", "/tokenize", "text/plain", 10**6, 415),
    ]:  # refused before the body is sent, and without asking for it
        got = answers(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\nExpect: 100-continue\r\n\r\n".encode())
        assert len(got) == 1, f"{what}, asked first: {got}"
        is_error(got[0], status, what)
    print(f"{len(BAD)} broken heads")


def kept():
    """The same on a connection that has had an answer: libmicrohttpd reads these itself. Whatever it says, it refuses, and reads nothing behind."""
    pages = 0
    for what, raw, status in BAD:
        s, f = connect()
        s.sendall(HEALTH)
        assert read_answer(f)[0] == 200
        try:
            s.sendall(raw + HEALTH)
            s.shutdown(socket.SHUT_WR)
            first = read_answer(f)
        except OSError:
            first = None
        assert first is None or first[0] != 200 or what in ("a NUL", "a NUL in the path", "large headers", "many headers", "a long target", "a folded line", "bare line feeds"), f"{what}: {first}"
        json_form = first is not None and first[1].get("content-type") == "application/json"
        pages += not json_form
        if what in ("no Host", "two Hosts", "two lengths", "length and coding", "coding and length", "another site's Host", "another coding", "an expectation"):
            is_error(first, status, what)
        s.close()
    print(f"{pages} of {len(BAD)} are the library's own pages on a kept connection")


def idle():
    """Connections that say nothing, or begin and never end, must not shut out one that asks."""
    crowd = []
    for i in range(1400):
        try:
            s = socket.create_connection((host, port), timeout=5)
            if i % 3 == 1:
                s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: loc")
            if i % 3 == 2:
                s.sendall(HEALTH)  # answered, and kept
        except OSError:
            continue
        crowd.append(s)
        if i % 100 == 99:
            t = time.time()
            got = answers(HEALTH, 1)
            assert got and got[0][0] == 200, f"after {i + 1} connections: {got}"
            assert time.time() - t < 5, f"after {i + 1} connections: {time.time() - t:.1f} s"
    for _ in range(700):  # a head, and never its body
        s = socket.create_connection((host, port), timeout=5)
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        crowd.append(s)
    got = answers(HEALTH, 1)
    assert got and got[0][0] == 200, f"behind bodies that do not come: {got}"
    for s in crowd:
        s.close()
    print(f"{len(crowd)} connections that were idle")


def slow():
    """A head that comes byte by byte is cut off after 30 s in all, with 408; one on a kept connection too."""
    s, f = connect()
    s.settimeout(60)
    begin = time.time()
    raw = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 1000
    for i in range(len(raw)):
        try:
            s.sendall(raw[i : i + 1])
        except OSError:
            break
        time.sleep(0.5)
        if time.time() - begin > 29:
            break
    is_error(read_answer(f), 408, "slow")
    took = time.time() - begin
    assert 29 < took < 34, took
    print(f"cut after {took:.1f} s")


def large():
    """Bodies of 4 MB that take long to encode: others go on, and --timeout ends them."""
    text = ("a" + "\u0301\u0323" * 20) * 48000
    body = json.dumps({"prompt": text}, ensure_ascii=False).encode()
    status = []

    def one():
        c = http.client.HTTPConnection(host, port, timeout=120)
        c.request("POST", "/tokenize", body, {"Content-Type": "application/json"})
        r = c.getresponse()
        data = r.read()
        status.append((r.status, json.loads(data).get("error", {}).get("code")))

    threads = [threading.Thread(target=one) for _ in range(12)]
    for t in threads:
        t.start()
    worst = 0
    while any(t.is_alive() for t in threads):
        t = time.time()
        got = answers(request(), 1)
        assert got[0][0] == 200, got
        worst = max(worst, time.time() - t)
        time.sleep(0.05)
    assert set(status) <= {(200, None), (503, "timeout")}, status
    print(f"{len(body)} bytes each: {status.count((200, None))} answered, {status.count((503, 'timeout'))} timed out; others waited {worst:.2f} s at most")
    assert worst < 5
    assert (503, "timeout") in status


{"heads": heads, "kept": kept, "idle": idle, "slow": slow, "large": large}[mode]()
