"""Protocol: what goes over the wires, as pure Python: no I/O, no clock, no asyncio.

Import what you need from its module: ``doorstep.protocol.frames``, ``doorstep.protocol.stream``, …
"""

__all__: list[str] = []
