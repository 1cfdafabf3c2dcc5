#!/usr/bin/env python3
"""Load test of `kronq serve` on loopback: many clients for a while, beside clients that misbehave.

    bench/serve_load.py MODEL [--kronq build/release/kronq] [--clients 32] [--seconds 60] [--tokens 32] [--serve "--slots 16"]

Starts the server itself and ends it at the end (SIGTERM). Each client sends one request after another: completions and chats, streamed and whole, of
various lengths; another four clients all the time send slowly, leave in the middle, send what is no JSON, and send too much. Says: answers, errors,
latency (p50, p99) of whole answers and of the first token, tokens a second, and the server's memory (RSS) through time: the middle of its second
quarter against the middle of its last. Ends with status 1 when an answer was wrong or missing, or memory grew by more than 2%.
Needs nothing but Python. One JSON object on stdout, progress on stderr."""
import argparse
import http.client
import json
import pathlib
import random
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time


class Tally:
    def __init__(self):
        self.lock = threading.Lock()
        self.latency, self.first, self.errors = [], [], []
        self.tokens = self.prompt_tokens = 0
        self.bad = dict.fromkeys(("slow", "leaving", "malformed", "oversized"), 0)

    def error(self, what):
        with self.lock:
            self.errors.append(what)


WORDS = "the of a water light river because stone number green between answer early machine carbon weather city often measure small".split()


def one_request(conn, rng, tokens, tally):
    stream, chat = rng.random() < 0.5, rng.random() < 0.5
    n = rng.randint(tokens // 2, tokens * 3 // 2)
    text = "Tell me about " + " ".join(rng.choices(WORDS, k=rng.choice((4, 16, 64))))
    body = {"max_tokens": n, "temperature": 0.8, "seed": rng.randrange(1 << 30), "ignore_eos": True, "stream": stream}
    body |= {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
    if stream:
        body["stream_options"] = {"include_usage": True}
    start, first = time.monotonic(), None
    conn.request("POST", "/v1/chat/completions" if chat else "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = conn.getresponse()
    if answer.status != 200:
        return tally.error(f"status {answer.status}: {answer.read()[:200]}")
    if stream:
        usage, done = None, False
        while line := answer.readline():
            if not line.startswith(b"data: "):
                continue
            first = first or time.monotonic() - start
            if line.strip() == b"data: [DONE]":
                done = True
                continue
            event = json.loads(line[6:])
            if "error" in event:
                return tally.error(str(event))
            usage = event.get("usage") or usage
        if not done or not usage:
            return tally.error("a stream without its end")
    else:
        usage = json.loads(answer.read())["usage"]
    seconds = time.monotonic() - start
    if usage["completion_tokens"] != n:
        return tally.error(f"{usage['completion_tokens']} tokens instead of {n}")
    with tally.lock:
        tally.latency.append(seconds)
        if first:
            tally.first.append(first)
        tally.tokens += n
        tally.prompt_tokens += usage["prompt_tokens"]


def client(host, port, seed, end, tokens, tally):
    rng = random.Random(seed)
    conn = http.client.HTTPConnection(host, port, timeout=300)
    while time.monotonic() < end:
        try:
            one_request(conn, rng, tokens, tally)
        except Exception as e:  # noqa: BLE001: everything counts as an error of the run
            tally.error(repr(e))
            conn.close()
    conn.close()


def raw(host, port, data, wait):
    with socket.create_connection((host, port), timeout=30) as s:
        s.sendall(data)
        time.sleep(wait)
        return s


def misbehave(kind, host, port, end, tally):
    header = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    while time.monotonic() < end:
        try:
            if kind == "slow":
                with socket.create_connection((host, port), timeout=30) as s:
                    for byte in header[:20]:
                        s.sendall(bytes([byte]))
                        time.sleep(0.05)
            elif kind == "leaving":
                body = json.dumps({"prompt": "the", "max_tokens": 1000, "ignore_eos": True, "stream": random.random() < 0.5}).encode()
                raw(host, port, header + b"Content-Length: %d\r\n\r\n" % len(body) + body, 0.3)
            elif kind == "malformed":
                body = b'{"prompt": "x", "max_tokens": -1e999'
                with socket.create_connection((host, port), timeout=30) as s:
                    s.sendall(header + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                    if b" 400 " not in s.recv(100):
                        tally.error("malformed: no status 400")
                raw(host, port, random.randbytes(200), 0.05)
            else:
                body = b'{"prompt": "' + b"a" * (5 << 20) + b'"}'
                conn = http.client.HTTPConnection(host, port, timeout=60)
                conn.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
                if (status := conn.getresponse().status) != 413:
                    tally.error(f"oversized: status {status}")
                conn.close()
                time.sleep(0.2)
        except OSError:
            pass  # the server may break off with such clients
        with tally.lock:
            tally.bad[kind] += 1


def rss(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return 0


def quantile(values, q):
    return sorted(values)[min(len(values) - 1, int(q * len(values)))] if values else None


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--kronq", default="build/release/kronq")
    p.add_argument("--clients", type=int, default=32)
    p.add_argument("--seconds", type=float, default=60)
    p.add_argument("--tokens", type=int, default=32, help="tokens of an answer, half to one and a half of it")
    p.add_argument("--serve", default="--slots 16", help="options of kronq serve")
    a = p.parse_args()
    server = subprocess.Popen([a.kronq, "serve", a.model, "--port", "0", "--json", "--quiet", *shlex.split(a.serve)], stdout=subprocess.PIPE, text=True)
    ready = json.loads(server.stdout.readline())
    host, port = ready["url"].removeprefix("http://").split(":")
    port, tally = int(port), Tally()
    start = time.monotonic()
    end = start + a.seconds
    threads = [threading.Thread(target=client, args=(host, port, i, end, a.tokens, tally)) for i in range(a.clients)]
    threads += [threading.Thread(target=misbehave, args=(kind, host, port, end, tally)) for kind in tally.bad]
    for t in threads:
        t.start()
    memory = []
    while any(t.is_alive() for t in threads):
        time.sleep(0.5)
        memory.append((time.monotonic() - start, rss(server.pid)))
        if len(memory) % 10 == 0:
            print(f"{memory[-1][0]:5.0f} s: {len(tally.latency)} answers, {len(tally.errors)} errors, RSS {memory[-1][1] / 1e6:.1f} MB", file=sys.stderr)
    seconds = time.monotonic() - start
    time.sleep(1)
    conn = http.client.HTTPConnection(host, port, timeout=30)
    conn.request("GET", "/metrics")
    metrics = dict(line.rsplit(" ", 1) for line in conn.getresponse().read().decode().splitlines() if line and line[0] != "#")
    conn.close()
    server.send_signal(signal.SIGTERM)
    status = server.wait(60)
    def middle(lo, hi):
        part = [m for t, m in memory if lo * a.seconds <= t <= hi * a.seconds]
        return statistics.median(part) if part else 0
    early, late = middle(0.25, 0.5), middle(0.75, 1.0)
    result = {
        "clients": a.clients, "seconds": seconds, "answers": len(tally.latency), "errors": len(tally.errors), "first_errors": tally.errors[:5],
        "latency_s": {"p50": quantile(tally.latency, 0.5), "p99": quantile(tally.latency, 0.99)}, "first_token_s": {"p50": quantile(tally.first, 0.5), "p99": quantile(tally.first, 0.99)},
        "tokens_per_s": tally.tokens / seconds, "prompt_tokens_per_s": tally.prompt_tokens / seconds, "misbehaving": tally.bad,
        "rss_early_bytes": early, "rss_late_bytes": late, "rss_growth": late / early - 1 if early else None,
        "left_active": float(metrics["kronq_requests_active"]), "cancelled": float(metrics["kronq_requests_cancelled_total"]), "exit_status": status, "server": ready,
    }
    print(json.dumps(result, indent=1))
    sys.exit(bool(tally.errors or status or result["left_active"] or not tally.latency or (early and late > 1.02 * early)))


if __name__ == "__main__":
    main()
