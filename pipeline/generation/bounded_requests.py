"""Bounds what a server can do to a request: a deadline for the whole answer, and a size.

An HTTP client's timeout is per read: a server that sends a byte a second is waited for as long as it likes, in the headers as in the body.
Requests are therefore coroutines of one loop in a thread of its own, where a deadline ends all of a request: name look-up, connection,
redirects, headers and body. The body is counted while it arrives, after decompression and whatever the status. An event hook does this,
because the client itself reads the bodies of errors.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any, Final, TypeVar

from httpx2 import AsyncByteStream, Request, Response
from openai import APIConnectionError, APITimeoutError

from pipeline.generation.server_reply import MalformedReply

T = TypeVar("T")

LARGEST_REPLY_BYTES: Final = 32 * 2**20
"""Largest accepted reply. One with 32,768 tokens and their log-probabilities has about 6 MB."""
ENCODINGS: Final = "gzip, deflate"
"""Compressions that are asked for, and that are read here, with a limit on what comes out of them."""
_ZLIB_OR_GZIP: Final = 47
_COMPRESSED: Final = {"gzip", "x-gzip", "deflate"}


class _Counted(AsyncByteStream):
    """A body, decompressed, that ends in an error when it is larger than `LARGEST_REPLY_BYTES`."""

    def __init__(self, arriving: AsyncByteStream, compressed: bool) -> None:
        self._arriving = arriving
        self._decompress = zlib.decompressobj(_ZLIB_OR_GZIP).decompress if compressed else None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = LARGEST_REPLY_BYTES
        async for piece in self._arriving:
            try:
                plain = piece if self._decompress is None else self._decompress(piece, left + 1)
            except zlib.error as error:
                raise MalformedReply(f"malformed response (not the compression that its header names: {error})") from error
            left -= len(plain)
            if left < 0:
                raise MalformedReply(f"malformed response (larger than {LARGEST_REPLY_BYTES >> 20} MiB)")
            yield plain

    async def aclose(self) -> None:
        await self._arriving.aclose()


async def bounded_body(response: Response) -> None:
    """Event hook of an HTTP client: the response's body is limited in size.

    Raises:
        MalformedReply: a compression that was not asked for.
    """
    coding = response.headers.pop("content-encoding", "identity").strip().lower()
    if coding not in {*_COMPRESSED, "identity", ""}:
        raise MalformedReply(f"malformed response (compressed with {coding[:40]!r}, asked for {ENCODINGS})")
    assert isinstance(response.stream, AsyncByteStream)
    response.stream = _Counted(response.stream, coding in _COMPRESSED)


@contextmanager
def deadlines(seconds: float, url: str) -> Iterator[Callable[[Callable[[], Awaitable[T]]], T]]:
    """A function that makes a request, from any thread, and waits for its whole answer for at most `seconds`.

    It raises MalformedReply for an answer that is too large, APITimeoutError after the deadline, and what the request raises.
    """
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="requests", daemon=True)
    thread.start()

    async def timed(request: Callable[[], Awaitable[Any]]) -> Any:
        try:
            async with asyncio.timeout(seconds):
                return await request()
        except TimeoutError:
            late = APITimeoutError(Request("POST", url))
            late.message = f"no complete answer within engine.request_seconds {seconds:g}"
            late.args = (late.message,)
            raise late from None
        except APIConnectionError as error:  # the client wraps what its hooks raise
            if isinstance(error.__cause__, MalformedReply):
                raise error.__cause__ from None
            raise

    try:
        yield lambda request: asyncio.run_coroutine_threadsafe(timed(request), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
