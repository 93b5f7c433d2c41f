"""What a detector is built from, said once: in the signature of its class."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any


def remembered(build: Callable[..., None]) -> Callable[..., None]:
    """An `__init__` after which the detector has `architecture`, its name and the arguments, and its `recipe`.

    The class says its name as `NAME`. A tuple among the arguments becomes a list, as it does in a card.
    """
    signature = inspect.signature(build)

    @wraps(build)
    def built(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(self, *args, **kwargs)
        given.apply_defaults()
        build(*given.args, **given.kwargs)
        arguments = dict(list(given.arguments.items())[1:])
        self.recipe = arguments.pop("recipe")
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in arguments.items()}
        self.architecture = {"detector": type(self).NAME, **plain}

    return built
