"""How well a text that a model wrote answers a question (Rajpurkar et al. 2016, section 6.1).

    exact match   1 if the answer is a gold one, else 0
    F1            2 n / (words of the answer + words of the gold one),  n: words that both have

Of several gold answers the best one counts. Texts are compared without case, punctuation, articles
and superfluous white space. DROP is scored so too, as Malladi et al. 2023 do.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(answer: str) -> str:
    """An answer as it is compared: lower case, no ASCII punctuation, no articles, single spaces."""
    bare = answer.lower().translate(WITHOUT_PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", bare).split())


def exact_match(answer: str, golds: Sequence[str]) -> float:
    """1.0 if the answer is one of the gold ones, else 0.0."""
    return float(normalise(answer) in map(normalise, golds))


def best_f1(answer: str, golds: Sequence[str]) -> float:
    """The F1 of the answer's words with those of the gold answer that it fits best, 0.0 to 1.0."""
    return max(_f1(normalise(answer).split(), normalise(gold).split()) for gold in golds)


def _f1(answer: list[str], gold: list[str]) -> float:
    common = (Counter(answer) & Counter(gold)).total()
    if not common:
        return 0.0
    return 2 * common / (len(answer) + len(gold))
