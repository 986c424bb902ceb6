"""A fleet: clients keep their rows, and answer a server with losses (DeComFL, arXiv 2405.15861).

The server takes the steps of an ordinary run, whose loss it asks for. It sends what a client lacks
of the run's journal. Flower carries the messages; only server.py and client.py import it.
"""

from tinyzo.errors import UsageError
from tinyzo.runs.methods import ZerothOrder, method_of
from tinyzo.runs.settings import RunSettings
from tinyzo.runs.start import LED


def terms_of(settings: RunSettings) -> ZerothOrder:
    """The method of a run.

    raises: UsageError for one whose steps are not terms that losses alone make
    """
    method = method_of(settings)
    if not isinstance(method, ZerothOrder) or method.differentiates:
        found = f"--method {settings.method} takes derivatives, which a fleet does not send"
        raise UsageError(found, "take one whose steps are made of losses, as mezo")
    if settings.train in LED:
        found = f"--train {settings.train} begins with what rows say of a model"
        raise UsageError(found, "no client sends that: take lora-fa")
    return method
