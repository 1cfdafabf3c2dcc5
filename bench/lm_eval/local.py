"""Documents of the tasks in this folder: local JSON-lines files instead of a download. The folder is $KRONQ_TASKS; $KRONQ_TEXT is the text of kronq_perplexity."""
import collections
import importlib.util
import json
import os
import pathlib
import sys

import datasets

# what IFEval's checks look at with nltk's punkt model, which is no package and must be downloaded
NEEDS_PUNKT = {"length_constraints:number_sentences", "change_case:capital_word_frequency"}
NEEDS_LANGDETECT = {"language:response_language", "change_case:english_capital", "change_case:english_lowercase"}


def documents(name):
    path = pathlib.Path(os.environ.get("KRONQ_TASKS", ".")) / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def split(docs):
    return datasets.Dataset.from_list(docs)


def arc_easy(**_):
    return {"test": split(documents("arc_easy"))}


def piqa(**_):
    return {"test": split(documents("piqa"))}


def gsm8k(**_):
    """The last five documents are the examples, the others are the test."""
    docs = documents("gsm8k")
    return {"train": split(docs[-5:]), "test": split(docs[:-5])}


def punkt():
    import nltk
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        return False
    return True


def ifeval(**_):
    missing = set() if punkt() else set(NEEDS_PUNKT)
    if importlib.util.find_spec("langdetect") is None:
        missing |= NEEDS_LANGDETECT
    kept, left_out = [], collections.Counter()
    for doc in documents("ifeval"):
        cannot = missing & set(doc["instruction_id_list"])
        if cannot:
            left_out.update(cannot)
            continue
        # a table has the same columns in each row: the arguments travel as text
        kept.append({"key": doc["key"], "prompt": doc["prompt"], "instruction_id_list": doc["instruction_id_list"], "kwargs_json": json.dumps(doc["kwargs"])})
    print(f"ifeval: {len(kept)} prompts; left out: {dict(left_out) or 'none'}", file=sys.stderr)
    return {"train": split(kept)}


def ifeval_results(doc, results):
    import nltk
    if not punkt():
        nltk.download = lambda *args, **kwargs: False  # lm_eval asks for punkt when it is imported; without a network that only costs time
    from lm_eval.tasks.ifeval import utils
    return utils.process_results(dict(doc, kwargs=json.loads(doc["kwargs_json"])), results)


def ifeval_mean(items):
    flat = [x for item in items for x in item]
    return sum(flat) / len(flat)


def text(**_):
    path = os.environ.get("KRONQ_TEXT")
    if not path:
        raise SystemExit("KRONQ_TEXT: the text file to measure the perplexity on")
    return {"test": split([{"text": pathlib.Path(path).read_text()}])}


def token_perplexity(doc, results):
    """results: the log-likelihood of the whole text; its tokens as the server counts them."""
    import urllib.request
    base = os.environ.get("KRONQ_URL", "http://127.0.0.1:8080")
    ask = urllib.request.Request(base + "/tokenize", json.dumps({"prompt": doc["text"], "add_special_tokens": False}).encode(), {"Content-Type": "application/json"})
    count = json.load(urllib.request.urlopen(ask))["count"]
    (loglikelihood,) = results
    return {"token_perplexity": (loglikelihood, count), "word_perplexity": (loglikelihood, len(doc["text"].split()))}
