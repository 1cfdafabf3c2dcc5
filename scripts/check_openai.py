#!/usr/bin/env python3
"""The official client as the referee of `kronq serve`: completions, chat, streams, models, errors, conversations of several turns, tools.

    pip install openai                      # 3.57.0 was used
    kronq serve MODEL --port 8080 &
    scripts/check_openai.py http://127.0.0.1:8080/v1

Ends with status 1 at the first thing that is not as the client expects it."""
import sys
import urllib.request

import openai


def conversation(client, model):
    """What the client got goes back as it is: the message object, its dump with and without nulls, and what streams add up to."""
    messages = [{"role": "developer", "content": "Be short."}, {"role": "user", "content": "Name a colour.", "name": "ann"}]
    for back in (lambda m: m, lambda m: m.model_dump(), lambda m: m.model_dump(exclude_none=True), lambda m: m.to_dict()):
        chat = client.chat.completions.create(model=model, messages=messages, max_tokens=6, temperature=0)
        follow = [*messages, back(chat.choices[0].message), {"role": "user", "content": "Another one."}]
        again = client.chat.completions.create(model=model, messages=follow, max_tokens=6, temperature=0)
        assert again.usage.prompt_tokens > chat.usage.prompt_tokens and again.choices[0].message.content is not None
    try:
        with client.chat.completions.stream(model=model, messages=messages, max_tokens=6, temperature=0) as stream:
            final = stream.get_final_completion().choices[0].message
    except openai.LengthFinishReasonError as e:
        final = e.completion.choices[0].message
    client.chat.completions.create(model=model, messages=[*messages, final, {"role": "user", "content": "More."}], max_tokens=2)
    # prefill: the answer goes on with what was begun
    begun = [*messages, {"role": "assistant", "content": "My favourite colour is"}]
    on = client.chat.completions.create(model=model, messages=begun, max_tokens=1, temperature=0, extra_body={"continue_final_message": True, "add_generation_prompt": False})
    after = client.chat.completions.create(model=model, messages=begun, max_tokens=1, temperature=0)
    assert on.usage.prompt_tokens < after.usage.prompt_tokens


def tools(client, model):
    """Tools go into the prompt where the model's template has a place for them, and are refused by name where it has none."""
    weather = {"type": "function", "function": {"name": "weather", "description": "The weather of a place", "parameters": {"type": "object", "properties": {"place": {"type": "string"}}}}}
    question = [{"role": "user", "content": "How is the weather in Rome?"}]
    plain = client.chat.completions.create(model=model, messages=question, max_tokens=1, tools=[weather], tool_choice="none")
    try:
        with_tools = client.chat.completions.create(model=model, messages=question, max_tokens=1, tools=[weather], tool_choice="auto")
    except openai.BadRequestError as e:
        assert "tools" in e.body["message"], e.body
        print(f"note: {e.body['message']}")
        return
    assert with_tools.usage.prompt_tokens > plain.usage.prompt_tokens + 10
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"place": "Rome"}'}}]}
    told = client.chat.completions.create(model=model, messages=[*question, call, {"role": "tool", "tool_call_id": "c1", "content": "sunny"}], tools=[weather], max_tokens=1)
    assert told.usage.prompt_tokens > with_tools.usage.prompt_tokens


def settings(client, model):
    """Fields beyond OpenAI's, through extra_body, and lengths that the context cuts."""
    context = client.models.retrieve(model).max_model_len
    for extra in ({"min_p": 1.0}, {"top_k": 1}, {"min_p": 0.1, "repetition_penalty": 1.0, "top_k": 1}):
        one = client.completions.create(model=model, prompt="Once upon a time", max_tokens=8, temperature=1.5, extra_body=extra).choices[0].text
        assert one == client.completions.create(model=model, prompt="Once upon a time", max_tokens=8, temperature=0).choices[0].text
    ids = [5] * (context - 3)
    for n in (10**6, -1):
        cut = client.completions.create(model=model, prompt=ids, max_tokens=n, extra_body={"ignore_eos": True})
        assert cut.usage.total_tokens == context and cut.choices[0].finish_reason == "length"
    with_key = openai.OpenAI(base_url=client.base_url, api_key="none", default_headers={"X-Api-Key": "none"}, max_retries=0)
    assert with_key.models.list().data


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

    conversation(client, model)
    tools(client, model)
    settings(client, model)

    for kind, kwargs in ((openai.BadRequestError, {"max_tokens": -2}), (openai.BadRequestError, {"temperature": 9}), (openai.BadRequestError, {"extra_body": {"frob": 1}}),
                         (openai.BadRequestError, {"prompt": [5] * 10**5}), (openai.NotFoundError, {"model": "gpt-4"})):
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
