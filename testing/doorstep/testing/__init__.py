"""Testing: the doubles that ship, and the check that nothing is left behind.

Import the module you need: ``pair`` (two sessions in one process), ``leaks``, ``clock``, ``bus``, ``hub``.
"""

__all__: list[str] = []
