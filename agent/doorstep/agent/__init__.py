"""The agent: the daemon on the machine behind the NAT. It registers, answers knocks, serves sessions.

Import the module you need: nothing heavy is loaded here.

``agent``, ``run``
    The agent as an object, and as a process with signals.
``terminal``, ``exec``, ``files``
    The services it offers.
``events``, ``identity``, ``settings``
    What it tells, who it is, what it is started with.
"""

__all__ = ["agent", "events", "exec", "files", "identity", "run", "settings", "terminal"]
