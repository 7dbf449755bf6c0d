"""The asyncio front: gRPC over HTTP/2 (RFC 9113) on the event loop itself.

Why a server of our own: behind a library's, a call crosses threads. Its bytes come in on one, are handed to the loop's,
and the answer goes back the same way; and each answer is a write of its own. Here a call is begun where its bytes are
read, and the answers of a turn of the loop leave in one write. Figures are in docs/serve.md.

`frames`: the bytes of frames. `header_blocks`: HPACK. `requests`: what a call asks for. `connection`: one connection,
its flow control and its calls. `streams`: calls of more than one message. `front`: the listener.
"""
