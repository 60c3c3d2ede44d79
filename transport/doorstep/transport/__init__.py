"""Transport: wires to the peer, signaling with the back end, adapters over the libraries that carry them.

Import the module you need: nothing heavy is loaded here.

``wire``, ``signaling``
    The contracts: what a wire is, what a signaling service is.
``realtime``, ``backend``, ``webrtc``
    The only importers of ``realtime``, ``supabase`` and ``aiortc``.
``supervisor``, ``presence``, ``tokens``
    What every signaling service shares: rejoining, back-off, debounced presence; tokens that stay valid.
``credentials``
    Who is signed in, as files of mode 0600.
"""

__all__: list[str] = []
