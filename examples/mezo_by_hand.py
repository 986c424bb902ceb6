"""MeZO by hand: first on a function of ten numbers in NumPy, then on a real language model.

python examples/mezo_by_hand.py
"""

from collections.abc import Callable

import numpy as np

import tinyzo
from tinyzo.text.tasks import get_task
from tinyzo.zo.objectives import Objective

REVIEWS = {
    "movie": ["The plot made no sense.", "Wonderful acting by the whole cast."],
    "phone": ["The battery lasts for two days.", "The screen is bright and sharp."],
    "food": ["The soup was cold and thin.", "Fresh bread, and a good cheese."],
}


def bowl(x: np.ndarray) -> float:
    """A valley with its lowest point, 0, where every number is 1."""
    curvature = np.arange(1, 11)
    return float(curvature @ (x - 1) ** 2)


def mezo_on(function: Callable[[np.ndarray], float], x: np.ndarray, steps: int) -> np.ndarray:
    """Algorithm 1 of Malladi et al. (2023), word for word: no gradient anywhere."""
    eps, lr = 1e-3, 5e-3
    for seed in range(steps):
        z = np.random.default_rng(seed).standard_normal(x.size)
        projected_gradient = (function(x + eps * z) - function(x - eps * z)) / (2 * eps)
        x = x - lr * projected_gradient * z
        if seed % 50 == 0:
            print(f"  step {seed:3}  f(x) = {function(x):8.4f}")
    return x


def mezo_on_a_model(steps: int) -> tuple[tinyzo.Model, list[tuple[int, float]]]:
    """The same on three million numbers; returns the model, and (seed, coefficient) a step."""
    model = tinyzo.load("roberta-tiny")
    task = get_task("topics", model.family).bind(model.tokenizer)
    rows = [{"text": text, "topic": topic} for topic, texts in REVIEWS.items() for text in texts]
    examples = [task.encode(row) for row in rows]
    loss = Objective(model, task)
    terms: list[tuple[int, float]] = []
    for seed in range(steps):
        step = tinyzo.mezo_step(model.weights, loss, examples, seed, eps=1e-3, lr=5e-5)
        terms += step.terms
        if seed % 10 == 0:
            print(f"  step {seed:3}  loss {step.loss:.4f}  g {step.projected_gradient:+8.2f}")
    return model, terms


def replayed(terms: list[tuple[int, float]]) -> tinyzo.Model:
    """The tuned model again, from the untouched one and a seed and a number a step."""
    model = tinyzo.load("roberta-tiny")
    for term in terms:
        model.weights.add([term])
    return model


def main() -> None:
    print("A function of ten numbers, from all zeros:")
    x = mezo_on(bowl, np.zeros(10), steps=201)
    print("  x is now", np.round(x, 2), "\n")
    print("roberta-tiny on six reviews, two forward passes a step:")
    model, terms = mezo_on_a_model(steps=41)
    print(f"  the fine-tune is {len(terms)} pairs: {terms[0]}, ..")
    again = replayed(terms)
    names = model.weights.names()
    same = all(np.array_equal(model.weights.read(n), again.weights.read(n)) for n in names)
    print(f"  made again from them, every one of {len(names)} tensors is the same: {same}")


if __name__ == "__main__":
    main()
