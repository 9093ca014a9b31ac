"""How many examples the properties try, and which: a few fixed ones, or many random ones.

`XR_PYTABLES_EXAMPLES=20 python -m pytest -n auto -m hypothesis --hypothesis-seed=1` tries twenty times as many, chosen
at random by that seed.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_TIMES = int(os.environ.get("XR_PYTABLES_EXAMPLES", "1"))


def use_profile() -> None:
    """Make what holds for all properties hypothesis' default."""
    settings.register_profile(
        "xr_pytables", deadline=None, derandomize=_TIMES == 1, suppress_health_check=list(HealthCheck), print_blob=True
    )
    settings.load_profile("xr_pytables")


def examples(count: int) -> settings:
    """Decorates a property that tries `count` examples, and more when many are asked for."""
    return settings(max_examples=count * _TIMES)
