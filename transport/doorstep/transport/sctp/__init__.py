"""Transport, below the wire: SCTP (RFC 9260) for aiortc's DataChannels, with a quicker road for the packets.

``docs/dataplane.md`` draws it. The modules without I/O import neither aiortc nor asyncio.
"""
