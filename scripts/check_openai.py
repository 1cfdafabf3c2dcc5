#!/usr/bin/env python3
"""The official client as the referee of `kronq serve`: completions, chat, streams, models and errors.

    pip install openai                      # 3.54.0 was used
    kronq serve MODEL --port 8080 &
    scripts/check_openai.py http://127.0.0.1:8080/v1

Ends with status 1 at the first thing that is not as the client expects it."""
import sys
import urllib.request

import openai


def main(url):
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    assert client.models.retrieve(model).id == model

    c = client.completions.create(model=model, prompt="The capital of France is", max_tokens=8, temperature=0, logprobs=2, echo=True)
    lp = c.choices[0].logprobs
    assert c.choices[0].text.startswith("The capital of France is") and c.choices[0].finish_reason in ("stop", "length")
    assert lp.token_logprobs[0] is None and len(lp.tokens) == len(lp.token_logprobs) == len(lp.top_logprobs) == len(lp.text_offset)
    assert c.usage.total_tokens == c.usage.prompt_tokens + c.usage.completion_tokens
    assert "".join(lp.tokens).startswith(c.choices[0].text) and all(c.choices[0].text[o:].startswith(t) for o, t in zip(lp.text_offset, lp.tokens))

    many = client.completions.create(model=model, prompt=["One", "Two", "Three"], n=2, max_tokens=4, seed=3)
    again = client.completions.create(model=model, prompt=["One", "Two", "Three"], n=2, max_tokens=4, seed=3)
    assert [x.index for x in many.choices] == list(range(6)) and [x.text for x in many.choices] == [x.text for x in again.choices]

    whole = client.completions.create(model=model, prompt="Once upon a time", max_tokens=24, temperature=0).choices[0].text
    parts = list(client.completions.create(model=model, prompt="Once upon a time", max_tokens=24, temperature=0, stream=True))
    assert "".join(p.choices[0].text for p in parts) == whole and parts[-1].choices[0].finish_reason
    cut = client.completions.create(model=model, prompt="Once upon a time", max_tokens=24, temperature=0, stop=[whole[8:12]]).choices[0]
    assert cut.text == whole[: whole.index(whole[8:12])] and cut.finish_reason == "stop"

    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": [{"type": "text", "text": "Name a colour."}]}]
    chat = client.chat.completions.create(model=model, messages=messages, max_tokens=12, temperature=0, logprobs=True, top_logprobs=3)
    assert chat.choices[0].message.role == "assistant" and len(chat.choices[0].logprobs.content[0].top_logprobs) == 3
    events = list(client.chat.completions.create(model=model, messages=messages, max_tokens=12, temperature=0, stream=True, stream_options={"include_usage": True}))
    assert "".join(e.choices[0].delta.content or "" for e in events if e.choices) == chat.choices[0].message.content
    assert events[-1].usage.completion_tokens == chat.usage.completion_tokens

    for kind, kwargs in ((openai.BadRequestError, {"max_tokens": -1}), (openai.BadRequestError, {"temperature": 9}), (openai.BadRequestError, {"extra_body": {"frob": 1}}),
                         (openai.BadRequestError, {"max_tokens": 10**6}), (openai.NotFoundError, {"model": "gpt-4"})):
        try:
            client.completions.create(**{"model": model, "prompt": "x", **kwargs})
        except kind as e:
            assert e.body["message"] and "code" in e.body and "param" in e.body, e.body
        else:
            raise AssertionError(f"{kwargs} was accepted")
    health = urllib.request.urlopen(url.removesuffix("/v1") + "/health").status
    print(f"ok: {model}: models, completions, chat, streams, errors (health {health}), openai {openai.__version__}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
